//! A small synchronous netlink client: messages with attributes, several in one send, answers matched by number.
//!
//! Why not `rtnetlink`: a workload is attached with two sends of several messages each, one of them from a thread that
//! lives in another network namespace for a moment; that crate sends one message per round trip and needs a runtime.
//! It also speaks no nftables. Only what the driver sends is known here.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

/// Attribute that holds attributes.
const NESTED: u16 = 0x8000;
const HEADER: usize = 16;
/// The kernel answers within its system call except for dumps; more than this means that something is broken.
const ANSWER_SECONDS: i64 = 10;
/// Dumps come in pieces of at most 32 KiB.
const RECEIVE_BYTES: usize = 64 << 10;

/// A message being built.
#[derive(Debug, Clone)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request; `flags` beside `NLM_F_REQUEST`. `header` is the fixed part that follows.
    pub(super) fn new(kind: u16, flags: i32, header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        let flags = u16::try_from(libc::NLM_F_REQUEST | flags).unwrap_or(0);
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        let mut message = Self { bytes };
        message.put(header);
        message
    }

    /// Appends raw bytes, padded to four.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }

    /// Appends an attribute.
    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.put(value);
        self
    }

    /// Appends text that ends with a zero.
    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Appends a number in the machine's byte order.
    pub(super) fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Appends an attribute whose content `fill` appends.
    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.attribute(kind | NESTED, &[]);
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    fn seal(&mut self, sequence: u32, acknowledge: bool) -> &[u8] {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        if acknowledge {
            self.bytes[6] |= 4; // NLM_F_ACK
        }
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }
}

/// A message of the kernel.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// Type.
    pub(super) kind: u16,
    /// Number of the request it answers.
    pub(super) sequence: u32,
    /// Everything after the header.
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The attributes after a fixed part of `header` bytes.
    pub(super) fn attributes(&self, header: usize) -> Attributes<'_> {
        Attributes {
            rest: self.body.get(header..).unwrap_or_default(),
        }
    }
}

/// Attributes one after the other; a malformed rest ends them.
#[derive(Debug, Clone)]
pub(super) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Attributes inside an attribute.
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);
    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.rest.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = self.rest.get(4..length)?;
        self.rest = self
            .rest
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some((kind, value))
    }
}

/// A number in the machine's byte order.
pub(super) fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

