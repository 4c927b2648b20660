//! The last steps of a task's process before its program: cgroup view, system call filter, user,
//! capabilities, `execve`.
//!
//! libcontainer has made namespaces and root by then and still holds all privileges; it calls
//! [`Confine`] as its executor. These steps are taken here because a finished filter program can be
//! loaded (libcontainer compiles one per start), because libcontainer runs execs without any filter,
//! and because the reason of a failing `execve` must reach the caller.
//! Always holds: a failure before the program runs is written to the failure pipe, and nothing of
//! the task's program runs with more than it was given.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::errno::Errno;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use shim::capability::CAPABILITIES;
use shim::message::{Failure, FailureKind, WindowSize};

use super::identity::Identity;
use super::{init, mounts, seccomp, streams};

/// Capability sets as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CapabilitySets {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

/// Everything for the last steps.
#[derive(Debug, Clone)]
pub(crate) struct Confine {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) identity: Identity,
    pub(crate) umask: u32,
    pub(crate) capabilities: CapabilitySets,
    pub(crate) no_new_privileges: bool,
    pub(crate) filter: Option<Rc<Vec<u8>>>,
    pub(crate) cgroup_view: Option<Rc<OwnedFd>>,
    pub(crate) init: Option<init::Arguments>,
    /// First size of the terminal; set here so that the program never sees another.
    pub(crate) terminal: Option<WindowSize>,
    pub(crate) failures: Rc<OwnedFd>,
}

/// The bit of a capability's name.
pub(crate) fn capability_bit(name: &str) -> Option<u64> {
    CAPABILITIES
        .iter()
        .position(|known| *known == name)
        .map(|number| 1 << number)
}

impl Confine {
    fn fail(&self, failure: &Failure) -> String {
        if let Ok(text) = serde_json::to_vec(failure) {
            // If nobody listens any more, nobody wants to know.
            let _ = nix::unistd::write(self.failures.as_fd(), &text);
        }
        failure.reason.clone()
    }

    fn prepare(&self) -> Result<(), Failure> {
        if let Some(view) = &self.cgroup_view {
            mounts::attach_cgroup_view(view).map_err(|error| other("cgroup view", &error))?;
        }
        Ok(())
    }

