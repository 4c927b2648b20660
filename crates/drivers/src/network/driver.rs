//! The driver itself.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent::driver::{DriverError, ErrorClass, NetworkAttachment, NetworkDriver, Prepared};
use async_trait::async_trait;
use model::workload::{NetworkMode, NetworkStatus, PortMapping, Protocol};
use model::{HostWorkload, WorkloadId};
use tokio::sync::RwLock;

use super::elements::{self, Element};
use super::files::{self, Identity};
use super::ledger::{Ledger, Record};
use super::link::{self, Veth};
use super::namespace::Namespace;
use super::netlink::Socket;
use super::reaper::Reaper;
use super::rules::{self, Rules};
use super::{NetworkConfig, NetworkError, Subnet, host, ports, watch};

/// How many workloads can be worked on at the same time: the kernel takes one change of links at a time anyway.
const LANES: usize = 32;

/// The network of one host.
#[derive(Debug, Clone)]
pub struct BridgeNetwork {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: NetworkConfig,
    pub(super) subnet: Subnet,
    ledger: Mutex<Ledger>,
    /// Written by whoever replaces all rules, read by whoever changes single elements.
    pub(super) gate: Arc<RwLock<()>>,
    /// One workload is always in the same lane: its changes come one after the other.
    lanes: Vec<Arc<tokio::sync::Mutex<()>>>,
    reaper: Reaper,
    /// Open for ever: closing such a socket waits until the kernel has let go of every element removed before, for
    /// some ten milliseconds.
    netfilter: Mutex<Socket>,
    /// How many rules there were after they were last applied.
    pub(super) rule_count: AtomicUsize,
    /// Nothing is put back any more; changed and read by whoever holds the gate for writing.
    pub(super) dismantled: AtomicBool,
}

impl BridgeNetwork {
    /// Reads the state, undoes what was half made, and makes bridge and rules. Blocks for some tens of milliseconds.
    ///
    /// # Errors
    /// When the state cannot be read, no subnet is free, or the kernel refuses.
    pub fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        let subnet = host::choose_subnet(&config)?;
        let quarantine = Duration::from_secs(config.quarantine_seconds);
        let mut ledger = Ledger::open(&config.state_dir, subnet, quarantine)?;
        host::sort_out_links(&config, subnet, &mut ledger)?;
        let netfilter =
            Socket::netfilter(0).map_err(NetworkError::netlink("open a netfilter socket"))?;
        let shared = Shared {
            config,
            subnet,
            ledger: Mutex::new(ledger),
            gate: Arc::default(),
            lanes: (0..LANES).map(|_| Arc::default()).collect(),
            reaper: Reaper::start().map_err(NetworkError::NamespaceThread)?,
            netfilter: Mutex::new(netfilter),
            rule_count: AtomicUsize::new(0),
            dismantled: AtomicBool::new(false),
        };
        shared.undo_incomplete()?;
        shared.reassert(true)?;
        let shared = Arc::new(shared);
        watch::start(Arc::downgrade(&shared), shared.config.table.clone())
            .map_err(NetworkError::netlink("watch the rules"))?;
        Ok(Self { shared })
    }

    /// The subnet of this host's workloads.
    #[must_use]
    pub fn subnet(&self) -> Subnet {
        self.shared.subnet
    }

    /// Runs blocking work for one workload; it goes on to its end even if the caller stops waiting.
    async fn for_workload<T: Send + 'static>(
        &self,
        id: &WorkloadId,
        work: impl FnOnce(&Shared) -> Result<T, NetworkError> + Send + 'static,
    ) -> Result<T, DriverError> {
        let sum = id
            .as_str()
            .bytes()
            .fold(0_usize, |sum, b| sum.wrapping_mul(31) + usize::from(b));
        let lane = Arc::clone(&self.shared.lanes[sum % LANES])
            .lock_owned()
            .await;
        let pass = Arc::clone(&self.shared.gate).read_owned().await;
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&shared);
            drop((lane, pass));
            result
        });
        finished(done.await)
    }

    /// Runs blocking work while nothing is done for any workload; it goes on to its end as well.
    async fn for_all(
        &self,
        work: impl FnOnce(&Shared) -> Result<(), NetworkError> + Send + 'static,
    ) -> Result<(), DriverError> {
        let gate = Arc::clone(&self.shared.gate).write_owned().await;
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&shared);
            drop(gate);
            result
        });
        finished(done.await)
    }
}

fn finished<T>(
    joined: Result<Result<T, NetworkError>, tokio::task::JoinError>,
) -> Result<T, DriverError> {
    let result = joined.map_err(|error| {
        DriverError::new(ErrorClass::Failed, "network work was cut off").with_source(error)
    })?;
    result.map_err(DriverError::from)
}

