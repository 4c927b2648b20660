//! Checks answers against the OpenAPI document: types, required fields, and no field that is not documented.

use serde_json::Value;

use crate::native::openapi;

/// Asserts that an answer is what the document says of this route and status.
pub(crate) fn assert_documented(method: &str, route: &str, status: u16, body: &Value) {
    let document = serde_json::to_value(openapi()).unwrap();
    let responses = &document["paths"][route][method]["responses"];
    assert!(responses.is_object(), "{method} {route} is not documented");
    let response = match &responses[status.to_string()] {
        Value::Null if status >= 400 => &responses["default"],
        response => response,
    };
    assert!(
        response.is_object(),
        "{method} {route} does not document {status}"
    );
    let Some(content) = response["content"].as_object() else {
        assert!(
            body.is_null(),
            "{method} {route} {status} documents no body, but there is {body}"
        );
        return;
    };
    let schema = &content.values().next().unwrap()["schema"];
    let mut errors = Vec::new();
    check(&document, schema, body, "", &mut errors);
    assert!(
        errors.is_empty(),
        "{method} {route} {status}: {errors:#?}\nin {body:#}"
    );
}

fn check(document: &Value, schema: &Value, value: &Value, at: &str, errors: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.trim_start_matches('#');
        match document.pointer(pointer) {
            Some(schema) => check(document, schema, value, at, errors),
            None => errors.push(format!("{at}: {reference} does not exist")),
        }
        return;
    }
    for choice in ["oneOf", "anyOf"] {
        if let Some(options) = schema[choice].as_array() {
            let fits = options.iter().any(|option| {
                let mut wrong = Vec::new();
                check(document, option, value, at, &mut wrong);
                wrong.is_empty()
            });
            if !fits {
                errors.push(format!("{at}: {value} fits no alternative"));
            }
            return;
        }
    }
    if let Some(parts) = schema["allOf"].as_array() {
        // Fields of the parts are spread, so only their own rules can be checked.
        for part in parts {
            let mut wrong = Vec::new();
            check(document, part, value, at, &mut wrong);
            errors.extend(
                wrong
                    .into_iter()
                    .filter(|error| !error.contains("is not documented")),
            );
        }
        return;
    }
    check_type(schema, value, at, errors);
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        for (n, value) in values.iter().enumerate() {
            check(document, items, value, &format!("{at}[{n}]"), errors);
        }
    }
    let Some(object) = value.as_object() else {
        return;
    };
    for name in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !object.contains_key(name) {
            errors.push(format!("{at}.{name} is missing"));
        }
    }
    for (name, value) in object {
        let at = format!("{at}.{name}");
        match (&schema["properties"][name], &schema["additionalProperties"]) {
            (Value::Null, Value::Object(_)) => {
                check(
                    document,
                    &schema["additionalProperties"],
                    value,
                    &at,
                    errors,
                );
            }
            (Value::Null, _) => errors.push(format!("{at} is not documented")),
            (property, _) => check(document, property, value, &at, errors),
        }
    }
}

fn check_type(schema: &Value, value: &Value, at: &str, errors: &mut Vec<String>) {
    let actual = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let allowed: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => return,
    };
    // Every whole number is a number.
    let whole = actual == "integer" && allowed.contains(&"number");
    if !whole && !allowed.contains(&actual) {
        errors.push(format!("{at} is {actual}, documented is {allowed:?}"));
    }
    if let Some(values) = schema["enum"].as_array()
        && !values.contains(value)
    {
        errors.push(format!("{at} is {value}, documented is one of {values:?}"));
    }
}
