//! What may run on one host only: it lives by leases, also while its agent is dead.

use super::*;

const FENCE: Duration = Duration::from_millis(7_500);

fn document() -> DesiredUpdate {
    let mut want = workload(1, "server", DesiredState::Running, 1);
    want.fence_ms = Some(u32::try_from(FENCE.as_millis()).unwrap());
    whole(1, vec![want])
}

impl Bench {
    /// A server is heard: leases count from now.
    async fn lease(&self) -> tokio::time::Instant {
        let from = self.fake.clock.since_boot();
        let event = Event::Leased { from };
        self.agent().events.send(event).await.unwrap();
        tokio::time::Instant::now()
    }

    fn alive(&self) -> bool {
        self.fake.task(&id(1)).is_some_and(|it| it.phase.is_alive())
    }

    /// Gives leases every second until the task runs; starts the agent anew if it was halted.
    async fn until_it_runs(&mut self) -> tokio::time::Instant {
        for _ in 0..600 {
            if self.fake.is_halted() {
                self.revive().await;
            }
            let leased = self.lease().await;
            let wait = self.fake.wait(|f| {
                f.is_halted() || f.task(&id(1)).is_some_and(|it| it.phase == Phase::Running)
            });
            let waited = tokio::time::timeout(Duration::from_secs(1), wait).await;
            if waited.is_ok() && !self.fake.is_halted() {
                return leased;
            }
        }
        panic!("it never runs: {:?}", self.fake.journal());
    }

    async fn revive(&mut self) {
        self.kill().await;
        self.fake.go_on();
        self.start().await;
        self.send(document()).await;
    }

    /// Waits until the task is dead, which must be before its lease is over. An agent that is halted stays dead.
    async fn until_it_is_dead(&self, leased: tokio::time::Instant) {
        let wait = self
            .fake
            .wait(|f| !f.task(&id(1)).is_some_and(|it| it.phase.is_alive()));
        let waited = tokio::time::timeout_at(leased + FENCE, wait).await;
        assert!(
            waited.is_ok(),
            "outlived its lease: {:?}",
            self.fake.journal()
        );
    }

