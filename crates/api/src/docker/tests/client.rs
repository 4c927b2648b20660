//! The real docker client on a socket.

use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::host::world;

/// What a client said and how it ended.
struct Said {
    out: String,
    err: String,
    code: i32,
}

struct Endpoint {
    folder: tempfile::TempDir,
}

impl Endpoint {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = tokio::net::UnixListener::bind(folder.path().join("s")).unwrap();
        let router = world().await.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { folder }
    }

    async fn run(&self, args: &str, input: Option<&str>) -> Said {
        let mut child = Command::new("docker")
            .args(args.split_whitespace())
            .env(
                "DOCKER_HOST",
                format!("unix://{}/s", self.folder.path().display()),
            )
            .env("DOCKER_CONFIG", self.folder.path())
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
            pipe.write_all(input.as_bytes()).await.unwrap();
        }
        // A client that hangs is a failure, not a wait for ever.
        let limit = std::time::Duration::from_secs(30);
        let output = tokio::time::timeout(limit, child.wait_with_output()).await;
        let output = output
            .unwrap_or_else(|_| panic!("docker {args} hangs"))
            .unwrap();
        Said {
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_run_in_the_foreground() {
    let endpoint = Endpoint::open().await;
    let said = endpoint.run("run --rm busybox echo hello", None).await;
    assert_eq!(
        (said.out.as_str(), said.code),
        ("hello\n", 0),
        "{}",
        said.err
    );
    let said = endpoint.run("run --rm busybox exit 3", None).await;
    assert_eq!((said.err.as_str(), said.code), ("bye\n", 3));
    let said = endpoint
        .run("run --rm -i busybox cat", Some("through and back\n"))
        .await;
    assert_eq!(
        (said.out.as_str(), said.code),
        ("through and back\n", 0),
        "{}",
        said.err
    );
    let said = endpoint.run("run --rm busybox nosuch", None).await;
    assert_eq!(said.code, 127, "{}", said.err);
    let said = endpoint.run("run --network host busybox true", None).await;
    assert_eq!(said.code, 125, "{}", said.err);
    assert!(said.err.contains("policy"), "{}", said.err);
    let said = endpoint
        .run("run --rm --memory 1t busybox true", None)
        .await;
    assert_eq!(said.code, 125, "{}", said.err);
    assert!(said.err.contains("no host fits"), "{}", said.err);
    let said = endpoint.run("run --rm nosuch true", None).await;
    assert!(said.err.contains("manifest unknown"), "{}", said.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(
    clippy::too_many_lines,
    reason = "one scenario or one table of cases, read from top to bottom"
)]
async fn docker_with_a_running_container() {
    let endpoint = Endpoint::open().await;
    let said = endpoint.run("run -d --name web --label a=b -p 8080:80 --memory 64m --cpus 0.5 --init busybox sleep 9", None).await;
    assert_eq!((said.out.len(), said.code), (65, 0), "{}", said.err);
    for (args, input, out, code) in [
        (
            "ps --format {{.Names}}|{{.Command}}|{{.State}}",
            None,
            "web|\"sleep 9\"|running\n",
            0,
        ),
        ("ps -aq --filter name=nosuch", None, "", 0),
        (
            "inspect -f {{.State.Pid}}|{{.HostConfig.Memory}}|{{.HostConfig.NanoCpus}} web",
            None,
            "4242|67108864|500000000\n",
            0,
        ),
        ("exec web say hi there", None, "hi there\n", 7),
        ("exec -i web cat", Some("in\n"), "in\n", 7),
        ("exec web nosuch", None, "", 127),
        (
            "top web",
            None,
            "PID                 CMD\n4242                sleep\n",
            0,
        ),
        (
            "stats --no-stream --format {{.Name}}|{{.CPUPerc}}|{{.MemUsage}} web",
            None,
            "web|50.00%|2MiB / 64MiB\n",
            0,
        ),
        ("pause web", None, "web\n", 0),
        ("unpause web", None, "web\n", 0),
        ("rename web www", None, "", 0),
        ("update --memory 128m www", None, "www\n", 0),
        (
            "inspect -f {{.HostConfig.Memory}} www",
            None,
            "134217728\n",
            0,
        ),
        ("logs www", None, "", 0),
        ("restart www", None, "www\n", 0),
        ("stop www", None, "www\n", 0),
        ("wait www", None, "143\n", 0),
        ("start www", None, "www\n", 0),
        ("kill www", None, "www\n", 0),
        ("rm www", None, "www\n", 0),
        (
            "images --format {{.Repository}}:{{.Tag}}",
            None,
            "busybox:latest\n",
            0,
        ),
        ("tag busybox a/b:c", None, "", 0),
        ("rmi a/b:c", None, "Untagged: a/b:c\n", 0),
        (
            "network ls --format {{.Name}}",
            None,
            "bridge\nhost\nnone\n",
            0,
        ),
        ("volume ls -q", None, "", 0),
        ("info --format {{.NCPU}}", None, "4\n", 0),
        ("version --format {{.Server.APIVersion}}", None, "1.51\n", 0),
        (
            "system df --format {{.Type}}",
            None,
            "Images\nContainers\nLocal Volumes\nBuild Cache\n",
            0,
        ),
    ] {
        let said = endpoint.run(args, input).await;
        assert_eq!(
            (said.out.as_str(), said.code),
            (out, code),
            "docker {args}: {}",
            said.err
        );
    }
    for args in [
        "ps --filter zz=1",
        "swarm init",
        "plugin install x --grant-all-permissions",
        "exec nosuch true",
    ] {
        let said = endpoint.run(args, None).await;
        assert_eq!(said.code, 1, "docker {args}: {}", said.err);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_events_tell_what_happened() {
    let endpoint = Endpoint::open().await;
    endpoint
        .run("run --rm --name short busybox true", None)
        .await;
    // The client rounds to whole seconds.
    let until = jiff::Timestamp::now().as_second() + 1;
    let args = format!(
        "events --since 10m --until {until} --format {{{{.Type}}}}|{{{{.Action}}}}|{{{{.Actor.Attributes.name}}}}"
    );
    let said = endpoint.run(&args, None).await;
    for line in [
        "container|create|short",
        "container|start|short",
        "container|die|short",
        "container|destroy|short",
    ] {
        assert!(
            said.out.lines().any(|l| l == line),
            "{line} is missing in {}",
            said.out
        );
    }
}
