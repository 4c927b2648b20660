//! What was removed on demand and is not gone yet: folders of tasks, with their cgroups.
//!
//! Start with [`Trash::take`], which is quick, then [`Trash::remove`], which need not be. Always holds: a cgroup is
//! removed before the folder that names it, so that an agent killed in between leaves nothing that the next one
//! does not find.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use model::{PoolId, WorkloadId};

use super::cgroup::Cgroups;

/// Folder for what is being removed.
pub(super) struct Trash {
    folder: PathBuf,
    cgroups: Cgroups,
}

impl Trash {
    /// The trash of a runtime with this data folder.
    pub(super) fn new(data: &Path, cgroups: Cgroups) -> Self {
        Self {
            folder: data.join("trash"),
            cgroups,
        }
    }

    /// Moves a task's folder here, under a name that says whose cgroup goes with it. A folder that is not there is no
    /// failure.
    pub(super) fn take(
        &self,
        task: &Path,
        pool: Option<&PoolId>,
        id: &WorkloadId,
    ) -> io::Result<PathBuf> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let pool = pool.map_or("unknown", PoolId::as_str);
        let name = format!("{pool}-{}-{}", id.as_str(), hex::encode(random));
        let to = self.folder.join(name);
        match fs::rename(task, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(to),
        }
    }

    /// Removes one of its folders and the cgroup that goes with it. Blocks.
    pub(super) fn remove(&self, path: &Path) {
        if let Some((pool, id)) = owner(path)
            && let Err(error) = self.cgroups.workload(&pool, &id).remove()
        {
            // Tried again when the runtime observes next.
            tracing::warn!(%error, "a cgroup could not be removed");
            return;
        }
        let _ = fs::remove_dir_all(path);
    }

    /// Removes everything: all of it was removed on demand, and an agent that died meanwhile left it. Blocks.
    pub(super) fn empty(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            self.remove(&entry.path());
        }
    }
}

/// Pool and workload of a folder, from its name.
fn owner(path: &Path) -> Option<(PoolId, WorkloadId)> {
    let mut parts = path.file_name()?.to_str()?.split('-');
    let pool = PoolId::parse(parts.next()?).ok()?;
    let id = WorkloadId::parse(parts.next()?).ok()?;
    Some((pool, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_s_name_tells_its_owner() {
        let (pool, id) = (
            PoolId::from_bytes(&[1; 32]),
            WorkloadId::from_bytes(&[2; 32]),
        );
        let name = format!("{}-{}-00ff", pool.as_str(), id.as_str());
        assert_eq!(owner(Path::new(&name)), Some((pool, id.clone())));
        // A task whose plan was lost, and what an older version left.
        for name in [
            format!("unknown-{}-00ff", id.as_str()),
            format!("{}-00ff", id.as_str()),
        ] {
            assert_eq!(owner(Path::new(&name)), None);
        }
    }
}
