//! Schemas of the document, as the reference shows them: a line with the type and its bounds, and the fields below it.

use askama::Template;
use serde_json::Value;

use super::text::{Line, Prose};

/// Depth of nested schemas that are shown. Schemas refer to others by name, so none is as deep.
const MAX_DEPTH: usize = 16;

/// Beginning of references to schemas.
const SCHEMAS: &str = "#/components/schemas/";

/// A schema. As a template, it is what stands below its line: its fields, or its branches.
#[derive(Template, Default)]
#[template(path = "shape.html")]
pub struct Shape<'a> {
    /// The type and its bounds.
    pub line: Line<'a>,
    pub description: Option<Prose<'a>>,
    pub fields: Vec<Field<'a>>,
    /// Schemas of which one, some or all apply, as the line says.
    pub branches: Vec<Shape<'a>>,
}

/// A field of an object.
pub struct Field<'a> {
    pub name: &'a str,
    pub is_required: bool,
    pub shape: Shape<'a>,
}

impl<'a> Shape<'a> {
    pub fn new(schema: &'a Value) -> Shape<'a> {
        Shape::at(schema, 0)
    }

    fn at(schema: &'a Value, depth: usize) -> Shape<'a> {
        if depth > MAX_DEPTH {
            return Shape { line: Line::of("any value"), ..Shape::default() };
        }
        let mut shape = Shape::of_kind(schema, depth + 1);
        let own = Prose::new(schema["description"].as_str());
        shape.description = own.or(shape.description);
        append_bounds(&mut shape.line, schema, depth + 1);
        shape
    }

    /// The schema without its bounds.
    fn of_kind(schema: &'a Value, depth: usize) -> Shape<'a> {
        if let Some(reference) = schema["$ref"].as_str() {
            let mut line = Line::default();
            line.schema(reference.strip_prefix(SCHEMAS).unwrap_or(reference));
            return Shape { line, ..Shape::default() };
        }
        for (keyword, all_of) in [("oneOf", false), ("anyOf", false), ("allOf", true)] {
            if let Some(branches) = schema[keyword].as_array() {
                return Shape::composed(branches, all_of, fields(schema, depth), depth);
            }
        }
        let mut shape = Shape { fields: fields(schema, depth), ..Shape::default() };
        let names = types(schema);
        for (at, name) in names.iter().enumerate() {
            if at > 0 {
                shape.line.text(" or ");
            }
            match (*name, schema.get("items")) {
                ("array", Some(items)) => {
                    let items = Shape::at(items, depth);
                    shape.line.text("array of ");
                    let nested = !items.fields.is_empty() || !items.branches.is_empty();
                    shape.line.append(items.line);
                    // What an item is, where the array itself says nothing.
                    shape.description = items.description;
                    if nested {
                        (shape.fields, shape.branches) = (items.fields, items.branches);
                    }
                }
                (name, _) => shape.line.text(name),
            }
        }
        if names.is_empty() {
            let is_object = !shape.fields.is_empty();
            shape.line.text(if is_object { "object" } else { "any value" });
        }
        shape
    }

    /// A composition of schemas. What may be null is shown as the schema itself with "or null".
    fn composed(branches: &'a [Value], all_of: bool, fields: Vec<Field<'a>>, depth: usize) -> Shape<'a> {
        let is_null = |branch: &&Value| branch["type"] == "null";
        let may_be_null = !all_of && branches.iter().any(|branch| is_null(&branch));
        let rest = branches.iter().filter(|branch| all_of || !is_null(branch));
        let mut shapes: Vec<Shape> = rest.map(|branch| Shape::at(branch, depth)).collect();
        let is_simple = |shape: &Shape| shape.fields.is_empty() && shape.branches.is_empty();
        let mut shape = if shapes.len() == 1 {
            let mut only = shapes.remove(0);
            only.fields.extend(fields);
            only
        } else if !all_of && shapes.iter().all(|shape| is_simple(shape) && shape.description.is_none()) {
            let mut line = Line::default();
            for (at, shape) in shapes.into_iter().enumerate() {
                line.text(if at > 0 { " or " } else { "" });
                line.append(shape.line);
            }
            Shape { line, fields, ..Shape::default() }
        } else {
            let line = Line::of(if all_of { "all of these" } else { "one of these" });
            Shape { line, fields, branches: shapes, ..Shape::default() }
        };
        if may_be_null {
            shape.line.text(" or null");
        }
        shape
    }
}

/// Names of the types of a schema.
fn types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn fields(schema: &Value, depth: usize) -> Vec<Field<'_>> {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties
        .map(|(name, schema)| {
            let is_required = required.contains(&name.as_str());
            Field { name, is_required, shape: Shape::at(schema, depth) }
        })
        .collect()
}

/// Appends what a schema says of its values besides their type.
fn append_bounds<'a>(line: &mut Line<'a>, schema: &'a Value, depth: usize) {
    let mut note = |before: &'static str, value: &Value| {
        if !value.is_null() {
            line.text(before);
            line.code(plain(value));
        }
    };
    note(", format ", &schema["format"]);
    note(", of the media type ", &schema["contentMediaType"]);
    note(", always ", &schema["const"]);
    if let Some(values) = schema["enum"].as_array() {
        line.text(": ");
        line.choices(values.iter().map(plain));
    }
    append_range(line, (&schema["minimum"], &schema["maximum"]), "");
    append_range(line, (&schema["minLength"], &schema["maxLength"]), " characters");
    append_range(line, (&schema["minItems"], &schema["maxItems"]), " items");
    append_range(line, (&schema["minProperties"], &schema["maxProperties"]), " fields");
    let mut note = |before: &'static str, value: &Value| {
        if !value.is_null() {
            line.text(before);
            line.code(plain(value));
        }
    };
    note(", more than ", &schema["exclusiveMinimum"]);
    note(", less than ", &schema["exclusiveMaximum"]);
    note(", a multiple of ", &schema["multipleOf"]);
    note(", pattern ", &schema["pattern"]);
    note(", default ", &schema["default"]);
    if schema["uniqueItems"] == true {
        line.text(", without duplicates");
    }
    if schema["additionalProperties"] == false {
        line.text(", no other fields");
    }
    for (before, part) in [
        (", every other field: ", &schema["additionalProperties"]),
        (", names of fields: ", &schema["propertyNames"]),
        (", which contains ", &schema["contentSchema"]),
    ] {
        if part.is_object() {
            line.text(before);
            line.append(Shape::at(part, depth).line);
        }
    }
    for (keyword, text) in [
        ("deprecated", ", deprecated"),
        ("readOnly", ", only in answers"),
        ("writeOnly", ", only in requests"),
    ] {
        if schema[keyword] == true {
            line.text(text);
        }
    }
}

