//! HTTP by hand, for requests that no client library would send.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header lines, lower-cased names.
    pub headers: Vec<(String, String)>,
    /// Body, with chunks joined.
    pub body: Vec<u8>,
}

/// An answer must come within this time, even to nonsense.
const TIMEOUT: Duration = Duration::from_secs(30);

impl Response {
    /// The body as JSON; `Null` if it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A well-formed request with an optional JSON body.
///
/// # Errors
/// When the socket fails or the answer is not HTTP.
pub fn request(socket: &Path, method: &str, target: &str, body: Option<&str>) -> Result<Response> {
    let body = body.unwrap_or_default();
    let kind = if body.is_empty() {
        ""
    } else {
        "Content-Type: application/json\r\n"
    };
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n{kind}Content-Length: {length}\r\n\r\n"
    );
    exchange(socket, &[head.as_bytes(), body.as_bytes()].concat(), false)
}

/// Sends bytes as they are, then nothing more, and reads one answer.
///
/// # Errors
/// When the socket fails or the answer is not HTTP.
pub fn send(socket: &Path, bytes: &[u8]) -> Result<Response> {
    exchange(socket, bytes, true)
}

/// Sends the head of a request alone and, when no answer came for a moment, the body; gives the answer.
///
/// # Errors
/// When the socket fails, or the answer came before the body.
pub fn send_late_body(socket: &Path, head: &[u8], body: &[u8]) -> Result<Response> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.write_all(head)?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut answer = vec![0; 1];
    if let Ok(count) = stream.read(&mut answer) {
        bail!("an answer of at least {count} bytes before the body");
    }
    answer.clear();
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(body)?;
    stream.read_to_end(&mut answer)?;
    parse(&answer)
}

/// With `end`, the client's side is closed after the bytes: a whole request must not do that, it means "gone away".
fn exchange(socket: &Path, bytes: &[u8], end: bool) -> Result<Response> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // The server may refuse and close before it has read everything: its answer still counts.
    let written = stream.write_all(bytes);
    if end {
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer)
        && answer.is_empty()
    {
        written.context("send the request")?;
        return Err(error).context("read the answer");
    }
    parse(&answer)
}

fn parse(answer: &[u8]) -> Result<Response> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let Some(end) = end else {
        bail!("no HTTP answer: {:?}", String::from_utf8_lossy(answer))
    };
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .context("no status")?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let body = &answer[end + 4..];
    let chunked = headers
        .iter()
        .any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let body = if chunked {
        unchunk(body)
    } else {
        body.to_vec()
    };
    Ok(Response {
        status: status.parse()?,
        headers,
        body,
    })
}

/// Joins the chunks of a body; a body that was cut gives what came.
fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&rest[..line]).unwrap_or_default();
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else {
            break;
        };
        let start = line + 2;
        let end = (start + size).min(rest.len());
        body.extend_from_slice(&rest[start..end]);
        if size == 0 || end + 2 > rest.len() {
            break;
        }
        rest = &rest[end + 2..];
    }
    body
}
