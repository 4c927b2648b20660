//! An etcd of Debian's, started for tests.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// One member with its data, ended when dropped.
pub(crate) struct Member {
    child: Child,
    pub(crate) endpoint: String,
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One or several members on this machine.
pub(crate) struct Etcd {
    pub(crate) members: Vec<Member>,
    folder: TempDir,
}

/// How long etcd may take to answer on a busy machine.
const START: Duration = Duration::from_secs(60);

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn binary() -> PathBuf {
    let found = ["/usr/bin/etcd", "/usr/local/bin/etcd"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.exists());
    found.expect("etcd is missing: install Debian's package etcd-server")
}

impl Etcd {
    pub(crate) fn start(members: usize) -> Self {
        // Between the choice of a port and its use somebody else may take it.
        for _ in 0..5 {
            if let Some(etcd) = Self::try_start(members) {
                return etcd;
            }
        }
        panic!("etcd does not start");
    }

    fn try_start(count: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let url = || format!("http://127.0.0.1:{}", free_port());
        let urls: Vec<(String, String)> = (0..count).map(|_| (url(), url())).collect();
        let cluster: Vec<String> = (urls.iter().enumerate())
            .map(|(at, (_, peer))| format!("m{at}={peer}"))
            .collect();
        let cluster = cluster.join(",");
        let members = (urls.iter().enumerate()).map(|(at, (client, peer))| {
            let name = format!("m{at}");
            let log = std::fs::File::create(folder.path().join(format!("{name}.log"))).unwrap();
            let child = Command::new(binary())
                .args(["--name", &name, "--data-dir"])
                .arg(folder.path().join(&name))
                .args([
                    "--listen-client-urls",
                    client,
                    "--advertise-client-urls",
                    client,
                ])
                .args([
                    "--listen-peer-urls",
                    peer,
                    "--initial-advertise-peer-urls",
                    peer,
                ])
                .args([
                    "--initial-cluster",
                    &cluster,
                    "--initial-cluster-state",
                    "new",
                ])
                .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
                .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap();
            Member {
                child,
                endpoint: client.clone(),
            }
        });
        let mut etcd = Self {
            members: members.collect(),
            folder,
        };
        etcd.wait_until_ready().then_some(etcd)
    }

    fn wait_until_ready(&mut self) -> bool {
        let deadline = Instant::now() + START;
        loop {
            if self
                .members
                .iter_mut()
                .any(|it| it.child.try_wait().unwrap().is_some())
            {
                return false;
            }
            if self.members.iter().all(|it| healthy(&it.endpoint)) {
                return true;
            }
            let log = || std::fs::read_to_string(self.folder.path().join("m0.log"));
            assert!(Instant::now() < deadline, "etcd is not ready: {:?}", log());
            // tidy: sleep: pause between two looks
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|it| it.endpoint.clone()).collect()
    }

    /// One that all tests of this process share; it ends with the last of them.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Etcd>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(etcd) = shared.upgrade() {
            return etcd;
        }
        let etcd = Arc::new(Self::start(1));
        *shared = Arc::downgrade(&etcd);
        etcd
    }
}

/// Asks `/health`, which is answered well only when there is a leader.
fn healthy(endpoint: &str) -> bool {
    use std::io::{Read, Write};
    let address = endpoint.trim_start_matches("http://");
    let Ok(mut stream) = std::net::TcpStream::connect(address) else {
        return false;
    };
    let mut answer = String::new();
    let request = format!("GET /health HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.contains("\"true\"")
}
