//! Links, addresses and routes: what is asked of the kernel by rtnetlink.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::Subnet;
use super::netlink::{Answer, Attributes, Message, Socket, number, text};

/// `VETH_INFO_PEER` of `linux/veth.h`.
const VETH_INFO_PEER: u16 = 1;
/// `IFLA_INET6_ADDR_GEN_MODE` and its value for "make no link-local address" of `linux/if_link.h`.
const INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;
/// `IFLA_BRPORT_MODE` of `linux/if_link.h`: whether packets may leave by the port they came from.
const BRPORT_MODE: u16 = 4;
/// Group of links (`ip link set … group`) that are about to be removed ("plim"); a group is only a number, and 0 is
/// everyone else's.
const DOOMED: u32 = 0x706c_696d;
/// Name of a workload's link inside.
pub(super) const INSIDE: &str = "eth0";
/// `IFLA_GROUP` of `linux/if_link.h`.
const IFLA_GROUP: u16 = 27;
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;

/// What is known of a link.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Link {
    /// Its number in its namespace.
    pub(super) index: u32,
    /// Its name.
    pub(super) name: String,
    /// Hardware address.
    pub(super) mac: Vec<u8>,
    /// Largest packet in bytes.
    pub(super) mtu: u32,
    /// Number of the bridge it is on; 0: none.
    pub(super) master: u32,
    /// Number of its other end in the other end's namespace; 0: none.
    pub(super) peer: u32,
    /// Whether it is switched on.
    pub(super) up: bool,
    /// `bridge`, `veth`, …; empty: none.
    pub(super) kind: String,
}

/// A veth pair to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Veth {
    /// Name on the host's side.
    pub(super) name: String,
    /// Hardware address inside.
    pub(super) mac: [u8; 6],
    /// Largest packet in bytes.
    pub(super) mtu: u32,
    /// Number of the bridge.
    pub(super) bridge: u32,
}

fn link_header(index: u32, flags: i32, change: i32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// Finds a link by name.
pub(super) fn find(socket: &mut Socket, name: &str) -> io::Result<Option<Link>> {
    let mut message = Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0, 0));
    message.text(libc::IFLA_IFNAME, name);
    match socket.get(&mut message) {
        Ok(answer) => Ok(parse_link(&answer)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All links of the socket's namespace.
pub(super) fn list(socket: &mut Socket) -> io::Result<Vec<Link>> {
    let mut message = Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &link_header(0, 0, 0));
    let answers = socket.dump(&mut message)?;
    Ok(answers.iter().filter_map(parse_link).collect())
}

fn parse_link(answer: &Answer) -> Option<Link> {
    let flags = number(answer.body.get(8..12)?)?.cast_signed();
    let mut link = Link {
        index: number(answer.body.get(4..8)?)?,
        up: flags & libc::IFF_UP != 0,
        ..Link::default()
    };
    for (kind, value) in answer.attributes(LINK_HEADER) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_ADDRESS => link.mac = value.to_vec(),
            libc::IFLA_MTU => link.mtu = number(value)?,
            libc::IFLA_MASTER => link.master = number(value)?,
            libc::IFLA_LINK => link.peer = number(value)?,
            libc::IFLA_LINKINFO => {
                let found = Attributes::of(value).find(|(kind, _)| *kind == libc::IFLA_INFO_KIND);
                link.kind = found.map(|(_, value)| text(value)).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

/// Makes a bridge and switches it on. A name that is taken gives `AlreadyExists`.
pub(super) fn create_bridge(
    socket: &mut Socket,
    name: &str,
    mac: [u8; 6],
    mtu: u32,
) -> io::Result<()> {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let header = link_header(0, libc::IFF_UP, libc::IFF_UP);
    let mut message = Message::new(libc::RTM_NEWLINK, flags, &header);
    message
        .text(libc::IFLA_IFNAME, name)
        .attribute(libc::IFLA_ADDRESS, &mac)
        .number(libc::IFLA_MTU, mtu)
        .nested(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "bridge");
        });
    socket.request(&mut [message])
}

/// Makes a veth pair: one end on the bridge and switched on, the other as [`INSIDE`] in the namespace of `namespace`,
/// switched off. One round trip.
pub(super) fn create_veth(
    socket: &mut Socket,
    veth: &Veth,
    namespace: BorrowedFd<'_>,
) -> io::Result<()> {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut create = Message::new(libc::RTM_NEWLINK, flags, &link_header(0, 0, 0));
    let fd = namespace.as_raw_fd().cast_unsigned();
    create
        .text(libc::IFLA_IFNAME, &veth.name)
        .number(libc::IFLA_MTU, veth.mtu)
        .nested(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "veth");
            info.nested(libc::IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |peer| {
                    peer.put(&link_header(0, 0, 0));
                    peer.text(libc::IFLA_IFNAME, INSIDE)
                        .attribute(libc::IFLA_ADDRESS, &veth.mac)
                        .number(libc::IFLA_MTU, veth.mtu)
                        .number(libc::IFLA_NET_NS_FD, fd);
                });
            });
        });
    let [join, hairpin] = connect(&veth.name, veth.bridge);
    socket.request(&mut [create, join, hairpin])
}

