//! Principals and their tokens.

use axum::Json;
use axum::extract::State;
use control::principals::PrincipalCreate as Create;
use http::StatusCode;
use model::TokenId;
use wire::native::access::{
    Principal, PrincipalBind, PrincipalCreate, Token, TokenCreate, TokenCreated,
};
use wire::native::{List, Problem, ProblemKind};

use crate::native::extract::{Body, By, OptionalBody, Segments};
use crate::native::failure::{Failure, Result};
use crate::native::table::Native;
use crate::native::{from_native, to_native};

#[utoipa::path(get, path = "/api/v1/principals", tag = "access", operation_id = "principal_list", responses(
    (status = 200, description = "All principals.", body = List<Principal>),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn principals(
    State(native): State<Native>,
    By(caller): By,
) -> Result<Json<List<Principal>>> {
    let all = native.control.principal_list(&caller)?;
    let items = all
        .iter()
        .map(|it| to_native::principal(&native.control, it))
        .collect();
    Ok(Json(List { items }))
}

#[utoipa::path(post, path = "/api/v1/principals", tag = "access", operation_id = "principal_create", request_body = PrincipalCreate, responses(
    (status = 201, description = "The new principal.", body = Principal),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn principal_create(
    State(native): State<Native>,
    By(caller): By,
    Body(body): Body<PrincipalCreate>,
) -> Result<(StatusCode, Json<Principal>)> {
    let create = Create {
        name: from_native::name("name", &body.name)?,
        bindings: from_native::bindings(body.bindings),
    };
    let made = native.control.principal_create(&caller, create).await?;
    Ok((
        StatusCode::CREATED,
        Json(to_native::principal(&native.control, &made)),
    ))
}

#[utoipa::path(get, path = "/api/v1/principals/{principal}", tag = "access", operation_id = "principal_show",
    params(("principal" = String, Path, description = "Name or id.")), responses(
    (status = 200, description = "The principal.", body = Principal),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn principal_show(
    State(native): State<Native>,
    By(caller): By,
    Segments(principal): Segments<String>,
) -> Result<Json<Principal>> {
    let found = native.control.principal_find(&caller, &principal)?;
    Ok(Json(to_native::principal(&native.control, &found)))
}

#[utoipa::path(delete, path = "/api/v1/principals/{principal}", tag = "access", operation_id = "principal_remove",
    params(("principal" = String, Path, description = "Name or id.")), responses(
    (status = 204, description = "It is gone with its tokens."),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn principal_remove(
    State(native): State<Native>,
    By(caller): By,
    Segments(principal): Segments<String>,
) -> Result<StatusCode> {
    native.control.principal_delete(&caller, &principal).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(put, path = "/api/v1/principals/{principal}/bindings", tag = "access", operation_id = "principal_bind", request_body = PrincipalBind,
    params(("principal" = String, Path, description = "Name or id.")), responses(
    (status = 200, description = "The principal with exactly these roles.", body = Principal),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn principal_bind(
    State(native): State<Native>,
    By(caller): By,
    Segments(principal): Segments<String>,
    Body(body): Body<PrincipalBind>,
) -> Result<Json<Principal>> {
    let bindings = from_native::bindings(body.bindings);
    let bound = native
        .control
        .principal_bind(&caller, &principal, &bindings)
        .await?;
    Ok(Json(to_native::principal(&native.control, &bound)))
}

#[utoipa::path(post, path = "/api/v1/principals/{principal}/tokens", tag = "access", operation_id = "token_create", request_body = TokenCreate,
    params(("principal" = String, Path, description = "Name or id.")), responses(
    (status = 201, description = "The token with its secret; shown once.", body = TokenCreated),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn token_create(
    State(native): State<Native>,
    By(caller): By,
    Segments(principal): Segments<String>,
    OptionalBody(body): OptionalBody<TokenCreate>,
) -> Result<(StatusCode, Json<TokenCreated>)> {
    let made = native
        .control
        .token_create(&caller, &principal, body.description, body.ttl_seconds)
        .await;
    let (secret, token) = made?;
    let token = to_native::token(&native.control, &token);
    Ok((StatusCode::CREATED, Json(TokenCreated { secret, token })))
}

#[utoipa::path(get, path = "/api/v1/tokens", tag = "access", operation_id = "token_list", responses(
    (status = 200, description = "All tokens, without their secrets.", body = List<Token>),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn tokens(
    State(native): State<Native>,
    By(caller): By,
) -> Result<Json<List<Token>>> {
    let all = native.control.token_list(&caller)?;
    let items = all
        .iter()
        .map(|it| to_native::token(&native.control, it))
        .collect();
    Ok(Json(List { items }))
}

#[utoipa::path(delete, path = "/api/v1/tokens/{token}", tag = "access", operation_id = "token_remove",
    params(("token" = String, Path, description = "Id.")), responses(
    (status = 204, description = "It stopped working."),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn token_remove(
    State(native): State<Native>,
    By(caller): By,
    Segments(token): Segments<String>,
) -> Result<StatusCode> {
    let id = TokenId::parse(&token).map_err(|_| {
        Failure::new(ProblemKind::NotFound, "there is no such token")
            .hint("see `plimsoll token ls`")
    })?;
    native.control.token_delete(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
