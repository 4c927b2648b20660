//! Users and groups by name, from the files of the task's own image.

use std::os::fd::AsFd;
use std::path::Path;

use shim::message::{Failure, FailureKind};

use super::paths;

/// Larger user databases are cut off here: an image is not trusted to be sensible.
const MAX_DATABASE: u64 = 1024 * 1024;
/// The kernel's limit of supplementary groups is 65536; Docker images stay far below this.
const MAX_GROUPS: usize = 1024;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// Resolves `name`, `uid`, `user:group` as Docker does.
pub(crate) fn resolve(root: impl AsFd, user: &str, extra: &[String]) -> Result<Identity, Failure> {
    let read = |path: &str| {
        let bytes = paths::read_in(&root, Path::new(path), MAX_DATABASE).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    resolve_from(&read("/etc/passwd"), &read("/etc/group"), user, extra)
}

fn resolve_from(
    passwd: &str,
    group: &str,
    user: &str,
    extra: &[String],
) -> Result<Identity, Failure> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = number(user)?;
    let account =
        accounts(passwd).find(|account| account.name == user || Some(account.uid) == number);
    let uid = match (&account, number) {
        (_, Some(number)) => number,
        (Some(account), None) => account.uid,
        (None, None) => {
            return Err(unknown(format!(
                "unable to find user {user}: no matching entries in passwd file"
            )));
        }
    };
    let (gid, mut groups) = match wanted_group {
        Some(name) if !name.is_empty() => (find_group(group, name)?, Vec::new()),
        Some(_) | None => {
            let gid = account.as_ref().map_or(0, |account| account.gid);
            let name = account.as_ref().map_or("", |account| account.name);
            (gid, memberships(group, name))
        }
    };
    for name in extra {
        groups.push(find_group(group, name)?);
    }
    groups.sort_unstable();
    groups.dedup();
    if groups.len() > MAX_GROUPS {
        return Err(unknown("too many groups".to_owned()));
    }
    let home = account.map_or("/", |account| {
        if account.home.is_empty() {
            "/"
        } else {
            account.home
        }
    });
    Ok(Identity {
        uid,
        gid,
        groups,
        home: home.to_owned(),
    })
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or("");
        Some(Account {
            name,
            uid,
            gid,
            home,
        })
    })
}

fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

fn memberships(group: &str, user: &str) -> Vec<u32> {
    if user.is_empty() {
        return Vec::new();
    }
    let of_user = |members: &str| members.split(',').any(|member| member == user);
    groups(group)
        .filter(|(_, _, members)| of_user(members))
        .map(|(_, gid, _)| gid)
        .collect()
}

fn find_group(group: &str, name: &str) -> Result<u32, Failure> {
    if let Some(number) = number(name)? {
        return Ok(number);
    }
    groups(group)
        .find(|(found, _, _)| *found == name)
        .map(|(_, gid, _)| gid)
        .ok_or_else(|| {
            unknown(format!(
                "unable to find group {name}: no matching entries in group file"
            ))
        })
}

/// A number, not a number, or a number no user can have. Ids above i32::MAX would wrap around in places.
fn number(text: &str) -> Result<Option<u32>, Failure> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(number) if i32::try_from(number).is_ok() => Ok(Some(number)),
        _ => Err(unknown(format!("user or group id {text} is out of range"))),
    }
}

fn unknown(reason: String) -> Failure {
    Failure {
        kind: FailureKind::User,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34::/srv/www:/bin/false\n";
    const GROUP: &str = "root:x:0:\nlogs:x:44:web,other\nweb:x:34:\nbad:x:y:web\n";

    fn id(user: &str, extra: &[&str]) -> Result<(u32, u32, Vec<u32>, String), String> {
        let extra: Vec<String> = extra.iter().map(|name| (*name).to_owned()).collect();
        resolve_from(PASSWD, GROUP, user, &extra)
            .map(|id| (id.uid, id.gid, id.groups, id.home))
            .map_err(|failure| failure.reason)
    }

    #[test]
    fn users_and_groups_resolve_as_docker_does() {
        assert_eq!(id("", &[]), Ok((0, 0, vec![], "/root".into())));
        assert_eq!(id("web", &[]), Ok((33, 34, vec![44], "/srv/www".into())));
        assert_eq!(id("33", &[]), Ok((33, 34, vec![44], "/srv/www".into())));
        assert_eq!(
            id("web:logs", &["root"]),
            Ok((33, 44, vec![0], "/srv/www".into()))
        );
        assert_eq!(id("7777:8888", &[]), Ok((7777, 8888, vec![], "/".into())));
        assert!(
            id("nobody", &[])
                .unwrap_err()
                .contains("unable to find user nobody")
        );
        assert!(
            id("web:nogroup", &[])
                .unwrap_err()
                .contains("unable to find group nogroup")
        );
        assert!(id("4294967296", &[]).unwrap_err().contains("out of range"));
        assert!(id("4294967295", &[]).unwrap_err().contains("out of range"));
    }
}
