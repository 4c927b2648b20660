//! People who use the cluster, all at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use control::workloads::{RemoveOptions, StopOptions};
use control::{Caller, Control, ErrorKind};
use model::{ImageId, PoolId, WorkloadId, WorkloadSpec};
use tokio::task::JoinSet;

use crate::loopback::Options;
use crate::loopback::random::Random;
use crate::loopback::world::World;

/// Longest time a person waits for an answer; the operation goes on without them.
const PATIENCE: Duration = Duration::from_secs(3);

/// Everybody at work.
pub struct Crowd {
    people: JoinSet<Result<u64>>,
    working: Arc<AtomicU64>,
}

impl Crowd {
    /// Whether everybody has done their steps.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.working.load(Ordering::Relaxed) == 0
    }

    /// Waits for everybody; gives the number of operations that worked.
    ///
    /// # Errors
    /// When an operation failed in a way that no trouble explains.
    pub async fn finish(mut self) -> Result<u64> {
        let mut done = 0;
        while let Some(person) = self.people.join_next().await {
            done += person.context("a person fell over")??;
        }
        Ok(done)
    }
}

struct Person {
    control: Control,
    pool: PoolId,
    image: ImageId,
    random: Random,
    own: Vec<WorkloadId>,
    admin: Caller,
}

/// Sends everybody to work.
pub fn start(world: &World, options: &Options, random: &mut Random) -> Crowd {
    let mut people = JoinSet::new();
    let working = Arc::new(AtomicU64::new(u64::from(options.operators)));
    for _ in 0..options.operators {
        let mut person = Person {
            control: world.server.control.clone(),
            pool: world.pool.clone(),
            image: world.image.clone(),
            random: random.fork(),
            own: Vec::new(),
            admin: Caller::local_admin(),
        };
        let (steps, working) = (options.steps, working.clone());
        people.spawn(async move {
            let mut done = 0;
            for _ in 0..steps {
                done += u64::from(person.step().await?);
            }
            working.fetch_sub(1, Ordering::Relaxed);
            Ok(done)
        });
    }
    Crowd { people, working }
}

impl Person {
    /// Does one thing; says whether it worked.
    async fn step(&mut self) -> Result<bool> {
        let what = self.random.below(100);
        let id = self.random.pick(&self.own).cloned();
        let action = match (id, what) {
            (None, _) | (_, 0..25) => {
                let id = self.create().await?;
                self.own.push(id.clone());
                tokio::time::timeout(PATIENCE, self.start(&id)).await
            }
            (Some(id), 25..40) => tokio::time::timeout(PATIENCE, self.start(&id)).await,
            (Some(id), 40..60) => tokio::time::timeout(PATIENCE, self.stop(&id)).await,
            (Some(id), 60..70) => {
                let work = self
                    .control
                    .workload_restart(&self.admin, &self.pool, &id, quick());
                tokio::time::timeout(PATIENCE, work).await
            }
            (Some(id), 70..78) => {
                let work = self.control.workload_pause(&self.admin, &self.pool, &id);
                tokio::time::timeout(PATIENCE, work).await
            }
            (Some(id), 78..86) => {
                let work = self.control.workload_resume(&self.admin, &self.pool, &id);
                tokio::time::timeout(PATIENCE, work).await
            }
            (Some(id), _) => {
                let options = RemoveOptions {
                    force: true,
                    volumes: true,
                };
                let work = self
                    .control
                    .workload_remove(&self.admin, &self.pool, &id, options);
                let result = tokio::time::timeout(PATIENCE, work).await;
                if matches!(result, Ok(Ok(()))) {
                    self.own.retain(|own| *own != id);
                }
                result
            }
        };
        match action {
            Err(_) => Ok(false),
            Ok(Ok(())) => Ok(true),
            // What trouble and others explain.
            Ok(Err(error)) => match error.kind {
                ErrorKind::Internal => Err(anyhow::anyhow!("internal error: {}", error.message)),
                _ => Ok(false),
            },
        }
    }

    async fn create(&mut self) -> Result<WorkloadId> {
        let commands: [&[&str]; 6] = [
            &["server"],
            &["server"],
            &["sleep", "0.3"],
            &["exit", "1"],
            &["stubborn"],
            &["missing"],
        ];
        let policies = [
            serde_json::json!({"policy": "no"}),
            serde_json::json!({"policy": "always"}),
            serde_json::json!({"policy": "unless-stopped"}),
            serde_json::json!({"policy": "on-failure", "max_retries": 3}),
        ];
        let command = commands[self.random.below(commands.len())];
        let policy = &policies[self.random.below(policies.len())];
        let spec: WorkloadSpec = serde_json::from_value(serde_json::json!({
            "restart": policy,
            "task": { "image": "web:1", "image_id": self.image, "args": command },
        }))
        .context("make a specification")?;
        let made = self
            .control
            .workload_create(&self.admin, &self.pool, None, spec)
            .await?;
        Ok(made.id.clone())
    }

    async fn start(&self, id: &WorkloadId) -> control::Result<()> {
        let started = self
            .control
            .workload_start(&self.admin, &self.pool, id, Default::default())
            .await;
        started.map(|_| ())
    }

    async fn stop(&self, id: &WorkloadId) -> control::Result<()> {
        let stopped = self
            .control
            .workload_stop(&self.admin, &self.pool, id, quick())
            .await;
        stopped.map(|_| ())
    }
}

fn quick() -> StopOptions {
    StopOptions {
        grace_seconds: Some(Some(1)),
        signal: None,
    }
}
