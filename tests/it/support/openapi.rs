//! The check of every answer of a test's app against the OpenAPI document: the document knows its operation, status,
//! media type and body. In the copy of the schemas that is checked, objects have no fields but those that they name.
//!
//! `make test` also collects which of the document's answers its tests have seen (scripts/check-openapi-seen.sh).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use http_body_util::BodyExt;
use jsonschema::error::ValidationErrorKind;
use jsonschema::{ValidationError, Validator};
use parking_lot::Mutex;
use salebell::error::brief;
use salebell::http::document;
use salebell::http::middleware::rate_limit::class_of;
use salebell::http::openapi::Version;
use serde_json::{Map, Value, json};

/// The document, in version 3.1.
pub static DOCUMENT: LazyLock<Value> = LazyLock::new(|| document(Version::V3_1).unwrap());

/// Methods that the document can describe.
static METHODS: [&str; 7] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];

/// Largest body in bytes that is checked. A larger one, and one that is streamed, is passed on as it is.
const MAX_BODY: u64 = 8 << 20;

/// Body in bytes beyond which the check takes long.
const LONG_BODY: usize = 16 << 10;

/// Maximum number of faults that are told of one value.
const MAX_FAULTS: usize = 10;

/// An operation of the document.
#[derive(Clone, Copy)]
pub struct Operation {
    pub method: &'static str,
    pub path: &'static str,
    /// What the document says of it.
    pub stated: &'static Value,
}

impl Operation {
    pub fn id(&self) -> &'static str {
        self.stated["operationId"].as_str().unwrap_or_default()
    }

    /// Its answers by status, without references.
    pub fn answers(&self) -> impl Iterator<Item = (&'static str, &'static Value)> + use<> {
        let answers = self.stated["responses"].as_object().into_iter().flatten();
        answers.map(|(status, answer)| (status.as_str(), resolve(answer)))
    }

    /// Scopes that a token must have; `None` if no token is needed.
    pub fn scopes(&self) -> Option<BTreeSet<&'static str>> {
        let demands = self.stated["security"].as_array().filter(|demands| !demands.is_empty())?;
        let schemes = demands.iter().filter_map(Value::as_object).flat_map(Map::values);
        Some(schemes.filter_map(Value::as_array).flatten().filter_map(Value::as_str).collect())
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// Every operation of the document.
pub fn operations() -> impl Iterator<Item = Operation> {
    let paths = DOCUMENT["paths"].as_object().expect("the document has paths");
    paths.iter().flat_map(|(path, item)| {
        METHODS.iter().filter_map(move |method| {
            let stated = item.get(method.to_ascii_lowercase())?;
            Some(Operation { method, path, stated })
        })
    })
}

/// What a part of the document is, or refers to.
pub fn resolve(mut part: &'static Value) -> &'static Value {
    while let Some(reference) = part["$ref"].as_str() {
        part = target(&DOCUMENT, reference).unwrap_or_else(|| panic!("{reference} is not in the document"));
    }
    part
}

/// Target of a reference within a document.
pub fn target<'d>(document: &'d Value, reference: &str) -> Option<&'d Value> {
    document.pointer(reference.strip_prefix('#')?)
}

/// Whether a media type is that of a JSON document.
pub fn is_json(media: &str) -> bool {
    media == "application/json" || media.ends_with("+json")
}

/// The operation of a request, and whether it is the HEAD that every GET implies.
fn operation_of(method: &Method, path: &str) -> Option<(Operation, bool)> {
    static OPERATIONS: LazyLock<HashMap<(&str, &str), Operation>> =
        LazyLock::new(|| operations().map(|one| ((one.method, one.path), one)).collect());
    if let Some(operation) = OPERATIONS.get(&(method.as_str(), path)) {
        return Some((*operation, false));
    }
    let implied = OPERATIONS.get(&("GET", path)).filter(|_| *method == Method::HEAD);
    implied.map(|operation| (*operation, true))
}

/// What is wrong with a value, according to a schema of the document.
pub fn faults(schema: &Value, value: &Value) -> Vec<String> {
    static VALIDATORS: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);
    let mut validators = VALIDATORS.lock();
    let validator = validators.entry(schema.to_string()).or_insert_with(|| Arc::new(compile(schema))).clone();
    drop(validators);
    validator.iter_errors(value).take(MAX_FAULTS).map(|error| explain(&error)).collect()
}

fn explain(error: &ValidationError<'_>) -> String {
    let branches: &[Vec<ValidationError<'_>>] = match error.kind() {
        ValidationErrorKind::AnyOf { context }
        | ValidationErrorKind::OneOfNotValid { context }
        | ValidationErrorKind::OneOfMultipleValid { context } => context,
        _ => &[],
    };
    let text = format!("{} {}", error.instance_path(), brief(&error.to_string(), 300));
    let nested: Vec<String> = branches.iter().flatten().take(MAX_FAULTS).map(explain).collect();
    if nested.is_empty() { text } else { format!("{text} [{}]", nested.join("; ")) }
}

