//! The closed set of everything that is stored, and its keys.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    AccessToken, Division, Host, HostId, Image, ImageId, Installation, InvalidId, JoinToken,
    Network, NetworkId, Pool, PoolId, Principal, PrincipalId, TokenId, Workload, WorkloadId,
};

/// Anything that is stored.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every object is a workload, the largest one"
)]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "value")]
pub enum Object {
    /// A pool.
    Pool(Pool),
    /// A host.
    Host(Host),
    /// A workload.
    Workload(Workload),
    /// An image of a pool.
    Image(Image),
    /// A principal.
    Principal(Principal),
    /// An access token.
    AccessToken(AccessToken),
    /// A join token.
    JoinToken(JoinToken),
    /// A named secret of the installation itself, for example the CA's key: opaque bytes.
    Setting(Setting),
    /// An image that no pool knows any more and that hosts are told to delete.
    DroppedImage(DroppedImage),
    /// What holds for the whole installation.
    Installation(Installation),
    /// The pools' parts of a host.
    Division(Division),
    /// A network.
    Network(Network),
}

/// An image that no pool knows any more.
///
/// Hosts delete an image only because such a record names it, never because it is merely unknown. The record goes
/// when a pool gets the image again. Its revision tells the order to delete the image from earlier and later ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedImage {
    /// Which.
    pub id: ImageId,
    /// When the last pool let go of it.
    pub dropped_at: crate::Timestamp,
}

/// A named value of the installation itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its name; the closed list is in `control`.
    pub name: crate::Name,
    /// Its text.
    pub value: String,
}

/// The kinds of [`Object`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A pool.
    Pool,
    /// A host.
    Host,
    /// A workload.
    Workload,
    /// An image of a pool.
    Image,
    /// A principal.
    Principal,
    /// An access token.
    AccessToken,
    /// A join token.
    JoinToken,
    /// A named value.
    Setting,
    /// An image to be deleted.
    DroppedImage,
    /// What holds for the whole installation.
    Installation,
    /// The pools' parts of a host.
    Division,
    /// A network.
    Network,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 12] = [
        Kind::Pool,
        Kind::Host,
        Kind::Workload,
        Kind::Image,
        Kind::Principal,
        Kind::AccessToken,
        Kind::JoinToken,
        Kind::Setting,
        Kind::DroppedImage,
        Kind::Installation,
        Kind::Division,
        Kind::Network,
    ];

    /// First part of the key.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Kind::Pool => "pool",
            Kind::Host => "host",
            Kind::Workload => "workload",
            Kind::Image => "image",
            Kind::Principal => "principal",
            Kind::AccessToken => "access-token",
            Kind::JoinToken => "join-token",
            Kind::Setting => "setting",
            Kind::DroppedImage => "dropped-image",
            Kind::Installation => "installation",
            Kind::Division => "division",
            Kind::Network => "network",
        }
    }
}

/// Second part of the key of what there is one of.
const THE_ONE: &str = "it";

/// The key of an object: its kind and id. Ordered by kind, then id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A pool.
    Pool(PoolId),
    /// A host.
    Host(HostId),
    /// A workload.
    Workload(WorkloadId),
    /// An image of a pool.
    Image(PoolId, ImageId),
    /// A principal.
    Principal(PrincipalId),
    /// An access token.
    AccessToken(TokenId),
    /// A join token.
    JoinToken(TokenId),
    /// A named value.
    Setting(crate::Name),
    /// An image to be deleted.
    DroppedImage(ImageId),
    /// What holds for the whole installation; there is one.
    Installation,
    /// The pools' parts of a host.
    Division(HostId),
    /// A network.
    Network(NetworkId),
}

