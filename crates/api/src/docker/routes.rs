//! Every route Docker's server has, each with what becomes of it here.
//!
//! What always holds: nothing is reachable that has no line in [`ROUTES`]; what is not served answers with a reason.

use http::Method;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// It is handled.
    Served(Endpoint),
    /// Docker can, this endpoint cannot; the sentence says why or what to do.
    Unsupported(&'static str),
    /// Nobody may do this through a pool's endpoint.
    Refused(&'static str),
    /// As Docker answers outside a swarm.
    NoSwarm,
    /// As Docker answers for an unknown plugin.
    NoPlugin,
}

/// Handlers by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Ping,
    Version,
    Info,
    Events,
    DiskUsage,
    RegistryLogin,
    ContainerList,
    ContainerCreate,
    ContainerInspect,
    ContainerTop,
    ContainerLogs,
    ContainerStats,
    ContainerResize,
    ContainerStart,
    ContainerStop,
    ContainerRestart,
    ContainerKill,
    ContainerUpdate,
    ContainerRename,
    ContainerPause,
    ContainerUnpause,
    ContainerAttach,
    ContainerWait,
    ContainerRemove,
    ExecCreate,
    ExecStart,
    ExecResize,
    ExecInspect,
    ImageList,
    ImagePull,
    ImageInspect,
    ImageHistory,
    ImageTag,
    ImageRemove,
    ImageSave,
    ImageSaveMany,
    ImageLoad,
    NetworkList,
    NetworkInspect,
    VolumeList,
    VolumeInspect,
    PluginList,
}

/// A line of the table. In a pattern, `{}` stands for one segment and `{*}` for one or more.
#[derive(Debug)]
pub(super) struct Route {
    /// Method; `HEAD` is listed where Docker has it.
    pub(super) method: Method,
    /// Path without the version.
    pub(super) pattern: &'static str,
    /// What becomes of it.
    pub(super) policy: Policy,
}

const GET: Method = Method::GET;
const PUT: Method = Method::PUT;
const POST: Method = Method::POST;
const HEAD: Method = Method::HEAD;
const DELETE: Method = Method::DELETE;

const fn serve(method: Method, pattern: &'static str, endpoint: Endpoint) -> Route {
    Route {
        method,
        pattern,
        policy: Policy::Served(endpoint),
    }
}

const fn other(method: Method, pattern: &'static str, policy: Policy) -> Route {
    Route {
        method,
        pattern,
        policy,
    }
}

const COPY: Policy =
    Policy::Unsupported("copying files in and out of containers is not supported yet");
const EXPORT: Policy =
    Policy::Unsupported("exporting, comparing and committing containers is not supported yet");
const CHECKPOINT: Policy = Policy::Unsupported("checkpoints are not supported");
const BUILD: Policy = Policy::Unsupported(
    "building images is not supported yet; build elsewhere, then push or docker load",
);
const PUSH: Policy =
    Policy::Unsupported("pushing images is not supported yet; docker save and push from elsewhere");
const PRUNE: Policy = Policy::Unsupported("pruning is not supported yet; remove by name");
const NETWORK: Policy =
    Policy::Unsupported("networks beside bridge, host and none are not supported yet");
const VOLUME: Policy = Policy::Unsupported(
    "managing volumes is not supported yet; anonymous and named volumes can be mounted",
);
const SEARCH: Policy = Policy::Unsupported("searching registries is not supported");
const SWARM: Policy =
    Policy::Unsupported("a pool is a cluster already; swarm mode is not supported");
const PLUGIN: Policy = Policy::Refused("plugins run with the host's rights and are not allowed");
const MANIFEST: Policy =
    Policy::Unsupported("asking registries for manifests is not supported yet");

