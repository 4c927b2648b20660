//! A request on its way to its handler.

use axum::body::{Body, Bytes};
use control::{Caller, Control};
use futures::StreamExt as _;
use http::{HeaderMap, StatusCode, Uri, header};
use hyper::upgrade::OnUpgrade;
use model::PoolId;

use super::failure::{Failure, Result};
use super::from_docker::small::query_bool;
use super::value::shown;
use super::version::ApiVersion;

/// Longest JSON body in bytes: a container with every field in use is far below, and two of them fit in a host's
/// message.
const BODY_MAX_BYTES: usize = 4 << 20;

/// Longest query in bytes.
const QUERY_MAX_BYTES: usize = 128 << 10;

/// Who calls and which pool is meant; inserted as a request extension by a listener that finds both in the client's
/// certificate.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Who.
    pub caller: Caller,
    /// Which pool.
    pub pool: PoolId,
}

/// A request, taken apart.
pub(super) struct Call {
    pub(super) control: Control,
    pub(super) caller: Caller,
    pub(super) pool: PoolId,
    pub(super) version: ApiVersion,
    /// What the route's pattern leaves open.
    pub(super) path: Vec<String>,
    pub(super) query: Query,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    pub(super) upgrade: Option<OnUpgrade>,
}

impl Call {
    /// The container, image, … in the path.
    pub(super) fn subject(&self) -> &str {
        self.path.first().map_or("", String::as_str)
    }

    /// Reads a JSON body, bounded; empty if there is none.
    pub(super) async fn json_body(&mut self) -> Result<Bytes> {
        let body = std::mem::take(&mut self.body);
        let bytes = read_body(body).await?;
        if !bytes.is_empty() {
            self.check_content_type()?;
        }
        Ok(bytes)
    }

    /// Browsers can send some types across origins without asking; none of them is JSON.
    fn check_content_type(&self) -> Result<()> {
        let given = self
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        let mut parts = given
            .split(';')
            .map(|part| part.trim().to_ascii_lowercase());
        let json = parts.next().as_deref() == Some("application/json");
        let charset_ok = parts.all(|p| !p.starts_with("charset=") || p == "charset=utf-8");
        if json && charset_ok {
            return Ok(());
        }
        Err(Failure::invalid(format!(
            "unsupported Content-Type header ({}): must be 'application/json'",
            shown(given)
        )))
    }
}

async fn read_body(body: Body) -> Result<Bytes> {
    let too_large = || {
        Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request body is longer than {BODY_MAX_BYTES} bytes"),
        )
    };
    let mut stream = body.into_data_stream();
    let mut first: Option<Bytes> = None;
    let mut rest: Vec<u8> = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk
            .map_err(|_| Failure::invalid("the request body ended early or could not be read"))?;
        match &first {
            None => {
                if chunk.len() > BODY_MAX_BYTES {
                    return Err(too_large());
                }
                first = Some(chunk);
            }
            Some(begin) => {
                if rest.is_empty() {
                    rest.extend_from_slice(begin);
                }
                if rest.len() + chunk.len() > BODY_MAX_BYTES {
                    return Err(too_large());
                }
                rest.extend_from_slice(&chunk);
            }
        }
    }
    Ok(if rest.is_empty() {
        first.unwrap_or_default()
    } else {
        rest.into()
    })
}

/// The query, decoded; of a repeated key the first value counts, as in Go.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(uri: &Uri) -> Result<Self> {
        if uri
            .query()
            .is_some_and(|query| query.len() > QUERY_MAX_BYTES)
        {
            return Err(Failure::new(
                StatusCode::URI_TOO_LONG,
                format!("the query is longer than {QUERY_MAX_BYTES} bytes"),
            ));
        }
        axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map(|query| Self(query.0))
            .map_err(|_| Failure::invalid("the query is malformed"))
    }

    /// A value; `None` if the key is absent.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, value)| value.as_str())
    }

    /// A value that is not empty.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| !value.is_empty())
    }

    /// All values of a key.
    pub(super) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, value)| value.as_str())
    }

    /// A boolean; absent: false.
    pub(super) fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(query_bool)
    }

    /// A boolean with a default.
    pub(super) fn flag_or(&self, key: &str, default: bool) -> bool {
        self.get(key).map_or(default, query_bool)
    }

    /// A whole number; `None` if absent or empty.
    pub(super) fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>> {
        self.text(key)
            .map(|text| {
                text.parse().map_err(|_| {
                    Failure::invalid(format!("{key}: \"{}\" is not a valid number", shown(text)))
                })
            })
            .transpose()
    }

    /// A moment as milliseconds since the epoch: seconds with fraction, RFC 3339, or a duration before now (`10m`).
    pub(super) fn moment(&self, key: &str, now_ms: i64) -> Result<Option<i64>> {
        self.text(key)
            .map(|text| {
                moment(text, now_ms).ok_or_else(|| {
                    Failure::invalid(format!("{key}: \"{}\" is not a valid time", shown(text)))
                })
            })
            .transpose()
    }
}

/// Reads a moment, see [`Query::moment`].
pub(super) fn moment(text: &str, now_ms: i64) -> Option<i64> {
    if let Some(ms) = unix_seconds(text) {
        return Some(ms);
    }
    if let Ok(stamp) = text.parse::<jiff::Timestamp>() {
        return Some(stamp.as_millisecond());
    }
    if let Ok(local) = text.parse::<jiff::civil::DateTime>() {
        let zoned = local.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        return Some(zoned.timestamp().as_millisecond());
    }
    duration_ms(text).map(|ms| now_ms.saturating_sub(ms))
}

/// `1700000000.123456789`.
fn unix_seconds(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) || fraction.len() > 9 {
        return None;
    }
    let millis: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let sign = if text.starts_with('-') { -1 } else { 1 };
    seconds.checked_mul(1000)?.checked_add(sign * millis)
}

/// A Go duration, `1h30m`, `1.5s`, `300ms`.
fn duration_ms(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let factor = match &rest[..unit_end] {
            "ms" => 1.0,
            "s" => 1_000.0,
            "m" => 60_000.0,
            "h" => 3_600_000.0,
            _ => return None,
        };
        total += number * factor;
        rest = &rest[unit_end..];
    }
    #[expect(clippy::cast_possible_truncation, reason = "bounded here")]
    (total < 9.0e15).then_some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_in_every_form() {
        for (text, ms) in [
            ("1700000000", Some(1_700_000_000_000)),
            ("1700000000.123456789", Some(1_700_000_000_123)),
            ("1700000000.5", Some(1_700_000_000_500)),
            ("0", Some(0)),
            ("2023-11-14T22:13:20Z", Some(1_700_000_000_000)),
            ("2023-11-14T22:13:20.5+00:00", Some(1_700_000_000_500)),
            ("2023-11-14T22:13:20", Some(1_700_000_000_000)),
            ("1h30m", Some(-5_400_000)),
            ("1.5s", Some(-1_500)),
            ("zz", None),
            ("1x", None),
            ("", None),
        ] {
            assert_eq!(moment(text, 0), ms, "{text}");
        }
    }
}
