//! The command line: `Arguments`, and one file or folder per subcommand.

pub mod api_client;
pub mod bus;
#[cfg(feature = "dev")]
pub mod dev;
pub mod files;
pub mod games;
pub mod keys;
pub mod reference;
pub mod report;
mod serve;
pub mod stats;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{anyhow, bail};
use clap::{CommandFactory, Parser, Subcommand};
use secrecy::ExposeSecret;

use self::api_client::running_dev::RunningDev;
use crate::app::{App, AppState};
use crate::clock::Clock;
use crate::config::{Config, Problems};
use crate::error::{Kind, Result};
use crate::instance::renewal::Origin;
use crate::instance::{boot, ready, terminating};
use crate::server::process;
use crate::store::unreachable::explain_unreachable;
use crate::telemetry::emf::Reporter;
use crate::telemetry::table::Service;
use crate::{store, telemetry};

/// Rings when a video game goes on sale.
#[derive(Parser)]
#[command(version)]
pub struct Arguments {
    /// The TOML file of settings; the environment (SALEBELL_<AREA>__<KEY>) takes precedence.
    #[arg(long, global = true, env = "SALEBELL_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    #[cfg(feature = "dev")]
    Dev(dev::DevArguments),
    /// Serve the API: HTTP and gRPC.
    Api,
    /// Record reported prices, dispatch events, deliver notices.
    Worker,
    /// Bring the database's schema up to date; safe to run twice, and while the version before runs.
    Migrate,
    Boot(boot::BootArguments),
    /// Read the configuration, and report every missing or invalid key at once.
    CheckConfig,
    Report(report::ReportArguments),
    #[command(subcommand)]
    Files(files::FilesAction),
    #[command(subcommand)]
    Games(games::GamesAction),
    /// Create, list and revoke API keys, directly in the database.
    #[command(subcommand)]
    Key(keys::KeysAction),
    /// Show, recompute and mail the weekly statistics, directly from the database; write the report page.
    #[command(subcommand)]
    Stats(stats::StatsAction),
    /// On an instance of a group: wait until the API is ready, then complete the launch hook.
    Ready {
        /// Wait for the worker too.
        #[arg(long, conflicts_with = "abandon")]
        with_worker: bool,
        /// Do not wait: the instance will never serve, and the group launches another.
        #[arg(long)]
        abandon: bool,
        /// The reason, for the log.
        #[arg(long, requires = "abandon", default_value = "the boot has failed")]
        reason: String,
    },
    /// On an instance of a group: wait until it is terminated, drain its services, then complete the termination hook.
    Terminating,
    #[command(subcommand)]
    Bus(bus::BusAction),
    Reference(reference::ReferenceArguments),
    /// The same as `salebell bus redrive`.
    #[command(hide = true)]
    Redrive,
}

impl Command {
    /// Whether a crash may leave a core dump. It may for commands that hold no secrets except those of the person who
    /// runs them.
    fn may_dump_core(&self) -> bool {
        match self {
            #[cfg(feature = "dev")]
            Command::Dev(_) => true,
            Command::Files(_) | Command::Report(_) => true,
            _ => false,
        }
    }
}

/// Runs a subcommand on a runtime of its own.
///
/// # Errors
/// Returns the failure that ended the subcommand, as a sentence for the person who typed it.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(execute(arguments));
    // A pending read of standard input that is no longer needed must not keep the process alive.
    runtime.shutdown_background();
    code
}