/// Appends the bounds of a number, or of how many of something there are.
fn append_range(line: &mut Line<'_>, (least, most): (&Value, &Value), of: &'static str) {
    match (least.is_null(), most.is_null()) {
        (true, true) => {}
        (false, true) => line.text(format!(", at least {least}{of}")),
        (true, false) => line.text(format!(", at most {most}{of}")),
        (false, false) if least == most => line.text(format!(", exactly {least}{of}")),
        (false, false) => line.text(format!(", {least} to {most}{of}")),
    }
}

/// A value as it stands in a text: a string without its quotes, any other as JSON.
pub fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::http::document;
    use crate::http::openapi::Version;

    /// The line of a schema, without the marks of HTML.
    fn line(schema: Value) -> String {
        let html = Shape::new(&schema).line.to_string();
        let mut text = String::new();
        for part in html.split('<') {
            text.push_str(part.split_once('>').map_or(part, |(_, behind)| behind));
        }
        text
    }

    #[test]
    fn a_line_has_the_type_and_every_bound() {
        for (schema, expected) in [
            (json!({}), "any value"),
            (json!(true), "any value"),
            (json!({"type": "string", "format": "uuid"}), "string, format uuid"),
            (
                json!({"type": "string", "minLength": 1, "maxLength": 9, "pattern": "^a$"}),
                "string, 1 to 9 characters, pattern ^a$",
            ),
            (json!({"type": "string", "minLength": 3, "maxLength": 3}), "string, exactly 3 characters"),
            (json!({"type": "integer", "minimum": 0, "default": 5}), "integer, at least 0, default 5"),
            (
                json!({"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.5}),
                "number, more than 0, a multiple of 0.5",
            ),
            (json!({"type": ["string", "null"], "enum": ["a", "b", null]}), "string or null: a, b or null"),
            (json!({"const": "a"}), "any value, always a"),
            (json!({"$ref": "#/components/schemas/Game", "default": "x"}), "Game, default x"),
            (
                json!({"type": "array", "items": {"$ref": "#/components/schemas/Game"}, "maxItems": 5, "uniqueItems": true}),
                "array of Game, at most 5 items, without duplicates",
            ),
            (json!({"type": ["array", "null"], "items": {"type": "string"}}), "array of string or null"),
            (json!({"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/Game"}]}), "Game or null"),
            (json!({"anyOf": [{"type": "string"}, {"type": "integer"}]}), "string or integer"),
            (json!({"allOf": [{"$ref": "#/components/schemas/Game"}]}), "Game"),
            (
                json!({"type": "object", "additionalProperties": {"type": "string"}, "propertyNames": {"maxLength": 3}}),
                "object, every other field: string, names of fields: any value, at most 3 characters",
            ),
            (json!({"type": "object", "additionalProperties": false}), "object, no other fields"),
        ] {
            assert_eq!(line(schema.clone()), expected, "{schema}");
        }
    }

    #[test]
    fn fields_are_shown_wherever_they_stand() {
        let object = json!({"type": "object", "required": ["a"], "properties": {
            "a": {"type": "string", "description": "It."}, "b": {"properties": {"c": {"type": "null"}}},
        }});
        let shape = Shape::new(&object);
        let named: Vec<_> = shape.fields.iter().map(|field| (field.name, field.is_required)).collect();
        assert_eq!(named, [("a", true), ("b", false)]);
        assert_eq!(shape.fields[0].shape.description.as_ref().unwrap().to_string(), "<p>It.</p>");
        assert_eq!(shape.fields[1].shape.fields[0].name, "c");

        let array = json!({"type": "array", "items": object});
        assert_eq!(Shape::new(&array).fields.len(), 2);
        let nullable = json!({"oneOf": [object, {"type": "null"}]});
        assert_eq!(Shape::new(&nullable).fields.len(), 2);
        let both = json!({"allOf": [{"$ref": "#/components/schemas/Game"}, object]});
        let both = Shape::new(&both);
        assert_eq!(both.line, Line::of("all of these"));
        assert_eq!(both.branches.len(), 2);
        assert_eq!(both.branches[1].fields.len(), 2);
        let html = both.to_string();
        for part in ["#schema-Game", "<code>a</code>", "<code>c</code>", "required"] {
            assert!(html.contains(part), "{part} is not in {html}");
        }
    }

    #[test]
    fn a_schema_that_contains_itself_without_a_name_ends() {
        let mut schema = json!({"type": "string"});
        for _ in 0..100 {
            schema = json!({"type": "array", "items": schema});
        }
        assert!(line(schema).ends_with("any value"));
    }

    /// Keywords of schemas that a line, a description or an example shows.
    const SHOWN: &str = "$ref additionalProperties allOf anyOf const contentMediaType contentSchema default description enum \
        example examples exclusiveMaximum exclusiveMinimum format items maxItems maxLength maxProperties maximum minItems \
        minLength minProperties minimum multipleOf oneOf pattern properties propertyNames readOnly required type uniqueItems \
        writeOnly deprecated";

    /// Keywords of a schema and of those within it.
    fn keywords<'a>(schema: &'a Value, found: &mut BTreeSet<&'a str>) {
        for (name, member) in schema.as_object().into_iter().flatten() {
            found.insert(name);
            match name.as_str() {
                "properties" => {
                    member.as_object().into_iter().flatten().for_each(|(_, part)| keywords(part, found))
                }
                "allOf" | "anyOf" | "oneOf" => {
                    member.as_array().into_iter().flatten().for_each(|part| keywords(part, found))
                }
                "items" | "additionalProperties" | "propertyNames" | "contentSchema" => {
                    keywords(member, found)
                }
                _ => {}
            }
        }
    }

    #[test]
    fn no_keyword_of_the_document_is_left_out() {
        let document = document(Version::V3_2).unwrap();
        let mut found = BTreeSet::new();
        let mut waiting = vec![&document];
        while let Some(node) = waiting.pop() {
            for (name, member) in node.as_object().into_iter().flatten() {
                match name.as_str() {
                    "schema" | "itemSchema" => keywords(member, &mut found),
                    "schemas" => member
                        .as_object()
                        .into_iter()
                        .flatten()
                        .for_each(|(_, one)| keywords(one, &mut found)),
                    "example" | "examples" => {}
                    _ => waiting.push(member),
                }
            }
            waiting.extend(node.as_array().into_iter().flatten());
        }
        assert!(found.len() > 15, "{found:?}");
        let shown: BTreeSet<&str> = SHOWN.split_whitespace().collect();
        assert_eq!(found.difference(&shown).collect::<Vec<_>>(), [&""; 0]);
    }
}
