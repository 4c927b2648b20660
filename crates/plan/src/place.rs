//! Where a workload goes.
//!
//! Filters give a reason each, scores are kept; the report names, for every host, the first failing filter or the
//! score, and answers "why is it there" and "why is it pending".

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use model::workload::Protocol;
use model::{Capacity, HostId, ImageId, WorkloadSpec, resources::host_reserve};

/// A host as placement sees it.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    /// The host.
    pub host: &'a model::Host,
    /// Sum of what the workloads placed on it are charged.
    pub charged: Capacity,
    /// Number of workloads placed on it that are to run.
    pub workloads: u64,
    /// Host ports in use by workloads placed on it.
    pub ports: BTreeSet<(Protocol, u16)>,
    /// Image bytes that would have to be fetched.
    pub missing_image_bytes: u64,
}

/// What is to be placed.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The workload.
    pub spec: &'a WorkloadSpec,
    /// CPU architecture of its image; empty: any.
    pub architecture: &'a str,
    /// The host it must be on, because it shares something with a workload there.
    pub pinned: Option<&'a HostId>,
    /// Breaks ties.
    pub seed: u64,
}

/// Why a host was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No link to it.
    NotReady,
    /// Taken out of use by an operator.
    Cordoned,
    /// Something it depends on is elsewhere.
    Pinned,
    /// The image is for another CPU.
    Architecture(String),
    /// Not enough CPU: free, wanted (thousandths of a core).
    Cpu(u64, u64),
    /// Not enough memory: free, wanted (bytes).
    Memory(u64, u64),
    /// A host port is taken.
    Port(Protocol, u16),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::NotReady => f.write_str("is not ready"),
            Refusal::Cordoned => f.write_str("is cordoned"),
            Refusal::Pinned => {
                f.write_str("is not the host of the workload it shares a namespace with")
            }
            Refusal::Architecture(wanted) => write!(f, "cannot run {wanted} images"),
            Refusal::Cpu(free, wanted) => {
                write!(f, "has {free}m of CPU free, {wanted}m are requested")
            }
            Refusal::Memory(free, wanted) => {
                write!(
                    f,
                    "has {} MiB of memory free, {} MiB are requested",
                    free >> 20,
                    wanted >> 20
                )
            }
            Refusal::Port(protocol, port) => {
                write!(f, "has port {port}/{} in use", protocol.as_str())
            }
        }
    }
}

/// What was found of one host.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Not possible.
    Refused(Refusal),
    /// Possible; higher is better.
    Score(f64),
}

/// The decision and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// The host; `None`: pending.
    pub host: Option<HostId>,
    /// Every host by name with its verdict.
    pub report: BTreeMap<String, Verdict>,
}

impl Placement {
    /// The report in one sentence for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let refused: Vec<(&String, &Refusal)> = self
            .report
            .iter()
            .filter_map(|(name, verdict)| match verdict {
                Verdict::Refused(why) => Some((name, why)),
                Verdict::Score(_) => None,
            })
            .collect();
        if self.report.is_empty() {
            return "there is no host: add one with `plimsoll host token` and `plimsoll agent`"
                .into();
        }
        if self.host.is_some() {
            let fit = self.report.len() - refused.len();
            return format!("best of {fit} fitting hosts out of {}", self.report.len());
        }
        let mut text = format!("no host fits ({} considered): ", self.report.len());
        for (i, (name, why)) in refused.iter().take(MAX_HOSTS_IN_SENTENCE).enumerate() {
            let _ = write!(text, "{}{name} {why}", if i == 0 { "" } else { "; " });
        }
        if refused.len() > MAX_HOSTS_IN_SENTENCE {
            let _ = write!(text, "; and {} more", refused.len() - MAX_HOSTS_IN_SENTENCE);
        }
        text
    }
}

/// Hosts named in a sentence: more would not be read.
const MAX_HOSTS_IN_SENTENCE: usize = 5;

/// Image bytes that weigh as much as a whole host's load: above 1 GiB the fetch dominates any other difference.
const IMAGE_BYTES_SATURATION: f64 = 1_073_741_824.0;

