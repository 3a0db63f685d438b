//! Booted instances: the machine image with a real systemd for each (scripts/lib/boot-instance.sh), on one bridge with
//! the services around an instance: metadata, Auto Scaling, AWS, PostgreSQL.
//!
//! ```text
//! the machine of the tests            a network namespace of their own
//!   PostgreSQL, the emulator of AWS ← 10.77.0.1:5432, :4566       ← eth0 of each instance, 10.77.0.11 …
//!   the tests                       ← 169.254.169.254:80
//!   a client of the test            → 10.77.0.11:8443
//! ```

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use tokio::net::{TcpListener, TcpStream};

use super::aws::Environment;
use super::database::TestDatabase;
use super::proxy::Proxy;
use super::scratch::Scratch;
use super::{TestApp, eventually};
use test_support::ec2::{Ec2, Group, Hook, Outcome, State};

/// Address at which instances find the services around them.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Names of the hooks, as in appliance.toml.
pub const LAUNCH_HOOK: &str = "salebell-launch";
pub const TERMINATION_HOOK: &str = "salebell-termination";
/// Timeout of a boot, on a machine with much other work.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// Folder of a `make bake-local` from which instances are booted; `make test` makes one of the tested sources.
fn image() -> PathBuf {
    let image = std::env::var("SALEBELL_TEST_IMAGE").map(PathBuf::from).expect(
        "SALEBELL_TEST_IMAGE names the machine image to boot, the folder that `make bake-local` prints as its last \
         line; run `make test ARGS=appliance`, which makes one",
    );
    assert!(
        image.join("root").is_dir(),
        "SALEBELL_TEST_IMAGE: {} is no folder of `make bake-local`",
        image.display()
    );
    image
}

/// Checks the prerequisites before anything else is tried.
fn require_root() {
    assert!(
        nix::unistd::Uid::effective().is_root(),
        "instances are booted by root, with CAP_SYS_ADMIN, network namespaces and overlays: run `make test` as root"
    );
}

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace that lives as long as this value: a thread inside it, which runs work there.
#[derive(Clone)]
struct Namespace(mpsc::Sender<Job>);

impl Namespace {
    fn new() -> Namespace {
        let (jobs, todo) = mpsc::channel::<Job>();
        let namespace = Namespace(jobs);
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            sender.send(unshare(CloneFlags::CLONE_NEWNET)).unwrap();
            todo.into_iter().for_each(|job| job());
        });
        receiver.recv().unwrap().expect("a network namespace can be made: CAP_SYS_ADMIN");
        namespace
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        self.0.send(Box::new(move || drop(sender.send(job())))).unwrap();
        receiver.recv().expect("the job did not panic")
    }

    fn ip(&self, arguments: &str) {
        let words: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
        let output =
            self.run(move || Command::new("ip").args(words).output().expect("ip is there (iproute2)"));
        assert!(output.status.success(), "ip {arguments}: {output:?}");
    }

    fn listen(&self, address: Ipv4Addr, port: u16) -> TcpListener {
        let listener = self.run(move || std::net::TcpListener::bind((address, port)).unwrap());
        listener.set_nonblocking(true).unwrap();
        TcpListener::from_std(listener).unwrap()
    }

    /// Starts a resolver that knows no name, and answers so at once.
    fn resolve_nothing(&self) {
        let socket = self.run(|| std::net::UdpSocket::bind((HOST, 53)).unwrap());
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
        tokio::spawn(async move {
            let mut message = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut message).await {
                // Turns the query into the answer "no such name" (RFC 1035, section 4.1.1).
                message[2] |= 0x80;
                message[3] = (message[3] & 0xf0) | 3;
                let _ = socket.send_to(&message[..length], peer).await;
            }
        });
    }

    async fn connect(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        let namespace = self.clone();
        let connecting = move || {
            namespace.run(move || std::net::TcpStream::connect_timeout(&address, Duration::from_secs(2)))
        };
        let stream = tokio::task::spawn_blocking(connecting).await.unwrap()?;
        stream.set_nonblocking(true)?;
        TcpStream::from_std(stream)
    }
}

/// The services around instances.
pub struct Surroundings {
    namespace: Namespace,
    pub ec2: Ec2,
    pub environment: Environment,
    /// Proxy to PostgreSQL.
    pub database: Proxy,
    pub app: TestApp,
    _aws: Proxy,
    _autoscaling: Proxy,
}

