//! Methods and services of the gRPC API.

/// A method of the gRPC API.
pub struct Method {
    pub path: &'static str,
    /// Whether the method is a stream, which stays open until its client ends it.
    pub streams: bool,
}

/// Path that load balancers call; it is also served on connections that accept nothing else.
pub const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// Every method; any other path is refused. None requires a token: load balancers have none, and reflection only
/// returns what is public in this repository.
pub const METHODS: &[Method] = &[
    Method { path: HEALTH_CHECK, streams: false },
    Method { path: "/grpc.health.v1.Health/Watch", streams: true },
    Method { path: "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", streams: true },
    // Older clients call this version, among them that of grpcio.
    Method { path: "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", streams: true },
];

/// Services whose health can be queried, and which reflection lists.
pub(super) const SERVICES: &[&str] = &[
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];
