//! What the HTTP and the gRPC API share: the client and the token of a request, the pace of its body, its
//! `Idempotency-Key`, and the parameters and pages of lists.

pub mod bearer;
pub mod catalogue;
pub mod client;
pub mod hang_up;
pub mod history;
pub mod idempotency;
pub mod paced_body;
pub mod page;
pub mod parameters;
pub mod request_state;