#[async_trait]
impl NetworkDriver for BridgeNetwork {
    async fn attach(
        &self,
        workload: &HostWorkload,
        prepared: Option<&Prepared>,
    ) -> Result<NetworkAttachment, DriverError> {
        let wanted = workload.clone();
        let prepared = prepared.cloned();
        self.for_workload(&workload.id, move |shared| {
            shared.attach(&wanted, prepared.as_ref())
        })
        .await
    }

    async fn detach(&self, id: &WorkloadId) -> Result<(), DriverError> {
        let wanted = id.clone();
        self.for_workload(id, move |shared| shared.detach(&wanted))
            .await
    }

    async fn attached(&self) -> Result<BTreeMap<WorkloadId, NetworkAttachment>, DriverError> {
        let ledger = self.shared.ledger();
        let complete = ledger.records().filter(|record| record.complete);
        Ok(complete
            .map(|record| (record.id.clone(), record.attachment()))
            .collect())
    }

    async fn reassert(&self) -> Result<(), DriverError> {
        self.for_all(|shared| shared.reassert(false)).await
    }

    async fn dismantle(&self) -> Result<(), DriverError> {
        self.for_all(Shared::dismantle).await
    }
}

/// Hardware address that belongs to an address; 02 means "locally administered".
pub(super) fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

fn mac_text(mac: [u8; 6]) -> String {
    let parts: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}

pub(super) fn open_route() -> Result<Socket, NetworkError> {
    Socket::route().map_err(NetworkError::netlink("open a routing socket"))
}

