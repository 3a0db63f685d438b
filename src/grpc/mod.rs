//! The gRPC API: its methods and the layer that each call passes through. So far it serves health checks and
//! reflection.
//!
//! ```text
//! calls::middleware   the method is known, deadline, panics, limit of streams, end at the drain, log, metrics
//!   the service       limit of its messages
//! ```

mod calls;
mod health;
mod methods;

use axum::Router;
use axum::middleware::from_fn_with_state;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::pb::{v1, v1alpha};
use tonic_reflection::server::Builder;

use self::calls::Calls;
use self::health::GrpcHealth;
use self::methods::SERVICES;
pub use self::methods::{HEALTH_CHECK, METHODS, Method};
use crate::app::App;
use crate::error::{Error, Result};

/// Largest request message, in bytes: these services only accept names.
const MAX_MESSAGE_BYTES: usize = 4 * 1024;

/// The services behind their layer. Cancelling `closing` means that the listener is closing, and ends all streams.
///
/// # Errors
/// `Internal` if the descriptors of a service cannot be read.
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
