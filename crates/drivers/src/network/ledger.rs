//! What the driver keeps on disk, and the addresses in use.
//!
//! One file per attached workload (`attachments/<id>`), one empty file per address that was given back
//! (`released/<address>`, its age is the time of the release). Files are replaced by rename, not synced: after a power
//! failure every namespace is gone, so a record of another boot is void anyway, and a torn one is put aside.
//!
//! What always holds: a record is written (`complete: false`) before the kernel is touched and marked so again before
//! anything is taken back; at the start such records are handed out to be undone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use agent::driver::NetworkAttachment;
use model::workload::{NetworkStatus, PortMapping};
use model::{HostWorkload, Name, PoolId, WorkloadId};
use serde::{Deserialize, Serialize};

use super::ports::{PortTable, Probe};
use super::rules::POOL_NUMBERS;
use super::{NetworkError, Subnet};

/// Version of the stored form.
const VERSION: u32 = 1;

/// What is kept of one attached workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    /// The boot it is true of.
    boot_id: String,
    /// Whether everything is made; otherwise it is being made or taken back.
    pub(super) complete: bool,
    /// The workload.
    pub(super) id: WorkloadId,
    /// Its pool.
    pub(super) pool: PoolId,
    /// Its name in its pool.
    pub(super) name: Name,
    /// Number of its pool in the rules; 0: not in the rules.
    pub(super) number: u32,
    /// Its own address on the bridge; `None`: it has none.
    pub(super) address: Option<Ipv4Addr>,
    /// Published ports as asked for.
    pub(super) wanted: Vec<PortMapping>,
    /// What it was told.
    pub(super) status: NetworkStatus,
    /// Content of `/etc/resolv.conf`.
    pub(super) resolv_conf: String,
    /// Content of `/etc/hosts`.
    pub(super) hosts: String,
}

impl Record {
    /// A record without an address.
    pub(super) fn new(workload: &HostWorkload, resolv_conf: String, hosts: String) -> Self {
        Self {
            version: VERSION,
            boot_id: String::new(),
            complete: false,
            id: workload.id.clone(),
            pool: workload.pool.clone(),
            name: workload.name.clone(),
            number: 0,
            address: None,
            wanted: Vec::new(),
            status: NetworkStatus::default(),
            resolv_conf,
            hosts,
        }
    }

    /// What the agent is told.
    pub(super) fn attachment(&self) -> NetworkAttachment {
        NetworkAttachment {
            status: self.status.clone(),
            resolv_conf: self.resolv_conf.clone(),
            hosts: self.hosts.clone(),
        }
    }
}

/// Everything that is kept.
#[derive(Debug)]
pub(super) struct Ledger {
    folder: PathBuf,
    boot_id: String,
    subnet: Subnet,
    quarantine: Duration,
    records: BTreeMap<WorkloadId, Record>,
    used: BTreeSet<Ipv4Addr>,
    released: BTreeMap<Ipv4Addr, SystemTime>,
    ports: PortTable,
    next: u32,
}

/// The subnet kept from an earlier start.
pub(super) fn kept_subnet(folder: &Path) -> Option<Subnet> {
    let text = fs::read_to_string(folder.join("subnet")).ok()?;
    text.trim().parse().ok()
}

/// Keeps the subnet.
pub(super) fn keep_subnet(folder: &Path, subnet: Subnet) -> Result<(), NetworkError> {
    fs::create_dir_all(folder).map_err(NetworkError::file("make folder", folder))?;
    replace(&folder.join("subnet"), subnet.to_string().as_bytes())
}

impl Ledger {
    /// Reads what is there. Records of another boot are void; unreadable ones are put aside under another name.
    pub(super) fn open(
        folder: &Path,
        subnet: Subnet,
        quarantine: Duration,
    ) -> Result<Self, NetworkError> {
        let boot_path = "/proc/sys/kernel/random/boot_id";
        let boot_id =
            fs::read_to_string(boot_path).map_err(NetworkError::file("read", boot_path))?;
        let mut ledger = Self {
            folder: folder.to_owned(),
            boot_id: boot_id.trim().to_owned(),
            subnet,
            quarantine,
            records: BTreeMap::new(),
            used: BTreeSet::new(),
            released: BTreeMap::new(),
            ports: PortTable::default(),
            next: 0,
        };
        ledger.read_records()?;
        ledger.read_released()?;
        Ok(ledger)
    }

