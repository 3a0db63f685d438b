//! The gRPC API: its methods and the layer that each call passes through. It serves reports and the catalogue
//! (`proto/`), health checks and reflection.
//!
//! ```text
//! calls::middleware   the method is known, deadline, panics, limit of streams, end at the drain, log, metrics
//!   admission         the token and its scope, server.rate_limits, the pace of the request
//!     the service     limit of its messages
//! ```

mod admission;
mod calls;
mod convert;
mod games;
mod health;
mod methods;
mod pb;
mod prices;
pub mod reports;

use axum::Router;
use axum::middleware::from_fn_with_state;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::pb::{v1, v1alpha};
use tonic_reflection::server::Builder;

use self::calls::Calls;
use self::games::GamesService;
use self::health::GrpcHealth;
use self::methods::SERVICES;
pub use self::methods::{Access, HEALTH_CHECK, METHODS, Method, Shape};
use self::pb::DESCRIPTORS;
use self::pb::games_server::GamesServer;
use self::pb::prices_server::PricesServer;
use self::prices::PricesService;
use crate::app::App;
use crate::error::{Error, Result};

/// Largest request message of health checks and reflection, in bytes: these services only accept names.
const MAX_NAME_BYTES: usize = 4 * 1024;
/// Largest request message of the other services, in bytes.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// Largest response message, in bytes: clients refuse larger ones unless they are told otherwise.
const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;

/// The services behind their layer. Cancelling `closing` means that the listener is closing, and ends all streams.
///
/// # Errors
/// `Internal` if the descriptors of a service cannot be read.
pub fn router(app: App, closing: CancellationToken) -> Result<Router> {
    let health = HealthServer::new(GrpcHealth::new(app.stopping.clone()));
    let (v1, v1alpha) = (reflection().build_v1(), reflection().build_v1alpha());
    let prices = PricesServer::new(PricesService::new(app.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_RESPONSE_BYTES);
    let games = GamesServer::new(GamesService::new(app.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_RESPONSE_BYTES);
    let routes = Routes::new(health.max_decoding_message_size(MAX_NAME_BYTES))
        .add_service(v1.map_err(Error::internal)?.max_decoding_message_size(MAX_NAME_BYTES))
        .add_service(v1alpha.map_err(Error::internal)?.max_decoding_message_size(MAX_NAME_BYTES))
        .add_service(prices)
        .add_service(games);
    let calls = Calls::new(app, closing);
    Ok(routes.into_axum_router().layer(from_fn_with_state(calls, calls::middleware)))
}

fn reflection() -> Builder<'static> {
    let sets = [
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        v1::FILE_DESCRIPTOR_SET,
        v1alpha::FILE_DESCRIPTOR_SET,
        DESCRIPTORS,
    ];
    let builder = Builder::configure().include_reflection_service(false);
    let builder = sets.into_iter().fold(builder, Builder::register_encoded_file_descriptor_set);
    SERVICES.iter().copied().fold(builder, Builder::with_service_name)
}
