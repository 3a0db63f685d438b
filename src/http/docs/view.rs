//! The document as the reference shows it.

use askama::Template;
use serde_json::Value;

use super::shape::{Shape, plain};
use super::text::{Line, Prose};
use crate::error::{Error, Kind, Result};
use crate::http::pages::Marked;
use crate::http::problems::explanations;

/// Methods of operations, in the order of the reference.
const METHODS: [&str; 8] = ["get", "head", "options", "post", "put", "patch", "delete", "trace"];

/// Maximum number of references that are followed one after the other.
const MAX_REFERENCES: usize = 16;

const PROBLEM: &str = "application/problem+json";

#[derive(Template)]
#[template(path = "docs.html")]
pub struct ReferencePage<'a> {
    pub title: &'a str,
    pub version: &'a str,
    pub description: Option<Prose<'a>>,
    /// How a token is sent.
    pub tokens: Vec<Prose<'a>>,
    pub groups: Vec<Group<'a>>,
    pub webhooks: Vec<Operation<'a>>,
    pub refusals: Vec<NamedAnswer<'a>>,
    pub headers: Vec<Entry<'a>>,
    pub schemas: Vec<NamedSchema<'a>>,
}

/// The operations of a tag.
pub struct Group<'a> {
    pub name: &'a str,
    pub description: Option<Prose<'a>>,
    pub operations: Vec<Operation<'a>>,
}

#[derive(Template)]
#[template(path = "operation.html")]
pub struct Operation<'a> {
    pub id: &'a str,
    pub method: String,
    /// The path, or the name of the webhook.
    pub path: &'a str,
    pub summary: Marked<'a>,
    pub description: Option<Prose<'a>>,
    pub is_deprecated: bool,
    pub token: Line<'a>,
    pub parameters: Vec<Entry<'a>>,
    pub body: Option<Body<'a>>,
    pub answers: Vec<Answer<'a>>,
}

/// A parameter or a header.
pub struct Entry<'a> {
    pub name: &'a str,
    /// `path`, `query` or `header`; empty for a header of an answer.
    pub place: &'a str,
    pub is_required: bool,
    pub description: Option<Prose<'a>>,
    pub shape: Shape<'a>,
    pub example: Option<String>,
}

/// The body of a request.
pub struct Body<'a> {
    pub is_required: bool,
    pub description: Option<Prose<'a>>,
    pub contents: Vec<Content<'a>>,
}

/// A body of a media type.
#[derive(Template)]
#[template(path = "content.html")]
pub struct Content<'a> {
    pub media_type: &'a str,
    pub shape: Shape<'a>,
    /// Lines of an example.
    pub example: Option<Vec<String>>,
}

#[derive(Template)]
#[template(path = "answer.html")]
pub struct Answer<'a> {
    pub status: &'a str,
    /// Name of the shared answer that it is, which is shown once for all operations.
    pub shared: Option<&'a str>,
    pub description: Option<Prose<'a>>,
    /// Kinds of problems of the answer.
    pub kinds: Vec<Kind>,
    /// Names of headers that many answers have, which are shown once.
    pub shared_headers: Vec<&'a str>,
    pub headers: Vec<Entry<'a>>,
    pub contents: Vec<Content<'a>>,
}

/// An answer that many operations share.
pub struct NamedAnswer<'a> {
    pub name: &'a str,
    pub answer: Answer<'a>,
    /// Lines of an example of each kind of problem.
    pub examples: Vec<(Kind, Vec<String>)>,
}

pub struct NamedSchema<'a> {
    pub name: &'a str,
    pub shape: Shape<'a>,
    pub example: Option<Vec<String>>,
}

