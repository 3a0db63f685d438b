//! A private PostgreSQL cluster: created once, recovered and started with the process, and stopped with it.
//!
//! All its files are in `.salebell/postgres`: `data`, `socket`, `log`, `port` and `password`. If the server has to run
//! as another user who cannot reach that folder (a project below `/root`), the folder is a link to
//! `/var/lib/salebell/dev-<hash of the path>`. The server listens on a unix socket in a folder that others cannot
//! enter, and on 127.0.0.1. Both require the generated password, which keeps other users of the machine out.

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection, PgConnection};
use tokio::process::Child;

use super::guard::Guard;
use super::home::{FolderLock, make_folder, random_hex, read_secret};
use super::owner::Owner;
use super::programs::ServerPrograms;
use crate::store;

/// Name of the only role, and of the database that `store::databases` creates.
const NAME: &str = "salebell";
/// Maximum number of bytes of the socket folder's path. `sun_path` holds 107 bytes and a zero (unix(7));
/// `/.s.PGSQL.65535` takes up 15 of them.
const LONGEST_SOCKET_FOLDER: usize = 107 - "/.s.PGSQL.65535".len();
/// Timeout of a start, far longer than crash recovery takes on any disk: it replays at most `max_wal_size`.
const START_TIMEOUT: Duration = Duration::from_secs(300);
/// Timeout of a fast shutdown, after which an immediate one is requested.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum number of restarts within a minute; after that, `supervise` gives up.
const MAX_RESTARTS: usize = 5;
/// Timeout for leftover backends of a killed server to notice that it is gone.
const LEFTOVERS_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum number of bytes of the server's log; a larger one is removed at start.
const LARGEST_LOG: u64 = 16 << 20;

/// The running private server.
#[derive(Debug)]
pub struct Cluster {
    programs: ServerPrograms,
    owner: Owner,
    folder: PathBuf,
    socket: PathBuf,
    port: u16,
    password: SecretString,
    server: Child,
    guard: Guard,
    _lock: FolderLock,
}

impl Cluster {
    /// Creates the cluster in `folder` (`.salebell/postgres`) if it does not exist, ends leftover processes of an
    /// earlier run, starts the server, and creates the database. `say` receives messages for the user.
    ///
    /// # Errors
    /// Fails if server programs are missing, the folder cannot be reached, or the server does not start; the message
    /// has the end of the server's log.
    pub async fn start(folder: &Path, say: &dyn Fn(&str)) -> anyhow::Result<Self> {
        let owner = Owner::choose(folder).await?;
        let folder = prepare_folder(folder, &owner, say).await?;
        let lock = FolderLock::take(&folder)?;
        let data = folder.join("data");
        let programs = ServerPrograms::find(read_major(&data)?)?;
        let password = match read_secret(&folder.join("password"))? {
            Some(password) if data.exists() => SecretString::from(password),
            _ => create(&programs, &owner, &folder, say).await?,
        };
        end_leftovers(&folder).await?;
        let socket = prepare_socket_folder(&folder, &owner)?;
        let mut guard = Guard::start(&owner, &data)?;
        let (server, port) = launch(&programs, &owner, &folder, &socket, &password, &mut guard).await?;
        let cluster = Self { programs, owner, folder, socket, port, password, server, guard, _lock: lock };
        cluster.create_database().await?;
        Ok(cluster)
    }

    /// URL of the database, over the unix socket, with the password.
    pub fn url(&self) -> SecretString {
        let folder: String =
            url::form_urlencoded::byte_serialize(self.socket.as_os_str().as_encoded_bytes()).collect();
        // `+` stands for a space only in forms, not here.
        let folder = folder.replace('+', "%20");
        let password = self.password.expose_secret();
        SecretString::from(format!(
            "postgres://{NAME}:{password}@localhost:{}/{NAME}?host={folder}",
            self.port
        ))
    }

    /// TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// File with the password of the role `salebell`.
    pub fn password_file(&self) -> PathBuf {
        self.folder.join("password")
    }

    /// Name and major version of the server and its user, such as `PostgreSQL 15 as user postgres`.
    pub fn describe(&self) -> String {
        format!("PostgreSQL {} as user {}", self.programs.major, self.owner.name)
    }

