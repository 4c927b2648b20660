//! Elements of our nftables sets and maps, changed by netlink directly: one atomic batch per change, about a tenth of a
//! millisecond, where starting `nft` costs several.
//!
//! The layout of keys is the kernel's: each part of a concatenation is padded to four bytes; addresses and ports are
//! in network order, marks in the machine's. Names of sets and their types are in `rules.rs`.

use std::io;
use std::net::Ipv4Addr;

use model::workload::Protocol;

use super::netlink::{Answer, Message, Socket};

const SUBSYSTEM: u16 = 10 << 8; // NFNL_SUBSYS_NFTABLES
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const DELETE_ELEMENT: u16 = SUBSYSTEM | 14;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const GET_RULE: u16 = SUBSYSTEM | 7;
const NEW_GENERATION: u16 = SUBSYSTEM | 15;
/// Removal of a table, a chain, a rule, a set.
const LOSSES: [u16; 4] = [SUBSYSTEM | 2, SUBSYSTEM | 5, SUBSYSTEM | 8, SUBSYSTEM | 11];
const FAMILY_HEADER: usize = 4;
/// Bit of the multicast group `NFNLGRP_NFTABLES` (7).
pub(super) const CHANGES: u32 = 1 << 6;
/// Connection tracking (`linux/netfilter/nfnetlink_conntrack.h`).
const DELETE_FLOWS: u16 = (1 << 8) | 2;
const FLOW_TUPLE: u16 = 1;
const FLOW_FILTER: u16 = 25;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_PORT_TO: u16 = 3;
const FILTER_TUPLE: u16 = 1;
const BY_PROTOCOL_AND_PORT_TO: u32 = (1 << 3) | (1 << 5);
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
    socket.transaction(&mut messages)
}

/// How many rules our tables have; `None`: one of the tables is not there.
pub(super) fn rule_count(socket: &mut Socket, table: &str) -> io::Result<Option<usize>> {
    let mut count = 0;
    for family in [FAMILY_INET, FAMILY_BRIDGE] {
        let mut message = Message::new(GET_TABLE, 0, &[family, 0, 0, 0]);
        message.text(LIST_TABLE, table);
        match socket.get(&mut message) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut message = Message::new(GET_RULE, libc::NLM_F_DUMP, &[family, 0, 0, 0]);
        message.text(LIST_TABLE, table);
        count += socket.dump(&mut message)?.len();
    }
    Ok(Some(count))
}

/// Makes the kernel forget the flows to a published UDP port. A flow that began before the port was published would
/// otherwise never be translated, and one to a workload that is gone never end, as long as its sender goes on.
pub(super) fn forget_udp_flows(socket: &mut Socket, host_port: u16) -> io::Result<()> {
    let inet = u8::try_from(libc::AF_INET).unwrap_or(0);
    let mut message = Message::new(DELETE_FLOWS, 0, &[inet, 0, 0, 0]);
    message
        .nested(FLOW_TUPLE, |tuple| {
            tuple.nested(TUPLE_PROTOCOL, |protocol| {
                protocol
                    .attribute(PROTOCOL_NUMBER, &[protocol_number(Protocol::Udp)])
                    .attribute(PROTOCOL_PORT_TO, &host_port.to_be_bytes());
            });
        })
        .nested(FLOW_FILTER, |filter| {
            filter.number(FILTER_TUPLE, BY_PROTOCOL_AND_PORT_TO);
        });
    match socket.request(&mut [message]) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// Whether a message of the kernel tells that something of our tables was taken away.
pub(super) fn tells_loss(answer: &Answer, table: &str) -> bool {
    LOSSES.contains(&answer.kind)
        && answer
            .attributes(FAMILY_HEADER)
            .any(|(kind, value)| kind == LIST_TABLE && super::netlink::text(value) == table)
}

/// Whether a message of the kernel ends a change of rules.
pub(super) fn ends_change(answer: &Answer) -> bool {
    answer.kind == NEW_GENERATION
}