/// Makes the page of a document.
///
/// # Errors
/// `Internal` if an example cannot be written as JSON, which does not occur.
pub fn reference(document: &Value) -> Result<ReferencePage<'_>> {
    let reader = Reader(document);
    let info = &document["info"];
    let operations: Vec<(Vec<&str>, Operation)> = reader.operations(&document["paths"]).collect();
    let mut groups: Vec<Group> = items(&document["tags"])
        .map(|tag| Group { name: text(&tag["name"]), description: description(tag), operations: Vec::new() })
        .collect();
    // An operation is shown once; without a tag that the document describes, in a group at the end.
    let mut others = Group { name: "other", description: None, operations: Vec::new() };
    for (tags, operation) in operations {
        let group = groups.iter_mut().find(|group| tags.first() == Some(&group.name));
        group.unwrap_or(&mut others).operations.push(operation);
    }
    groups.push(others);
    groups.retain(|group| !group.operations.is_empty());
    let components = &document["components"];
    let refusals: Result<Vec<NamedAnswer>> =
        members(&components["responses"]).map(|(name, answer)| reader.named_answer(name, answer)).collect();
    Ok(ReferencePage {
        title: text(&info["title"]),
        version: text(&info["version"]),
        description: description(info),
        tokens: members(&components["securitySchemes"])
            .filter_map(|(_, scheme)| description(reader.resolve(scheme)))
            .collect(),
        groups,
        webhooks: reader.operations(&document["webhooks"]).map(|(_, operation)| operation).collect(),
        refusals: refusals?,
        headers: members(&components["headers"])
            .map(|(name, header)| reader.entry(name, reader.resolve(header)))
            .collect(),
        schemas: members(&components["schemas"])
            .map(|(name, schema)| NamedSchema {
                name,
                shape: Shape::new(schema),
                example: own_example(schema).map(|example| lines_of(example, true)),
            })
            .collect(),
    })
}

/// A document whose references are followed.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a Value);

impl<'a> Reader<'a> {
    /// What a part of the document is, or refers to.
    fn resolve(self, mut part: &'a Value) -> &'a Value {
        for _ in 0..MAX_REFERENCES {
            let pointer = part["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
            let Some(target) = pointer.and_then(|pointer| self.0.pointer(pointer)) else { break };
            part = target;
        }
        part
    }

    /// Operations of paths or webhooks, with their tags.
    fn operations(self, paths: &'a Value) -> impl Iterator<Item = (Vec<&'a str>, Operation<'a>)> {
        members(paths).flat_map(move |(path, item)| {
            let item = self.resolve(item);
            let stated = METHODS.iter().filter_map(move |method| Some((*method, item.get(method)?)));
            stated.map(move |(method, operation)| {
                let tags = items(&operation["tags"]).filter_map(Value::as_str).collect();
                (tags, self.operation(method, path, item, operation))
            })
        })
    }

    fn operation(self, method: &str, path: &'a str, item: &'a Value, stated: &'a Value) -> Operation<'a> {
        let parameters = items(&item["parameters"]).chain(items(&stated["parameters"]));
        let parameters = parameters.map(|parameter| {
            let parameter = self.resolve(parameter);
            self.entry(text(&parameter["name"]), parameter)
        });
        let body = stated.get("requestBody").map(|body| {
            let body = self.resolve(body);
            Body {
                is_required: body["required"] == true,
                description: description(body),
                contents: self.contents(body),
            }
        });
        Operation {
            id: text(&stated["operationId"]),
            method: method.to_ascii_uppercase(),
            path,
            summary: Marked(text(&stated["summary"])),
            description: description(stated),
            is_deprecated: stated["deprecated"] == true,
            token: token(stated.get("security").unwrap_or(&self.0["security"])),
            parameters: parameters.collect(),
            body,
            answers: members(&stated["responses"])
                .map(|(status, answer)| self.answer(status, answer))
                .collect(),
        }
    }

    /// A parameter or a header.
    fn entry(self, name: &'a str, stated: &'a Value) -> Entry<'a> {
        let schema = &stated["schema"];
        let example = beside(stated).or_else(|| own_example(schema));
        Entry {
            name,
            place: text(&stated["in"]),
            is_required: stated["required"] == true,
            description: description(stated).or_else(|| description(schema)),
            shape: Shape::new(schema),
            example: example.map(plain),
        }
    }

    fn answer(self, status: &'a str, stated: &'a Value) -> Answer<'a> {
        let shared = stated["$ref"].as_str().and_then(|reference| reference.rsplit('/').next());
        let answer = self.resolve(stated);
        let is_problem = answer["content"].get(PROBLEM).is_some();
        let (mut shared_headers, mut headers) = (Vec::new(), Vec::new());
        for (name, header) in members(&answer["headers"]) {
            if header.get("$ref").is_some() {
                shared_headers.push(name);
            } else {
                headers.push(self.entry(name, header));
            }
        }
        Answer {
            status,
            shared,
            description: description(answer),
            kinds: if is_problem { kinds(text(&answer["description"])) } else { Vec::new() },
            shared_headers,
            headers,
            contents: self.contents(answer),
        }
    }

    fn named_answer(self, name: &'a str, stated: &'a Value) -> Result<NamedAnswer<'a>> {
        let answer = self.answer("", stated);
        let mut examples = Vec::new();
        for kind in &answer.kinds {
            let example = serde_json::to_value(explanations::example(*kind)).map_err(Error::internal)?;
            examples.push((*kind, lines_of(&example, true)));
        }
        Ok(NamedAnswer { name, answer, examples })
    }

