//! A file tree in memory: filled from packages and by hand, written as a layer.
//!
//! What always holds: paths are relative, have no `.` or `..`, and follow the merged layout (`bin`, `sbin`, `lib` and
//! `lib64` are links into `usr`).

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path};

use anyhow::{Context, Result, bail};

/// What is not needed to run a program.
const DROPPED: &[&str] = &[
    "usr/share/doc/",
    "usr/share/man/",
    "usr/share/info/",
    "usr/share/locale/",
    "usr/share/lintian/",
    "usr/share/bash-completion/",
    "usr/lib/systemd/",
    "etc/init.d/",
    "etc/logrotate.d/",
    "etc/ufw/",
];

/// Time stamp of every entry: fixed, so that the same packages give the same bytes. 2024-01-01T00:00:00Z.
const FIXED_TIME: u64 = 1_704_067_200;

/// A tree of files.
#[derive(Debug, Clone, Default)]
pub(super) struct Tree {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    mode: u32,
    owner: u32,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Folder,
    File(Vec<u8>),
    Link(String),
    /// Another name of the file at this path.
    HardLink(String),
}

impl Tree {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The skeleton that every image starts from.
    pub(super) fn skeleton() -> Self {
        let mut tree = Self::new();
        for (folder, mode) in [
            ("dev", 0o755),
            ("etc", 0o755),
            ("home", 0o755),
            ("proc", 0o555),
            ("root", 0o700),
            ("run", 0o755),
            ("sys", 0o555),
            ("tmp", 0o1777),
            ("usr/bin", 0o755),
            ("usr/lib", 0o755),
            ("usr/lib64", 0o755),
            ("usr/sbin", 0o755),
            ("var/lib", 0o755),
            ("var/log", 0o755),
            ("var/tmp", 0o1777),
        ] {
            tree.folder(folder, mode, 0);
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            tree.link(name, &format!("usr/{name}"));
        }
        tree.link("var/run", "/run");
        tree
    }

    pub(super) fn folder(&mut self, path: &str, mode: u32, owner: u32) {
        self.insert(
            path,
            Entry {
                mode,
                owner,
                content: Content::Folder,
            },
        );
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, text: &str) {
        self.insert(
            path,
            Entry {
                mode,
                owner: 0,
                content: Content::File(text.into()),
            },
        );
    }