    fn begun(&self) -> Vec<(u64, u32)> {
        let starts = self.fake.starts().into_iter();
        starts.map(|(_, run, attempt)| (run, attempt)).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_server_it_is_ended_and_with_one_it_goes_on() {
    let mut bench = Bench::new().await;
    bench.send(document()).await;
    let status = bench.phase(1, Phase::Pending).await;
    assert!(status.error.contains("one host only"), "{status:?}");
    let leased = bench.until_it_runs().await;
    bench.until_it_is_dead(leased).await;
    assert_eq!(bench.fake.signals(&id(1)), [15]);
    let status = bench.phase(1, Phase::Restarting).await;
    assert_eq!(
        status.error,
        "stopped: no server was heard for 5 s, and it may run on one host only"
    );
    tokio::time::sleep(Duration::from_secs(300)).await; // tidy: sleep: the paused clock goes on by it
    assert_eq!(bench.begun(), [(1, 0)]);
    bench.until_it_runs().await;
    let status = bench.phase(1, Phase::Running).await;
    assert_eq!((status.restart_count, status.error.as_str()), (1, ""));
    // As long as a server is heard, nothing happens.
    for _ in 0..120 {
        bench.lease().await;
        tokio::time::sleep(Duration::from_secs(1)).await; // tidy: sleep: the paused clock goes on by it
        assert!(bench.alive());
    }
    assert_eq!(bench.begun(), [(1, 0), (1, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_stubborn_one_is_killed_in_time() {
    let mut bench = Bench::new().await;
    let mut update = document();
    let want = update.upsert.values_mut().next().unwrap();
    Arc::make_mut(want).spec.task.args = vec!["stubborn".to_owned()];
    bench.send(update).await;
    let leased = bench.until_it_runs().await;
    bench.until_it_is_dead(leased).await;
    let journal = bench.fake.journal();
    let ops: Vec<Op> = journal.into_iter().map(|(op, _)| op).collect();
    let end = ops.iter().position(|op| *op == Op::Signal).unwrap();
    assert_eq!(ops[end..], [Op::Signal, Op::Kill]);
    assert_eq!(bench.phase(1, Phase::Restarting).await.exit_code, 137);
}

#[tokio::test(start_paused = true)]
async fn without_an_agent_its_supervisor_ends_it_and_the_next_agent_says_so() {
    let mut bench = Bench::new().await;
    bench.send(document()).await;
    bench.until_it_runs().await;
    tokio::time::sleep(Duration::from_secs(2)).await; // tidy: sleep: the paused clock goes on by it
    let leased = bench.lease().await;
    // Heard by the supervisor, too.
    tokio::time::sleep(Duration::from_millis(10)).await; // tidy: sleep: the paused clock goes on by it
    bench.kill().await;
    tokio::time::sleep(Duration::from_secs(6)).await; // tidy: sleep: the paused clock goes on by it
    assert!(bench.alive(), "not before its time");
    bench.until_it_is_dead(leased).await;
    bench.start().await;
    let status = bench.phase(1, Phase::Restarting).await;
    assert_eq!(status.exit_code, 137);
    tokio::time::sleep(Duration::from_secs(60)).await; // tidy: sleep: the paused clock goes on by it
    assert_eq!(bench.begun(), [(1, 0)]);
    bench.until_it_runs().await;
    assert_eq!(bench.begun(), [(1, 0), (1, 1)]);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_back_in_time_leaves_it_alone() {
    let mut bench = Bench::new().await;
    bench.send(document()).await;
    bench.until_it_runs().await;
    for _ in 0..5 {
        bench.kill().await;
        tokio::time::sleep(Duration::from_secs(3)).await; // tidy: sleep: the paused clock goes on by it
        bench.start().await;
        bench.send(document()).await;
        bench.phase(1, Phase::Running).await;
        bench.lease().await;
        tokio::time::sleep(Duration::from_secs(1)).await; // tidy: sleep: the paused clock goes on by it
        assert!(bench.alive());
    }
    assert_eq!(bench.begun(), [(1, 0)]);
}

#[tokio::test(start_paused = true)]
async fn one_that_may_run_anywhere_again_is_let_go() {
    let mut bench = Bench::new().await;
    bench.send(document()).await;
    bench.until_it_runs().await;
    let free = workload(1, "server", DesiredState::Running, 1);
    bench.kill().await;
    bench.start().await;
    // The supervisor still has its time; the agent does not know of it.
    bench.send(whole(2, vec![free])).await;
    tokio::time::sleep(Duration::from_secs(60)).await; // tidy: sleep: the paused clock goes on by it
    assert!(bench.alive());
    assert_eq!(bench.begun(), [(1, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_over_before_the_image_is_there_starts_nothing() {
    let mut bench = Bench::new().await;
    bench.fake.slow(FENCE);
    bench.send(document()).await;
    bench.lease().await;
    tokio::time::sleep(Duration::from_secs(120)).await; // tidy: sleep: the paused clock goes on by it
    assert_eq!(bench.begun(), []);
    assert!(bench.fake.journal().iter().any(|(op, _)| *op == Op::Ensure));
    bench.fake.heal();
    bench.until_it_runs().await;
    assert_eq!(bench.begun(), [(1, 0)]);
}

/// Starts, loses its lease, gets it again, with one interruption; gives operations and attempts that began.
async fn lose_and_regain(halt: Option<Halt>) -> (usize, Vec<(u64, u32)>, bool) {
    let mut bench = Bench::new().await;
    if let Some(halt) = halt {
        bench.fake.halt_at(halt);
    }
    bench.send(document()).await;
    let leased = bench.until_it_runs().await;
    bench.until_it_is_dead(leased).await;
    tokio::time::sleep(Duration::from_secs(30)).await; // tidy: sleep: the paused clock goes on by it
    assert!(!bench.alive(), "{halt:?}: {:?}", bench.fake.journal());
    let begun = bench.begun().len();
    bench.until_it_runs().await;
    assert_eq!(bench.begun().len(), begun + 1, "{halt:?}");
    let interrupted = bench.fake.operations();
    let result = (interrupted, bench.begun(), bench.fake.is_halted());
    bench.kill().await;
    result
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_step_it_never_outlives_its_lease_and_comes_back() {
    let (operations, starts, _) = lose_and_regain(None).await;
    assert_eq!(starts, [(1, 0), (1, 1)]);
    for number in 0..operations {
        for halt in [Halt::Before(number), Halt::After(number)] {
            let (_, starts, _) = lose_and_regain(Some(halt)).await;
            assert_eq!(starts, [(1, 0), (1, 1)], "{halt:?}");
        }
    }
}