/// Validator of a schema whose references lead into the document.
fn compile(schema: &Value) -> Validator {
    static COMPONENTS: LazyLock<Value> = LazyLock::new(|| {
        let schemas = DOCUMENT["components"]["schemas"].as_object().expect("the document has schemas");
        let copy = |close: bool| -> Value {
            schemas.iter().map(|(name, schema)| (name.clone(), closed(schema, close))).collect()
        };
        json!({"schemas": copy(true), "open": copy(false)})
    });
    let root =
        json!({"$ref": "#/checked", "checked": closed(schema, true), "components": COMPONENTS.clone()});
    let validator = jsonschema::options().should_validate_formats(true).build(&root);
    validator.unwrap_or_else(|error| panic!("{error} in {schema}"))
}

/// A schema whose objects refuse fields that they do not name. Branches of a composition, each of which names only some
/// of the fields, stay open (`close` is false for them); the composition is closed.
fn closed(schema: &Value, close: bool) -> Value {
    let Value::Object(members) = schema else { return schema.clone() };
    let has = |name: &str| members.contains_key(name);
    let composed = has("allOf") || (has("properties") && (has("$ref") || has("anyOf") || has("oneOf")));
    let close_branches = close && !composed;
    let member = |name: &str, member: &Value| -> Value {
        match (name, member) {
            ("properties" | "patternProperties" | "$defs", Value::Object(parts)) => {
                parts.iter().map(|(name, part)| (name.clone(), closed(part, true))).collect()
            }
            ("items" | "additionalProperties" | "contains", part) => closed(part, true),
            ("prefixItems", Value::Array(parts)) => parts.iter().map(|part| closed(part, true)).collect(),
            ("allOf" | "anyOf" | "oneOf", Value::Array(parts)) => {
                parts.iter().map(|part| closed(part, close_branches)).collect()
            }
            ("$ref", Value::String(reference)) if !close_branches => {
                reference.replace("#/components/schemas/", "#/components/open/").into()
            }
            _ => member.clone(),
        }
    };
    let mut result: Map<String, Value> =
        members.iter().map(|(name, value)| (name.clone(), member(name, value))).collect();
    if close && !has("additionalProperties") && !has("unevaluatedProperties") {
        if composed {
            result.insert("unevaluatedProperties".to_owned(), false.into());
        } else if has("properties") {
            result.insert("additionalProperties".to_owned(), false.into());
        }
    }
    result.into()
}

/// What is wrong with the answers of an app. Clones share it.
#[derive(Clone, Default)]
pub struct Answers(Arc<Mutex<BTreeSet<String>>>);

impl Answers {
    /// The router with a layer that checks its answers.
    pub fn watch(&self, router: Router) -> Router {
        router.layer(from_fn_with_state(self.clone(), look))
    }

    /// Fails if an answer was wrong.
    pub fn check(&self) {
        let wrong: Vec<String> = self.0.lock().iter().cloned().collect();
        if !wrong.is_empty() && !std::thread::panicking() {
            panic!("the OpenAPI document does not know these answers:\n{}", wrong.join("\n"));
        }
    }
}

/// Checks an answer on its way to the client.
async fn look(State(answers): State<Answers>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let method = request.method().clone();
    // The answer to a preflight is the browser's affair, and no operation.
    let is_preflight =
        method == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let target = brief(request.uri().path_and_query().map_or("", |target| target.as_str()), 200);
    let answer = next.run(request).await;
    // The fallback answers at a path that is not in the table.
    let Some(path) = path else { return answer };
    if is_preflight && answer.status() == StatusCode::NO_CONTENT {
        return answer;
    }
    let (answer, body) = with_json(&method, answer).await;
    let is_long = body.as_ref().is_some_and(|body| body.len() > LONG_BODY);
    let (known_method, known_path) = (method.clone(), path.clone());
    let check = move || {
        let wrong = faults_of_answer(&known_method, &known_path, &answer, body.as_deref());
        (answer, wrong)
    };
    // A long body would hold up the requests of others.
    let (answer, wrong) =
        if is_long { tokio::task::spawn_blocking(check).await.expect("the check ends") } else { check() };
    for fault in wrong {
        let told = format!("{method} {target}: {}: {fault}", answer.status().as_u16());
        // The panic of a task that nobody awaits would be lost.
        record(&format!("wrong {}", told.replace('\n', " ")));
        answers.0.lock().insert(told);
    }
    if let Some((operation, false)) = operation_of(&method, &path) {
        record(&format!("seen {}", name_of(operation, answer.status().as_str())));
    }
    answer
}

/// The answer, and its body if that is JSON that is in memory already.
async fn with_json(method: &Method, answer: Response) -> (Response, Option<Bytes>) {
    let is_in_memory = answer.body().size_hint().exact().is_some_and(|bytes| bytes <= MAX_BODY);
    let has_json = media_of(answer.headers()).is_some_and(|media| is_json(&media));
    if *method == Method::HEAD || !is_in_memory || !has_json {
        return (answer, None);
    }
    let (head, body) = answer.into_parts();
    let bytes = body.collect().await.expect("a body in memory does not break off").to_bytes();
    (Response::from_parts(head, Body::from(bytes.clone())), Some(bytes))
}

