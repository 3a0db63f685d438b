//! `salebell api` and `salebell worker`: the two services.

use std::process::ExitCode;

use crate::app::{App, AppState};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::Result;
use crate::instance::renewal::{Origin, Renewal};
use crate::instance::{dead_man, disk};
use crate::server::Server;
use crate::server::process::{self, Part};

pub async fn api(config: Config, origin: Origin) -> Result<ExitCode> {
    let app = AppState::new(config, Clock::system())?;
    // The first log-in to the database takes its time, and so does the certificate that is minted below.
    tokio::spawn({
        let app = app.clone();
        async move { app.health.readiness.reasons().await }
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
    if app.health.dead_man.has_fired() {
        Ok(ExitCode::from(dead_man::EXIT_CODE))
    } else {
        ended.map(|()| ExitCode::SUCCESS)
    }
}

pub async fn worker(config: Config, origin: Origin) -> Result<()> {
    let app = AppState::new(config, Clock::system())?;
    keep_new(&app, origin);
    let metrics = Server::bind_metrics(app.clone(), app.config.worker.metrics_listen).await?;
    let part = Part::new("the worker", crate::worker::run(app.clone()));
    process::run(app, "worker", metrics, vec![part]).await
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
