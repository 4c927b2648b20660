//! Every route in one table: the router and the OpenAPI document are made from it, so that neither can forget one.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post, put};
use control::Control;
use wire::native::ProblemKind;

use super::access_log;
use super::auth::{Limiter, authenticate};
use super::failure::Failure;
use super::routes::{access, events, hosts, images, pools, streams, system, what_if, workloads};

/// Longest body except uploads, in bytes: a specification with 1,000 variables is some 100 kB.
const BODY_MAX_BYTES: usize = 1 << 20;

/// Longest time for an answer that needs nothing to happen first; the store answers in milliseconds.
const SHORT_LIMIT: Duration = Duration::from_secs(30);

/// What the API needs to know of its surroundings.
#[derive(Debug, Clone, Default)]
pub struct NativeConfig {
    /// Folder with the pools' Docker sockets, `POOL.sock` each; `None`: there are none.
    pub pool_sockets: Option<PathBuf>,
}

/// What every handler has.
#[derive(Clone)]
pub(crate) struct Native {
    pub(crate) control: Control,
    pub(crate) config: Arc<NativeConfig>,
    pub(crate) limiter: Arc<Limiter>,
}

/// How long a route may take.
#[derive(Clone, Copy)]
enum Pace {
    /// Answers at once.
    Short,
    /// Waits for something to happen, or streams.
    Long,
    /// As `Long`, with a body of any length that is passed on as it comes.
    Upload,
}

macro_rules! table {
    ($($pace:ident $method:ident $path:literal $module:ident::$handler:ident;)*) => {
        /// Method and path of every route behind authentication.
        #[cfg(test)]
        pub(crate) const ROUTES: &[(&str, &str)] = &[$((stringify!($method), $path)),*];

        fn table() -> Router<Native> {
            let mut router = Router::new();
            $(router = router.route($path, paced(Pace::$pace, $method($module::$handler)));)*
            router
        }

        #[derive(utoipa::OpenApi)]
        #[openapi(paths($($module::$handler),*, system::healthz, system::readyz))]
        pub(crate) struct Paths;
    };
}

table! {
    Short get    "/api/v1/version" system::version;
    Short get    "/api/v1/info" system::info;
    Short get    "/api/v1/whoami" system::whoami;
    Short get    "/metrics" system::metrics;
    Short get    "/api/v1/installation" system::installation;
    Short patch  "/api/v1/installation" system::installation_update;
    Short post   "/api/v1/plan" what_if::plan;

    Short get    "/api/v1/pools" pools::list;
    Short get    "/api/v1/pool-use" pools::uses;
    Short post   "/api/v1/pools" pools::create;
    Short get    "/api/v1/pools/{pool}" pools::show;
    Short patch  "/api/v1/pools/{pool}" pools::update;
    Short delete "/api/v1/pools/{pool}" pools::remove;
    Short post   "/api/v1/pools/{pool}/credentials" pools::credentials;

    Short get    "/api/v1/hosts" hosts::list;
    Short get    "/api/v1/hosts/{host}" hosts::show;
    Short patch  "/api/v1/hosts/{host}" hosts::update;
    Short delete "/api/v1/hosts/{host}" hosts::remove;
    Short get    "/api/v1/hosts/{host}/drain" hosts::outlook;
    Short post   "/api/v1/hosts/{host}/drain" hosts::drain;
    Short post   "/api/v1/hosts/{host}/cordon" hosts::cordon;
    Short post   "/api/v1/hosts/{host}/uncordon" hosts::uncordon;
    Short post   "/api/v1/join-tokens" hosts::token;

    Short get    "/api/v1/workloads" workloads::list_all;
    Short get    "/api/v1/pools/{pool}/workloads" workloads::list;
    Short post   "/api/v1/pools/{pool}/workloads" workloads::create;
    Short get    "/api/v1/pools/{pool}/workloads/{workload}" workloads::show;
    Short get    "/api/v1/pools/{pool}/workloads/{workload}/explain" workloads::explain;
    Short patch  "/api/v1/pools/{pool}/workloads/{workload}" workloads::update;
    Long  delete "/api/v1/pools/{pool}/workloads/{workload}" workloads::remove;
    Long  post   "/api/v1/pools/{pool}/workloads/{workload}/start" workloads::start;
    Long  post   "/api/v1/pools/{pool}/workloads/{workload}/stop" workloads::stop;
    Long  post   "/api/v1/pools/{pool}/workloads/{workload}/restart" workloads::restart;
    Long  post   "/api/v1/pools/{pool}/workloads/{workload}/kill" workloads::kill;
    Long  post   "/api/v1/pools/{pool}/workloads/{workload}/pause" workloads::pause;
    Long  post   "/api/v1/pools/{pool}/workloads/{workload}/resume" workloads::resume;
    Long  post   "/api/v1/pools/{pool}/workloads/{workload}/wait" workloads::wait;
    Short post   "/api/v1/pools/{pool}/workloads/{workload}/rename" workloads::rename;
    Short get    "/api/v1/pools/{pool}/workloads/{workload}/top" streams::top;
    Long  get    "/api/v1/pools/{pool}/workloads/{workload}/stats" streams::stats;
    Long  get    "/api/v1/pools/{pool}/workloads/{workload}/logs" streams::logs;
    Long  post   "/api/v1/pools/{pool}/workloads/{workload}/attach" streams::attach;
    Short post   "/api/v1/pools/{pool}/workloads/{workload}/exec" streams::exec_create;
    Long  post   "/api/v1/pools/{pool}/execs/{exec}/start" streams::exec_start;
    Short get    "/api/v1/pools/{pool}/execs/{exec}" streams::exec_show;

    Short get    "/api/v1/pools/{pool}/images" images::list;
    Short get    "/api/v1/pools/{pool}/images/{image}" images::show;
    Short delete "/api/v1/pools/{pool}/images/{image}" images::remove;
    Short post   "/api/v1/pools/{pool}/images/{image}/tag" images::tag;
    Long  post   "/api/v1/pools/{pool}/pull" images::pull;
    Upload post  "/api/v1/pools/{pool}/load" images::load;
    Long  post   "/api/v1/pools/{pool}/save" images::save;

    Long  get    "/api/v1/events" events::list;

    Short get    "/api/v1/principals" access::principals;
    Short post   "/api/v1/principals" access::principal_create;
    Short get    "/api/v1/principals/{principal}" access::principal_show;
    Short delete "/api/v1/principals/{principal}" access::principal_remove;
    Short put    "/api/v1/principals/{principal}/bindings" access::principal_bind;
    Short post   "/api/v1/principals/{principal}/tokens" access::token_create;
    Short get    "/api/v1/tokens" access::tokens;
    Short delete "/api/v1/tokens/{token}" access::token_remove;
}