impl Surroundings {
    /// Makes a group with both hooks, and an environment with complete parameters that lead to the database of `app`.
    pub async fn new() -> Surroundings {
        require_root();
        image();
        let namespace = Namespace::new();
        for arguments in [
            "link set lo up",
            "link add instances type bridge",
            "address add 10.77.0.1/24 dev instances",
            "address add 169.254.169.254/32 dev instances",
            "link set instances up",
        ] {
            namespace.ip(arguments);
        }
        let group = Group {
            launch_hook: Some(Hook::new(LAUNCH_HOOK, Duration::from_secs(120), Outcome::Abandon)),
            termination_hook: Some(Hook::new(TERMINATION_HOOK, Duration::from_secs(60), Outcome::Continue)),
            ..Group::new("salebell-test")
        };
        let ec2 = Ec2::start(group).await;
        ec2.world().user_data = Some(include_str!("../../../userdata/first-boot.sh").to_owned());
        namespace.resolve_nothing();
        ec2.serve_metadata(namespace.listen(METADATA, 80));
        let app = TestApp::spawn().await;
        let environment = Environment::create().await;
        let aws = environment.endpoint.trim_start_matches("http://").to_owned();
        let autoscaling = ec2.autoscaling().to_string();
        let server = url::Url::parse(&app.database.url).unwrap();
        let server = format!("{}:{}", server.host_str().unwrap(), server.port().unwrap_or(5432));
        let surroundings = Surroundings {
            ec2,
            database: Proxy::on(namespace.listen(HOST, 5432), server),
            _aws: Proxy::on(namespace.listen(HOST, 4566), aws),
            _autoscaling: Proxy::on(namespace.listen(HOST, 4567), autoscaling),
            environment,
            app,
            namespace,
        };
        for (name, value) in [
            ("database/url", surroundings.url_of(&surroundings.app.database)),
            (
                "webhook/encryption_keys",
                secrecy::ExposeSecret::expose_secret(&salebell::secrets::generate_key().unwrap()).to_owned(),
            ),
            // As many requests as the test has.
            ("server/rate_limits/read", "0".to_owned()),
            ("server/rate_limits/write", "0".to_owned()),
            ("server/rate_limits/heavy", "0".to_owned()),
            // No load balancer has to notice that the instance leaves.
            ("server/linger_s", "1".to_owned()),
        ] {
            surroundings.environment.put(name, &value).await;
        }
        surroundings
    }

    /// URL of a database as instances reach it.
    pub fn url_of(&self, database: &TestDatabase) -> String {
        let mut url = url::Url::parse(&database.url).unwrap();
        url.set_host(Some(&HOST.to_string())).unwrap();
        url.set_port(Some(5432)).unwrap();
        url.into()
    }

    /// Makes a server on the tests' loopback reachable for instances; returns its address there.
    pub fn offer(&self, port: u16, target: SocketAddr) -> SocketAddr {
        Proxy::on(self.namespace.listen(HOST, port), target.to_string());
        (HOST, port).into()
    }

    /// Launches an instance through the group and starts its boot. `number` is the last part of its address.
    pub fn launch(&self, number: u8) -> Instance {
        self.launch_with(number, &[])
    }

