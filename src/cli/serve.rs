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
use crate::telemetry::table::Service;

pub async fn api(config: Config, origin: Origin) -> Result<ExitCode> {
    let app = AppState::new(config, Clock::system())?;
    // Started early, since the first log-in to the database takes a while, as does minting the certificate below.
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
    let ended = process::run(app.clone(), Service::Api, metrics, parts).await;
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
    process::run(app, Service::Worker, metrics, vec![part]).await
}

/// Keeps the live settings up to date with Parameter Store and Secrets Manager until the process ends.
fn keep_new(app: &App, origin: Origin) {
    let app = app.clone();
    tokio::spawn(async move {
        if let Some(renewal) = Renewal::new(&app, origin).await {
            renewal.run().await;
        }
    });
}