/// Text up to its zero.
pub(super) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// A netlink socket; it belongs to the network namespace it was opened in, for ever.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// For links, addresses, routes.
    pub(super) fn route() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkRoute, 0)
    }

    /// For nftables; `groups` is a bit mask of multicast groups to listen to.
    pub(super) fn netfilter(groups: u32) -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkNetFilter, groups)
    }

    fn open(protocol: SockProtocol, groups: u32) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        let timeout = TimeVal::new(ANSWER_SECONDS, 0);
        setsockopt(&fd, sockopt::ReceiveTimeout, &timeout)?;
        Ok(Self { fd, sequence: 1 })
    }

    /// Sends all messages at once and waits for the kernel's answer to each of them, in order. The kernel works on
    /// them one after the other; one that fails does not keep it from the next.
    pub(super) fn send_all(&mut self, messages: &mut [Message]) -> io::Result<Vec<io::Result<()>>> {
        let first = self.sequence;
        let count = messages.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = Vec::new();
        for message in messages {
            bytes.extend_from_slice(message.seal(self.sequence, true));
            self.sequence = self.sequence.wrapping_add(1);
        }
        self.send(&bytes)?;
        let mut results: Vec<Option<io::Result<()>>> = Vec::new();
        results.resize_with(count, || None);
        while results.iter().any(Option::is_none) {
            for answer in self.receive()? {
                let index = answer.sequence.wrapping_sub(first) as usize;
                if i32::from(answer.kind) == libc::NLMSG_ERROR
                    && let Some(slot) = results.get_mut(index)
                {
                    *slot = Some(acknowledgement(&answer));
                }
            }
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// Sends a batch of nftables: its first and last message only frame it. All of it takes effect or nothing; the
    /// first error counts. Which messages of a refused batch are answered differs between kernels.
    pub(super) fn transaction(&mut self, messages: &mut [Message]) -> io::Result<()> {
        let first = self.sequence;
        let count = messages.len();
        let mut bytes = Vec::new();
        for (index, message) in messages.iter_mut().enumerate() {
            let framing = index == 0 || index + 1 == count;
            bytes.extend_from_slice(message.seal(self.sequence, !framing));
            self.sequence = self.sequence.wrapping_add(1);
        }
        self.send(&bytes)?;
        let mut pending = count.saturating_sub(2);
        while pending > 0 {
            for answer in self.receive()? {
                let index = answer.sequence.wrapping_sub(first) as usize;
                if i32::from(answer.kind) == libc::NLMSG_ERROR && index < count {
                    acknowledgement(&answer)?;
                    pending = pending.saturating_sub(1);
                }
            }
        }
        Ok(())
    }

    /// Sends all messages at once; the first error counts.
    pub(super) fn request(&mut self, messages: &mut [Message]) -> io::Result<()> {
        self.send_all(messages)?.into_iter().collect()
    }

    /// Asks one question that has one answer.
    pub(super) fn get(&mut self, message: &mut Message) -> io::Result<Answer> {
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.seal(sequence, false).to_vec();
        self.send(&bytes)?;
        loop {
            for answer in self.receive()? {
                if answer.sequence != sequence {
                    continue;
                }
                if i32::from(answer.kind) == libc::NLMSG_ERROR {
                    acknowledgement(&answer)?;
                }
                return Ok(answer);
            }
        }
    }

    /// Asks for a list; it is asked again if it changed meanwhile.
    pub(super) fn dump(&mut self, message: &mut Message) -> io::Result<Vec<Answer>> {
        /// Changes during a dump are rare; that many in a row mean that something is broken.
        const TRIES: usize = 8;
        for _ in 0..TRIES {
            if let Some(answers) = self.dump_once(message)? {
                return Ok(answers);
            }
        }
        Err(io::Error::other("the list changed each time it was read"))
    }

    fn dump_once(&mut self, message: &mut Message) -> io::Result<Option<Vec<Answer>>> {
        const INTERRUPTED: u16 = 0x10; // NLM_F_DUMP_INTR
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.seal(sequence, false).to_vec();
        self.send(&bytes)?;
        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            let buffer = self.receive_bytes()?;
            for (answer, flags) in split(&buffer) {
                if answer.sequence != sequence {
                    continue;
                }
                interrupted |= flags & INTERRUPTED != 0;
                match i32::from(answer.kind) {
                    libc::NLMSG_ERROR => acknowledgement(&answer)?,
                    libc::NLMSG_DONE => return Ok((!interrupted).then_some(answers)),
                    _ => answers.push(answer),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        send(self.fd.as_raw_fd(), bytes, MsgFlags::empty())?;
        Ok(())
    }

    fn receive_bytes(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; RECEIVE_BYTES];
        let length = loop {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(nix::Error::EINTR) => {}
                other => break other?,
            }
        };
        buffer.truncate(length);
        Ok(buffer)
    }

    /// The next messages, whatever they are; `WouldBlock` after a while of silence.
    pub(super) fn receive(&self) -> io::Result<Vec<Answer>> {
        let buffer = self.receive_bytes()?;
        Ok(split(&buffer)
            .into_iter()
            .map(|(answer, _)| answer)
            .collect())
    }
}

fn split(mut bytes: &[u8]) -> Vec<(Answer, u16)> {
    let mut answers = Vec::new();
    while let Some((answer, flags, length)) = first(bytes) {
        answers.push((answer, flags));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    answers
}

fn first(bytes: &[u8]) -> Option<(Answer, u16, usize)> {
    let length = number(bytes.get(..4)?)? as usize;
    let body = bytes.get(HEADER..length)?.to_vec();
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let flags = u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?);
    let sequence = number(bytes.get(8..12)?)?;
    let answer = Answer {
        kind,
        sequence,
        body,
    };
    Some((answer, flags, length))
}

fn acknowledgement(answer: &Answer) -> io::Result<()> {
    let code = number(&answer.body).map_or(-libc::EPROTO, u32::cast_signed);
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(-code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_round_trip_and_bad_ones_end_the_list() {
        let mut message = Message::new(1, 0, &[7; 4]);
        message.text(3, "abc").nested(4, |m| {
            m.number(1, 9);
        });
        let sealed = message.seal(5, true).to_vec();
        let (answer, flags) = split(&sealed).remove(0);
        assert_eq!((answer.kind, answer.sequence, flags & 4), (1, 5, 4));
        let all: Vec<_> = answer.attributes(4).collect();
        assert_eq!(text(all[0].1), "abc");
        assert_eq!(all[1].0, 4);
        let inner: Vec<_> = Attributes::of(all[1].1).collect();
        assert_eq!(number(inner[0].1), Some(9));
        assert_eq!(Attributes::of(&[9, 0, 1, 0, 1]).count(), 0);
        assert_eq!(Attributes::of(&[0, 0, 0, 0, 0, 0, 0, 0]).count(), 0);
        assert!(split(&[1, 2, 3]).is_empty());
        assert!(split(&[0; 64]).is_empty());
    }

    #[test]
    fn the_kernel_answers_each_message_of_a_send() {
        let mut socket = Socket::route().unwrap();
        let missing = || {
            let mut m = Message::new(libc::RTM_GETLINK, 0, &[0; 16]);
            m.text(libc::IFLA_IFNAME, "no-such-link");
            m
        };
        let results = socket.send_all(&mut [missing(), missing()]).unwrap();
        assert_eq!(results.len(), 2);
        for result in results {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ENODEV));
        }
        let links = socket.dump(&mut Message::new(
            libc::RTM_GETLINK,
            libc::NLM_F_DUMP,
            &[0; 16],
        ));
        assert!(!links.unwrap().is_empty());
    }
}
