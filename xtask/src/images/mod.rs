//! Demo and test images, built from Debian packages without any registry.
//!
//! What it is: `apt-get` resolves and downloads a package with its dependencies into a folder of its own ([`debian`]),
//! the packages' files become a tree in memory ([`tree`]), the tree becomes a layer, layers and a configuration become
//! an archive that `docker load` reads ([`archive`]). What goes into each image is in [`recipes`].
//! What it is not: nothing is installed, no maintainer script runs, and the machine's own apt state is not touched.
//!
//! What always holds: the same packages give the same bytes (entries are sorted, times are fixed), and the images share
//! their lower layers.

mod archive;
mod debian;
mod recipes;
mod tree;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::repo::Repo;
pub(crate) use debian::Debian;
pub use recipes::NAMES;

/// Which images to build.
#[derive(Debug, Clone)]
pub struct Selection(Vec<String>);

impl FromStr for Selection {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "all" => Ok(Self(NAMES.iter().map(|n| (*n).to_owned()).collect())),
            name if NAMES.contains(&name) => Ok(Self(vec![name.to_owned()])),
            _ => Err(format!("expected one of {}, all", NAMES.join(", "))),
        }
    }
}

/// Builds images and prints where they are.
///
/// # Errors
/// When a package cannot be had or a file cannot be written.
pub fn run(repo: &Repo, selection: Selection, out: &Path) -> Result<()> {
    for name in &selection.0 {
        let path = build(repo, name)?;
        std::fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
        let to = out.join(format!("{name}.tar"));
        let size = std::fs::copy(&path, &to)
            .with_context(|| format!("copy {} to {}", path.display(), to.display()))?;
        println!(
            "{name}:latest  {}  {:.1} MB",
            to.display(),
            size as f64 / 1e6
        );
    }
    Ok(())
}

/// The archive of one image: built, or found from an earlier call of the same version of this code.
///
/// # Errors
/// When a package cannot be had or a file cannot be written.
pub fn build(repo: &Repo, name: &str) -> Result<PathBuf> {
    if !NAMES.contains(&name) {
        bail!("there is no image {name}; there are {}", NAMES.join(", "));
    }
    let cache = repo.target().join("images");
    std::fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
    let path = cache.join(format!("{name}-{}.tar", fingerprint()));
    if path.is_file() {
        return Ok(path);
    }
    let debian = Debian::in_target(repo);
    let image = recipes::image(&debian, name).with_context(|| format!("build image {name}"))?;
    let partial = cache.join(format!("{name}.{}.partial", std::process::id()));
    archive::write(&image, &partial).with_context(|| format!("write {}", partial.display()))?;
    std::fs::rename(&partial, &path).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Changes whenever the code that builds images does.
fn fingerprint() -> String {
    let mut hash = Sha256::new();
    for source in [
        include_str!("archive.rs"),
        include_str!("debian.rs"),
        include_str!("recipes.rs"),
        include_str!("tree.rs"),
    ] {
        hash.update(source);
    }
    hex::encode(&hash.finalize()[..6])
}
