//! One connection to the shim.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use shim::frame::{Decoder, Kind, encode_message};
use shim::message::{Event, Subscribe};

/// Events a client has not taken; a client that falls behind so far is cut off. It reads the rest from disk.
const MAX_PENDING: usize = 64 * 1024;

pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    decoder: Decoder,
    out: Vec<u8>,
    /// Set by `Subscribe`.
    pub(crate) follows: Option<Subscribe>,
    /// Log end this client was told last.
    told: u64,
    /// Has sent input: may be made to wait.
    pub(crate) feeds: bool,
    pub(crate) gone: bool,
}

impl Client {
    pub(crate) fn new(stream: UnixStream) -> io::Result<Client> {
        stream.set_nonblocking(true)?;
        Ok(Client {
            stream,
            decoder: Decoder::default(),
            out: Vec::new(),
            follows: None,
            told: 0,
            feeds: false,
            gone: false,
        })
    }

    pub(crate) fn send(&mut self, event: &Event) {
        if self.gone {
            return;
        }
        if self.out.len() > MAX_PENDING || encode_message(event, &mut self.out).is_err() {
            self.gone = true;
            return;
        }
        self.flush();
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.out.is_empty()
    }

    pub(crate) fn flush(&mut self) {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(len) => {
                    self.out.drain(..len);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
        self.out = Vec::new();
    }

    /// Tells of new log content, at most one message at a time: the next one says everything.
    pub(crate) fn tell_log(&mut self, end: u64) {
        if self.follows.is_some() && end > self.told && self.out.is_empty() {
            self.told = end;
            self.send(&Event::LogGrew { offset: end });
        }
    }

    /// Reads once.
    pub(crate) fn fill(&mut self) {
        let mut buffer = [0; 8 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.gone = true,
            Ok(len) => self.decoder.push(&buffer[..len]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) => {}
            Err(_) => self.gone = true,
        }
    }

    /// The next whole frame; a client that does not speak the protocol is cut off.
    pub(crate) fn next_frame(&mut self) -> Option<(Kind, Vec<u8>)> {
        match self.decoder.next_frame() {
            Ok(frame) => frame,
            Err(_) => {
                self.gone = true;
                None
            }
        }
    }
}
