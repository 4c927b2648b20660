//! Friendly names for workloads that were given none.

const ADJECTIVES: [&str; 32] = [
    "amber", "bold", "brave", "brisk", "calm", "clear", "deft", "eager", "fair", "fleet", "gentle",
    "glad", "grand", "hardy", "jolly", "keen", "kind", "lively", "lucid", "merry", "mild", "neat",
    "noble", "plain", "proud", "quick", "quiet", "sound", "steady", "swift", "trim", "warm",
];

const SHIPS: [&str; 32] = [
    "barge", "bark", "barque", "brig", "caravel", "carrack", "catboat", "clipper", "coaster",
    "cog", "corvette", "cutter", "dhow", "dinghy", "dory", "ferry", "frigate", "galleon", "galley",
    "junk", "kayak", "ketch", "launch", "lugger", "packet", "pinnace", "schooner", "skiff",
    "sloop", "trawler", "xebec", "yawl",
];

/// A name from random bytes, such as `swift-ketch-4f2a`.
pub(crate) fn friendly(random: &[u8; 32]) -> String {
    let adjective = ADJECTIVES[usize::from(random[0]) % ADJECTIVES.len()];
    let ship = SHIPS[usize::from(random[1]) % SHIPS.len()];
    format!("{adjective}-{ship}-{:02x}{:02x}", random[2], random[3])
}
