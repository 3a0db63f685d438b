//! PostgreSQL: a primary and a standby that streams from it, behind two addresses that stay the same when the two
//! change roles.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::process::{Child, Command};

use super::network::{HOST, Way};

const PRIMARY: u16 = 5440;
const STANDBY: u16 = 5441;
const WRITER: u16 = 5432;
const READER: u16 = 5433;
pub const USER: &str = "salebell";
/// URL prefix of the superuser's connections, with which the rehearsal itself queries.
const ADMIN: &str = "postgres://postgres@10.77.0.1";

/// Both servers.
pub struct Database {
    folder: PathBuf,
    primary: Option<Child>,
    _standby: Child,
    writer: Way,
    _reader: Way,
}

impl Database {
    /// Starts both, with an empty database and a user for it.
    pub async fn start(folder: &Path, password: &str) -> Database {
        let found =
            Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lib/find-postgres.sh")).output().await;
        let programs = PathBuf::from(String::from_utf8(found.expect("the script").stdout).unwrap().trim());
        let folder = folder.join("postgres");
        std::fs::create_dir(&folder).expect("a folder");
        let user = nix::unistd::User::from_name("postgres").ok().flatten().expect("a user postgres");
        nix::unistd::chown(&folder, Some(user.uid), Some(user.gid)).expect("its owner");
        let (old, new) = (folder.join("1"), folder.join("2"));
        run(
            &programs.join("initdb").display().to_string(),
            &["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "-D", text(&old)],
        )
        .await;
        // Instances use a password, the rehearsal and the standby none.
        let mut rules = String::new();
        for who in [
            "local all postgres trust",
            "host all postgres 10.77.0.1/32 trust",
            "host replication postgres 10.77.0.1/32 trust",
        ] {
            writeln!(rules, "{who}").unwrap();
        }
        rules.push_str("host all all 10.77.0.0/24 scram-sha-256\n");
        std::fs::write(old.join("pg_hba.conf"), rules).expect("who may come");
        // A copy of a cluster that never ran serves as a base backup.
        run("cp", &["-a", text(&old), text(&new)]).await;
        let source = format!("primary_conninfo = 'host={HOST} port={PRIMARY} user=postgres'\n");
        std::fs::write(new.join("postgresql.auto.conf"), source).expect("where it streams from");
        std::fs::write(new.join("standby.signal"), "").expect("that it does");
        let primary = serve(&programs, &old, PRIMARY).await;
        let mut admin =
            PgConnection::connect(&format!("{ADMIN}:{PRIMARY}/postgres")).await.expect("the primary answers");
        for statement in [
            format!("create role {USER} login password '{password}'"),
            format!("create database salebell owner {USER}"),
        ] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
                .execute(&mut admin)
                .await
                .expect("an empty database");
        }
        let standby = serve(&programs, &new, STANDBY).await;
        // A commit is on both servers: Aurora's instances share their storage, so a failover loses nothing.
        for statement in ["alter system set synchronous_standby_names = '*'", "select pg_reload_conf()"] {
            sqlx::raw_sql(statement).execute(&mut admin).await.expect("a setting");
        }
        Database {
            folder,
            primary: Some(primary),
            _standby: standby,
            writer: Way::open(WRITER, PRIMARY).await,
            _reader: Way::open(READER, STANDBY).await,
        }
    }

    pub fn url(password: &str) -> String {
        format!("postgres://{USER}:{password}@{HOST}:{WRITER}/salebell")
    }

    pub fn reader_url(password: &str) -> String {
        format!("postgres://{USER}:{password}@{HOST}:{READER}/salebell")
    }

    /// Connections of the rehearsal itself.
    pub async fn look(&self) -> PgPool {
        let url = format!("{ADMIN}:{WRITER}/salebell");
        PgPool::connect(&url).await.expect("the writer answers")
    }

