//! Failures as others may read them: paths of the task stay, paths of the host do not.
//!
//! Always holds: whatever a runtime writes into its errors, nothing of where the host keeps its tasks leaves the shim.

use std::path::{Path, PathBuf};

use shim::message::{Failure, Rootfs, Start, What};

/// What stands for a place on the host.
const PLACE: &str = "(host)";

/// Takes the host's paths out of a failed start's reason; paths in the task's root become what the task sees.
pub(crate) fn outward(failure: Failure, start: &Start, dir: &Path) -> Failure {
    Failure {
        kind: failure.kind,
        reason: clean(&failure.reason, &dir.join("rootfs"), &hidden(start, dir)),
    }
}

fn hidden(start: &Start, dir: &Path) -> Vec<PathBuf> {
    let mut hidden = vec![dir.to_owned(), start.log.dir.clone()];
    hidden.extend(start.seccomp_program.clone());
    match &start.what {
        What::Task {
            rootfs,
            spec,
            volumes,
            id: _,
        } => {
            hidden.push(spec.clone());
            hidden.extend(volumes.iter().map(|volume| volume.source.clone()));
            match rootfs {
                Rootfs::Overlay { lower, upper, work } => {
                    hidden.extend(lower.iter().chain([upper, work]).cloned());
                }
                Rootfs::Plain { path } => hidden.push(path.clone()),
            }
        }
        What::Exec {
            task_dir, process, ..
        } => hidden.extend([task_dir.clone(), process.clone()]),
    }
    hidden
}

fn clean(reason: &str, root: &Path, hidden: &[PathBuf]) -> String {
    let root = root.to_string_lossy();
    let mut text = reason
        .replace(&format!("{root}/"), "/")
        .replace(&*root, "/");
    let mut hidden: Vec<_> = hidden.iter().map(|path| path.to_string_lossy()).collect();
    // The longest first: one may lie in another.
    hidden.sort_by_key(|path| std::cmp::Reverse(path.len()));
    for path in hidden.iter().filter(|path| path.len() > 1) {
        text = text.replace(&**path, PLACE);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_host_are_hidden_and_those_of_the_task_shown() {
        let dir = Path::new("/data/tasks/x/1-0");
        let hidden = [
            dir.to_owned(),
            "/data/tasks/x/volumes/_2f".into(),
            "/data/tasks/x".into(),
        ];
        let clean = |text: &str| clean(text, &dir.join("rootfs"), &hidden);
        assert_eq!(
            clean("create: mkdir \"/data/tasks/x/1-0/rootfs/proc/a\": denied"),
            "create: mkdir \"/proc/a\": denied"
        );
        assert_eq!(
            clean("mount on /data/tasks/x/1-0/rootfs: no"),
            "mount on /: no"
        );
        assert_eq!(
            clean("read /data/tasks/x/1-0/config.json"),
            "read (host)/config.json"
        );
        assert_eq!(clean("bind /data/tasks/x/volumes/_2f"), "bind (host)");
        assert_eq!(clean("exec: \"/bin/zz\": no"), "exec: \"/bin/zz\": no");
    }
}
