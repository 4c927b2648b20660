//! Damage of every kind.

use std::sync::Arc;

use model::{DesiredState, HostWorkload};
use tempfile::TempDir;

use super::*;

fn id(n: u8) -> WorkloadId {
    WorkloadId::from_bytes(&[n; 32])
}

fn workload(n: u8, run: u64) -> HostWorkload {
    let pool = model::PoolId::from_bytes(&[1; 32]);
    let image = format!("sha256:{}", "a".repeat(64));
    serde_json::from_value(serde_json::json!({
        "id": id(n), "pool": pool, "pool_name": "team", "name": format!("w{n}"),
        "spec": { "task": { "image": "web", "image_id": image } },
        "image": {
            "id": image, "pool": pool, "added_at": 0,
            "content": { "config": image, "config_bytes": 10, "layers": [] },
            "config": { "platform": { "architecture": "amd64", "os": "linux" } },
        },
        "desired": DesiredState::Running, "run": run,
    }))
    .unwrap()
}

fn update(
    base: Option<u64>,
    generation: u64,
    upsert: &[(u8, u64)],
    remove: &[u8],
) -> DesiredUpdate {
    DesiredUpdate {
        base,
        generation,
        upsert: upsert
            .iter()
            .map(|(n, run)| (id(*n), Arc::new(workload(*n, *run))))
            .collect(),
        remove: remove.iter().map(|n| id(*n)).collect(),
        ..DesiredUpdate::default()
    }
}

fn batch(update: DesiredUpdate, memory: Option<(u8, u32)>) -> Batch {
    Batch {
        desired: vec![update],
        memories: memory
            .map(|(n, attempt)| {
                let mut memory = Memory::default();
                (memory.run, memory.attempt) = (1, attempt);
                (id(n), Some(memory))
            })
            .into_iter()
            .collect(),
    }
}

fn filled() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(folder.path(), false).unwrap();
    ledger
        .write(&batch(update(None, 1, &[(1, 1)], &[]), Some((1, 1))))
        .unwrap();
    ledger
        .write(&batch(update(Some(1), 2, &[(2, 1)], &[1]), Some((2, 5))))
        .unwrap();
    folder
}

fn recover(folder: &TempDir) -> Recovered {
    Ledger::open(folder.path(), false).unwrap().1
}

#[test]
fn it_reads_back_what_was_written() {
    let folder = filled();
    let recovered = recover(&folder);
    assert_eq!(recovered.desired.generation, 2);
    assert_eq!(
        recovered.desired.workloads.keys().collect::<Vec<_>>(),
        [&id(2)]
    );
    assert_eq!(recovered.memories[&id(2)].attempt, 5);
    assert_eq!(recovered.memories.len(), 2);
    assert!(recovered.quarantined.is_empty());
}

#[test]
fn a_last_record_cut_at_any_byte_is_dropped_and_writing_goes_on() {
    let whole = std::fs::read(filled().path().join("desired.log")).unwrap();
    let first = {
        let folder = tempfile::tempdir().unwrap();
        let (mut ledger, _) = Ledger::open(folder.path(), false).unwrap();
        ledger
            .write(&batch(update(None, 1, &[(1, 1)], &[]), None))
            .unwrap();
        std::fs::read(folder.path().join("desired.log"))
            .unwrap()
            .len()
    };
    for zeros in [0, 4096] {
        for cut in first..whole.len() {
            let mut bytes = whole[..cut].to_vec();
            bytes.resize(cut + zeros, 0);
            let mut generations = Vec::new();
            let length = file::replay(&bytes, &mut |record: Option<DesiredUpdate>| {
                generations.extend(record.map(|r| r.generation));
                true
            });
            assert_eq!((length, &generations[..]), (Some(first), &[1][..]), "{cut}");
            // Files cost more: a sample of them.
            if cut % 97 == 0 {
                let folder = filled();
                std::fs::write(folder.path().join("desired.log"), bytes).unwrap();
                let (mut ledger, recovered) = Ledger::open(folder.path(), false).unwrap();
                assert_eq!(recovered.desired.generation, 1, "{cut}");
                assert!(recovered.quarantined.is_empty(), "{cut}");
                ledger
                    .write(&batch(update(None, 3, &[(3, 1)], &[]), None))
                    .unwrap();
                drop(ledger);
                assert_eq!(recover(&folder).desired.generation, 3, "{cut}");
            }
        }
    }
}

