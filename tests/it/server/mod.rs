//! Connections to the listeners: TLS, time limits, gRPC, and bytes that two programs could interpret differently.

mod early_refusals;
mod grpc;
mod smuggling;
pub mod smuggling_http2;
mod timeouts;
mod tls;
