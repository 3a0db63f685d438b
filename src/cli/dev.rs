//! `salebell dev`: all services in one process on a laptop, with a PostgreSQL server of its own.

pub mod cluster;
mod guard;
pub mod home;
mod owner;
mod programs;
mod sample;
mod token;
mod welcome;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use secrecy::{ExposeSecret, SecretString};
use tokio::signal::unix::{SignalKind, signal};

use self::cluster::Cluster;
use self::home::Home;
use self::welcome::{ListenAddress, Welcome, quote};
use crate::app::{App, AppState};
use crate::cli::api_client::running_dev::RunningDev;
use crate::clock::Clock;
use crate::config::Config;
use crate::server::Server;
use crate::server::process::{self, Part};
use crate::store::unreachable::explain_unreachable;
use crate::telemetry::Quiet;
use crate::telemetry::table::Service;
use crate::{secrets, store, telemetry, worker};

/// Default address of metrics, unless another program uses it.
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9100);
/// Default address of gRPC, unless another program uses it.
const GRPC: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9000);

/// Run everything in one process: a private PostgreSQL cluster under .salebell, the API, the worker.
///
/// The first start loads a sample feed. A token with every scope is written to .salebell/dev-token.
#[derive(Debug, clap::Args)]
pub struct DevArguments {
    /// Use this PostgreSQL (15 or newer) instead of a private cluster.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// The address of the API; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Do not load the sample feed into an empty catalogue.
    #[arg(long)]
    no_sample: bool,
}

/// Runs until a signal stops it, and then stops the cluster.
///
/// # Errors
/// Fails if another `salebell dev` runs in this folder, an address is in use, or the database does not start.
pub async fn run(arguments: DevArguments, config_file: Option<&Path>) -> anyhow::Result<()> {
    let project = std::env::current_dir().context("cannot tell the current folder")?;
    let mut home = Home::open(&project)?;
    check_address(arguments.listen)?;
    let folder = home.path("postgres");

    // From here on, a signal must stop the cluster before it ends this process.
    let mut stop_requested = Box::pin(stop_signal()?);
    let start = async {
        match &arguments.database_url {
            Some(_) => Ok(None),
            None => Cluster::start(&folder, &|line| println!("{line}")).await.map(Some),
        }
    };
    let mut cluster = tokio::select! {
        cluster = start => cluster?,
        // Dropping the start also drops the guard, which then stops the server.
        () = &mut stop_requested => return Ok(()),
    };
    let prepared = tokio::select! {
        prepared = prepare(&arguments, config_file, &mut home, cluster.as_ref()) => prepared.map(Some),
        () = &mut stop_requested => Ok(None),
    };
    let outcome = match prepared {
        Ok(Some(ready)) => {
            let stopping = ready.app.stopping.clone();
            tokio::spawn(async move {
                stop_requested.await;
                stopping.cancel();
            });
            serve(ready, cluster.as_mut()).await
        }
        Ok(None) => Ok(()),
        Err(failure) => Err(failure),
    };
    if let Some(cluster) = cluster {
        cluster.stop().await?;
    }
    outcome
}

/// Registers for SIGINT and SIGTERM; the future completes at the next one.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    Ok(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    })
}

/// Everything that is needed to serve.
struct Ready {
    app: App,
    server: Server,
    grpc: Option<Server>,
    metrics: Server,
    welcome: Welcome,
}

