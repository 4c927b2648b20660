//! A task runtime on real shims, with a busybox root, and the check that nothing is left.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agent::driver::{FollowFrom, FollowRequest, ObservedTask, TaskEvent, TaskPlan, TaskRuntime};
use drivers::oci::{OciConfig, OciRuntime};
use futures::StreamExt;
use model::{HostWorkload, WorkloadId};
use serde_json::{Value, json};

/// Nothing a test waits for takes longer on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The shim program of this build.
pub fn shim_program() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let mut path = std::env::current_exe().unwrap();
            path.pop();
            path.pop();
            let path = path.join("plimsoll-shim");
            let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
            build.args(["build", "--quiet", "-p", "shim", "--bin", "plimsoll-shim"]);
            build.current_dir(env!("CARGO_MANIFEST_DIR"));
            assert!(build.status().unwrap().success());
            path
        })
        .clone()
}

pub struct Host {
    pub dir: tempfile::TempDir,
    pub name: String,
    pub runtime: OciRuntime,
    next: AtomicU32,
}

impl Host {
    pub fn new() -> Host {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        let name = format!(
            "oci-test-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        make_root(&dir.path().join("layer"));
        let runtime = open(dir.path(), &name);
        Host {
            dir,
            name,
            runtime,
            next: AtomicU32::new(1),
        }
    }

    /// As after a restart of the agent: a new runtime on the same folder. The one before it, which keeps its
    /// connections until it is dropped, comes back.
    pub fn reopen(&mut self) -> OciRuntime {
        std::mem::replace(&mut self.runtime, open(self.dir.path(), &self.name))
    }

    pub fn id(&self) -> WorkloadId {
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        WorkloadId::from_bytes(&bytes)
    }

    pub fn plan(&self, args: &[&str], change: impl FnOnce(&mut Value)) -> TaskPlan {
        let mut value = workload(&self.id(), args);
        change(&mut value);
        let workload: HostWorkload = serde_json::from_value(value).unwrap();
        TaskPlan {
            workload: Arc::new(workload),
            attempt: 0,
            layers: vec![self.dir.path().join("layer")],
            network: None,
            fence_until: None,
        }
    }

    pub async fn start(&self, plan: &TaskPlan) -> ObservedTask {
        self.runtime.prepare(plan).await.unwrap();
        self.runtime.start(plan).await.unwrap()
    }

    /// Runs to the end: status and output.
    pub async fn run(&self, plan: &TaskPlan) -> (ObservedTask, String) {
        let mut events = self.runtime.events();
        self.start(plan).await;
        let ended = ended(&mut events, &plan.workload.id).await;
        (ended, self.logs(&plan.workload.id).await)
    }

    pub async fn run_plain(&self, args: &[&str], change: impl FnOnce(&mut Value)) -> (i32, String) {
        let plan = self.plan(args, change);
        let (ended, output) = self.run(&plan).await;
        self.runtime.remove(&plan.workload.id).await.unwrap();
        (ended.status.exit_code, output)
    }

    pub fn request(&self, id: &WorkloadId, from: FollowFrom, follow: bool) -> FollowRequest {
        FollowRequest {
            id: id.clone(),
            from,
            until_ms: None,
            follow,
            stdout: true,
            stderr: true,
            stdin: false,
            run: None,
            resumable: false,
        }
    }

    pub async fn logs(&self, id: &WorkloadId) -> String {
        let request = self.request(id, FollowFrom::Start, false);
        text(self.runtime.follow(&request).await.unwrap()).await
    }
}

pub async fn text(stream: agent::driver::OutputStream) -> String {
    let collect = stream.fold(Vec::new(), |mut all, piece| async move {
        all.extend_from_slice(&piece.unwrap().bytes);
        all
    });
    String::from_utf8_lossy(&tokio::time::timeout(PATIENCE, collect).await.unwrap()).into_owned()
}

pub async fn ended(
    events: &mut tokio::sync::broadcast::Receiver<TaskEvent>,
    id: &WorkloadId,
) -> ObservedTask {
    let wait = async {
        loop {
            if let TaskEvent::Changed(task) = events.recv().await.unwrap()
                && task.id == *id
                && task.status.phase.is_final()
            {
                return task;
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap()
}

fn open(dir: &Path, name: &str) -> OciRuntime {
    let config = OciConfig {
        data: dir.join("data"),
        shim: shim_program(),
        host: name.to_owned(),
        runtimes: [("runc".to_owned(), PathBuf::from("/usr/sbin/runc"))].into(),
    };
    OciRuntime::open(config).unwrap()
}

impl Drop for Host {
    fn drop(&mut self) {
        // Nothing may be left: processes, cgroups, mounts.
        let path = self.dir.path().to_str().unwrap().to_owned();
        if std::thread::panicking() {
            // A failed test leaves its tasks running; they must not outlive it.
            let cgroups = drivers::oci::cgroup::Cgroups::detect(&self.name).unwrap();
            let pool = model::PoolId::parse("0123456789abcdef").unwrap();
            for entry in std::fs::read_dir(self.dir.path().join("data/tasks"))
                .into_iter()
                .flatten()
                .flatten()
            {
                if let Some(Ok(id)) = entry.file_name().to_str().map(WorkloadId::parse) {
                    let path = std::path::Path::new(pool.as_str()).join(id.as_str());
                    let cgroup = cgroups.below(&path);
                    let _ = cgroup.kill();
                    let _ = cgroup.remove();
                }
            }
        }
        let begin = std::time::Instant::now();
        let mut left = leftovers(&path, &self.name);
        while !left.is_empty() && begin.elapsed() < PATIENCE {
            // tidy: sleep: pause between two looks
            std::thread::sleep(Duration::from_millis(5));
            left = leftovers(&path, &self.name);
        }
        let cgroups = drivers::oci::cgroup::Cgroups::detect(&self.name).unwrap();
        let _ = cgroups.remove_all();
        if !std::thread::panicking() {
            assert!(left.is_empty(), "left behind: {left:?}");
        }
    }
}

fn leftovers(path: &str, name: &str) -> Vec<String> {
    let mut left = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let file = entry.path().join("cmdline");
        let command = std::fs::read(file).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(path)
            && entry
                .file_name()
                .to_str()
                .is_some_and(|n| n.parse::<u32>().is_ok())
        {
            left.push(command);
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    left.extend(
        mounts
            .lines()
            .filter(|line| line.contains(path))
            .map(str::to_owned),
    );
    for controller in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let host = controller.path().join("plimsoll").join(name);
        for pool in std::fs::read_dir(host)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|e| e.path().is_dir())
        {
            for task in std::fs::read_dir(pool.path())
                .into_iter()
                .flatten()
                .flatten()
                .filter(|e| e.path().is_dir())
            {
                left.push(task.path().display().to_string());
            }
        }
    }
    left
}

fn make_root(layer: &Path) {
    for sub in [
        "bin", "etc", "tmp", "proc", "sys", "dev", "root", "home/web", "data",
    ] {
        std::fs::create_dir_all(layer.join(sub)).unwrap();
    }
    std::fs::copy("/bin/busybox", layer.join("bin/busybox")).unwrap();
    let list = Command::new("/bin/busybox").arg("--list").output().unwrap();
    for applet in String::from_utf8(list.stdout)
        .unwrap()
        .lines()
        .filter(|name| *name != "busybox")
    {
        std::os::unix::fs::symlink("busybox", layer.join("bin").join(applet)).unwrap();
    }
    std::fs::write(
        layer.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/home/web:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(
        layer.join("etc/group"),
        "root:x:0:\nweb:x:34:\nlogs:x:44:web\n",
    )
    .unwrap();
}

fn workload(id: &WorkloadId, args: &[&str]) -> Value {
    let digest = format!("sha256:{}", "0".repeat(64));
    let pool = "0123456789abcdef0123456789abcdef";
    json!({
        "id": id.as_str(),
        "pool": &pool[..model::PoolId::from_bytes(&[0; 32]).as_str().len()],
        "pool_name": "team",
        "name": "box",
        "spec": {"task": {"image": "busybox", "image_id": digest, "args": args}},
        "image": {
            "id": digest,
            "pool": &pool[..model::PoolId::from_bytes(&[0; 32]).as_str().len()],
            "content": {"config": digest, "config_bytes": 1, "layers": []},
            "config": {"platform": {"architecture": "amd64", "os": "linux"}},
            "added_at": 0,
        },
        "desired": {"state": "running"},
        "run": 1,
    })
}
