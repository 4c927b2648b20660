//! Verbs on hosts: joining, renewing, removing. What operators say of hosts that are there is in [`crate::maintenance`].

use model::host::JoinToken;
use model::{DesiredState, Host, HostId, HostStatus, Key, Name, Object, TokenId, Workload};
use plan::copies::OnlyCopy;
use store::{Row, Snapshot, Transaction};
use subtle::ConstantTimeEq as _;
use wire::link::{Identity, JoinRequest, JoinTokenText, RenewRequest};

use crate::caller::{Action, Caller, Grant, Scope, authorise};
use crate::copies::lost_with;
use crate::core::{Control, now, random, sha256_hex};
use crate::error::{Error, ErrorKind, Result};
use crate::kept::Kept;
use crate::metrics::Counters;
use crate::observe::mark_removed;
use crate::pki::Subject;

/// Records deleted in one transaction: below the store's limit of 64 changes.
const AT_ONCE_MAX: usize = 50;

/// Images named in a message: enough to recognise whose they are.
const IMAGES_NAMED: usize = 3;

impl Control {
    /// All hosts, by name.
    ///
    /// # Errors
    /// When the caller may not.
    pub fn host_list(&self, caller: &Caller) -> Result<Vec<Kept<Host>>> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::HostRead, Scope::Installation)?;
        let mut hosts: Vec<Kept<Host>> = snapshot.hosts().map(Kept::from).collect();
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(hosts)
    }

    /// A host by name or id.
    ///
    /// # Errors
    /// When there is none or the caller may not.
    pub fn host_find(&self, caller: &Caller, reference: &str) -> Result<Kept<Host>> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::HostRead, Scope::Installation)?;
        find(&snapshot, reference)
    }

    /// Whether work can be placed on the host now.
    #[must_use]
    pub fn host_ready(host: &Host) -> bool {
        host.status.connected && !host.cordoned
    }

    /// Makes a one-time join token; its text is returned once and never again.
    ///
    /// # Errors
    /// When the caller may not.
    pub async fn host_token_create(
        &self,
        caller: &Caller,
        ttl_seconds: u64,
    ) -> Result<(String, JoinToken)> {
        let snapshot = self.snapshot();
        let grant = self.grant(&snapshot, caller, Action::HostManage, Scope::Installation)?;
        if !(1..=7 * 86_400).contains(&ttl_seconds) {
            return Err(Error::invalid(
                "a join token can be valid for 1 second to 7 days",
            ));
        }
        let secret = hex::encode(random()?);
        let millis = i64::try_from(ttl_seconds).unwrap_or(0) * 1000;
        let token = JoinToken {
            id: TokenId::from_bytes(&random()?),
            secret_sha256: sha256_hex(secret.as_bytes()),
            expires_at: now().plus_millis(millis),
            used_by: None,
        };
        let mut tx = Transaction::new().create(Object::JoinToken(token.clone()));
        for old in snapshot.join_tokens().filter(|old| old.expires_at < now()) {
            tx = tx.delete(Key::JoinToken(old.id.clone()));
        }
        self.commit(&grant, tx).await?;
        let text = JoinTokenText {
            ca_sha256: self.authority().ca_sha256(),
            id: token.id.clone(),
            secret,
        };
        Ok((text.to_string(), token))
    }

    /// Takes a host in: the token is used up in the same commit that makes the host.
    ///
    /// # Errors
    /// When the token is forged, expired or used, or the name is taken.
    #[expect(
        clippy::too_many_lines,
        reason = "the checks of one token, in the order an attacker must not profit from"
    )]
    pub async fn host_join(&self, request: &JoinRequest) -> Result<Identity> {
        let denied = |why: &str| {
            Counters::add(&self.inner.counters.denied, 1);
            Error::new(
                ErrorKind::Unauthenticated,
                format!("the join token {why}: make a new one with `plimsoll host token`"),
            )
        };
        let text =
            JoinTokenText::parse(&request.token).map_err(|_| denied("is not of the right form"))?;
        let name = Name::parse(&request.name).map_err(|e| Error::invalid(e.to_string()))?;
        let id = HostId::from_bytes(&random()?);
        let (certificate_pem, der) = self.authority().sign_host(&request.csr_pem, &id, now())?;
        let snapshot = self.snapshot();
        let token = snapshot
            .join_token(&text.id)
            .ok_or_else(|| denied("is not known"))?;
        let same = token
            .secret_sha256
            .as_bytes()
            .ct_eq(sha256_hex(text.secret.as_bytes()).as_bytes());
        if !bool::from(same) {
            return Err(denied("is not known"));
        }
        if token.used_by.is_some() {
            return Err(denied("was used already"));
        }
        if token.expires_at <= now() {
            return Err(denied("has expired"));
        }
        if request.labels.len() > 256 || request.zone.len() > 128 {
            return Err(Error::invalid(
                "a host has at most 256 labels and a zone of 128 bytes",
            ));
        }
        let host = Host {
            id: id.clone(),
            name,
            zone: request.zone.clone(),
            labels: request.labels.clone(),
            cordoned: false,
            drain: None,
            overcommit: model::host::Overcommit::default(),
            fetch_images: std::collections::BTreeMap::new(),
            certificate_sha256: sha256_hex(&der),
            previous_certificate_sha256: None,
            status: HostStatus::default(),
            joined_at: now(),
        };
        let used = JoinToken {
            used_by: Some(id.clone()),
            ..token.value().clone()
        };
        let grant = self.own_grant(Action::HostManage)?;
        let tx = Transaction::new()
            .update(token.revision(), Object::JoinToken(used))
            .create(Object::Host(host));
        match self.commit(&grant, tx).await {
            Ok(_) => {}
            Err(store::CommitError::Conflict { .. }) => return Err(denied("was used already")),
            Err(store::CommitError::NameTaken { .. }) => {
                return Err(Error::conflict(format!(
                    "there is a host named {} already: join under another name, or remove it with `plimsoll host rm`",
                    request.name
                )));
            }
            Err(error) => return Err(error.into()),
        }
        tracing::info!(host = request.name, id = %id, "host joined");
        Ok(Identity {
            host: id,
            certificate_pem,
            ca_pem: self.authority().ca_pem().to_owned(),
        })
    }

    /// Which host a client certificate (already verified against the CA) belongs to.
    ///
    /// # Errors
    /// `NotFound` when the host was removed, `Unauthenticated` when the certificate was replaced or is not a host's.
    pub fn host_authenticate(&self, der: &[u8]) -> Result<HostId> {
        let denied = || {
            Counters::add(&self.inner.counters.denied, 1);
            Error::new(
                ErrorKind::Unauthenticated,
                "the certificate is not that of a host of this installation",
            )
        };
        let Some(Subject::Host(id)) = Subject::of_certificate(der) else {
            return Err(denied());
        };
        let snapshot = self.snapshot();
        let host = snapshot.host(&id).ok_or_else(|| {
            Counters::add(&self.inner.counters.denied, 1);
            Error::new(
                ErrorKind::NotFound,
                "this host was removed from the installation",
            )
        })?;
        let hash = sha256_hex(der);
        let known = host.certificate_sha256 == hash
            || host.previous_certificate_sha256.as_ref() == Some(&hash);
        if known { Ok(id) } else { Err(denied()) }
    }

    /// Gives a host a new certificate; the old one works until the new one is used.
    ///
    /// # Errors
    /// When the request is not readable or the host is gone.
    pub async fn host_renew(&self, id: &HostId, request: &RenewRequest) -> Result<Identity> {
        let (certificate_pem, der) = self.authority().sign_host(&request.csr_pem, id, now())?;
        self.host_change(id, |host| {
            host.previous_certificate_sha256 = Some(host.certificate_sha256.clone());
            host.certificate_sha256 = sha256_hex(&der);
        })
        .await?;
        Ok(Identity {
            host: id.clone(),
            certificate_pem,
            ca_pem: self.authority().ca_pem().to_owned(),
        })
    }

    /// Removes a host: its certificate stops working. With `force` the records of workloads on it go too, although
    /// they may still run there.
    ///
    /// # Errors
    /// When workloads are placed on it or have to be removed from it, or images would be lost with it, and `force` is
    /// not given.
    pub async fn host_remove(&self, caller: &Caller, reference: &str, force: bool) -> Result<()> {
        let snapshot = self.snapshot();
        let grant = self.grant(&snapshot, caller, Action::HostManage, Scope::Installation)?;
        let id = find(&snapshot, reference)?.id.clone();
        if force {
            self.forget_workloads_on(&grant, &id).await?;
            self.forget_left_on(&grant, &id).await?;
        }
        self.change(&grant, |snapshot| {
            let host = snapshot
                .host(&id)
                .ok_or_else(|| Error::not_found("host", reference))?;
            let mut tx =
                Transaction::new().delete_unchanged(host.revision(), Key::Host(id.clone()));
            let placed: Vec<_> = snapshot.workloads_on(&id).collect();
            if !force && let Some(why) = kept_by(snapshot, &host) {
                return Err(Error::conflict(why));
            }
            for workload in placed {
                tx = forget(snapshot, tx, &workload, &id);
            }
            if snapshot.workloads_left_on(&id).next().is_some() {
                return Err(Error::conflict(format!(
                    "something was just moved away from host {}: try again",
                    host.name
                )));
            }
            Ok((Some(tx), ()))
        })
        .await?;
        self.inner.hub.disconnect(&id);
        Ok(())
    }

    /// Deletes records of a host's workloads until so few are left that they fit into one transaction with the host
    /// itself.
    async fn forget_workloads_on(&self, grant: &Grant, host: &HostId) -> Result<()> {
        loop {
            let more = self
                .change(grant, |snapshot| {
                    if snapshot.workloads_on(host).count() <= AT_ONCE_MAX {
                        return Ok((None, false));
                    }
                    let mut tx = Transaction::new();
                    for workload in snapshot.workloads_on(host).take(AT_ONCE_MAX) {
                        tx = forget(snapshot, tx, &workload, host);
                    }
                    Ok((Some(tx), true))
                })
                .await?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Nobody waits any more for a host to remove what was taken away from it.
    async fn forget_left_on(&self, grant: &Grant, host: &HostId) -> Result<()> {
        loop {
            let more = self
                .change(grant, |snapshot| {
                    let mut tx = Transaction::new();
                    for workload in snapshot.workloads_left_on(host).take(AT_ONCE_MAX) {
                        tx = crate::observe::nothing_left(tx, &workload, host);
                    }
                    let more = !tx.is_empty();
                    Ok((more.then_some(tx), more))
                })
                .await?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Changes a host's record on behalf of the installation itself.
    pub(crate) async fn host_change(
        &self,
        id: &HostId,
        mut edit: impl FnMut(&mut Host),
    ) -> Result<()> {
        let grant = self.own_grant(Action::HostManage)?;
        self.change(&grant, |snapshot| {
            let row = snapshot
                .host(id)
                .ok_or_else(|| Error::not_found("host", id.as_str()))?;
            let mut changed = row.value().clone();
            edit(&mut changed);
            if changed == *row.value() {
                return Ok((None, ()));
            }
            Ok((
                Some(Transaction::new().update(row.revision(), Object::Host(changed))),
                (),
            ))
        })
        .await
    }

    /// After a start of the server no link is open yet.
    pub(crate) async fn mark_all_hosts_disconnected(&self) -> Result<()> {
        let ids: Vec<HostId> = self
            .snapshot()
            .hosts()
            .filter(|host| host.status.connected)
            .map(|host| host.id.clone())
            .collect();
        for id in ids {
            self.host_change(&id, |host| {
                host.status.connected = false;
                // Who had a link to it before may have heard it until now.
                host.status.silent_ms = 0;
            })
            .await?;
        }
        Ok(())
    }

    /// The grant of the installation's own controllers.
    pub(crate) fn own_grant(&self, action: Action) -> Result<Grant> {
        let own = Caller::installation();
        authorise(&self.snapshot(), &own, action, Scope::Installation)
    }
}

/// A workload goes with its host: its record at once, or, while other hosts still have to remove what they have of it,
/// after that.
fn forget(
    snapshot: &Snapshot,
    tx: Transaction,
    row: &Row<'_, Workload>,
    host: &HostId,
) -> Transaction {
    let mut changed = row.value().clone();
    let elsewhere = |id: &HostId| id != host && snapshot.host(id).is_some();
    changed.left.retain(|id, _| elsewhere(id));
    if changed.left.is_empty() {
        return tx.delete_unchanged(row.revision(), Key::Workload(changed.id));
    }
    mark_removed(&mut changed);
    changed.host = None;
    tx.update(row.revision(), Object::Workload(changed))
}

/// Why a host cannot be removed without losing something: what would be forgotten, and what is not; `None`: it can.
fn kept_by(snapshot: &Snapshot, host: &Host) -> Option<String> {
    let name = &host.name;
    let lost = host.status.lost_at.is_some();
    let mut named = snapshot
        .workloads_on(&host.id)
        .filter(|workload| workload.desired != DesiredState::Removed);
    let moved = snapshot.workloads_left_on(&host.id).count();
    let elsewhere = match moved {
        0 if lost => "; none that was there has been started elsewhere".to_owned(),
        0 => String::new(),
        1 => "; 1 that was there has been started elsewhere".to_owned(),
        many => format!("; {many} that were there have been started elsewhere"),
    };
    if let Some(first) = named.next() {
        let more = match named.count() {
            0 => format!("workload {}, which", first.name),
            more => format!("{} workloads (for example {}), which", more + 1, first.name),
        };
        return Some(format!(
            "host {name} has {more} would be forgotten with all files there{elsewhere}: see `plimsoll host drain {name} \
             --dry-run` for what becomes of each, or use force to forget them"
        ));
    }
    let these = match moved {
        0 => return images_kept_by(snapshot, host),
        1 => "1 workload that is elsewhere now".to_owned(),
        many => format!("{many} workloads that are elsewhere now"),
    };
    Some(if host.status.connected {
        format!(
            "host {name} still has to remove what it has of {these}: wait a moment, or use force to leave that there"
        )
    } else {
        format!(
            "host {name} cannot be reached and still has to remove what it has of {these}: wait until it is back, or \
             use force to forget it with what is left there"
        )
    })
}

/// Which images would be lost with a host; `None`: none.
fn images_kept_by(snapshot: &Snapshot, host: &Host) -> Option<String> {
    let name = &host.name;
    let images = lost_with(snapshot, &host.id);
    let shown = images.iter().take(IMAGES_NAMED).map(|it| it.name.as_str());
    let shown = shown.collect::<Vec<_>>().join(", ");
    let what = match images.len() {
        0 => return None,
        1 => format!("image {shown}, which"),
        many if many <= IMAGES_NAMED => format!("images {shown}, which"),
        many => format!("{many} images (for example {shown}), which"),
    };
    let copied = images.iter().all(|it| it.fate == OnlyCopy::Leaves);
    let how = if copied && host.drain.is_some() {
        "wait until other hosts have copies".to_owned()
    } else if copied {
        format!("use `plimsoll host drain {name}`, which waits until other hosts have copies")
    } else {
        "save what is needed with `docker save`, or add a host that may have it".to_owned()
    };
    Some(format!(
        "host {name} has {what} no registry and no other host that stays has: {how}, or use force to lose that"
    ))
}

pub(crate) fn find(snapshot: &Snapshot, reference: &str) -> Result<Kept<Host>> {
    let by_name = || {
        Name::parse(reference)
            .ok()
            .and_then(|name| snapshot.host_by_name(&name))
    };
    let by_id = || {
        HostId::parse(reference)
            .ok()
            .and_then(|id| snapshot.host(&id))
    };
    by_name()
        .or_else(by_id)
        .map(Kept::from)
        .ok_or_else(|| Error::not_found("host", reference))
}
