//! The gRPC surface: every method and what each call passes through. Health and reflection so far.
//!
//! ```text
//! calls::middleware   the method is known, deadline, panics, limit of streams, end at the drain, log, metrics
//!   the service       limit of its messages
//! ```

mod calls;
mod health;

use axum::Router;
use axum::middleware::from_fn_with_state;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::pb::{v1, v1alpha};
use tonic_reflection::server::Builder;

use self::calls::Calls;
use self::health::GrpcHealth;
use crate::app::App;
use crate::error::{Error, Result};

/// One method.
pub struct Method {
    pub path: &'static str,
    /// It is open for as long as its client likes.
    pub streams: bool,
}

/// What a load balancer asks; answered also where nothing else is.
pub const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// Every method, one a line: no other is answered. None of them needs a token: load balancers have none, and reflection
/// tells what everybody can read here.
pub const METHODS: &[Method] = &[
    Method { path: HEALTH_CHECK, streams: false },
    Method { path: "/grpc.health.v1.Health/Watch", streams: true },
    Method { path: "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", streams: true },
    // What older clients ask, the one of grpcio among them.
    Method { path: "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", streams: true },
];

/// What can be asked for its health, and is told by reflection.
const SERVICES: &[&str] = &[
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// The largest message of a caller, in bytes: these services are asked for names.
const MAX_MESSAGE_BYTES: usize = 4 * 1024;

/// The services behind their layer. When `closing` is cancelled the listener goes, and streams end.
///
/// # Errors
/// The descriptors of a service cannot be read.
pub fn router(app: App, closing: CancellationToken) -> Result<Router> {
    let health = HealthServer::new(GrpcHealth::new(app.stopping.clone()));
    let (v1, v1alpha) = (reflection().build_v1(), reflection().build_v1alpha());
    let routes = Routes::new(health.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(v1.map_err(Error::internal)?.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(v1alpha.map_err(Error::internal)?.max_decoding_message_size(MAX_MESSAGE_BYTES));
    let calls = Calls::new(app, closing);
    Ok(routes.into_axum_router().layer(from_fn_with_state(calls, calls::middleware)))
}

fn reflection() -> Builder<'static> {
    let sets = [tonic_health::pb::FILE_DESCRIPTOR_SET, v1::FILE_DESCRIPTOR_SET, v1alpha::FILE_DESCRIPTOR_SET];
    let builder = Builder::configure().include_reflection_service(false);
    let builder = sets.into_iter().fold(builder, Builder::register_encoded_file_descriptor_set);
    SERVICES.iter().copied().fold(builder, Builder::with_service_name)
}
