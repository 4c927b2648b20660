//! The OpenAPI document, made from the handlers' own types.

use utoipa::OpenApi as _;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi, SecurityRequirement};

use super::table::Paths;

/// The document of the whole API.
#[must_use]
pub fn openapi() -> OpenApi {
    let mut document = Paths::openapi();
    document.info = InfoBuilder::new()
        .title("Plimsoll")
        .version("v1")
        .description(Some(
            "The native API. Lists accept `?watch=true` and then answer with one JSON document per line. Every error \
             is a Problem.",
        ))
        .build();
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "An access token, `plmt.<id>.<secret>`. On the server's own Unix socket none is needed.",
        ))
        .build();
    let components = document
        .components
        .take()
        .unwrap_or_else(|| ComponentsBuilder::new().build());
    let mut components = components;
    components
        .security_schemes
        .insert("token".to_owned(), SecurityScheme::Http(scheme).into());
    document.components = Some(components);
    document.security = Some(vec![SecurityRequirement::new(
        "token",
        Vec::<String>::new(),
    )]);
    document
}

/// The document as it is kept in `docs/openapi.json`.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn openapi_json() -> Result<String, serde_json::Error> {
    let mut text = serde_json::to_string_pretty(&openapi())?;
    text.push('\n');
    Ok(text)
}
