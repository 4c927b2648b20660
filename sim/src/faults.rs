//! What breaks, and how it comes back.

use std::time::Duration;

use agent::driver::{DriverError, ErrorClass};
use tokio::time::Instant;

use crate::run::{Due, Player};
use crate::script::Fault;
use crate::server::Server;

/// How long a word that could not be written down may matter: longer than any host may be silent.
const MUTE_MS: i64 = 60_000;

/// Pause before a server that could not start tries again.
const START_AGAIN: Duration = Duration::from_secs(1);

impl Player {
    pub(crate) async fn come_back(&mut self) -> anyhow::Result<()> {
        let Some(((at, number), due)) = self.due.pop_first() else {
            return Ok(());
        };
        self.cluster.trace.line(format!("back: {due:?}"));
        match due {
            Due::Agent(host) => self.cluster.hosts[host].start_agent(),
            Due::Wires(host) => self.cluster.hosts[host]
                .wires
                .send_modify(|wires| wires.blocked = Default::default()),
            Due::Hole(host) => self.cluster.hosts[host].wires.send_modify(|wires| {
                wires.cuts += 1;
                wires.loses_up = false;
                wires.loses_down = false;
            }),
            Due::Server(server) => {
                // A disk that is full then keeps it from starting: it is tried again.
                if self.cluster.start_server(server).await.is_err() {
                    self.due.insert((at + START_AGAIN, number), due);
                }
            }
            Due::Store(server) => {
                if let Some(server) = &self.cluster.servers[server] {
                    server.view.cut(false);
                }
            }
        }
        Ok(())
    }

    fn later(&mut self, number: usize, millis: u64, due: Due) {
        let at = Instant::now() + Duration::from_millis(millis);
        self.due.insert((at, number), due);
    }

    pub(crate) async fn fault(&mut self, fault: &Fault, number: usize) {
        match *fault {
            Fault::Cut { .. }
            | Fault::Partition { .. }
            | Fault::Hole { .. }
            | Fault::Twice { .. }
            | Fault::Latency { .. } => self.link_fault(fault, number),
            Fault::Slow { .. }
            | Fault::Agent { .. }
            | Fault::Power { .. }
            | Fault::Wipe { .. }
            | Fault::Resize { .. }
            | Fault::Fail { .. }
            | Fault::Hang { .. } => self.machine_fault(fault, number).await,
            Fault::End { slot, code } => self.end_task(slot, code),
            Fault::Appetite { slot, percent } => {
                if let Some((_, id)) = self.cluster.slot(slot) {
                    self.cluster.appetites.set(id, percent);
                }
            }
            Fault::Server { server, millis } => {
                self.cluster.kill_server(server).await;
                self.later(number, millis, Due::Server(server));
            }
            Fault::LostAnswers { server, count } => {
                self.with_server(server, |it| it.store.lose_answers(count));
            }
            Fault::StoreFull { server, count } => {
                self.mute(Duration::ZERO);
                self.with_server(server, |it| it.store.refuse(count));
            }
            Fault::StoreSlow { server, millis } => {
                self.with_server(server, |it| it.store.delay(millis));
            }
            Fault::StoreLag { server, millis } => {
                self.with_server(server, |it| it.view.lag(Duration::from_millis(millis)));
            }
            Fault::StoreCut { server, millis } => {
                self.mute(Duration::from_millis(millis));
                self.with_server(server, |it| it.view.cut(true));
                self.later(number, millis, Due::Store(server));
            }
        }
    }

    /// What servers hear in this time, and what they could not write down of it for a while after, does not count.
    fn mute(&self, time: Duration) {
        let until = self
            .cluster
            .clock
            .now()
            .plus_millis(MUTE_MS + i64::try_from(time.as_millis()).unwrap_or(0));
        self.cluster
            .past
            .with(|past| past.mute_until = past.mute_until.max(until));
    }

