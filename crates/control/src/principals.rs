//! Verbs on principals and their tokens; authentication.

use model::{AccessToken, Binding, Name, Object, Principal, PrincipalId, Role, TokenId};
use store::{Snapshot, Transaction};
use subtle::ConstantTimeEq as _;

use crate::caller::{Action, Caller, Scope};
use crate::core::{Control, now, random, sha256_hex};
use crate::error::{Error, ErrorKind, Result};
use crate::kept::Kept;
use crate::metrics::Counters;
use crate::pki::Subject;

/// What a new principal is to be.
#[derive(Debug, Clone)]
pub struct PrincipalCreate {
    /// Unique in the installation.
    pub name: Name,
    /// Roles, each at a pool (by name or id) or at the whole installation.
    pub bindings: Vec<(Role, Option<String>)>,
}

/// Text in front of every access token.
const TOKEN_PREFIX: &str = "plmt";

impl Control {
    /// All principals, by name.
    ///
    /// # Errors
    /// When the caller may not.
    pub fn principal_list(&self, caller: &Caller) -> Result<Vec<Kept<Principal>>> {
        let snapshot = self.snapshot();
        self.grant(
            &snapshot,
            caller,
            Action::PrincipalRead,
            Scope::Installation,
        )?;
        let mut all: Vec<Kept<Principal>> = snapshot.principals().map(Kept::from).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// A principal by name or id.
    ///
    /// # Errors
    /// When there is none or the caller may not.
    pub fn principal_find(&self, caller: &Caller, reference: &str) -> Result<Kept<Principal>> {
        let snapshot = self.snapshot();
        self.grant(
            &snapshot,
            caller,
            Action::PrincipalRead,
            Scope::Installation,
        )?;
        find(&snapshot, reference)
    }

    /// Makes a principal.
    ///
    /// # Errors
    /// When the name is taken or a pool is missing.
    pub async fn principal_create(
        &self,
        caller: &Caller,
        create: PrincipalCreate,
    ) -> Result<Kept<Principal>> {
        let snapshot = self.snapshot();
        let grant = self.grant(
            &snapshot,
            caller,
            Action::PrincipalManage,
            Scope::Installation,
        )?;
        let principal = Principal {
            id: PrincipalId::from_bytes(&random()?),
            name: create.name,
            bindings: self.bindings(caller, &create.bindings)?,
            created_at: now(),
        };
        let id = principal.id.clone();
        self.commit(
            &grant,
            Transaction::new().create(Object::Principal(principal)),
        )
        .await?;
        find(&self.snapshot(), id.as_str())
    }

    /// Replaces a principal's bindings.
    ///
    /// # Errors
    /// When there is none or a pool is missing.
    pub async fn principal_bind(
        &self,
        caller: &Caller,
        reference: &str,
        bindings: &[(Role, Option<String>)],
    ) -> Result<Kept<Principal>> {
        let snapshot = self.snapshot();
        let grant = self.grant(
            &snapshot,
            caller,
            Action::PrincipalManage,
            Scope::Installation,
        )?;
        let bindings = self.bindings(caller, bindings)?;
        self.change(&grant, |snapshot| {
            let found = find(snapshot, reference)?;
            let changed = Principal {
                bindings: bindings.clone(),
                ..(*found).clone()
            };
            Ok((
                Some(Transaction::new().update(found.revision(), Object::Principal(changed))),
                (),
            ))
        })
        .await?;
        find(&self.snapshot(), reference)
    }

    /// Deletes a principal and all its tokens.
    ///
    /// # Errors
    /// When there is none.
    pub async fn principal_delete(&self, caller: &Caller, reference: &str) -> Result<()> {
        let snapshot = self.snapshot();
        let grant = self.grant(
            &snapshot,
            caller,
            Action::PrincipalManage,
            Scope::Installation,
        )?;
        self.change(&grant, |snapshot| {
            let found = find(snapshot, reference)?;
            let mut tx = Transaction::new()
                .delete_unchanged(found.revision(), model::Key::Principal(found.id.clone()));
            for token in snapshot
                .access_tokens()
                .filter(|token| token.principal == found.id)
            {
                tx = tx.delete(model::Key::AccessToken(token.id.clone()));
            }
            Ok((Some(tx), ()))
        })
        .await
    }

    fn bindings(&self, caller: &Caller, wanted: &[(Role, Option<String>)]) -> Result<Vec<Binding>> {
        wanted
            .iter()
            .map(|(role, pool)| {
                let pool = pool
                    .as_deref()
                    .map(|pool| self.pool_find(caller, pool))
                    .transpose()?;
                if *role == Role::Admin && pool.is_some() {
                    return Err(Error::invalid(
                        "the role admin is for the whole installation: use pool-admin for a pool",
                    ));
                }
                Ok(Binding {
                    role: *role,
                    pool: pool.map(|pool| pool.id.clone()),
                })
            })
            .collect()
    }

    /// Makes a token; its text is returned once and never again.
    ///
    /// # Errors
    /// When there is no such principal.
    pub async fn token_create(
        &self,
        caller: &Caller,
        principal: &str,
        description: String,
        ttl_seconds: Option<u64>,
    ) -> Result<(String, AccessToken)> {
        let snapshot = self.snapshot();
        let grant = self.grant(
            &snapshot,
            caller,
            Action::PrincipalManage,
            Scope::Installation,
        )?;
        let principal = find(&snapshot, principal)?;
        let secret = hex::encode(random()?);
        let ttl = ttl_seconds.map(|s| {
            i64::try_from(s)
                .unwrap_or(i64::MAX / 2000)
                .saturating_mul(1000)
        });
        let token = AccessToken {
            id: TokenId::from_bytes(&random()?),
            principal: principal.id.clone(),
            secret_sha256: sha256_hex(secret.as_bytes()),
            description,
            created_at: now(),
            expires_at: ttl.map(|millis| now().plus_millis(millis)),
        };
        let tx = Transaction::new()
            .expect(
                model::Key::Principal(principal.id.clone()),
                store::Expect::Exists,
            )
            .create(Object::AccessToken(token.clone()));
        self.commit(&grant, tx).await?;
        Ok((format!("{TOKEN_PREFIX}.{}.{secret}", token.id), token))
    }

    /// All tokens, without their secrets.
    ///
    /// # Errors
    /// When the caller may not.
    pub fn token_list(&self, caller: &Caller) -> Result<Vec<Kept<AccessToken>>> {
        let snapshot = self.snapshot();
        self.grant(
            &snapshot,
            caller,
            Action::PrincipalRead,
            Scope::Installation,
        )?;
        Ok(snapshot.access_tokens().map(Kept::from).collect())
    }

    /// Deletes a token: it stops working at once.
    ///
    /// # Errors
    /// When there is none.
    pub async fn token_delete(&self, caller: &Caller, id: &TokenId) -> Result<()> {
        let snapshot = self.snapshot();
        let grant = self.grant(
            &snapshot,
            caller,
            Action::PrincipalManage,
            Scope::Installation,
        )?;
        if snapshot.access_token(id).is_none() {
            return Err(Error::not_found("token", id.as_str()));
        }
        self.commit(
            &grant,
            Transaction::new().delete(model::Key::AccessToken(id.clone())),
        )
        .await?;
        Ok(())
    }

    /// Who a token's text stands for. Every failure looks the same from outside.
    ///
    /// # Errors
    /// `Unauthenticated`.
    pub fn authenticate_token(&self, text: &str) -> Result<Caller> {
        let denied = || {
            Counters::add(&self.inner.counters.denied, 1);
            Error::new(
                ErrorKind::Unauthenticated,
                "the token is not valid: log in again with `plimsoll login`",
            )
        };
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [TOKEN_PREFIX, id, secret] = parts[..] else {
            return Err(denied());
        };
        let id = TokenId::parse(id).map_err(|_| denied())?;
        let snapshot = self.snapshot();
        let token = snapshot.access_token(&id).ok_or_else(denied)?;
        let same = token
            .secret_sha256
            .as_bytes()
            .ct_eq(sha256_hex(secret.as_bytes()).as_bytes());
        let expired = token.expires_at.is_some_and(|at| at <= now());
        if !bool::from(same) || expired {
            return Err(denied());
        }
        let principal = snapshot.principal(&token.principal).ok_or_else(denied)?;
        Ok(Caller::from_principal(&principal))
    }

    /// Whom a client certificate of a pool's endpoint (already verified against the CA) stands for, and the pool.
    ///
    /// # Errors
    /// `Unauthenticated` when it is none, or its pool is gone.
    pub fn authenticate_certificate(&self, der: &[u8]) -> Result<(Caller, model::PoolId)> {
        let denied = || {
            Error::new(
                ErrorKind::Unauthenticated,
                "the client certificate is not one of a pool's endpoint, or its user is gone",
            )
        };
        match Subject::of_certificate(der) {
            Some(Subject::Endpoint(pool)) => {
                let snapshot = self.snapshot();
                let found = snapshot.pool(&pool).ok_or_else(denied)?;
                Ok((
                    Caller::endpoint(format!("certificate of pool {}", found.name), pool),
                    found.id.clone(),
                ))
            }
            Some(Subject::User(pool, principal)) => {
                // Looked up every time: who is removed, or has lost the role, is out at once.
                let snapshot = self.snapshot();
                let principal = snapshot.principal(&principal).ok_or_else(denied)?;
                let caller = Caller::from_principal(&principal);
                self.grant(&snapshot, &caller, Action::PoolRead, Scope::Pool(&pool))
                    .map_err(|_| denied())?;
                Ok((caller, pool))
            }
            Some(Subject::Host(_)) | None => Err(denied()),
        }
    }
}

fn find(snapshot: &Snapshot, reference: &str) -> Result<Kept<Principal>> {
    let by_name = || {
        Name::parse(reference)
            .ok()
            .and_then(|name| snapshot.principal_by_name(&name))
    };
    let by_id = || {
        PrincipalId::parse(reference)
            .ok()
            .and_then(|id| snapshot.principal(&id))
    };
    by_name()
        .or_else(by_id)
        .map(Kept::from)
        .ok_or_else(|| Error::not_found("user", reference))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn credentials_of_a_pool_end_with_their_user_and_allow_what_its_roles_allow() {
        let control = Control::for_tests().await.unwrap();
        let (admin, red) = (
            Caller::local_admin(),
            control.test_pool("red").await.unwrap(),
        );
        let create = PrincipalCreate {
            name: Name::parse("eve").unwrap(),
            bindings: vec![(Role::Viewer, Some("red".into()))],
        };
        let eve = control.principal_create(&admin, create).await.unwrap();
        let caller = Caller::from_principal(&eve);
        let issued = control.pool_certificate(&caller, "red", 1).await.unwrap();
        let der = crate::pki::pem_to_der(&issued.cert_pem).unwrap();
        let (seen, pool) = control.authenticate_certificate(&der).unwrap();
        assert_eq!(pool, red);
        let snapshot = control.snapshot();
        let may = |action| {
            control
                .grant(&snapshot, &seen, action, Scope::Pool(&red))
                .is_ok()
        };
        assert!(may(Action::WorkloadRead) && !may(Action::WorkloadCreate));
        control.principal_bind(&admin, "eve", &[]).await.unwrap();
        assert!(
            control.authenticate_certificate(&der).is_err(),
            "it has lost its role"
        );
        control.principal_delete(&admin, "eve").await.unwrap();
        assert!(control.authenticate_certificate(&der).is_err());
    }
}
