//! The rules: what may reach what. Written as one text, applied by `nft` as one atomic change.
//!
//! Rules are fixed; workloads appear only as elements of sets and maps (`elements.rs`), so that a packet costs a few
//! look-ups however many workloads there are.
//!
//! Two tables of our name. `bridge` decides what goes from one port of the bridge to another: the source must be the
//! link's own (`sources`), and the other link must be a member of the same pool (`pools`, `members`). `inet` translates
//! published ports (`ports`, `ports_at`), masquerades, and lets into the bridge only answers and published ports.
//!
//! Kernels with `bridge-nf-call-iptables` send bridged packets through `inet` as well, and put a translated packet back
//! on the bridge without routing it. Both are told apart by [`PASS`], a mark set only on packets between two links of
//! the bridge that were already let through; such packets never leave the host, so the mark is seen by nobody else.
//!
//! `route_localnet` is on for the bridge, because a published port must answer on the host's own 127.0.0.1. The rules
//! drop what workloads send to 127.0.0.0/8 themselves.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::elements::{Element, protocol_number};
use super::{NetworkError, Subnet};

/// Mark of packets between two links of the bridge that were let through ("plim").
pub(super) const PASS: u32 = 0x706c_696d;
/// Numbers of pools on a host stay below this, so that none is [`PASS`].
pub(super) const POOL_NUMBERS: u32 = 1 << 24;

/// What the rules are about.
#[derive(Debug, Clone)]
pub(super) struct Rules<'a> {
    /// Name of both tables.
    pub(super) table: &'a str,
    /// Name of the bridge.
    pub(super) bridge: &'a str,
    /// First letters of the workloads' links.
    pub(super) links: &'a str,
    /// The workloads' subnet.
    pub(super) subnet: Subnet,
}

/// The whole text: our tables anew, with all elements.
pub(super) fn text(rules: &Rules<'_>, elements: &[Element]) -> String {
    let table = rules.table;
    let mut out = removal(table);
    out.push_str(&inet_table(rules));
    out.push_str(&bridge_table(rules));
    for element in elements {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "add element {}", element_text(table, element));
    }
    out
}

/// The whole text: our tables gone, whether they were there or not.
pub(super) fn removal(table: &str) -> String {
    format!(
        "add table inet {table}\ndelete table inet {table}\nadd table bridge {table}\ndelete table bridge {table}\n"
    )
}

fn inet_table(rules: &Rules<'_>) -> String {
    let Rules {
        table,
        bridge,
        links: _,
        subnet,
    } = rules;
    format!(
        r#"table inet {table} {{
  map ports {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  map ports_at {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  chain loopback {{
    type filter hook prerouting priority -300; policy accept;
    iifname "{bridge}" ip daddr 127.0.0.0/8 drop
  }}
  chain publish {{
    dnat ip to ip daddr . meta l4proto . th dport map @ports_at
    dnat ip to meta l4proto . th dport map @ports
  }}
  chain prerouting {{
    type nat hook prerouting priority -100; policy accept;
    meta l4proto {{ tcp, udp, sctp }} fib daddr type local jump publish
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    meta l4proto {{ tcp, udp, sctp }} fib daddr type local jump publish
  }}
  chain hairpin {{
    type filter hook prerouting priority -99; policy accept;
    iifname "{bridge}" ip daddr {subnet} ct status dnat meta mark set {PASS}
  }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
    oifname "{bridge}" ct status dnat ip saddr {{ 127.0.0.0/8, {subnet} }} masquerade
    oifname != "{bridge}" ip saddr {subnet} masquerade
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    iifname != "{bridge}" oifname != "{bridge}" accept
    iifname "{bridge}" oifname "{bridge}" meta mark {PASS} accept
    ct status dnat accept
    iifname "{bridge}" oifname != "{bridge}" accept
    iifname != "{bridge}" ct state established,related accept
    drop
  }}
}}
"#
    )
}

fn bridge_table(rules: &Rules<'_>) -> String {
    let (table, links) = (rules.table, rules.links);
    format!(
        r#"table bridge {table} {{
  set sources {{ type ifname . ether_addr . ipv4_addr; }}
  map pools {{ type ifname : mark; }}
  set members {{ type mark . ifname; }}
  chain source {{
    type filter hook prerouting priority -310; policy accept;
    iifname != "{links}*" accept
    ether type ip iifname . ether saddr . ip saddr @sources accept
    ether type arp iifname . ether saddr . arp saddr ip @sources accept
    drop
  }}
  chain forward {{
    type filter hook forward priority -310; policy accept;
    iifname != "{links}*" accept
    meta mark {PASS} accept
    meta mark set iifname map @pools
    meta mark . oifname @members meta mark set {PASS} accept
    drop
  }}
}}
"#
    )
}

/// Rules of the kinds the driver uses, to be tried out in a scratch namespace.
#[must_use]
pub fn trial_rules() -> String {
    let rules = Rules {
        table: "trial",
        bridge: "trial0",
        links: "trial",
        subnet: Subnet::DOCUMENTATION,
    };
    let port = Element::Port {
        host: None,
        host_port: 8080,
        protocol: model::workload::Protocol::Tcp,
        address: Subnet::DOCUMENTATION.gateway(),
        port: 80,
    };
    text(&rules, &[port])
}

fn element_text(table: &str, element: &Element) -> String {
    match element {
        Element::Source { link, mac, address } => {
            let [a, b, c, d, e, f] = mac;
            let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
            format!(r#"bridge {table} sources {{ "{link}" . {mac} . {address} }}"#)
        }
        Element::Pool { link, number } => {
            format!(r#"bridge {table} pools {{ "{link}" : {number} }}"#)
        }
        Element::Member { number, link } => {
            format!(r#"bridge {table} members {{ {number} . "{link}" }}"#)
        }
        Element::Port {
            host,
            host_port,
            protocol,
            address,
            port,
        } => {
            let protocol = protocol_number(*protocol);
            let rest = format!("{protocol} . {host_port} : {address} . {port}");
            match host {
                Some(host) => format!("inet {table} ports_at {{ {host} . {rest} }}"),
                None => format!("inet {table} ports {{ {rest} }}"),
            }
        }
    }
}

/// Hands a text to `nft`; all of it takes effect or nothing.
pub(super) fn apply(text: &str) -> Result<(), NetworkError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(NetworkError::NftRun)?;
    let written = match child.stdin.take() {
        Some(mut stdin) => stdin.write_all(text.as_bytes()),
        None => Ok(()),
    };
    let output = child.wait_with_output().map_err(NetworkError::NftRun)?;
    if output.status.success() {
        written.map_err(NetworkError::NftRun)
    } else {
        let message = String::from_utf8_lossy(&output.stderr);
        let line = message.lines().next().unwrap_or("no reason given");
        Err(NetworkError::NftRefused(line.chars().take(300).collect()))
    }
}
