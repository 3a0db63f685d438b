//! Subcommands, nothing else.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use salebell::app::{App, AppState, Clock};
use salebell::client::running_dev::RunningDev;
use salebell::config::{Config, Problems};
use salebell::error::{Kind, Result};
use salebell::failure::Failure;
use salebell::instance::renewal::{Origin, Renewal};
use salebell::instance::{dead_man, disk, ready, terminating};
use salebell::process::{self, Part};
use salebell::server::Server;
use salebell::store::unreachable::explain_unreachable;
use salebell::telemetry::emf::Reporter;
use salebell::{bus_command, files_command, games_command, key_command, stats_command, store, telemetry};
use secrecy::ExposeSecret;

/// Rings when a video game goes on sale.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The TOML file of settings; the environment (SALEBELL_<AREA>__<KEY>) goes over it.
    #[arg(long, global = true, env = "SALEBELL_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Dev(salebell::dev::Arguments),
    /// Serve the API: HTTP and gRPC.
    Api,
    /// Record reported prices, dispatch events, deliver notices.
    Worker,
    /// Bring the database's schema up to date; safe to run twice and beside the version before.
    Migrate,
    Boot(salebell::instance::boot::Arguments),
    /// Read the configuration and tell every missing or wrong key at once.
    CheckConfig,
    Report(salebell::report::Arguments),
    #[command(subcommand)]
    Files(files_command::Action),
    #[command(subcommand)]
    Games(games_command::Action),
    /// Create, list and revoke API keys, straight in the database.
    #[command(subcommand)]
    Key(key_command::Action),
    /// Show, recompute and mail the weekly statistics, straight from the database; write the report page.
    #[command(subcommand)]
    Stats(stats_command::Action),
    /// On an instance of a group: wait until the API is ready, then complete the launch hook.
    Ready {
        /// Wait for the worker too.
        #[arg(long, conflicts_with = "abandon")]
        with_worker: bool,
        /// Do not wait: the instance will never serve, and the group tries another.
        #[arg(long)]
        abandon: bool,
        /// Why, for the log.
        #[arg(long, requires = "abandon", default_value = "the boot has failed")]
        reason: String,
    },
    /// On an instance of a group: see when it is to go, drain its services, then complete the termination hook.
    Terminating,
    #[command(subcommand)]
    Bus(bus_command::Action),
    /// The same as `salebell bus redrive`.
    #[command(hide = true)]
    Redrive,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The allocator's memory is used here and there: as huge pages the worker would be half as large again, and no
    // faster. Where the kernel does not know it, it is as large.
    let _ = nix::sys::prctl::set_thp_disable(true);
    let ended = run(arguments);
    log::logger().flush();
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("salebell: {}", salebell::error::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> std::result::Result<ExitCode, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(execute(arguments));
    // A read of standard input that nobody waits for any more must not hold the process.
    runtime.shutdown_background();
    code
}

async fn execute(arguments: Arguments) -> std::result::Result<ExitCode, Box<dyn Error>> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let file = Config::locate(arguments.config.clone(), credentials);
    let config = || Config::load(file.as_deref(), std::env::vars());
    let origin = || Origin { file: file.clone(), environment: std::env::vars().collect() };
    let service = || config().inspect(|config| telemetry::start_logging(&config.log));
    let of_operator = || {
        let config = config_or_dev(file.as_deref())?;
        telemetry::start_logging(&config.log);
        Ok::<_, Failure>(config)
    };
    let beside = || {
        let (config, problems) = Config::load_beside(file.as_deref(), std::env::vars())?;
        telemetry::start_logging(&config.log);
        if !problems.0.is_empty() {
            log::warn!(target: "salebell::config", "{problems}");
        }
        Ok::<_, Problems>(config)
    };
    if !matches!(arguments.command, Command::Dev(_) | Command::Files(_) | Command::Report(_)) {
        process::forbid_core_dumps()?;
    }
    match arguments.command {
        Command::Api => return Ok(api(service()?, origin()).await?),
        Command::Worker => worker(service()?, origin()).await?,
        Command::Migrate => {
            let app = open(service()?).await?;
            in_plain_words(&app, store::migrate(&app.writer).await).await?;
        }
        Command::Boot(boot) => {
            println!("{}", salebell::instance::boot::run(boot, arguments.config.as_deref()).await?);
        }
        Command::CheckConfig => {
            config()?;
            println!("The configuration is complete.");
        }
        Command::Ready { abandon: true, reason, .. } => {
            let config = beside()?;
            let reporter = Reporter::start(&config.telemetry, "boot");
            let abandoned = ready::abandon(&config, &reason).await;
            if let Some(Err(error)) = reporter.map(|reporter| reporter.write(Clock::system().now())) {
                log::warn!(target: "salebell::emf", "metrics were not written: {error}");
            }
            abandoned?;
        }
        Command::Ready { with_worker, .. } => ready::ready(&beside()?, with_worker).await?,
        Command::Terminating => terminating::run(&beside()?).await?,
        Command::Bus(action) => {
            let app = open(of_operator()?).await?;
            print!("{}", in_plain_words(&app, bus_command::run(&app, action).await).await?);
        }
        Command::Redrive => {
            let app = open(of_operator()?).await?;
            let redriven = bus_command::run(&app, bus_command::Action::Redrive).await;
            print!("{}", in_plain_words(&app, redriven).await?);
        }
        Command::Games(action) => {
            let app = open(of_operator()?).await?;
            print!("{}", in_plain_words(&app, games_command::run(&app, action).await).await?);
        }
        Command::Key(action) => {
            let app = open(of_operator()?).await?;
            println!("{}", in_plain_words(&app, key_command::run(&app, action).await).await?);
        }
        Command::Stats(action) => {
            let app = open(of_operator()?).await?;
            print!("{}", in_plain_words(&app, stats_command::run(&app, action).await).await?);
        }
        Command::Dev(dev) => salebell::dev::run(dev, arguments.config.as_deref()).await?,
        Command::Files(action) => return Ok(files_command::run(action).await?),
        Command::Report(arguments) => return Ok(salebell::report::run(arguments).await?),
    }
    Ok(ExitCode::SUCCESS)
}

