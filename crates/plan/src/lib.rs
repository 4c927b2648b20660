//! Every decision, cluster-wide and host-local.
//!
//! Pure: functions from values (snapshot, now, seed) to values (changes, report of why). No I/O, no clock, no
//! randomness of its own, no async.
//!
//! Start at [`place`] for where a workload goes, [`admit`] for whether it may exist, [`pools`] for whether its pool has
//! room for it, [`entitle`] for what pools may use at this moment, [`loss`] for what becomes of it when its host is lost, [`displace`] for who has to make room, [`network`] for its
//! address, [`copies`] for the hosts that keep its image, [`lower`] for what its host is told, [`steps`] for what
//! a host does next.

pub mod admit;
pub mod copies;
pub mod displace;
pub mod entitle;
pub mod loss;
pub mod lower;
pub mod network;
pub mod place;
pub mod pools;
pub mod steps;
