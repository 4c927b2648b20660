//! Device rules on cgroup v2: a small BPF program per cgroup, because v2 has no device files.
//!
//! Start with [`attach`]. Always holds: what no rule allows is refused; the program stays with the cgroup.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::devices::Rule;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;

/// One instruction as the kernel lays it out.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high half.
    registers: u8,
    offset: i16,
    value: i32,
}

const LOAD_WORD: u8 = 0x61;
const MOVE_WORD: u8 = 0xbc;
const MOVE_VALUE: u8 = 0xb7;
const AND_WORD: u8 = 0x54;
const SHIFT_RIGHT_WORD: u8 = 0x74;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    Instruction {
        code,
        registers: to | (from << 4),
        offset,
        value,
    }
}

/// The program: answers 1 for what a rule allows, else 0.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    // The context holds type and access in one word, then major and minor number.
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_WORD, 3, 2, 0, 0),
        instruction(AND_WORD, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT_WORD, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let kind = if rule.kind == 'b' { 1 } else { 2 };
        let access = rule.access.chars().fold(0, |bits, c| {
            bits | match c {
                'm' => 1,
                'r' => 2,
                'w' => 4,
                _ => 0,
            }
        });
        // Each test jumps to the next rule if it fails; the distances are set when the length is known.
        let mut tests = vec![
            instruction(JUMP_NOT_EQUAL, 2, 0, 0, kind),
            instruction(MOVE_WORD, 1, 3, 0, 0),
            instruction(AND_WORD, 1, 0, 0, !access),
            instruction(JUMP_NOT_EQUAL, 1, 0, 0, 0),
        ];
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            if let Some(number) = number.and_then(|number| i32::try_from(number).ok()) {
                tests.push(instruction(JUMP_NOT_EQUAL, register, 0, 0, number));
            }
        }
        tests.push(instruction(MOVE_VALUE, 0, 0, 0, 1));
        tests.push(instruction(EXIT, 0, 0, 0, 0));
        let len = tests.len();
        for (at, test) in tests.iter_mut().enumerate() {
            if test.code == JUMP_NOT_EQUAL {
                test.offset = i16::try_from(len - at - 1).unwrap_or(i16::MAX);
            }
        }
        code.extend(tests);
    }
    code.push(instruction(MOVE_VALUE, 0, 0, 0, 0));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

/// Beginning of the kernel's `union bpf_attr`; the rest is zero.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    kind: u32,
    count: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    rest: [u64; 12],
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    cgroup: u32,
    program: u32,
    kind: u32,
    flags: u32,
    rest: [u64; 14],
}

fn check(result: libc::c_long) -> io::Result<i32> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

/// Attaches the rules to a cgroup, in place of what was attached before.
///
/// # Errors
/// When the kernel refuses the program.
#[expect(unsafe_code, reason = "bpf(2) has no safe wrapper")]
pub(super) fn attach(dir: &Path, rules: &[Rule]) -> io::Result<()> {
    let code = program(rules);
    let license = c"Apache-2.0";
    let load = LoadAttr {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(code.len()).map_err(io::Error::other)?,
        code: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..LoadAttr::default()
    };
    // SAFETY: `load` and the program and text it points to live through the call; the kernel only reads them.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const load,
            size_of::<LoadAttr>(),
        )
    })?;
    // SAFETY: the kernel has just handed this descriptor to us alone.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    let cgroup = File::open(dir)?;
    let attach = AttachAttr {
        cgroup: cgroup.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        kind: ATTACH_CGROUP_DEVICE,
        ..AttachAttr::default()
    };
    // SAFETY: `attach` lives through the call; the kernel only reads it.
    check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            &raw const attach,
            size_of::<AttachAttr>(),
        )
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::devices;

    #[test]
    fn the_kernel_enforces_the_rules() {
        let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let point = table
            .lines()
            .find(|line| line.split(' ').nth(2) == Some("cgroup2"))
            .and_then(|line| line.split(' ').nth(1))
            .expect("no cgroup v2 hierarchy is mounted");
        let dir = Path::new(point).join(format!("plimsoll-bpf-test-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let nodes = tempfile::tempdir().unwrap();
        let node = nodes.path().join("kmsg");
        let number = nix::sys::stat::makedev(1, 11);
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
        nix::sys::stat::mknod(&node, nix::sys::stat::SFlag::S_IFCHR, mode, number).unwrap();
        // Twice: the second replaces the first.
        attach(&dir, &[]).unwrap();
        attach(&dir, &devices::rules(&[])).unwrap();
        let script = format!(
            "echo $$ > {dir}/cgroup.procs; head -c 1 /dev/zero > /dev/null || exit 1; head -c 1 /dev/urandom > /dev/null || exit 2; \
             (exec 3< {node}) 2> /dev/null && exit 3; mknod {node}2 b 254 0 || exit 4; (exec 3< {node}2) 2> /dev/null && exit 5; exit 0",
            dir = dir.display(),
            node = node.display()
        );
        assert!(File::open(&node).is_ok(), "readable outside");
        let status = std::process::Command::new("/bin/sh")
            .args(["-c", &script])
            .status()
            .unwrap();
        std::fs::remove_dir(&dir).unwrap();
        assert_eq!(status.code(), Some(0));
    }

    #[test]
    fn jumps_lead_to_the_next_rule() {
        let rule = Rule {
            kind: 'c',
            major: Some(1),
            minor: None,
            access: "rw".to_owned(),
        };
        let code = program(&[rule]);
        for (at, step) in code
            .iter()
            .enumerate()
            .filter(|(_, step)| step.code == JUMP_NOT_EQUAL)
        {
            let target = at + 1 + usize::try_from(step.offset).unwrap();
            assert_eq!(code[target], instruction(MOVE_VALUE, 0, 0, 0, 0));
        }
    }
}