    fn read_records(&mut self) -> Result<(), NetworkError> {
        for path in entries(&self.folder.join("attachments"))? {
            if path.extension().is_some() {
                // A half-written replacement, or one that was put aside before.
                continue;
            }
            let bytes = fs::read(&path).map_err(NetworkError::file("read", &path))?;
            match serde_json::from_slice::<Record>(&bytes) {
                Ok(record) if record.version == VERSION && self.names(&path, &record) => {
                    if record.boot_id == self.boot_id {
                        self.take(record);
                    } else {
                        remove(&path)?;
                    }
                }
                _ => {
                    tracing::warn!(path = %path.display(), "unreadable network record put aside");
                    let aside = path.with_extension("unreadable");
                    fs::rename(&path, aside).map_err(NetworkError::file("rename", &path))?;
                }
            }
        }
        Ok(())
    }

    fn names(&self, path: &Path, record: &Record) -> bool {
        *path == self.path(&record.id)
    }

    fn take(&mut self, record: Record) {
        self.used.extend(record.address);
        self.ports.insert(&record.id, &record.status.ports);
        self.records.insert(record.id.clone(), record);
    }

    fn read_released(&mut self) -> Result<(), NetworkError> {
        for path in entries(&self.folder.join("released"))? {
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(address) = name.and_then(|name| name.parse().ok()) else {
                continue;
            };
            let metadata = fs::metadata(&path).map_err(NetworkError::file("read", &path))?;
            // A clock that was set back must not keep an address for ever.
            let now = SystemTime::now();
            let at = metadata.modified().map_or(now, |at| at.min(now));
            self.released.insert(address, at);
        }
        Ok(())
    }

    /// Marks an address as used by something that no record names (a link found at the start).
    pub(super) fn reserve(&mut self, address: Ipv4Addr) {
        self.used.insert(address);
    }

    /// Whether an address was given back and not given out again since.
    pub(super) fn is_released(&self, address: Ipv4Addr) -> bool {
        self.released.contains_key(&address) && !self.used.contains(&address)
    }

    /// The record of a workload.
    pub(super) fn get(&self, id: &WorkloadId) -> Option<&Record> {
        self.records.get(id)
    }

    /// All records.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// Gives a new workload an address and its ports, and keeps the intent. `fill` completes the record with what
    /// depends on the address.
    pub(super) fn begin(
        &mut self,
        mut record: Record,
        wanted: &[PortMapping],
        probe: Probe<'_>,
        fill: impl FnOnce(&mut Record, Ipv4Addr) -> Result<(), NetworkError>,
    ) -> Result<Record, NetworkError> {
        let address = self.free_address()?;
        let records = &self.records;
        let pool = record.pool.clone();
        let owner = |id: &WorkloadId| describe(records, &pool, id);
        let ports = self.ports.reserve(&record.id, wanted, &owner, probe)?;
        record.address = Some(address);
        record.number = self.pool_number(&record.pool);
        record.wanted = wanted.to_vec();
        record.status.ports = ports;
        let id = record.id.clone();
        let kept = fill(&mut record, address).and_then(|()| self.keep(record));
        match &kept {
            Ok(_) => {
                self.used.insert(address);
            }
            Err(_) => self.ports.release(&id),
        }
        kept
    }

    /// Keeps a record.
    pub(super) fn keep(&mut self, mut record: Record) -> Result<Record, NetworkError> {
        record.boot_id.clone_from(&self.boot_id);
        self.write(&record)?;
        self.records.insert(record.id.clone(), record.clone());
        Ok(record)
    }

    fn write(&self, record: &Record) -> Result<(), NetworkError> {
        let path = self.path(&record.id);
        let bytes = serde_json::to_vec(record).map_err(|error| NetworkError::File {
            what: "write",
            path: path.clone(),
            source: error.into(),
        })?;
        replace(&path, &bytes)
    }

    /// Notes that everything of a record is made, or that it begins to be taken back.
    pub(super) fn set_complete(
        &mut self,
        id: &WorkloadId,
        complete: bool,
    ) -> Result<(), NetworkError> {
        let Some(record) = self.records.get(id) else {
            return Ok(());
        };
        if record.complete != complete {
            let mut record = record.clone();
            record.complete = complete;
            self.keep(record)?;
        }
        Ok(())
    }

