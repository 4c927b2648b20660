//! The cgroups of tasks: `plimsoll/<host>/<pool>[/<pool>…]/<workload>` on cgroup v1, hybrid and v2.
//!
//! What it is: making, limiting, freezing, killing and removing that subtree. What it is not: measuring
//! (see [`super::stats`]) and placing processes (a shim writes itself into the files of [`Cgroup::placement`]).
//! Start with [`Cgroups::detect`]. Always holds: nothing outside the subtree is written, except that
//! controllers are switched on for it on v2.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::workload::DeviceMapping;
use model::{CpuSet, HostWorkload, PoolId};
use shim::message::{CgroupView, Fence, Placement, Thaw};

/// Controllers used on v1; what is not mounted is left out.
const V1_CONTROLLERS: [&str; 8] = [
    "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids",
];
/// Controllers used on v2.
const V2_CONTROLLERS: [&str; 5] = ["cpuset", "cpu", "io", "memory", "pids"];
/// A freezer needs a moment for processes in system calls.
const FREEZE_PATIENCE: Duration = Duration::from_secs(5);
/// A killed task leaves its cgroups within milliseconds; a stuck one (dead network disk) may take long.
const REMOVE_PATIENCE: Duration = Duration::from_secs(60);

/// A cgroup operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup file system is mounted.
    #[error("no cgroup file system is mounted")]
    NotMounted,
    /// A file could not be used; shown without its place on the host.
    #[error("cgroup file {}", file_name(path))]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// CPUs or memory nodes are wanted that the host does not have.
    #[error("the host has the {what} {available}, {missing} is wanted: choose others or none")]
    Missing {
        /// `CPUs` or `memory nodes`.
        what: &'static str,
        /// What a task of this host may use.
        available: CpuSet,
        /// What is wanted beyond that.
        missing: CpuSet,
    },
    /// Processes did not freeze in time.
    #[error("processes could not be frozen in time")]
    Freeze,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CgroupError + '_ {
    move |source| CgroupError::File {
        path: path.to_owned(),
        source,
    }
}

fn file_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

pub(super) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(path, value).map_err(at(path))
}

/// How cgroups are mounted on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Controllers in hierarchies of their own.
    V1,
    /// As `V1`, with an additional v2 hierarchy without controllers.
    Hybrid,
    /// One hierarchy.
    V2,
}

impl Version {
    /// `v1`, `hybrid` or `v2`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V1 => "v1",
            Version::Hybrid => "hybrid",
            Version::V2 => "v2",
        }
    }
}

/// The cgroup file systems of this host.
#[derive(Debug, Clone)]
pub struct Cgroups {
    version: Version,
    /// Controller to mount point; on v2 one entry with an empty name.
    mounts: BTreeMap<String, PathBuf>,
    /// Hierarchies without controllers of ours; other runtimes make directories there too.
    others: Vec<PathBuf>,
    base: PathBuf,
}

