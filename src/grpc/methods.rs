//! Methods and services of the gRPC API.

use crate::app::request_limit::Class;

/// A method of the gRPC API.
pub struct Method {
    pub path: &'static str,
    pub access: Access,
    pub shape: Shape,
}

impl Method {
    /// The class of requests that its calls count as, together with those of HTTP.
    pub fn class(&self) -> Class {
        match self.path {
            REPORT => Class::Write,
            // The whole history, in as many queries as it has pages.
            SEARCH | LIST_PRICES => Class::Heavy,
            _ => Class::Read,
        }
    }
}

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone, as often as they like: load balancers have no token, and reflection only returns what is public in this
    /// repository.
    Unlimited,
    /// Anyone, within `server.rate_limits`: the catalogue is readable without a token.
    Open,
    /// A caller with this scope, within `server.rate_limits`.
    Scope(&'static str),
}

/// What a call consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One message each way.
    Unary,
    /// A stream that stays open until its client ends it.
    Watch,
    /// A stream of messages to the server, and one response.
    Upload,
    /// One message, and a stream of responses that ends by itself.
    Download,
}

/// Path that load balancers call; it is also served on connections that accept nothing else.
pub const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// Path of price reports, which a caller may send whose API key the database cannot confirm at the moment.
pub(super) const REPORT: &str = "/salebell.v1.Prices/Report";

const SEARCH: &str = "/salebell.v1.Games/Search";
const LIST_PRICES: &str = "/salebell.v1.Games/ListPrices";

const fn method(path: &'static str, access: Access, shape: Shape) -> Method {
    Method { path, access, shape }
}

/// Every method; any other path is refused.
pub const METHODS: &[Method] = &[
    method(HEALTH_CHECK, Access::Unlimited, Shape::Unary),
    method("/grpc.health.v1.Health/Watch", Access::Unlimited, Shape::Watch),
    method("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Access::Unlimited, Shape::Watch),
    // Older clients call this version, among them that of grpcio.
    method("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Access::Unlimited, Shape::Watch),
    method("/salebell.v1.Games/Get", Access::Open, Shape::Unary),
    method("/salebell.v1.Games/ListOffers", Access::Open, Shape::Unary),
    method(LIST_PRICES, Access::Open, Shape::Download),
    method(SEARCH, Access::Open, Shape::Unary),
    method("/salebell.v1.Prices/GetBatch", Access::Scope("prices:write"), Shape::Unary),
    method(REPORT, Access::Scope("prices:write"), Shape::Upload),
];

/// Services whose health can be queried, and which reflection lists.
pub(super) const SERVICES: &[&str] = &[
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "salebell.v1.Games",
    "salebell.v1.Prices",
];