/// The routes of the API with everything around them.
///
/// The listener inserts [`super::Identity`] for connections it vouches for, [`super::PeerAddress`] for others, and must
/// allow upgrades (`serve_connection_with_upgrades`).
pub fn router(control: Control, config: NativeConfig) -> Router {
    let native = Native {
        control,
        config: Arc::new(config),
        limiter: Arc::new(Limiter::default()),
    };
    table()
        .method_not_allowed_fallback(wrong_method)
        .fallback(nothing_here)
        .layer(from_fn_with_state(native.clone(), authenticate))
        // Around authentication, so that refusals are logged and have an id too.
        .layer(from_fn(access_log::record))
        .merge(
            Router::new()
                .route("/healthz", get(system::healthz))
                .route("/readyz", get(system::readyz)),
        )
        .with_state(native)
}

fn paced(pace: Pace, route: MethodRouter<Native>) -> MethodRouter<Native> {
    match pace {
        Pace::Short => route
            .layer::<_, Infallible>(from_fn(limited))
            .layer(DefaultBodyLimit::max(BODY_MAX_BYTES)),
        Pace::Long => route.layer::<_, Infallible>(DefaultBodyLimit::max(BODY_MAX_BYTES)),
        Pace::Upload => route.layer::<_, Infallible>(DefaultBodyLimit::disable()),
    }
}

async fn limited(request: Request, next: Next) -> Response {
    match tokio::time::timeout(SHORT_LIMIT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Failure::new(
            ProblemKind::Timeout,
            format!("there was no answer within {} s", SHORT_LIMIT.as_secs()),
        )
        .into_response(),
    }
}

async fn nothing_here(request: Request) -> Failure {
    Failure::new(
        ProblemKind::NotFound,
        format!("there is no route {}", request.uri().path()),
    )
    .hint("the routes are in docs/openapi.json")
}

async fn wrong_method(request: Request) -> Failure {
    Failure::new(
        ProblemKind::NotFound,
        format!(
            "there is no route {} {}",
            request.method(),
            request.uri().path()
        ),
    )
    .hint("the routes are in docs/openapi.json")
}
