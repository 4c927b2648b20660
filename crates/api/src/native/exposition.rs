//! `/metrics` in Prometheus' text format (version 0.0.4), written by hand: a few gauges and counters need no library.

use std::fmt::Write as _;

use control::{Caller, Control, Result};

/// A document under construction.
#[derive(Default)]
struct Exposition {
    text: String,
}

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str, samples: &[(Vec<(&str, &str)>, u64)]) {
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let labels: Vec<String> = labels
                .iter()
                .map(|(key, value)| format!("{key}=\"{}\"", escaped(value)))
                .collect();
            let labels = if labels.is_empty() {
                String::new()
            } else {
                format!("{{{}}}", labels.join(","))
            };
            let _ = writeln!(self.text, "{name}{labels} {value}");
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// The whole document, of what the caller may see.
pub(crate) fn metrics(control: &Control, caller: &Caller) -> Result<String> {
    let mut out = Exposition::default();
    let counters = control.metrics();
    for (name, help, value) in [
        (
            "plimsoll_workload_starts_total",
            "Workloads started.",
            counters.starts,
        ),
        (
            "plimsoll_placements_refused_total",
            "Placements that found no host.",
            counters.placements_refused,
        ),
        (
            "plimsoll_host_reports_total",
            "Status reports taken in.",
            counters.reports,
        ),
        (
            "plimsoll_host_reports_ignored_total",
            "Status reports of hosts on what is not placed on them, or of runs that nobody asked for.",
            counters.reports_ignored,
        ),
        (
            "plimsoll_host_streams_total",
            "Streams opened to hosts.",
            counters.streams,
        ),
        (
            "plimsoll_requests_denied_total",
            "Requests denied by authorisation or authentication.",
            counters.denied,
        ),
        (
            "plimsoll_admissions_refused_total",
            "Claims that found no room in a pool.",
            counters.admissions_refused,
        ),
        (
            "plimsoll_ledger_audits_total",
            "Comparisons of the pools' ledger with what it should be.",
            counters.ledger_audits,
        ),
        (
            "plimsoll_ledger_repairs_total",
            "Differences found by them, and repaired.",
            counters.ledger_repairs,
        ),
    ] {
        out.family(name, "counter", help, &[(Vec::new(), value)]);
    }
    pools(&mut out, control, caller)?;
    hosts(&mut out, control, caller)?;
    Ok(out.text)
}

fn pools(out: &mut Exposition, control: &Control, caller: &Caller) -> Result<()> {
    let pools = control.pool_list(caller)?;
    let mut gauges = [
        (
            "plimsoll_pool_workloads",
            "Workloads of a pool in any state.",
            Vec::new(),
        ),
        (
            "plimsoll_pool_workloads_running",
            "Workloads of a pool that run.",
            Vec::new(),
        ),
        ("plimsoll_pool_images", "Images of a pool.", Vec::new()),
        (
            "plimsoll_pool_charged_cpu_millis",
            "CPU a pool is charged for, thousandths of a core.",
            Vec::new(),
        ),
        (
            "plimsoll_pool_charged_memory_bytes",
            "Memory a pool is charged for.",
            Vec::new(),
        ),
    ];
    for pool in &pools {
        let usage = control.pool_usage(caller, &pool.id)?;
        let values = [
            usage.workloads,
            usage.running,
            usage.images,
            usage.charged.cpu.0,
            usage.charged.memory.0,
        ];
        for ((_, _, samples), value) in gauges.iter_mut().zip(values) {
            samples.push((vec![("pool", pool.name.as_str())], value));
        }
    }
    for (name, help, samples) in &gauges {
        out.family(name, "gauge", help, samples);
    }
    Ok(())
}

fn hosts(out: &mut Exposition, control: &Control, caller: &Caller) -> Result<()> {
    let hosts = control.host_list(caller)?;
    let mut gauges = [
        (
            "plimsoll_host_connected",
            "Whether a host's link is open.",
            Vec::new(),
        ),
        (
            "plimsoll_host_cordoned",
            "Whether nothing new is placed on a host.",
            Vec::new(),
        ),
        (
            "plimsoll_host_in_maintenance",
            "Whether a host is to be empty.",
            Vec::new(),
        ),
        (
            "plimsoll_host_lost",
            "Whether a host has been silent for so long that what may run elsewhere is started there.",
            Vec::new(),
        ),
        (
            "plimsoll_host_cpu_millis",
            "CPU of a host, thousandths of a core.",
            Vec::new(),
        ),
        (
            "plimsoll_host_memory_bytes",
            "Memory of a host.",
            Vec::new(),
        ),
        (
            "plimsoll_host_requested_cpu_millis",
            "CPU that workloads ask for on a host, thousandths of a core.",
            Vec::new(),
        ),
        (
            "plimsoll_host_requested_memory_bytes",
            "Memory that workloads ask for on a host.",
            Vec::new(),
        ),
    ];
    for host in &hosts {
        let capacity = host.status.facts.capacity;
        let requested = control.host_load(&host.id).requested;
        let values = [
            u64::from(host.status.connected),
            u64::from(host.cordoned),
            u64::from(host.drain.is_some()),
            u64::from(host.status.lost_at.is_some()),
            capacity.cpu.0,
            capacity.memory.0,
            requested.cpu.0,
            requested.memory.0,
        ];
        for ((_, _, samples), value) in gauges.iter_mut().zip(values) {
            samples.push((vec![("host", host.name.as_str())], value));
        }
    }
    for (name, help, samples) in &gauges {
        out.family(name, "gauge", help, samples);
    }
    copies(out, control, caller)
}

fn copies(out: &mut Exposition, control: &Control, caller: &Caller) -> Result<()> {
    let lacking = u64::try_from(control.images_lacking_copies(caller)?).unwrap_or(u64::MAX);
    out.family(
        "plimsoll_images_lacking_copies",
        "gauge",
        "Images that are on fewer hosts than two, though there are hosts for them: they may be lost with a host.",
        &[(Vec::new(), lacking)],
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut out = Exposition::default();
        out.family("a", "gauge", "Help.", &[(vec![("l", "x\"y\\z")], 3)]);
        assert_eq!(
            out.text,
            "# HELP a Help.\n# TYPE a gauge\na{l=\"x\\\"y\\\\z\"} 3\n"
        );
    }
}
