//! A layer made of one function, as `axum::middleware::from_fn`, but without a clone and a box of all layers inside of it
//! for every request. Only the future is boxed: nested types of futures would grow with the power of their number.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::Response;
use futures_util::future::BoxFuture;
use tower::{Layer, Service};

use crate::app::App;

/// The layers inside of a layer, down to the handler.
pub trait InnerService:
    Service<Request, Response = Response, Error = Infallible, Future: Send + 'static>
{
}

impl<S> InnerService for S where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send + 'static>
{
}

/// The future of an answer, which holds that of the layers inside.
pub type AnswerFuture = BoxFuture<'static, Result<Response, Infallible>>;

/// What a layer does around the layers inside of it.
pub trait Around: Send + Sync + 'static {
    /// Begins to answer a request; `inner` is called for it once, or not at all.
    fn call<S: InnerService>(app: &App, request: Request, inner: &mut S) -> AnswerFuture;
}

/// The layer that does what `A` says.
pub fn around<A: Around>(app: &App) -> AroundLayer<A> {
    AroundLayer { app: app.clone(), what: PhantomData }
}

/// Made by `around`.
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

/// A layer with those inside of it.
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
