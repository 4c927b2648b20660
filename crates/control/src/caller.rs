//! Who acts, and what they may do.

use model::{Binding, Pool, PoolId, Principal, PrincipalId, Role};
use store::Snapshot;

use crate::error::{Error, ErrorKind, Result};

/// Who calls a verb.
#[derive(Debug, Clone)]
pub struct Caller {
    /// For audit and logs.
    pub name: String,
    bindings: Vec<Binding>,
    /// The stored principal, if it is one.
    principal: Option<PrincipalId>,
}

impl Caller {
    /// Whoever can open the server's own Unix socket: root of the machine.
    #[must_use]
    pub fn local_admin() -> Self {
        Self {
            name: "local-admin".into(),
            bindings: vec![Binding {
                role: Role::Admin,
                pool: None,
            }],
            principal: None,
        }
    }

    /// The installation's own controllers.
    pub(crate) fn installation() -> Self {
        Self {
            name: "plimsoll".into(),
            ..Self::local_admin()
        }
    }

    /// Whoever can open a pool's Unix socket: a developer of that pool and no other.
    #[must_use]
    pub fn pool_socket(pool: &Pool) -> Self {
        Self {
            name: format!("socket of pool {}", pool.name),
            bindings: vec![Binding {
                role: Role::Developer,
                pool: Some(pool.id.clone()),
            }],
            principal: None,
        }
    }

    /// A principal with its stored bindings.
    #[must_use]
    pub fn from_principal(principal: &Principal) -> Self {
        Self {
            name: principal.name.to_string(),
            bindings: principal.bindings.clone(),
            principal: Some(principal.id.clone()),
        }
    }

    /// A holder of a pool's endpoint certificate.
    #[must_use]
    pub fn endpoint(name: String, pool: PoolId) -> Self {
        Self {
            name,
            bindings: vec![Binding {
                role: Role::Developer,
                pool: Some(pool),
            }],
            principal: None,
        }
    }

    /// The stored principal, if it is one.
    pub(crate) fn principal(&self) -> Option<&PrincipalId> {
        self.principal.as_ref()
    }
}

/// The closed list of what can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Version and health of the installation.
    SystemRead,
    /// See a pool.
    PoolRead,
    /// Make a pool (below the one named, or at the top).
    PoolCreate,
    /// Change description and labels of a pool.
    PoolUpdate,
    /// Change what a pool's tenants may ask for.
    PoolPolicy,
    /// Change what a pool may use of its parent, or move it: asked for at the parent.
    PoolSlice,
    /// Delete a pool.
    PoolDelete,
    /// Get credentials for a pool's endpoint: with them a principal can do there what it can do anyway.
    PoolAccess,
    /// See workloads, their output and measures.
    WorkloadRead,
    /// Make workloads.
    WorkloadCreate,
    /// Start, stop, pause, rename, change workloads.
    WorkloadControl,
    /// Run something in a workload or write to its input.
    WorkloadExec,
    /// Delete workloads.
    WorkloadDelete,
    /// See images and save them.
    ImageRead,
    /// Pull, load, tag images.
    ImageImport,
    /// Delete images.
    ImageDelete,
    /// See networks.
    NetworkRead,
    /// Make networks.
    NetworkCreate,
    /// Delete networks.
    NetworkDelete,
    /// See hosts.
    HostRead,
    /// Add, cordon and remove hosts.
    HostManage,
    /// See principals and tokens.
    PrincipalRead,
    /// Make, bind and delete principals and tokens.
    PrincipalManage,
    /// Change what holds for the whole installation.
    InstallationManage,
}

impl Action {
    /// Every action.
    pub const ALL: [Action; 24] = [
        Action::SystemRead,
        Action::PoolRead,
        Action::PoolCreate,
        Action::PoolUpdate,
        Action::PoolPolicy,
        Action::PoolSlice,
        Action::PoolDelete,
        Action::PoolAccess,
        Action::WorkloadRead,
        Action::WorkloadCreate,
        Action::WorkloadControl,
        Action::WorkloadExec,
        Action::WorkloadDelete,
        Action::ImageRead,
        Action::ImageImport,
        Action::ImageDelete,
        Action::NetworkRead,
        Action::NetworkCreate,
        Action::NetworkDelete,
        Action::HostRead,
        Action::HostManage,
        Action::PrincipalRead,
        Action::PrincipalManage,
        Action::InstallationManage,
    ];

    fn words(self) -> &'static str {
        match self {
            Action::SystemRead => "read the system's state",
            Action::PoolRead => "see the pool",
            Action::PoolCreate => "make a pool here",
            Action::PoolUpdate => "change the pool",
            Action::PoolPolicy => "change the pool's policy",
            Action::PoolSlice => "change what a pool may use here",
            Action::PoolDelete => "delete the pool",
            Action::PoolAccess => "issue credentials for the pool",
            Action::WorkloadRead => "see workloads",
            Action::WorkloadCreate => "make workloads",
            Action::WorkloadControl => "control workloads",
            Action::WorkloadExec => "run something in workloads",
            Action::WorkloadDelete => "delete workloads",
            Action::ImageRead => "see images",
            Action::ImageImport => "add images",
            Action::ImageDelete => "delete images",
            Action::NetworkRead => "see networks",
            Action::NetworkCreate => "make networks",
            Action::NetworkDelete => "delete networks",
            Action::HostRead => "see hosts",
            Action::HostManage => "manage hosts",
            Action::PrincipalRead => "see principals",
            Action::PrincipalManage => "manage principals",
            Action::InstallationManage => "change the installation's settings",
        }
    }
}

