//! What users do: verbs of control, each in a task of its own, as requests are.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use control::exec::ExecCreate;
use control::images::ImportEvent;
use control::maintenance::DrainOptions;
use control::pools::PoolUpdate;
use control::streams::FollowOptions;
use control::workloads::{RemoveOptions, StartOptions, StopOptions, WaitCondition, WorkloadUpdate};
use control::{Control, Error, LinkStream};
use model::{ImageId, Name, PoolId, RestartPolicy, WorkloadId, WorkloadSpec};
use serde_json::{Value, json};
use wire::link::FrameKind;

use crate::checker::Wait;
use crate::cluster::Cluster;
use crate::script::{Action, Creation, HostVerb, PoolChange, Start, Verb};

/// A user's patience: after so long a request is dropped, as when a client goes away.
const PATIENCE: Duration = Duration::from_secs(300);

/// Exit code of every exec.
pub const EXEC_CODE: i32 = 3;

/// What a request came to, for the trace.
type Outcome = Result<String, Error>;

impl Cluster {
    /// Begins what a user asks for; nothing happens while no server runs.
    pub fn ask(&mut self, number: usize, action: &Action) {
        let Some(control) = self.front(number) else {
            return;
        };
        match action {
            Action::Create(creation) => self.create(number, control, creation),
            Action::Verb { slot, verb } => self.verb(number, control, *slot, *verb),
            Action::Pull { .. } | Action::Load { .. } | Action::ImageRemove { .. } => {
                self.image(number, control, action);
            }
            Action::Host { host, verb } => {
                let (host, verb) = (self.hosts[*host].id.clone(), *verb);
                self.request(number, async move {
                    host_verb(&control, &host, verb).await?;
                    Ok(String::new())
                });
            }
            Action::Pool { pool, change } => self.pool(number, control, *pool, change),
            Action::Installation {
                host_loss_seconds,
                memory_overcommit,
            } => {
                let (seconds, ratio) = (*host_loss_seconds, *memory_overcommit);
                self.request(number, async move {
                    let edit = move |it: &mut model::Installation| {
                        it.host_loss_seconds = seconds;
                        it.memory_overcommit = model::Ratio(ratio);
                    };
                    control
                        .installation_update(&Cluster::caller(), edit)
                        .await?;
                    Ok(String::new())
                });
            }
            Action::Fault(_) => {}
        }
    }

    fn verb(&mut self, number: usize, control: Control, slot: usize, verb: Verb) {
        if let Some((pool, id)) = self.slot(slot) {
            let past = self.past.clone();
            self.request(number, async move {
                let outcome = workload_verb(&control, &pool, &id, verb).await?;
                if let Answer::Executed { exit_code } = &outcome {
                    past.with(|past| past.execs.push((id.clone(), *exit_code)));
                }
                if let Answer::Waited(outcome) = &outcome {
                    past.with(|past| {
                        let runs = past.runs.get(&id).copied().unwrap_or(0);
                        past.waits.push(Wait {
                            runs,
                            id,
                            outcome: outcome.clone(),
                        });
                    });
                }
                Ok(format!("{outcome:?}"))
            });
        }
    }

    fn image(&mut self, number: usize, control: Control, action: &Action) {
        match action {
            Action::Pull { pool, image } => {
                let (pool, image) = (self.pools[*pool].clone(), self.images[*image].clone());
                let id = image.1.content.config.clone();
                self.import(number, id, async move {
                    let caller = Cluster::caller();
                    let events = control
                        .image_pull(&caller, &pool, image.0, None, None)
                        .await?;
                    imported(events).await
                });
            }
            Action::Load { pool, image } => {
                let (pool, image) = (self.pools[*pool].clone(), self.images[*image].1.clone());
                let id = image.content.config.clone();
                self.import(number, id, async move {
                    let archive =
                        serde_json::to_vec(&[image]).map_err(|e| Error::invalid(e.to_string()))?;
                    let mut upload = control.image_load(&Cluster::caller(), &pool).await?;
                    upload.write(&Bytes::from(archive)).await?;
                    imported(upload.finish().await).await
                });
            }
            Action::ImageRemove { pool, image } => {
                let pool = self.pools[*pool].clone();
                let reference = self.images[*image].0.to_string();
                self.request(number, async move {
                    let removed = control
                        .image_remove(&Cluster::caller(), &pool, &reference, false)
                        .await?;
                    Ok(format!("{removed:?}"))
                });
            }
            Action::Create(_)
            | Action::Verb { .. }
            | Action::Host { .. }
            | Action::Pool { .. }
            | Action::Installation { .. }
            | Action::Fault(_) => {}
        }
    }

    fn pool(&mut self, number: usize, control: Control, pool: usize, change: &PoolChange) {
        let pool = self.pools[pool].clone();
        let update = match change {
            PoolChange::Slice(slice) => PoolUpdate {
                slice: Some((**slice).clone()),
                ..PoolUpdate::default()
            },
            PoolChange::Parent(parent) => PoolUpdate {
                parent: Some(parent.map(|it| self.pools[it].to_string())),
                ..PoolUpdate::default()
            },
        };
        self.request(number, async move {
            let caller = Cluster::caller();
            control.pool_update(&caller, pool.as_str(), update).await?;
            Ok(String::new())
        });
    }

