//! Runs in a container: makes system calls that a container must not be able to make, and tells how each ended, as
//! lines `NAME ERRNO` (0: it was let through).
//!
//! Arguments are harmless where a call could do harm, so that a hole in the confinement costs the machine nothing.

#![expect(
    unsafe_code,
    reason = "the calls have no safe wrappers, and that is the point"
)]

/// A call by name and number, with arguments that cannot succeed in doing harm.
type Call = (&'static str, libc::c_long, [libc::c_long; 5]);

/// Flag of `clone` and `unshare`.
const NEWUSER: libc::c_long = libc::CLONE_NEWUSER as libc::c_long;

const CALLS: &[Call] = &[
    ("unshare-user", libc::SYS_unshare, [NEWUSER, 0, 0, 0, 0]),
    (
        "unshare-mount",
        libc::SYS_unshare,
        [libc::CLONE_NEWNS as libc::c_long, 0, 0, 0, 0],
    ),
    ("setns", libc::SYS_setns, [-1, 0, 0, 0, 0]),
    ("mount", libc::SYS_mount, [0, 0, 0, 0, 0]),
    ("umount2", libc::SYS_umount2, [0, 0, 0, 0, 0]),
    ("pivot_root", libc::SYS_pivot_root, [0, 0, 0, 0, 0]),
    ("open_tree", libc::SYS_open_tree, [-1, 0, 0, 0, 0]),
    ("move_mount", libc::SYS_move_mount, [-1, 0, -1, 0, 0]),
    ("fsopen", libc::SYS_fsopen, [0, 0, 0, 0, 0]),
    ("keyctl", libc::SYS_keyctl, [0, 0, 0, 0, 0]),
    ("add_key", libc::SYS_add_key, [0, 0, 0, 0, 0]),
    ("request_key", libc::SYS_request_key, [0, 0, 0, 0, 0]),
    ("bpf", libc::SYS_bpf, [-1, 0, 0, 0, 0]),
    (
        "perf_event_open",
        libc::SYS_perf_event_open,
        [0, 0, 0, -1, 0],
    ),
    ("userfaultfd", libc::SYS_userfaultfd, [0, 0, 0, 0, 0]),
    (
        "open_by_handle_at",
        libc::SYS_open_by_handle_at,
        [-1, 0, 0, 0, 0],
    ),
    ("kexec_load", libc::SYS_kexec_load, [0, 0, 0, 0, 0]),
    ("init_module", libc::SYS_init_module, [0, 0, 0, 0, 0]),
    ("finit_module", libc::SYS_finit_module, [-1, 0, 0, 0, 0]),
    ("delete_module", libc::SYS_delete_module, [0, 0, 0, 0, 0]),
    ("swapon", libc::SYS_swapon, [0, 0, 0, 0, 0]),
    ("acct", libc::SYS_acct, [1, 0, 0, 0, 0]),
    ("quotactl", libc::SYS_quotactl, [-1, 0, 0, 0, 0]),
    ("settimeofday", libc::SYS_settimeofday, [1, 0, 0, 0, 0]),
    ("clock_settime", libc::SYS_clock_settime, [0, 1, 0, 0, 0]),
    ("reboot", libc::SYS_reboot, [0, 0, 0, 0, 0]),
    ("syslog", libc::SYS_syslog, [10, 0, 0, 0, 0]),
    ("sethostname", libc::SYS_sethostname, [1, 1, 0, 0, 0]),
    ("vhangup", libc::SYS_vhangup, [0, 0, 0, 0, 0]),
    // Controls: what every program may do.
    ("control-getpid", libc::SYS_getpid, [0, 0, 0, 0, 0]),
    ("control-umask", libc::SYS_umask, [0o22, 0, 0, 0, 0]),
];

fn main() {
    for (name, number, [a, b, c, d, e]) in CALLS {
        // SAFETY: no pointer among the arguments is valid, so nothing of this process is written.
        let result = unsafe { libc::syscall(*number, *a, *b, *c, *d, *e) };
        let error = std::io::Error::last_os_error().raw_os_error();
        let error = if result < 0 { error.unwrap_or(-1) } else { 0 };
        println!("{name} {error}");
    }
}
