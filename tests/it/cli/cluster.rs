//! The private PostgreSQL cluster of `salebell dev`, with the real server programs.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use salebell::cli::dev::cluster::Cluster;
use secrecy::ExposeSecret;
use sqlx::{Connection, PgConnection};

use crate::support::scratch::Scratch;

async fn start(folder: &Path) -> Cluster {
    Cluster::start(folder, &|_| {}).await.unwrap()
}

async fn connect(cluster: &Cluster) -> PgConnection {
    PgConnection::connect(cluster.url().expose_secret()).await.unwrap()
}

async fn count_notes(cluster: &Cluster) -> i64 {
    sqlx::query_scalar("select count(*) from note").fetch_one(&mut connect(cluster).await).await.unwrap()
}

async fn add_note(cluster: &Cluster) {
    let mut connection = connect(cluster).await;
    sqlx::raw_sql("create table if not exists note (n int); insert into note values (1)")
        .execute(&mut connection)
        .await
        .unwrap();
}

fn server_pid(folder: &Path) -> Pid {
    let text = std::fs::read_to_string(folder.join("data/postmaster.pid")).unwrap();
    Pid::from_raw(text.lines().next().unwrap().parse().unwrap())
}

fn is_alive(pid: Pid) -> bool {
    kill(pid, None).is_ok()
}

/// Guard processes, which would stop the server of `folder` after this process.
fn find_guards(folder: &Path) -> Vec<Pid> {
    let data = folder.join("data");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let guards = processes.filter_map(|process| {
        let pid: i32 = process.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(process.path().join("cmdline")).ok()?;
        let words: Vec<&[u8]> = command.split(|&byte| byte == 0).collect();
        (words.first() == Some(&b"sh".as_slice()) && words.contains(&data.as_os_str().as_encoded_bytes()))
            .then_some(Pid::from_raw(pid))
    });
    let guards: Vec<Pid> = guards.collect();
    assert_eq!(guards.len(), 1, "guards of {}", folder.display());
    guards
}

async fn wait_until(condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(30), "it did not come to pass");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_cluster_keeps_its_rows_and_its_port_over_a_stop_and_a_start() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("postgres");
    let cluster = start(&folder).await;
    add_note(&cluster).await;
    let port = cluster.port();
    let pid = server_pid(&folder);
    cluster.stop().await.unwrap();
    assert!(!is_alive(pid));
    let cluster = start(&folder).await;
    assert_eq!(cluster.port(), port);
    assert_eq!(count_notes(&cluster).await, 1);
    let mut connection = connect(&cluster).await;
    let fsync: String = sqlx::query_scalar("show fsync").fetch_one(&mut connection).await.unwrap();
    assert_eq!(fsync, "on");
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_whose_starter_is_gone_is_stopped_by_its_guard() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("postgres");
    let cluster = start(&folder).await;
    add_note(&cluster).await;
    let server = server_pid(&folder);
    // The effect of SIGKILL: nothing is stopped, and this process's ends of pipes and its locks are closed.
    drop(cluster);
    wait_until(|| !is_alive(server)).await;
    let cluster = start(&folder).await;
    assert_eq!(count_notes(&cluster).await, 1);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_lost_starter_and_guard_is_found_and_replaced() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("postgres");
    let cluster = start(&folder).await;
    add_note(&cluster).await;
    let orphan = server_pid(&folder);
    for guard in find_guards(&folder) {
        kill(guard, Signal::SIGKILL).unwrap();
    }
    drop(cluster);
    let cluster = start(&folder).await;
    assert_ne!(server_pid(&folder), orphan);
    assert!(!is_alive(orphan));
    assert_eq!(count_notes(&cluster).await, 1);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_killed_server_is_noticed_and_restarted_with_what_was_committed() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("postgres");
    let mut cluster = start(&folder).await;
    add_note(&cluster).await;
    let url = cluster.url();
    let killed = server_pid(&folder);
    // A busy backend notices late that its postmaster is gone.
    let mut busy = connect(&cluster).await;
    let query = tokio::spawn(async move { sqlx::query("select pg_sleep(1)").execute(&mut busy).await });
    kill(killed, Signal::SIGKILL).unwrap();
    let back = async {
        loop {
            if let Ok(connection) = PgConnection::connect(url.expose_secret()).await
                && server_pid(&folder) != killed
            {
                break connection;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        _ = back => {}
        failure = cluster.supervise() => panic!("{failure}"),
    }
    assert_eq!(count_notes(&cluster).await, 1);
    let _ = query.await;
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_pid_file_whose_number_another_process_has_now_does_not_stop_the_start() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("postgres");
    let cluster = start(&folder).await;
    let pid_file = folder.join("data/postmaster.pid");
    let text = std::fs::read_to_string(&pid_file).unwrap();
    kill(server_pid(&folder), Signal::SIGKILL).unwrap();
    drop(cluster);
    // A process of the server's own user; because of it, PostgreSQL itself would refuse to start.
    let owner = std::fs::metadata(folder.join("data")).unwrap();
    let mut other = std::process::Command::new("sleep");
    std::os::unix::process::CommandExt::uid(&mut other, owner.uid());
    let mut other = other.arg("60").current_dir("/").spawn().unwrap();
    let rest: Vec<&str> = text.lines().skip(1).collect();
    std::fs::write(&pid_file, format!("{}\n{}\n", other.id(), rest.join("\n"))).unwrap();
    let cluster = start(&folder).await;
    assert!(other.try_wait().unwrap().is_none(), "a stranger was ended");
    cluster.stop().await.unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
}

#[tokio::test]
async fn a_dead_server_that_is_not_reaped_does_not_stop_the_start() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("postgres");
    let cluster = start(&folder).await;
    add_note(&cluster).await;
    let pid_file = folder.join("data/postmaster.pid");
    let text = std::fs::read_to_string(&pid_file).unwrap();
    kill(server_pid(&folder), Signal::SIGKILL).unwrap();
    drop(cluster);
    // PostgreSQL considers a process alive until its parent has waited for it.
    let owner = std::fs::metadata(folder.join("data")).unwrap();
    let mut zombie = std::process::Command::new("true");
    std::os::unix::process::CommandExt::uid(&mut zombie, owner.uid());
    let mut zombie = zombie.spawn().unwrap();
    let rest: Vec<&str> = text.lines().skip(1).collect();
    std::fs::write(&pid_file, format!("{}\n{}\n", zombie.id(), rest.join("\n"))).unwrap();
    let stat = format!("/proc/{}/stat", zombie.id());
    wait_until(|| std::fs::read_to_string(&stat).unwrap().contains(") Z")).await;
    let cluster = start(&folder).await;
    assert_eq!(count_notes(&cluster).await, 1);
    cluster.stop().await.unwrap();
    zombie.wait().unwrap();
}

