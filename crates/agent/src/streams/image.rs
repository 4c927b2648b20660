//! Pulling, loading, saving images and sending blobs.

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use wire::link::{
    ErrorClass, Frame, FrameKind, ImageProgress, ImportRecorded, ImportResult, PullRequest,
};

use super::{Out, StreamContext, StreamFailure};
use crate::driver::{ByteStream, DriverError, Imported};

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
    mut frames: mpsc::Receiver<Frame>,
    out: &mut Out,
) -> Result<(), StreamFailure> {
    let (sender, progress) = mpsc::channel(PROGRESS_QUEUE);
    out.ok().await?;
    let pull = context.drivers.images.pull(request, sender);
    let imported = with_progress(pull, progress, out).await?;
    conclude(context, imported, &mut frames, out).await
}

pub(super) async fn load(
    context: &StreamContext,
    mut frames: mpsc::Receiver<Frame>,
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
        let feeding = feed_archive(&mut frames, feed);
        tokio::pin!(feeding);
        let mut fed = false;
        loop {
            tokio::select! {
                result = &mut load => return result,
                () = &mut feeding, if !fed => fed = true,
            }
        }
    };
    let imported = with_progress(load, progress, out).await?;
    conclude(context, imported, &mut frames, out).await
}

async fn feed_archive(
    frames: &mut mpsc::Receiver<Frame>,
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
    work: impl Future<Output = Result<Imported, DriverError>>,
    mut progress: mpsc::Receiver<ImageProgress>,
    out: &Out,
) -> Result<Imported, StreamFailure> {
    tokio::pin!(work);
    let imported = loop {
        tokio::select! {
            result = &mut work => break result?,
            Some(line) = progress.recv() => out.json(&line).await?,
        }
    };
    while let Ok(line) = progress.try_recv() {
        out.json(&line).await?;
    }
    Ok(imported)
}

/// Says what came in and keeps it until the server has answered: only then is an order to delete it that is on its
/// way known to be older.
async fn conclude(
    context: &StreamContext,
    imported: Imported,
    frames: &mut mpsc::Receiver<Frame>,
    out: &Out,
) -> Result<(), StreamFailure> {
    let Imported { images, lease } = imported;
    let ids = images.iter().map(|image| image.content.config.clone());
    let hold = context.imports.hold(ids.collect(), lease).await;
    out.json(&ImportResult { images }).await?;
    while let Some(frame) = frames.recv().await {
        // What is left of an archive's padding comes first.
        if frame.kind == FrameKind::Json {
            hold.recorded(frame.parse::<ImportRecorded>()?.revision);
            break;
        }
    }
    Ok(())
}
