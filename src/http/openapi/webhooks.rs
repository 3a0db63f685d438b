//! Webhooks of the document: the messages that a channel receives, and what its answers mean.

use serde_json::{Value, json};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{Components, Content, Paths, Ref, RefOr, Required};
use utoipa::{PartialSchema, ToSchema};

use super::shared::add_schemas;
use crate::domain::ids::DeliveryId;
use crate::domain::price::TransitionKind;
use crate::outbound::webhook::{SaleData, TEST_KIND, TestData, WebhookMessage};

/// Transitions that a notice can be about, each with the summary of its message. All others leave the offer without a
/// sale.
const SALES: [(TransitionKind, &str); 5] = [
    (TransitionKind::SaleStarted, "Reports that a sale has started."),
    (
        TransitionKind::SaleResumed,
        "Reports that a sale is on again after an interruption, if the watch has not rung for it before.",
    ),
    (
        TransitionKind::SaleDeepened,
        "Reports that a sale has a lower price, or is on again below its best one after an interruption.",
    ),
    (
        TransitionKind::SaleReduced,
        "Reports that a sale has a higher price, but a larger cut as well, or a new low of the paid prices.",
    ),
    (
        TransitionKind::RegularChanged,
        "Reports that a sale has a larger cut, because the regular price was raised.",
    ),
];

const SALE_DESCRIPTION: &str = "Sent to the channels of a watch for each of its notices. `timestamp` is \
    the time of the notice; the price and the time of its observation are those at the time of sending. \
    A delivery whose price no longer matches the watch is cancelled.";

const TEST_SUMMARY: &str = "Reports nothing: it tests the channel.";

const TEST_DESCRIPTION: &str = "Sent by `POST /v1/channels/{id}/test`, once, also to a disabled channel. \
    Its result is in the response to that request, and has no other effect on the channel.";

/// Webhooks by the kinds of their messages. They refer to what `add_to` adds.
pub fn webhooks() -> Paths {
    let mut paths = Paths::new();
    for (transition, summary) in SALES {
        let kind = kind_of(transition);
        let operation = operation(&kind, summary, SALE_DESCRIPTION);
        let operation = sale_answers()
            .into_iter()
            .fold(operation, |operation, (status, answer)| operation.response(status, answer));
        paths.add_path_operation(&kind, vec![HttpMethod::Post], operation);
    }
    let test = operation(TEST_KIND, TEST_SUMMARY, TEST_DESCRIPTION)
        .response("2XX", answer("The channel works. The body of the answer is ignored."))
        .response("default", answer("The test has failed, as it has without an answer within 15 seconds."));
    paths.add_path_operation(TEST_KIND, vec![HttpMethod::Post], test);
    paths
}

/// Adds the schemas of the messages and the headers to a document's components.
pub fn add_to(components: &mut Components) {
    for header in headers() {
        components.parameters.insert(header.name.clone(), header.into());
    }
    for (transition, _) in SALES {
        add_message::<SaleData<'_>>(components, &kind_of(transition), sale());
    }
    let test = json!({
        "channel_id": "01a0b6f2-3333-7d3e-8a4b-1c2d3e4f5a6b",
        "message": "Salebell can reach this channel.",
    });
    add_message::<TestData>(components, TEST_KIND, test);
}

/// Kind and version of the message about a transition.
fn kind_of(transition: TransitionKind) -> String {
    format!("{}.v1", transition.name())
}

/// Adds the schema of the messages of one kind, which has the name of that kind, and those that it refers to.
fn add_message<D: ToSchema>(components: &mut Components, kind: &str, data: Value) {
    let mut schema = WebhookMessage::<D>::schema();
    if let RefOr::T(Schema::Object(message)) = &mut schema {
        let only = ObjectBuilder::new().schema_type(Type::String).enum_values(Some([kind]));
        message.properties.insert("type".to_owned(), only.into());
        let timestamp = "2026-11-29T10:00:01.250000Z";
        message.example = Some(json!({"type": kind, "timestamp": timestamp, "data": data}));
    }
    let mut schemas = vec![(kind.to_owned(), schema), (D::name().into_owned(), D::schema())];
    D::schemas(&mut schemas);
    add_schemas(components, schemas);
}

