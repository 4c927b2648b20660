//! Verbs on registries. They are reached by hosts; nothing is kept here.

use model::PoolId;
use wire::link::{Credentials, LoginRequest, StreamRequest};

use crate::caller::{Action, Caller, Scope};
use crate::core::Control;
use crate::error::{Error, ErrorKind, Result};

impl Control {
    /// Asks a registry, from one of the pool's hosts, whether it accepts credentials. They are not kept.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`] when it does not accept them; otherwise when the caller may not import images, no
    /// host is ready, or the registry cannot be reached.
    pub async fn registry_login(
        &self,
        caller: &Caller,
        pool: &PoolId,
        registry: &str,
        credentials: Credentials,
    ) -> Result<()> {
        let snapshot = self.snapshot();
        self.grant(&snapshot, caller, Action::ImageImport, Scope::Pool(pool))?;
        let host = crate::images::import_host(&snapshot, None)?;
        let request = StreamRequest::Login(LoginRequest {
            registry: registry.to_owned(),
            credentials,
        });
        self.request_host(&host, request)
            .await
            .map_err(|error| match error.kind {
                ErrorKind::Forbidden => Error::new(ErrorKind::Unauthenticated, error.message),
                _ => error,
            })
    }
}
