//! Two pools: what is in one does not exist for the other.

use e2e::Cluster;

/// Calls on one container by id; none may tell that it exists.
const ROUTES: &[(&str, &str, Option<&str>)] = &[
    ("GET", "/containers/{id}/json", None),
    ("GET", "/containers/{id}/logs?stdout=1", None),
    ("GET", "/containers/{id}/stats?stream=0", None),
    ("GET", "/containers/{id}/top", None),
    ("POST", "/containers/{id}/start", None),
    ("POST", "/containers/{id}/stop", None),
    ("POST", "/containers/{id}/kill", None),
    ("POST", "/containers/{id}/restart", None),
    ("POST", "/containers/{id}/pause", None),
    ("POST", "/containers/{id}/unpause", None),
    ("POST", "/containers/{id}/rename?name=mine", None),
    (
        "POST",
        "/containers/{id}/update",
        Some("{\"Memory\":67108864}"),
    ),
    ("POST", "/containers/{id}/wait", None),
    ("POST", "/containers/{id}/resize?h=1&w=1", None),
    ("POST", "/containers/{id}/attach?stream=1&stdout=1", None),
    (
        "POST",
        "/containers/{id}/exec",
        Some("{\"Cmd\":[\"true\"]}"),
    ),
    ("DELETE", "/containers/{id}?force=1", None),
];

#[test]
fn a_pool_sees_nothing_of_another() {
    let cluster = Cluster::shared();
    let (a, b) = (cluster.pool("isoa"), cluster.pool("isob"));
    let id = b
        .docker(&["run", "-d", "--name", "b1", "busybox", "sleep", "1000"])
        .ok();
    let started = b.inspect("b1", "{{.State.StartedAt}} {{.State.Pid}}");

    assert_eq!(a.docker(&["ps", "-aq"]).ok(), "");
    for name in ["b1", id.as_str(), &id[..12]] {
        for (method, route, body) in ROUTES {
            let target = format!("/v1.41{}", route.replace("{id}", name));
            let absent = format!("/v1.41{}", route.replace("{id}", "absent"));
            let foreign = a.http(method, &target, *body);
            let nothing = a.http(method, &absent, *body);
            assert_eq!(foreign.status, 404, "{method} {target}: {}", foreign.text());
            assert_eq!(
                foreign.text().replace(name, "absent"),
                nothing.text(),
                "{method} {target} answers otherwise than for what does not exist"
            );
        }
    }
    assert_eq!(
        b.inspect("b1", "{{.State.StartedAt}} {{.State.Pid}}"),
        started,
        "it was touched"
    );
    b.docker(&["rm", "-f", "b1"]).ok();
}

#[test]
fn the_same_name_may_be_used_in_two_pools() {
    let cluster = Cluster::shared();
    let (a, b) = (cluster.pool("samea"), cluster.pool("sameb"));
    let one = a.docker(&["create", "--name", "web", "busybox"]).ok();
    let two = b.docker(&["create", "--name", "web", "busybox"]).ok();
    assert_ne!(one, two);
    a.docker(&["rm", "web"]).ok();
    assert_eq!(b.inspect("web", "{{.Id}}"), two);
}

#[test]
fn images_belong_to_their_pool() {
    let cluster = Cluster::shared();
    let (a, b) = (cluster.pool("imga"), cluster.empty_pool("imgb"));
    assert_eq!(b.docker(&["images", "-q"]).ok(), "");
    assert_eq!(
        b.http("GET", "/v1.41/images/busybox/json", None).status,
        404
    );
    assert_eq!(b.http("GET", "/v1.41/images/busybox/get", None).status, 404);
    assert_eq!(b.http("DELETE", "/v1.41/images/busybox", None).status, 404);
    assert_eq!(
        a.docker(&["images", "--format", "{{.Repository}}"]).ok(),
        "busybox"
    );
}

#[test]
fn a_guessed_exec_id_of_another_pool_is_unknown() {
    let cluster = Cluster::shared();
    let (a, b) = (cluster.pool("execa"), cluster.pool("execb"));
    b.docker(&["run", "-d", "--name", "b1", "busybox", "sleep", "1000"])
        .ok();
    let made = b.http(
        "POST",
        "/v1.41/containers/b1/exec",
        Some("{\"Cmd\":[\"true\"]}"),
    );
    assert_eq!(made.status, 201, "{}", made.text());
    let exec = made.json()["Id"].as_str().unwrap().to_owned();
    for (method, verb) in [
        ("GET", "json"),
        ("POST", "start"),
        ("POST", "resize?h=1&w=1"),
    ] {
        let answer = a.http(method, &format!("/v1.41/exec/{exec}/{verb}"), Some("{}"));
        assert_eq!(answer.status, 404, "{verb}: {}", answer.text());
    }
    b.docker(&["rm", "-f", "b1"]).ok();
}