    /// Bodies by media type.
    fn contents(self, stated: &'a Value) -> Vec<Content<'a>> {
        members(&stated["content"]).map(|(media_type, content)| self.content(media_type, content)).collect()
    }

    fn content(self, media_type: &'a str, content: &'a Value) -> Content<'a> {
        let item = content.get("itemSchema");
        let schema = item.unwrap_or(&content["schema"]);
        let mut shape = Shape::new(schema);
        if item.is_some() {
            let mut line = Line::of("a stream of ");
            line.append(shape.line);
            shape.line = line;
        }
        let is_json = media_type == "application/json" || media_type.ends_with("+json");
        // The examples of problems stand beside their kinds.
        let has_example = media_type != PROBLEM;
        let example = beside(content).cloned().or_else(|| self.example_in(schema, 0)).filter(|_| has_example);
        Content { media_type, shape, example: example.map(|example| lines_of(&example, is_json)) }
    }

    /// An example of a schema: its own, or one that is made of those of its parts.
    fn example_in(self, schema: &'a Value, depth: usize) -> Option<Value> {
        if let Some(own) = own_example(schema) {
            return Some(own.clone());
        }
        if depth > MAX_REFERENCES {
            return None;
        }
        if schema.get("$ref").is_some() {
            let target = self.resolve(schema);
            return if target.get("$ref").is_none() { self.example_in(target, depth + 1) } else { None };
        }
        if let Some(item) = schema.get("items") {
            return Some(Value::Array(vec![self.example_in(item, depth + 1)?]));
        }
        // A page of a list.
        let fields = &schema["properties"];
        fields.get("next_cursor")?;
        let listed = self.example_in(fields.get("items")?, depth + 1)?;
        Some(serde_json::json!({"items": listed, "next_cursor": null}))
    }
}

/// The members of an object, in its order; none if it is no object.
fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, member)| (name.as_str(), member))
}

/// The items of an array; none if it is no array.
fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A text; empty if it is none.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn description(stated: &Value) -> Option<Prose<'_>> {
    Prose::new(stated["description"].as_str())
}

/// The example beside a schema.
fn beside(stated: &Value) -> Option<&Value> {
    let named = members(&stated["examples"]).find_map(|(_, example)| example.get("value"));
    stated.get("example").or(named)
}

/// The example in a schema.
fn own_example(schema: &Value) -> Option<&Value> {
    schema.get("example").or_else(|| items(&schema["examples"]).next())
}

/// Lines of an example. A string that is not JSON is a text.
fn lines_of(example: &Value, is_json: bool) -> Vec<String> {
    match example {
        Value::String(text) if !is_json => text.lines().map(str::to_owned).collect(),
        // The alternate form of a `Value` is JSON on several lines.
        _ => format!("{example:#}").lines().map(str::to_owned).collect(),
    }
}

/// Which token an operation needs.
fn token(security: &Value) -> Line<'static> {
    let alternatives: Vec<&Value> = items(security).collect();
    if alternatives.is_empty() || alternatives.iter().any(|one| members(one).next().is_none()) {
        return Line::of("no token needed");
    }
    let mut line = Line::default();
    for (at, alternative) in alternatives.into_iter().enumerate() {
        line.text(if at > 0 { ", or any token" } else { "any token" });
        let scopes = members(alternative).flat_map(|(_, scopes)| items(scopes)).filter_map(Value::as_str);
        for (at, scope) in scopes.enumerate() {
            line.text(if at > 0 { " and " } else { " with the scope " });
            line.code(scope.to_owned());
        }
    }
    line
}

