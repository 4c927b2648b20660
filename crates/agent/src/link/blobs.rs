//! Blobs of other hosts, relayed by a server.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use http_body_util::BodyExt;
use model::Digest;
use wire::client::http2;

use super::{Links, refusal_text};
use crate::driver::{BlobSource, ByteStream, DriverError, ErrorClass};

/// Longest wait for a server to find a host that has the blob.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest refusal read.
const REFUSAL_BYTES: usize = 16 << 10;

/// Fetches blobs over whichever link is open.
pub(crate) struct LinkBlobs {
    pub(crate) links: Arc<Links>,
}

#[async_trait]
impl BlobSource for LinkBlobs {
    async fn open(&self, digest: &Digest) -> Result<ByteStream, DriverError> {
        let mut last = DriverError::new(
            ErrorClass::Failed,
            format!("cannot fetch blob {digest}: no server is reachable"),
        );
        for (server, sender) in self.links.all() {
            match open(&server, sender, digest).await {
                Ok(stream) => return Ok(stream),
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

async fn open(
    server: &str,
    mut sender: http2::Sender,
    digest: &Digest,
) -> Result<ByteStream, DriverError> {
    let failed = |class, why: String| {
        DriverError::new(
            class,
            format!("cannot fetch blob {digest} from {server}: {why}"),
        )
    };
    let request = http::Request::get(format!("https://{server}/link/v1/blobs/{digest}"))
        .body(http2::empty())
        .map_err(|e| failed(ErrorClass::Failed, e.to_string()))?;
    let response = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request))
        .await
        .map_err(|_| failed(ErrorClass::Failed, "it took too long".to_owned()))?
        .map_err(|e| failed(ErrorClass::Failed, e.to_string()))?;
    let status = response.status();
    if status.is_success() {
        let data = response
            .into_body()
            .into_data_stream()
            .map(|piece| piece.map_err(std::io::Error::other));
        return Ok(Box::pin(data));
    }
    let limited = http_body_util::Limited::new(response.into_body(), REFUSAL_BYTES);
    let text = match tokio::time::timeout(ANSWER_TIMEOUT, limited.collect()).await {
        Ok(Ok(body)) => refusal_text(&body.to_bytes()),
        Ok(Err(_)) | Err(_) => String::new(),
    };
    let class = if status == http::StatusCode::NOT_FOUND {
        ErrorClass::NotFound
    } else {
        ErrorClass::Failed
    };
    Err(failed(class, format!("{status}: {text}")))
}