    /// Launches an instance with additional files below /etc.
    pub fn launch_with(&self, number: u8, files: &[(&str, &str)]) -> Instance {
        let (id, address) = (format!("i-{number:08x}"), Ipv4Addr::new(10, 77, 0, number));
        self.ec2.launch_at(&id, IpAddr::V4(address));
        {
            let mut world = self.ec2.world();
            let tags = &mut world.group.instance_mut(&id).tags;
            tags.insert("Environment".to_owned(), self.environment.name.clone());
            tags.insert("aws:cloudformation:stack-name".to_owned(), "salebell-test".to_owned());
        }
        let folder = Scratch::new();
        // The units are unchanged: every process of an instance finds AWS through these settings.
        let endpoints = format!(
            "[Manager]\nDefaultEnvironment=AWS_ENDPOINT_URL=http://{HOST}:4566 \
             AWS_ENDPOINT_URL_AUTO_SCALING=http://{HOST}:4567\n"
        );
        for (name, text) in
            files.iter().copied().chain([("systemd/system.conf.d/rehearsal.conf", &*endpoints)])
        {
            let path = folder.path().join("etc").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        self.boot(Instance { id, address, folder, namespace: self.namespace.clone(), running: None })
    }

    /// Switches on an instance that is off.
    pub fn boot(&self, mut instance: Instance) -> Instance {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lib/boot-instance.sh");
        let (folder, address) = (instance.folder.path().to_owned(), instance.address.to_string());
        let mut child = self.namespace.run(move || {
            let mut command = Command::new(script);
            command.arg(folder).arg(image()).arg(address).process_group(0);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        });
        let console = Arc::<Mutex<String>>::default();
        let outputs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let console = console.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                    let mut console = console.lock().unwrap();
                    console.push_str(&String::from_utf8_lossy(&line));
                    console.push('\n');
                }
            });
        }
        let stdin = child.stdin.take().unwrap();
        instance.running = Some(Running { child, console, stdin: Some(stdin), since: Instant::now() });
        instance
    }
}

/// A booted machine.
pub struct Instance {
    pub id: String,
    pub address: Ipv4Addr,
    folder: Scratch,
    namespace: Namespace,
    running: Option<Running>,
}

struct Running {
    child: Child,
    console: Arc<Mutex<String>>,
    /// Pipe whose end switches the machine off, even if this process is killed.
    stdin: Option<ChildStdin>,
    since: Instant,
}

impl Running {
    fn console(&self) -> String {
        self.console.lock().unwrap().clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

impl Instance {
    fn running(&self) -> &Running {
        self.running.as_ref().expect("it has been switched on")
    }

    /// Everything its console has shown.
    pub fn console(&self) -> String {
        self.running().console()
    }

    pub fn age(&self) -> Duration {
        self.running().since.elapsed()
    }

    /// Waits until the group has it in service; fails as soon as it is off.
    pub async fn in_service(&mut self, around: &Surroundings) {
        while around.ec2.world().group.instance(&self.id).state != State::InService {
            assert!(
                self.age() < BOOT_LIMIT,
                "it takes too long:\n{}\n{}",
                self.console(),
                self.journal().await
            );
            assert!(!self.is_off(), "it is off:\n{}", self.console());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn is_off(&mut self) -> bool {
        self.running.as_mut().is_none_or(|running| running.child.try_wait().unwrap().is_some())
    }

    /// Waits until it has shut down; returns the text of its console.
    pub async fn off(&mut self) -> String {
        while !self.is_off() {
            assert!(self.age() < BOOT_LIMIT, "it stays on:\n{}\n{}", self.console(), self.journal().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.console()
    }

    /// Runs a command on it, as root.
    pub async fn run(&self, command: &str) -> Output {
        let init = std::fs::read_to_string(self.path("init")).unwrap_or_default();
        let mut inside = tokio::process::Command::new("nsenter");
        inside.args(["--target", init.trim(), "--all", "--", "/bin/bash", "-c", command]);
        inside.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output().await.unwrap()
    }

    /// Runs a command that must succeed; returns its output.
    pub async fn ask(&self, command: &str) -> String {
        let output = self.run(command).await;
        assert!(output.status.success(), "{command}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub async fn journal(&self) -> String {
        let output = self.run("journalctl --no-pager --output short-monotonic | tail -n 200").await;
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Address at which a client of the test reaches one of its ports.
    pub async fn reach(&self, port: u16) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (here, there) = (listener.local_addr().unwrap(), SocketAddr::from((self.address, port)));
        let namespace = self.namespace.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let namespace = namespace.clone();
                tokio::spawn(async move {
                    if let Ok(mut server) = namespace.connect(there).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        here
    }

    /// Sends a signal to the process of a unit.
    pub async fn signal(&self, unit: &str, signal: &str) {
        self.ask(&format!("systemctl kill --kill-whom=main --signal={signal} {unit}")).await;
    }

    /// Waits for a value of `systemctl show`.
    pub async fn shows(&self, unit: &str, property: &str, value: &str) {
        let command = format!("systemctl show --value --property {property} {unit}");
        eventually(&format!("{unit}: {property} is {value}"), async || {
            self.ask(&command).await.trim() == value
        })
        .await;
    }
}