/// Example of `data` of a sale.
fn sale() -> Value {
    json!({
        "notice_id": "01a0b6f2-5555-7d3e-8a4b-1c2d3e4f5a6b",
        "watch_id": "01a0b6f2-1111-7d3e-8a4b-1c2d3e4f5a6b",
        "sale_id": "01a0b6f2-6666-7d3e-8a4b-1c2d3e4f5a6b",
        "game": {"id": "01a0b6f2-0f5c-7d3e-8a4b-1c2d3e4f5a6b", "title": "The Witcher® 3: Wild Hunt"},
        "offer": {
            "id": "01a0b6f2-2222-7d3e-8a4b-1c2d3e4f5a6b",
            "store": {"slug": "gog-com", "name": "GOG.com"},
            "region": "DE",
            "platform": "windows",
        },
        "price": {"amount": "9.99", "currency": "EUR"},
        "regular_price": {"amount": "49.99", "currency": "EUR"},
        "cut": 80,
        "new_low": true,
        "observed_at": "2026-11-29T09:59:58Z",
        "url": "https://www.gog.com/en/game/the_witcher_3_wild_hunt",
        "sale_ends_at": "2026-12-02T10:00:00Z",
    })
}

/// The request that sends a message.
fn operation(kind: &str, summary: &str, description: &str) -> OperationBuilder {
    let content = Content::builder().schema(Some(Ref::from_schema_name(kind))).build();
    let body = RequestBody::builder().required(Some(Required::True)).content("application/json", content);
    let operation = OperationBuilder::new()
        .operation_id(Some(format!("receive_{}", kind.replace('.', "_"))))
        .tag("channels")
        .summary(Some(summary))
        .description(Some(description))
        .request_body(Some(body.build()));
    headers().into_iter().fold(operation, |operation, header| {
        operation.parameter_ref(Ref::new(format!("#/components/parameters/{}", header.name)))
    })
}

/// Headers of each message.
fn headers() -> [Parameter; 4] {
    let header = |name: &str, required: Required, description: &str, schema: RefOr<Schema>| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(required)
            .description(Some(description))
            .schema(Some(schema))
            .build()
    };
    let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
    let signatures = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some("^v1,[0-9A-Za-z+/]{43}=( v1,[0-9A-Za-z+/]{43}=)?$"))
        .examples([json!("v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=")]);
    let trace = ObjectBuilder::new()
        .schema_type(Type::String)
        .examples([json!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]);
    [
        header(
            "webhook-id",
            Required::True,
            "Id of the delivery, the same for each of its attempts: a receiver may drop one that it has \
                seen. Each test has an id of its own.",
            DeliveryId::schema(),
        ),
        header(
            "webhook-timestamp",
            Required::True,
            "Time of this attempt, in seconds since 1970.",
            seconds.into(),
        ),
        header(
            "webhook-signature",
            Required::True,
            "`v1,` and the HMAC-SHA256 of `{webhook-id}.{webhook-timestamp}.{body}` in base64, with the \
                secret of the channel. For 24 hours after the secret was rotated there are two, \
                separated by a space, of which one must match.",
            signatures.into(),
        ),
        header(
            "traceparent",
            Required::False,
            "W3C trace context of the report that caused the message, if there was one.",
            trace.into(),
        ),
    ]
}

/// What the worker makes of the receiver's answers to a message about a sale, by their statuses.
fn sale_answers() -> [(&'static str, Response); 5] {
    let later = |description: &str| {
        let wait = HeaderBuilder::new()
            .description(Some(
                "Seconds, or an HTTP date: the earliest time of the next attempt, up to 24 hours beyond \
                    the plan.",
            ))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
            .example(Some(json!("120")));
        ResponseBuilder::new().description(description).header("Retry-After", wait.build()).build()
    };
    [
        ("2XX", answer("The message has arrived. The body of the answer is ignored.")),
        ("3XX", later("The attempt has failed: redirects are not followed. It is retried like others.")),
        (
            "410",
            answer(
                "The receiver wants no more messages: the delivery is dead, and the channel is disabled \
                    until `POST /v1/channels/{id}/recover`.",
            ),
        ),
        ("429", later("The receiver has had too many messages for now. The attempt is retried like others.")),
        (
            "default",
            later(
                "The attempt has failed, as it has without an answer within 15 seconds. The delivery is \
                    retried after 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h and 24 h (± 20 %), and \
                    is dead after that. A channel is disabled after five days without a success.",
            ),
        ),
    ]
}

fn answer(description: &str) -> Response {
    ResponseBuilder::new().description(description).build()
}
