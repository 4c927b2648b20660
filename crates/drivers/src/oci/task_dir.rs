//! Where a task lives on disk.
//!
//! ```text
//! tasks/<workload>/           one folder per workload
//!   upper/ work/              its writable layer, kept between runs
//!   log/ etc/ volumes/        output of all runs, generated files, anonymous volumes
//!   runs/<run>-<attempt>/     one shim each: plan.json, socket, state.json, exit.json
//!   exec/<id>/                one shim per exec
//! ```
//! Always holds: a file that cannot be read is renamed aside with its content, not deleted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{HostWorkload, WorkloadId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shim::state::{self, Content};

/// What an attempt was made for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoredPlan {
    /// The workload as it was then.
    pub(super) workload: Arc<HostWorkload>,
    /// Restarts by policy before it.
    pub(super) attempt: u32,
}

const PLAN_FILE: &str = "plan.json";

/// Folder of one workload.
#[derive(Debug, Clone)]
pub(super) struct TaskDir {
    path: PathBuf,
}

/// One attempt of one run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RunDir {
    /// Number of the run.
    pub(super) run: u64,
    /// Restarts by policy within it.
    pub(super) attempt: u32,
    /// Where it is.
    pub(super) path: PathBuf,
}

impl TaskDir {
    /// The folder of a workload below `tasks`.
    pub(super) fn new(tasks: &Path, id: &WorkloadId) -> TaskDir {
        TaskDir {
            path: tasks.join(id.as_str()),
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A folder in it.
    pub(super) fn sub(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes the folders.
    pub(super) fn create(&self) -> io::Result<()> {
        for name in ["upper", "work", "log", "etc", "runs"] {
            fs::create_dir_all(self.path.join(name))?;
        }
        Ok(())
    }

    /// The folder of an attempt.
    pub(super) fn run(&self, run: u64, attempt: u32) -> RunDir {
        // Fixed width, so that names sort as numbers do.
        RunDir {
            run,
            attempt,
            path: self
                .path
                .join("runs")
                .join(format!("{run:010}-{attempt:010}")),
        }
    }

    /// All attempts, oldest first.
    pub(super) fn runs(&self) -> Vec<RunDir> {
        let Ok(entries) = fs::read_dir(self.path.join("runs")) else {
            return Vec::new();
        };
        let mut all: Vec<RunDir> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name();
                let (run, attempt) = name.to_str()?.split_once('-')?;
                Some(RunDir {
                    run: run.parse().ok()?,
                    attempt: attempt.parse().ok()?,
                    path: entry.path(),
                })
            })
            .collect();
        all.sort();
        all
    }
}

impl RunDir {
    /// Writes what the attempt is for.
    pub(super) fn store(&self, plan: &StoredPlan) -> io::Result<()> {
        fs::create_dir_all(&self.path)?;
        state::write(&self.path, PLAN_FILE, plan).map(drop)
    }

    /// What the attempt is for.
    pub(super) fn plan(&self) -> Option<StoredPlan> {
        read_or_quarantine(&self.path.join(PLAN_FILE))
    }
}

/// Reads a state file. One that is there and unreadable is renamed aside and counts as absent.
pub(super) fn read_or_quarantine<T: DeserializeOwned>(path: &Path) -> Option<T> {
    match state::read(path) {
        Ok(Content::Whole(value)) => Some(value),
        Ok(Content::Absent) => None,
        Ok(Content::Corrupt(reason)) => {
            let mut aside = path.as_os_str().to_owned();
            aside.push(".corrupt");
            tracing::warn!(path = %path.display(), reason, "state file is unreadable; set aside");
            if let Err(error) = fs::rename(path, &aside) {
                tracing::warn!(path = %path.display(), %error, "cannot set a state file aside");
            }
            None
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot read a state file");
            None
        }
    }
}
