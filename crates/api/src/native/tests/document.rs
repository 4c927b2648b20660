//! The OpenAPI document is that of the router, and the committed one is the newest.

use std::collections::BTreeSet;
use std::path::Path;

use crate::native::table::ROUTES;
use crate::native::{openapi, openapi_json};

#[test]
fn document_and_router_name_the_same_routes() {
    let document = serde_json::to_value(openapi()).unwrap();
    let documented: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            methods
                .as_object()
                .unwrap()
                .keys()
                .map(move |method| (method.clone(), path.clone()))
        })
        .collect();
    let health = [("get", "/healthz"), ("get", "/readyz")];
    let routed: BTreeSet<(String, String)> = ROUTES
        .iter()
        .chain(&health)
        .map(|(method, path)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    assert_eq!(documented, routed);
}

#[test]
fn operations_have_unique_names() {
    let document = serde_json::to_value(openapi()).unwrap();
    let mut seen = BTreeSet::new();
    for methods in document["paths"].as_object().unwrap().values() {
        for operation in methods.as_object().unwrap().values() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(seen.insert(id.to_owned()), "{id} twice");
        }
    }
}

#[test]
fn committed_document_is_fresh() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let text = openapi_json().unwrap();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        kept == text,
        "docs/openapi.json is stale: run `UPDATE=1 cargo test -p api committed_document_is_fresh` and commit it"
    );
}
