//! Hosts that are lost, and what is started elsewhere because of it.
//!
//! Unreachable is not lost. A host is unreachable when no server has a link to it; it is lost when that has been so for
//! the installation's time ([`model::Installation::host_loss_seconds`]), counted from the last word that any server
//! heard of it. The conclusion is a commit that is compared with the host's record, and every workload is started
//! elsewhere in a commit that expects the host to be still recorded as lost. So a server that cannot reach its store
//! never concludes anything, and a host that comes back to any server in the meantime wins.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use model::{HostId, HostLoss, PoolId, Timestamp, Workload};
use plan::loss::Replaceable;
use store::Snapshot;
use tokio::time::Instant;

use crate::admission::installation;
use crate::caller::{Action, ancestors};
use crate::core::{Control, now};
use crate::displace::Away;
use crate::error::{ErrorKind, Result};
use crate::events::Subject;
use crate::workloads::priority_of;

/// Beyond the installation's time, hosts that this server has never seen with a link have so long to come back after it
/// was started: they dial again with pauses of some seconds, and a restart of a server must not move anything.
const START_GRACE: Duration = Duration::from_secs(20);

/// What this server knows of hosts without a link.
pub(crate) struct Losses {
    opened: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Hosts that had a link since this server was started.
    seen: BTreeSet<HostId>,
    silent: HashMap<HostId, Silent>,
    /// Hosts of which it was said that they have to wait for their replacement.
    limited: BTreeSet<HostId>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Silent {
    /// What the record said when it was looked at last: when its last link ended, and how long it had been silent.
    record: (Option<Timestamp>, u64),
    /// No server has heard of it since then, as far as this one can know.
    since: Instant,
}

impl Default for Losses {
    fn default() -> Self {
        Self {
            opened: Instant::now(),
            state: Mutex::default(),
        }
    }
}

/// What a pool, or the nearest pool above that says anything, says of lost hosts.
pub(crate) fn of_pool(snapshot: &Snapshot, pool: &PoolId) -> Option<HostLoss> {
    ancestors(snapshot, pool).find_map(|id| snapshot.pool(&id)?.slice.on_host_loss)
}

/// What becomes of a workload whose host is lost.
pub(crate) fn answer(snapshot: &Snapshot, workload: &Workload) -> HostLoss {
    plan::loss::answer(&workload.spec, of_pool(snapshot, &workload.pool))
}

/// Why a workload cannot be started on another host; `None`: it can.
pub(crate) fn obstacle(snapshot: &Snapshot, workload: &Workload) -> Option<String> {
    plan::loss::obstacle(&workload.spec, of_pool(snapshot, &workload.pool))
}

impl Losses {
    /// For how long no server has heard of each host that no server has a link to.
    fn silences(&self, snapshot: &Snapshot) -> HashMap<HostId, Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Instant::now();
        let mut silent = HashMap::new();
        let connected = snapshot.hosts().filter(|host| host.status.connected);
        state.seen.extend(connected.map(|host| host.id.clone()));
        state.seen.retain(|id| snapshot.host(id).is_some());
        for host in snapshot.hosts().filter(|host| !host.status.connected) {
            let record = (host.status.last_seen, host.status.silent_ms);
            let before = state.silent.get(&host.id).copied();
            // A server that records the end of a link says how long it had heard nothing then; the record was seen here
            // later than that, so that this is no earlier than the last word.
            let heard = at
                .checked_sub(Duration::from_millis(host.status.silent_ms))
                .unwrap_or(at);
            let since = match before {
                Some(before) if before.record == record => before.since,
                Some(before) => before.since.max(heard),
                None if !state.seen.contains(&host.id) => (self.opened + START_GRACE).max(heard),
                None => heard,
            };
            silent.insert(host.id.clone(), Silent { record, since });
        }
        state.silent = silent;
        let entries = state.silent.iter();
        entries
            .map(|(id, it)| (id.clone(), at.saturating_duration_since(it.since)))
            .collect()
    }
}

