//! A start as a whole: room in its pools, a host, or who makes room for it.

use model::HostId;

use super::Lodger;
use super::room::{Asked, Room, make_room};
use crate::place::{Cluster, Placement, place};
use crate::pools::Ledger;

/// What a start comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Begin {
    /// A host has room.
    Fits(Placement),
    /// Borrowers have to go first.
    Clears(Room),
    /// It does not start, for this reason.
    Refused(String),
}

/// Decides what a start comes to: what its pools ran out of is said first, then what every host lacks.
#[must_use]
pub fn begin<'a>(
    cluster: &Cluster,
    ledger: &Ledger,
    asked: Asked<'_>,
    lodgers: impl Fn(&HostId) -> Vec<Lodger<'a>>,
) -> Begin {
    let claim = asked.claim;
    let admitted = ledger.admit(&claim.pool, asked.before, claim.charge);
    if let Err(refusal) = &admitted
        && refusal.exhausted.is_some()
    {
        return Begin::Refused(refusal.to_string());
    }
    let placement = place(cluster, asked.wanted);
    match (placement.host.is_some(), admitted) {
        (true, Ok(_)) => Begin::Fits(placement),
        (fits, admitted) => match make_room(cluster, ledger, asked, lodgers) {
            Some(room) => Begin::Clears(room),
            None if !fits => Begin::Refused(placement.sentence()),
            None => Begin::Refused(admitted.map_or_else(|it| it.to_string(), |_| String::new())),
        },
    }
}
