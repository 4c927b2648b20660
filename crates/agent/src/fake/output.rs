//! Output of fake tasks and execs.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use model::{Phase, Timestamp};

use super::host::FakeHost;
use super::script::Script;
use crate::driver::{ExecExit, ExecSession, FollowFrom, FollowRequest, Output, OutputStream};

/// Where a follower is.
struct Follower {
    host: Arc<FakeHost>,
    request: FollowRequest,
    position: usize,
}

enum Next {
    Piece(Output),
    Wait,
    End,
}

/// Output as the request says.
pub(super) fn follow(host: Arc<FakeHost>, request: FollowRequest) -> OutputStream {
    let position = host.look(|s| {
        let output = s.tasks.get(&request.id).map_or(&[][..], |t| &t.output[..]);
        match request.from {
            FollowFrom::Start | FollowFrom::Run(_) => 0,
            FollowFrom::End => output.len(),
            FollowFrom::Position(position) => usize::try_from(position)
                .unwrap_or(usize::MAX)
                .min(output.len()),
            // Pieces of fake tasks are whole lines.
            FollowFrom::Lines(n) => output
                .len()
                .saturating_sub(usize::try_from(n).unwrap_or(usize::MAX)),
            FollowFrom::SinceMs(ms) => output
                .iter()
                .position(|(_, o)| o.time.millis() >= ms)
                .unwrap_or(output.len()),
        }
    });
    let begin = request.resumable.then(|| Ok(beginning(&host, position)));
    let follower = Follower {
        host,
        request,
        position,
    };
    let rest = futures::stream::unfold(follower, |mut follower| async {
        let piece = follower.next().await?;
        Some((Ok(piece), follower))
    });
    Box::pin(futures::stream::iter(begin).chain(rest))
}

/// Says where output begins.
fn beginning(host: &FakeHost, position: usize) -> Output {
    Output {
        stderr: false,
        time: host.clock.now(),
        bytes: Bytes::new(),
        position: position as u64,
    }
}

impl Follower {
    async fn next(&mut self) -> Option<Output> {
        let mut changed = self.host.changed.subscribe();
        loop {
            match self.look() {
                Next::Piece(piece) => return Some(piece),
                Next::End => return None,
                Next::Wait => changed.changed().await.ok()?,
            }
        }
    }

    fn look(&mut self) -> Next {
        let wanted_run = match self.request.from {
            FollowFrom::Run(run) => Some(run),
            FollowFrom::Start
            | FollowFrom::End
            | FollowFrom::Lines(_)
            | FollowFrom::SinceMs(_)
            | FollowFrom::Position(_) => self.request.run,
        };
        let request = &self.request;
        let position = &mut self.position;
        self.host.look(|s| {
            let Some(task) = s.tasks.get(&request.id) else {
                return if request.follow && wanted_run.is_some() {
                    Next::Wait
                } else {
                    Next::End
                };
            };
            while let Some((run, piece)) = task.output.get(*position) {
                *position += 1;
                let of_run = !matches!(request.from, FollowFrom::Run(wanted) if *run < wanted);
                let stream = if piece.stderr {
                    request.stderr
                } else {
                    request.stdout
                };
                if of_run && stream {
                    return Next::Piece(Output {
                        position: *position as u64,
                        ..piece.clone()
                    });
                }
            }
            if !request.follow {
                return Next::End;
            }
            let begun = wanted_run.is_none_or(|run| task.status.run >= run);
            match task.status.phase {
                Phase::Running | Phase::Paused | Phase::Preparing | Phase::Pending => Next::Wait,
                Phase::Restarting | Phase::Exited | Phase::Failed | Phase::Unknown => {
                    if begun {
                        Next::End
                    } else {
                        Next::Wait
                    }
                }
            }
        })
    }
}

/// A fake exec from its beginning.
#[derive(Debug, Clone)]
pub(super) struct FakeExec {
    /// What it does.
    pub(super) script: Script,
    /// When it began.
    pub(super) began: tokio::time::Instant,
    /// The same for people.
    pub(super) began_at: Timestamp,
}

/// The stream of a fake exec: its script's output after `position` and its end; `None`: only the end.
pub(super) fn exec(
    exec: FakeExec,
    position: Option<u64>,
    arrived: Box<dyn FnOnce() + Send>,
) -> ExecSession {
    let (after, exit_code) = exec.script.end.unwrap_or_default();
    let end = exec.began + after;
    let piece = |position: u64, bytes: String| {
        Ok(Output {
            stderr: false,
            time: exec.began_at,
            bytes: Bytes::from(bytes),
            position,
        })
    };
    let mut pieces = Vec::new();
    if let Some(position) = position {
        pieces.push(piece(position, String::new()));
        if position == 0 && !exec.script.output.is_empty() {
            pieces.push(piece(1, exec.script.output.clone()));
        }
    }
    let output = futures::stream::iter(pieces).chain(
        tokio::time::sleep_until(end)
            .into_stream()
            .filter_map(|()| async { None }),
    );
    ExecSession {
        output: Box::pin(output),
        input: None,
        exit: Box::pin(async move {
            tokio::time::sleep_until(end).await;
            Ok(ExecExit {
                exit_code,
                pid: 4242,
            })
        }),
        arrived,
    }
}
