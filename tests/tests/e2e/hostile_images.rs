//! Images that are bombs or lies, and readers and registries that stand still: refused with a sentence, nothing left,
//! nobody else disturbed.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;

use e2e::image::{Layer, Packing, add, docker_archive};
use e2e::{Blob, Cluster, HostileRegistry, Pool, Role, eventually, processes_with};

/// A cluster of one host that pulls from a registry without TLS.
fn start() -> (Cluster, HostileRegistry) {
    let cluster = Cluster::start(1).unwrap();
    let registry = HostileRegistry::start(&cluster.underlay_address()).unwrap();
    cluster.kill(Role::Agent);
    let insecure = [("PLIMSOLL_INSECURE_REGISTRY", registry.address.as_str())];
    cluster.up_with(1, &insecure).unwrap();
    (cluster, registry)
}

/// A layer of zeros, larger than what is unpacked without a look at the ratio.
fn zeros(packing: Packing) -> Layer {
    const SIZE: u64 = 300 << 20;
    Layer::pack(packing, |archive| {
        add(
            archive,
            "zeros",
            SIZE,
            std::io::Read::take(std::io::repeat(0), SIZE),
        )
    })
    .unwrap()
}

/// More entries than a layer may have. They all have one name, so that it is the archive that is large, not the disk.
fn crowd() -> Layer {
    const ENTRIES: u32 = 500_001;
    Layer::pack(Packing::Gzip, |archive| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        header.set_path("d/")?;
        header.set_cksum();
        for _ in 0..ENTRIES {
            archive.append(&header, std::io::empty())?;
        }
        Ok(())
    })
    .unwrap()
}

fn small(name: &str) -> Layer {
    Layer::pack(Packing::Gzip, |archive| {
        add(archive, name, 5, &b"hello"[..])
    })
    .unwrap()
}

/// Nothing of a refused image is left on the host.
fn nothing_left(cluster: &Cluster, pool: &Pool, what: &str) {
    assert_eq!(pool.docker(&["images", "-q"]).ok(), "", "{what}");
    let images = cluster.data().join("hosts/h1/images");
    eventually("nothing is left on the disk", || {
        let folders = ["blobs/sha256", "layers", "images", "tmp"].map(|name| images.join(name));
        let names = folders.iter().flat_map(|folder| entries(folder));
        match names.collect::<Vec<_>>() {
            names if names.is_empty() => Ok(()),
            names => Err(format!("{what}: {names:?}")),
        }
    });
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path().display().to_string())
        .collect()
}

#[test]
fn bombs_and_lies_are_refused_and_leave_nothing() {
    let (cluster, registry) = start();
    let pool = cluster.empty_pool("bombs");
    let ratio = "unpacked bytes per compressed byte";
    // Each goes one way: both ways lead to the same unpacking, which takes seconds for a bomb.
    for (name, layer, reason) in [
        ("gzip", zeros(Packing::Gzip), ratio),
        ("long", small(&format!("{}x", "d/".repeat(3000))), "bytes"),
    ] {
        let archive = docker_archive("bomb:1", &[layer]).unwrap();
        assert!(archive.len() < 4 << 20, "{name}: {}", archive.len());
        let refused = pool.docker(&["load"]).input(archive).fails();
        assert!(refused.contains(reason), "load {name}: {refused}");
        nothing_left(&cluster, &pool, name);
    }
    for (name, layer, reason) in [
        ("zstd", zeros(Packing::Zstd), ratio),
        ("crowd", crowd(), "number of entries"),
    ] {
        registry.put(name, layer, None, Blob::Whole);
        let refused = pool.docker(&["pull", &registry.reference(name)]).fails();
        assert!(refused.contains(reason), "pull {name}: {refused}");
        nothing_left(&cluster, &pool, name);
    }
    let length = small("x").blob.len() as u64;
    let wrong = || Blob::Whole(small("y").blob);
    for (name, size, blob) in [
        ("longer", length + 1, None),
        ("shorter", length - 1, None),
        ("enormous", 1 << 50, None),
        ("other", length, Some(wrong())),
    ] {
        registry.put(name, small("x"), Some(size), |bytes| {
            blob.unwrap_or(Blob::Whole(bytes))
        });
        let refused = pool.docker(&["pull", &registry.reference(name)]).fails();
        let says_why = ["bytes", "digest", "sha256:", "length", "size"];
        assert!(
            says_why.iter().any(|word| refused.contains(word)),
            "{name}: {refused}"
        );
        nothing_left(&cluster, &pool, name);
    }
    a_registry_that_stands_still(&cluster, &registry, &pool);
    pool.load("busybox");
    a_reader_that_stands_still(&cluster, &pool);
}