async fn prepare(
    arguments: &DevArguments,
    config_file: Option<&Path>,
    home: &mut Home,
    cluster: Option<&Cluster>,
) -> anyhow::Result<Ready> {
    let database_url = match (&arguments.database_url, cluster) {
        (Some(url), _) => SecretString::from(url.as_str()),
        (None, Some(cluster)) => cluster.url(),
        (None, None) => bail!("there is neither a cluster nor a database URL"),
    };
    let taken = [METRICS, GRPC].map(|address| (!is_free(address)).then_some(address));
    let reserved = reserve_port(arguments.listen)?;
    let listen = match &reserved {
        Some(reserved) => reserved.local_addr().context("cannot tell the address")?,
        None => arguments.listen,
    };
    let config = load_config(listen, config_file, home, &database_url, taken)?;
    let quiet = Quiet::start();
    telemetry::start_logging(&config.log);
    let app = AppState::new(config, Clock::system()).context("cannot start")?;
    if let Err(error) = store::migrate(&app.writer).await {
        return match explain_unreachable(&app.writer.connect_options()).await {
            Some(why) => Err(anyhow!("the database is unavailable: {why}")),
            None => Err(error).context("cannot bring the database up to date"),
        };
    }
    let token_file = home.path("dev-token");
    let token = token::find_or_create(&app, &token_file).await?;
    drop(reserved);
    let server = Server::bind(app.clone()).await.context("cannot listen")?;
    let address = server.address().context("cannot tell the address")?;
    let url = format!("http://{}", reachable(address));
    let grpc = Server::bind_grpc(app.clone()).await.context("cannot listen for gRPC")?;
    let grpc_address = grpc.as_ref().map(Server::address).transpose().context("cannot tell the address")?;
    let metrics = Server::bind_metrics(app.clone(), app.config.server.metrics_listen).await;
    let metrics = metrics.context("cannot listen for metrics")?;
    let metrics_address = metrics.address().context("cannot tell the address")?;
    let program = home.link_program()?;
    home.announce(&RunningDev { url: url.clone(), token_file: token_file.clone(), database_url })?;
    let database = match cluster {
        Some(cluster) => format!(
            "{}: PGPASSWORD=$(cat {}) psql -h 127.0.0.1 -p {} -U salebell salebell",
            cluster.describe(),
            quote(&cluster.password_file()),
            cluster.port()
        ),
        None => "the PostgreSQL of --database-url".to_owned(),
    };
    let [metrics_taken, grpc_taken] = taken;
    let place = |address: SocketAddr, taken: Option<SocketAddr>| ListenAddress {
        address: reachable(address),
        instead_of: taken.filter(|taken| taken.port() != address.port()),
    };
    let welcome = Welcome {
        url,
        grpc: grpc_address.map(|address| place(address, grpc_taken)),
        metrics: place(metrics_address, metrics_taken),
        token,
        token_file,
        database,
        program,
        project: home.project().to_owned(),
        sample: !arguments.no_sample,
        quiet,
    };
    Ok(Ready { app, server, grpc, metrics, welcome })
}

async fn serve(ready: Ready, cluster: Option<&mut Cluster>) -> anyhow::Result<()> {
    let Ready { app, server, grpc, metrics, welcome } = ready;
    let processes = async {
        let welcome = tokio::spawn(welcome.greet(app.clone()));
        let mut parts =
            vec![Part::new("the API", server.run()), Part::new("the worker", worker::run(app.clone()))];
        parts.extend(grpc.map(|grpc| Part::new("gRPC", grpc.run())));
        let ended = process::run(app.clone(), Service::Dev, metrics, parts).await;
        // Usually it has finished. If not, it must not announce services that have stopped.
        welcome.abort();
        let greeted = welcome.await;
        // Closed before the database server stops, which would otherwise break these sessions and log errors.
        app.writer.close().await;
        app.reader().close().await;
        match greeted {
            Ok(Err(failure)) => Err(failure),
            _ => ended.context("stopped"),
        }
    };
    match cluster {
        None => processes.await,
        Some(cluster) => tokio::select! {
            ended = processes => ended,
            failure = cluster.supervise() => Err(failure),
        },
    }
}