impl Control {
    /// Takes hosts as lost that have been silent for too long.
    pub(crate) async fn conclude_losses(&self) -> Result<()> {
        let snapshot = self.snapshot();
        let limit = Duration::from_secs(u64::from(installation(&snapshot).host_loss_seconds));
        let silences = self.inner.losses.silences(&snapshot);
        for (id, silence) in silences {
            let known = snapshot.host(&id);
            let lost = known.is_none_or(|host| host.status.lost_at.is_some());
            if silence < limit || lost {
                continue;
            }
            let at = now();
            let mut concluded = false;
            self.host_change(&id, |host| {
                concluded = !host.status.connected && host.status.lost_at.is_none();
                if concluded {
                    host.status.lost_at = Some(at);
                }
            })
            .await?;
            if concluded {
                tracing::warn!(host = %id, silent_s = silence.as_secs(), "host is lost");
            }
        }
        Ok(())
    }

    /// Starts elsewhere what was on lost hosts and may be.
    pub(crate) async fn replace_lost(&self) -> Result<()> {
        let snapshot = self.snapshot();
        let lost: BTreeMap<HostId, Timestamp> = snapshot
            .hosts()
            .filter_map(|host| Some((host.id.clone(), host.status.lost_at?)))
            .collect();
        if lost.is_empty() {
            self.say_limited(&snapshot, &Replaceable::default());
            return Ok(());
        }
        let turns = plan::loss::replaceable(snapshot.hosts().count(), &lost, now());
        self.say_limited(&snapshot, &turns);
        for host in &turns.now {
            let rows: Vec<_> = snapshot.workloads_on(host).map(|row| row.value()).collect();
            let mut movable: Vec<&Workload> = rows
                .into_iter()
                .filter(|it| self.inner.displacing.is_due(&snapshot, &it.id))
                .filter(|it| is_wanted(it) && obstacle(&snapshot, it).is_none())
                .collect();
            plan::loss::order(&mut movable, |it| priority_of(&snapshot, it));
            let name = snapshot.host(host).map(|it| it.name.to_string());
            let name = name.unwrap_or_default();
            for workload in movable {
                let why = format!("its host {name} was lost");
                let moved = self.relocate(&workload.id, host, Away::Lost, &why).await;
                match moved {
                    Ok(()) => {}
                    Err(error) if error.kind == ErrorKind::Exhausted => {
                        self.inner.displacing.failed(&snapshot, &workload.id);
                        tracing::warn!(workload = %workload.id, host = name, error = error.message, "cannot be started elsewhere");
                    }
                    Err(error)
                        if matches!(error.kind, ErrorKind::Conflict | ErrorKind::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Says once of every host that it has to wait for its turn.
    fn say_limited(&self, snapshot: &Snapshot, turns: &Replaceable) {
        let later: BTreeSet<HostId> = turns.later.keys().cloned().collect();
        let news: Vec<HostId> = {
            let losses = &self.inner.losses;
            let mut state = losses.state.lock().unwrap_or_else(PoisonError::into_inner);
            let news = later.difference(&state.limited).cloned().collect();
            state.limited = later;
            news
        };
        for id in news {
            let Some(host) = snapshot.host(&id) else {
                continue;
            };
            let seconds = turns
                .later
                .get(&id)
                .map_or(0, |turn| (turn.millis() - now().millis()).max(0) / 1000);
            tracing::warn!(host = %host.name, seconds, "many hosts are lost at once: its workloads are started elsewhere later");
            let attributes = BTreeMap::from([
                ("name".to_owned(), host.name.to_string()),
                ("in_seconds".to_owned(), seconds.to_string()),
                (
                    "reason".to_owned(),
                    "many hosts were lost at once: they are replaced a part at a time".to_owned(),
                ),
            ]);
            let log = &self.inner.events;
            log.push(
                None,
                Subject::Host,
                "replacement-limited",
                id.as_str(),
                attributes,
            );
        }
    }

    /// The grant under which the installation itself moves workloads.
    pub(crate) fn displacing_grant(&self) -> Result<crate::caller::Grant> {
        self.own_grant(Action::WorkloadControl)
    }
}

/// Whether it is to run, by what is wanted of it.
fn is_wanted(workload: &Workload) -> bool {
    let wanted = matches!(
        workload.desired,
        model::DesiredState::Running | model::DesiredState::Paused
    );
    wanted && (workload.hold.is_some() || workload.takes_room())
}
