//! From one division of a limit to the next: shrink first, wait for the host's word, then grow elsewhere.
//!
//! A pure state machine for one limit of one pool. What always holds: whatever of what a host was told it applies, and
//! whenever, the sum over all hosts never passes the limit. After the limit itself was lowered, nothing grows until the
//! hosts have said that they shrank.

use std::collections::BTreeMap;

use model::HostId;

/// A limit that is being divided among hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shift {
    limit: u64,
    hosts: BTreeMap<HostId, Slot>,
}

/// What one host was told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Slot {
    target: u64,
    /// What it has said that it applies.
    applied: u64,
    /// What it was told since, by generation; the newest last.
    told: BTreeMap<u64, u64>,
}

/// Told values of one host that wait for its word: more would say that it is not listening, and telling again is of no
/// use then.
const WAITING_MAX: usize = 16;

impl Slot {
    /// The most that may be in force there.
    fn most(&self) -> u64 {
        self.told.values().copied().fold(self.applied, u64::max)
    }

    fn newest(&self) -> u64 {
        self.told
            .values()
            .next_back()
            .copied()
            .unwrap_or(self.applied)
    }
}

impl Shift {
    /// Sets what is wanted: a limit and its parts, which should add up to no more.
    pub fn aim(&mut self, limit: u64, parts: &BTreeMap<HostId, u64>) {
        self.limit = limit;
        for slot in self.hosts.values_mut() {
            slot.target = 0;
        }
        for (host, part) in parts {
            self.hosts.entry(host.clone()).or_default().target = *part;
        }
    }

    /// What to tell now, as generation `generation` (higher than those before). Shrinking comes at once; growing only as
    /// far as room is certain.
    pub fn tell(&mut self, generation: u64) -> BTreeMap<HostId, u64> {
        let mut messages = BTreeMap::new();
        for (host, slot) in &mut self.hosts {
            if slot.newest() > slot.target {
                slot.told.insert(generation, slot.target);
                messages.insert(host.clone(), slot.target);
            }
        }
        let mut free = self.limit.saturating_sub(self.in_force());
        for (host, slot) in &mut self.hosts {
            let most = slot.most();
            let next = slot.target.min(most.saturating_add(free));
            if next > slot.newest() && slot.told.len() < WAITING_MAX {
                free -= next.saturating_sub(most);
                slot.told.insert(generation, next);
                messages.insert(host.clone(), next);
            }
        }
        messages
    }

    /// A host says that it applies what it was told with `generation`, or something newer.
    pub fn acknowledged(&mut self, host: &HostId, generation: u64) {
        let Some(slot) = self.hosts.get_mut(host) else {
            return;
        };
        let newer = slot.told.split_off(&(generation + 1));
        if let Some((_, value)) = slot.told.last_key_value() {
            slot.applied = *value;
        }
        slot.told = newer;
        if slot.told.is_empty() && slot.applied == 0 && slot.target == 0 {
            self.hosts.remove(host);
        }
    }

    /// Nothing runs on the host any more, for certain: its part is free.
    pub fn gone(&mut self, host: &HostId) {
        self.hosts.remove(host);
    }

    /// The most that may be in force on all hosts together.
    #[must_use]
    pub fn in_force(&self) -> u64 {
        self.hosts
            .values()
            .map(Slot::most)
            .fold(0, u64::saturating_add)
    }

    /// Whether every host has said that it applies its part.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.hosts
            .values()
            .all(|slot| slot.told.is_empty() && slot.applied == slot.target)
    }
}