/// Loads the configuration. Precedence: defaults for a laptop < the configuration file < the environment < our database
/// and `listen`. `taken` holds the default addresses of metrics and gRPC that another program listens on.
fn load_config(
    listen: SocketAddr,
    file: Option<&Path>,
    home: &Home,
    database_url: &SecretString,
    taken: [Option<SocketAddr>; 2],
) -> anyhow::Result<Config> {
    let key_file = home.path("webhook-key");
    let key = match home::read_secret(&key_file)? {
        Some(key) => SecretString::from(key),
        None => {
            let key = secrets::generate_key().context("cannot make a key")?;
            home::write_secret(&key_file, key.expose_secret())?;
            key
        }
    };
    let [metrics, grpc] = [(METRICS, taken[0]), (GRPC, taken[1])].map(|(address, taken)| match taken {
        Some(_) => SocketAddr::new(address.ip(), 0),
        None => address,
    });
    let defaults = [
        ("SALEBELL_WEBHOOK__ALLOW_HTTP", "true".to_owned()),
        ("SALEBELL_WEBHOOK__ALLOW_NETWORKS", "127.0.0.0/8,::1/128".to_owned()),
        ("SALEBELL_WEBHOOK__ENCRYPTION_KEYS", key.expose_secret().to_owned()),
        ("SALEBELL_FILES__DIRECTORY", home.path("files").display().to_string()),
        ("SALEBELL_SERVER__GRPC_LISTEN", grpc.to_string()),
        ("SALEBELL_SERVER__METRICS_LISTEN", metrics.to_string()),
        ("SALEBELL_SERVER__LINGER_S", "0".to_owned()),
        ("SALEBELL_SERVER__PUBLIC_URL", format!("http://{}", reachable(listen))),
        ("SALEBELL_SERVER__RATE_LIMITS__READ", "0".to_owned()),
        ("SALEBELL_SERVER__RATE_LIMITS__WRITE", "0".to_owned()),
        ("SALEBELL_SERVER__RATE_LIMITS__HEAVY", "0".to_owned()),
        // A person who tries out the statistics should not wait an hour.
        ("SALEBELL_STATS__COMPUTE_EVERY_S", "15".to_owned()),
    ];
    let ours = [
        ("SALEBELL_DATABASE__URL", database_url.expose_secret().to_owned()),
        // A configured reader would answer from another database, with other games.
        ("SALEBELL_DATABASE__READER_URL", database_url.expose_secret().to_owned()),
        ("SALEBELL_SERVER__LISTEN", listen.to_string()),
        // The welcome text and the loading of the sample use plain http.
        ("SALEBELL_SERVER__TLS", "off".to_owned()),
        ("SALEBELL_SERVER__CERTIFICATE", String::new()),
        ("SALEBELL_SERVER__KEY", String::new()),
    ];
    let mut settings: std::collections::BTreeMap<String, String> = std::env::vars().collect();
    let in_file = file.and_then(|file| std::fs::read_to_string(file).ok()?.parse().ok()).unwrap_or_default();
    for (name, value) in defaults.into_iter().filter(|(name, _)| !is_in_file(&in_file, name)) {
        settings.entry(name.to_owned()).or_insert(value);
    }
    settings.extend(ours.map(|(name, value)| (name.to_owned(), value)));
    Config::load(file, settings).context("cannot start")
}

/// Whether a file sets what the variable `SALEBELL_<AREA>__<KEY>` would set.
fn is_in_file(file: &toml::Table, variable: &str) -> bool {
    let name = variable.trim_start_matches("SALEBELL_").to_lowercase();
    let mut keys = name.split("__");
    let Some(area) = keys.next().and_then(|area| file.get(area)) else { return false };
    keys.try_fold(area, |found, key| found.get(key)).is_some()
}

/// Takes a free port if `listen` has none, since `server.public_url` names it before the API listens. It is held until
/// then, so that no other program gets it.
fn reserve_port(listen: SocketAddr) -> anyhow::Result<Option<TcpListener>> {
    let reserve = || TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"));
    (listen.port() == 0).then(reserve).transpose()
}

/// Checks the address early, before a cluster is created in vain.
fn check_address(listen: SocketAddr) -> anyhow::Result<()> {
    match TcpListener::bind(listen) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(anyhow!(
            "another program listens on {listen}; --listen {free} takes a free port \
             (make run ARGS=\"--listen {free}\")",
            free = SocketAddr::new(listen.ip(), 0)
        )),
        Err(error) => Err(error).with_context(|| format!("cannot listen on {listen}")),
    }
}

fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

/// Address at which a client on this machine reaches a listener; one on all addresses is reachable over loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), address.port())
        }
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_of_the_file_is_found_by_the_name_of_its_variable() {
        let file: toml::Table = "[server]\nlinger_s = 1\n[auth.alb]\narn = \"\"\n".parse().unwrap();
        for (variable, is_there) in [
            ("SALEBELL_SERVER__LINGER_S", true),
            ("SALEBELL_AUTH__ALB__ARN", true),
            ("SALEBELL_SERVER__LISTEN", false),
            ("SALEBELL_WORKER__LINGER_S", false),
            ("SALEBELL_SERVER__LINGER_S__MORE", false),
        ] {
            assert_eq!(is_in_file(&file, variable), is_there, "{variable}");
        }
    }
}