/// The table.
pub(super) static ROUTES: &[Route] = &[
    // System.
    serve(GET, "/_ping", Endpoint::Ping),
    serve(HEAD, "/_ping", Endpoint::Ping),
    serve(GET, "/version", Endpoint::Version),
    serve(GET, "/info", Endpoint::Info),
    serve(GET, "/events", Endpoint::Events),
    serve(GET, "/system/df", Endpoint::DiskUsage),
    serve(POST, "/auth", Endpoint::RegistryLogin),
    // Containers. The ones of `docker run` first: the table is searched in order.
    serve(POST, "/containers/create", Endpoint::ContainerCreate),
    serve(POST, "/containers/{}/attach", Endpoint::ContainerAttach),
    serve(POST, "/containers/{}/wait", Endpoint::ContainerWait),
    serve(POST, "/containers/{}/start", Endpoint::ContainerStart),
    serve(POST, "/containers/{}/resize", Endpoint::ContainerResize),
    serve(GET, "/containers/json", Endpoint::ContainerList),
    serve(GET, "/containers/{}/json", Endpoint::ContainerInspect),
    serve(DELETE, "/containers/{}", Endpoint::ContainerRemove),
    serve(GET, "/containers/{}/logs", Endpoint::ContainerLogs),
    serve(GET, "/containers/{}/top", Endpoint::ContainerTop),
    serve(GET, "/containers/{}/stats", Endpoint::ContainerStats),
    serve(POST, "/containers/{}/stop", Endpoint::ContainerStop),
    serve(POST, "/containers/{}/restart", Endpoint::ContainerRestart),
    serve(POST, "/containers/{}/kill", Endpoint::ContainerKill),
    serve(POST, "/containers/{}/pause", Endpoint::ContainerPause),
    serve(POST, "/containers/{}/unpause", Endpoint::ContainerUnpause),
    serve(POST, "/containers/{}/rename", Endpoint::ContainerRename),
    serve(POST, "/containers/{}/update", Endpoint::ContainerUpdate),
    serve(POST, "/containers/{}/exec", Endpoint::ExecCreate),
    other(
        GET,
        "/containers/{}/attach/ws",
        Policy::Unsupported(
            "attaching by WebSocket is not supported; attach with an upgraded connection",
        ),
    ),
    other(POST, "/containers/prune", PRUNE),
    other(POST, "/containers/{}/copy", COPY),
    other(GET, "/containers/{}/archive", COPY),
    other(HEAD, "/containers/{}/archive", COPY),
    other(PUT, "/containers/{}/archive", COPY),
    other(GET, "/containers/{}/export", EXPORT),
    other(GET, "/containers/{}/changes", EXPORT),
    other(POST, "/commit", EXPORT),
    other(GET, "/containers/{}/checkpoints", CHECKPOINT),
    other(POST, "/containers/{}/checkpoints", CHECKPOINT),
    other(DELETE, "/containers/{}/checkpoints/{}", CHECKPOINT),
    // Exec.
    serve(POST, "/exec/{}/start", Endpoint::ExecStart),
    serve(POST, "/exec/{}/resize", Endpoint::ExecResize),
    serve(GET, "/exec/{}/json", Endpoint::ExecInspect),
    // Images.
    serve(GET, "/images/json", Endpoint::ImageList),
    other(GET, "/images/search", SEARCH),
    serve(GET, "/images/get", Endpoint::ImageSaveMany),
    serve(GET, "/images/{*}/get", Endpoint::ImageSave),
    serve(GET, "/images/{*}/history", Endpoint::ImageHistory),
    other(
        GET,
        "/images/{*}/attestations",
        Policy::Unsupported("attestations are not supported"),
    ),
    serve(GET, "/images/{*}/json", Endpoint::ImageInspect),
    serve(POST, "/images/load", Endpoint::ImageLoad),
    serve(POST, "/images/create", Endpoint::ImagePull),
    other(POST, "/images/prune", PRUNE),
    other(POST, "/images/{*}/push", PUSH),
    serve(POST, "/images/{*}/tag", Endpoint::ImageTag),
    serve(DELETE, "/images/{*}", Endpoint::ImageRemove),
    // Builds.
    other(POST, "/build", BUILD),
    other(POST, "/build/prune", BUILD),
    other(POST, "/build/cancel", BUILD),
    other(POST, "/session", BUILD),
    other(POST, "/grpc", BUILD),
    other(GET, "/distribution/{*}/json", MANIFEST),
    // Networks.
    serve(GET, "/networks", Endpoint::NetworkList),
    serve(GET, "/networks/", Endpoint::NetworkList),
    serve(GET, "/networks/{}", Endpoint::NetworkInspect),
    other(POST, "/networks/create", NETWORK),
    other(POST, "/networks/prune", PRUNE),
    other(POST, "/networks/{}/connect", NETWORK),
    other(POST, "/networks/{}/disconnect", NETWORK),
    other(DELETE, "/networks/{}", NETWORK),
    // Volumes.
    serve(GET, "/volumes", Endpoint::VolumeList),
    serve(GET, "/volumes/{}", Endpoint::VolumeInspect),
    other(POST, "/volumes/create", VOLUME),
    other(POST, "/volumes/prune", PRUNE),
    other(PUT, "/volumes/{}", VOLUME),
    other(DELETE, "/volumes/{}", VOLUME),
    // Plugins.
    serve(GET, "/plugins", Endpoint::PluginList),
    other(GET, "/plugins/privileges", PLUGIN),
    other(GET, "/plugins/{*}/json", Policy::NoPlugin),
    other(POST, "/plugins/pull", PLUGIN),
    other(POST, "/plugins/create", PLUGIN),
    other(POST, "/plugins/{*}/enable", PLUGIN),
    other(POST, "/plugins/{*}/disable", PLUGIN),
    other(POST, "/plugins/{*}/push", PLUGIN),
    other(POST, "/plugins/{*}/upgrade", PLUGIN),
    other(POST, "/plugins/{*}/set", PLUGIN),
    other(DELETE, "/plugins/{*}", PLUGIN),
    // Swarm.
    other(GET, "/swarm", Policy::NoSwarm),
    other(GET, "/swarm/unlockkey", Policy::NoSwarm),
    other(POST, "/swarm/init", SWARM),
    other(POST, "/swarm/join", SWARM),
    other(POST, "/swarm/leave", Policy::NoSwarm),
    other(POST, "/swarm/update", Policy::NoSwarm),
    other(POST, "/swarm/unlock", Policy::NoSwarm),
    other(GET, "/nodes", Policy::NoSwarm),
    other(GET, "/nodes/{}", Policy::NoSwarm),
    other(DELETE, "/nodes/{}", Policy::NoSwarm),
    other(POST, "/nodes/{}/update", Policy::NoSwarm),
    other(GET, "/services", Policy::NoSwarm),
    other(POST, "/services/create", Policy::NoSwarm),
    other(GET, "/services/{}", Policy::NoSwarm),
    other(DELETE, "/services/{}", Policy::NoSwarm),
    other(POST, "/services/{}/update", Policy::NoSwarm),
    other(GET, "/services/{}/logs", Policy::NoSwarm),
    other(GET, "/tasks", Policy::NoSwarm),
    other(GET, "/tasks/{}", Policy::NoSwarm),
    other(GET, "/tasks/{}/logs", Policy::NoSwarm),
    other(GET, "/secrets", Policy::NoSwarm),
    other(POST, "/secrets/create", Policy::NoSwarm),
    other(GET, "/secrets/{}", Policy::NoSwarm),
    other(DELETE, "/secrets/{}", Policy::NoSwarm),
    other(POST, "/secrets/{}/update", Policy::NoSwarm),
    other(GET, "/configs", Policy::NoSwarm),
    other(POST, "/configs/create", Policy::NoSwarm),
    other(GET, "/configs/{}", Policy::NoSwarm),
    other(DELETE, "/configs/{}", Policy::NoSwarm),
    other(POST, "/configs/{}/update", Policy::NoSwarm),
];

