//! Images: load, save, tag, remove, pull from a registry.

use e2e::{Cluster, PASSWORD, Pool, Registry, Security, USER, archive};

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

/// Pulls what was pushed and runs it.
fn pulls(security: Security, log_in: bool) {
    let pool = Cluster::shared().empty_pool("pull");
    let registry = registry(security);
    registry.push(&archive("busybox"), "team/tools:1").unwrap();
    let image = format!("{}/team/tools:1", registry.address);
    if log_in {
        let refused = pool.docker(&["pull", &image]).fails();
        assert!(
            refused.contains("auth")
                || refused.contains("denied")
                || refused.contains("credentials"),
            "{refused}"
        );
        log_in_to(&pool, &registry);
    }
    pool.docker(&["pull", "-q", &image]).ok();
    assert_eq!(
        pool.docker(&["run", "--rm", "--pull", "never", &image, "echo", "pulled"])
            .ok(),
        "pulled"
    );
    let digests = pool.inspect(&image, "{{json .RepoDigests}}");
    assert!(digests.contains("team/tools@sha256:"), "{digests}");
    let missing = pool
        .docker(&["pull", &format!("{}/team/none:1", registry.address)])
        .fails();
    assert!(
        missing.contains("not found") || missing.contains("unknown"),
        "{missing}"
    );
}

/// Writes the credentials where the docker client keeps them; `docker login` itself would call the server.
fn log_in_to(pool: &Pool, registry: &Registry) {
    pool.credentials(&registry.address, USER, PASSWORD);
}

fn registry(security: Security) -> Registry {
    Registry::start(&Cluster::shared().underlay_address(), security).unwrap()
}

#[test]
fn pull_over_http() {
    pulls(Security::Plain, false);
}

#[test]
fn pull_over_tls() {
    pulls(Security::Tls, false);
}

#[test]
fn pull_with_a_password() {
    pulls(Security::TlsAndPassword, true);
}
