//! The JSON Schema against documents: it takes what the parser takes, and refuses what editors
//! should mark. Checked by a small validator of the keywords that the schema uses; a keyword that
//! it does not know fails the test.

use std::path::Path;

use serde_json::{Value, json};

use super::Volume;
use super::tests::EVERYTHING;

fn schema() -> Value {
    serde_json::to_value(Volume::json_schema_document()).unwrap()
}

/// Returns whether `value` matches `schema`, whose references lead into `root`.
fn matches(root: &Value, schema: &Value, value: &Value) -> bool {
    let Some(keywords) = schema.as_object() else {
        return schema == &Value::Bool(true);
    };
    keywords.iter().all(|(keyword, argument)| {
        let each = |check: &dyn Fn(&Value) -> bool| {
            argument
                .as_array()
                .unwrap()
                .iter()
                .filter(|schema| check(schema))
                .count()
        };
        match keyword.as_str() {
            "$ref" => {
                let pointer = argument.as_str().unwrap().trim_start_matches('#');
                matches(root, root.pointer(pointer).unwrap(), value)
            }
            "type" => {
                let is = |name: &Value| match name.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "null" => value.is_null(),
                    other => panic!("type {other}"),
                };
                argument
                    .as_array()
                    .map_or_else(|| is(argument), |names| names.iter().any(is))
            }
            "properties" => argument.as_object().unwrap().iter().all(|(name, schema)| {
                value
                    .get(name)
                    .is_none_or(|value| matches(root, schema, value))
            }),
            "additionalProperties" => {
                let known = keywords.get("properties").and_then(Value::as_object);
                value.as_object().is_none_or(|fields| {
                    fields.iter().all(|(name, value)| {
                        known.is_some_and(|known| known.contains_key(name))
                            || matches(root, argument, value)
                    })
                })
            }
            "required" => {
                each(&|name| value.get(name.as_str().unwrap()).is_some())
                    == argument.as_array().unwrap().len()
            }
            "items" => value
                .as_array()
                .is_none_or(|items| items.iter().all(|item| matches(root, argument, item))),
            "oneOf" => each(&|schema| matches(root, schema, value)) == 1,
            "anyOf" => each(&|schema| matches(root, schema, value)) > 0,
            "enum" => argument.as_array().unwrap().contains(value),
            "const" => argument == value,
            "minItems" => value
                .as_array()
                .is_none_or(|items| items.len() as u64 >= argument.as_u64().unwrap()),
            "minLength" => value
                .as_str()
                .is_none_or(|text| text.len() as u64 >= argument.as_u64().unwrap()),
            "maxLength" => value
                .as_str()
                .is_none_or(|text| text.len() as u64 <= argument.as_u64().unwrap()),
            "minimum" => value
                .as_f64()
                .is_none_or(|n| n >= argument.as_f64().unwrap()),
            "maximum" => value
                .as_f64()
                .is_none_or(|n| n <= argument.as_f64().unwrap()),
            // Patterns are for editors; the parser's own tests cover what they stand for.
            "$schema" | "$id" | "$defs" | "title" | "description" | "default" | "format"
            | "pattern" => true,
            other => panic!("the schema uses `{other}`, which this test does not know"),
        }
    })
}

fn everything() -> Value {
    let volume = Volume::parse(EVERYTHING, Path::new("v.yaml")).unwrap();
    serde_json::to_value(volume).unwrap()
}

#[test]
fn what_parses_matches() {
    let schema = schema();
    assert!(matches(&schema, &schema, &everything()));
}

/// Each change makes a right document wrong, for the schema and for the parser alike.
#[test]
fn what_does_not_parse_does_not_match() {
    let schema = schema();
    let changes: [(&str, Value); 12] = [
        ("/apiVersion", json!("v1")),
        ("/kind", json!("Pod")),
        ("/metadata/name", json!(5)),
        ("/metadata", json!({ "name": "a", "colour": "red" })),
        ("/spec/layers", json!([])),
        ("/spec/layers/0", json!({ "path": "/x" })),
        (
            "/spec/layers/0",
            json!({ "s3": { "bucket": "b" }, "local": { "path": "/x" } }),
        ),
        ("/spec/layers/0/s3/credentials/accessKeyId", json!("AKIA")),
        (
            "/spec/layers/0/s3/credentials/accessKeyId",
            json!({ "fromEnv": "A", "fromFile": "b" }),
        ),
        ("/spec/layers/0/timeout", json!(30)),
        ("/spec/layers/1/http/manifest", json!({ "format": "list" })),
        ("/spec/layers/1/http/auth", json!({ "digest": {} })),
    ];
    for (pointer, value) in changes {
        let mut document = everything();
        *document.pointer_mut(pointer).unwrap() = value.clone();
        assert!(
            !matches(&schema, &schema, &document),
            "{pointer}: {value} matches"
        );
        let text = document.to_string();
        assert!(
            Volume::parse(&text, Path::new("v.yaml")).is_err(),
            "{pointer}: {value} parses"
        );
    }
}

#[test]
fn every_field_is_described() {
    fn walk(value: &Value, path: &str, bare: &mut Vec<String>) {
        if let Some(properties) = value.get("properties").and_then(Value::as_object) {
            for (name, schema) in properties {
                if schema.get("description").is_none() {
                    bare.push(format!("{path}.{name}"));
                }
            }
        }
        for (name, inner) in value.as_object().into_iter().flatten() {
            walk(inner, &format!("{path}/{name}"), bare);
        }
    }
    let mut bare = Vec::new();
    walk(&schema(), "", &mut bare);
    assert_eq!(bare, Vec::<String>::new());
}
