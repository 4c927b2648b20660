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
    let follower = Follower {
        host,
        request,
        position,
    };
    Box::pin(futures::stream::unfold(follower, |mut follower| async {
        let piece = follower.next().await?;
        Some((Ok(piece), follower))
    }))
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
            FollowFrom::Start | FollowFrom::End | FollowFrom::Lines(_) | FollowFrom::SinceMs(_) => {
                self.request.run
            }
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
                    return Next::Piece(piece.clone());
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

/// A fake exec: its script's output and end.
pub(super) fn exec(script: Script, now: Timestamp) -> ExecSession {
    let (after, exit_code) = script.end.unwrap_or_default();
    let mut pieces = Vec::new();
    if !script.output.is_empty() {
        pieces.push(Ok(Output {
            stderr: false,
            time: now,
            bytes: Bytes::from(script.output),
        }));
    }
    let output = futures::stream::iter(pieces).chain(
        tokio::time::sleep(after)
            .into_stream()
            .filter_map(|()| async { None }),
    );
    ExecSession {
        output: Box::pin(output),
        input: None,
        exit: Box::pin(async move {
            tokio::time::sleep(after).await;
            Ok(ExecExit {
                exit_code,
                pid: 4242,
            })
        }),
    }
}
