//! A booted instance: scripts/lib/boot-instance.sh, or boot-vm.sh, and the processes below it.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStdin, Command};

use super::network::{HOST, ip};
use super::{cloud, fleet};

/// Kind of machine on which instances are booted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hardware {
    /// A container on this machine's kernel.
    Container,
    /// An emulated machine with the image's own kernel.
    Virtual,
}

impl Hardware {
    fn script(self) -> &'static str {
        match self {
            Hardware::Container => concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lib/boot-instance.sh"),
            Hardware::Virtual => concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lib/boot-vm.sh"),
        }
    }

    /// Time for an orderly shutdown before the power is cut.
    fn patience(self) -> Duration {
        match self {
            Hardware::Container => Duration::from_secs(20),
            Hardware::Virtual => Duration::from_secs(120),
        }
    }
}

/// Credentials that make a virtual machine examine itself.
const LOOK: [(&str, &str); 4] = [
    ("rehearsal.look", include_str!("look/look.sh")),
    ("systemd.extra-unit.rehearsal-look.service", include_str!("look/look.service")),
    ("systemd.extra-unit.rehearsal-wait.service", include_str!("look/wait.service")),
    ("systemd.unit-dropin.multi-user.target~rehearsal", "[Unit]\nWants=rehearsal-wait.service\n"),
];

/// Image of instances.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Version, as in the tag `Version`.
    pub version: String,
    /// Folder of a `make bake-local`.
    pub source: PathBuf,
    /// Files below /etc of its instances: path and text.
    pub files: Vec<(String, String)>,
}

pub struct Machine {
    pub folder: PathBuf,
    child: Child,
    /// Pipe whose end switches the machine off, even if this process is killed.
    power: Option<ChildStdin>,
    hardware: Hardware,
    image: PathBuf,
    address: Ipv4Addr,
    /// Time at which the shutdown was requested.
    told: Option<Instant>,
}

impl Machine {
    /// Switches on a new machine. Its changes go to `folder`.
    pub fn boot(image: &Image, hardware: Hardware, folder: &Path, address: Ipv4Addr) -> Machine {
        // The units are unchanged: every process of an instance finds AWS through these settings.
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
        if hardware == Hardware::Virtual {
            // A virtual machine cannot be entered from outside.
            std::fs::create_dir(folder.join("credentials")).expect("a folder");
            for (name, text) in LOOK {
                std::fs::write(folder.join("credentials").join(name), text).expect("a file");
            }
        }
        let (child, power) = switch_on(hardware, folder, &image.source, address);
        Machine {
            folder: folder.to_owned(),
            child,
            power,
            hardware,
            image: image.source.clone(),
            address,
            told: None,
        }
    }

    /// Switches on a machine that is off, with the content of its disk. Its console starts empty.
    pub fn boot_again(&mut self) {
        (self.child, self.power) = switch_on(self.hardware, &self.folder, &self.image, self.address);
        self.told = None;
    }

    pub fn console(&self) -> String {
        let bytes = std::fs::read(self.folder.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Reports of a virtual machine about itself (look/look.sh) since it was switched on.
    pub fn report(&self) -> String {
        let bytes = std::fs::read(self.folder.join("report")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// Size of a virtual machine's disk, and the amount written to it, in MiB.
    pub fn volume_megabytes(&self) -> (u64, u64) {
        std::fs::metadata(self.folder.join("volume"))
            .map_or((0, 0), |volume| (volume.len() >> 20, volume.blocks() >> 11))
    }

    /// Errors on its console that concern Salebell.
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

    /// Starts an orderly shutdown, and cuts the power if that takes too long. To be called repeatedly until the machine
    /// is off.
    pub fn switch_off(&mut self) {
        match self.told {
            None => {
                self.told = Some(Instant::now());
                if let Some(id) = self.child.id() {
                    let _ = kill(Pid::from_raw(id.cast_signed()), Signal::SIGTERM);
                }
            }
            Some(told) if told.elapsed() > self.hardware.patience() => drop(self.power.take()),
            Some(_) => {}
        }
    }

    /// Cuts its power.
    pub fn cut_power(&mut self) {
        self.told = Some(Instant::now());
        drop(self.power.take());
    }

    /// Process id of its systemd, as seen from here.
    fn init(&self) -> Option<Pid> {
        std::fs::read_to_string(self.folder.join("init")).ok()?.trim().parse().ok().map(Pid::from_raw)
    }

    /// Sends SIGKILL to its init: a kernel panic.
    pub fn kill_init(&self) {
        if let Some(init) = self.init() {
            let _ = kill(init, Signal::SIGKILL);
        }
    }

    /// Suspends every process of it (SIGSTOP): it exists, and does nothing.
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

fn switch_on(
    hardware: Hardware,
    folder: &Path,
    image: &Path,
    address: Ipv4Addr,
) -> (Child, Option<ChildStdin>) {
    let _ = std::fs::remove_file(folder.join("report"));
    let console = File::create(folder.join("console")).expect("its console");
    let mut command = Command::new(hardware.script());
    command.arg(folder).arg(image).arg(address.to_string()).process_group(0);
    command.stdin(Stdio::piped()).stdout(console.try_clone().expect("a handle")).stderr(console);
    let mut child = command.spawn().expect("the script of the repository");
    let power = child.stdin.take();
    (child, power)
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
        // boot-instance.sh removes its control group before it ends.
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
