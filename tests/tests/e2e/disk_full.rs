//! A host whose disk is full: clear errors, nothing half left, nothing that runs is hurt, and it recovers by itself.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::image::{Layer, Packing, add, docker_archive};
use e2e::{Blob, Cluster, HostileRegistry, Pool, Role, eventually};

/// Size of the disk: a few times the image and the agent's files.
const DISK_MIB: u64 = 40;
/// Size of what does not fit.
const LARGE_MIB: u64 = 64;

/// A cluster of one host on a small disk, that pulls from a registry without TLS.
struct Small {
    cluster: Cluster,
    registry: HostileRegistry,
    folder: PathBuf,
}

impl Small {
    fn start() -> Self {
        let cluster = Cluster::start(1).unwrap();
        let registry = HostileRegistry::start(&cluster.underlay_address()).unwrap();
        cluster.kill(Role::Agent);
        let folder = cluster.data().join("hosts/h1");
        let aside = cluster.data().join("aside");
        std::fs::rename(&folder, &aside).unwrap();
        std::fs::create_dir(&folder).unwrap();
        // `dev down` unmounts what is mounted in the cluster's folder.
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={DISK_MIB}m"), "none"]);
        assert!(mount.arg(&folder).status().unwrap().success());
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(aside.join(".")).arg(&folder);
        assert!(copy.status().unwrap().success());
        let small = Self {
            cluster,
            registry,
            folder,
        };
        small.up();
        small
    }

    fn up(&self) {
        let insecure = [("PLIMSOLL_INSECURE_REGISTRY", self.registry.address.as_str())];
        self.cluster.up_with(1, &insecure).unwrap();
    }

    /// Free bytes of the disk.
    fn free(&self) -> u64 {
        let disk = nix::sys::statvfs::statvfs(&self.folder).unwrap();
        disk.blocks_available() * disk.fragment_size()
    }

    /// Waits until at least as much is free as before, but for what a record or a log needs.
    fn is_free_again(&self, before: u64) {
        const SLACK: u64 = 256 << 10;
        eventually("the disk is free again", || match self.free() {
            now if now + SLACK >= before => Ok(()),
            now => Err(format!("{now} of {before}")),
        });
    }

    /// Takes the last byte of the disk; given back when dropped.
    fn fill(&self) -> Filler {
        let path = self.folder.join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        for size in [1 << 20, 4 << 10] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        Filler(path)
    }
}

struct Filler(PathBuf);

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Bytes that cannot be compressed, the same each time.
struct Noise(u64);

impl Read for Noise {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        for byte in bytes.iter_mut() {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            *byte = self.0.to_le_bytes()[0];
        }
        Ok(bytes.len())
    }
}

fn large() -> Layer {
    Layer::pack(Packing::Plain, |archive| {
        let size = LARGE_MIB << 20;
        add(archive, "large", size, Noise(1).take(size))
    })
    .unwrap()
}

fn images(pool: &Pool) -> String {
    let format = ["--format", "{{.Repository}}"];
    pool.docker(&["images"]).args(&format).ok()
}

#[test]
fn a_full_disk_is_told_and_nothing_that_runs_is_hurt() {
    let small = Small::start();
    let pool = small.cluster.pool("full");
    let script = "trap 'exit 4' TERM; while :; do usleep 50000; done";
    let run = ["run", "-d", "--name", "cc", "busybox", "sh", "-c", script];
    pool.docker(&run).ok();
    let running = pool.inspect("cc", "{{.State.Status}} {{.State.Pid}}");

    images_that_do_not_fit(&small, &pool);
    a_full_root(&pool);
    a_full_log(&small, &pool);
    the_agent_on_a_full_disk(&small, &pool);

    assert_eq!(
        pool.inspect("cc", "{{.State.Status}} {{.State.Pid}}"),
        running
    );
    assert_eq!(pool.docker(&["exec", "cc", "echo", "in"]).ok(), "in");
    pool.docker(&["stop", "cc"]).ok();
    assert_eq!(pool.inspect("cc", "{{.State.ExitCode}}"), "4");
}

/// Loading and pulling too much fails with a sentence, and gives the disk back.
fn images_that_do_not_fit(small: &Small, pool: &Pool) {
    let before = small.free();
    let archive = docker_archive("large:1", &[large()]).unwrap();
    let refused = pool.docker(&["load"]).input(archive).fails();
    assert!(refused.contains("no space left on the disk"), "{refused}");
    small.is_free_again(before);
    small.registry.put("large", large(), None, Blob::Whole);
    let reference = small.registry.reference("large");
    let refused = pool.docker(&["pull", &reference]).fails();
    assert!(refused.contains("no space left on the disk"), "{refused}");
    small.is_free_again(before);
    assert_eq!(images(pool), "busybox");
}

/// A container that fills its root is told so by the kernel, and can free it.
fn a_full_root(pool: &Pool) {
    let script =
        "dd if=/dev/zero of=/big bs=1M count=100; rm /big; echo fine >/small && cat /small";
    let done = pool
        .docker(&["run", "--rm", "busybox", "sh", "-c", script])
        .finish();
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (Some(0), "fine"),
        "{done:?}"
    );
    assert!(done.stderr.contains("No space left on device"), "{done:?}");
}

/// A container that writes while the log cannot be written is neither blocked nor killed, and the log says what it
/// lacks.
fn a_full_log(small: &Small, pool: &Pool) {
    let script = "echo begin; until [ -e /go ]; do usleep 20000; done; seq 100000; \
                  touch /written; until [ -e /end ]; do usleep 20000; done; echo end; exit 3";
    let run = ["run", "-d", "--name", "ff", "busybox", "sh", "-c", script];
    pool.docker(&run).ok();
    let pid = pool.inspect("ff", "{{.State.Pid}}");
    let root = Path::new("/proc").join(pid).join("root");
    let filler = small.fill();
    // An empty file needs no block.
    std::fs::write(root.join("go"), "").unwrap();
    eventually("it has written everything", || {
        root.join("written").exists().then_some(()).ok_or("not yet")
    });
    drop(filler);
    std::fs::write(root.join("end"), "").unwrap();
    assert_eq!(pool.docker(&["wait", "ff"]).ok(), "3");
    let log = pool.docker(&["logs", "ff"]).finish();
    assert!(log.stdout.starts_with("begin\n"), "{:.200}", log.stdout);
    assert!(log.stdout.ends_with("\nend"), "{:.200}", log.stderr);
    assert!(
        log.stderr.contains("bytes of output are lost here"),
        "nothing is said of what is lost: {:.200}",
        log.stderr
    );
    pool.docker(&["rm", "ff"]).ok();
}

/// The agent starts on a full disk; what needs the disk fails with a reason or waits, and works when there is room.
fn the_agent_on_a_full_disk(small: &Small, pool: &Pool) {
    let filler = small.fill();
    small.cluster.kill(Role::Agent);
    small.up();
    let run = ["run", "--name", "late", "busybox", "echo", "late"];
    let waiting = pool.docker(&run).start().unwrap();
    eventually("the container is placed", || {
        let shown = pool.docker(&["ps", "-aq", "--filter", "name=late"]).ok();
        (!shown.is_empty()).then_some(()).ok_or("not yet")
    });
    drop(filler);
    let done = waiting.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.stdout == b"late\n" || errors.contains("space"),
        "{done:?}"
    );
    let run = ["run", "--rm", "busybox", "echo", "again"];
    assert_eq!(pool.docker(&run).ok(), "again");
}