#[test]
fn a_damaged_file_is_put_aside_and_the_other_is_kept() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("empty", Vec::clear),
        ("garbage", |b| *b = b"what is this".to_vec()),
        ("a flipped bit early on", |b| b[30] ^= 1),
        ("a huge length", |b| {
            b[8..12].copy_from_slice(&u32::MAX.to_be_bytes())
        }),
    ];
    for (name, damage) in damages {
        let folder = filled();
        let path = folder.path().join("desired.log");
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let (mut ledger, recovered) = Ledger::open(folder.path(), false).unwrap();
        assert_eq!(recovered.desired.generation, 0, "{name}");
        assert!(recovered.desired.workloads.is_empty(), "{name}");
        assert_eq!(recovered.quarantined.len(), 1, "{name}");
        assert_eq!(
            std::fs::read(&recovered.quarantined[0]).unwrap(),
            bytes,
            "{name}"
        );
        assert_eq!(recovered.memories.len(), 2, "{name}");
        ledger
            .write(&batch(update(None, 9, &[(1, 1)], &[]), None))
            .unwrap();
        drop(ledger);
        assert_eq!(recover(&folder).desired.generation, 9, "{name}");
    }
}

#[test]
fn two_agents_cannot_share_it() {
    let folder = filled();
    let first = Ledger::open(folder.path(), false).unwrap();
    let second = Ledger::open(folder.path(), false);
    assert!(matches!(second, Err(LedgerError::InUse(_))));
    drop(first);
    assert_eq!(recover(&folder).desired.generation, 2);
}

#[test]
fn it_does_not_grow_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(folder.path(), false).unwrap();
    for generation in 1..2000 {
        let base = (generation > 1).then(|| generation - 1);
        let attempt = u32::try_from(generation).unwrap();
        ledger
            .write(&batch(
                update(base, generation, &[(1, generation)], &[]),
                Some((1, attempt)),
            ))
            .unwrap();
    }
    for name in ["desired.log", "memory.log"] {
        let size = std::fs::metadata(folder.path().join(name)).unwrap().len();
        assert!(size < 300 << 10, "{name}: {size}");
    }
    drop(ledger);
    let recovered = recover(&folder);
    assert_eq!(recovered.desired.generation, 1999);
    assert_eq!(recovered.memories[&id(1)].attempt, 1999);
}

#[test]
fn what_could_not_be_written_is_written_with_the_next_batch() {
    let folder = tempfile::tempdir().unwrap();
    let (mut ledger, _) = Ledger::open(folder.path(), false).unwrap();
    ledger
        .write(&batch(update(None, 1, &[(1, 1)], &[]), None))
        .unwrap();
    let read_only = std::fs::File::open(folder.path().join("desired.log")).unwrap();
    ledger.desired.break_with(read_only);
    assert!(
        ledger
            .write(&batch(update(Some(1), 2, &[(2, 1)], &[]), Some((1, 4))))
            .is_err()
    );
    ledger.write(&Batch::default()).unwrap();
    drop(ledger);
    let recovered = recover(&folder);
    assert_eq!(recovered.desired.generation, 2);
    assert_eq!(recovered.memories[&id(1)].attempt, 4);
}

#[test]
fn documents_are_taken_by_their_generation() {
    let mut document = HostDesired::default();
    let first = update(None, 5, &[(1, 1)], &[]);
    assert_eq!(take(&mut document, &first), Ok(Taken::New));
    assert_eq!(take(&mut document, &first), Ok(Taken::Already));
    let cases = [
        (update(None, 0, &[], &[]), DocumentError::Zero),
        (
            update(None, 4, &[(1, 1)], &[]),
            DocumentError::Older {
                offered: 4,
                current: 5,
            },
        ),
        (update(None, 5, &[(1, 2)], &[]), DocumentError::Differs(5)),
        (
            update(None, 5, &[(1, 1), (2, 1)], &[]),
            DocumentError::Differs(5),
        ),
        (update(Some(4), 5, &[], &[1]), DocumentError::Differs(5)),
        (
            update(Some(6), 7, &[], &[]),
            DocumentError::WrongBase {
                base: 6,
                current: 5,
            },
        ),
    ];
    for (update, error) in cases {
        let before = document.clone();
        assert_eq!(take(&mut document, &update), Err(error));
        assert_eq!(document, before);
    }
    assert_eq!(
        take(&mut document, &update(Some(4), 5, &[(1, 1)], &[])),
        Ok(Taken::Already)
    );
    assert_eq!(
        take(&mut document, &update(Some(5), 6, &[(2, 1)], &[1])),
        Ok(Taken::New)
    );
    assert_eq!(document.workloads.keys().collect::<Vec<_>>(), [&id(2)]);
}
