//! Who calls.
//!
//! The local listener vouches for whoever can open its socket by inserting an [`Identity`]; everyone else shows a
//! token. Failures are all answered alike, and counted per address, so that tokens cannot be guessed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use control::Caller;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};
use wire::native::ProblemKind;

use super::failure::Failure;
use super::table::Native;

/// Who is at the other end, as the listener knows it; or as found by [`authenticate`].
#[derive(Debug, Clone)]
pub struct Identity(pub Caller);

/// Address of the other end; inserted by TCP listeners, for counting failed logins.
#[derive(Debug, Clone, Copy)]
pub struct PeerAddress(pub IpAddr);

/// Failures an address may have within [`WINDOW`]: more than a person with an old token makes, far fewer than guessing
/// needs.
const FAILURES_MAX: u32 = 10;
/// Time over which failures are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered; beyond it all new ones share one count.
const ADDRESSES_MAX: usize = 4096;

/// Counts failed logins by address.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    failures: Mutex<HashMap<Option<IpAddr>, (Instant, u32)>>,
}

impl Limiter {
    fn blocked(&self, peer: Option<IpAddr>, now: Instant) -> bool {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |peer| {
            failures.get(&peer).is_some_and(|(since, count)| {
                now.duration_since(*since) < WINDOW && *count >= FAILURES_MAX
            })
        };
        count(peer)
            || (!failures.contains_key(&peer) && failures.len() >= ADDRESSES_MAX && count(None))
    }

    fn failed(&self, peer: Option<IpAddr>, now: Instant) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= ADDRESSES_MAX {
            failures.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
        }
        let full = failures.len() >= ADDRESSES_MAX && !failures.contains_key(&peer);
        let entry = failures.entry(peer.filter(|_| !full)).or_insert((now, 0));
        if now.duration_since(entry.0) >= WINDOW {
            *entry = (now, 0);
        }
        entry.1 += 1;
    }
}

/// Lets a request through with an [`Identity`], or refuses it.
pub(crate) async fn authenticate(
    State(native): State<Native>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Some(identity) = request.extensions().get::<Identity>().cloned() {
        return with_caller(next.run(request).await, identity);
    }
    let peer = request.extensions().get::<PeerAddress>().map(|peer| peer.0);
    let now = Instant::now();
    if native.limiter.blocked(peer, now) {
        return Failure::new(
            ProblemKind::TooManyRequests,
            "too many failed logins from this address",
        )
        .hint("wait a minute")
        .into_response();
    }
    let token = bearer(request.headers());
    let caller = token.and_then(|token| native.control.authenticate_token(token).ok());
    let Some(caller) = caller else {
        // Showing none is not guessing.
        if token.is_some() {
            native.limiter.failed(peer, now);
        }
        let failure = Failure::new(
            ProblemKind::Unauthenticated,
            "no valid access token was shown",
        )
        .hint("log in with `plimsoll login URL`; an administrator makes tokens with `plimsoll token create`");
        let mut response = failure.into_response();
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    };
    let identity = Identity(caller);
    request.extensions_mut().insert(identity.clone());
    with_caller(next.run(request).await, identity)
}

/// Leaves word for the access log.
fn with_caller(mut response: Response, identity: Identity) -> Response {
    response.extensions_mut().insert(identity);
    response
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_is_stopped_per_address() {
        let limiter = Limiter::default();
        let (bad, good) = (
            Some(IpAddr::from([10, 0, 0, 1])),
            Some(IpAddr::from([10, 0, 0, 2])),
        );
        let start = Instant::now();
        for _ in 0..FAILURES_MAX {
            assert!(!limiter.blocked(bad, start));
            limiter.failed(bad, start);
        }
        assert!(limiter.blocked(bad, start));
        assert!(!limiter.blocked(good, start));
        assert!(!limiter.blocked(bad, start + WINDOW));
    }

    #[test]
    fn many_addresses_do_not_fill_memory() {
        let limiter = Limiter::default();
        let start = Instant::now();
        for n in 0..20_000u32 {
            limiter.failed(Some(IpAddr::from(n.to_be_bytes())), start);
        }
        assert!(limiter.failures.lock().unwrap().len() <= ADDRESSES_MAX + 1);
        assert!(limiter.blocked(Some(IpAddr::from([1, 2, 3, 4])), start));
    }
}
