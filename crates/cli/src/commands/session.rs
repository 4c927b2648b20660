//! A session with a program: its output here, our input there.
//!
//! Start at [`carry`]. It ends when the program's streams end, or when the detach keys are pressed.

use std::io::Write as _;

use http::Method;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use wire::client::native::{Client, Duplex, Patience};
use wire::link::{Frame, FrameKind, StreamError};
use wire::native::stream::{ExecExit, Resize};
use wire::native::workload::KillRequest;

use crate::error::{Doing as _, Failure, Result};
use crate::exit;
use crate::terminal::{self, DetachKeys, RawMode};

/// How to carry a session.
pub(super) struct Session {
    /// The streams.
    pub duplex: Duplex,
    /// Whether the far side has a terminal.
    pub tty: bool,
    /// Whether to send input.
    pub stdin: bool,
    /// Keys that leave it.
    pub keys: DetachKeys,
    /// Where signals go that reach this program, if there is no terminal.
    pub signals: Option<(Client, String)>,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The streams ended; an exec's exit code is known.
    Streams(Option<i32>),
    /// The keys were pressed.
    Detached,
}

/// Carries a session to its end.
pub(super) async fn carry(session: Session) -> Result<Ended> {
    let Session {
        duplex: Duplex {
            mut reader,
            mut writer,
        },
        tty,
        stdin,
        mut keys,
        signals,
    } = session;
    let what = || "the session broke".to_owned();
    let _raw = if tty && stdin { RawMode::enter() } else { None };
    if let Some(signals) = signals.filter(|_| !tty) {
        tokio::spawn(pass_signals(signals));
    }
    let mut input = if stdin {
        Some(terminal::read_stdin())
    } else {
        None
    };
    let mut resized = signal(SignalKind::window_change()).doing(what)?;
    if tty {
        send_size(&mut writer).await;
    }
    let mut code = None;
    loop {
        tokio::select! {
            frame = reader.next() => {
                let Some(frame) = frame.doing(what)? else { return Ok(Ended::Streams(code)) };
                match frame.kind {
                    FrameKind::Stdout => print(&mut std::io::stdout().lock(), &frame.payload)?,
                    FrameKind::Stderr => print(&mut std::io::stderr().lock(), &frame.payload)?,
                    FrameKind::Json => {
                        code = frame.parse::<ExecExit>().ok().map(|exit| exit.exit_code).or(code);
                    }
                    FrameKind::Error => return Err(failed(&frame)),
                    FrameKind::End => return Ok(Ended::Streams(code)),
                    FrameKind::Data | FrameKind::Stdin | FrameKind::EndInput => {}
                }
            }
            bytes = next_input(&mut input) => {
                let Some(bytes) = bytes else {
                    input = None;
                    // The far side may have ended already: its last frames are still to be read.
                    let _ = writer.send(&Frame::new(FrameKind::EndInput, Vec::new())).await;
                    continue;
                };
                let (bytes, detach) = if tty { keys.filter(&bytes) } else { (bytes.to_vec(), false) };
                if !bytes.is_empty() && writer.send(&Frame::new(FrameKind::Stdin, bytes)).await.is_err() {
                    input = None;
                }
                if detach {
                    return Ok(Ended::Detached);
                }
            }
            _ = resized.recv(), if tty => send_size(&mut writer).await,
        }
    }
}

async fn next_input(input: &mut Option<mpsc::Receiver<bytes::Bytes>>) -> Option<bytes::Bytes> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

async fn send_size(writer: &mut wire::client::native::FrameWriter) {
    if let Some((rows, columns)) = terminal::size()
        && let Ok(frame) = Frame::json(&Resize { rows, columns })
    {
        // A lost size is put right by the next one.
        let _ = writer.send(&frame).await;
    }
}

/// Passes INT, TERM, HUP and QUIT on to the workload, so that ctrl-c stops the program and not only this one.
async fn pass_signals((client, path): (Client, String)) {
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
        SignalKind::quit(),
    ];
    let (sender, mut receiver) = mpsc::channel(8);
    for kind in kinds {
        let sender = sender.clone();
        let Ok(mut signals) = signal(kind) else {
            continue;
        };
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if sender.send(kind.as_raw_value()).await.is_err() {
                    return;
                }
            }
        });
    }
    while let Some(number) = receiver.recv().await {
        let body = KillRequest {
            signal: Some(number),
        };
        // It may have ended meanwhile; its end is reported by the session itself.
        let _: std::result::Result<(), _> = client
            .call(Method::POST, &path, Some(&body), Patience::Short)
            .await;
    }
}

fn print(out: &mut impl std::io::Write, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|error| {
            if error.kind() == std::io::ErrorKind::BrokenPipe {
                Failure::silent(exit::OK)
            } else {
                Failure::new(exit::FAILED, "cannot write output").why(error.to_string())
            }
        })
}

pub(super) fn failed(frame: &Frame) -> Failure {
    let why = match frame.parse::<StreamError>() {
        Ok(error) => error.message,
        Err(_) => String::from_utf8_lossy(&frame.payload).into_owned(),
    };
    Failure::new(exit::FAILED, "the stream failed half-way")
        .why(why)
        .hint("see `plimsoll ps -a`; `plimsoll logs` shows what was written")
}

/// Flushes standard output; what cannot be written now was lost before.
pub(super) fn flush() {
    let _ = std::io::stdout().flush();
}