    /// Restarts the server on the same port whenever it ends by itself, for example because it was killed. Returns only
    /// when that has become hopeless. Cancel-safe.
    pub async fn supervise(&mut self) -> anyhow::Error {
        let mut restarts = Vec::new();
        loop {
            let status = match self.server.wait().await {
                Ok(status) => status,
                Err(error) => return anyhow!("cannot wait for postgres: {error}"),
            };
            restarts.retain(|at: &Instant| at.elapsed() < Duration::from_secs(60));
            if restarts.len() >= MAX_RESTARTS {
                return anyhow!(
                    "the private PostgreSQL server ends again and again ({status}); its log is {}",
                    self.folder.join("log").display()
                );
            }
            restarts.push(Instant::now());
            log::warn!(target: "salebell::dev", "PostgreSQL ended ({status}); starting it again");
            if let Err(failure) = self.restart().await {
                return failure;
            }
        }
    }

    async fn restart(&mut self) -> anyhow::Result<()> {
        end_leftovers(&self.folder).await?;
        let Self { programs, owner, folder, socket, password, guard, .. } = self;
        self.server = launch_on(programs, owner, folder, socket, password, self.port, guard).await?;
        Ok(())
    }

    /// Stops the server: open sessions are ended, and all data is on disk afterwards (`pg_ctl stop -m fast`).
    ///
    /// # Errors
    /// Fails if the server cannot be signalled or does not end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for signal in [Signal::SIGINT, Signal::SIGQUIT] {
            // `id` is `None` if it has already ended.
            if let Some(pid) = self.server.id() {
                send(pid, signal)?;
            }
            if tokio::time::timeout(STOP_TIMEOUT, self.server.wait()).await.is_ok() {
                self.guard.dismiss().await;
                return Ok(());
            }
        }
        Err(anyhow!("the private PostgreSQL server does not stop"))
    }

    async fn create_database(&self) -> anyhow::Result<()> {
        let what = || "cannot make the database on the private PostgreSQL server";
        let options = connect_options(&self.socket, self.port, &self.password);
        let mut connection = PgConnection::connect_with(&options).await.with_context(what)?;
        store::databases::create_database(&mut connection).await.with_context(what)?;
        connection.close().await.with_context(what)
    }
}

/// Creates `folder` so that `owner` can work in it, and returns its real path.
async fn prepare_folder(folder: &Path, owner: &Owner, say: &dyn Fn(&str)) -> anyhow::Result<PathBuf> {
    let parent = folder.parent().unwrap_or(folder);
    if fs::symlink_metadata(folder).is_err() && !owner.can_enter(parent).await? {
        let elsewhere = elsewhere_for(folder);
        let base = elsewhere.parent().unwrap_or(&elsewhere);
        make_folder(base, 0o755)?;
        std::os::unix::fs::symlink(&elsewhere, folder)
            .with_context(|| format!("cannot link {} to {}", folder.display(), elsewhere.display()))?;
        say(&format!(
            "user {} cannot reach {}, so the database lies in {}",
            owner.name,
            parent.display(),
            elsewhere.display()
        ));
    }
    // A link whose target was removed is taken as a request for an empty database.
    let real = fs::read_link(folder).map_or_else(|_| folder.to_owned(), |target| parent.join(target));
    if !real.exists() {
        make_folder(&real, 0o700)?;
        owner.give(&real)?;
    }
    let real = real.canonicalize().with_context(|| format!("cannot resolve {}", real.display()))?;
    if owner.is_another() && !owner.can_enter(&real).await? {
        bail!(
            "user {} runs the database server and cannot reach {}; move the project, or remove {} to begin with an empty database elsewhere",
            owner.name,
            real.display(),
            folder.display()
        );
    }
    Ok(real)
}

fn elsewhere_for(folder: &Path) -> PathBuf {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, folder.as_os_str().as_encoded_bytes());
    let hash: String = digest.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    PathBuf::from(format!("/var/lib/salebell/dev-{hash}"))
}

