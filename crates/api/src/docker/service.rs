//! From an HTTP request to its handler.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use control::{Caller, Control};
use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use model::PoolId;

use super::failure::{Failure, Result};
use super::request::{Call, Identity, Query};
use super::routes::{self, Endpoint, Policy};
use super::version::{self, ApiVersion};
use super::{containers, events, exec, images, lifecycle, networks, streams, system};

/// The Docker endpoint of one pool for one caller: what is served on a pool's Unix socket.
pub fn router(control: Control, pool: PoolId, caller: Caller) -> Router {
    serve(control, Some(Identity { caller, pool }))
}

/// The Docker endpoint of all pools: the listener must insert an [`Identity`] into each request's extensions, which it
/// finds in the client's certificate. A request without one is refused.
pub fn router_by_identity(control: Control) -> Router {
    serve(control, None)
}

fn serve(control: Control, fixed: Option<Identity>) -> Router {
    let service = tower::service_fn(move |request: Request<Body>| {
        let (control, fixed) = (control.clone(), fixed.clone());
        async move { Ok::<_, Infallible>(answer(control, fixed, request).await) }
    });
    Router::new().fallback_service(service)
}

async fn answer(control: Control, fixed: Option<Identity>, request: Request<Body>) -> Response {
    let head = request.method() == Method::HEAD;
    let answered = match with_small_body(request).await {
        Ok(request) => dispatch(control, fixed, request).await,
        Err(failure) => Err(failure),
    };
    let mut response = match answered {
        Ok(response) => response,
        Err(failure) => failure.into_response(),
    };
    if head && response.status().is_client_error() {
        *response.body_mut() = Body::empty();
    }
    let headers = response.headers_mut();
    // Docker's clients read these on every answer.
    headers.insert("api-version", HeaderValue::from_static(NEWEST));
    headers.insert("docker-experimental", HeaderValue::from_static("false"));
    headers.insert("ostype", HeaderValue::from_static("linux"));
    headers.insert(header::SERVER, HeaderValue::from_static(SERVER));
    response
}

/// Bodies of at most this length are read before anything is decided: far more than any create request, little enough
/// to hold. Answering earlier would close the connection under a client that is still writing, which then reports a
/// broken pipe instead of the answer.
const SMALL_BODY_BYTES: usize = 256 << 10;

async fn with_small_body(request: Request<Body>) -> Result<Request<Body>> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if !length.is_some_and(|length| (1..=SMALL_BODY_BYTES).contains(&length)) {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    match axum::body::to_bytes(body, SMALL_BODY_BYTES).await {
        Ok(bytes) => Ok(Request::from_parts(parts, Body::from(bytes))),
        Err(_) => Err(Failure::invalid(
            "the request body ended early or could not be read",
        )),
    }
}

/// The newest API version as a header.
const NEWEST: &str = "1.51";

/// Looks like Docker's, which some clients take apart.
const SERVER: &str = concat!("Docker/28.0.0 (linux) Plimsoll/", env!("CARGO_PKG_VERSION"));

async fn dispatch(
    control: Control,
    fixed: Option<Identity>,
    request: Request<Body>,
) -> Result<Response> {
    let (mut parts, body) = request.into_parts();
    let identity = fixed
        .or_else(|| parts.extensions.get::<Identity>().cloned())
        .ok_or_else(|| {
            Failure::new(
                StatusCode::UNAUTHORIZED,
                "a client certificate of a pool is needed",
            )
        })?;
    let (version, path) = version::split(parts.uri.path());
    let version: ApiVersion = version?;
    let Some((route, captured)) = routes::find(&parts.method, path) else {
        return Err(Failure::not_found("page not found"));
    };
    let endpoint = match route.policy {
        Policy::Served(endpoint) => endpoint,
        Policy::Unsupported(why) => return Err(Failure::unsupported(why)),
        Policy::Refused(why) => return Err(Failure::forbidden(why)),
        Policy::NoSwarm => return Err(no_swarm()),
        Policy::NoPlugin => {
            return Err(Failure::not_found(format!(
                "plugin \"{}\" not found",
                super::value::shown(captured.first().map_or("", String::as_str))
            )));
        }
    };
    let call = Call {
        control,
        caller: identity.caller,
        pool: identity.pool,
        version,
        path: captured,
        query: Query::parse(&parts.uri)?,
        headers: parts.headers,
        body,
        upgrade: parts.extensions.remove::<OnUpgrade>(),
    };
    handle(endpoint, call).await
}