    fn create(&mut self, number: usize, control: Control, creation: &Creation) {
        let creation = creation.clone();
        let pool = self.pools[creation.pool].clone();
        let image = self.images[creation.image].clone();
        let slots = self.slots.clone();
        self.request(number, async move {
            let caller = Cluster::caller();
            let spec = specification(&creation, &image.0.familiar(), &image.1.content.config);
            let spec: WorkloadSpec =
                serde_json::from_value(spec).map_err(|e| Error::invalid(e.to_string()))?;
            let name = Name::parse(&format!("slot{}", creation.slot)).ok();
            let made = control.workload_create(&caller, &pool, name, spec).await?;
            let id = made.id.clone();
            slots
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(creation.slot, (pool.clone(), id.clone()));
            let queue = creation.start == Start::Queued;
            if creation.start != Start::No {
                let options = StartOptions { queue };
                control.workload_start(&caller, &pool, &id, options).await?;
            }
            Ok(id.short().to_string())
        });
    }

    /// A request that brings an image in.
    fn import(
        &mut self,
        number: usize,
        id: ImageId,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) {
        let past = self.past.clone();
        past.with(|past| past.imports.doubt(&id));
        self.request(number, async move {
            let outcome = work.await;
            past.with(|past| match &outcome {
                Ok(_) => past.imports.done(&id),
                Err(_) => past.imports.doubt(&id),
            });
            outcome
        });
    }

    fn request(&mut self, number: usize, work: impl Future<Output = Outcome> + Send + 'static) {
        let trace = self.trace.clone();
        let up = self.servers.iter().flatten().count().max(1);
        // The one that `front` names: requests end with the server they were sent to.
        if let Some(server) = self.servers.iter_mut().flatten().nth(number % up) {
            server.requests.spawn(async move {
                let outcome = tokio::time::timeout(PATIENCE, work).await;
                match outcome {
                    Ok(Ok(what)) => trace.line(format!("step {number} done {what}")),
                    Ok(Err(error)) => {
                        trace.line(format!("step {number} {:?}: {}", error.kind, error.message));
                    }
                    Err(_) => trace.line(format!("step {number}: the client went away")),
                }
            });
        }
    }

    /// Loads images again that pools have and no host has any more, as people would.
    pub fn import_what_is_lost(&mut self) {
        let snapshot = self.store.snapshot();
        let there: BTreeSet<ImageId> = snapshot
            .hosts()
            .flat_map(|host| host.value().status.images.clone())
            .collect();
        let mut loads = Vec::new();
        for (pool, id) in self.pools.iter().enumerate() {
            for (image, (_, content)) in self.images.iter().enumerate() {
                let known = &content.content.config;
                if snapshot.image(id, known).is_some() && !there.contains(known) {
                    loads.push(Action::Load { pool, image });
                }
            }
        }
        for load in loads {
            self.ask(0, &load);
        }
    }

    /// Stops what ends and begins again for ever, so that everything can come to rest.
    ///
    /// # Errors
    /// When one cannot be stopped.
    pub async fn stop_restless(&mut self) -> anyhow::Result<()> {
        let Some(control) = self.front(0) else {
            return Ok(());
        };
        let restless: Vec<(PoolId, WorkloadId)> = self
            .store
            .snapshot()
            .workloads()
            .filter(|w| {
                w.spec.restart != RestartPolicy::No
                    && crate::script::ends_by_itself(&w.spec.task.args)
                    && w.desired != model::DesiredState::Removed
            })
            .map(|w| (w.pool.clone(), w.id.clone()))
            .collect();
        for (pool, id) in restless {
            let stopped = control
                .workload_stop(&Cluster::caller(), &pool, &id, StopOptions::default())
                .await;
            if let Err(error) = stopped
                && error.kind != control::ErrorKind::NotFound
            {
                anyhow::bail!("{id} cannot be stopped: {}", error.message);
            }
        }
        Ok(())
    }
}

/// What a new workload is made of.
fn specification(creation: &Creation, image: &str, image_id: &ImageId) -> Value {
    let words: Vec<&str> = creation.command.split_whitespace().collect();
    let needs = creation.needs;
    let request = json!({
        "cpu_millis": needs.cpu_millis,
        "memory_bytes": needs.memory_mib.map(|mib| mib << 20),
    });
    let mut spec = json!({
        "restart": creation.restart,
        "auto_remove": creation.auto_remove,
        "on_host_loss": needs.on_host_loss,
        "priority": needs.priority,
        "task": {
            "image": image,
            "image_id": image_id,
            "args": words,
            "resources": { "request": request },
        },
    });
    if needs.alike {
        spec["placement"] = json!({ "spread": "alike" });
    }
    spec
}

