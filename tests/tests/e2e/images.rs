//! Images: load, save, tag, remove, pull from a registry.

use e2e::{
    Cluster, PASSWORD, Pool, Registry, Role, Security, USER, archive, eventually, processes_with,
};

#[test]
fn load_save_and_load_again_is_the_same_image() {
    let cluster = Cluster::shared();
    let (a, b) = (cluster.pool("savea"), cluster.empty_pool("saveb"));
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("saved.tar");
    a.docker(&["save", "busybox:latest", "-o"]).arg(&saved).ok();
    b.docker(&["load", "-i"]).arg(&saved).ok();
    assert_eq!(
        a.inspect("busybox", "{{.Id}}"),
        b.inspect("busybox", "{{.Id}}")
    );
    assert_eq!(
        b.docker(&["run", "--rm", "busybox", "echo", "again"]).ok(),
        "again"
    );
}

#[test]
fn tags_come_and_go_and_the_image_stays_while_used() {
    let pool = Cluster::shared().pool("tags");
    pool.docker(&["tag", "busybox", "tools:1"]).ok();
    let id = pool.inspect("busybox", "{{.Id}}");
    assert_eq!(pool.inspect("tools:1", "{{.Id}}"), id);
    pool.docker(&["rmi", "busybox"]).ok();
    assert_eq!(
        pool.docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"])
            .ok(),
        "tools:1"
    );
    pool.docker(&["run", "--name", "user", "tools:1", "true"])
        .ok();
    let refused = pool.docker(&["rmi", "tools:1"]).fails();
    assert!(
        refused.contains("user") || refused.contains("in use") || refused.contains("being used"),
        "{refused}"
    );
    pool.docker(&["rm", "user"]).ok();
    pool.docker(&["rmi", "tools:1"]).ok();
    assert_eq!(pool.docker(&["images", "-q"]).ok(), "");
}

#[test]
fn images_that_share_layers_run() {
    let pool = Cluster::shared().empty_pool("layers");
    pool.load("nginx");
    pool.load("redis");
    assert!(
        pool.docker(&["run", "--rm", "redis", "redis-server", "--version"])
            .ok()
            .contains("Redis server v=7")
    );
    let version = pool
        .docker(&["run", "--rm", "nginx", "nginx", "-v"])
        .finish();
    assert!(version.stderr.contains("nginx/1."), "{version:?}");
}

#[test]
fn pull_from_registries_of_every_kind() {
    let cluster = Cluster::start(1).unwrap();
    let address = cluster.underlay_address();
    let registries = [Security::Plain, Security::Tls, Security::TlsAndPassword]
        .map(|security| Registry::start(&address, security).unwrap());
    let [plain, tls, password] = &registries;
    // Agents learn at their start which registries they may trust.
    cluster.kill(Role::Agent);
    let authorities = [tls, password].map(|registry| registry.certificate().display().to_string());
    cluster
        .up_with(
            1,
            &[
                ("PLIMSOLL_REGISTRY_CA", &authorities.join(",")),
                ("PLIMSOLL_INSECURE_REGISTRY", &plain.address),
            ],
        )
        .unwrap();
    for registry in &registries {
        pulls(&cluster, registry);
    }
}

/// Pulls what was pushed and runs it.
fn pulls(cluster: &Cluster, registry: &Registry) {
    let pool = cluster.empty_pool("pull");
    registry.push(&archive("busybox"), "team/tools:1").unwrap();
    let image = format!("{}/team/tools:1", registry.address);
    if registry.security == Security::TlsAndPassword {
        let refused = pool.docker(&["pull", &image]).fails();
        let says_why = ["auth", "denied", "credentials", "password"];
        assert!(
            says_why.iter().any(|word| refused.contains(word)),
            "{refused}"
        );
        let login =
            |password| pool.docker(&["login", "-u", USER, "-p", password, &registry.address]);
        let wrong = login("guess").fails();
        assert!(
            wrong.contains("authentication required") || wrong.contains("unauthorized"),
            "{wrong}"
        );
        pool.docker(&["pull", &image]).fails();
        assert!(login(PASSWORD).ok().contains("Login Succeeded"));
    }
    pool.docker(&["pull", "-q", &image]).ok();
    let run = ["run", "--rm", "--pull", "never", &image, "echo", "pulled"];
    assert_eq!(pool.docker(&run).ok(), "pulled");
    let digests = pool.inspect(&image, "{{json .RepoDigests}}");
    assert!(digests.contains("team/tools@sha256:"), "{digests}");
    let missing = format!("{}/team/none:1", registry.address);
    let missing = pool.docker(&["pull", &missing]).fails();
    assert!(
        missing.contains("not found") || missing.contains("unknown"),
        "{missing}"
    );
}

