//! A booted instance: scripts/boot-instance.sh and what is below it.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStdin, Command};

use super::network::{HOST, ip};
use super::{cloud, fleet};

/// How long a machine may take to switch itself off before its power is cut.
const PATIENCE: Duration = Duration::from_secs(20);

/// What instances are made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// As the tag `Version` has it.
    pub version: String,
    /// A folder of `make bake-local`, or a program for a root file system of make-root.sh.
    pub source: PathBuf,
    /// Below /etc of its instances: path and text.
    pub files: Vec<(String, String)>,
}

pub struct Machine {
    pub folder: PathBuf,
    child: Child,
    /// The machine is switched off when this ends, whatever becomes of us.
    power: Option<ChildStdin>,
    /// When it was told to go off.
    told: Option<Instant>,
}

impl Machine {
    /// Switches one on that nobody has seen before. `folder` is for what it changes.
    pub fn boot(image: &Image, folder: &Path, address: Ipv4Addr) -> Machine {
        // No hand of ours is on the units: all processes of an instance look for AWS here.
        let endpoints = format!(
            "[Manager]\nDefaultEnvironment=AWS_ENDPOINT_URL=http://{HOST}:{} \
             AWS_ENDPOINT_URL_AUTO_SCALING=http://{HOST}:{}\n",
            cloud::PORT,
            fleet::AUTO_SCALING,
        );
        let image_file = ("salebell-image".to_owned(), format!("{}\n", image.version));
        let settings = ("systemd/system.conf.d/rehearsal.conf".to_owned(), endpoints);
        for (name, text) in image.files.iter().chain([&image_file, &settings]) {
            let path = folder.join("etc").join(name);
            std::fs::create_dir_all(path.parent().expect("below etc")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        let console = File::create(folder.join("console")).expect("its console");
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/boot-instance.sh"));
        command.arg(folder).arg(&image.source).arg(address.to_string()).process_group(0);
        command.stdin(Stdio::piped()).stdout(console.try_clone().expect("a handle")).stderr(console);
        let mut child = command.spawn().expect("boot-instance.sh");
        let power = child.stdin.take();
        Machine { folder: folder.to_owned(), child, power, told: None }
    }

    pub fn console(&self) -> String {
        let bytes = std::fs::read(self.folder.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What its console says went wrong, as far as it is ours.
    pub fn complaints(&self) -> Vec<String> {
        let console = self.console();
        let ours = |line: &&str| {
            line.contains("salebell")
                && (line.contains("ERROR") || line.contains("]: salebell: ") || line.contains("]:   "))
        };
        console.lines().filter(ours).map(|line| line.trim().chars().take(300).collect()).collect()
    }

    pub fn is_off(&mut self) -> bool {
        self.child.try_wait().map_or(true, |ended| ended.is_some())
    }

    /// Has it go off the orderly way, and cuts its power where it does not. To be called again until it is off.
    pub fn switch_off(&mut self) {
        match self.told {
            None => {
                self.told = Some(Instant::now());
                if let Some(id) = self.child.id() {
                    let _ = kill(Pid::from_raw(id.cast_signed()), Signal::SIGTERM);
                }
            }
            Some(told) if told.elapsed() > PATIENCE => drop(self.power.take()),
            Some(_) => {}
        }
    }

    /// Its power is cut.
    pub fn cut_power(&mut self) {
        self.told = Some(Instant::now());
        drop(self.power.take());
    }

    /// The process id of its systemd, from here.
    fn init(&self) -> Option<Pid> {
        std::fs::read_to_string(self.folder.join("init")).ok()?.trim().parse().ok().map(Pid::from_raw)
    }

    /// `kill -9` of its init: a kernel panic.
    pub fn kill_init(&self) {
        if let Some(init) = self.init() {
            let _ = kill(init, Signal::SIGKILL);
        }
    }

    /// Stops every process of it (SIGSTOP): it is there, and does nothing.
    pub fn freeze(&self) {
        let Some(id) = self.child.id() else { return };
        for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            stop_all(&Path::new(root).join(format!("salebell-instance-{id}")));
        }
    }

    /// Pulls its network cable.
    pub fn cut_network(&self) {
        if let Some(id) = self.child.id() {
            let _ = ip(&format!("link set v{id} down"));
        }
    }

    /// Runs a command on it, as root.
    pub async fn run(&self, command: &str) -> Output {
        let init = self.init().map_or_else(String::new, |init| init.to_string());
        let mut inside = Command::new("nsenter");
        inside.args(["--target", &init, "--all", "--", "/bin/bash", "-c", command]).kill_on_drop(true);
        let output = inside.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output();
        output.await.expect("nsenter")
    }
}

fn stop_all(group: &Path) {
    for id in std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Ok(id) = id.parse() {
            let _ = kill(Pid::from_raw(id), Signal::SIGSTOP);
        }
    }
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            stop_all(&entry.path());
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.power.take());
        // boot-instance.sh takes its control group away before it ends.
        for _ in 0..200 {
            if self.is_off() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        super::volume::detach(&self.folder);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