impl Key {
    /// The kind of object it is the key of.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Key::Pool(_) => Kind::Pool,
            Key::Host(_) => Kind::Host,
            Key::Workload(_) => Kind::Workload,
            Key::Image(..) => Kind::Image,
            Key::Principal(_) => Kind::Principal,
            Key::AccessToken(_) => Kind::AccessToken,
            Key::JoinToken(_) => Kind::JoinToken,
            Key::Setting(_) => Kind::Setting,
            Key::DroppedImage(_) => Kind::DroppedImage,
            Key::Installation => Kind::Installation,
            Key::Division(_) => Kind::Division,
            Key::Network(_) => Kind::Network,
        }
    }

    /// Parses what `Display` writes.
    ///
    /// # Errors
    /// When the text is not a key of a known kind.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let bad = || InvalidId {
            kind: "key",
            value: text
                .chars()
                .take(120)
                .flat_map(char::escape_default)
                .collect(),
            rule: "must be kind/id",
        };
        let (kind, id) = text.split_once('/').ok_or_else(bad)?;
        Ok(match kind {
            "pool" => Key::Pool(PoolId::parse(id)?),
            "host" => Key::Host(HostId::parse(id)?),
            "workload" => Key::Workload(WorkloadId::parse(id)?),
            "image" => {
                let (pool, image) = id.split_once('/').ok_or_else(bad)?;
                Key::Image(PoolId::parse(pool)?, ImageId::parse(image)?)
            }
            "principal" => Key::Principal(PrincipalId::parse(id)?),
            "access-token" => Key::AccessToken(TokenId::parse(id)?),
            "join-token" => Key::JoinToken(TokenId::parse(id)?),
            "setting" => Key::Setting(crate::Name::parse(id)?),
            "dropped-image" => Key::DroppedImage(ImageId::parse(id)?),
            "installation" if id == THE_ONE => Key::Installation,
            "division" => Key::Division(HostId::parse(id)?),
            "network" => Key::Network(NetworkId::parse(id)?),
            _ => return Err(bad()),
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.kind().prefix())?;
        match self {
            Key::Pool(id) => write!(f, "{id}"),
            Key::Host(id) => write!(f, "{id}"),
            Key::Workload(id) => write!(f, "{id}"),
            Key::Image(pool, id) => write!(f, "{pool}/{id}"),
            Key::Principal(id) => write!(f, "{id}"),
            Key::AccessToken(id) | Key::JoinToken(id) => write!(f, "{id}"),
            Key::Setting(name) => write!(f, "{name}"),
            Key::DroppedImage(id) => write!(f, "{id}"),
            Key::Installation => f.write_str(THE_ONE),
            Key::Division(id) => write!(f, "{id}"),
            Key::Network(id) => write!(f, "{id}"),
        }
    }
}

impl Object {
    /// The key it is stored under.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Object::Pool(it) => Key::Pool(it.id.clone()),
            Object::Host(it) => Key::Host(it.id.clone()),
            Object::Workload(it) => Key::Workload(it.id.clone()),
            Object::Image(it) => Key::Image(it.pool.clone(), it.id.clone()),
            Object::Principal(it) => Key::Principal(it.id.clone()),
            Object::AccessToken(it) => Key::AccessToken(it.id.clone()),
            Object::JoinToken(it) => Key::JoinToken(it.id.clone()),
            Object::Setting(it) => Key::Setting(it.name.clone()),
            Object::DroppedImage(it) => Key::DroppedImage(it.id.clone()),
            Object::Installation(_) => Key::Installation,
            Object::Division(it) => Key::Division(it.host.clone()),
            Object::Network(it) => Key::Network(it.id.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back() {
        let pool = PoolId::from_bytes(&[7; 32]);
        let image = ImageId::parse(&format!("sha256:{}", "b".repeat(64))).unwrap();
        for key in [
            Key::Pool(pool.clone()),
            Key::Host(HostId::from_bytes(&[1; 32])),
            Key::Workload(WorkloadId::from_bytes(&[2; 32])),
            Key::Image(pool, image),
            Key::Principal(PrincipalId::from_bytes(&[3; 32])),
            Key::AccessToken(TokenId::from_bytes(&[4; 32])),
            Key::JoinToken(TokenId::from_bytes(&[5; 32])),
            Key::Setting(crate::Name::parse("ca").unwrap()),
            Key::Installation,
            Key::Division(HostId::from_bytes(&[6; 32])),
            Key::Network(NetworkId::from_bytes(&[7; 32])),
        ] {
            assert_eq!(Key::parse(&key.to_string()).unwrap(), key);
        }
        for bad in [
            "",
            "pool",
            "pool/",
            "pool/../x",
            "image/0123456789abcdef",
            "x/0123456789abcdef",
        ] {
            assert!(Key::parse(bad).is_err());
        }
    }
}