    pub(super) fn binary(&mut self, path: &str, bytes: &[u8]) {
        self.insert(
            path,
            Entry {
                mode: 0o755,
                owner: 0,
                content: Content::File(bytes.into()),
            },
        );
    }

    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.insert(
            path,
            Entry {
                mode: 0o777,
                owner: 0,
                content: Content::Link(target.into()),
            },
        );
    }

    /// Removes a folder or file with everything below it.
    pub(super) fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.entries
            .retain(|name, _| name != path && !name.starts_with(&below));
    }

    /// The bytes of a file.
    pub(super) fn bytes(&self, path: &str) -> Result<&[u8]> {
        match self.entries.get(path).map(|entry| &entry.content) {
            Some(Content::File(bytes)) => Ok(bytes),
            _ => bail!("the packages hold no file {path}"),
        }
    }

    pub(super) fn contains(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    /// Leaves out what a lower layer has already in the same form.
    pub(super) fn subtract(&mut self, lower: &Tree) {
        self.entries.retain(|path, _| !lower.contains(path));
    }

    fn insert(&mut self, path: &str, entry: Entry) {
        // Parents first: a layer must not rely on the unpacker to make them.
        let mut parent = String::new();
        for part in path
            .split('/')
            .rev()
            .skip(1)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
        {
            if !parent.is_empty() {
                parent.push('/');
            }
            parent.push_str(part);
            let folder = Entry {
                mode: 0o755,
                owner: 0,
                content: Content::Folder,
            };
            self.entries.entry(parent.clone()).or_insert(folder);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Adds the files of a package, given as an uncompressed tar archive.
    pub(super) fn add_package(&mut self, tar: &[u8]) -> Result<()> {
        let mut archive = tar::Archive::new(tar);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let Some(path) = merged(&entry.path()?)? else {
                continue;
            };
            if DROPPED
                .iter()
                .any(|dropped| format!("{path}/").starts_with(dropped))
            {
                continue;
            }
            let header = entry.header();
            let (mode, owner) = (header.mode()?, u32::try_from(header.uid()?)?);
            let kind = header.entry_type();
            let target = entry.link_name()?.map(|t| t.into_owned());
            let content = if kind.is_dir() {
                if self.contains(&path) {
                    continue;
                }
                Content::Folder
            } else if kind.is_symlink() {
                let target = target.context("a link without a target")?;
                Content::Link(target.to_string_lossy().into_owned())
            } else if kind.is_hard_link() {
                let target = target.context("a link without a target")?;
                Content::HardLink(merged(&target)?.context("a link to the root")?)
            } else if kind.is_file() {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes)?;
                Content::File(bytes)
            } else {
                bail!("{path} is neither file, folder nor link");
            };
            self.insert(
                &path,
                Entry {
                    mode: mode & 0o7777,
                    owner,
                    content,
                },
            );
        }
        Ok(())
    }

    /// The tree as an uncompressed tar archive, entries sorted by path.
    pub(super) fn layer(&self) -> Result<Vec<u8>> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(entry.mode);
            header.set_uid(entry.owner.into());
            header.set_gid(entry.owner.into());
            header.set_mtime(FIXED_TIME);
            header.set_size(0);
            match &entry.content {
                Content::Folder => {
                    header.set_entry_type(tar::EntryType::Directory);
                    builder.append_data(&mut header, format!("{path}/"), &[][..])?;
                }
                Content::File(bytes) => {
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_size(bytes.len() as u64);
                    builder.append_data(&mut header, path, bytes.as_slice())?;
                }
                Content::Link(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    builder.append_link(&mut header, path, target)?;
                }
                Content::HardLink(target) => {
                    header.set_entry_type(tar::EntryType::Link);
                    builder.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(builder.into_inner()?)
    }
}

/// A package's path in the merged layout; `None` for the top folder and the folders that are links.
fn merged(path: &Path) -> Result<Option<String>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str().context("a path is not text")?),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                bail!("path {} leaves the tree", path.display())
            }
        }
    }
    let joined = parts.join("/");
    Ok(match parts.as_slice() {
        [] | ["bin" | "sbin" | "lib" | "lib64" | "usr"] => None,
        ["bin" | "sbin" | "lib" | "lib64", ..] => Some(format!("usr/{joined}")),
        _ => Some(joined),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_the_merged_layout() {
        let merged = |path: &str| merged(Path::new(path)).unwrap();
        assert_eq!(merged("./bin/sh").unwrap(), "usr/bin/sh");
        assert_eq!(merged("./etc/passwd").unwrap(), "etc/passwd");
        assert_eq!(merged("./lib"), None);
        assert_eq!(merged("./"), None);
        assert!(super::merged(Path::new("../x")).is_err());
    }

    #[test]
    fn a_layer_has_parents_first_and_fixed_times() {
        let mut tree = Tree::new();
        tree.file("b/c/d", 0o644, "x");
        tree.link("a", "b/c/d");
        let layer = tree.layer().unwrap();
        assert_eq!(layer, tree.clone().layer().unwrap());
        let mut archive = tar::Archive::new(layer.as_slice());
        let mut paths = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.header().mtime().unwrap(), FIXED_TIME);
            paths.push(entry.path().unwrap().display().to_string());
        }
        assert_eq!(paths, ["a", "b/", "b/c/", "b/c/d"]);
    }

    #[test]
    fn removal_takes_what_is_below() {
        let mut tree = Tree::new();
        tree.file("a/b", 0o644, "");
        tree.file("ab", 0o644, "");
        tree.remove("a");
        assert_eq!(tree.entries.keys().collect::<Vec<_>>(), ["ab"]);
    }
}
