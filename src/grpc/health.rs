//! Health checks by grpc.health.v1 (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>). They report
//! what `/healthz` does, and from SIGTERM on what `/readyz` does. The database is not queried, because taking every
//! instance out of service would not repair it.

use std::time::Duration;

use async_stream::stream;
use futures_util::Stream;
use futures_util::stream::{BoxStream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_server};

use super::methods::SERVICES;
use crate::error::{Error, Kind};
use crate::health::dead_man;

/// Interval at which an open watch receives its status again: a load balancer closes a stream on which nothing arrives
/// for 60 s, and HTTP/2 pings do not count.
const REPEAT_INTERVAL: Duration = Duration::from_secs(30);

/// The service `grpc.health.v1.Health`.
pub struct GrpcHealth {
    stopping: CancellationToken,
}

impl GrpcHealth {
    /// Creates the service, whose status is `SERVING` until `stopping` is cancelled.
    pub fn new(stopping: CancellationToken) -> GrpcHealth {
        GrpcHealth { stopping }
    }
}

/// Status of a service. `None`: there is no such service. The empty name stands for the server as a whole.
fn status(service: &str, stopping: &CancellationToken) -> Option<ServingStatus> {
    let known = service.is_empty() || SERVICES.contains(&service);
    known.then(|| if stopping.is_cancelled() { ServingStatus::NotServing } else { ServingStatus::Serving })
}

/// The current status, each change, and the last status again at the interval `again`. Never ends.
fn statuses(
    service: String,
    stopping: CancellationToken,
    again: Duration,
) -> impl Stream<Item = ServingStatus> + Send + 'static {
    stream! {
        loop {
            // An unknown service stays unknown until another version of Salebell is installed.
            let now = status(&service, &stopping).unwrap_or(ServingStatus::ServiceUnknown);
            yield now;
            match now {
                ServingStatus::Serving => drop(tokio::time::timeout(again, stopping.cancelled()).await),
                _ => tokio::time::sleep(again).await,
            }
        }
    }
}

fn reply(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for GrpcHealth {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let Some(status) = status(&request.get_ref().service, &self.stopping) else {
            return Err(Error::new(Kind::NotFound, "There is no such service.").into());
        };
        // The load balancer reads the status code of a response, not its message.
        if status != ServingStatus::Serving && dead_man::is_health_check(request.metadata().as_ref()) {
            return Err(Error::new(Kind::Unavailable, "The process is stopping.").into());
        }
        Ok(Response::new(reply(status)))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let statuses = statuses(request.into_inner().service, self.stopping.clone(), REPEAT_INTERVAL);
        Ok(Response::new(statuses.map(|status| Ok(reply(status))).boxed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watch_receives_the_status_at_once_on_every_change_and_repeatedly() {
        let stopping = CancellationToken::new();
        let often = Duration::from_millis(1);
        let mut known = statuses(SERVICES[0].to_owned(), stopping.clone(), often).boxed();
        let mut rarely = statuses(String::new(), stopping.clone(), Duration::from_secs(600)).boxed();
        let mut unknown = statuses("what".to_owned(), stopping.clone(), often).boxed();
        for _ in 0..3 {
            assert_eq!(known.next().await, Some(ServingStatus::Serving));
            assert_eq!(unknown.next().await, Some(ServingStatus::ServiceUnknown));
        }
        assert_eq!(rarely.next().await, Some(ServingStatus::Serving));
        let change = tokio::spawn(async move { rarely.next().await });
        stopping.cancel();
        assert_eq!(change.await.unwrap(), Some(ServingStatus::NotServing));
        for _ in 0..3 {
            assert_eq!(known.next().await, Some(ServingStatus::NotServing));
            assert_eq!(unknown.next().await, Some(ServingStatus::ServiceUnknown));
        }
    }
}