/// Finds the line for a request, with the parts of the path that its pattern leaves open, decoded.
pub(super) fn find(method: &Method, path: &str) -> Option<(&'static Route, Vec<String>)> {
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    // Only `/networks/` ends with a slash; nothing else has empty or climbing segments.
    let odd = |s: &&str| s.is_empty() || *s == "." || *s == "..";
    if path != "/networks/" && segments.iter().any(odd) {
        return None;
    }
    ROUTES
        .iter()
        .filter(|route| route.method == *method)
        .find_map(|route| Some((route, capture(route.pattern, &segments)?)))
}

fn capture(pattern: &str, segments: &[&str]) -> Option<Vec<String>> {
    let mut captured = Vec::new();
    let parts = pattern[1..].split('/');
    let mut left = segments;
    let total = parts.clone().count();
    for (at, part) in parts.enumerate() {
        let rest_of_pattern = total - at - 1;
        match part {
            "{*}" => {
                let take = left.len().checked_sub(rest_of_pattern).filter(|n| *n > 0)?;
                captured.push(decode(&left[..take].join("/"))?);
                left = &left[take..];
            }
            "{}" => {
                let (first, rest) = left.split_first()?;
                captured.push(decode(first)?);
                left = rest;
            }
            fixed => {
                let (first, rest) = left.split_first()?;
                if *first != fixed {
                    return None;
                }
                left = rest;
            }
        }
    }
    left.is_empty().then_some(captured)
}

/// Resolves percent escapes; `None` if they are malformed or not UTF-8.
fn decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            out.push(u8::from_str_radix(text.get(at + 1..at + 3)?, 16).ok()?);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: Method, path: &str) -> Option<(&'static str, Vec<String>)> {
        find(&method, path).map(|(route, captured)| (route.pattern, captured))
    }

    #[test]
    fn names_of_images_may_have_slashes() {
        assert_eq!(
            found(GET, "/images/reg:5000/a/b:1/json"),
            Some(("/images/{*}/json", vec!["reg:5000/a/b:1".into()]))
        );
        assert_eq!(
            found(GET, "/images/a%2Fb/json"),
            Some(("/images/{*}/json", vec!["a/b".into()]))
        );
        assert_eq!(found(GET, "/images/json"), Some(("/images/json", vec![])));
        assert_eq!(
            found(DELETE, "/images/a/b"),
            Some(("/images/{*}", vec!["a/b".into()]))
        );
    }

    #[test]
    fn odd_paths_are_unknown() {
        for path in [
            "",
            "/",
            "//containers/json",
            "/containers//json",
            "/containers/../images/json",
            "/containers/x/",
            "/Containers/json",
            "/debug/pprof/",
            "/metrics",
            "/containers/%zz/json",
            "/containers/a/b/json",
        ] {
            assert_eq!(found(GET, path), None, "{path}");
        }
        assert_eq!(found(PUT, "/containers/json"), None);
    }

    #[test]
    fn the_table_has_each_route_once() {
        for (i, route) in ROUTES.iter().enumerate() {
            assert!(
                !ROUTES[..i]
                    .iter()
                    .any(|r| r.method == route.method && r.pattern == route.pattern),
                "{} {}",
                route.method,
                route.pattern
            );
            let path = route.pattern.replace("{*}", "a/b").replace("{}", "x1");
            let (reached, _) = find(&route.method, &path).unwrap();
            assert_eq!(
                reached.pattern, route.pattern,
                "{} {path} is shadowed",
                route.method
            );
        }
    }
}
