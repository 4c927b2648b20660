//! Output, input, further processes and measures of tasks.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use model::{Phase, TaskStatus, WorkloadId};
use tokio::sync::mpsc;
use tracing::debug;
use wire::link::{ExecRequest, ExecResume, FollowRequest, Frame, FrameKind};

use super::{Out, StreamContext, StreamFailure};
use crate::board::Known;
use crate::driver::{DriverError, ExecSession, Output, OutputStream, TaskInput};

/// How often measures are sent.
const STATS_EVERY: Duration = Duration::from_secs(1);
/// Output may still come so long after a failed start was reported; then the follower is told the end.
const LAST_OUTPUT: Duration = Duration::from_millis(200);

/// How long the server may take to say that the exit of an exec has arrived.
const ARRIVAL: Duration = Duration::from_secs(10);

/// Whether frames say where they end and how much input was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Positions {
    Told,
    Untold,
}

impl Positions {
    fn of(resumable: bool) -> Self {
        if resumable { Self::Told } else { Self::Untold }
    }

    fn tell(self, position: u64) -> Option<u64> {
        (self == Self::Told).then_some(position)
    }
}

async fn send_all(
    out: &Out,
    mut output: OutputStream,
    positions: Positions,
) -> Result<(), StreamFailure> {
    while let Some(piece) = output.next().await {
        let Output {
            stderr,
            time,
            bytes,
            position,
        } = piece?;
        let kind = if stderr {
            FrameKind::Stderr
        } else {
            FrameKind::Stdout
        };
        let frame = Frame {
            kind,
            time_ms: time.millis(),
            position: positions.tell(position),
            payload: bytes,
        };
        out.split(frame).await?;
    }
    Ok(())
}

/// Hands input frames to a process until they end, and says how far it is.
async fn feed(
    mut input: Box<dyn TaskInput>,
    frames: &mut mpsc::Receiver<Frame>,
    out: &Out,
    positions: Positions,
) -> Result<(), StreamFailure> {
    let mut taken = 0;
    while let Some(frame) = frames.recv().await {
        match frame.kind {
            FrameKind::Stdin => {
                taken += frame.payload.len() as u64;
                input.write(frame.payload).await?;
                if let Some(position) = positions.tell(taken) {
                    let taken = Frame {
                        position: Some(position),
                        ..Frame::new(FrameKind::Stdin, Bytes::new())
                    };
                    out.frame(&taken).await?;
                }
            }
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

/// Input of a process until it ends; one that takes no more does not end its output.
async fn feed_to_end(
    input: Result<Box<dyn TaskInput>, DriverError>,
    frames: &mut mpsc::Receiver<Frame>,
    out: &Out,
    positions: Positions,
) {
    let fed = match input {
        Ok(input) => feed(input, frames, out, positions).await,
        Err(error) => Err(error.into()),
    };
    let Err(error) = fed else { return };
    debug!(%error, "input ended");
    if positions == Positions::Told {
        // Whoever is gone needs no word.
        let _ = out
            .frame(&Frame::new(FrameKind::EndInput, Bytes::new()))
            .await;
    }
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
    let positions = Positions::of(request.resumable);
    let out = &*out;
    let sending = send_all(out, output, positions);
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
            // Input to a process that has ended or closed it: its output still matters.
            feed_to_end(runtime.input(&request.id).await, frames, out, positions).await;
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
    serve_exec(session, Positions::of(request.resumable), frames, out).await
}

pub(super) async fn resume(
    context: &StreamContext,
    request: &ExecResume,
    frames: &mut mpsc::Receiver<Frame>,
    out: &mut Out,
) -> Result<(), StreamFailure> {
    let session = context.drivers.runtime.exec_resume(request).await?;
    out.ok().await?;
    serve_exec(session, Positions::Told, frames, out).await
}

async fn serve_exec(
    session: ExecSession,
    positions: Positions,
    frames: &mut mpsc::Receiver<Frame>,
    out: &Out,
) -> Result<(), StreamFailure> {
    let sending = send_all(out, session.output, positions);
    let mut exit = session.exit;
    let exit = {
        let feeding = async {
            if let Some(input) = session.input {
                feed_to_end(Ok(input), frames, out, positions).await;
            }
        };
        let outcome = async {
            sending.await?;
            Ok::<_, StreamFailure>((&mut exit).await?)
        };
        tokio::pin!(feeding, outcome);
        tokio::select! {
            exit = &mut outcome => exit?,
            () = &mut feeding => outcome.await?,
        }
    };
    out.json(&exit).await?;
    if positions == Positions::Told && has_arrived(frames).await {
        (session.arrived)();
    }
    Ok(())
}

/// Waits until the server says that it has everything.
async fn has_arrived(frames: &mut mpsc::Receiver<Frame>) -> bool {
    let end = async {
        while let Some(frame) = frames.recv().await {
            if frame.kind == FrameKind::End {
                return true;
            }
        }
        false
    };
    tokio::time::timeout(ARRIVAL, end).await.unwrap_or(false)
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