    /// Applies one further expanding migration, as the next version's `salebell migrate` does: the same migrator, under
    /// the same lock, with one file more.
    pub async fn migrate_further(&self, number: usize) {
        let folder = self.folder.join(format!("migrations-{number}"));
        std::fs::create_dir(&folder).expect("a folder");
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap().flatten()
        {
            std::fs::copy(entry.path(), folder.join(entry.file_name())).expect("a migration");
        }
        let next = include_str!("next.sql").replace("rehearsed", &format!("rehearsed_{number}"));
        std::fs::write(folder.join(format!("299901010000{number:02}_rehearse.sql")), next).expect("one more");
        let mut migrator = Migrator::new(folder).await.expect("migrations");
        migrator.set_ignore_missing(true);
        let look = self.look().await;
        migrator.run(&look).await.expect("the migration runs beside the version before");
        look.close().await;
    }

    /// Kills the primary and promotes the standby, then directs the writer's address to it, as Aurora does. Afterwards
    /// one server serves both addresses.
    pub async fn fail_over(&mut self) {
        if let Some(mut primary) = self.primary.take() {
            let _ = primary.kill().await;
        }
        self.writer.lead(None);
        let mut standby =
            PgConnection::connect(&format!("{ADMIN}:{STANDBY}/postgres")).await.expect("it answers");
        sqlx::raw_sql("select pg_promote()").execute(&mut standby).await.expect("it is promoted");
        self.writer.lead(Some(STANDBY));
    }

    /// Port of the server that accepts writes.
    ///
    /// # Errors
    /// The server accepts no writes.
    pub async fn written_to(&self) -> Result<u16, String> {
        let query = "select current_setting('port'), pg_is_in_recovery()";
        let mut admin = PgConnection::connect(&format!("{ADMIN}:{WRITER}/salebell"))
            .await
            .map_err(|error| error.to_string())?;
        let (port, replica): (String, bool) =
            sqlx::query_as(query).fetch_one(&mut admin).await.map_err(|error| error.to_string())?;
        match (port.parse(), replica) {
            (Ok(port), false) => Ok(port),
            _ => Err(format!("the server on port {port} is a replica")),
        }
    }

    /// Changes the user's password. Open connections stay.
    pub async fn change_password(&self, password: &str) {
        let statement = format!("alter role {USER} password '{password}'");
        let look = self.look().await;
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&look).await.expect("another password");
        look.close().await;
    }

    /// Ends the connections of instances: new ones need the current password.
    pub async fn end_connections(&self) {
        let look = self.look().await;
        let end = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'salebell'";
        sqlx::raw_sql(end).execute(&look).await.expect("connections end");
        look.close().await;
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn as_postgres(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=QUIT"]);
    command.arg(program).process_group(0).stdin(Stdio::null()).current_dir("/");
    command.env("LC_ALL", "C.UTF-8");
    command
}

async fn run(program: &str, arguments: &[&str]) {
    let output = as_postgres(program).args(arguments).output().await.expect("setpriv");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Starts a server, and waits until it answers.
async fn serve(programs: &Path, data: &Path, port: u16) -> Child {
    let mut command = as_postgres(text(&programs.join("postgres")));
    command.args(["-D", text(data), "-p", &port.to_string(), "-h", "10.77.0.1", "-k", text(data)]);
    for setting in [
        "fsync=off",
        "full_page_writes=off",
        "max_connections=400",
        "shared_buffers=128MB",
        "wal_level=replica",
        "wal_keep_size=512MB",
        "hot_standby=on",
    ] {
        command.args(["-c", setting]);
    }
    let log = std::fs::File::create(data.with_extension("log")).expect("a log");
    command.stdout(Stdio::null()).stderr(log).kill_on_drop(true);
    let child = command.spawn().expect("setpriv");
    for _ in 0..600 {
        if let Ok(connection) = PgConnection::connect(&format!("{ADMIN}:{port}/postgres")).await {
            let _ = connection.close().await;
            return child;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!(
        "PostgreSQL does not start: {}",
        std::fs::read_to_string(data.with_extension("log")).unwrap_or_default()
    );
}
