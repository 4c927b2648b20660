//! Host ports: who has which, and the choice of free ones. No I/O of its own; asking the host is a parameter.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use model::WorkloadId;
use model::workload::{PortMapping, Protocol};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
};

use super::NetworkError;

/// Range of random host ports: the kernel's own default range for outgoing connections (32768-60999), which dockerd
/// uses too. An outgoing connection from such a port is not disturbed by a translation of it.
const RANDOM: std::ops::RangeInclusive<u16> = 32768..=60999;
/// Highest number of published ports of a workload: more would make one change of the rules take tens of milliseconds
/// for all others.
const PORTS_MAX: usize = 1024;

/// Asks the host whether a port is free.
pub(super) type Probe<'a> = &'a dyn Fn(Option<Ipv4Addr>, u16, Protocol) -> io::Result<()>;

/// Who has a port at which address of the host; `None`: at all.
type Holder = (Option<Ipv4Addr>, WorkloadId);

/// Ports in use by workloads of this host.
#[derive(Debug, Default)]
pub(super) struct PortTable {
    taken: BTreeMap<(Protocol, u16), Vec<Holder>>,
    next: u16,
}

/// Text of a protocol.
pub(super) fn protocol_text(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// The address of the host a mapping asks for; `None`: all.
pub(super) fn host_address(mapping: &PortMapping) -> Result<Option<Ipv4Addr>, NetworkError> {
    if mapping.host_ip.is_empty() {
        return Ok(None);
    }
    match mapping.host_ip.parse() {
        Ok(Ipv4Addr::UNSPECIFIED) => Ok(None),
        Ok(address) => Ok(Some(address)),
        Err(_) => {
            let shown = mapping
                .host_ip
                .chars()
                .take(60)
                .flat_map(char::escape_default);
            Err(NetworkError::HostAddress(shown.collect()))
        }
    }
}

/// Parses `80/tcp`; without a protocol it is TCP.
pub(super) fn parse_exposed(text: &str) -> Option<(u16, Protocol)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|known| protocol_text(*known) == protocol)?;
    Some((port.parse().ok()?, protocol))
}

impl PortTable {
    /// Notes ports that a workload has, without asking.
    pub(super) fn insert(&mut self, id: &WorkloadId, ports: &[PortMapping]) {
        for mapping in ports {
            if let (Some(port), Ok(host)) = (mapping.host_port, host_address(mapping)) {
                let holders = self.taken.entry((mapping.protocol, port)).or_default();
                holders.push((host, id.clone()));
            }
        }
    }

    /// Gives all ports of a workload back.
    pub(super) fn release(&mut self, id: &WorkloadId) {
        self.taken.retain(|_, holders| {
            holders.retain(|(_, holder)| holder != id);
            !holders.is_empty()
        });
    }

    /// Takes the ports a workload wants, all or none; random ones are filled in. `owner` describes the workload that
    /// has a port to the one that wants it.
    pub(super) fn reserve(
        &mut self,
        id: &WorkloadId,
        wanted: &[PortMapping],
        owner: &dyn Fn(&WorkloadId) -> String,
        probe: Probe<'_>,
    ) -> Result<Vec<PortMapping>, NetworkError> {
        if wanted.len() > PORTS_MAX {
            return Err(NetworkError::Setting {
                what: "number of published ports",
                value: format!("{} (at most {PORTS_MAX})", wanted.len()),
            });
        }
        let mut done = Vec::with_capacity(wanted.len());
        for mapping in wanted {
            match self.reserve_one(mapping, owner, probe) {
                Ok(port) => {
                    let mapping = PortMapping {
                        host_port: Some(port),
                        ..mapping.clone()
                    };
                    self.insert(id, std::slice::from_ref(&mapping));
                    done.push(mapping);
                }
                Err(error) => {
                    self.release(id);
                    return Err(error);
                }
            }
        }
        Ok(done)
    }

    fn reserve_one(
        &mut self,
        mapping: &PortMapping,
        owner: &dyn Fn(&WorkloadId) -> String,
        probe: Probe<'_>,
    ) -> Result<u16, NetworkError> {
        let host = host_address(mapping)?;
        let protocol = mapping.protocol;
        match mapping.host_port {
            None | Some(0) => self.free_port(host, protocol, probe),
            Some(port) => {
                let taken = |owner: String| NetworkError::PortTaken {
                    address: host.unwrap_or(Ipv4Addr::UNSPECIFIED),
                    port,
                    protocol: protocol_text(protocol),
                    owner,
                };
                if let Some(holder) = self.holder(host, port, protocol) {
                    return Err(taken(owner(holder)));
                }
                match probe(host, port, protocol) {
                    Ok(()) => Ok(port),
                    Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                        Err(NetworkError::HostAddress(mapping.host_ip.clone()))
                    }
                    Err(_) => Err(taken("by another program of this host".to_owned())),
                }
            }
        }
    }

    fn holder(&self, host: Option<Ipv4Addr>, port: u16, protocol: Protocol) -> Option<&WorkloadId> {
        let holders = self.taken.get(&(protocol, port))?;
        let collides = |other: Option<Ipv4Addr>| host.is_none() || other.is_none() || other == host;
        let (_, id) = holders.iter().find(|(other, _)| collides(*other))?;
        Some(id)
    }

    fn free_port(
        &mut self,
        host: Option<Ipv4Addr>,
        protocol: Protocol,
        probe: Probe<'_>,
    ) -> Result<u16, NetworkError> {
        for _ in RANDOM {
            let port = self.next.max(*RANDOM.start());
            self.next = if port >= *RANDOM.end() { 0 } else { port + 1 };
            if self.holder(host, port, protocol).is_some() {
                continue;
            }
            match probe(host, port, protocol) {
                Ok(()) => return Ok(port),
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                    let address = host.map(|host| host.to_string()).unwrap_or_default();
                    return Err(NetworkError::HostAddress(address));
                }
                Err(_) => {}
            }
        }
        Err(NetworkError::PortsUsedUp {
            protocol: protocol_text(protocol),
        })
    }
}

