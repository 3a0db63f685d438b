//! What the types of a handler tell about its operation: each extractor adds what it reads and refuses, the answer
//! what it sends.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Content, Ref, RefOr, Required};
use utoipa::{PartialSchema, ToSchema};

use super::shared::{self, FileBytes};

/// Statuses that the layers around every handler can answer with.
const LAYERS: [StatusCode; 7] = [
    StatusCode::BAD_REQUEST,
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::URI_TOO_LONG,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    StatusCode::INTERNAL_SERVER_ERROR,
    StatusCode::SERVICE_UNAVAILABLE,
];

/// An extractor or an answer, which adds its part to the outline of an operation.
pub trait Describe {
    fn describe(outline: &mut Outline);
}

/// A handler: an async function whose arguments and result can be described.
pub trait Handler<Arguments> {
    fn outline(&self) -> Outline;
}

macro_rules! handler {
    ($($argument:ident)*) => {
        impl<F, Answer, $($argument,)*> Handler<($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> Answer,
            Answer: Future<Output: Describe>,
            $($argument: Describe,)*
        {
            fn outline(&self) -> Outline {
                let mut outline = Outline::default();
                $($argument::describe(&mut outline);)*
                Answer::Output::describe(&mut outline);
                outline
            }
        }
    };
}
handler!();
handler!(A);
handler!(A B);
handler!(A B C);
handler!(A B C D);
handler!(A B C D E);
handler!(A B C D E G);
handler!(A B C D E G H);

/// An operation of the OpenAPI document as far as types tell it, and the schemas that it refers to.
pub struct Outline {
    parameters: Vec<Parameter>,
    body: Option<RequestBody>,
    answers: BTreeMap<String, RefOr<Response>>,
    /// Headers that any answer may have.
    headers: Vec<&'static str>,
    with_token: bool,
    is_limited: bool,
    pub schemas: Vec<(String, RefOr<Schema>)>,
}

impl Default for Outline {
    fn default() -> Self {
        let mut outline = Outline {
            parameters: Vec::new(),
            body: None,
            answers: BTreeMap::new(),
            headers: shared::EVERYWHERE.into_iter().chain(shared::OF_LIMITED).collect(),
            with_token: false,
            is_limited: true,
            schemas: Vec::new(),
        };
        outline.refuse(&LAYERS);
        outline
    }
}

impl Outline {
    /// Adds a parameter.
    pub fn parameter(&mut self, parameter: Parameter) {
        self.parameters.push(parameter);
    }

    /// Adds an optional request header whose value is a text.
    pub fn request_header(&mut self, name: &str, description: &str) {
        let parameter = ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(description))
            .schema(Some(String::schema()));
        self.parameters.push(parameter.build());
    }

    /// Sets the body of the request, by its media types.
    pub fn body<T: ToSchema>(&mut self, media_types: &[&str]) {
        let schema = self.schema::<T>();
        let body = RequestBody::builder().required(Some(Required::True));
        let body = media_types.iter().fold(body, |body, media_type| {
            body.content(*media_type, Content::builder().schema(Some(schema.clone())).build())
        });
        self.body = Some(body.build());
    }

    /// Adds an answer with a JSON body.
    pub fn answer<T: ToSchema>(&mut self, status: StatusCode, description: &str, headers: &[&str]) {
        let content = Content::builder().schema(Some(self.schema::<T>())).build();
        let answer = ResponseBuilder::new().description(description).content("application/json", content);
        self.add_answer(status, answer, headers);
    }

    /// Adds an answer without a body.
    pub fn empty_answer(&mut self, status: StatusCode, description: &str, headers: &[&str]) {
        self.add_answer(status, ResponseBuilder::new().description(description), headers);
    }

    fn add_answer(&mut self, status: StatusCode, answer: ResponseBuilder, headers: &[&str]) {
        let answer =
            headers.iter().fold(answer, |answer, name| answer.header_ref(*name, shared::header(name)));
        self.answers.insert(status.as_str().to_owned(), answer.build().into());
    }

    /// Adds refusals, which are problem documents.
    pub fn refuse(&mut self, statuses: &[StatusCode]) {
        for status in statuses {
            let answer = Ref::from_response_name(shared::problem_name(*status));
            self.answers.entry(status.as_str().to_owned()).or_insert(answer.into());
        }
    }

    /// Notes that the operation needs a token.
    pub fn require_token(&mut self) {
        self.with_token = true;
        self.refuse(&[StatusCode::UNAUTHORIZED]);
    }

    /// Notes that the operation takes an `Idempotency-Key`.
    pub fn allow_repetition(&mut self) {
        let key = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(255));
        let parameter = ParameterBuilder::new()
            .name("Idempotency-Key")
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some("A unique key: a repetition with the same key gets the first answer."))
            .schema(Some(key));
        self.parameters.push(parameter.build());
        self.refuse(&[StatusCode::CONFLICT, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNPROCESSABLE_ENTITY]);
        self.headers.push("Idempotency-Replayed");
    }

    /// Registers a type and all that it refers to; returns a reference to it.
    pub fn schema<T: ToSchema>(&mut self) -> RefOr<Schema> {
        T::schemas(&mut self.schemas);
        self.schemas.push((T::name().into_owned(), T::schema()));
        Ref::from_schema_name(T::name()).into()
    }

    /// Notes that requests count for no limit (`server.rate_limits`).
    pub fn exempt_from_limits(&mut self) {
        self.is_limited = false;
    }

    /// Removes what only requests that count for a limit get. An upload is still refused with 429 beside too many others.
    fn remove_limits(&mut self, method: &Method) {
        self.headers.retain(|name| !shared::OF_LIMITED.contains(name));
        if method.is_safe() {
            self.answers.remove(StatusCode::TOO_MANY_REQUESTS.as_str());
        }
        // The shared problem documents have the headers of a limit.
        for (status, answer) in &mut self.answers {
            if let (RefOr::Ref(_), Ok(status)) = (&*answer, status.parse()) {
                *answer = shared::problem(status, &[]).into();
            }
        }
    }

    /// The whole operation: `stated` is what the handler's attribute says, which wins over its types.
    pub fn complete(mut self, method: &Method, mut stated: Operation) -> Operation {
        // A token without the scope; or a browser that another site has made send a change.
        if self.with_token && (stated.security.is_some() || !method.is_safe()) {
            self.refuse(&[StatusCode::FORBIDDEN]);
        }
        if !self.is_limited {
            self.remove_limits(method);
        }
        let mut parameters: Vec<RefOr<Parameter>> = self.parameters.into_iter().map(RefOr::T).collect();
        parameters.extend(stated.parameters.take().into_iter().flatten());
        stated.parameters = Some(parameters).filter(|parameters| !parameters.is_empty());
        // A merge patch is accepted elsewhere as well, but only a PATCH means one.
        if let Some(body) = &mut self.body
            && *method != Method::PATCH
        {
            body.content.remove("application/merge-patch+json");
        }
        stated.request_body = stated.request_body.or(self.body.map(RefOr::T));
        // Of bytes there may be none.
        if let Some(RefOr::T(body)) = &mut stated.request_body
            && body.content.values().all(is_bytes)
        {
            body.required = None;
        }
        for (status, answer) in self.answers {
            stated.responses.responses.entry(status).or_insert(answer);
        }
        for (status, answer) in &mut stated.responses.responses {
            let RefOr::T(answer) = answer else { continue };
            if status == "429" {
                let retry_after = || RefOr::Ref(shared::header("Retry-After"));
                answer.headers.entry("Retry-After".to_owned()).or_insert_with(retry_after);
            }
            for name in &self.headers {
                answer.headers.entry((*name).to_owned()).or_insert_with(|| RefOr::Ref(shared::header(name)));
            }
        }
        if self.with_token {
            let token = SecurityRequirement::new(shared::TOKEN, Vec::<String>::new());
            stated.security.get_or_insert_with(|| vec![token]);
        }
        stated
    }
}

fn is_bytes(content: &RefOr<Content>) -> bool {
    matches!(content, RefOr::T(content) if content.schema == Some(FileBytes::schema()))
}
