//! The network of a cluster: an underlay bridge in the machine's namespace, a namespace and a link for each host, and
//! address translation so that hosts and their tasks reach what the machine reaches.
//!
//! Everything goes through `ip` and `nft`; it is done once per host and need not be quick.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use drivers::network::Subnet;
use serde::Deserialize;

use super::plan::{Plan, host_address, server_address};

/// Where `ip netns` keeps names.
const NAMES: &str = "/run/netns";
/// Whether the machine forwards packets.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
/// Exists while clusters are the reason for it.
const FORWARDING_NOTE: &str = "/run/plimsoll-dev-forwarding";

/// Path of a host's namespace.
pub(super) fn namespace_path(plan: &Plan, index: u32) -> PathBuf {
    Path::new(NAMES).join(plan.namespace(index))
}

#[derive(Debug, Deserialize)]
struct Route {
    dst: String,
    #[serde(default)]
    dev: String,
}

#[derive(Debug, Deserialize)]
struct Link {
    ifname: String,
    #[serde(default)]
    mtu: u32,
}

fn routes() -> Result<Vec<Route>> {
    let text = read("ip", &["-j", "-4", "route", "show", "table", "main"])?;
    serde_json::from_str(&text).context("read the machine's routes")
}

/// The subnets other links of this machine route to.
fn taken(plan: &Plan) -> Result<Vec<(Subnet, String)>> {
    let routes = routes()?
        .into_iter()
        .filter(|route| route.dev != plan.name());
    let subnets = routes.filter_map(|route| {
        let text = if route.dst.contains('/') {
            route.dst
        } else {
            format!("{}/32", route.dst)
        };
        Some((text.parse().ok()?, route.dev))
    });
    Ok(subnets.collect())
}

/// Chooses the addresses of a new cluster.
pub(super) fn choose_underlay(plan: &Plan) -> Result<Subnet> {
    let taken = taken(plan)?;
    let mut free = plan
        .underlays()
        .filter(|subnet| !taken.iter().any(|(other, _)| other.overlaps(*subnet)));
    free.next()
        .context("no addresses are left: routes of this machine cover all of 10.213.0.0/16")
}

/// Fails if another link of this machine has the cluster's addresses meanwhile.
pub(super) fn check_underlay(plan: &Plan, underlay: Subnet) -> Result<()> {
    for (other, device) in taken(plan)? {
        if other.overlaps(underlay) {
            bail!(
                "the cluster's addresses {underlay} clash with the route to {other} by {device}: \
                 remove that route, or make the cluster anew (`plimsoll dev down`, then `dev up`)"
            );
        }
    }
    Ok(())
}

/// Makes the machine forward packets, and notes if it did not before.
fn forward() -> Result<()> {
    let now = fs::read_to_string(FORWARDING).with_context(|| format!("read {FORWARDING}"))?;
    if now.trim() == "1" {
        return Ok(());
    }
    fs::write(FORWARDING_NOTE, "").with_context(|| format!("write {FORWARDING_NOTE}"))?;
    fs::write(FORWARDING, "1").with_context(|| format!("write {FORWARDING}"))
}

/// After the last cluster: the machine forwards packets no more if it did not before the first one, unless an engine
/// that needs it has come since.
fn stop_forwarding() -> Result<()> {
    let needed = ["plimsoll0", "docker0"].into_iter().any(link_exists);
    if !Path::new(FORWARDING_NOTE).exists() || others_exist()? {
        return Ok(());
    }
    if !needed {
        fs::write(FORWARDING, "0").with_context(|| format!("write {FORWARDING}"))?;
    }
    fs::remove_file(FORWARDING_NOTE).with_context(|| format!("remove {FORWARDING_NOTE}"))
}

/// Makes the bridge and its address translation; repeating it changes nothing.
pub(super) fn make_bridge(plan: &Plan, underlay: Subnet) -> Result<()> {
    let name = plan.name();
    if !link_exists(&name) {
        let mtu = uplink_mtu()?;
        ip(&format!("link add {name} mtu {mtu} type bridge"))?;
    }
    let (address, prefix) = (server_address(underlay), underlay.prefix());
    ip(&format!("addr replace {address}/{prefix} dev {name}"))?;
    ip(&format!("link set {name} up"))?;
    forward()?;
    nft(&format!(
        "add table ip {name}\ndelete table ip {name}\n\
         table ip {name} {{\n\
           chain postrouting {{\n\
             type nat hook postrouting priority 100; policy accept;\n\
             ip saddr {underlay} oifname != \"{name}\" masquerade\n\
           }}\n\
         }}\n"
    ))
}