/// Puts a link on a bridge, switched on and without an IPv6 address of its own. Packets may go back where they came
/// from: a workload may use its own published port. Repeating it changes nothing.
fn connect(name: &str, bridge: u32) -> [Message; 2] {
    let mut hairpin = Message::new(libc::RTM_NEWLINK, 0, &link_header(0, 0, 0));
    hairpin
        .text(libc::IFLA_IFNAME, name)
        .nested(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_SLAVE_KIND, "bridge");
            info.nested(libc::IFLA_INFO_SLAVE_DATA, |data| {
                data.attribute(BRPORT_MODE, &[1]);
            });
        });
    let header = link_header(0, libc::IFF_UP, libc::IFF_UP);
    let mut message = Message::new(libc::RTM_NEWLINK, 0, &header);
    message
        .text(libc::IFLA_IFNAME, name)
        .nested(libc::IFLA_AF_SPEC, |spec| {
            let family = u16::try_from(libc::AF_INET6).unwrap_or(0);
            spec.nested(family, |inet6| {
                inet6.attribute(INET6_ADDR_GEN_MODE, &[ADDR_GEN_NONE]);
            });
        })
        .number(libc::IFLA_MASTER, bridge);
    [message, hairpin]
}

/// As [`connect`], at once.
pub(super) fn connect_now(socket: &mut Socket, name: &str, bridge: u32) -> io::Result<()> {
    socket.request(&mut connect(name, bridge))
}

/// Removes a link; one that is not there is no error.
pub(super) fn delete(socket: &mut Socket, name: &str) -> io::Result<()> {
    let mut message = Message::new(libc::RTM_DELLINK, 0, &link_header(0, 0, 0));
    message.text(libc::IFLA_IFNAME, name);
    match socket.request(&mut [message]) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

/// Removes many links as one change: each removal alone waits tens of milliseconds for the kernel to let go of it.
/// Links that are not there are no error.
pub(super) fn delete_all(socket: &mut Socket, names: &[String]) -> io::Result<()> {
    let gone = |error: &io::Error| error.raw_os_error() == Some(libc::ENODEV);
    let mut marks: Vec<Message> = names.iter().map(|name| mark(name)).collect();
    for result in socket.send_all(&mut marks)? {
        match result {
            Err(error) if !gone(&error) => return Err(error),
            _ => {}
        }
    }
    let mut message = Message::new(libc::RTM_DELLINK, 0, &link_header(0, 0, 0));
    message.number(IFLA_GROUP, DOOMED);
    match socket.request(&mut [message]) {
        Err(error) if gone(&error) => Ok(()),
        other => other,
    }
}

/// Puts a link among those that are removed together, switched off.
fn mark(name: &str) -> Message {
    let header = link_header(0, 0, libc::IFF_UP);
    let mut message = Message::new(libc::RTM_NEWLINK, 0, &header);
    message
        .text(libc::IFLA_IFNAME, name)
        .number(IFLA_GROUP, DOOMED);
    message
}

/// Switches loopback on.
pub(super) fn loopback_up() -> Message {
    Message::new(
        libc::RTM_NEWLINK,
        0,
        // Loopback is number 1 in every namespace.
        &link_header(1, libc::IFF_UP, libc::IFF_UP),
    )
}

/// Switches a link on.
pub(super) fn up(index: u32) -> Message {
    let header = link_header(index, libc::IFF_UP, libc::IFF_UP);
    Message::new(libc::RTM_NEWLINK, 0, &header)
}

/// Gives a link an address; repeating it changes nothing.
pub(super) fn add_address(index: u32, address: Ipv4Addr, subnet: Subnet) -> Message {
    let mut header = [0; ADDRESS_HEADER];
    header[0] = u8::try_from(libc::AF_INET).unwrap_or(0);
    header[1] = subnet.prefix();
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let mut message = Message::new(libc::RTM_NEWADDR, flags, &header);
    message
        .attribute(libc::IFA_LOCAL, &address.octets())
        .attribute(libc::IFA_ADDRESS, &address.octets())
        .attribute(libc::IFA_BROADCAST, &subnet.broadcast().octets());
    message
}

/// Sets the default route; repeating it changes nothing.
pub(super) fn default_route(index: u32, gateway: Ipv4Addr) -> Message {
    let mut header = [0; ROUTE_HEADER];
    header[0] = u8::try_from(libc::AF_INET).unwrap_or(0);
    header[4] = libc::RT_TABLE_MAIN;
    header[5] = libc::RTPROT_BOOT;
    header[6] = libc::RT_SCOPE_UNIVERSE;
    header[7] = libc::RTN_UNICAST;
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let mut message = Message::new(libc::RTM_NEWROUTE, flags, &header);
    message
        .attribute(libc::RTA_GATEWAY, &gateway.octets())
        .number(libc::RTA_OIF, index);
    message
}

/// An IPv4 route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    /// Where to.
    pub(super) destination: Subnet,
    /// Number of the link it leaves by; 0: none.
    pub(super) link: u32,
}

/// IPv4 routes of the main table.
pub(super) fn routes(socket: &mut Socket) -> io::Result<Vec<Route>> {
    let mut header = [0; ROUTE_HEADER];
    header[0] = u8::try_from(libc::AF_INET).unwrap_or(0);
    let mut message = Message::new(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &header);
    let answers = socket.dump(&mut message)?;
    Ok(answers.iter().filter_map(parse_route).collect())
}

fn parse_route(answer: &Answer) -> Option<Route> {
    if *answer.body.get(4)? != libc::RT_TABLE_MAIN {
        return None;
    }
    let prefix = *answer.body.get(1)?;
    let (mut address, mut link) = (Ipv4Addr::UNSPECIFIED, 0);
    for (kind, value) in answer.attributes(ROUTE_HEADER) {
        match kind {
            libc::RTA_DST => address = ipv4(value)?,
            libc::RTA_OIF => link = number(value)?,
            _ => {}
        }
    }
    let destination = Subnet::containing(address, prefix)?;
    Some(Route { destination, link })
}

fn ipv4(value: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = value.get(..4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets))
}