#[test]
fn a_registry_without_a_known_certificate_is_refused() {
    let cluster = Cluster::shared();
    let pool = cluster.empty_pool("untrusted");
    for security in [Security::Plain, Security::Tls] {
        let registry = Registry::start(&cluster.underlay_address(), security).unwrap();
        registry.push(&archive("busybox"), "team/tools:1").unwrap();
        let refused = pool
            .docker(&["pull", &format!("{}/team/tools:1", registry.address)])
            .fails();
        assert!(refused.contains("TLS"), "{security:?}: {refused}");
    }
    assert_eq!(pool.docker(&["images", "-q"]).ok(), "");
}

#[test]
fn an_image_that_is_removed_and_loaded_again_at_once_runs() {
    let cluster = Cluster::start(2).unwrap();
    let (mut has, mut gets) = (cluster.pool("again"), cluster.empty_pool("again"));
    for round in 0..20 {
        // No other pool has it: its hosts are told to delete it while it comes in again.
        has.docker(&["rmi", "busybox"]).ok();
        gets.load("busybox");
        let said = format!("round {round}");
        let run = ["run", "--rm", "busybox", "echo", &said];
        assert_eq!(gets.docker(&run).ok(), said);
        std::mem::swap(&mut has, &mut gets);
    }
}

/// How many hosts have an image, as the server says.
fn copies(cluster: &Cluster, pool: &Pool, image: &str) -> u64 {
    let text = cluster
        .plimsoll(&["image", "show", "--pool", &pool.name, image])
        .ok();
    let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
    shown["items"][0]["hosts"].as_u64().unwrap()
}

/// The hosts that have anything of images, as their folders say.
fn holders(cluster: &Cluster) -> Vec<String> {
    let has = |name: &&str| {
        let records = cluster
            .data()
            .join("hosts")
            .join(name)
            .join("images/images");
        std::fs::read_dir(records).is_ok_and(|mut entries| entries.next().is_some())
    };
    let hosts = ["h1", "h2", "h3"].into_iter().filter(has);
    hosts.map(str::to_owned).collect()
}

#[test]
fn a_loaded_image_outlives_the_host_it_was_loaded_to() {
    let cluster = Cluster::start(3).unwrap();
    let pool = cluster.empty_pool("copies");
    pool.load("busybox");
    let has = |wanted: u64| {
        eventually("two hosts have the image", || {
            match copies(&cluster, &pool, "busybox") {
                hosts if hosts == wanted => Ok(()),
                hosts => Err(format!(
                    "{hosts} hosts, {:?} by their folders",
                    holders(&cluster)
                )),
            }
        });
    };
    has(2);
    let had = holders(&cluster);
    assert_eq!(had.len(), 2, "{had:?}");
    // One of the two is lost with its disk.
    let lost = &had[0];
    let agent = processes_with(&format!("{}-{lost}", cluster.id()));
    assert_eq!(agent.len(), 1);
    let pid = nix::unistd::Pid::from_raw(agent[0]);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    std::fs::remove_dir_all(cluster.data().join("hosts").join(lost).join("images")).unwrap();
    cluster
        .plimsoll(&["host", "rm", "--force", "--yes", lost])
        .ok();
    let third = ["h1", "h2", "h3"]
        .into_iter()
        .find(|it| !had.contains(&(*it).to_owned()));
    let rule = format!("constraint:node=={}", third.unwrap());
    let run = ["run", "--rm", "-e", &rule, "busybox", "echo", "there"];
    assert_eq!(pool.docker(&run).ok(), "there");
    has(2);
}
