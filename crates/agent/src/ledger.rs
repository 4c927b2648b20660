//! What the agent must know after a crash: the document of desired state and what it remembers of each workload.
//!
//! Two append-only files of records (length, CRC-32 of the JSON, JSON; integers big endian): `desired.log` is synced
//! after every record, so that a document the server was told of survives a power cut; `memory.log` is not, because
//! losing its end costs only counters. Both are rewritten when they have grown well past what they mean.
//!
//! What always holds: a torn last record is dropped; anything else that cannot be read puts the file aside under
//! another name and starts empty, and nothing on the host is touched for it: what runs is then unknown until the
//! server has sent a whole document.

mod document;
mod file;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::{HostDesired, WorkloadId};
use plan::steps::Memory;
use serde::{Deserialize, Serialize};
use wire::link::DesiredUpdate;

pub use document::{DocumentError, Taken, take};
use file::LogFile;

/// Why the ledger cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A file operation failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Another agent has it open.
    #[error("the ledger in {} is in use by another agent", .0.display())]
    InUse(PathBuf),
    /// A record cannot be JSON.
    #[error("ledger record cannot be written as JSON")]
    Json(#[source] serde_json::Error),
}

/// A record of `memory.log`.
#[derive(Debug, Serialize, Deserialize)]
struct MemoryRecord {
    id: WorkloadId,
    /// `None`: forgotten.
    memory: Option<Memory>,
}

/// What was in the ledger.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The document; generation 0: none.
    pub desired: HostDesired,
    /// What was remembered.
    pub memories: BTreeMap<WorkloadId, Memory>,
    /// Files that were put aside because they could not be read.
    pub quarantined: Vec<PathBuf>,
}

/// What is to be written.
#[derive(Debug, Default)]
pub struct Batch {
    /// Documents and differences, in order.
    pub desired: Vec<DesiredUpdate>,
    /// Changed memories; `None`: forget.
    pub memories: BTreeMap<WorkloadId, Option<Memory>>,
}

impl Batch {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.desired.is_empty() && self.memories.is_empty()
    }
}

/// The open ledger. Its methods block: call them where that is allowed.
#[derive(Debug)]
pub struct Ledger {
    desired: LogFile,
    memory: LogFile,
    /// What the files mean, for rewriting them.
    state: State,
    /// A write failed: what the files hold is not what `state` says.
    broken: bool,
    /// Locked as long as this lives.
    _lock: File,
}

#[derive(Debug, Default)]
struct State {
    desired: HostDesired,
    memories: BTreeMap<WorkloadId, Memory>,
}

impl Ledger {
    /// Opens the ledger as soon as no other agent has it open, but does not wait long: an agent that is being replaced
    /// may still be ending.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub async fn open_when_free(
        folder: &Path,
        sync: bool,
    ) -> Result<(Self, Recovered), LedgerError> {
        let deadline = tokio::time::Instant::now() + FREE_LIMIT;
        loop {
            match Self::open(folder, sync) {
                Err(LedgerError::InUse(_)) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(FREE_LOOK).await;
                }
                result => return result,
            }
        }
    }

    /// Opens or makes the ledger in a folder. `sync` says whether documents are synced to disk (simulations do not).
    ///
    /// # Errors
    /// When files cannot be read, put aside or made.
    pub fn open(folder: &Path, sync: bool) -> Result<(Self, Recovered), LedgerError> {
        std::fs::create_dir_all(folder).map_err(|source| LedgerError::Io {
            what: "make",
            path: folder.to_owned(),
            source,
        })?;
        let lock = lock(folder)?;
        let mut quarantined = Vec::new();
        let mut document = HostDesired::default();
        let desired = LogFile::open(
            &folder.join("desired.log"),
            sync,
            &mut quarantined,
            |record: Option<DesiredUpdate>| match record {
                None => {
                    document = HostDesired::default();
                    true
                }
                Some(update) => take(&mut document, &update).is_ok(),
            },
        )?;
        let mut memories = BTreeMap::new();
        let memory = LogFile::open(
            &folder.join("memory.log"),
            false,
            &mut quarantined,
            |record: Option<MemoryRecord>| {
                match record {
                    None => memories.clear(),
                    Some(MemoryRecord {
                        id,
                        memory: Some(memory),
                    }) => {
                        memories.insert(id, memory);
                    }
                    Some(MemoryRecord { id, memory: None }) => {
                        memories.remove(&id);
                    }
                }
                true
            },
        )?;
        let ledger = Self {
            desired,
            memory,
            state: State {
                desired: document.clone(),
                memories: memories.clone(),
            },
            broken: false,
            _lock: lock,
        };
        let recovered = Recovered {
            desired: document,
            memories,
            quarantined,
        };
        Ok((ledger, recovered))
    }

    /// Writes a batch; documents are on disk when this returns.
    ///
    /// # Errors
    /// When a file cannot be written. What the batch says is kept and written with the next one.
    pub fn write(&mut self, batch: &Batch) -> Result<(), LedgerError> {
        let result = self.append(batch);
        self.broken = result.is_err();
        result
    }

    fn append(&mut self, batch: &Batch) -> Result<(), LedgerError> {
        // The state first and wholly, so that after a failure a rewrite makes good.
        for update in &batch.desired {
            if take(&mut self.state.desired, update).is_ok() {
                self.desired.push(update)?;
            }
        }
        for (id, memory) in &batch.memories {
            match memory {
                Some(memory) => self.state.memories.insert(id.clone(), memory.clone()),
                None => self.state.memories.remove(id),
            };
            self.memory.push(&MemoryRecord {
                id: id.clone(),
                memory: memory.clone(),
            })?;
        }
        if !self.broken {
            self.desired.flush()?;
            self.memory.flush()?;
        }
        if self.broken || self.desired.is_overgrown() {
            let records: &[DesiredUpdate] = match self.state.desired.generation {
                0 => &[],
                _ => &[DesiredUpdate::whole(&self.state.desired)],
            };
            self.desired.rewrite(records)?;
        }
        if self.broken || self.memory.is_overgrown() {
            let records: Vec<MemoryRecord> = self
                .state
                .memories
                .iter()
                .map(|(id, memory)| MemoryRecord {
                    id: id.clone(),
                    memory: Some(memory.clone()),
                })
                .collect();
            self.memory.rewrite(&records)?;
        }
        Ok(())
    }
}

/// Longest wait for another agent to end: it needs one disk write.
const FREE_LIMIT: Duration = Duration::from_secs(5);
/// How often that is looked at.
const FREE_LOOK: Duration = Duration::from_millis(10);

/// Makes sure that only one agent works with a folder.
fn lock(folder: &Path) -> Result<File, LedgerError> {
    let path = folder.join("lock");
    let io = |what| {
        let path = path.clone();
        move |source| LedgerError::Io { what, path, source }
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(io("open"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LedgerError::InUse(folder.to_owned())),
        Err(TryLockError::Error(source)) => Err(io("lock")(source)),
    }
}