/// Major version that created `data`, if that exists.
fn read_major(data: &Path) -> anyhow::Result<Option<u32>> {
    let path = data.join("PG_VERSION");
    match fs::read_to_string(&path) {
        Ok(text) => text
            .trim()
            .parse()
            .map(Some)
            .map_err(|_| anyhow!("{} is not a version: {text:?}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Runs `initdb` in a temporary folder and renames it, so that a kill midway leaves nothing that looks complete.
async fn create(
    programs: &ServerPrograms,
    owner: &Owner,
    folder: &Path,
    say: &dyn Fn(&str),
) -> anyhow::Result<SecretString> {
    let data = folder.join("data");
    if data.exists() {
        bail!(
            "{} is there and {} is not; remove the former to begin with an empty database",
            data.display(),
            folder.join("password").display()
        );
    }
    say(&format!("making a PostgreSQL {} cluster in {}", programs.major, folder.display()));
    let password_file = folder.join("password");
    let password = random_hex(24)?;
    super::home::write_secret(&password_file, &password)?;
    owner.give(&password_file)?;
    let beside = folder.join("data.new");
    let mut failure = String::new();
    // C.UTF-8 classifies letters correctly and sorts identically everywhere; plain C always exists.
    for locale in ["C.UTF-8", "C"] {
        if beside.exists() {
            fs::remove_dir_all(&beside).with_context(|| format!("cannot remove {}", beside.display()))?;
        }
        let output = owner
            .command(&programs.path("initdb"))
            .args(["--auth=scram-sha-256", "--encoding=UTF8", "--data-checksums"])
            .arg(format!("--username={NAME}"))
            .arg(format!("--locale={locale}"))
            .arg("--pwfile")
            .arg(&password_file)
            .arg("--pgdata")
            .arg(&beside)
            .current_dir(folder)
            .output()
            .await
            .context("cannot run initdb")?;
        if output.status.success() {
            fs::rename(&beside, &data).with_context(|| format!("cannot rename {}", beside.display()))?;
            return Ok(SecretString::from(password));
        }
        failure = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    }
    Err(anyhow!("initdb failed: {failure}"))
}

/// Folder of the unix socket: beside the data, or under /tmp if that path would be too long.
fn prepare_socket_folder(folder: &Path, owner: &Owner) -> anyhow::Result<PathBuf> {
    let beside = folder.join("socket");
    let socket = if beside.as_os_str().len() <= LONGEST_SOCKET_FOLDER {
        beside
    } else {
        let name = elsewhere_for(folder).file_name().unwrap_or_default().to_owned();
        let short = Path::new("/tmp").join(format!("salebell-{}", name.to_string_lossy()));
        // Any user can create a name in /tmp, so a folder that is not private to us is not used.
        if short.exists() && !owner.has_private_folder(&short) {
            Path::new("/tmp").join(format!("salebell-dev-{}", random_hex(8)?))
        } else {
            short
        }
    };
    if !socket.exists() {
        make_folder(&socket, 0o700)?;
        owner.give(&socket)?;
    }
    if !owner.has_private_folder(&socket) {
        bail!("{} is not a private folder of {}", socket.display(), owner.name);
    }
    // No server of ours is running any more (`end_leftovers`), so sockets and their locks are stale.
    for entry in fs::read_dir(&socket).with_context(|| format!("cannot list {}", socket.display()))?.flatten()
    {
        if entry.file_name().to_string_lossy().starts_with(".s.PGSQL.") {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(socket)
}

/// Stops a server that outlived its `salebell dev` (which was killed with SIGKILL), and removes a `postmaster.pid`
/// whose process id has been reused. PostgreSQL would refuse to start with either.
async fn end_leftovers(folder: &Path) -> anyhow::Result<()> {
    let data = folder.join("data");
    let pid_file = data.join("postmaster.pid");
    let Ok(text) = fs::read_to_string(&pid_file) else { return Ok(()) };
    let Some(pid) = text.lines().next().and_then(|line| line.trim().parse::<u32>().ok()) else {
        return Ok(());
    };
    match state_of(pid) {
        // The file is left for PostgreSQL, which uses it to check whether backends of the dead server still use its
        // memory.
        State::Gone => return Ok(()),
        State::Unburied => return forget_unburied(&data, &pid_file).await,
        State::Runs if !is_server_of(pid, &data, &text) => return remove_pid_file(&pid_file),
        State::Runs => {}
    }
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        send(pid, signal)?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while state_of(pid) == State::Runs && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        match state_of(pid) {
            State::Gone => return Ok(()),
            State::Unburied => return forget_unburied(&data, &pid_file).await,
            State::Runs => {}
        }
    }
    Err(anyhow!("a PostgreSQL server from an earlier run (process {pid}) does not stop"))
}

/// Handles a dead server that its parent does not reap (often process 1 of a container): PostgreSQL would consider it
/// alive and refuse to start. Its file is removed once none of its backends is left.
async fn forget_unburied(data: &Path, pid_file: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + LEFTOVERS_TIMEOUT;
    while let Some(pid) = find_process_in(data) {
        if Instant::now() > deadline {
            bail!(
                "process {pid} of a PostgreSQL server that has ended is still at work in {}",
                data.display()
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    remove_pid_file(pid_file)
}

fn remove_pid_file(pid_file: &Path) -> anyhow::Result<()> {
    match fs::remove_file(pid_file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", pid_file.display()))
        }
        _ => Ok(()),
    }
}

/// A running process whose working directory is `folder`, as far as /proc reveals it; a dead process has none.
fn find_process_in(folder: &Path) -> Option<u32> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        (fs::read_link(entry.path().join("cwd")).ok()? == folder).then_some(pid)
    })
}

#[derive(Debug, PartialEq)]
enum State {
    Runs,
    /// A zombie: it has ended, and its parent has not reaped it.
    Unburied,
    Gone,
}

fn state_of(pid: u32) -> State {
    // proc_pid_stat(5): the state follows the name, which may itself contain parentheses.
    if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) {
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        return if matches!(state, Some('Z' | 'X')) { State::Unburied } else { State::Runs };
    }
    match i32::try_from(pid).map(|pid| kill(Pid::from_raw(pid), None)) {
        Ok(Ok(()) | Err(nix::errno::Errno::EPERM)) => State::Runs,
        _ => State::Gone,
    }
}

/// Whether the process is a server of `data`: its working directory is the data folder. If that is not readable, the
/// second line of the pid file decides.
fn is_server_of(pid: u32, data: &Path, pid_file: &str) -> bool {
    match fs::read_link(format!("/proc/{pid}/cwd")) {
        Ok(folder) => folder == data,
        Err(_) => pid_file.lines().nth(1).is_some_and(|line| Path::new(line) == data),
    }
}

fn send(pid: u32, signal: Signal) -> anyhow::Result<()> {
    // Zero and negative numbers would address process groups.
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 1);
    let pid = pid.ok_or_else(|| anyhow!("not the id of a process"))?;
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno).with_context(|| format!("cannot signal process {pid}")),
    }
}