/// Picks the host for a workload.
#[must_use]
pub fn place(wanted: Wanted<'_>, candidates: &[Candidate<'_>]) -> Placement {
    let mut report = BTreeMap::new();
    let mut best: Option<(f64, u64, &HostId)> = None;
    for candidate in candidates {
        let verdict = match refusal(wanted, candidate) {
            Some(why) => Verdict::Refused(why),
            None => {
                let score = score(wanted, candidate);
                let tie = tie_break(wanted.seed, candidate.host.id.as_str());
                if best.is_none_or(|(s, t, _)| score > s || (score >= s && tie > t)) {
                    best = Some((score, tie, &candidate.host.id));
                }
                Verdict::Score(score)
            }
        };
        report.insert(candidate.host.name.to_string(), verdict);
    }
    Placement {
        host: best.map(|(_, _, id)| id.clone()),
        report,
    }
}

fn refusal(wanted: Wanted<'_>, candidate: &Candidate<'_>) -> Option<Refusal> {
    let host = candidate.host;
    if !host.status.connected {
        return Some(Refusal::NotReady);
    }
    if host.cordoned {
        return Some(Refusal::Cordoned);
    }
    if wanted.pinned.is_some_and(|pinned| *pinned != host.id) {
        return Some(Refusal::Pinned);
    }
    let architecture = &host.status.facts.architecture;
    if !wanted.architecture.is_empty()
        && !architecture.is_empty()
        && wanted.architecture != architecture
    {
        return Some(Refusal::Architecture(wanted.architecture.to_owned()));
    }
    let free = free(candidate);
    let charge = wanted.spec.task.resources.charge();
    if charge.cpu > free.cpu {
        return Some(Refusal::Cpu(free.cpu.0, charge.cpu.0));
    }
    if charge.memory > free.memory {
        return Some(Refusal::Memory(free.memory.0, charge.memory.0));
    }
    wanted.spec.ports.iter().find_map(|mapping| {
        let port = mapping.host_port?;
        candidate
            .ports
            .contains(&(mapping.protocol, port))
            .then_some(Refusal::Port(mapping.protocol, port))
    })
}

fn free(candidate: &Candidate<'_>) -> Capacity {
    let total = candidate.host.status.facts.capacity;
    total.minus(host_reserve(total)).minus(candidate.charged)
}

/// Balance: the emptier host wins, in requests first and number of workloads second; image bytes to fetch count
/// against it.
#[expect(
    clippy::cast_precision_loss,
    reason = "scores need no more than 52 bits"
)]
fn score(wanted: Wanted<'_>, candidate: &Candidate<'_>) -> f64 {
    let total = candidate.host.status.facts.capacity;
    let after = candidate.charged.plus(wanted.spec.task.resources.charge());
    let part = |used: u64, all: u64| {
        if all == 0 {
            0.0
        } else {
            used as f64 / all as f64
        }
    };
    let load = part(after.cpu.0, total.cpu.0).max(part(after.memory.0, total.memory.0));
    let crowd = candidate.workloads as f64 / (candidate.workloads as f64 + 100.0);
    let fetch = (candidate.missing_image_bytes as f64 / IMAGE_BYTES_SATURATION).min(1.0);
    -(load + crowd + fetch)
}