    /// Never returns but with an error.
    fn become_program(&self) -> Result<Infallible, Failure> {
        if let Some(size) = self.terminal {
            streams::resize(&io::stdin(), size).map_err(|error| other("terminal size", &error))?;
        }
        let program = self.find_program()?;
        let args = strings(&self.args)?;
        let env = strings(&self.env)?;
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(self.umask));
        if self.no_new_privileges {
            nix::sys::prctl::set_no_new_privs()
                .map_err(|error| other("no-new-privileges", &error.into()))?;
        } else {
            // Without no-new-privileges, loading a filter needs a privilege that is dropped next.
            self.load_filter()?;
        }
        self.drop_privileges()
            .map_err(|error| other("drop privileges", &error))?;
        if self.no_new_privileges {
            self.load_filter()?;
        }
        if let Some(arguments) = self.init {
            init::stay_as_init(self.terminal.is_some(), arguments)
                .map_err(|error| other("start init", &error))?;
        }
        let error = match nix::unistd::execve(&program, &args, &env) {
            Err(error) => error,
            Ok(never) => match never {},
        };
        Err(self.exec_failure(error))
    }

    fn exec_failure(&self, error: Errno) -> Failure {
        let name = self.args.first().map_or("", String::as_str);
        let kind = match error {
            Errno::ENOENT | Errno::ENOTDIR => FailureKind::NotFound,
            Errno::EACCES | Errno::ENOEXEC | Errno::EPERM => FailureKind::NotExecutable,
            _ => FailureKind::Other,
        };
        Failure {
            kind,
            reason: format!("exec: \"{name}\": {}", describe(error)),
        }
    }

    fn load_filter(&self) -> Result<(), Failure> {
        match &self.filter {
            Some(filter) => {
                seccomp::load(filter).map_err(|error| other("load the seccomp filter", &error))
            }
            None => Ok(()),
        }
    }

    /// Looks the program up as execvp does, in the task's own PATH.
    fn find_program(&self) -> Result<CString, Failure> {
        let name = self
            .args
            .first()
            .filter(|name| !name.is_empty())
            .ok_or_else(|| Failure {
                kind: FailureKind::NotFound,
                reason: "no command specified".to_owned(),
            })?;
        let not_found = |what: &str| Failure {
            kind: FailureKind::NotFound,
            reason: format!("exec: \"{name}\": {what}"),
        };
        if name.contains('/') {
            return match std::fs::metadata(name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Err(not_found("stat: no such file or directory"))
                }
                // Whether it can be executed is decided by the kernel, as the task's user.
                _ => CString::new(name.as_bytes()).map_err(|error| other("program", &error.into())),
            };
        }
        let path = self
            .env
            .iter()
            .rev()
            .find_map(|pair| pair.strip_prefix("PATH="))
            .unwrap_or("/bin:/usr/bin");
        let mut denied = false;
        for dir in path.split(':').filter(|dir| dir.starts_with('/')) {
            let candidate = Path::new(dir).join(name);
            if let Ok(meta) = std::fs::metadata(&candidate) {
                use std::os::unix::fs::PermissionsExt;
                if meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
                    let bytes = candidate.as_os_str().as_bytes();
                    return CString::new(bytes).map_err(|error| other("program", &error.into()));
                }
                denied = true;
            }
        }
        if denied {
            return Err(Failure {
                kind: FailureKind::NotExecutable,
                reason: format!("exec: \"{name}\": permission denied"),
            });
        }
        Err(not_found("executable file not found in $PATH"))
    }

    #[expect(unsafe_code, reason = "capabilities have no safe wrapper here")]
    fn drop_privileges(&self) -> io::Result<()> {
        let sets = &self.capabilities;
        for number in 0..64 {
            if sets.bounding & (1 << number) == 0 {
                // SAFETY: no pointers are passed.
                if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } < 0 {
                    break; // Beyond the last capability of this kernel.
                }
            }
        }
        nix::sys::prctl::set_keepcaps(true)?;
        let groups: Vec<Gid> = self
            .identity
            .groups
            .iter()
            .map(|&gid| Gid::from_raw(gid))
            .collect();
        setgroups(&groups)?;
        let (uid, gid) = (
            Uid::from_raw(self.identity.uid),
            Gid::from_raw(self.identity.gid),
        );
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
        nix::sys::prctl::set_keepcaps(false)?;
        set_capabilities(sets)?;
        for number in 0..CAPABILITIES.len() as libc::c_ulong {
            if sets.ambient & (1 << number) != 0 {
                // SAFETY: no pointers are passed.
                let result = unsafe {
                    libc::prctl(
                        libc::PR_CAP_AMBIENT,
                        libc::PR_CAP_AMBIENT_RAISE,
                        number,
                        0,
                        0,
                    )
                };
                if result < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
        }
        Ok(())
    }
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

#[expect(unsafe_code, reason = "capabilities have no safe wrapper here")]
#[expect(
    clippy::cast_possible_truncation,
    reason = "each half is taken on purpose"
)]
fn set_capabilities(sets: &CapabilitySets) -> io::Result<()> {
    // _LINUX_CAPABILITY_VERSION_3: two halves of 32 bits.
    let header = CapHeader {
        version: 0x2008_0522,
        pid: 0,
    };
    let half = |shift: u32| CapData {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: header and both halves live through the call and are laid out as the kernel expects.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn other(what: &str, error: &io::Error) -> Failure {
    Failure {
        kind: FailureKind::Other,
        reason: format!("{what}: {error}"),
    }
}

fn strings(list: &[String]) -> Result<Vec<CString>, Failure> {
    list.iter()
        .map(|text| {
            CString::new(text.as_bytes())
                .map_err(|error| other("argument or variable", &error.into()))
        })
        .collect()
}

fn describe(error: Errno) -> String {
    error.desc().to_lowercase()
}

impl Executor for Confine {
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        self.prepare()
            .and_then(|()| self.find_program().map(drop))
            .map_err(|failure| ExecutorValidationError::ArgValidationError(self.fail(&failure)))
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The environment is given to `execve` as a whole, in its order.
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        match self.become_program() {
            Err(failure) => Err(ExecutorError::Other(self.fail(&failure))),
        }
    }
}
