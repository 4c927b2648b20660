//! Elements of our nftables sets and maps, changed by netlink directly: one atomic batch per change, about a tenth of a
//! millisecond, where starting `nft` costs several.
//!
//! The layout of keys is the kernel's: each part of a concatenation is padded to four bytes; addresses and ports are
//! in network order, marks in the machine's. Names of sets and their types are in `rules.rs`.

use std::io;
use std::net::Ipv4Addr;

use model::workload::Protocol;

use super::netlink::{Message, Socket};

const SUBSYSTEM: u16 = 10 << 8; // NFNL_SUBSYS_NFTABLES
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const DELETE_ELEMENT: u16 = SUBSYSTEM | 14;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const VALUE: u16 = 1;
const FAMILY_INET: u8 = 1;
const FAMILY_BRIDGE: u8 = 7;
/// Length of an interface name with its end.
const NAME_BYTES: usize = 16;

/// One element of one of our sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Element {
    /// `bridge sources`: what a link may send as.
    Source {
        /// The link on the host's side.
        link: String,
        /// Its hardware address.
        mac: [u8; 6],
        /// Its address.
        address: Ipv4Addr,
    },
    /// `bridge pools`: the pool's number of a link.
    Pool {
        /// The link.
        link: String,
        /// The pool's number on this host.
        number: u32,
    },
    /// `bridge members`: that a pool's number may reach a link.
    Member {
        /// The pool's number on this host.
        number: u32,
        /// The link.
        link: String,
    },
    /// `inet ports` or `inet ports_at`: a published port.
    Port {
        /// Host address; `None`: all.
        host: Option<Ipv4Addr>,
        /// Host port.
        host_port: u16,
        /// Protocol.
        protocol: Protocol,
        /// Where to.
        address: Ipv4Addr,
        /// Port there.
        port: u16,
    },
}

/// IANA's protocol number.
pub(super) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn name_bytes(name: &str) -> [u8; NAME_BYTES] {
    let mut bytes = [0; NAME_BYTES];
    for (to, from) in bytes.iter_mut().take(NAME_BYTES - 1).zip(name.bytes()) {
        *to = from;
    }
    bytes
}

fn port_bytes(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

impl Element {
    /// Family, set, key, data.
    fn parts(&self) -> (u8, &'static str, Vec<u8>, Option<Vec<u8>>) {
        match self {
            Self::Source { link, mac, address } => {
                let mut key = name_bytes(link).to_vec();
                key.extend_from_slice(mac);
                key.extend_from_slice(&[0; 2]);
                key.extend_from_slice(&address.octets());
                (FAMILY_BRIDGE, "sources", key, None)
            }
            Self::Pool { link, number } => {
                let data = number.to_ne_bytes().to_vec();
                (
                    FAMILY_BRIDGE,
                    "pools",
                    name_bytes(link).to_vec(),
                    Some(data),
                )
            }
            Self::Member { number, link } => {
                let mut key = number.to_ne_bytes().to_vec();
                key.extend_from_slice(&name_bytes(link));
                (FAMILY_BRIDGE, "members", key, None)
            }
            Self::Port {
                host,
                host_port,
                protocol,
                address,
                port,
            } => {
                let mut key = Vec::new();
                key.extend(host.iter().flat_map(Ipv4Addr::octets));
                key.extend_from_slice(&[protocol_number(*protocol), 0, 0, 0]);
                key.extend_from_slice(&port_bytes(*host_port));
                let mut data = address.octets().to_vec();
                data.extend_from_slice(&port_bytes(*port));
                let set = if host.is_some() { "ports_at" } else { "ports" };
                (FAMILY_INET, set, key, Some(data))
            }
        }
    }

    fn message(&self, kind: u16, flags: i32, table: &str) -> Message {
        let (family, set, key, data) = self.parts();
        let mut message = Message::new(kind, flags, &[family, 0, 0, 0]);
        message
            .text(LIST_TABLE, table)
            .text(LIST_SET, set)
            .nested(LIST_ELEMENTS, |list| {
                list.nested(ELEMENT, |element| {
                    element.nested(ELEMENT_KEY, |value| {
                        value.attribute(VALUE, &key);
                    });
                    if let Some(data) = &data {
                        element.nested(ELEMENT_DATA, |value| {
                            value.attribute(VALUE, data);
                        });
                    }
                });
            });
        message
    }
}

/// Adds elements, all or none. Elements that are there already are no error.
pub(super) fn add(socket: &mut Socket, table: &str, elements: &[Element]) -> io::Result<()> {
    batch(socket, elements, |element| {
        element.message(NEW_ELEMENT, libc::NLM_F_CREATE, table)
    })
}

/// Takes elements away; ones that are not there are no error.
pub(super) fn remove(socket: &mut Socket, table: &str, elements: &[Element]) -> io::Result<()> {
    let delete = |element: &Element| element.message(DELETE_ELEMENT, 0, table);
    match batch(socket, elements, delete) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        other => return other,
    }
    // One of them is missing, which stopped the whole batch: one by one.
    for element in elements {
        match batch(socket, std::slice::from_ref(element), delete) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

fn batch(
    socket: &mut Socket,
    elements: &[Element],
    message: impl Fn(&Element) -> Message,
) -> io::Result<()> {
    if elements.is_empty() {
        return Ok(());
    }
    // The last two bytes of the header name the subsystem, in network order.
    let frame = |kind| Message::new(kind, 0, &[0, 0, 0, 10]);
    let mut messages = vec![frame(BATCH_BEGIN)];
    messages.extend(elements.iter().map(message));
    messages.push(frame(BATCH_END));
    socket.request(&mut messages)
}

/// Whether both of our tables are there.
pub(super) fn tables_exist(socket: &mut Socket, table: &str) -> io::Result<bool> {
    for family in [FAMILY_INET, FAMILY_BRIDGE] {
        let mut message = Message::new(GET_TABLE, 0, &[family, 0, 0, 0]);
        message.text(LIST_TABLE, table);
        match socket.get(&mut message) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