fn no_swarm() -> Failure {
    Failure::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
    )
}

/// Boxed arm by arm: one request then holds the state of its own handler only.
async fn handle(endpoint: Endpoint, call: Call) -> Result<Response> {
    match endpoint {
        Endpoint::Ping => Ok(system::ping(&call)),
        Endpoint::Version => Ok(system::version(&call)),
        Endpoint::Info => system::info(&call),
        Endpoint::Events => events::stream(&call),
        Endpoint::DiskUsage => system::disk_usage(&call),
        Endpoint::RegistryLogin => images::login(call).await,
        Endpoint::ContainerList => containers::list(&call),
        Endpoint::ContainerCreate => Box::pin(containers::create(call)).await,
        Endpoint::ContainerInspect => containers::inspect(&call),
        Endpoint::ContainerTop => Box::pin(containers::top(call)).await,
        Endpoint::ContainerLogs => Box::pin(streams::logs(call)).await,
        Endpoint::ContainerStats => Box::pin(super::stats::stats(call)).await,
        Endpoint::ContainerResize => Box::pin(streams::resize(call)).await,
        Endpoint::ContainerStart => Box::pin(lifecycle::start(call)).await,
        Endpoint::ContainerStop => Box::pin(lifecycle::stop(call)).await,
        Endpoint::ContainerRestart => Box::pin(lifecycle::restart(call)).await,
        Endpoint::ContainerKill => Box::pin(lifecycle::kill(call)).await,
        Endpoint::ContainerUpdate => Box::pin(lifecycle::update(call)).await,
        Endpoint::ContainerRename => Box::pin(lifecycle::rename(call)).await,
        Endpoint::ContainerPause => Box::pin(lifecycle::pause(call)).await,
        Endpoint::ContainerUnpause => Box::pin(lifecycle::unpause(call)).await,
        Endpoint::ContainerAttach => Box::pin(streams::attach(call)).await,
        Endpoint::ContainerWait => lifecycle::wait(&call),
        Endpoint::ContainerRemove => Box::pin(lifecycle::remove(call)).await,
        Endpoint::ExecCreate => Box::pin(exec::create(call)).await,
        Endpoint::ExecStart => Box::pin(exec::start(call)).await,
        Endpoint::ExecResize => Box::pin(exec::resize(call)).await,
        Endpoint::ExecInspect => exec::inspect(&call),
        Endpoint::ImageList => images::list(&call),
        Endpoint::ImagePull => Box::pin(images::pull(call)).await,
        Endpoint::ImageInspect => images::inspect(&call),
        Endpoint::ImageHistory => images::history(&call),
        Endpoint::ImageTag => Box::pin(images::tag(call)).await,
        Endpoint::ImageRemove => Box::pin(images::remove(call)).await,
        Endpoint::ImageSave | Endpoint::ImageSaveMany => Box::pin(images::save(call)).await,
        Endpoint::ImageLoad => Box::pin(images::load(call)).await,
        Endpoint::NetworkList => networks::list(&call),
        Endpoint::NetworkInspect => networks::inspect(&call),
        Endpoint::VolumeList => networks::volume_list(&call),
        Endpoint::VolumeInspect => networks::volume_inspect(&call),
        Endpoint::PluginList => Ok(super::reply::ok(&[(); 0])),
    }
}