impl Cgroups {
    /// Looks at the mount table of the calling process.
    ///
    /// # Errors
    /// When there are no cgroups.
    pub fn detect(host: &str) -> Result<Cgroups, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let table = fs::read_to_string(path).map_err(at(path))?;
        Cgroups::from_mountinfo(&table, host)
    }

    fn from_mountinfo(table: &str, host: &str) -> Result<Cgroups, CgroupError> {
        let mut v1 = BTreeMap::new();
        let mut unified = None;
        let mut others = Vec::new();
        for line in table.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let mut fields = left.split(' ');
            let (Some(root), Some(point)) = (fields.nth(3), fields.next()) else {
                continue;
            };
            let mut right = right.split(' ');
            match (right.next(), right.nth(1)) {
                // A bind mount of a part is somebody's container, not the hierarchy.
                _ if root != "/" => {}
                (Some("cgroup2"), _) => unified = unified.or(Some(PathBuf::from(point))),
                (Some("cgroup"), Some(options)) => {
                    others.push(PathBuf::from(point));
                    for controller in options
                        .split(',')
                        .filter(|name| V1_CONTROLLERS.contains(name))
                    {
                        v1.entry(controller.to_owned())
                            .or_insert_with(|| PathBuf::from(point));
                    }
                }
                _ => {}
            }
        }
        let base = Path::new("plimsoll").join(host);
        match (v1.is_empty(), unified) {
            (true, None) => Err(CgroupError::NotMounted),
            (true, Some(point)) => Ok(Cgroups {
                version: Version::V2,
                mounts: BTreeMap::from([(String::new(), point)]),
                others,
                base,
            }),
            (false, Some(point)) => {
                others.push(point);
                Ok(Cgroups {
                    version: Version::Hybrid,
                    mounts: v1,
                    others,
                    base,
                })
            }
            (false, None) => Ok(Cgroups {
                version: Version::V1,
                mounts: v1,
                others,
                base,
            }),
        }
    }

    /// A v2 hierarchy in an ordinary folder.
    #[cfg(test)]
    pub(super) fn fake_v2(point: &Path, host: &str) -> Cgroups {
        Cgroups {
            version: Version::V2,
            mounts: BTreeMap::from([(String::new(), point.to_owned())]),
            others: Vec::new(),
            base: Path::new("plimsoll").join(host),
        }
    }

    /// How cgroups are mounted.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    pub(super) fn is_v2(&self) -> bool {
        self.version == Version::V2
    }

    /// The cgroup of a pool, named by the way to it, outermost first: limits written here bound it with everything
    /// below.
    #[must_use]
    pub fn pool(&self, path: &[&PoolId]) -> Cgroup {
        self.at(self.pool_dir(path.iter().copied()))
    }

    /// The cgroup of a workload's pool.
    #[must_use]
    pub fn pool_of(&self, workload: &HostWorkload) -> Cgroup {
        self.at(self.pool_dir(workload.pool_path.iter().chain([&workload.pool])))
    }

    /// The cgroup of a workload.
    #[must_use]
    pub fn workload(&self, workload: &HostWorkload) -> Cgroup {
        self.below(&path_of(workload))
    }

    /// The cgroup at a path below this host's.
    #[must_use]
    pub fn below(&self, path: &Path) -> Cgroup {
        self.at(self.base.join(path))
    }

    fn pool_dir<'a>(&self, path: impl Iterator<Item = &'a PoolId>) -> PathBuf {
        path.fold(self.base.clone(), |dir, id| dir.join(id.as_str()))
    }

    fn at(&self, path: PathBuf) -> Cgroup {
        Cgroup {
            version: self.version,
            mounts: self.mounts.clone(),
            others: self.others.clone(),
            path,
        }
    }

    /// Removes the host's whole subtree if no process is in it; for taking a host down.
    ///
    /// # Errors
    /// When a process is still there.
    pub fn remove_all(&self) -> Result<(), CgroupError> {
        for point in self.mounts.values().chain(&self.others) {
            remove_tree(&point.join(&self.base), 0)?;
            // Other hosts on this machine may still be below.
            let _ = fs::remove_dir(point.join("plimsoll"));
        }
        Ok(())
    }
}

/// Where the cgroup of a workload is below this host's.
pub(super) fn path_of(workload: &HostWorkload) -> PathBuf {
    let pools = workload.pool_path.iter().chain([&workload.pool]);
    pools
        .map(PoolId::as_str)
        .chain([workload.id.as_str()])
        .collect()
}

fn remove_tree(dir: &Path, depth: u32) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(at(dir))?,
    };
    // A task may have made cgroups of its own; nobody nests deeper than this.
    if depth < 16 {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_tree(&entry.path(), depth + 1)?;
            }
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(at(dir)),
    }
}

/// One cgroup in all hierarchies.
#[derive(Debug, Clone)]
pub struct Cgroup {
    version: Version,
    mounts: BTreeMap<String, PathBuf>,
    others: Vec<PathBuf>,
    path: PathBuf,
}

