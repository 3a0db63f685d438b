//! A layer made of one function, like `axum::middleware::from_fn`, but without cloning and boxing all inner layers for
//! every request. Only the future is boxed, because the size of nested future types would grow exponentially with the
//! number of layers.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::Response;
use futures_util::future::BoxFuture;
use tower::{Layer, Service};

use crate::app::App;

/// The layers inside a layer, down to the handler.
pub trait InnerService:
    Service<Request, Response = Response, Error = Infallible, Future: Send + 'static>
{
}

impl<S> InnerService for S where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send + 'static>
{
}

/// Future of a response, which contains that of the inner layers.
pub type AnswerFuture = BoxFuture<'static, Result<Response, Infallible>>;

/// Behavior of a layer around its inner layers.
pub trait Around: Send + Sync + 'static {
    /// Handles a request; `inner` is called once, or not at all.
    fn call<S: InnerService>(app: &App, request: Request, inner: &mut S) -> AnswerFuture;
}

/// Creates the layer that behaves as `A`.
pub fn around<A: Around>(app: &App) -> AroundLayer<A> {
    AroundLayer { app: app.clone(), what: PhantomData }
}

/// A layer that behaves as `A`; [`around`] creates it.
pub struct AroundLayer<A> {
    app: App,
    what: PhantomData<A>,
}

impl<A> Clone for AroundLayer<A> {
    fn clone(&self) -> Self {
        AroundLayer { app: self.app.clone(), what: PhantomData }
    }
}

impl<A: Around, S> Layer<S> for AroundLayer<A> {
    type Service = AroundService<A, S>;

    fn layer(&self, inner: S) -> AroundService<A, S> {
        AroundService { layer: self.clone(), inner }
    }
}

/// The service of a layer around its inner layers.
pub struct AroundService<A, S> {
    layer: AroundLayer<A>,
    inner: S,
}

impl<A, S: Clone> Clone for AroundService<A, S> {
    fn clone(&self) -> Self {
        AroundService { layer: self.layer.clone(), inner: self.inner.clone() }
    }
}

impl<A: Around, S: InnerService> Service<Request> for AroundService<A, S> {
    type Response = Response;
    type Error = Infallible;
    type Future = AnswerFuture;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> AnswerFuture {
        A::call(&self.layer.app, request, &mut self.inner)
    }
}