/// Where something is to be done.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// The whole installation.
    Installation,
    /// One pool.
    Pool(&'a PoolId),
}

/// Proof that a caller was authorised; only [`authorise`] makes one, and every commit of a verb asks for it.
#[derive(Debug)]
#[expect(
    clippy::manual_non_exhaustive,
    reason = "nobody in this crate may make one by hand either"
)]
pub struct Grant {
    /// Who.
    pub caller: String,
    /// For what.
    pub action: Action,
    _proof: (),
}

/// Checks one action at one place; denies by default.
///
/// # Errors
/// `NotFound` when the caller may not even see the pool (so that it cannot probe for pools), else `Forbidden`.
pub fn authorise(
    snapshot: &Snapshot,
    caller: &Caller,
    action: Action,
    scope: Scope<'_>,
) -> Result<Grant> {
    let allowed = |action| {
        caller
            .bindings
            .iter()
            .any(|binding| covers(snapshot, binding, scope) && role_allows(binding, action))
    };
    if allowed(action) {
        return Ok(Grant {
            caller: caller.name.clone(),
            action,
            _proof: (),
        });
    }
    match scope {
        Scope::Pool(pool) if !allowed(Action::PoolRead) => {
            Err(Error::not_found("pool", pool.as_str()))
        }
        Scope::Pool(_) | Scope::Installation => Err(Error::new(
            ErrorKind::Forbidden,
            format!(
                "{} may not {}: ask an administrator for a role that allows it",
                caller.name,
                action.words()
            ),
        )),
    }
}

/// A binding covers its own pool and all below it; one to the installation covers everything.
fn covers(snapshot: &Snapshot, binding: &Binding, scope: Scope<'_>) -> bool {
    let Some(bound) = &binding.pool else {
        return true;
    };
    let Scope::Pool(pool) = scope else {
        return false;
    };
    ancestors(snapshot, pool).any(|id| id == *bound)
}

/// Deepest accepted nesting of pools: bounds every walk up the tree.
pub(crate) const POOL_DEPTH_MAX: usize = 16;

/// The pool itself and every pool above it.
pub(crate) fn ancestors<'a>(
    snapshot: &'a Snapshot,
    pool: &PoolId,
) -> impl Iterator<Item = PoolId> + 'a {
    std::iter::successors(Some(pool.clone()), |id| {
        snapshot.pool(id).and_then(|pool| pool.parent.clone())
    })
    .take(POOL_DEPTH_MAX)
}

#[expect(
    clippy::too_many_lines,
    reason = "one table: every role with every action"
)]
fn role_allows(binding: &Binding, action: Action) -> bool {
    use Action as A;
    let installation = binding.pool.is_none();
    match binding.role {
        Role::Admin if installation => true,
        Role::Admin | Role::PoolAdmin => match action {
            A::SystemRead
            | A::PoolRead
            | A::PoolCreate
            | A::PoolUpdate
            | A::PoolSlice
            | A::PoolDelete
            | A::PoolAccess
            | A::WorkloadRead
            | A::WorkloadCreate
            | A::WorkloadControl
            | A::WorkloadExec
            | A::WorkloadDelete
            | A::ImageRead
            | A::ImageImport
            | A::ImageDelete
            | A::NetworkRead
            | A::NetworkCreate
            | A::NetworkDelete => true,
            A::PoolPolicy
            | A::HostRead
            | A::HostManage
            | A::PrincipalRead
            | A::PrincipalManage
            | A::InstallationManage => false,
        },
        Role::Developer => match action {
            A::SystemRead
            | A::PoolRead
            | A::PoolAccess
            | A::WorkloadRead
            | A::WorkloadCreate
            | A::WorkloadControl
            | A::WorkloadExec
            | A::WorkloadDelete
            | A::ImageRead
            | A::ImageImport
            | A::ImageDelete
            | A::NetworkRead
            | A::NetworkCreate
            | A::NetworkDelete => true,
            A::PoolCreate
            | A::PoolUpdate
            | A::PoolPolicy
            | A::PoolSlice
            | A::PoolDelete
            | A::HostRead
            | A::HostManage
            | A::PrincipalRead
            | A::PrincipalManage
            | A::InstallationManage => false,
        },
        Role::Viewer => match action {
            A::SystemRead
            | A::PoolRead
            | A::PoolAccess
            | A::WorkloadRead
            | A::ImageRead
            | A::NetworkRead => true,
            A::PoolCreate
            | A::PoolUpdate
            | A::PoolPolicy
            | A::PoolSlice
            | A::PoolDelete
            | A::WorkloadCreate
            | A::WorkloadControl
            | A::WorkloadExec
            | A::WorkloadDelete
            | A::ImageImport
            | A::ImageDelete
            | A::NetworkCreate
            | A::NetworkDelete
            | A::HostRead
            | A::HostManage
            | A::PrincipalRead
            | A::PrincipalManage
            | A::InstallationManage => false,
        },
    }
}