/// A number that depends on seed and host only (FNV-1a, 64 bits).
fn tie_break(seed: u64, id: &str) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325 ^ seed;
    id.bytes().fold(start, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Bytes of an image that a host lacks: all or nothing, since hosts report whole images.
#[must_use]
pub fn missing_image_bytes(host: &model::Host, image: &ImageId, bytes: u64) -> u64 {
    if host.status.images.contains(image) {
        0
    } else {
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{CpuMillis, Host, HostFacts, HostStatus, MemoryBytes, Name, Timestamp};

    fn host(name: &str, connected: bool) -> Host {
        let byte = name.as_bytes()[name.len() - 1];
        Host {
            id: HostId::from_bytes(&[byte; 32]),
            name: Name::parse(name).unwrap(),
            zone: String::new(),
            labels: BTreeMap::new(),
            cordoned: false,
            certificate_sha256: String::new(),
            previous_certificate_sha256: None,
            status: HostStatus {
                connected,
                facts: HostFacts {
                    capacity: Capacity {
                        cpu: CpuMillis(4000),
                        memory: MemoryBytes(8 << 30),
                    },
                    architecture: "amd64".into(),
                    ..HostFacts::default()
                },
                ..HostStatus::default()
            },
            joined_at: Timestamp(0),
        }
    }

    fn spec(json: serde_json::Value) -> WorkloadSpec {
        let mut base = serde_json::json!({"task": {"image": "web", "image_id": format!("sha256:{}", "a".repeat(64))}});
        for (key, value) in json.as_object().unwrap() {
            if key == "resources" {
                base["task"]["resources"] = value.clone();
            } else {
                base[key] = value.clone();
            }
        }
        serde_json::from_value(base).unwrap()
    }

    fn candidate(host: &Host) -> Candidate<'_> {
        Candidate {
            host,
            charged: Capacity::default(),
            workloads: 0,
            ports: BTreeSet::new(),
            missing_image_bytes: 0,
        }
    }

    fn check(
        spec: &WorkloadSpec,
        candidates: &[Candidate<'_>],
        expect: Option<&str>,
        sentence: &str,
    ) {
        let wanted = Wanted {
            spec,
            architecture: "amd64",
            pinned: None,
            seed: 1,
        };
        let placement = place(wanted, candidates);
        let name = placement.host.as_ref().map(|id| {
            candidates
                .iter()
                .find(|c| c.host.id == *id)
                .unwrap()
                .host
                .name
                .to_string()
        });
        assert_eq!(name.as_deref(), expect);
        assert_eq!(placement.sentence(), sentence);
        assert_eq!(
            place(wanted, candidates),
            placement,
            "placing again gives the same"
        );
    }

    #[test]
    fn the_emptier_host_wins() {
        let (a, b) = (host("h1", true), host("h2", true));
        let busy = Candidate {
            workloads: 3,
            ..candidate(&a)
        };
        check(
            &spec(serde_json::json!({})),
            &[busy, candidate(&b)],
            Some("h2"),
            "best of 2 fitting hosts out of 2",
        );
    }

    #[test]
    fn an_image_that_is_there_outweighs_a_few_workloads() {
        let (a, b) = (host("h1", true), host("h2", true));
        let holder = Candidate {
            workloads: 3,
            ..candidate(&a)
        };
        let empty = Candidate {
            missing_image_bytes: 500 << 20,
            ..candidate(&b)
        };
        check(
            &spec(serde_json::json!({})),
            &[holder, empty],
            Some("h1"),
            "best of 2 fitting hosts out of 2",
        );
    }

    #[test]
    fn nobody_fits_says_why_for_each() {
        let (a, b, mut c) = (host("h1", false), host("h2", true), host("h3", true));
        c.cordoned = true;
        let spec = spec(serde_json::json!({"resources": {"memory_limit": 9_u64 << 30}}));
        check(
            &spec,
            &[candidate(&a), candidate(&b), candidate(&c)],
            None,
            "no host fits (3 considered): h1 is not ready; h2 has 7782 MiB of memory free, 9216 MiB are requested; \
             h3 is cordoned",
        );
    }

    #[test]
    fn taken_ports_refuse() {
        let a = host("h1", true);
        let taken = Candidate {
            ports: BTreeSet::from([(Protocol::Tcp, 80)]),
            ..candidate(&a)
        };
        let spec =
            spec(serde_json::json!({"ports": [{"port": 80, "protocol": "tcp", "host_port": 80}]}));
        check(
            &spec,
            &[taken],
            None,
            "no host fits (1 considered): h1 has port 80/tcp in use",
        );
    }

    #[test]
    fn no_host_at_all_says_what_to_do() {
        check(
            &spec(serde_json::json!({})),
            &[],
            None,
            "there is no host: add one with `plimsoll host token` and `plimsoll agent`",
        );
    }
}
