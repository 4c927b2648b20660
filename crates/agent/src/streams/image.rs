//! Pulling, loading, saving images and sending blobs.

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use wire::link::{
    ErrorClass, Frame, FrameKind, ImageProgress, ImportResult, ImportedImage, PullRequest,
};

use super::{Out, StreamContext, StreamFailure};
use crate::driver::{ByteStream, DriverError};

/// Progress lines that wait: more slows the pull, which is what a slow reader should do.
const PROGRESS_QUEUE: usize = 64;
/// Pieces of an archive that wait for the store.
const ARCHIVE_QUEUE: usize = 4;

fn read_failed(error: &std::io::Error) -> StreamFailure {
    DriverError::new(
        ErrorClass::Failed,
        format!("cannot read the image: {error}"),
    )
    .into()
}

pub(super) async fn send(mut bytes: ByteStream, out: &Out) -> Result<(), StreamFailure> {
    while let Some(piece) = bytes.next().await {
        let piece = piece.map_err(|e| read_failed(&e))?;
        out.bytes(FrameKind::Data, piece).await?;
    }
    Ok(())
}

pub(super) async fn pull(
    context: &StreamContext,
    request: &PullRequest,
    out: &mut Out,
) -> Result<(), StreamFailure> {
    let (sender, progress) = mpsc::channel(PROGRESS_QUEUE);
    out.ok().await?;
    let pull = async {
        let image = context.drivers.images.pull(request, sender).await?;
        Ok(vec![image])
    };
    with_progress(pull, progress, out).await
}

pub(super) async fn load(
    context: &StreamContext,
    frames: mpsc::Receiver<Frame>,
    out: &mut Out,
) -> Result<(), StreamFailure> {
    let (sender, progress) = mpsc::channel(PROGRESS_QUEUE);
    let (feed, archive) = mpsc::channel::<std::io::Result<Bytes>>(ARCHIVE_QUEUE);
    let archive = tokio_stream::wrappers::ReceiverStream::new(archive);
    out.ok().await?;
    let load = async {
        let load = context.drivers.images.load(Box::pin(archive), sender);
        // The store may be content before the archive's padding has all come; the rest is not waited for.
        tokio::pin!(load);
        let feeding = feed_archive(frames, feed);
        tokio::pin!(feeding);
        let mut fed = false;
        loop {
            tokio::select! {
                result = &mut load => return result,
                () = &mut feeding, if !fed => fed = true,
            }
        }
    };
    with_progress(load, progress, out).await
}

async fn feed_archive(
    mut frames: mpsc::Receiver<Frame>,
    feed: mpsc::Sender<std::io::Result<Bytes>>,
) {
    while let Some(frame) = frames.recv().await {
        match frame.kind {
            FrameKind::Data => {
                if feed.send(Ok(frame.payload)).await.is_err() {
                    return;
                }
            }
            FrameKind::EndInput | FrameKind::End => return,
            FrameKind::Stdin
            | FrameKind::Stdout
            | FrameKind::Stderr
            | FrameKind::Json
            | FrameKind::Error => break,
        }
    }
    // The sender has gone half-way: a cut archive must not look like a whole one.
    let cut = std::io::Error::new(
        std::io::ErrorKind::UnexpectedEof,
        "the sender stopped before the archive's end",
    );
    let _ = feed.send(Err(cut)).await;
}

async fn with_progress(
    work: impl Future<Output = Result<Vec<ImportedImage>, DriverError>>,
    mut progress: mpsc::Receiver<ImageProgress>,
    out: &Out,
) -> Result<(), StreamFailure> {
    tokio::pin!(work);
    let images = loop {
        tokio::select! {
            result = &mut work => break result?,
            Some(line) = progress.recv() => out.json(&line).await?,
        }
    };
    while let Ok(line) = progress.try_recv() {
        out.json(&line).await?;
    }
    out.json(&ImportResult { images }).await
}
