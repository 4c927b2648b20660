//! Streams of a task that outlive the link they came over.
//!
//! When a host's stream breaks off (its agent was killed, the network failed) it is opened again at the position where
//! it stopped as soon as the host is back, and the client notices nothing. After [`BACK_LIMIT`] the client is told.
//!
//! What it is not: it keeps no output. What is written meanwhile is in the host's log; if so much was written that the
//! log has dropped what was not read yet, the host says so and the stream ends with that error.
//!
//! Input is never sent twice. What the host has taken is with the task's supervisor; if the link breaks while some of it
//! was on its way, nobody knows whether the task got it, and the stream ends with an error that says so. Input that
//! comes while the host is away waits with the client.

use std::time::Duration;

use model::HostId;
use tokio::time::Instant;
use wire::link::{
    ErrorClass, ExecRequest, ExecResume, FollowFrom, FollowRequest, Frame, FrameKind, StreamError,
    StreamRequest,
};

use crate::core::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::links::LinkStream;
use crate::streams::{Connecting, end};

/// How long a client waits for the host to come back: an agent's restart takes seconds, and its waits between dials are
/// at most 10 s.
const BACK_LIMIT: Duration = Duration::from_secs(60);

/// How long the exit code of an exec is asked for after that; as long as hosts keep it.
const EXIT_LIMIT: Duration = Duration::from_secs(600);

/// Pause before a host that is connected and cannot open the stream is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// What a stream is for, and how it is asked for again.
pub(crate) enum Subject {
    /// Output, and input if it is attached.
    Follow(FollowRequest),
    /// A further process.
    Exec(ExecRequest),
}

impl Subject {
    /// The first request.
    pub(crate) fn request(&self) -> StreamRequest {
        match self {
            Self::Follow(follow) => StreamRequest::Follow(follow.clone()),
            Self::Exec(exec) => StreamRequest::Exec(exec.clone()),
        }
    }

    fn is_exec(&self) -> bool {
        matches!(self, Self::Exec(_))
    }
}

/// Input of a stream as far as it has come.
#[derive(Debug, Clone, Copy, Default)]
struct Input {
    /// Bytes sent over the present link.
    sent: u64,
    /// Of these, bytes the host has handed on.
    taken: u64,
    /// The client has ended it.
    ended: bool,
    /// The task takes no more.
    refused: bool,
}

impl Input {
    /// Bytes of which nobody knows whether they arrived.
    fn in_doubt(self) -> u64 {
        if self.refused {
            0
        } else {
            self.sent.saturating_sub(self.taken)
        }
    }
}

/// How a stream over one link came to its end.
enum Passed {
    /// It ended, or nobody listens any more.
    Over,
    /// The link broke.
    Broken,
    /// The host could not go on; the client was told.
    Failed,
}

struct Resumed {
    control: Control,
    host: HostId,
    subject: Subject,
    /// Where the output that the client has ends.
    position: Option<u64>,
    /// Whether the client has any.
    begun: bool,
    input: Input,
    /// Input that was not sent, because the link was gone.
    unsent: Option<Frame>,
    /// Whether the client was told that nothing more comes.
    told: bool,
    far: LinkStream,
}

impl Control {
    /// Opens a stream that outlives its link.
    pub(crate) async fn open_resumable(
        &self,
        host: &HostId,
        subject: Subject,
    ) -> Result<LinkStream> {
        let first = self.open_stream(host, subject.request()).await?;
        let (near, far) = LinkStream::pair();
        let resumed = Resumed {
            control: self.clone(),
            host: host.clone(),
            subject,
            position: None,
            begun: false,
            input: Input::default(),
            unsent: None,
            told: false,
            far,
        };
        tokio::spawn(resumed.carry(first));
        Ok(near)
    }
}

impl Resumed {
    async fn carry(mut self, mut link: LinkStream) {
        loop {
            match self.pass(&mut link).await {
                Passed::Over => return,
                Passed::Failed if !self.subject.is_exec() => return,
                // How an exec ends is of interest even if its output is not whole.
                Passed::Failed => self.told = true,
                Passed::Broken => self.doubt().await,
            }
            drop(link);
            match self.open_again().await {
                Some(next) => link = next,
                None => return,
            }
            self.send_again(&link).await;
        }
    }

    /// Tells the client if some of its input may be lost.
    async fn doubt(&mut self) {
        let lost = self.input.in_doubt();
        if lost > 0 {
            let message = format!(
                "the connection to the host was lost while input was on its way: \
                 of its last {lost} bytes it is not known whether they arrived"
            );
            self.tell(&Error::new(ErrorKind::Unavailable, message))
                .await;
        }
    }

    /// Sends over a new link what the old one certainly did not take.
    async fn send_again(&mut self, link: &LinkStream) {
        self.input = Input {
            ended: self.input.ended,
            ..Input::default()
        };
        let end = (self.input.ended && !self.told)
            .then(|| Frame::new(FrameKind::EndInput, bytes::Bytes::new()));
        for frame in self.unsent.take().into_iter().chain(end) {
            self.send(link, frame).await;
        }
    }

    /// Sends input; false if the link is gone, and then the frame is kept.
    async fn send(&mut self, link: &LinkStream, frame: Frame) -> bool {
        let length = match frame.kind {
            FrameKind::Stdin => frame.payload.len() as u64,
            FrameKind::EndInput => {
                self.input.ended = true;
                0
            }
            FrameKind::Data
            | FrameKind::Stdout
            | FrameKind::Stderr
            | FrameKind::Json
            | FrameKind::Error
            | FrameKind::End => 0,
        };
        match link.send.send(frame).await {
            Ok(()) => {
                self.input.sent += length;
                true
            }
            Err(unsent) => {
                self.unsent = (length > 0).then_some(unsent.0);
                false
            }
        }
    }