/// Makes a host's namespace and its link to the bridge; repeating it changes nothing.
pub(super) fn make_host(plan: &Plan, underlay: Subnet, index: u32) -> Result<()> {
    let (namespace, link, bridge) = (plan.namespace(index), plan.link(index), plan.name());
    let path = namespace_path(plan, index);
    if !namespace_usable(&path) {
        // A file that is left of a namespace that is not mounted any more.
        let _ = fs::remove_file(&path);
        ip(&format!("netns add {namespace}"))?;
    }
    if !link_exists(&link) {
        let mtu = uplink_mtu()?;
        ip(&format!(
            "link add {link} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {namespace}"
        ))?;
    }
    ip(&format!("link set {link} master {bridge} up"))?;
    let (address, prefix) = (host_address(underlay, index), underlay.prefix());
    let gateway = server_address(underlay);
    for inside in [
        "link set lo up".to_owned(),
        format!("addr replace {address}/{prefix} dev eth0"),
        "link set eth0 up".to_owned(),
        format!("route replace default via {gateway} dev eth0"),
    ] {
        ip(&format!("-n {namespace} {inside}"))?;
    }
    Ok(())
}

/// Whether a named namespace is one (its file is a mount of the kernel's namespace file system).
fn namespace_usable(path: &Path) -> bool {
    let own = fs::metadata("/proc/self/ns/net").map(|metadata| metadata.dev());
    let named = fs::metadata(path).map(|metadata| metadata.dev());
    matches!((own, named), (Ok(own), Ok(named)) if own == named)
}

/// Names of the cluster's namespaces, also of hosts nobody remembers.
pub(super) fn namespaces(plan: &Plan) -> Vec<String> {
    let prefix = format!("{}-h", plan.name());
    let entries = fs::read_dir(NAMES).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&prefix)).collect()
}

/// Device and inode of the cluster's namespaces.
pub(super) fn namespace_inodes(plan: &Plan) -> BTreeSet<(u64, u64)> {
    let paths = namespaces(plan)
        .into_iter()
        .map(|name| Path::new(NAMES).join(name));
    let usable = paths.filter(|path| namespace_usable(path));
    let inodes = usable.filter_map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    });
    inodes.collect()
}

/// Removes everything of the cluster's network.
pub(super) fn remove(plan: &Plan) -> Result<()> {
    for name in namespaces(plan) {
        if ip(&format!("netns del {name}")).is_err() {
            let path = Path::new(NAMES).join(&name);
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    let own = plan.name();
    let ends = format!("{own}-");
    for link in links()? {
        if (link.ifname == own || link.ifname.starts_with(&ends)) && link_exists(&link.ifname) {
            // The kernel may be removing it already, with its namespace.
            let removed = ip(&format!("link del {}", link.ifname));
            if link_exists(&link.ifname) {
                removed?;
            }
        }
    }
    nft(&format!("add table ip {own}\ndelete table ip {own}\n"))?;
    stop_forwarding()
}

/// Whether links of any cluster are left on this machine.
fn others_exist() -> Result<bool> {
    let is_bridge = |name: &str| {
        let digits = name.strip_prefix("plim");
        digits.is_some_and(|d| d.len() == 6 && d.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    Ok(links()?.iter().any(|link| is_bridge(&link.ifname)))
}

fn links() -> Result<Vec<Link>> {
    let text = read("ip", &["-j", "link", "show"])?;
    serde_json::from_str(&text).context("read the machine's links")
}

fn link_exists(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

/// Largest packet of the link that leads out of the machine.
fn uplink_mtu() -> Result<u32> {
    /// Ethernet's.
    const USUAL: u32 = 1500;
    let uplink = routes()?.into_iter().find(|route| route.dst == "default");
    let Some(uplink) = uplink else {
        return Ok(USUAL);
    };
    let found = links()?.into_iter().find(|link| link.ifname == uplink.dev);
    Ok(found.map_or(USUAL, |link| link.mtu))
}

fn ip(arguments: &str) -> Result<()> {
    let words: Vec<&str> = arguments.split(' ').collect();
    read("ip", &words).map(drop)
}

fn nft(text: &str) -> Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run nft (Debian package nftables)")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes()).context("talk to nft")?;
    }
    let output = child.wait_with_output().context("wait for nft")?;
    if !output.status.success() {
        bail!("nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn read(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", arguments.join(" "), errors.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
