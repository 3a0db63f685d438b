//! A journal of the test's own: receives what a process sends to `/run/systemd/journal/socket`, which is the test's
//! socket in the process's view of the file system. It implements <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::net::UnixDatagram;
use tokio::task::JoinHandle;

use super::scratch::Scratch;

/// Script that puts `$1` where the journal's sockets are, visible only to the command that follows it. Without the
/// privilege the process does not start, and its test fails.
const ON_ITS_JOURNAL: &str = "unshare -m true && how=-m || how=-rm; exec unshare $how sh -c '
    place=/run/systemd/journal
    if [ ! -d $place ]; then
        if [ -d /run/systemd ]; then mount -t tmpfs salebell /run/systemd; else mount -t tmpfs salebell /run; fi
        mkdir -p $place
    fi
    mount --bind \"$0\" $place && exec \"$@\"' \"$@\"";

/// Script that runs a command beside a separate journald, and then prints what `journalctl` shows of the metrics, like
/// the unit that hands them to the agent. SIGTERM goes to the command.
const BESIDE_A_JOURNALD: &str = r#"exec unshare -m sh -c '
    mount -t tmpfs salebell /run && mount -t tmpfs salebell /var/log && mkdir -p /run/systemd/journal || exit 1
    [ -s /etc/machine-id ] || { echo 0123456789abcdef0123456789abcdef >/run/id && mount --bind /run/id /etc/machine-id; }
    "$0" 2>/dev/null & journald=$!
    while [ ! -S /run/systemd/journal/socket ]; do sleep 0.1; done
    "$@" & process=$!
    trap "kill -TERM $process" TERM
    wait $process; wait $process; ended=$?
    journalctl --sync
    journalctl --quiet --output=cat TARGET=salebell::emf
    kill $journald; exit $ended' "$@""#;

const JOURNALD: &str = "/lib/systemd/systemd-journald";

/// Prefix of a command that sends its log to a real journald. `None`: there is no journald, or no privilege to start
/// it.
pub fn beside_a_journald() -> Option<[&'static str; 5]> {
    let can = std::path::Path::new(JOURNALD).exists() && nix::unistd::geteuid().is_root();
    can.then_some(["sh", "-c", BESIDE_A_JOURNALD, "sh", JOURNALD])
}

/// The fields of one message.
pub type Entry = HashMap<String, String>;

pub struct Journal {
    folder: Scratch,
    entries: Arc<Mutex<Vec<Entry>>>,
    reading: JoinHandle<()>,
}

impl Journal {
    pub fn start() -> Journal {
        let folder = Scratch::new();
        let socket = UnixDatagram::bind(folder.path().join("socket")).unwrap();
        let entries: Arc<Mutex<Vec<Entry>>> = Arc::default();
        let into = entries.clone();
        let reading = tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 20];
            loop {
                let length = socket.recv(&mut buffer).await.unwrap();
                // A client that only probes for the journal sends nothing.
                if length > 0 {
                    into.lock().unwrap().push(parse(&buffer[..length]));
                }
            }
        });
        Journal { folder, entries, reading }
    }

    /// Prefix of a command that makes this its journal.
    pub fn wrapper(&self) -> [&str; 5] {
        ["sh", "-c", ON_ITS_JOURNAL, "sh", self.folder.path().to_str().unwrap()]
    }

    /// Entries received so far with this target.
    pub fn of(&self, target: &str) -> Vec<Entry> {
        let entries = self.entries.lock().unwrap();
        entries.iter().filter(|entry| entry.get("TARGET").is_some_and(|it| it == target)).cloned().collect()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// Parses fields: `NAME=value\n`, or `NAME\n`, the value's length as 64 bits, the value and `\n`.
fn parse(mut message: &[u8]) -> Entry {
    let mut entry = Entry::new();
    while let Some(end) = message.iter().position(|byte| *byte == b'\n' || *byte == b'=') {
        let name = String::from_utf8(message[..end].to_vec()).unwrap();
        let rest = &message[end + 1..];
        let (value, length) = match message[end] {
            b'=' => {
                let length = rest.iter().position(|byte| *byte == b'\n').unwrap();
                (&rest[..length], length)
            }
            _ => {
                let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
                (&rest[8..8 + length], 8 + length)
            }
        };
        entry.insert(name, String::from_utf8(value.to_vec()).unwrap());
        assert_eq!(rest[length], b'\n');
        message = &rest[length + 1..];
    }
    entry
}
