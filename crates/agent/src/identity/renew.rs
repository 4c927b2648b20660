//! Which certificate is shown, and a new one before the old one expires.
//!
//! A renewed certificate is first only tried: the old one stays until a session with the new one was welcomed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::{HostId, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use wire::link::RenewRequest;

use super::{Credential, IdentityError, IdentityFolder, ask, key_and_request};
use crate::clock::Clock;
use crate::core::chain;
use crate::link::Links;

/// How often the age of the certificate is looked at, at least: clocks can be set.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// Wait after a failed renewal; a third of the lifetime is left for it.
const RENEW_AGAIN: Duration = Duration::from_secs(60);

/// The certificates a host has, shared by its links.
#[derive(Debug)]
pub(crate) struct Credentials {
    folder: IdentityFolder,
    host: HostId,
    state: Mutex<State>,
    /// Told when there is a new certificate to try.
    renewed: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    current: Credential,
    next: Option<Credential>,
}

/// What a link shows: TLS, and whether it is a certificate on trial.
pub(crate) struct Shown {
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) on_trial: bool,
}

impl Credentials {
    pub(crate) fn load(folder: IdentityFolder) -> Result<Option<Self>, IdentityError> {
        let Some(current) = folder.load()? else {
            return Ok(None);
        };
        let next = folder.load_next().unwrap_or_else(|e| {
            warn!(error = %e, "a renewed identity is not readable and is left out");
            None
        });
        Ok(Some(Self {
            folder,
            host: current.identity.host.clone(),
            state: Mutex::new(State { current, next }),
            renewed: watch::channel(0).0,
        }))
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state)
    }

    pub(crate) fn host(&self) -> &HostId {
        &self.host
    }

    /// What the next connection shows.
    pub(crate) fn show(&self) -> Result<Shown, IdentityError> {
        let (credential, on_trial) = self.with(|s| match &s.next {
            Some(next) => (next.clone(), true),
            None => (s.current.clone(), false),
        });
        Ok(Shown {
            tls: credential.tls()?,
            on_trial,
        })
    }

    /// A session with the certificate on trial was welcomed.
    pub(crate) fn works(&self) {
        let promoted = self.with(|s| match s.next.take() {
            Some(next) => {
                s.current = next;
                true
            }
            None => false,
        });
        if promoted {
            match self.folder.promote() {
                Ok(()) => info!("the renewed certificate works"),
                Err(e) => warn!(error = %chain(&e), "cannot keep the renewed certificate"),
            }
        }
    }

    /// The certificate on trial was refused: back to the old one.
    pub(crate) fn does_not_work(&self) {
        if self.with(|s| s.next.take()).is_some() {
            warn!("the renewed certificate was refused; going on with the old one");
            self.folder.discard_next();
        }
    }

    /// Changes when there is a new certificate to try.
    pub(crate) fn renewals(&self) -> watch::Receiver<u64> {
        self.renewed.subscribe()
    }

    /// When two thirds of the lifetime are over.
    fn due(&self) -> Option<Timestamp> {
        let pem = self.with(|s| s.current.identity.certificate_pem.clone());
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
        let certificate = pem.parse_x509().ok()?;
        let validity = certificate.validity();
        let (from, to) = (
            validity.not_before.timestamp(),
            validity.not_after.timestamp(),
        );
        Some(Timestamp((from + (to - from) * 2 / 3).saturating_mul(1000)))
    }

    async fn renew(&self, links: &Links) -> Result<(), IdentityError> {
        let (server, mut sender) = links.any().ok_or(IdentityError::NoServer)?;
        let (key_pem, csr_pem) = key_and_request(self.host.as_str())?;
        let identity = ask(&mut sender, &server, "renew", &RenewRequest { csr_pem }).await?;
        if identity.host != self.host {
            return Err(IdentityError::Answer("for another host".to_owned()));
        }
        let next = Credential { identity, key_pem };
        next.tls()?;
        self.folder.store_next(&next)?;
        self.with(|s| s.next = Some(next));
        self.renewed.send_modify(|n| *n += 1);
        Ok(())
    }
}

/// Renews the certificate whenever it is time.
pub(crate) async fn renew_when_due(
    credentials: Arc<Credentials>,
    links: Arc<Links>,
    clock: Clock,
    shutdown: CancellationToken,
) {
    let mut opened = links.opened();
    loop {
        opened.borrow_and_update();
        let mut no_server = false;
        let wait = match credentials.due() {
            Some(due) if due <= clock.now() => {
                match credentials.renew(&links).await {
                    Ok(()) => info!("certificate renewed"),
                    Err(IdentityError::NoServer) => no_server = true,
                    Err(e) => {
                        warn!(error = %chain(&e), "cannot renew the certificate, trying again");
                    }
                }
                RENEW_AGAIN
            }
            Some(due) => {
                let millis = due.millis().saturating_sub(clock.now().millis());
                Duration::from_millis(u64::try_from(millis).unwrap_or(0)).min(LOOK_EVERY)
            }
            None => {
                warn!("the host's certificate is not readable: it will not be renewed");
                LOOK_EVERY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            Ok(()) = opened.changed(), if no_server => {}
            () = shutdown.cancelled() => return,
        }
    }
}
