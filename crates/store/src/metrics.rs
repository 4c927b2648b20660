//! Counters for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the latency buckets, in microseconds: from a fast NVMe disk to one that is about to fail.
pub(crate) const LATENCY_BOUNDS_US: [u64; 10] = [
    100, 250, 500, 1_000, 2_500, 10_000, 50_000, 250_000, 1_000_000, 5_000_000,
];

/// Counters of a store since it was opened.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    /// Transactions committed.
    pub commits: u64,
    /// Transactions refused because an expectation did not hold or a name was taken.
    pub conflicts: u64,
    /// Transactions refused for lack of room.
    pub refused_full: u64,
    /// Transactions that failed otherwise.
    pub failures: u64,
    /// Group commits (one sync each). `commits / batches` is the mean batch size.
    pub batches: u64,
    /// Transactions in the largest group commit.
    pub largest_batch: u64,
    /// Size of the write-ahead log in bytes; 0 where there is none.
    pub wal_bytes: u64,
    /// Checkpoints of the write-ahead log.
    pub checkpoints: u64,
    /// Times the state was read anew after the connection to the backend was lost for too long.
    pub resyncs: u64,
    /// 1 while only changes that create nothing are accepted, because the disk is full.
    pub full: u64,
    /// How long the durable part of a group commit took.
    pub commit_latency: Histogram,
}

/// A cumulative histogram as Prometheus wants it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// Upper bound in seconds, and how many observations were at most that.
    pub buckets: Vec<(f64, u64)>,
    /// Sum of all observations in seconds.
    pub sum_seconds: f64,
    /// Number of observations.
    pub count: u64,
}

/// The counters as backends increment them.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) conflicts: AtomicU64,
    pub(crate) refused_full: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) largest_batch: AtomicU64,
    pub(crate) wal_bytes: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) resyncs: AtomicU64,
    pub(crate) full: AtomicU64,
    latency: [AtomicU64; LATENCY_BOUNDS_US.len()],
    latency_sum_us: AtomicU64,
    latency_count: AtomicU64,
}

impl Counters {
    /// Counts a group commit of `size` transactions that took `took` to become durable.
    pub(crate) fn batch(&self, size: u64, took: Duration) {
        self.commits.fetch_add(size, Relaxed);
        self.batches.fetch_add(1, Relaxed);
        self.largest_batch.fetch_max(size, Relaxed);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(at) = LATENCY_BOUNDS_US.iter().position(|bound| us <= *bound) {
            self.latency[at].fetch_add(1, Relaxed);
        }
        self.latency_sum_us.fetch_add(us, Relaxed);
        self.latency_count.fetch_add(1, Relaxed);
    }

    /// Counts a refused transaction by its reason.
    pub(crate) fn refused(&self, error: &crate::CommitError) {
        use crate::CommitError as E;
        let counter = match error {
            E::Conflict { .. } | E::NameTaken { .. } => &self.conflicts,
            E::Full { .. } => &self.refused_full,
            E::Closed
            | E::Backend { .. }
            | E::TooLarge { .. }
            | E::Duplicate { .. }
            | E::Encode { .. } => &self.failures,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(crate) fn read(&self) -> Metrics {
        let mut sum = 0;
        let buckets = LATENCY_BOUNDS_US
            .iter()
            .zip(&self.latency)
            .map(|(bound, count)| {
                sum += count.load(Relaxed);
                (Duration::from_micros(*bound).as_secs_f64(), sum)
            })
            .collect();
        Metrics {
            commits: self.commits.load(Relaxed),
            conflicts: self.conflicts.load(Relaxed),
            refused_full: self.refused_full.load(Relaxed),
            failures: self.failures.load(Relaxed),
            batches: self.batches.load(Relaxed),
            largest_batch: self.largest_batch.load(Relaxed),
            wal_bytes: self.wal_bytes.load(Relaxed),
            checkpoints: self.checkpoints.load(Relaxed),
            resyncs: self.resyncs.load(Relaxed),
            full: self.full.load(Relaxed),
            commit_latency: Histogram {
                buckets,
                sum_seconds: Duration::from_micros(self.latency_sum_us.load(Relaxed)).as_secs_f64(),
                count: self.latency_count.load(Relaxed),
            },
        }
    }
}
