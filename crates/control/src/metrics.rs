//! Counters for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start of the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Workloads started.
    pub starts: u64,
    /// Placements that found no host.
    pub placements_refused: u64,
    /// Status reports taken in.
    pub reports: u64,
    /// Status reports of hosts on what is not placed on them, or of runs that nobody asked for.
    pub reports_ignored: u64,
    /// Streams opened to hosts.
    pub streams: u64,
    /// Requests denied by authorisation or authentication.
    pub denied: u64,
    /// Claims that found no room in a pool.
    pub admissions_refused: u64,
    /// Comparisons of the pools' ledger with what it should be.
    pub ledger_audits: u64,
    /// Differences found by them, and repaired.
    pub ledger_repairs: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) starts: AtomicU64,
    pub(crate) placements_refused: AtomicU64,
    pub(crate) reports: AtomicU64,
    pub(crate) reports_ignored: AtomicU64,
    pub(crate) streams: AtomicU64,
    pub(crate) denied: AtomicU64,
    pub(crate) admissions_refused: AtomicU64,
    pub(crate) ledger_audits: AtomicU64,
    pub(crate) ledger_repairs: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Metrics {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Metrics {
            starts: get(&self.starts),
            placements_refused: get(&self.placements_refused),
            reports: get(&self.reports),
            reports_ignored: get(&self.reports_ignored),
            streams: get(&self.streams),
            denied: get(&self.denied),
            admissions_refused: get(&self.admissions_refused),
            ledger_audits: get(&self.ledger_audits),
            ledger_repairs: get(&self.ledger_repairs),
        }
    }
}
