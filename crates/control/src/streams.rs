//! What goes straight through to a host: output, input, measures.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{PoolId, Workload, WorkloadId};
use wire::link::{FollowFrom, FollowRequest, Frame, FrameKind, ProcessTable, StreamRequest};

use crate::caller::{Action, Caller, Scope};
use crate::core::{Control, Seen};
use crate::error::{Error, ErrorKind, Result};
use crate::kept::Kept;
use crate::links::LinkStream;
use crate::resume::Subject;
use crate::workloads::running_host;

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowOptions {
    /// Where to begin.
    pub from: FollowFrom,
    /// Stop at this time.
    pub until_ms: Option<i64>,
    /// Go on until the run ends.
    pub follow: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// How to attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachOptions {
    /// What was written before, too.
    pub logs: bool,
    /// What comes from now on.
    pub stream: bool,
    /// Send input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// A short list of processes is read at once.
const TOP_LIMIT: Duration = Duration::from_secs(15);

impl Control {
    /// Output of a workload, also of one that has ended.
    ///
    /// # Errors
    /// When its host cannot be reached.
    pub async fn workload_follow(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        options: FollowOptions,
    ) -> Result<LinkStream> {
        let workload = self.stream_subject(caller, Action::WorkloadRead, pool, id)?;
        let Some(host) = &workload.host else {
            return Ok(empty_stream());
        };
        let request = FollowRequest {
            id: id.clone(),
            from: options.from,
            until_ms: options.until_ms,
            follow: options.follow && !workload.status.phase.is_final(),
            stdout: options.stdout,
            stderr: options.stderr,
            stdin: false,
            run: None,
            resumable: true,
        };
        self.open_resumable(host, Subject::Follow(request)).await
    }

    /// Attaches to a workload. Accepted before the start: then it follows the next run from its first byte, and input
    /// waits until it runs.
    ///
    /// # Errors
    /// When there is no such workload or its host cannot be reached.
    pub async fn workload_attach(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        options: AttachOptions,
    ) -> Result<LinkStream> {
        let action = if options.stdin {
            Action::WorkloadExec
        } else {
            Action::WorkloadRead
        };
        let workload = self.stream_subject(caller, action, pool, id)?;
        let over = workload.status.phase.is_final() && workload.status.run >= workload.run;
        if workload.run > 0 && !over {
            return self.attach_now(&workload, options, workload.run).await;
        }
        if !options.stream {
            return Ok(empty_stream());
        }
        Ok(self.attach_later(&workload, options))
    }

    async fn attach_now(
        &self,
        workload: &Workload,
        options: AttachOptions,
        run: u64,
    ) -> Result<LinkStream> {
        let host = workload.host.as_ref().ok_or_else(crate::links::host_gone)?;
        let from = match (options.logs, workload.status.phase.is_alive()) {
            (true, _) => FollowFrom::Start,
            (false, true) => FollowFrom::End,
            (false, false) => FollowFrom::Run(run),
        };
        let request = attach_request(workload, options, from, run);
        self.open_resumable(host, Subject::Follow(request)).await
    }

    /// A stream that connects once the next run has been placed.
    fn attach_later(&self, workload: &Workload, options: AttachOptions) -> LinkStream {
        let (near, mut far) = LinkStream::pair();
        let (control, id, before) = (self.clone(), workload.id.clone(), workload.run);
        let connecting = Connecting::begin(self, &workload.id);
        tokio::spawn(async move {
            let placed = control.wait_workload(&id, None, |_, seen| match seen {
                Seen::Gone(_) => Some(Err(crate::error::Error::not_found(
                    "container",
                    id.as_str(),
                ))),
                Seen::There(w) if w.run > before && w.host.is_some() => {
                    Some(Ok((w.clone(), w.run)))
                }
                Seen::There(w) if w.desired == model::DesiredState::Removed => {
                    Some(Err(Error::conflict("it was removed")))
                }
                Seen::There(_) => None,
            });
            let placed = tokio::select! {
                placed = placed => placed,
                () = far.send.closed() => return,
            };
            let Ok((workload, run)) = placed else {
                return end(&far, None).await;
            };
            let Some(host) = &workload.host else {
                return end(&far, None).await;
            };
            let request = attach_request(&workload, options, FollowFrom::Run(run), run);
            match control.open_resumable(host, Subject::Follow(request)).await {
                Ok(host_end) => {
                    // The host knows of the reader now: from here on it keeps the output until it is read.
                    drop(connecting);
                    pump(host_end, &mut far).await;
                }
                Err(error) => end(&far, Some(&error)).await,
            }
        });
        near
    }

    /// Changes the terminal's size of a workload or one of its execs.
    ///
    /// # Errors
    /// When it does not run.
    #[expect(
        clippy::too_many_arguments,
        reason = "who, where, what, and how: the form of every verb"
    )]
    pub async fn workload_resize(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        exec: Option<&str>,
        (rows, columns): (u16, u16),
    ) -> Result<()> {
        let workload = self.stream_subject(caller, Action::WorkloadExec, pool, id)?;
        let host = running_host(&workload)?;
        let exec = exec.map(str::to_owned);
        self.request_host(
            &host,
            StreamRequest::Resize {
                id: id.clone(),
                exec,
                rows,
                columns,
            },
        )
        .await
    }

    /// Measures: [`FrameKind::Json`] frames with [`wire::link::TaskStats`].
    ///
    /// # Errors
    /// When its host cannot be reached.
    pub async fn workload_stats(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        follow: bool,
    ) -> Result<LinkStream> {
        let workload = self.stream_subject(caller, Action::WorkloadRead, pool, id)?;
        let host = running_host(&workload)?;
        self.open_stream(
            &host,
            StreamRequest::Stats {
                id: id.clone(),
                follow,
            },
        )
        .await
    }

    /// Processes of a running workload.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn workload_top(
        &self,
        caller: &Caller,
        pool: &PoolId,
        id: &WorkloadId,
        ps_args: &str,
    ) -> Result<ProcessTable> {
        let workload = self.stream_subject(caller, Action::WorkloadRead, pool, id)?;
        let host = running_host(&workload)?;
        let request = StreamRequest::Top {
            id: id.clone(),
            ps_args: ps_args.to_owned(),
        };
        let mut stream = self.open_stream(&host, request).await?;
        tokio::time::timeout(TOP_LIMIT, stream.next_json())
            .await
            .map_err(|_| {
                Error::new(
                    ErrorKind::Unavailable,
                    "the host did not answer in time: try again",
                )
            })?
    }

    pub(crate) fn stream_subject(
        &self,
        caller: &Caller,
        action: Action,
        pool: &PoolId,
        id: &WorkloadId,
    ) -> Result<Kept<Workload>> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, action, Scope::Pool(pool))?;
        self.workload_get(&snapshot, pool, id)
    }
}

