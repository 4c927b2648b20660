//! Seccomp filters: compiled once per profile, loaded as a finished program.
//!
//! libseccomp needs milliseconds to compile Docker's profile, which a start must not pay each time:
//! the driver calls `plimsoll-shim seccomp` once per profile and keeps the result.

use std::io::{self, Read, Seek, Write};

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator,
};

use super::RunError;

/// The kernel takes at most 4096 instructions of 8 bytes.
const MAX_PROGRAM: usize = 4096 * 8;
/// The default profile is 20 KB of JSON.
const MAX_PROFILE: u64 = 1024 * 1024;

/// Reads `linux.seccomp` of an OCI spec from standard input and writes the program to standard output.
pub(crate) fn compile_stdin() -> Result<(), RunError> {
    let mut text = Vec::new();
    io::stdin()
        .take(MAX_PROFILE)
        .read_to_end(&mut text)
        .map_err(|error| RunError::io("read the profile", error))?;
    let profile: LinuxSeccomp = serde_json::from_slice(&text)
        .map_err(|error| RunError::io("seccomp profile", io::Error::other(error)))?;
    let program = compile(&profile).map_err(|error| RunError::io("seccomp profile", error))?;
    io::stdout()
        .write_all(&program)
        .map_err(|error| RunError::io("write the program", error))
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> io::Result<ScmpAction> {
    let errno =
        i32::try_from(errno.unwrap_or(libc::EPERM.cast_unsigned())).map_err(io::Error::other)?;
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            ScmpAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActTrace => {
            ScmpAction::Trace(errno.try_into().map_err(io::Error::other)?)
        }
        LinuxSeccompAction::ScmpActNotify => {
            return Err(io::Error::other("SCMP_ACT_NOTIFY is not supported"));
        }
    })
}

fn arch(arch: Arch) -> io::Result<ScmpArch> {
    Ok(match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        other => {
            return Err(io::Error::other(format!(
                "architecture {other:?} is not supported"
            )));
        }
    })
}

fn compare(arg: &LinuxSeccompArg) -> io::Result<ScmpArgCompare> {
    let value = arg.value();
    let (op, datum) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, value),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, value),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, value),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, value),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, value),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, value),
        // Here `value` is the mask and the second value what must remain.
        LinuxSeccompOperator::ScmpCmpMaskedEq => (
            ScmpCompareOp::MaskedEqual(value),
            arg.value_two().unwrap_or(0),
        ),
    };
    let index = u32::try_from(arg.index()).map_err(io::Error::other)?;
    Ok(ScmpArgCompare::new(index, op, datum))
}

fn compile(profile: &LinuxSeccomp) -> io::Result<Vec<u8>> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut filter = ScmpFilterContext::new(default).map_err(io::Error::other)?;
    for &wanted in profile.architectures().iter().flatten() {
        filter.add_arch(arch(wanted)?).map_err(io::Error::other)?;
    }
    let mut newest = 0;
    for rule in profile.syscalls().iter().flatten() {
        let wanted = action(rule.action(), rule.errno_ret())?;
        for name in rule.names() {
            // A name that this libseccomp does not know cannot be allowed; it falls under the default.
            let Ok(call) = ScmpSyscall::from_name(name) else {
                continue;
            };
            newest = newest.max(i32::from(call));
            if wanted == default {
                continue;
            }
            let args: Vec<_> = rule
                .args()
                .iter()
                .flatten()
                .map(compare)
                .collect::<io::Result<_>>()?;
            let mut indexes: Vec<_> = rule
                .args()
                .iter()
                .flatten()
                .map(LinuxSeccompArg::index)
                .collect();
            indexes.sort_unstable();
            let repeated = indexes.windows(2).any(|pair| pair[0] == pair[1]);
            let result = if args.is_empty() {
                filter.add_rule(wanted, call).map(drop)
            } else if repeated {
                // One argument can be compared once per rule; several comparisons are alternatives, as in runc.
                args.iter().try_for_each(|arg| {
                    filter
                        .add_rule_conditional(wanted, call, std::slice::from_ref(arg))
                        .map(drop)
                })
            } else {
                filter.add_rule_conditional(wanted, call, &args).map(drop)
            };
            result.map_err(io::Error::other)?;
        }
    }
    let mut out = tempfile()?;
    filter.export_bpf(&out).map_err(io::Error::other)?;
    out.rewind()?;
    let mut program = if matches!(default, ScmpAction::Errno(_)) {
        unknown_calls(newest)
    } else {
        Vec::new()
    };
    out.read_to_end(&mut program)?;
    if program.len() > MAX_PROGRAM {
        return Err(io::Error::other(
            "the filter is larger than the kernel takes",
        ));
    }
    Ok(program)
}

fn tempfile() -> io::Result<std::fs::File> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    Ok(memfd_create(c"seccomp", MFdFlags::MFD_CLOEXEC)?.into())
}

/// Calls newer than all that the profile knows answer ENOSYS instead of the profile's error, so that
/// programs fall back to older calls (a C library that sees EPERM gives up).
fn unknown_calls(newest: i32) -> Vec<u8> {
    let native = if cfg!(target_arch = "aarch64") {
        0xc000_00b7
    } else {
        0xc000_003e
    };
    let newest = newest.cast_unsigned();
    if newest == 0 {
        return Vec::new();
    }
    // struct sock_filter { u16 code; u8 jt; u8 jf; u32 k }
    let instructions: [(u16, u8, u8, u32); 5] = [
        (0x20, 0, 0, 4),                                          // load the architecture
        (0x15, 0, 3, native), // not ours: go on with the filter proper
        (0x20, 0, 0, 0),      // load the number
        (0x25, 0, 1, newest), // greater than the newest known
        (0x06, 0, 0, 0x0005_0000 | libc::ENOSYS.cast_unsigned()), // SECCOMP_RET_ERRNO
    ];
    let mut bytes = Vec::new();
    for (code, jt, jf, k) in instructions {
        bytes.extend_from_slice(&code.to_ne_bytes());
        bytes.extend_from_slice(&[jt, jf]);
        bytes.extend_from_slice(&k.to_ne_bytes());
    }
    bytes
}

/// Loads a compiled program for the calling process and all it will start.
#[expect(unsafe_code, reason = "loading a filter has no safe wrapper")]
pub(crate) fn load(program: &[u8]) -> io::Result<()> {
    let instructions: Vec<libc::sock_filter> = program
        .as_chunks::<8>()
        .0
        .iter()
        .map(|b| libc::sock_filter {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        })
        .collect();
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len()).map_err(io::Error::other)?,
        filter: instructions.as_ptr().cast_mut(),
    };
    // SAFETY: `program` points to `len` instructions that live through the call; the kernel only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