/// Starts the server on the port that it used last time, or on another one if that is now in use.
async fn launch(
    programs: &ServerPrograms,
    owner: &Owner,
    folder: &Path,
    socket: &Path,
    password: &SecretString,
    guard: &mut Guard,
) -> anyhow::Result<(Child, u16)> {
    let port_file = folder.join("port");
    let last = fs::read_to_string(&port_file).ok().and_then(|text| text.trim().parse::<u16>().ok());
    let mut port = match last {
        Some(port) if port > 0 && is_free(port) => port,
        _ => free_port()?,
    };
    let mut tries = 0;
    loop {
        match launch_on(programs, owner, folder, socket, password, port, guard).await {
            Ok(server) => {
                fs::write(&port_file, port.to_string())
                    .with_context(|| format!("cannot write {}", port_file.display()))?;
                return Ok((server, port));
            }
            // Another program took the port between our check and the server's bind.
            Err(_) if tries < 5 && !is_free(port) => {
                tries += 1;
                port = free_port()?;
            }
            Err(failure) => return Err(failure),
        }
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A port below the range that the kernel uses for outgoing connections (ip(7)), so it is likely to be free at the next
/// start.
fn free_port() -> anyhow::Result<u16> {
    for _ in 0..100 {
        let mut random = [0u8; 2];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| anyhow!("no random numbers to be had"))?;
        let port = 15_000 + u16::from_ne_bytes(random) % 16_000;
        if is_free(port) {
            return Ok(port);
        }
    }
    Err(anyhow!("no free port on 127.0.0.1"))
}

/// Starts the server and returns once it accepts a login.
async fn launch_on(
    programs: &ServerPrograms,
    owner: &Owner,
    folder: &Path,
    socket: &Path,
    password: &SecretString,
    port: u16,
    guard: &mut Guard,
) -> anyhow::Result<Child> {
    let begin = Instant::now();
    loop {
        let log = open_log(folder)?;
        let start_of_log = log.metadata().map_or(0, |metadata| metadata.len());
        let errors = log.try_clone().context("cannot share the server's log")?;
        let mut command = owner.command(&programs.path("postgres"));
        command.arg("-D").arg(folder.join("data"));
        for setting in settings(socket, port) {
            command.arg("-c").arg(setting);
        }
        // A process group of its own: the terminal's Ctrl-C is meant for us, and the server must outlive the requests
        // that are still being finished.
        command.current_dir(folder).process_group(0).stdout(log).stderr(errors);
        let mut server = command.spawn().context("cannot start postgres")?;
        guard.watch(&server)?;
        match wait_until_ready(&mut server, &connect_options(socket, port, password)).await? {
            Start::Ready => return Ok(server),
            Start::Ended(status) => {
                let log = read_log(folder, start_of_log);
                // Backends of a killed server need a moment to notice that and to release its memory.
                let leftovers = log.contains("pre-existing shared memory") || log.contains("postmaster.pid");
                if leftovers && begin.elapsed() < LEFTOVERS_TIMEOUT {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
                bail!(
                    "the private PostgreSQL server ended ({status}); its log, {}, says:\n{}",
                    folder.join("log").display(),
                    log.trim_end()
                );
            }
        }
    }
}

/// Settings of a development server. `fsync` stays on: a laptop that runs out of battery must not lose data that its
/// user has entered.
fn settings(socket: &Path, port: u16) -> Vec<String> {
    vec![
        format!("port={port}"),
        // Commas and quotes separate folders in this setting.
        format!("unix_socket_directories=\"{}\"", socket.display().to_string().replace('"', "\"\"")),
        "listen_addresses=127.0.0.1".into(),
        "unix_socket_permissions=0700".into(),
        "cluster_name=salebell-dev".into(),
        "shared_buffers=128MB".into(),
        "max_connections=200".into(),
        "logging_collector=off".into(),
        "log_line_prefix=%m [%p] ".into(),
        "lc_messages=C".into(),
        "timezone=UTC".into(),
        "log_timezone=UTC".into(),
    ]
}

enum Start {
    Ready,
    Ended(ExitStatus),
}

async fn wait_until_ready(server: &mut Child, options: &PgConnectOptions) -> anyhow::Result<Start> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if let Some(status) = server.try_wait().context("cannot wait for postgres")? {
            return Ok(Start::Ended(status));
        }
        match PgConnection::connect_with(options).await {
            Ok(connection) => {
                let _ = connection.close().await;
                return Ok(Start::Ready);
            }
            Err(error) if Instant::now() > deadline => {
                return Err(error).context("the private PostgreSQL server takes no logins");
            }
            // 28P01, 28000: a rejected password does not become valid by waiting.
            Err(sqlx::Error::Database(error))
                if matches!(error.code().as_deref(), Some("28P01" | "28000")) =>
            {
                return Err(error).context("the private PostgreSQL server refuses its own password");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn connect_options(socket: &Path, port: u16, password: &SecretString) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket)
        .port(port)
        .username(NAME)
        .password(password.expose_secret())
        .database("postgres")
        .ssl_mode(PgSslMode::Disable)
}

fn open_log(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join("log");
    if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LARGEST_LOG) {
        let _ = fs::remove_file(&path);
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))
}

/// End of the log from byte `start` on, at most 4 KiB.
fn read_log(folder: &Path, start: u64) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let mut text = Vec::new();
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(folder.join("log"))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(length.saturating_sub(4096))))?;
        file.take(4096).read_to_end(&mut text)?;
        Ok(text)
    };
    read().map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
}