async fn host_verb(control: &Control, host: &model::HostId, verb: HostVerb) -> Result<(), Error> {
    let (caller, name) = (&Cluster::caller(), host.as_str());
    match verb {
        HostVerb::Cordon { cordoned: true } => drop(control.host_cordon(caller, name).await?),
        HostVerb::Cordon { cordoned: false } => drop(control.host_uncordon(caller, name).await?),
        HostVerb::Drain { stop_rest } => {
            let options = DrainOptions {
                stop_rest,
                force: true,
            };
            control.host_drain(caller, name, options).await?;
        }
        HostVerb::Remove { force } => control.host_remove(caller, name, force).await?,
        // Done by the machine itself.
        HostVerb::Rejoin { .. } => {}
    }
    Ok(())
}

/// What a verb on a workload answered.
#[derive(Debug)]
enum Answer {
    Done,
    Waited(control::workloads::WaitOutcome),
    Executed {
        exit_code: Option<i32>,
    },
    Read {
        #[expect(dead_code, reason = "for the trace, which shows it by Debug")]
        bytes: usize,
    },
}

#[expect(clippy::too_many_lines, reason = "one arm per verb")]
async fn workload_verb(
    control: &Control,
    pool: &PoolId,
    id: &WorkloadId,
    verb: Verb,
) -> Result<Answer, Error> {
    let caller = &Cluster::caller();
    match verb {
        Verb::Start { queue } => {
            let options = StartOptions { queue };
            control.workload_start(caller, pool, id, options).await?;
        }
        Verb::Stop { grace } => {
            let options = StopOptions {
                grace_seconds: Some(Some(grace)),
                signal: None,
            };
            control.workload_stop(caller, pool, id, options).await?;
        }
        Verb::Kill { signal } => control.workload_kill(caller, pool, id, signal).await?,
        Verb::Restart => {
            let options = StopOptions::default();
            control.workload_restart(caller, pool, id, options).await?;
        }
        Verb::Pause => control.workload_pause(caller, pool, id).await?,
        Verb::Resume => control.workload_resume(caller, pool, id).await?,
        Verb::Rename { number } => {
            let name =
                Name::parse(&format!("slot{number}")).map_err(|e| Error::invalid(e.to_string()))?;
            control.workload_rename(caller, pool, id, name).await?;
        }
        Verb::Update {
            restart,
            memory_mib,
        } => {
            let resources = model::workload::Resources {
                memory_limit: Some(memory_mib << 20),
                ..Default::default()
            };
            let update = WorkloadUpdate {
                resources: Some(resources),
                restart: Some(restart),
            };
            control.workload_update(caller, pool, id, update).await?;
        }
        Verb::Remove { force } => {
            let options = RemoveOptions {
                force,
                volumes: true,
            };
            control.workload_remove(caller, pool, id, options).await?;
        }
        Verb::Wait | Verb::WaitNext => {
            let condition = if verb == Verb::Wait {
                WaitCondition::NotRunning
            } else {
                WaitCondition::NextExit
            };
            return Ok(Answer::Waited(
                control.workload_wait(caller, pool, id, condition).await?,
            ));
        }
        Verb::Exec => {
            let create = ExecCreate {
                args: vec!["sleep".to_owned(), "1".to_owned(), EXEC_CODE.to_string()],
                ..ExecCreate::default()
            };
            let exec = control.exec_create(caller, pool, id, create).await?;
            let stream = control.exec_start(caller, pool, &exec, false, None).await?;
            let Some(stream) = stream else {
                return Ok(Answer::Done);
            };
            let (bytes, whole) = read(stream).await;
            if !whole {
                // The client was told so; what the exec came to is then not its business.
                return Ok(Answer::Read { bytes });
            }
            let exit_code = control.exec_inspect(caller, pool, &exec)?.exit_code;
            return Ok(Answer::Executed { exit_code });
        }
        Verb::Logs => {
            let options = FollowOptions {
                from: wire::link::FollowFrom::Start,
                until_ms: None,
                follow: false,
                stdout: true,
                stderr: true,
            };
            let stream = control.workload_follow(caller, pool, id, options).await?;
            let (bytes, _) = read(stream).await;
            return Ok(Answer::Read { bytes });
        }
    }
    Ok(Answer::Done)
}

/// Bytes of a stream, and whether it came to its end without an error.
async fn read(mut stream: LinkStream) -> (usize, bool) {
    let mut bytes = 0;
    let mut last = None;
    while let Some(frame) = stream.recv.recv().await {
        bytes += frame.payload.len();
        if last != Some(FrameKind::Error) {
            last = Some(frame.kind);
        }
    }
    (bytes, last == Some(FrameKind::End))
}

async fn imported(mut events: control::images::ImportStream) -> Outcome {
    while let Some(event) = events.recv().await {
        match event {
            ImportEvent::Progress(_) => {}
            ImportEvent::Done(images) => return Ok(format!("{} images", images.len())),
            ImportEvent::Failed(error) => return Err(error),
        }
    }
    Err(Error::invalid("the import ended without an answer"))
}