#[tokio::test]
async fn a_taken_port_is_replaced_by_another() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("postgres");
    let cluster = start(&folder).await;
    let port = cluster.port();
    cluster.stop().await.unwrap();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let cluster = start(&folder).await;
    assert_ne!(cluster.port(), port);
    add_note(&cluster).await;
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_gets_a_private_folder_elsewhere() {
    let scratch = Scratch::new();
    let deep = scratch.path().join("d".repeat(60)).join("e".repeat(60));
    std::fs::create_dir_all(&deep).unwrap();
    let folder = deep.join("postgres");
    let cluster = start(&folder).await;
    add_note(&cluster).await;
    let url = url::Url::parse(cluster.url().expose_secret()).unwrap();
    let socket = url.query_pairs().find(|(key, _)| key == "host").unwrap().1.into_owned();
    assert!(socket.starts_with("/tmp/"), "{socket}");
    assert_eq!(std::fs::metadata(&socket).unwrap().mode() & 0o777, 0o700);
    cluster.stop().await.unwrap();
    std::fs::remove_dir_all(socket).unwrap();
}

#[tokio::test]
async fn only_the_password_gives_access() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("postgres");
    let cluster = start(&folder).await;
    let mode = std::fs::metadata(cluster.password_file()).unwrap().mode() & 0o777;
    assert_eq!(mode, 0o600);
    for url in [
        format!("postgres://salebell@127.0.0.1:{}/salebell", cluster.port()),
        format!("postgres://salebell:wrong@127.0.0.1:{}/salebell", cluster.port()),
        format!("postgres://postgres@127.0.0.1:{}/postgres", cluster.port()),
    ] {
        assert!(PgConnection::connect(&url).await.is_err(), "{url}");
    }
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_folder_that_the_server_user_cannot_reach_gets_its_data_elsewhere() {
    if !nix::unistd::Uid::effective().is_root() {
        return; // without root, server and caller are the same user
    }
    let scratch = Scratch::new();
    let hidden = scratch.path().join("hidden");
    std::fs::create_dir_all(hidden.join("project")).unwrap();
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o700)).unwrap();
    let folder = hidden.join("project/postgres");
    let said = std::sync::Mutex::new(String::new());
    let cluster = Cluster::start(&folder, &|line| said.lock().unwrap().push_str(line)).await.unwrap();
    add_note(&cluster).await;
    let elsewhere = std::fs::read_link(&folder).unwrap();
    assert!(elsewhere.starts_with("/var/lib/salebell"), "{}", elsewhere.display());
    assert!(said.lock().unwrap().contains(elsewhere.to_str().unwrap()));
    cluster.stop().await.unwrap();
    let cluster = start(&folder).await;
    assert_eq!(count_notes(&cluster).await, 1);
    cluster.stop().await.unwrap();
    std::fs::remove_dir_all(elsewhere).unwrap();
}

#[tokio::test]
async fn a_second_start_says_that_one_runs() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("postgres");
    let cluster = start(&folder).await;
    let begin = Instant::now();
    let refusal = Cluster::start(&folder, &|_| {}).await.unwrap_err().to_string();
    assert!(refusal.contains(&format!("process {}", std::process::id())), "{refusal}");
    assert!(begin.elapsed() < Duration::from_secs(5));
    add_note(&cluster).await;
    cluster.stop().await.unwrap();
}
