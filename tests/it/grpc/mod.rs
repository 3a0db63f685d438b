//! The services of `proto/`: reports and the catalogue over gRPC. `server::grpc` has the listener.

mod auth_coverage;
mod games;
mod real_client;
mod reports;
mod reports_in_trouble;