    /// Forgets a workload whose kernel state is gone; its address rests for a while.
    pub(super) fn forget(&mut self, id: &WorkloadId) -> Result<(), NetworkError> {
        if let Some(address) = self.records.get(id).and_then(|record| record.address) {
            let now = SystemTime::now();
            let path = self.released_path(address);
            fs::File::create(&path)
                .and_then(|file| file.set_modified(now))
                .map_err(NetworkError::file("write", &path))?;
            self.released.insert(address, now);
            self.used.remove(&address);
        }
        remove(&self.path(id))?;
        self.ports.release(id);
        self.records.remove(id);
        Ok(())
    }

    /// The next address in turn that is neither used nor resting; if all others are used, the one that rests longest.
    fn free_address(&mut self) -> Result<Ipv4Addr, NetworkError> {
        /// Network, gateway and broadcast are nobody's.
        const FIRST: u32 = 2;
        let last = u32::try_from(self.subnet.size().saturating_sub(2)).unwrap_or(u32::MAX);
        let count = last.saturating_sub(FIRST - 1);
        for step in 0..count {
            let index = FIRST + (self.next + step) % count;
            let Some(address) = self.subnet.nth(index) else {
                continue;
            };
            if !self.used.contains(&address) && self.rested(address)? {
                self.next = (index - FIRST + 1) % count;
                return Ok(address);
            }
        }
        let in_subnet = self.released.iter().filter(|(address, _)| {
            self.subnet.contains(**address) && !self.used.contains(*address)
        });
        let longest = in_subnet
            .min_by_key(|(_, at)| **at)
            .map(|(address, _)| *address);
        let Some(address) = longest else {
            let (subnet, used) = (self.subnet, self.used.len());
            return Err(NetworkError::AddressesUsedUp { subnet, used });
        };
        self.released.remove(&address);
        remove(&self.released_path(address))?;
        Ok(address)
    }

    fn rested(&mut self, address: Ipv4Addr) -> Result<bool, NetworkError> {
        let Some(at) = self.released.get(&address) else {
            return Ok(true);
        };
        if at.elapsed().unwrap_or_default() < self.quarantine {
            return Ok(false);
        }
        self.released.remove(&address);
        remove(&self.released_path(address))?;
        Ok(true)
    }

    fn pool_number(&self, pool: &PoolId) -> u32 {
        let numbers = || self.records.values().filter(|record| record.number != 0);
        if let Some(record) = numbers().find(|record| record.pool == *pool) {
            return record.number;
        }
        let taken: BTreeSet<u32> = numbers().map(|record| record.number).collect();
        // There are always fewer workloads than numbers.
        (1..POOL_NUMBERS)
            .find(|number| !taken.contains(number))
            .unwrap_or(POOL_NUMBERS - 1)
    }

    fn path(&self, id: &WorkloadId) -> PathBuf {
        self.folder.join("attachments").join(id.as_str())
    }

    fn released_path(&self, address: Ipv4Addr) -> PathBuf {
        self.folder.join("released").join(address.to_string())
    }
}

/// A workload in the words that one of pool `asker` may hear.
fn describe(records: &BTreeMap<WorkloadId, Record>, asker: &PoolId, id: &WorkloadId) -> String {
    match records.get(id) {
        Some(record) if record.pool == *asker => {
            format!("by workload {} ({})", record.name, id.short())
        }
        _ => "on this host".to_owned(),
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, NetworkError> {
    fs::create_dir_all(folder).map_err(NetworkError::file("make folder", folder))?;
    let entries = fs::read_dir(folder).map_err(NetworkError::file("read", folder))?;
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    paths.map_err(NetworkError::file("read", folder))
}

fn replace(path: &Path, bytes: &[u8]) -> Result<(), NetworkError> {
    let mut next = path.as_os_str().to_owned();
    next.push(".new");
    let next = PathBuf::from(next);
    fs::write(&next, bytes).map_err(NetworkError::file("write", &next))?;
    fs::rename(&next, path).map_err(NetworkError::file("replace", path))
}

fn remove(path: &Path) -> Result<(), NetworkError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(NetworkError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}