impl Cgroup {
    /// Path below the mount points, as an OCI runtime wants it.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/{}", self.path.display())
    }

    pub(super) fn is_v2(&self) -> bool {
        self.version == Version::V2
    }

    /// Whether it was made.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.dirs().iter().all(|dir| dir.exists())
    }

    /// Directory of a controller, if it is there.
    pub(super) fn dir(&self, controller: &str) -> Option<PathBuf> {
        let key = if self.is_v2() { "" } else { controller };
        self.mounts.get(key).map(|point| point.join(&self.path))
    }

    /// Directories, each once (controllers may share a hierarchy).
    fn dirs(&self) -> Vec<PathBuf> {
        let mut points: Vec<_> = self.mounts.values().collect();
        points.sort();
        points.dedup();
        points
            .into_iter()
            .map(|point| point.join(&self.path))
            .collect()
    }

    /// Makes it in all hierarchies, and all above it.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn create(&self) -> Result<(), CgroupError> {
        for dir in self.dirs() {
            if !dir.exists() && !self.is_v2() {
                // Another host on this machine may be taking its last directory away just now.
                fs::create_dir_all(&dir)
                    .or_else(|_| fs::create_dir_all(&dir))
                    .map_err(at(&dir))?;
            }
        }
        match self.mounts.get("") {
            Some(point) => self.create_v2(point),
            None => self.inherit_cpuset(),
        }
    }

    fn create_v2(&self, point: &Path) -> Result<(), CgroupError> {
        let mut dir = point.to_owned();
        for part in &self.path {
            // One by one: a controller that this kernel lacks must not take the others along.
            for controller in V2_CONTROLLERS {
                let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
            }
            dir.push(part);
            match fs::create_dir(&dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(at(&dir)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A new cpuset on v1 is empty and takes no process; it gets what its parent has.
    fn inherit_cpuset(&self) -> Result<(), CgroupError> {
        let Some(point) = self.mounts.get("cpuset") else {
            return Ok(());
        };
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let mut dir = point.clone();
            let mut value = fs::read_to_string(dir.join(file)).map_err(at(&dir))?;
            for part in &self.path {
                dir.push(part);
                let own = dir.join(file);
                let present = fs::read_to_string(&own).map_err(at(&own))?;
                if present.trim().is_empty() {
                    write(&own, value.trim())?;
                } else {
                    value = present;
                }
            }
        }
        Ok(())
    }

    /// Files for a shim to place itself, to watch, and to show to its task.
    #[must_use]
    pub fn placement(&self) -> Placement {
        let dirs = self.dirs();
        let oom = self.dir("memory").map(|dir| {
            dir.join(if self.is_v2() {
                "memory.events"
            } else {
                "memory.oom_control"
            })
        });
        let view = if self.is_v2() {
            dirs.iter()
                .map(|dir| CgroupView {
                    name: String::new(),
                    source: dir.clone(),
                })
                .collect()
        } else {
            let mut points: Vec<_> = self.mounts.values().collect();
            points.sort();
            points.dedup();
            let name = |point: &Path| {
                point
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
            };
            points
                .into_iter()
                .filter_map(|point| {
                    Some(CgroupView {
                        name: name(point)?,
                        source: point.join(&self.path),
                    })
                })
                .collect()
        };
        Placement {
            procs: dirs.iter().map(|dir| dir.join("cgroup.procs")).collect(),
            oom,
            view,
        }
    }

    /// Allows the devices that every task may use, and those handed in; everything with `all`.
    ///
    /// # Errors
    /// When the kernel refuses a rule.
    pub fn allow_devices(&self, mapped: &[DeviceMapping], all: bool) -> Result<(), CgroupError> {
        if self.is_v2() {
            let Some(dir) = self.dir("").filter(|_| !all) else {
                return Ok(());
            };
            return super::bpf::attach(&dir, &super::devices::rules(mapped)).map_err(at(&dir));
        }
        let Some(dir) = self.dir("devices") else {
            return Ok(());
        };
        if all {
            return write(&dir.join("devices.allow"), "a");
        }
        write(&dir.join("devices.deny"), "a")?;
        for rule in super::devices::rules(mapped) {
            write(&dir.join("devices.allow"), &rule.to_string())?;
        }
        Ok(())
    }

    /// The file that lists its processes.
    fn processes_file(&self) -> Option<PathBuf> {
        let dir = if self.is_v2() {
            self.dir("")
        } else {
            self.dir("pids").or_else(|| self.dir("memory"))
        };
        dir.map(|dir| dir.join("cgroup.procs"))
    }

    /// What a shim needs to end everything in it by itself at this moment.
    #[must_use]
    pub fn fence(&self, until_ms: Option<u64>) -> Fence {
        let (dir, file, word) = if self.is_v2() {
            (self.dir(""), "cgroup.freeze", "0")
        } else {
            (self.dir("freezer"), "freezer.state", "THAWED")
        };
        Fence {
            until_ms,
            processes: self.processes_file(),
            thaw: dir.map(|dir| Thaw {
                file: dir.join(file),
                word: word.to_owned(),
            }),
        }
    }

    /// Processes in it.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        let text = self
            .processes_file()
            .and_then(|file| fs::read_to_string(file).ok())
            .unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Whether its processes are frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        if self.is_v2() {
            let file = self.dir("").map(|dir| dir.join("cgroup.freeze"));
            return file
                .and_then(|file| fs::read_to_string(file).ok())
                .is_some_and(|text| text.trim() == "1");
        }
        let file = self.dir("freezer").map(|dir| dir.join("freezer.state"));
        file.and_then(|file| fs::read_to_string(file).ok())
            .is_some_and(|text| text.trim() != "THAWED")
    }

    /// Stops or continues all processes; returns when that is done. Blocks for milliseconds.
    ///
    /// # Errors
    /// When a process does not freeze; the others are thawed again then.
    pub fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        let begin = std::time::Instant::now();
        loop {
            if self.freeze_once(frozen)? {
                return Ok(());
            }
            if begin.elapsed() > FREEZE_PATIENCE {
                self.freeze_once(false)?;
                return Err(CgroupError::Freeze);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn freeze_once(&self, frozen: bool) -> Result<bool, CgroupError> {
        if self.is_v2() {
            let Some(dir) = self.dir("") else {
                return Ok(true);
            };
            write(&dir.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
            let events = dir.join("cgroup.events");
            let text = fs::read_to_string(&events).map_err(at(&events))?;
            return Ok(text.contains(if frozen { "frozen 1" } else { "frozen 0" }));
        }
        let Some(dir) = self.dir("freezer") else {
            return Ok(true);
        };
        let file = dir.join("freezer.state");
        let wanted = if frozen { "FROZEN" } else { "THAWED" };
        // Writing again picks up processes that were forked in between.
        write(&file, wanted)?;
        Ok(fs::read_to_string(&file).map_err(at(&file))?.trim() == wanted)
    }

    /// Kills all processes, also frozen ones.
    ///
    /// # Errors
    /// When the cgroup cannot be thawed.
    pub fn kill(&self) -> Result<(), CgroupError> {
        if let Some(dir) = self
            .dir("")
            .filter(|dir| self.is_v2() && dir.join("cgroup.kill").exists())
        {
            return write(&dir.join("cgroup.kill"), "1");
        }
        // More rounds for what is forked meanwhile; a bomb is bounded by its pids limit.
        for _ in 0..100 {
            let processes = self.processes();
            if processes.is_empty() {
                break;
            }
            for pid in processes {
                // Gone meanwhile is as good as killed.
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            if self.is_frozen() {
                self.freeze(false)?;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Removes it, waiting for dying processes. Blocks for up to a minute; never on the way of an answer.
    ///
    /// # Errors
    /// When something is still in it after that.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let begin = std::time::Instant::now();
        let mut pause = Duration::from_millis(2);
        loop {
            let others = self.others.iter().map(|point| point.join(&self.path));
            let result = self
                .dirs()
                .into_iter()
                .chain(others)
                .try_for_each(|dir| remove_tree(&dir, 0));
            if result.is_ok() || begin.elapsed() > REMOVE_PATIENCE {
                return result;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
