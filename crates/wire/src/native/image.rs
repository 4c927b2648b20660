//! Images of a pool.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Problem, Reference};

/// An OCI image as one pool knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Digest of its configuration document, `sha256:…`.
    pub id: String,
    /// The pool that may use it.
    pub pool: Reference,
    /// Names with tag it goes by, in full form.
    pub tags: BTreeSet<String>,
    /// Names with digest it was pulled by, in full form.
    pub digests: BTreeSet<String>,
    /// `os/architecture`.
    pub platform: String,
    /// Unpacked size over all layers.
    pub size_bytes: u64,
    /// Digests of its layers, from bottom to top.
    pub layers: Vec<String>,
    /// Hosts that have all of it, those that are lost not counted.
    #[serde(default)]
    pub hosts: u64,
    /// Workloads of the pool made from it.
    #[serde(default)]
    pub workloads: u64,
    /// Defaults it gives to tasks.
    pub config: Config,
    /// When it was made, as it says itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_at: Option<String>,
    /// When the pool first had it.
    pub added_at: String,
}

/// Defaults an image gives to tasks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = ImageConfig)]
#[serde(default)]
pub struct Config {
    /// `NAME=value` pairs.
    pub env: Vec<String>,
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Default arguments.
    pub args: Vec<String>,
    /// User and group to run as.
    pub user: String,
    /// Folder to start in.
    pub working_dir: String,
    /// Ports it says it listens on.
    pub exposed_ports: BTreeSet<String>,
    /// Folders it says hold data.
    pub volumes: BTreeSet<String>,
    /// Free key-value pairs.
    pub labels: BTreeMap<String, String>,
}

/// Asks to pull an image from a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImagePull {
    /// `[registry/]repository[:tag][@sha256:…]`.
    pub reference: String,
    /// `os/architecture`; absent: that of the host that pulls.
    #[serde(default)]
    pub platform: Option<String>,
    /// Credentials for the registry; used for this pull only.
    #[serde(default)]
    pub credentials: Option<RegistryCredentials>,
}

/// User name and password for a registry. Never stored, never logged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistryCredentials {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for RegistryCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RegistryCredentials({}, …)", self.username)
    }
}

/// One line of the answer to a pull or load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum ImportEvent {
    /// A step.
    Progress(Progress),
    /// It is there; the last line.
    Done(ImportDone),
    /// It failed; the last line.
    Failed(Problem),
}

/// A step of a pull or load.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = ImportProgress)]
#[serde(default)]
pub struct Progress {
    /// Short id of the layer; empty: about the whole.
    pub id: String,
    /// For example `Downloading`.
    pub status: String,
    /// Bytes done.
    pub current_bytes: Option<u64>,
    /// Bytes in all.
    pub total_bytes: Option<u64>,
}

/// What a pull or load brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImportDone {
    /// The images.
    pub images: Vec<Image>,
    /// Whether everything was there already.
    pub unchanged: bool,
}

/// Gives an image a further name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageTag {
    /// `[registry/]repository[:tag]`.
    pub target: String,
}

/// Asks for an archive of images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageSave {
    /// Names or ids.
    pub images: Vec<String>,
}

/// What a removal did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct ImageRemoved {
    /// Names that are gone.
    pub untagged: Vec<String>,
    /// Ids of images that are gone.
    pub deleted: Vec<String>,
}
