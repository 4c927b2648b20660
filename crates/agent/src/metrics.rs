//! Counters of an agent. They only grow; gauges are computed by whoever reads them.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What an agent counts.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Sessions that reached the server's welcome.
    pub sessions: Counter,
    /// Dials and sessions that failed.
    pub session_failures: Counter,
    /// Documents taken into the ledger.
    pub documents: Counter,
    /// Documents refused.
    pub documents_refused: Counter,
    /// Steps done.
    pub steps: Counter,
    /// Steps that failed.
    pub step_failures: Counter,
    /// Attempts started.
    pub starts: Counter,
    /// Status reports sent.
    pub reports: Counter,
    /// Streams served.
    pub streams: Counter,
    /// Ledger writes that failed.
    pub ledger_failures: Counter,
}

impl Metrics {
    /// Names and values, for exposition.
    #[must_use]
    pub fn values(&self) -> [(&'static str, u64); 10] {
        [
            ("plimsoll_agent_sessions_total", self.sessions.get()),
            (
                "plimsoll_agent_session_failures_total",
                self.session_failures.get(),
            ),
            ("plimsoll_agent_documents_total", self.documents.get()),
            (
                "plimsoll_agent_documents_refused_total",
                self.documents_refused.get(),
            ),
            ("plimsoll_agent_steps_total", self.steps.get()),
            (
                "plimsoll_agent_step_failures_total",
                self.step_failures.get(),
            ),
            ("plimsoll_agent_starts_total", self.starts.get()),
            ("plimsoll_agent_reports_total", self.reports.get()),
            ("plimsoll_agent_streams_total", self.streams.get()),
            (
                "plimsoll_agent_ledger_failures_total",
                self.ledger_failures.get(),
            ),
        ]
    }
}
