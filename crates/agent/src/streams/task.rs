//! Output, input, further processes and measures of tasks.

use std::time::Duration;

use futures::StreamExt;
use model::{Phase, TaskStatus, WorkloadId};
use tokio::sync::mpsc;
use tracing::debug;
use wire::link::{ExecRequest, FollowRequest, Frame, FrameKind};

use super::{Out, StreamContext, StreamFailure};
use crate::board::Known;
use crate::driver::{DriverError, Output, OutputStream, TaskInput};

/// How often measures are sent.
const STATS_EVERY: Duration = Duration::from_secs(1);
/// Output may still come so long after a failed start was reported; then the follower is told the end.
const LAST_OUTPUT: Duration = Duration::from_millis(200);

async fn send_output(out: &Out, output: Output) -> Result<(), StreamFailure> {
    let kind = if output.stderr {
        FrameKind::Stderr
    } else {
        FrameKind::Stdout
    };
    out.bytes(kind, output.time.millis(), output.bytes).await
}

async fn send_all(out: &Out, mut output: OutputStream) -> Result<(), StreamFailure> {
    while let Some(piece) = output.next().await {
        send_output(out, piece?).await?;
    }
    Ok(())
}

/// Hands input frames to a process until they end.
async fn feed(
    mut input: Box<dyn TaskInput>,
    frames: &mut mpsc::Receiver<Frame>,
) -> Result<(), DriverError> {
    while let Some(frame) = frames.recv().await {
        match frame.kind {
            FrameKind::Stdin => input.write(frame.payload).await?,
            FrameKind::EndInput => {
                input.close().await?;
                break;
            }
            FrameKind::End => break,
            FrameKind::Data
            | FrameKind::Stdout
            | FrameKind::Stderr
            | FrameKind::Json
            | FrameKind::Error => {}
        }
    }
    Ok(())
}

pub(super) async fn follow(
    context: &StreamContext,
    request: &FollowRequest,
    frames: &mut mpsc::Receiver<Frame>,
    out: &mut Out,
) -> Result<(), StreamFailure> {
    let runtime = &context.drivers.runtime;
    let output = runtime.follow(request).await?;
    out.ok().await?;
    let sending = send_all(out, output);
    let hopeless = async {
        match request.run {
            Some(run) => never_begins(context, &request.id, run).await,
            None => std::future::pending().await,
        }
    };
    let feeding = async {
        if request.stdin {
            if let Some(run) = request.run {
                alive(context, &request.id, run).await;
            }
            let fed = match runtime.input(&request.id).await {
                Ok(input) => feed(input, frames).await,
                Err(e) => Err(e),
            };
            if let Err(e) = fed {
                // Input to a process that has ended or closed it: its output still matters.
                debug!(workload = %request.id, error = %e, "input ended");
            }
        }
    };
    tokio::pin!(sending);
    tokio::pin!(hopeless);
    tokio::pin!(feeding);
    let mut fed = false;
    loop {
        tokio::select! {
            result = &mut sending => return result,
            () = &mut feeding, if !fed => fed = true,
            () = &mut hopeless => {
                // Whatever is there already comes first.
                return match tokio::time::timeout(LAST_OUTPUT, &mut sending).await {
                    Ok(result) => result,
                    Err(_) => Ok(()),
                };
            }
        }
    }
}

/// Waits until a run lives or is past.
async fn alive(context: &StreamContext, id: &WorkloadId, run: u64) {
    wait(context, id, |status| {
        status.run > run
            || (status.run == run && (status.phase.is_alive() || status.phase.is_final()))
    })
    .await;
}

/// Waits until it is certain that a run will never write anything: it failed to start, or it was passed over, or the
/// workload is gone.
async fn never_begins(context: &StreamContext, id: &WorkloadId, run: u64) {
    wait(context, id, |status| {
        status.run > run
            || (status.run == run
                && (status.phase == Phase::Failed
                    || (status.phase == Phase::Exited && status.started_at.is_none())))
    })
    .await;
}

async fn wait(context: &StreamContext, id: &WorkloadId, done: impl Fn(&TaskStatus) -> bool) {
    let mut known = context.board.follow(id);
    let found = known
        .wait_for(|known| match known {
            Known::Nothing => false,
            Known::Status(status) => done(status),
            Known::Gone => true,
        })
        .await
        .is_ok();
    if !found {
        // The board is gone: the agent ends, and so will this stream.
        std::future::pending::<()>().await;
    }
}

pub(super) async fn exec(
    context: &StreamContext,
    request: &ExecRequest,
    frames: &mut mpsc::Receiver<Frame>,
    out: &mut Out,
) -> Result<(), StreamFailure> {
    let session = context.drivers.runtime.exec(request).await?;
    out.ok().await?;
    let sending = send_all(out, session.output);
    let feeding = async {
        if let Some(input) = session.input
            && let Err(e) = feed(input, frames).await
        {
            debug!(exec = %request.exec, error = %e, "input ended");
        }
    };
    let mut exit = session.exit;
    tokio::pin!(sending);
    tokio::pin!(feeding);
    let mut fed = false;
    loop {
        tokio::select! {
            result = &mut sending => break result?,
            () = &mut feeding, if !fed => fed = true,
        }
    }
    let exit = loop {
        tokio::select! {
            exit = &mut exit => break exit?,
            () = &mut feeding, if !fed => fed = true,
        }
    };
    out.json(&exit).await
}

pub(super) async fn stats(
    context: &StreamContext,
    id: &WorkloadId,
    follow: bool,
    frames: &mut mpsc::Receiver<Frame>,
    out: &mut Out,
) -> Result<(), StreamFailure> {
    let runtime = &context.drivers.runtime;
    let first = runtime.stats(id).await?;
    out.ok().await?;
    out.json(&first).await?;
    if !follow {
        return Ok(());
    }
    let mut tick = tokio::time::interval(STATS_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.tick().await;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            frame = frames.recv() => match frame.map(|f| f.kind) {
                None | Some(FrameKind::End | FrameKind::EndInput) => return Ok(()),
                Some(_) => continue,
            },
        }
        out.json(&runtime.stats(id).await?).await?;
    }
}
