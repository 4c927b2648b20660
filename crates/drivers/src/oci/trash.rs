//! What was removed on demand and is not gone yet: folders of tasks, with their cgroups.
//!
//! Start with [`Trash::take`], which is quick, then [`Trash::remove`], which need not be. Always holds: a cgroup is
//! removed before the folder that names it, so that an agent killed in between leaves nothing that the next one
//! does not find.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use model::WorkloadId;

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

    /// Moves a task's folder here, with a note of the cgroup that goes with it (below this host's). A folder that is
    /// not there is no failure.
    pub(super) fn take(
        &self,
        task: &Path,
        cgroup: Option<&Path>,
        id: &WorkloadId,
    ) -> io::Result<PathBuf> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let to = self
            .folder
            .join(format!("{}-{}", id.as_str(), hex::encode(random)));
        let noted = match cgroup {
            Some(cgroup) => fs::write(task.join(NOTE), cgroup.as_os_str().as_encoded_bytes()),
            None => Ok(()),
        };
        match noted.and_then(|()| fs::rename(task, &to)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(to),
        }
    }

    /// Removes one of its folders and the cgroup that goes with it. Blocks.
    pub(super) fn remove(&self, path: &Path) {
        if let Some(cgroup) = noted(path)
            && let Err(error) = self.cgroups.below(&cgroup).remove()
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

/// File in a task's folder that names its cgroup.
const NOTE: &str = "cgroup";

/// The cgroup that goes with a folder; only names of pools and workloads are believed.
fn noted(folder: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(folder.join(NOTE)).ok()?;
    let id = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
    text.split('/').all(id).then(|| PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_tells_the_cgroup_of_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::fake_v2(dir.path(), "h");
        let trash = Trash::new(dir.path(), cgroups);
        fs::create_dir(dir.path().join("trash")).unwrap();
        let id = WorkloadId::from_bytes(&[2; 32]);
        let task = dir.path().join("task");
        fs::create_dir(&task).unwrap();
        let taken = trash.take(&task, Some(Path::new("aa/bb")), &id).unwrap();
        assert_eq!(noted(&taken), Some(PathBuf::from("aa/bb")));
        assert!(!task.exists());
        // A task whose plan was lost, and one whose folder is gone.
        fs::create_dir(&task).unwrap();
        assert_eq!(noted(&trash.take(&task, None, &id).unwrap()), None);
        trash.take(&task, Some(Path::new("aa/bb")), &id).unwrap();
        // Nothing outside is believed.
        for bad in ["", "..", "aa/../bb", "/aa", "aa//bb"] {
            fs::write(taken.join(NOTE), bad).unwrap();
            assert_eq!(noted(&taken), None, "{bad}");
        }
    }
}
