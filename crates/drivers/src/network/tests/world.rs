//! A host, what lies outside of it, and workloads: namespaces held by processes that only sleep.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent::driver::{DriverError, NetworkAttachment, NetworkDriver, Prepared};
use model::{HostWorkload, PoolId, WorkloadId};
use nix::sched::{CloneFlags, setns, unshare};

use super::super::namespace::start_time;
use super::super::{BridgeNetwork, NetworkConfig};

/// The host's address towards outside.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Outside's address.
pub(super) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// Longer than anything here takes when it works.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A process that sleeps in a network namespace of its own.
pub(super) struct Inside {
    child: Child,
    pub(super) prepared: Prepared,
}

impl Inside {
    pub(super) fn new() -> Self {
        let mut command = Command::new("unshare");
        let child = command
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = child.spawn().unwrap();
        // `cat` answers once it lives in its namespace.
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let pid = child.id();
        let start_time = start_time(pid).unwrap();
        Self {
            child,
            prepared: Prepared { pid, start_time },
        }
    }

    /// Runs something on a thread in the namespace.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = std::fs::File::open(format!("/proc/{}/ns/net", self.prepared.pid)).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A host and what lies outside of it.
pub(super) struct World {
    pub(super) outside: Inside,
    pub(super) folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

/// Runs a test on a thread that lives in a fresh host.
pub(super) fn in_host(test: impl FnOnce(&World) + Send) {
    std::thread::scope(|scope| {
        let host = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let outside = Inside::new();
            let pid = outside.prepared.pid.to_string();
            ip("link set lo up");
            ip(&format!(
                "link add up0 mtu 1400 type veth peer name up0 netns {pid}"
            ));
            ip(&format!("addr add {HOST}/24 dev up0"));
            ip("link set up0 up");
            outside.run(|| {
                ip("link set lo up");
                ip(&format!("addr add {OUTSIDE}/24 dev up0"));
                ip("link set up0 up");
            });
            ip(&format!("route add default via {OUTSIDE}"));
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            test(&World {
                outside,
                folder: tempfile::tempdir().unwrap(),
                runtime: runtime.unwrap(),
            });
        });
        if let Err(panic) = host.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl World {
    pub(super) fn config(&self) -> NetworkConfig {
        NetworkConfig::new(self.folder.path())
    }

    pub(super) fn open(&self) -> BridgeNetwork {
        BridgeNetwork::open(self.config()).unwrap()
    }

    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    pub(super) fn attach(
        &self,
        network: &BridgeNetwork,
        workload: &HostWorkload,
        inside: &Inside,
    ) -> Result<NetworkAttachment, DriverError> {
        self.block_on(network.attach(workload, Some(&inside.prepared)))
    }

    pub(super) fn detach(&self, network: &BridgeNetwork, workload: &HostWorkload) {
        self.block_on(network.detach(&workload.id)).unwrap();
    }
}

/// Runs `ip`.
pub(super) fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

/// Runs a program that must succeed.
pub(super) fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A workload of a pool.
pub(super) fn workload(id: u8, pool: u8) -> HostWorkload {
    let digest = format!("sha256:{}", "0".repeat(64));
    let pool = PoolId::from_bytes(&[pool; 32]);
    serde_json::from_value(serde_json::json!({
        "id": WorkloadId::from_bytes(&[id; 32]),
        "pool": pool,
        "pool_name": "pool",
        "name": format!("workload{id}"),
        "spec": { "task": { "image": "x", "image_id": digest } },
        "image": {
            "id": digest,
            "pool": pool,
            "content": { "config": digest, "config_bytes": 1, "layers": [] },
            "config": { "platform": { "architecture": "amd64", "os": "linux" } },
            "added_at": 0,
        },
        "desired": { "state": "running" },
        "run": 1,
    }))
    .unwrap()
}

/// A server that tells each client its address; it ends when this is dropped.
pub(super) struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Serves in the caller's namespace.
pub(super) fn serve(address: &str) -> Server {
    let listener = TcpListener::bind(address).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    listener.set_nonblocking(true).unwrap();
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((mut stream, peer)) => {
                    let _ = stream.write_all(peer.ip().to_string().as_bytes());
                }
                // tidy: sleep: pause between two looks
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    });
    Server {
        stop,
        thread: Some(thread),
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a server tells; in the caller's namespace.
pub(super) fn fetch(target: SocketAddr) -> std::io::Result<String> {
    fetch_within(target, PATIENCE)
}

/// As [`fetch`], with a given patience.
pub(super) fn fetch_within(target: SocketAddr, patience: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&target, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    text.parse::<IpAddr>().map_err(std::io::Error::other)?;
    Ok(text)
}
