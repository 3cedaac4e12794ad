//! `saltpeter schema`: what editors check job files with.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

/// Validates with the part of JSON Schema that the schema uses: the first thing that does not fit, with its path.
fn misfit(schema: &Value, value: &Value, path: &str) -> Option<String> {
    let told = |what: &str| Some(format!("{path}: {what}: {value}"));
    for (keyword, rule) in schema.as_object().unwrap() {
        let found = match keyword.as_str() {
            "$schema" | "title" | "description" | "deprecated" | "additionalProperties" => None,
            "type" => {
                let one = |name: &Value| is_of_type(value, name.as_str().unwrap());
                let fits = match rule {
                    Value::Array(names) => names.iter().any(one),
                    name => one(name),
                };
                (!fits).then(|| told("wrong type")).flatten()
            }
            "enum" => (!rule.as_array().unwrap().contains(value))
                .then(|| told("not among the words"))
                .flatten(),
            "anyOf" => {
                let any = |one: &Value| misfit(one, value, path).is_none();
                let fits = rule.as_array().unwrap().iter().any(any);
                (!fits).then(|| told("none of the shapes")).flatten()
            }
            "minimum" | "maximum" => {
                let is_low = value.as_f64() < rule.as_f64();
                let fits =
                    !value.is_number() || is_low == (keyword == "maximum") || value.as_f64() == rule.as_f64();
                (!fits).then(|| told(keyword)).flatten()
            }
            "pattern" => {
                let pattern = regex_lite::Regex::new(rule.as_str().unwrap()).unwrap();
                let fits = value.as_str().is_none_or(|text| pattern.is_match(text));
                (!fits).then(|| told("does not match")).flatten()
            }
            "required" => value.as_object().and_then(|object| {
                let missing = |name: &&Value| !object.contains_key(name.as_str().unwrap());
                let name = rule.as_array().unwrap().iter().find(missing)?;
                told(&format!("{name} is missing"))
            }),
            "items" => value.as_array().and_then(|items| {
                let mut items = items.iter();
                items.find_map(|item| misfit(rule, item, &format!("{path}[]")))
            }),
            "properties" => value.as_object().and_then(|object| {
                object.iter().find_map(|(name, value)| {
                    let path = format!("{path}.{name}");
                    match (rule.get(name), schema.get("additionalProperties")) {
                        (Some(known), _) => misfit(known, value, &path),
                        (None, Some(Value::Bool(false))) => Some(format!("{path}: unknown")),
                        (None, Some(other)) => misfit(other, value, &path),
                        (None, None) => None,
                    }
                })
            }),
            other => panic!("the test does not know the keyword {other}"),
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("unknown type {other}"),
    }
}

fn schema() -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saltpeter"));
    let output = command.arg("schema").output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap()
}

#[test]
fn the_sample_files_fit_the_schema() {
    let schema = schema();
    let top = env!("CARGO_MANIFEST_DIR");
    let mut files: Vec<_> = fs::read_dir(format!("{top}/conf"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.push(format!("{top}/packaging/debian/saltpeter.yaml").into());
    assert!(files.len() > 2);
    for file in files {
        let value = yaml(&fs::read_to_string(&file).unwrap());
        assert_eq!(misfit(&schema, &value, ""), None, "{file:?}");
    }
}

#[test]
fn an_editor_with_the_schema_notices_what_check_notices() {
    let schema = schema();
    let job = |extra: &str| {
        let text = format!(
            "job: {{min: 1, hour: 2, dom: '*', mon: '*', dow: '*', targets: '*', command: a{extra}}}"
        );
        misfit(&schema, &yaml(&text), "")
    };
    assert_eq!(job(""), None);
    assert_eq!(
        job(", timeout: 1.5, batch_size: '3', enabled: 'no', env: {A: 1}, targets: [a, b]"),
        None
    );
    assert_eq!(
        job(", sec: '*/5', year: 2027, target_type: null, wrapper_loglevel: false"),
        None
    );
    assert!(job(", sec: 60").is_some());
    assert!(job(", sec: '1 2'").is_some());
    assert!(job(", timout: 5").unwrap().contains("unknown"));
    assert!(job(", timeout: soon").is_some());
    assert!(job(", batch_size: -1").is_some());
    assert!(job(", target_type: globb").is_some());
    let bare = |fields: Value| misfit(&schema, &json!({"job": fields}), "");
    let text = json!({"schedule": "@daily", "targets": "*", "command": "a"});
    assert_eq!(bare(text), None);
    assert!(bare(json!({"min": 1, "targets": "*", "command": "a"})).is_some());
    let no_command = json!({"schedule": "@daily", "targets": "*"});
    assert!(bare(no_command).unwrap().contains("missing"));
    assert!(misfit(&schema, &json!({"saltpeter_config": {"api_ws_port": 70000}}), "").is_some());
    let fits = json!({"saltpeter_config": {"api_ws_port": "8888", "executor": null, "api_tokens": null}});
    assert_eq!(misfit(&schema, &fits, ""), None);
    assert!(misfit(&schema, &json!({"saltpeter_config": {"dbug": true}}), "").is_some());
}
