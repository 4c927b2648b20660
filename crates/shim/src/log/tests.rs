//! The log format: what is written is read, what is damaged is noticed.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::message::LogTarget;

fn target(dir: &Path, max_file_bytes: u64, max_files: u32) -> LogTarget {
    LogTarget {
        dir: dir.to_owned(),
        max_file_bytes,
        max_files,
    }
}

fn drain(reader: &mut LogReader) -> (Vec<u8>, u64) {
    let (mut bytes, mut gaps) = (Vec::new(), 0);
    while let Some(entry) = reader.next_entry().unwrap() {
        match entry {
            Entry::Record(record) => bytes.extend(record.bytes),
            Entry::Gap { bytes } => gaps += bytes,
        }
    }
    (bytes, gaps)
}

#[test]
fn what_was_written_is_read_over_rotation_and_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    let mut reader = LogReader::new(dir.path(), 0);
    let mut seen = Vec::new();
    for run in 0..3 {
        let mut writer = LogWriter::open(target(dir.path(), 300, 1000)).unwrap();
        for line in 0..50 {
            let text = format!("run {run} line {line}\n");
            writer.append(Stream::Stdout, 1, text.as_bytes());
            expected.extend(text.as_bytes());
            if line % 7 == 0 {
                seen.extend(drain(&mut reader).0);
            }
        }
        seen.extend(drain(&mut reader).0);
        assert_eq!(writer.end(), reader.offset());
    }
    assert_eq!(seen, expected);
    assert_eq!(drain(&mut LogReader::new(dir.path(), 0)), (expected, 0));
}

#[test]
fn the_log_is_bounded_and_an_overtaken_reader_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(target(dir.path(), 1000, 3)).unwrap();
    writer.append(Stream::Stdout, 1, b"first");
    let mut reader = LogReader::new(dir.path(), 0);
    assert_eq!(drain(&mut reader).0, b"first");
    for _ in 0..100 {
        writer.append(Stream::Stderr, 1, &[b'x'; 100]);
    }
    let kept: u64 = files(dir.path())
        .unwrap()
        .iter()
        .map(|(_, path)| fs::metadata(path).unwrap().len())
        .sum();
    assert!(kept < 3 * 1200, "{kept}");
    let (bytes, gaps) = drain(&mut reader);
    assert!(gaps > 0);
    assert_eq!(bytes.len() % 100, 0);
    assert_eq!(reader.offset(), writer.end());
}

/// A small disk, taken away when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        nix::mount::mount(
            Some("none"),
            dir.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(format!("size={size}").as_str()),
        )
        .unwrap();
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_costs_output_and_the_log_says_how_much() {
    let disk = SmallDisk::new("256k");
    let dir = disk.0.path().join("log");
    let mut writer = LogWriter::open(target(&dir, 1 << 20, 3)).unwrap();
    let filler = disk.0.path().join("filler");
    fs::write(&filler, vec![0; 100 << 10]).unwrap();
    for _ in 0..500 {
        writer.append(Stream::Stdout, 1, &[b'x'; 1000]);
    }
    fs::remove_file(&filler).unwrap();
    writer.append(Stream::Stdout, 2, b"after");
    writer.append(Stream::Stdout, 3, b" it");
    let (bytes, gaps) = drain(&mut LogReader::new(&dir, 0));
    assert_eq!(gaps, 0);
    let text = String::from_utf8(bytes).unwrap();
    let (kept, rest) = text.split_once("plimsoll: ").unwrap();
    let (lost, rest) = rest.split_once(" bytes of output are lost here").unwrap();
    assert!(kept.len() > 50_000 && kept.bytes().all(|b| b == b'x'));
    assert_eq!(kept.len() + lost.parse::<usize>().unwrap(), 500_000);
    assert!(rest.ends_with("\nafter it"), "{rest}");
}

#[test]
fn a_tail_torn_at_any_byte_costs_one_record_and_appending_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(target(dir.path(), 100_000, 10)).unwrap();
    writer.append(Stream::Stdout, 1, b"whole");
    let whole = writer.end();
    writer.append(Stream::Stdout, 1, b"torn away");
    let (_, path) = files(dir.path()).unwrap().pop().unwrap();
    let content = fs::read(&path).unwrap();
    for cut in usize::try_from(whole).unwrap() + 1..content.len() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("log.0"), &content[..cut]).unwrap();
        let mut reader = LogReader::new(dir.path(), 0);
        assert_eq!(drain(&mut reader).0, b"whole");
        let mut writer = LogWriter::open(target(dir.path(), 100_000, 10)).unwrap();
        writer.append(Stream::Stdout, 1, b" after");
        let (bytes, gap) = drain(&mut reader);
        assert_eq!(
            (bytes.as_slice(), gap),
            (b" after".as_slice(), cut as u64 - whole)
        );
    }
}

proptest! {
    #[test]
    fn damage_costs_only_what_it_hits(at in 0usize..2000, value in any::<u8>()) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(target(dir.path(), 100_000, 10)).unwrap();
        let records: Vec<Vec<u8>> = (0..20u8).map(|n| vec![n; 76]).collect();
        for record in &records {
            writer.append(Stream::Stdout, 1, record);
        }
        let (_, path) = files(dir.path()).unwrap().pop().unwrap();
        let mut content = fs::read(&path).unwrap();
        content[at] ^= value;
        fs::write(&path, content).unwrap();
        let (bytes, _) = drain(&mut LogReader::new(dir.path(), 0));
        let expected: Vec<u8> = records
            .iter()
            .enumerate()
            .filter(|(n, _)| value == 0 || *n != at / 100)
            .flat_map(|(_, record)| record.clone())
            .collect();
        prop_assert_eq!(bytes, expected);
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("log.0"), bytes).unwrap();
        drain(&mut LogReader::new(dir.path(), 0));
    }
}