/// Asks the host by binding for a moment. `SO_REUSEADDR` lets TIME_WAIT pass, as a server's own bind would; a protocol
/// that the kernel does not know has no listeners.
pub(super) fn probe(host: Option<Ipv4Addr>, port: u16, protocol: Protocol) -> io::Result<()> {
    let (kind, number) = match protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
        // nix has no name for it, and hardly any kernel has it built in.
        Protocol::Sctp => return Ok(()),
    };
    let fd = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, number)?;
    if protocol == Protocol::Tcp {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    let [a, b, c, d] = host.unwrap_or(Ipv4Addr::UNSPECIFIED).octets();
    bind(fd.as_raw_fd(), &SockaddrIn::new(a, b, c, d, port))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: u8) -> WorkloadId {
        WorkloadId::from_bytes(&[digit; 32])
    }

    fn mapping(host_ip: &str, host_port: Option<u16>) -> PortMapping {
        PortMapping {
            port: 80,
            protocol: Protocol::Tcp,
            host_ip: host_ip.to_owned(),
            host_port,
        }
    }

    fn free(_: Option<Ipv4Addr>, _: u16, _: Protocol) -> io::Result<()> {
        Ok(())
    }

    fn reserve(
        table: &mut PortTable,
        digit: u8,
        wanted: &[PortMapping],
    ) -> Result<Vec<u16>, NetworkError> {
        let owner = |id: &WorkloadId| format!("by {}", id.short());
        let ports = table.reserve(&id(digit), wanted, &owner, &free)?;
        Ok(ports.into_iter().filter_map(|p| p.host_port).collect())
    }

    #[test]
    fn a_port_is_given_once_per_address() {
        let mut table = PortTable::default();
        let all = mapping("", Some(8080));
        let one = mapping("10.0.0.1", Some(8080));
        assert_eq!(
            reserve(&mut table, 1, std::slice::from_ref(&one)).unwrap(),
            [8080]
        );
        assert!(reserve(&mut table, 2, std::slice::from_ref(&all)).is_err());
        assert!(reserve(&mut table, 2, std::slice::from_ref(&one)).is_err());
        assert_eq!(
            reserve(&mut table, 2, &[mapping("10.0.0.2", Some(8080))]).unwrap(),
            [8080]
        );
        table.release(&id(1));
        table.release(&id(2));
        let error = {
            reserve(&mut table, 1, std::slice::from_ref(&all)).unwrap();
            reserve(&mut table, 3, &[one]).unwrap_err()
        };
        assert!(
            error
                .to_string()
                .contains("port is already allocated (by 0101"),
            "{error}"
        );
        assert!(reserve(&mut table, 3, &[mapping("", Some(9)), all.clone()]).is_err());
        assert!(
            reserve(&mut table, 4, &[mapping("", Some(9))]).is_ok(),
            "all or none"
        );
        assert!(reserve(&mut table, 5, &[mapping("", Some(7)), mapping("", Some(7))]).is_err());
    }

    #[test]
    fn random_ports_are_free_ones_in_turn() {
        let mut table = PortTable::default();
        let any = mapping("0.0.0.0", None);
        assert_eq!(
            reserve(&mut table, 1, &[any.clone(), any.clone()]).unwrap(),
            [32768, 32769]
        );
        table.release(&id(1));
        assert_eq!(
            reserve(&mut table, 2, std::slice::from_ref(&any)).unwrap(),
            [32770],
            "not at once again"
        );
        let busy = |_: Option<Ipv4Addr>, port: u16, _: Protocol| match port {
            60999 => Ok(()),
            _ => Err(io::ErrorKind::AddrInUse.into()),
        };
        let ports = table
            .reserve(
                &id(3),
                std::slice::from_ref(&any),
                &|_| String::new(),
                &busy,
            )
            .unwrap();
        assert_eq!(ports[0].host_port, Some(60999));
        assert!(
            table
                .reserve(&id(3), &[any], &|_| String::new(), &busy)
                .is_err()
        );
    }

    #[test]
    fn nonsense_is_refused() {
        let mut table = PortTable::default();
        for bad in ["::", "host", "1.2.3.4.5", "10.0.0.1\n"] {
            assert!(
                reserve(&mut table, 1, &[mapping(bad, Some(1))]).is_err(),
                "{bad}"
            );
        }
        let many = vec![mapping("", None); PORTS_MAX + 1];
        assert!(reserve(&mut table, 1, &many).is_err());
    }

    #[test]
    fn a_listener_of_the_host_is_noticed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let loopback = Some(Ipv4Addr::LOCALHOST);
        assert!(probe(loopback, port, Protocol::Tcp).is_err());
        assert!(probe(None, port, Protocol::Tcp).is_err());
        let error = probe(Some(Ipv4Addr::new(203, 0, 113, 9)), port, Protocol::Tcp).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(probe(None, port, Protocol::Udp).is_err());
    }
}
