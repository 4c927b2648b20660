//! What users do: verbs of control, each in a task of its own, as requests are.

use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use control::exec::ExecCreate;
use control::images::ImportEvent;
use control::streams::FollowOptions;
use control::workloads::{RemoveOptions, StopOptions, WaitCondition, WorkloadUpdate};
use control::{Control, Error, LinkStream};
use model::{ImageId, Name, PoolId, RestartPolicy, WorkloadId, WorkloadSpec};

use wire::link::FrameKind;

use crate::checker::Wait;
use crate::cluster::Cluster;
use crate::script::{Action, Verb};

/// A user's patience: after so long a request is dropped, as when a client goes away.
const PATIENCE: Duration = Duration::from_secs(300);

/// Exit code of every exec.
pub const EXEC_CODE: i32 = 3;

/// What a request came to, for the trace.
type Outcome = Result<String, Error>;

impl Cluster {
    /// Begins what a user asks for; nothing happens while the server is down.
    pub fn ask(&mut self, number: usize, action: &Action) {
        let Some(control) = self.server.as_ref().map(|server| server.control.clone()) else {
            return;
        };
        match action {
            Action::Create { .. } => self.create(number, control, action),
            Action::Verb { slot, verb } => {
                if let Some((pool, id)) = self.slot(*slot) {
                    let (verb, past) = (*verb, self.past.clone());
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
            Action::Cordon { host, cordoned } => {
                let (host, cordoned) = (self.hosts[*host].id.clone(), *cordoned);
                self.request(number, async move {
                    cordon(&control, host.as_str(), cordoned).await?;
                    Ok(String::new())
                });
            }
            Action::Fault(_) => {}
        }
    }

    fn create(&mut self, number: usize, control: Control, action: &Action) {
        let Action::Create {
            slot,
            pool,
            image,
            command,
            restart,
            auto_remove,
            start,
        } = action.clone()
        else {
            return;
        };
        let pool = self.pools[pool].clone();
        let image = self.images[image].clone();
        let slots = self.slots.clone();
        self.request(number, async move {
            let caller = Cluster::caller();
            let words: Vec<&str> = command.split_whitespace().collect();
            let spec: WorkloadSpec = serde_json::from_value(serde_json::json!({
                "restart": restart,
                "auto_remove": auto_remove,
                "task": {
                    "image": image.0.familiar(),
                    "image_id": image.1.content.config,
                    "args": words,
                },
            }))
            .map_err(|e| Error::invalid(e.to_string()))?;
            let name = Name::parse(&format!("slot{slot}")).ok();
            let made = control.workload_create(&caller, &pool, name, spec).await?;
            let id = made.id.clone();
            slots
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(slot, (pool.clone(), id.clone()));
            if start {
                control
                    .workload_start(&caller, &pool, &id, Default::default())
                    .await?;
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
        if let Some(server) = &mut self.server {
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

    /// Stops what ends and begins again for ever, so that everything can come to rest.
    ///
    /// # Errors
    /// When one cannot be stopped.
    pub async fn stop_restless(&mut self) -> anyhow::Result<()> {
        let Some(server) = &self.server else {
            return Ok(());
        };
        let control = server.control.clone();
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

async fn cordon(control: &Control, host: &str, cordoned: bool) -> Result<(), Error> {
    let caller = Cluster::caller();
    let changed = if cordoned {
        control.host_cordon(&caller, host).await
    } else {
        control.host_uncordon(&caller, host).await
    };
    changed.map(drop)
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
        Verb::Start => drop(
            control
                .workload_start(caller, pool, id, Default::default())
                .await?,
        ),
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
        Verb::Update { restart } => {
            let resources = model::workload::Resources {
                memory_limit: Some(64 << 20),
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