async fn execute(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let file = Config::locate(arguments.config.clone(), credentials);
    let config = || Config::load(file.as_deref(), std::env::vars());
    let origin = || Origin { file: file.clone(), environment: std::env::vars().collect() };
    let service = || config().inspect(|config| telemetry::start_logging(&config.log));
    let of_operator = || {
        let config = config_or_dev(file.as_deref())?;
        telemetry::start_logging(&config.log);
        Ok::<_, anyhow::Error>(config)
    };
    let beside = || {
        let (config, problems) = Config::load_beside(file.as_deref(), std::env::vars())?;
        telemetry::start_logging(&config.log);
        if !problems.0.is_empty() {
            log::warn!(target: "salebell::config", "{problems}");
        }
        Ok::<_, Problems>(config)
    };
    if !arguments.command.may_dump_core() {
        process::forbid_core_dumps()?;
    }
    match arguments.command {
        Command::Api => return Ok(serve::api(service()?, origin()).await?),
        Command::Worker => serve::worker(service()?, origin()).await?,
        Command::Migrate => {
            let app = open(service()?).await?;
            in_plain_words(&app, store::migrate(&app.writer).await).await?;
        }
        Command::Boot(boot) => {
            println!("{}", boot::run(boot, arguments.config.as_deref()).await?);
        }
        Command::CheckConfig => {
            config()?;
            println!("The configuration is complete.");
        }
        Command::Ready { abandon: true, reason, .. } => {
            let config = beside()?;
            let reporter = Reporter::start(&config.telemetry, Service::Boot);
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
            print!("{}", in_plain_words(&app, bus::run(&app, action).await).await?);
        }
        Command::Redrive => {
            let app = open(of_operator()?).await?;
            let redriven = bus::run(&app, bus::BusAction::Redrive).await;
            print!("{}", in_plain_words(&app, redriven).await?);
        }
        Command::Games(action) => {
            let app = open(of_operator()?).await?;
            print!("{}", in_plain_words(&app, games::run(&app, action).await).await?);
        }
        Command::Key(action) => {
            let app = open(of_operator()?).await?;
            println!("{}", in_plain_words(&app, keys::run(&app, action).await).await?);
        }
        Command::Stats(action) => {
            let app = open(of_operator()?).await?;
            print!("{}", in_plain_words(&app, stats::run(&app, action).await).await?);
        }
        #[cfg(feature = "dev")]
        Command::Dev(dev) => dev::run(dev, arguments.config.as_deref()).await?,
        Command::Files(action) => return files::run(action).await,
        Command::Reference(arguments) => reference::run(&arguments, Arguments::command())?,
        Command::Report(arguments) => return report::run(arguments).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// Configuration of a command that queries the database directly. If nothing names a database, it is that of the
/// `salebell dev` of the current folder.
fn config_or_dev(file: Option<&Path>) -> anyhow::Result<Config> {
    const URL: &str = "SALEBELL_DATABASE__URL";
    let mut settings: BTreeMap<String, String> = std::env::vars().collect();
    let mut hint = String::new();
    if file.is_none() && settings.get(URL).is_none_or(String::is_empty) {
        match RunningDev::find() {
            Ok(dev) => {
                // The reader is set as well, since a configured one would answer from another database.
                for name in [URL, "SALEBELL_DATABASE__READER_URL"] {
                    settings.insert(name.to_owned(), dev.database_url.expose_secret().to_owned());
                }
            }
            Err(absent) => hint = format!("\n{absent}"),
        }
    }
    Config::load(file, settings).map_err(|problems| anyhow!("{problems}{hint}"))
}

/// Turns a failure between a command and its database into a message for the person who typed the command.
async fn in_plain_words<T>(app: &App, outcome: Result<T>) -> anyhow::Result<T> {
    let error = match outcome {
        Ok(done) => return Ok(done),
        Err(error) => error,
    };
    if !matches!(error.kind, Kind::Unavailable | Kind::Internal) {
        return Err(error.into());
    }
    if let Some(why) = explain_unreachable(&app.writer.connect_options()).await {
        bail!("the database is unavailable: {why}");
    }
    Err(error.into())
}

/// Opens the state for a command that ends. Unlike a service, it does not wait for the database: a log-in must succeed
/// now.
async fn open(config: Config) -> Result<App> {
    let app = AppState::new(config, Clock::system())?;
    app.log_in.available().await?;
    Ok(app)
}
