//! Third-party fences: which of the project's crates may use a library.

use super::{Finding, Tree};

/// One fence.
struct Fence {
    /// Packages behind it.
    libraries: &'static [&'static str],
    /// Crates that may name them.
    allowed: &'static [&'static str],
    /// Whether tests may use them anywhere.
    free_in_tests: bool,
    reason: &'static str,
}

const FENCES: &[Fence] = &[
    Fence {
        libraries: &["axum"],
        // The benchmark of the control plane serves the API in its own process.
        allowed: &["api", "node", "bench"],
        free_in_tests: false,
        reason: "doors into the system are opened in two places only",
    },
    Fence {
        libraries: &["rusqlite", "libsqlite3-sys", "etcd-client"],
        // The benchmark of the store has bare SQLite as its peer.
        allowed: &["store", "bench"],
        free_in_tests: false,
        reason: "state is reached through the store's trait",
    },
    Fence {
        libraries: &["libcontainer", "libcgroups"],
        allowed: &["shim"],
        free_in_tests: false,
        reason: "libcontainer forks its caller and must never run in a threaded process",
    },
    Fence {
        libraries: &[
            "rtnetlink",
            "netlink-packet-route",
            "nftables",
            "oci-client",
        ],
        allowed: &["drivers"],
        free_in_tests: false,
        reason: "the kernel's and the registries' interfaces are a driver's business",
    },
    Fence {
        libraries: &["anyhow"],
        allowed: &[
            "node",
            "cli",
            "xtask",
            "bench",
            "sim",
            "e2e",
            "plimsoll-fuzz",
        ],
        free_in_tests: true,
        reason: "libraries have typed errors",
    },
];

/// Crates that must stay free of an async runtime, also through others.
const PURE: &[&str] = &["model", "plan"];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, package) in tree.metadata.members() {
        let place = format!("{name}/Cargo.toml");
        for dependency in &package.dependencies {
            for fence in FENCES {
                let behind = fence.libraries.contains(&dependency.name.as_str());
                let free = fence.free_in_tests && dependency.is_dev();
                if behind && !free && !fence.allowed.contains(&name) {
                    let allowed = fence.allowed.join(", ");
                    findings.push(Finding::new(
                        &place,
                        format!("{} only in {allowed}: {}", dependency.name, fence.reason),
                    ));
                }
            }
        }
        if PURE.contains(&name) && tree.metadata.linked(&package.id).contains("tokio") {
            findings.push(Finding::new(
                &place,
                format!("{name} links tokio: decisions and nouns do no I/O and know no clock"),
            ));
        }
    }
    findings
}