    fn link_fault(&mut self, fault: &Fault, number: usize) {
        let hosts = &mut self.cluster.hosts;
        match *fault {
            Fault::Cut { host, unnoticed } => hosts[host].wires.send_modify(|wires| {
                wires.cuts += 1;
                wires.unnoticed = unnoticed;
            }),
            Fault::Partition {
                host,
                server,
                unnoticed,
                millis,
            } => {
                hosts[host].wires.send_modify(|wires| {
                    wires.unnoticed = unnoticed;
                    for (number, blocked) in wires.blocked.iter_mut().enumerate() {
                        *blocked |= server.is_none_or(|server| server == number);
                    }
                });
                self.later(number, millis, Due::Wires(host));
            }
            Fault::Hole {
                host,
                up,
                down,
                millis,
            } => {
                hosts[host].wires.send_modify(|wires| {
                    wires.loses_up |= up;
                    wires.loses_down |= down;
                });
                self.later(number, millis, Due::Hole(host));
            }
            Fault::Twice { host, count } => hosts[host].doubles(count),
            Fault::Latency { host, millis } => hosts[host]
                .wires
                .send_modify(|wires| wires.latency = Duration::from_millis(millis)),
            _ => {}
        }
    }

    async fn machine_fault(&mut self, fault: &Fault, number: usize) {
        let past = self.cluster.past.clone();
        let hosts = &mut self.cluster.hosts;
        match *fault {
            Fault::Slow { host, millis } => hosts[host].fake.slow(Duration::from_millis(millis)),
            Fault::Agent { host, millis } => {
                hosts[host].kill_agent().await;
                self.later(number, millis, Due::Agent(host));
            }
            Fault::Power { host, millis } => {
                hosts[host].lose_power(&past).await;
                self.later(number, millis, Due::Agent(host));
            }
            Fault::Wipe { host, millis } => {
                hosts[host].lose_all(&past).await;
                self.later(number, millis, Due::Agent(host));
            }
            Fault::Resize { host, machine } => {
                hosts[host].kill_agent().await;
                hosts[host].machine = machine;
                hosts[host].start_agent();
            }
            Fault::Fail { host, op, full } => {
                let (class, why) = if full {
                    (ErrorClass::Full, "no space left on the simulated device")
                } else {
                    (ErrorClass::Failed, "a simulated hiccup")
                };
                let error = DriverError::new(class, why);
                hosts[host].fake.fail_next(op, error);
            }
            Fault::Hang { host, op } => {
                hosts[host].hangs = true;
                hosts[host].fake.hang_next(op);
            }
            _ => {}
        }
    }

    fn with_server(&self, server: usize, change: impl FnOnce(&Server)) {
        if let Some(server) = &self.cluster.servers[server] {
            change(server);
        }
    }

    fn end_task(&mut self, slot: usize, code: i32) {
        let Some((_, id)) = self.cluster.slot(slot) else {
            return;
        };
        for host in &self.cluster.hosts {
            if host.fake.task(&id).is_some_and(|t| t.phase.is_alive()) {
                if code == 137 {
                    host.fake.run_out_of_memory(&id);
                } else {
                    host.fake.end(&id, code);
                }
            }
        }
    }

    /// Nothing breaks any more.
    pub(crate) async fn heal(&mut self) -> anyhow::Result<()> {
        self.cluster.trace.line("heal");
        self.due.clear();
        self.cluster.appetites.calm();
        for server in self.cluster.servers.iter().flatten() {
            server.heal();
        }
        self.start_servers().await?;
        for host in &mut self.cluster.hosts {
            host.fake.heal();
            if host.hangs {
                host.kill_agent().await;
            }
            host.start_agent();
            host.doubles(0);
            host.wires.send_modify(|wires| {
                wires.blocked = Default::default();
                wires.latency = Duration::ZERO;
                if wires.loses_up || wires.loses_down {
                    wires.cuts += 1;
                    wires.loses_up = false;
                    wires.loses_down = false;
                }
            });
        }
        Ok(())
    }
}
