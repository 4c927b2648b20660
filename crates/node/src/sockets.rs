//! A Unix socket with a Docker endpoint for every pool, made and removed as pools come and go.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use control::{Caller, Control};
use model::PoolId;
use tokio_util::sync::CancellationToken;

/// Keeps `folder/POOL.sock` for every pool until `shutdown`.
pub(crate) async fn keep(
    control: Control,
    folder: PathBuf,
    shutdown: CancellationToken,
) -> Result<()> {
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let mut revisions = control.store().revisions();
    let mut open: HashMap<PoolId, (String, CancellationToken)> = HashMap::new();
    adjust(&control, &folder, &mut open, &shutdown).await;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() { return },
                () = shutdown.cancelled() => return,
            }
            revisions.borrow_and_update();
            adjust(&control, &folder, &mut open, &shutdown).await;
        }
    });
    Ok(())
}

async fn adjust(
    control: &Control,
    folder: &std::path::Path,
    open: &mut HashMap<PoolId, (String, CancellationToken)>,
    shutdown: &CancellationToken,
) {
    let snapshot = control.snapshot();
    open.retain(|id, (name, ended)| {
        let stays = snapshot
            .pool(id)
            .is_some_and(|pool| pool.name.as_str() == name);
        if !stays {
            ended.cancel();
            let _ = std::fs::remove_file(folder.join(format!("{name}.sock")));
        }
        stays
    });
    for pool in snapshot.pools() {
        if open.contains_key(&pool.id) {
            continue;
        }
        let ended = shutdown.child_token();
        let path = folder.join(format!("{}.sock", pool.name));
        let router =
            api::docker::router(control.clone(), pool.id.clone(), Caller::pool_socket(&pool));
        match crate::listen::unix(path, router, ended.clone()).await {
            Ok(()) => {
                open.insert(pool.id.clone(), (pool.name.to_string(), ended));
            }
            Err(error) => {
                tracing::error!(pool = %pool.name, error = format!("{error:#}"), "no socket for the pool")
            }
        }
    }
}