fn read_or_empty(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Writes a kernel setting unless it is so already; one that this kernel lacks is left out.
pub(super) fn set_sysctl(path: &str, value: &str) -> Result<(), NetworkError> {
    let path = Path::new(path);
    match fs::read_to_string(path) {
        Ok(now) if now.trim() == value => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        _ => {}
    }
    fs::write(path, value).map_err(NetworkError::file("write", path))
}

impl Shared {
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A panic elsewhere leaves the ledger whole: each change of it is one call.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn netfilter(&self) -> MutexGuard<'_, Socket> {
        // Answers are matched by number, so what a panic left unread does no harm.
        self.netfilter
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn rules(&self) -> Rules<'_> {
        Rules {
            table: &self.config.table,
            bridge: &self.config.bridge,
            links: &self.config.link_prefix,
            subnet: self.subnet,
        }
    }

    pub(super) fn link_name(&self, address: Ipv4Addr) -> String {
        format!("{}{:08x}", self.config.link_prefix, u32::from(address))
    }

    fn elements(&self, record: &Record) -> Vec<Element> {
        let Some(address) = record.address else {
            return Vec::new();
        };
        let link = self.link_name(address);
        let mut all = vec![
            Element::Source {
                link: link.clone(),
                mac: mac_of(address),
                address,
            },
            Element::Pool {
                link: link.clone(),
                number: record.number,
            },
            Element::Member {
                number: record.number,
                link,
            },
        ];
        for mapping in &record.status.ports {
            if let (Some(host_port), Ok(host)) = (mapping.host_port, ports::host_address(mapping)) {
                all.push(Element::Port {
                    host,
                    host_port,
                    protocol: mapping.protocol,
                    address,
                    port: mapping.port,
                });
            }
        }
        all
    }

    fn attach(
        &self,
        workload: &HostWorkload,
        prepared: Option<&Prepared>,
    ) -> Result<NetworkAttachment, NetworkError> {
        match &workload.spec.network {
            NetworkMode::Bridge => self.attach_bridge(workload, prepared),
            NetworkMode::None => {
                if let Some(prepared) = prepared {
                    Namespace::of(prepared)?.run(|| {
                        open_route()?
                            .request(&mut [link::loopback_up()])
                            .map_err(NetworkError::netlink("switch loopback on"))
                    })?;
                }
                self.keep_without_address(workload, None)
            }
            NetworkMode::Host => {
                let base = read_or_empty(Path::new("/etc/hosts"));
                self.keep_without_address(workload, Some(&base))
            }
            NetworkMode::Workload { id } => self.share(workload, id),
        }
    }

    fn attach_bridge(
        &self,
        workload: &HostWorkload,
        prepared: Option<&Prepared>,
    ) -> Result<NetworkAttachment, NetworkError> {
        let namespace = Namespace::of(prepared.ok_or(NetworkError::NotPrepared)?)?;
        let wanted = wanted_ports(workload);
        let known = self.ledger().get(&workload.id).cloned();
        let (record, fresh) = match known {
            Some(record) if record.address.is_some() && record.wanted == wanted => (record, false),
            Some(_) => {
                self.detach(&workload.id)?;
                (self.begin(workload, &wanted)?, true)
            }
            None => (self.begin(workload, &wanted)?, true),
        };
        let address = record.address.ok_or(NetworkError::NotPrepared)?;
        let plugged = self
            .add_elements(&record)
            .and_then(|()| self.plug(address, &namespace))
            .and_then(|()| self.ledger().set_complete(&record.id, true));
        if let Err(error) = plugged {
            if fresh && let Err(undo) = self.detach(&record.id) {
                tracing::warn!(id = %record.id, error = %undo, "half an attachment is left");
            }
            return Err(error);
        }
        Ok(record.attachment())
    }

    pub(super) fn begin(
        &self,
        workload: &HostWorkload,
        wanted: &[PortMapping],
    ) -> Result<Record, NetworkError> {
        let spec = &workload.spec;
        let resolv_conf = self.resolv_conf(workload)?;
        let record = Record::new(workload, resolv_conf, String::new());
        let (subnet, gateway) = (self.subnet, self.subnet.gateway());
        let fill = |record: &mut Record, address: Ipv4Addr| {
            let hostname = match spec.hostname.as_str() {
                "" => workload.id.short(),
                name => name,
            };
            let identity = Identity {
                address: Some(address),
                hostname,
                domain: &spec.domainname,
            };
            record.hosts = files::hosts(None, &spec.extra_hosts, gateway, &identity)?;
            record.status = NetworkStatus {
                ip: address.to_string(),
                prefix: subnet.prefix(),
                gateway: gateway.to_string(),
                mac: mac_text(mac_of(address)),
                ports: std::mem::take(&mut record.status.ports),
                ..NetworkStatus::default()
            };
            Ok(())
        };
        self.ledger().begin(record, wanted, &ports::probe, fill)
    }

    fn resolv_conf(&self, workload: &HostWorkload) -> Result<String, NetworkError> {
        let host = read_or_empty(&self.config.resolv_conf);
        let upstream = read_or_empty(&self.config.resolv_conf_upstream);
        files::resolv_conf(&workload.spec.dns, &host, &upstream)
    }

    fn keep_without_address(
        &self,
        workload: &HostWorkload,
        base: Option<&str>,
    ) -> Result<NetworkAttachment, NetworkError> {
        let resolv_conf = match base {
            // The host's own network reaches the host's own resolver.
            Some(_) if workload.spec.dns.servers.is_empty() => {
                read_or_empty(&self.config.resolv_conf)
            }
            _ => self.resolv_conf(workload)?,
        };
        let extra = &workload.spec.extra_hosts;
        let gateway = self.subnet.gateway();
        let hosts = files::hosts(base, extra, gateway, &Identity::default())?;
        self.keep_complete(Record::new(workload, resolv_conf, hosts))
    }

    fn keep_complete(&self, mut record: Record) -> Result<NetworkAttachment, NetworkError> {
        record.complete = true;
        Ok(self.ledger().keep(record)?.attachment())
    }

    /// Shares another workload's network: same pool only, which the server has checked and is checked here again.
    fn share(
        &self,
        workload: &HostWorkload,
        other: &WorkloadId,
    ) -> Result<NetworkAttachment, NetworkError> {
        let found = self.ledger().get(other).cloned();
        let found = found.filter(|record| record.complete && record.pool == workload.pool);
        let found =
            found.ok_or_else(|| NetworkError::OtherNotAttached(other.short().to_owned()))?;
        self.keep_complete(Record::new(workload, found.resolv_conf, found.hosts))
    }

    pub(super) fn add_elements(&self, record: &Record) -> Result<(), NetworkError> {
        let elements = self.elements(record);
        let table = &self.config.table;
        let added = elements::add(&mut self.netfilter(), table, &elements);
        if added.is_err() {
            // Someone took the tables away, or an old element is in the way: all of it anew, this record included.
            self.apply_rules()?;
        }
        self.forget_udp_flows(record);
        Ok(())
    }

    /// Kernels before 5.8 cannot; a flow that goes on unpublished is then left until it pauses for half a minute.
    fn forget_udp_flows(&self, record: &Record) {
        for mapping in &record.status.ports {
            if let (Protocol::Udp, Some(port)) = (mapping.protocol, mapping.host_port)
                && let Err(error) = elements::forget_udp_flows(&mut self.netfilter(), port)
            {
                tracing::debug!(%error, port, "flows to a port are not forgotten");
            }
        }
    }

    pub(super) fn apply_rules(&self) -> Result<(), NetworkError> {
        let ledger = self.ledger();
        let elements: Vec<Element> = ledger
            .records()
            .flat_map(|record| self.elements(record))
            .collect();
        // The lock is held while nft runs, so that no record appears between text and effect.
        rules::apply(&rules::text(&self.rules(), &elements))?;
        self.rule_count
            .store(self.rule_count()?.unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }

    /// Makes the veth pair and what is inside. If the workload's namespace has it already, it is left as it is.
    pub(super) fn plug(
        &self,
        address: Ipv4Addr,
        namespace: &Namespace,
    ) -> Result<(), NetworkError> {
        let mut host = open_route()?;
        let bridge = match self.bridge(&mut host)? {
            Some(bridge) => bridge,
            None => self.ensure_bridge(&mut host)?,
        };
        let veth = Veth {
            name: self.link_name(address),
            mac: mac_of(address),
            mtu: bridge.mtu,
            bridge: bridge.index,
        };
        let (subnet, gateway) = (self.subnet, self.subnet.gateway());
        namespace.run(|| {
            // Before eth0 exists: it then never gets an IPv6 address nor listens to router advertisements.
            set_sysctl("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")?;
            make_pair(&mut host, &veth, namespace)?;
            let mut inside = open_route()?;
            let index = link::find(&mut inside, link::INSIDE)
                .map_err(NetworkError::netlink("look for eth0 inside"))?
                .ok_or(NetworkError::NotPrepared)?
                .index;
            inside
                .request(&mut [
                    link::loopback_up(),
                    link::up(index),
                    link::add_address(index, address, subnet),
                    link::default_route(index, gateway),
                ])
                .map_err(NetworkError::netlink("set address and route inside"))
        })
    }

    pub(super) fn bridge(&self, host: &mut Socket) -> Result<Option<link::Link>, NetworkError> {
        link::find(host, &self.config.bridge).map_err(NetworkError::netlink("look for the bridge"))
    }

    fn detach(&self, id: &WorkloadId) -> Result<(), NetworkError> {
        let Some(record) = self.ledger().get(id).cloned() else {
            return Ok(());
        };
        self.ledger().set_complete(id, false)?;
        self.remove_elements(&record)?;
        self.ledger().forget(id)?;
        match record.address {
            Some(address) => self
                .reaper
                .remove(self.link_name(address))
                .map_err(NetworkError::netlink("remove a link")),
            None => Ok(()),
        }
    }

    pub(super) fn remove_elements(&self, record: &Record) -> Result<(), NetworkError> {
        let elements = self.elements(record);
        elements::remove(&mut self.netfilter(), &self.config.table, &elements)
            .map_err(NetworkError::netlink("take elements out of the rules"))?;
        self.forget_udp_flows(record);
        Ok(())
    }

    fn undo_incomplete(&self) -> Result<(), NetworkError> {
        let half: Vec<WorkloadId> = {
            let ledger = self.ledger();
            let records = ledger.records().filter(|record| !record.complete);
            records.map(|record| record.id.clone()).collect()
        };
        for id in half {
            tracing::info!(%id, "undoing a half-made attachment");
            self.detach(&id)?;
        }
        Ok(())
    }
}

/// Published ports, with one on a free host port for each exposed one if all are to be published.
fn wanted_ports(workload: &HostWorkload) -> Vec<PortMapping> {
    let mut wanted = workload.spec.ports.clone();
    if workload.spec.publish_all {
        for exposed in &workload.spec.task.exposed_ports {
            if let Some((port, protocol)) = ports::parse_exposed(exposed)
                && !wanted
                    .iter()
                    .any(|m| m.port == port && m.protocol == protocol)
            {
                wanted.push(PortMapping {
                    port,
                    protocol,
                    host_ip: String::new(),
                    host_port: None,
                });
            }
        }
    }
    wanted
}

fn make_pair(host: &mut Socket, veth: &Veth, namespace: &Namespace) -> Result<(), NetworkError> {
    let failed = || NetworkError::netlink("make a veth pair");
    match link::create_veth(host, veth, namespace.fd()) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            // The pair may be there but not on the bridge.
            let _ = link::delete(host, &veth.name);
            return Err(failed()(error));
        }
        Err(_) => {}
    }
    let outside = link::find(host, &veth.name).map_err(failed())?;
    let inside = link::find(&mut open_route()?, link::INSIDE).map_err(failed())?;
    if let (Some(outside), Some(inside)) = (&outside, &inside)
        && outside.peer == inside.index
        && inside.peer == outside.index
        && inside.mac == veth.mac
    {
        return link::connect_now(host, &veth.name, veth.bridge).map_err(failed());
    }
    // It leads to a namespace of an earlier attempt.
    link::delete(host, &veth.name).map_err(failed())?;
    link::create_veth(host, veth, namespace.fd()).map_err(failed())
}
