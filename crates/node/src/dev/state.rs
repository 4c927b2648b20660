//! The cluster's own file. It is a convenience: everything it says can be found without it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;

use anyhow::{Context, Result, bail};
use drivers::network::Subnet;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::plan::Plan;
use super::processes::Process;

const FILE: &str = "dev.json";
const LOCK: &str = "dev.lock";
/// Held while a cluster chooses its addresses; empty, and gone with the machine's next start.
const MACHINE_LOCK: &str = "/run/plimsoll-dev.lock";

/// What is kept of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Number of hosts.
    pub(super) hosts: u32,
    /// Addresses of server and hosts.
    pub(super) underlay: Subnet,
    /// CPUs each host offers, in thousandths; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) host_cpus: Option<u64>,
    /// Bytes of memory each host offers; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) host_memory: Option<u64>,
    /// Programs by name (`server`, `h1`, …).
    #[serde(default)]
    pub(super) programs: BTreeMap<String, Process>,
}

/// Reads it. `None`: there is none, or it is unreadable and was put aside.
pub(super) fn read(plan: &Plan) -> Result<Option<State>> {
    let path = plan.folder.join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    match serde_json::from_slice(&bytes) {
        Ok(state) => Ok(Some(state)),
        Err(error) => {
            eprintln!(
                "{} is unreadable ({error}); going by names instead",
                path.display()
            );
            Ok(None)
        }
    }
}

/// Writes it.
pub(super) fn write(plan: &Plan, state: &State) -> Result<()> {
    let path = plan.folder.join(FILE);
    let new = plan.folder.join("dev.json.new");
    fs::write(&new, serde_json::to_vec_pretty(state)?)
        .and_then(|()| fs::rename(&new, &path))
        .with_context(|| format!("write {}", path.display()))
}

/// Whether a folder is a cluster's.
pub(super) fn is_cluster(plan: &Plan) -> bool {
    plan.folder.join(FILE).exists()
}

/// Makes the folder if it is missing. A folder with other content is refused, because `down` empties it.
pub(super) fn claim(plan: &Plan) -> Result<()> {
    let folder = &plan.folder;
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    if is_cluster(plan) {
        return Ok(());
    }
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    for entry in entries {
        let name = entry?.file_name();
        if name != LOCK && name != "dev.json.new" {
            bail!(
                "{} is not empty and not a cluster's folder ({} is in it): choose another one",
                folder.display(),
                name.to_string_lossy()
            );
        }
    }
    Ok(())
}

/// Keeps other `dev up` and `dev down` of the same cluster out while it lives.
pub(super) fn lock(plan: &Plan) -> Result<Flock<File>> {
    let path = plan.folder.join(LOCK);
    let file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((file, nix::Error::EWOULDBLOCK)) => {
            eprintln!("waiting for another `plimsoll dev` of this cluster");
            Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, errno)| errno)
                .with_context(|| format!("lock {}", path.display()))
        }
        Err((_, errno)) => Err(errno).with_context(|| format!("lock {}", path.display())),
    }
}

/// Keeps other clusters of this machine from choosing addresses while it lives.
pub(super) fn lock_machine() -> Result<Flock<File>> {
    let file = File::create(MACHINE_LOCK).with_context(|| format!("make {MACHINE_LOCK}"))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .with_context(|| format!("lock {MACHINE_LOCK}"))
}

/// Removes the folder's content, the state file last, so that a removal that was cut off can be repeated.
pub(super) fn remove(plan: &Plan) -> Result<()> {
    let folder = &plan.folder;
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if name == FILE || name == LOCK {
            continue;
        }
        let path = entry.path();
        let removed = if entry.file_type()?.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.with_context(|| format!("remove {}", path.display()))?;
    }
    for name in [FILE, LOCK] {
        let path = folder.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}