/// Kinds of problems whose names stand between backticks in a text.
fn kinds(text: &str) -> Vec<Kind> {
    text.split('`').skip(1).step_by(2).filter_map(explanations::find_kind).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_bodies_and_answers_are_read_through_references() {
        let document = json!({
            "info": {"title": "T", "version": "1"},
            "tags": [{"name": "games"}, {"name": "unused"}],
            "paths": {
                "/a": {
                    "parameters": [{"$ref": "#/components/parameters/P"}],
                    "post": {
                        "operationId": "make", "summary": "Makes.", "tags": ["games"],
                        "security": [{"token": ["a:write", "b:write"]}],
                        "requestBody": {"$ref": "#/components/requestBodies/B"},
                        "responses": {"201": {"description": "Done.", "headers": {
                            "Shared": {"$ref": "#/components/headers/Shared"},
                            "Own": {"schema": {"type": "string"}, "example": "x"},
                        }}, "404": {"$ref": "#/components/responses/NotFound"}},
                    },
                    "get": {"operationId": "show", "responses": {}},
                },
            },
            "components": {
                "parameters": {"P": {"name": "p", "in": "query", "required": true,
                    "schema": {"type": "integer", "maximum": 3}, "example": 2}},
                "requestBodies": {"B": {"required": true, "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Page"}},
                    "text/csv": {"schema": {"type": "string"}, "example": "a,b\n1,2\n"},
                }}},
                "responses": {"NotFound": {"description": "Gone (`not-found`).", "content": {
                    "application/problem+json": {"schema": {"$ref": "#/components/schemas/Game"}},
                }}},
                "headers": {"Shared": {"description": "H.", "schema": {"type": "string"}}},
                "schemas": {
                    "Game": {"type": "object", "examples": [{"id": 1}]},
                    "Page": {"properties": {
                        "items": {"type": "array", "items": {"$ref": "#/components/schemas/Game"}},
                        "next_cursor": {"type": ["string", "null"]},
                    }},
                },
            },
        });
        let page = reference(&document).unwrap();
        let groups: Vec<_> = page.groups.iter().map(|group| group.name).collect();
        assert_eq!(groups, ["games", "other"]);
        let show = &page.groups[1].operations[0];
        assert_eq!((show.method.as_str(), show.token.to_string().as_str()), ("GET", "no token needed"));

        let make = &page.groups[0].operations[0];
        assert_eq!(
            make.token.to_string(),
            "any token with the scope <code>a:write</code> and <code>b:write</code>"
        );
        let parameter = &make.parameters[0];
        assert_eq!((parameter.name, parameter.place, parameter.is_required), ("p", "query", true));
        assert_eq!(parameter.shape.line.to_string(), "integer, at most 3");
        assert_eq!(parameter.example.as_deref(), Some("2"));
        let contents = &make.body.as_ref().unwrap().contents;
        let page_of_games: Value =
            serde_json::from_str(&contents[0].example.as_ref().unwrap().concat()).unwrap();
        assert_eq!(page_of_games, json!({"items": [{"id": 1}], "next_cursor": null}));
        assert_eq!(contents[1].example.as_ref().unwrap(), &["a,b", "1,2"]);

        let [created, missing] = &make.answers[..] else { panic!("two answers") };
        assert_eq!((created.status, created.shared), ("201", None));
        assert_eq!(created.shared_headers, ["Shared"]);
        assert_eq!(created.headers[0].example.as_deref(), Some("x"));
        assert_eq!((missing.status, missing.shared), ("404", Some("NotFound")));
        assert_eq!(missing.kinds, [Kind::NotFound]);
        let examples = &page.refusals[0].examples;
        assert!(examples[0].1.concat().contains("/problems/not-found"), "{examples:?}");
        assert_eq!(page.headers[0].name, "Shared");
        assert_eq!(page.schemas.len(), 2);
    }

    #[test]
    fn a_document_with_faults_is_shown_without_them() {
        let document = json!({
            "paths": {"/a": {"get": {"responses": {"200": {"$ref": "#/nowhere"}}}}},
            "components": {"schemas": {
                "Circle": {"$ref": "#/components/schemas/Circle"},
                "Odd": {"type": 5, "properties": [], "oneOf": {}},
            }},
        });
        let page = reference(&document).unwrap();
        let html = page.render().unwrap();
        assert!(html.contains("schema-Circle") && html.contains("any value"), "{html}");
    }
}