async fn api(config: Config, origin: Origin) -> Result<ExitCode> {
    let app = AppState::new(config, Clock::system())?;
    // The first log-in to the database takes its time, and so does the certificate that is minted below.
    tokio::spawn({
        let app = app.clone();
        async move { app.readiness.reasons().await }
    });
    keep_new(&app, origin);
    let server = Server::bind(app.clone()).await?;
    log::info!(target: "salebell::process", "listening on {}", server.url()?);
    let metrics = Server::bind_metrics(app.clone(), app.config.server.metrics_listen).await?;
    let mut parts = vec![Part::new("the API", server.run())];
    if let Some(grpc) = Server::bind_grpc(app.clone()).await? {
        log::info!(target: "salebell::process", "gRPC on {}", grpc.url()?);
        parts.push(Part::new("gRPC", grpc.run()));
    }
    if app.config.instance.dead_man.is_some() {
        parts.push(Part::new("the dead man's switch", dead_man::run(app.clone())));
    }
    if app.config.instance.disk_full.is_some() {
        parts.push(Part::new("the look at the disk", disk::run(app.clone())));
    }
    let ended = process::run(app.clone(), "api", metrics, parts).await;
    match app.dead_man.has_fired() {
        true => Ok(ExitCode::from(dead_man::EXIT_CODE)),
        false => ended.map(|()| ExitCode::SUCCESS),
    }
}

async fn worker(config: Config, origin: Origin) -> Result<()> {
    let app = AppState::new(config, Clock::system())?;
    keep_new(&app, origin);
    let metrics = Server::bind_metrics(app.clone(), app.config.worker.metrics_listen).await?;
    let part = Part::new("the worker", salebell::worker::run(app.clone()));
    process::run(app, "worker", metrics, vec![part]).await
}

/// The configuration of a command that asks the database itself. Where nothing names a database, it is that of the
/// `salebell dev` of this folder.
fn config_or_dev(file: Option<&Path>) -> std::result::Result<Config, Failure> {
    const URL: &str = "SALEBELL_DATABASE__URL";
    let mut settings: BTreeMap<String, String> = std::env::vars().collect();
    let mut hint = String::new();
    if file.is_none() && settings.get(URL).is_none_or(String::is_empty) {
        match RunningDev::find() {
            Ok(dev) => {
                // The reader too, or somebody else's would answer.
                for name in [URL, "SALEBELL_DATABASE__READER_URL"] {
                    settings.insert(name.to_owned(), dev.database_url.expose_secret().to_owned());
                }
            }
            Err(absent) => hint = format!("\n{absent}"),
        }
    }
    Config::load(file, settings).map_err(|problems| Failure::new(format!("{problems}{hint}")))
}

/// What went wrong between a command and its database, for the person who has typed it.
async fn in_plain_words<T>(app: &App, outcome: Result<T>) -> std::result::Result<T, Box<dyn Error>> {
    let error = match outcome {
        Ok(done) => return Ok(done),
        Err(error) => error,
    };
    if !matches!(error.kind, Kind::Unavailable | Kind::Internal) {
        return Err(error.into());
    }
    if let Some(why) = explain_unreachable(&app.writer.connect_options()).await {
        return Err(Failure::new(format!("the database is away: {why}")).into());
    }
    Err(error.into())
}

/// For a command that ends: what a service would wait for must be there.
async fn open(config: Config) -> Result<App> {
    let app = AppState::new(config, Clock::system())?;
    app.can_log_in().await?;
    Ok(app)
}

/// Settings that change in Parameter Store and Secrets Manager change here too, until the process ends.
fn keep_new(app: &App, origin: Origin) {
    let app = app.clone();
    tokio::spawn(async move {
        if let Some(renewal) = Renewal::new(&app, origin).await {
            renewal.run().await;
        }
    });
}