/// Pulls wait without hurting others, and end with their client.
fn a_registry_that_stands_still(cluster: &Cluster, registry: &HostileRegistry, pool: &Pool) {
    registry.put("stalled", small("x"), None, Blob::Stalled);
    registry.put("drips", small("z"), None, Blob::Dripping);
    let pulls = ["stalled", "drips"].map(|name| {
        let pull = pool.docker(&["pull", &registry.reference(name)]);
        pull.start().unwrap()
    });
    let temporary = cluster.data().join("hosts/h1/images/tmp");
    eventually("both pulls wait for bytes", || {
        match entries(&temporary).len() {
            0 | 1 => Err(entries(&temporary)),
            _ => Ok(()),
        }
        .map_err(|seen| format!("{seen:?}"))
    });
    let other = cluster.pool("beside");
    other.docker(&["run", "--rm", "busybox", "true"]).ok();
    for mut pull in pulls {
        assert!(pull.try_wait().unwrap().is_none(), "a pull has ended");
        pull.kill().unwrap();
        pull.wait().unwrap();
    }
    eventually("nothing of the pulls is left", || {
        match entries(&temporary) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        }
    });
}

/// Resident memory of the cluster's programs of a role, in KiB.
fn memory(cluster: &Cluster, role: Role) -> u64 {
    let of = |pid: &i32| -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    };
    cluster.pids(role).iter().filter_map(of).sum()
}

/// A client that asks for logs and never reads them costs neither server nor agent memory, and blocks nobody.
fn a_reader_that_stands_still(cluster: &Cluster, pool: &Pool) {
    const FLOOD_MIB: u32 = 200;
    const MEMORY_KIB: u64 = 24 << 10;
    let script = format!(
        "until [ -e /go ]; do usleep 20000; done; yes | head -c {FLOOD_MIB}m; echo end; sleep 4713"
    );
    let run = ["run", "-d", "--name", "ff", "busybox", "sh", "-c", &script];
    pool.docker(&run).ok();
    let request = "GET /v1.41/containers/ff/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\r\n";
    let readers: Vec<UnixStream> = (0..3)
        .map(|_| {
            let mut reader = UnixStream::connect(pool.socket()).unwrap();
            reader.write_all(request.as_bytes()).unwrap();
            reader
        })
        .collect();
    let before = [Role::Server, Role::Agent].map(|role| memory(cluster, role));
    let pid = pool.inspect("ff", "{{.State.Pid}}");
    std::fs::write(format!("/proc/{pid}/root/go"), "").unwrap();
    eventually("the flood goes on to its end", || {
        match pool.docker(&["logs", "--tail", "1", "ff"]).finish() {
            done if done.stdout == "end" => Ok(()),
            done => Err(format!("{:.100} {:.100}", done.stdout, done.stderr)),
        }
    });
    let after = [Role::Server, Role::Agent].map(|role| memory(cluster, role));
    for (before, after) in before.into_iter().zip(after) {
        assert!(after < before + MEMORY_KIB, "from {before} to {after} KiB");
    }
    drop(readers);
    pool.docker(&["rm", "-f", "ff"]).ok();
    assert_eq!(processes_with("4713"), Vec::<i32>::new());
}