/// Attaches that wait for a run to be placed. A workload that removes itself at its end is kept until they are
/// connected, so that a short task's output reaches whoever asked for it before the start.
#[derive(Default)]
pub(crate) struct Attaching {
    counts: Mutex<HashMap<WorkloadId, usize>>,
}

impl Attaching {
    fn counts(&self) -> MutexGuard<'_, HashMap<WorkloadId, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn any(&self, id: &WorkloadId) -> bool {
        self.counts().contains_key(id)
    }
}

/// One of them, until it is dropped.
pub(crate) struct Connecting {
    control: Control,
    id: WorkloadId,
}

impl Connecting {
    pub(crate) fn begin(control: &Control, id: &WorkloadId) -> Self {
        *control
            .inner
            .attaching
            .counts()
            .entry(id.clone())
            .or_default() += 1;
        Self {
            control: control.clone(),
            id: id.clone(),
        }
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        {
            let mut counts = self.control.inner.attaching.counts();
            let Some(count) = counts.get_mut(&self.id) else {
                return;
            };
            *count -= 1;
            if *count > 0 {
                return;
            }
            counts.remove(&self.id);
        }
        let ended = self
            .control
            .snapshot()
            .workload(&self.id)
            .is_some_and(|w| crate::observe::is_to_go(&w));
        if ended && let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (control, id) = (self.control.clone(), self.id.clone());
            runtime.spawn(async move { control.remove_ended(&id).await });
        }
    }
}

fn attach_request(
    workload: &Workload,
    options: AttachOptions,
    from: FollowFrom,
    run: u64,
) -> FollowRequest {
    FollowRequest {
        id: workload.id.clone(),
        from,
        until_ms: None,
        follow: options.stream,
        stdout: options.stdout,
        stderr: options.stderr,
        stdin: options.stdin && options.stream && workload.spec.task.stdin_open,
        run: Some(run),
        resumable: true,
    }
}

/// A stream that has ended.
fn empty_stream() -> LinkStream {
    let (near, far) = LinkStream::pair();
    let _ = far.send.try_send(Frame::end());
    near
}

/// Ends a stream towards its reader.
pub(crate) async fn end(far: &LinkStream, error: Option<&Error>) {
    let frame = match error {
        None => Frame::end(),
        Some(error) => {
            let error = wire::link::StreamError {
                class: wire::link::ErrorClass::Failed,
                message: error.message.clone(),
            };
            Frame::json(&error).map_or_else(
                |_| Frame::end(),
                |frame| Frame {
                    kind: FrameKind::Error,
                    ..frame
                },
            )
        }
    };
    let _ = far.send.send(frame).await;
}

/// Passes frames between two streams until both directions are done.
async fn pump(mut host: LinkStream, far: &mut LinkStream) {
    let mut input_open = true;
    loop {
        tokio::select! {
            frame = host.recv.recv() => match frame {
                Some(frame) => {
                    if far.send.send(frame).await.is_err() {
                        return;
                    }
                }
                None => return,
            },
            frame = far.recv.recv(), if input_open => match frame {
                Some(frame) => input_open = host.send.send(frame).await.is_ok(),
                None => {
                    input_open = false;
                    // The client is gone: dropping the way to the host detaches it, output goes on to be drained.
                    if far.send.is_closed() {
                        return;
                    }
                }
            },
        }
    }
}
