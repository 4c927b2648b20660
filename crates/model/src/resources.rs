//! Amounts of CPU and memory.

use serde::{Deserialize, Serialize};

/// CPU in thousandths of a core.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct CpuMillis(pub u64);

/// Memory in bytes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct MemoryBytes(pub u64);

/// An amount of every resource a host has or a workload asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capacity {
    /// Thousandths of a core.
    pub cpu: CpuMillis,
    /// Bytes of memory.
    pub memory: MemoryBytes,
}

impl Capacity {
    /// Component-wise sum, saturating.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu: CpuMillis(self.cpu.0.saturating_add(other.cpu.0)),
            memory: MemoryBytes(self.memory.0.saturating_add(other.memory.0)),
        }
    }

    /// Component-wise difference, not below zero.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            cpu: CpuMillis(self.cpu.0.saturating_sub(other.cpu.0)),
            memory: MemoryBytes(self.memory.0.saturating_sub(other.memory.0)),
        }
    }

    /// Whether `wanted` fits into this amount in every component.
    #[must_use]
    pub fn fits(self, wanted: Self) -> bool {
        wanted.cpu <= self.cpu && wanted.memory <= self.memory
    }
}

/// Share of a host kept outside all pools: the larger of 5 % and 256 MiB of memory, and 5 % of CPU.
#[must_use]
pub fn host_reserve(total: Capacity) -> Capacity {
    const MIN_RESERVE_BYTES: u64 = 256 << 20;
    Capacity {
        cpu: CpuMillis(total.cpu.0 / 20),
        memory: MemoryBytes((total.memory.0 / 20).max(MIN_RESERVE_BYTES)),
    }
}