/// What the document does not know of an answer. `body` is that of a JSON answer, if it was read.
pub fn faults_of_answer(method: &Method, path: &str, answer: &Response, body: Option<&[u8]>) -> Vec<String> {
    let status = answer.status();
    let Some((operation, _)) = operation_of(method, path) else {
        // The fallback for other methods, or a layer before it.
        let refused = status.is_client_error() || status.is_server_error();
        return if refused { Vec::new() } else { vec!["there is no such operation".to_owned()] };
    };
    let Some((_, stated)) = operation.answers().find(|(known, _)| *known == status.as_str()) else {
        let body = brief(&String::from_utf8_lossy(body.unwrap_or_default()), 300);
        return vec![format!("{} has no such status: {body}", operation.id())];
    };
    let (contents, media) = (stated["content"].as_object(), media_of(answer.headers()));
    let is_head = *method == Method::HEAD;
    let (contents, media) = match (contents.filter(|contents| !contents.is_empty()), media) {
        (None, None) if is_head || answer.body().size_hint().exact() == Some(0) => return Vec::new(),
        (None, media) => return vec![format!("a body of {media:?}, and the document has none")],
        (Some(_), None) if is_head => return Vec::new(),
        // By tus and by the draft a created file has no body yet, which OpenAPI cannot say.
        (Some(_), None) if stated["x-body-optional"] == true => return Vec::new(),
        (Some(_), None) => return vec!["no media type, and the document has a body".to_owned()],
        (Some(contents), Some(media)) => (contents, media),
    };
    let Some((name, content)) = content_of(contents, &media) else {
        return vec![format!("{media} is none of {:?}", contents.keys().collect::<Vec<_>>())];
    };
    match body {
        Some(body) if is_json(name) => match serde_json::from_slice(body) {
            Ok(value) if content.get("schema").is_some() => faults(&content["schema"], &value),
            Ok(_) => vec![format!("{name} has no schema")],
            Err(error) => vec![format!("the body is not JSON: {error}")],
        },
        _ => Vec::new(),
    }
}

/// Media type of an answer, without parameters.
fn media_of(headers: &HeaderMap) -> Option<String> {
    Some(without_parameters(headers.get(header::CONTENT_TYPE)?.to_str().unwrap_or_default()))
}

fn without_parameters(media: &str) -> String {
    media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// What a list of contents says of a media type: under its name, or under a range such as `image/*`.
fn content_of<'c>(contents: &'c Map<String, Value>, media: &str) -> Option<(&'c str, &'c Value)> {
    let kind = format!("{}/*", media.split('/').next().unwrap_or_default());
    [media, kind.as_str(), "*/*"].into_iter().find_map(|wanted| {
        let found = contents.iter().find(|(name, _)| without_parameters(name) == wanted);
        found.map(|(name, content)| (name.as_str(), content))
    })
}

/// Name of an answer in the record. What every operation can answer comes from the layers around them all, and counts
/// once.
fn name_of(operation: Operation, status: &str) -> String {
    static OF_ALL: LazyLock<BTreeSet<&str>> = LazyLock::new(|| {
        let statuses = |one: Operation| one.answers().map(|(status, _)| status).collect::<BTreeSet<_>>();
        // Some requests count for no limit, and are refused for none.
        let limited =
            operations().filter(|one| class_of(&one.method.parse().unwrap(), one.path, None).is_some());
        limited.map(statuses).reduce(|all, one| &all & &one).unwrap_or_default()
    });
    let who = if OF_ALL.contains(status) { "every" } else { operation.id() };
    format!("{who} {status}")
}

/// Record of what the tests have seen: `known` and each of the document's answers, `seen` and one that was given,
/// `wrong` and what is wrong with one.
struct Record {
    file: File,
    lines: HashSet<String>,
}

/// Adds a line to the record that `make test` names, if it is new. Many threads and processes append at once: each line
/// is a single write.
fn record(line: &str) {
    static RECORD: LazyLock<Option<Mutex<Record>>> = LazyLock::new(|| {
        let name = std::env::var_os("SALEBELL_TEST_ANSWERS")?;
        let file = OpenOptions::new().append(true).create(true).open(&name);
        let mut file = file.unwrap_or_else(|error| panic!("SALEBELL_TEST_ANSWERS={name:?}: {error}"));
        let known: BTreeSet<String> = operations()
            .flat_map(|operation| operation.answers().map(move |(status, _)| name_of(operation, status)))
            .collect();
        let known: String = known.iter().map(|name| format!("known {name}\n")).collect();
        file.write_all(known.as_bytes()).unwrap();
        Some(Mutex::new(Record { file, lines: HashSet::new() }))
    });
    let Some(record) = RECORD.as_ref() else { return };
    let mut record = record.lock();
    if record.lines.insert(line.to_owned()) {
        record.file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}