    /// Passes frames on until the end of the stream or of its link.
    async fn pass(&mut self, link: &mut LinkStream) -> Passed {
        let mut input_open = true;
        loop {
            tokio::select! {
                frame = link.recv.recv() => match frame {
                    None => return Passed::Broken,
                    Some(frame) if is_lost(&frame) => return Passed::Broken,
                    Some(frame) if frame.kind == FrameKind::Error && !self.told => {
                        let _ = self.far.send.send(frame).await;
                        return Passed::Failed;
                    }
                    Some(frame) => {
                        let last = matches!(frame.kind, FrameKind::End | FrameKind::Error);
                        if !self.hand_on(frame).await || last {
                            return Passed::Over;
                        }
                    }
                },
                frame = self.far.recv.recv(), if input_open => match frame {
                    Some(frame) => input_open = self.send(link, frame).await,
                    // The client is gone: dropping the way to the host detaches it.
                    None if self.far.send.is_closed() => return Passed::Over,
                    None => input_open = false,
                },
            }
        }
    }

    /// Hands a frame of the host to the client; false if nobody listens.
    async fn hand_on(&mut self, frame: Frame) -> bool {
        match frame.kind {
            FrameKind::Stdin => {
                self.input.taken = frame.position.unwrap_or(self.input.taken);
                return true;
            }
            FrameKind::EndInput => {
                self.input.refused = true;
                return true;
            }
            FrameKind::Stdout | FrameKind::Stderr => {}
            // Only an exec has one.
            FrameKind::Json if !self.subject.is_exec() => return true,
            FrameKind::Data => return true,
            FrameKind::Json | FrameKind::Error | FrameKind::End => {
                return self.far.send.send(frame).await.is_ok();
            }
        }
        let position = frame.position;
        let says_where = frame.payload.is_empty() && position.is_some();
        let handed = if self.told || says_where {
            true
        } else {
            self.begun = true;
            let frame = Frame {
                position: None,
                ..frame
            };
            self.far.send.send(frame).await.is_ok()
        };
        self.position = position.or(self.position);
        handed
    }

    /// How to ask for what has not come yet; `None` if the host cannot say it.
    fn request(&self) -> Option<StreamRequest> {
        match &self.subject {
            Subject::Follow(follow) => {
                let from = match self.position {
                    Some(position) => FollowFrom::Position(position),
                    None if !self.begun => follow.from,
                    None => return None,
                };
                Some(StreamRequest::Follow(FollowRequest {
                    from,
                    ..follow.clone()
                }))
            }
            Subject::Exec(exec) => {
                let position = self.position?;
                Some(StreamRequest::ExecResume(ExecResume {
                    id: exec.id.clone(),
                    exec: exec.exec.clone(),
                    position: (!self.told).then_some(position),
                    stdin: exec.stdin && !self.told,
                }))
            }
        }
    }

    /// The stream once more, when the host is back; `None`: it is over.
    async fn open_again(&mut self) -> Option<LinkStream> {
        let broken = Instant::now();
        if !self.told {
            match self.back(broken + BACK_LIMIT).await {
                Ok(link) => return link,
                Err(error) => self.tell(&error).await,
            }
        }
        if !self.subject.is_exec() {
            return None;
        }
        match self.back(broken + EXIT_LIMIT).await {
            Ok(link) => link,
            Err(error) => {
                tracing::warn!(host = %self.host, ?error, "how an exec ended is not known");
                None
            }
        }
    }

    /// Waits for the host and opens the stream; `Ok(None)`: nobody listens any more.
    async fn back(&self, until: Instant) -> Result<Option<LinkStream>> {
        let request = self.request().ok_or_else(crate::links::host_gone)?;
        // What removes itself at its end is kept until it is read to the end.
        let _connecting = match &self.subject {
            Subject::Follow(follow) => Some(Connecting::begin(&self.control, &follow.id)),
            Subject::Exec(_) => None,
        };
        let mut arrivals = self.control.inner.hub.arrivals();
        let mut last = crate::links::host_gone();
        loop {
            arrivals.borrow_and_update();
            if self.control.snapshot().host(&self.host).is_none() {
                return Err(Error::new(ErrorKind::Unavailable, "the host was removed"));
            }
            let open = async {
                if self.control.inner.hub.is_connected(&self.host) {
                    let opened = self.control.open_stream(&self.host, request.clone()).await;
                    if opened.is_ok() {
                        return opened;
                    }
                    tokio::time::sleep(AGAIN).await;
                    return opened;
                }
                std::future::pending().await
            };
            tokio::select! {
                opened = open => match opened {
                    Ok(link) => return Ok(Some(link)),
                    Err(error) if error.kind == ErrorKind::Unavailable => last = error,
                    Err(error) => return Err(error),
                },
                // A link that is dead and not known to be: the new one is asked at once.
                _ = arrivals.changed() => {}
                () = self.far.send.closed() => return Ok(None),
                () = tokio::time::sleep_until(until) => return Err(last),
            }
        }
    }

    /// Tells the client that nothing more comes.
    async fn tell(&mut self, error: &Error) {
        if !std::mem::replace(&mut self.told, true) {
            end(&self.far, Some(error)).await;
        }
    }
}

/// What a server makes of a stream without an end.
fn is_lost(frame: &Frame) -> bool {
    frame.kind == FrameKind::Error
        && frame
            .parse::<StreamError>()
            .is_ok_and(|error| error.class == ErrorClass::Lost)
}
