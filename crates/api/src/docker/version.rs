//! Versions of the Docker Engine API.

use super::failure::{Failure, Result};
use super::value::shown;

/// A version 1.x.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ApiVersion(pub(super) u32);

impl ApiVersion {
    /// The oldest one served: what Docker 1.12 spoke. Raising it breaks clients that nobody can change.
    pub(super) const OLDEST: Self = Self(24);
    /// The newest one served.
    pub(super) const NEWEST: Self = Self(51);

    /// As text, `1.51`.
    pub(super) fn text(self) -> String {
        format!("1.{}", self.0)
    }
}

/// Splits `/v1.41/containers/json` into the version and the rest; without a version the newest is meant.
pub(super) fn split(path: &str) -> (Result<ApiVersion>, &str) {
    let Some(rest) = path.strip_prefix("/v") else {
        return (Ok(ApiVersion::NEWEST), path);
    };
    let Some(slash) = rest.find('/') else {
        return (Ok(ApiVersion::NEWEST), path);
    };
    let (text, rest) = rest.split_at(slash);
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        // For example `/volumes/x`.
        return (Ok(ApiVersion::NEWEST), path);
    }
    (parse(text), rest)
}

fn parse(text: &str) -> Result<ApiVersion> {
    let minor = |text: &str| -> Option<u32> {
        let canonical = text == "0" || !text.starts_with('0');
        text.parse().ok().filter(|_| canonical)
    };
    let found = match text.split_once('.') {
        Some((major, rest)) => match (minor(major), minor(rest)) {
            (Some(1), Some(minor)) => Ok(minor),
            (Some(0), Some(_)) => Ok(0),
            (Some(_), Some(_)) => Ok(u32::MAX),
            _ => Err(()),
        },
        None => Err(()),
    };
    match found {
        Err(()) => Err(Failure::invalid(format!(
            "invalid API version \"{}\"",
            shown(text)
        ))),
        Ok(minor) if minor < ApiVersion::OLDEST.0 => Err(Failure::invalid(format!(
            "client version {} is too old. Minimum supported API version is {}, please upgrade your client to a newer version",
            shown(text),
            ApiVersion::OLDEST.text()
        ))),
        Ok(minor) if minor > ApiVersion::NEWEST.0 => Err(Failure::invalid(format!(
            "client version {} is too new. Maximum supported API version is {}",
            shown(text),
            ApiVersion::NEWEST.text()
        ))),
        Ok(minor) => Ok(ApiVersion(minor)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_and_out_of_range() {
        for minor in 24..=51 {
            let path = format!("/v1.{minor}/info");
            let (version, rest) = split(&path);
            assert_eq!((version.unwrap(), rest), (ApiVersion(minor), "/info"));
        }
        for bad in [
            "v0.1",
            "v1.11",
            "v1.23",
            "v1.52",
            "v9.99",
            "v1.99999999999",
            "v01.41",
            "v1.41.0",
            "v1",
            "v1.",
        ] {
            let path = format!("/{bad}/info");
            assert!(split(&path).0.is_err(), "{bad}");
        }
        assert_eq!(split("/volumes/x").1, "/volumes/x");
        assert_eq!(split("/version").1, "/version");
        assert_eq!(split("/vx/info").1, "/vx/info");
    }
}
