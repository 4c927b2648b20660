//! Debian packages with their dependencies, downloaded beside the machine's own package management.
//!
//! `apt-get` works on a state folder of its own with an empty list of installed packages, so that it names the whole
//! closure and changes nothing on the machine. Sources and keys are the machine's: a configured mirror is used.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::tree::Tree;
use crate::process;
use crate::repo::Repo;

/// Package management in a scratch folder.
pub(crate) struct Debian {
    folder: PathBuf,
}

impl Debian {
    /// The scratch folder all of the project's tools share.
    pub(crate) fn in_target(repo: &Repo) -> Self {
        Self {
            folder: repo.target().join("images/debian"),
        }
    }

    /// One file of one package, without the packages it depends on.
    pub(crate) fn program(&self, package: &str, path: &str) -> Result<Vec<u8>> {
        let mut tree = Tree::new();
        for file in self.download(&[package])? {
            let name = file
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default();
            if name.starts_with(&format!("{package}_")) {
                self.unpack(&file, &mut tree)?;
            }
        }
        tree.bytes(path).map(<[u8]>::to_vec)
    }

    /// The files of `packages` and everything they depend on, as one tree; packages named in `without` and what only
    /// maintainer scripts need are left out.
    pub(super) fn files(&self, packages: &[&str], without: &[&str]) -> Result<Tree> {
        let mut tree = Tree::new();
        for file in self.download(packages)? {
            let name = file
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default();
            let package = name.split('_').next().unwrap_or_default();
            if !without.contains(&package) {
                self.unpack(&file, &mut tree)?;
            }
        }
        Ok(tree)
    }

    /// Downloads the closure of `packages`; the answer is sorted by file name.
    fn download(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        self.prepare()?;
        let wanted = match self.resolve(packages) {
            Ok(wanted) => wanted,
            Err(_) => {
                // No lists yet, or older than the mirror's packages.
                self.update()?;
                self.resolve(packages)?
            }
        };
        let missing = |wanted: &Vec<PathBuf>| wanted.iter().any(|file| !file.is_file());
        if missing(&wanted) && self.fetch(packages).is_err() {
            self.update()?;
            self.fetch(packages)?;
        }
        let wanted = if missing(&wanted) {
            self.resolve(packages)?
        } else {
            wanted
        };
        if let Some(file) = wanted.iter().find(|file| !file.is_file()) {
            bail!("apt-get did not download {}", file.display());
        }
        Ok(wanted)
    }

    fn prepare(&self) -> Result<()> {
        for folder in ["lists/partial", "archives/partial"] {
            let folder = self.folder.join(folder);
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("create {}", folder.display()))?;
        }
        let status = self.folder.join("status");
        std::fs::write(&status, "").with_context(|| format!("write {}", status.display()))
    }

    /// The archives that `packages` need, wherever they are in their download.
    fn resolve(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let mut apt = self.apt();
        apt.args(["install", "--print-uris"]).args(packages);
        let mut files = Vec::new();
        for line in process::read(&mut apt)?
            .lines()
            .filter(|line| line.starts_with('\''))
        {
            // 'http://…/x.deb' x_1.0_amd64.deb 1234 SHA256:…
            let name = line
                .split_whitespace()
                .nth(1)
                .context("a line of apt-get names no file")?;
            files.push(self.folder.join("archives").join(name));
        }
        // With everything downloaded, apt prints nothing: ask for names and versions instead.
        files.extend(self.already_there(packages)?);
        files.sort();
        files.dedup();
        if files.is_empty() {
            bail!("apt-get knows no packages {}", packages.join(" "));
        }
        Ok(files)
    }

    /// Archives of the closure that an earlier call downloaded.
    fn already_there(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let mut apt = self.apt();
        apt.args(["install", "--simulate"]).args(packages);
        let mut files = Vec::new();
        for line in process::read(&mut apt)?.lines() {
            // Inst libc6 (2.36-9 Debian:12/stable [amd64])
            let Some(rest) = line.strip_prefix("Inst ") else {
                continue;
            };
            let (name, rest) = rest
                .split_once(" (")
                .context("apt-get: a line without a version")?;
            let version = rest
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .replace(':', "%3a");
            for architecture in ["amd64", "arm64", "all"] {
                let file = format!("archives/{name}_{version}_{architecture}.deb");
                let file = self.folder.join(file);
                if file.is_file() {
                    files.push(file);
                }
            }
        }
        Ok(files)
    }

    fn fetch(&self, packages: &[&str]) -> Result<()> {
        let mut apt = self.apt();
        apt.args(["install", "--download-only", "--yes"])
            .args(packages);
        process::read(&mut apt).map(drop)
    }

    fn update(&self) -> Result<()> {
        println!("reading Debian's package lists");
        process::read(self.apt().arg("update")).map(drop)
    }

    fn apt(&self) -> Command {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C.UTF-8")
            .arg("-q");
        let folder = self.folder.display();
        for option in [
            format!("Dir::State={folder}"),
            format!("Dir::State::lists={folder}/lists"),
            format!("Dir::State::status={folder}/status"),
            format!("Dir::Cache={folder}"),
            format!("Dir::Cache::archives={folder}/archives"),
            "Dir::Cache::pkgcache=".to_owned(),
            "Dir::Cache::srcpkgcache=".to_owned(),
            "Dir::Log=/dev/null".to_owned(),
            // The machine's own hooks must not run: some clean the machine's caches.
            "DPkg::Pre-Install-Pkgs=".to_owned(),
            "APT::Install-Recommends=false".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=3".to_owned(),
        ] {
            apt.arg("-o").arg(option);
        }
        apt
    }

    fn unpack(&self, file: &Path, tree: &mut Tree) -> Result<()> {
        let mut dpkg = Command::new("dpkg-deb");
        dpkg.arg("--fsys-tarfile").arg(file);
        let line = process::line(&dpkg);
        let output = process::read_all(&mut dpkg)?;
        if !output.status.success() {
            // A download that was cut: the next call fetches it again.
            let _ = std::fs::remove_file(file);
            bail!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        tree.add_package(&output.stdout)
            .with_context(|| format!("read {}", file.display()))
    }
}
