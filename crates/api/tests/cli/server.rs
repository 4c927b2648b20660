//! A server on a Unix socket in a scratch folder, and a way to run the program against it.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use api::native::{Identity, NativeConfig, router};
use axum::Extension;
use control::testing::TestHost;
use control::{Caller, Control};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;

/// A server with one pool `team`, an image `web:1` in it, and one host.
pub(crate) struct Rig {
    folder: tempfile::TempDir,
    /// The server's inside, for what only its controllers do.
    pub(crate) control: Control,
    runtime: tokio::runtime::Handle,
    _host: TestHost,
}

/// How the program ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    /// The output of a command that worked.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:#?}");
        self.out
    }

    /// The message of a command that failed with this code.
    #[track_caller]
    pub(crate) fn failed(self, code: u8) -> String {
        assert_eq!(self.code, i32::from(code), "{self:#?}");
        self.err
    }
}

impl Rig {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let control = Control::for_tests().await.unwrap();
        let host = control.test_host("host-1").await.unwrap();
        let pool = control.test_pool("team").await.unwrap();
        control.test_image(&pool, "web:1").await.unwrap();
        let config = NativeConfig {
            pool_sockets: Some("/run/pools".into()),
        };
        let app = router(control.clone(), config).layer(Extension(Identity(Caller::local_admin())));
        let listener = tokio::net::UnixListener::bind(folder.path().join("server.sock")).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(app.clone());
                tokio::spawn(async move {
                    let builder =
                        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder
                        .serve_connection_with_upgrades(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            folder,
            control,
            runtime: tokio::runtime::Handle::current(),
            _host: host,
        }
    }

    /// Runs something in the server.
    pub(crate) fn inside<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn run(&self, args: &[&str]) -> Done {
        self.run_with(args, "")
    }

    pub(crate) fn run_with(&self, args: &[&str], input: &str) -> Done {
        let server = format!("unix://{}/server.sock", self.folder.path().display());
        run_program(
            &[&["--server", &server], args].concat(),
            self.folder.path(),
            input,
        )
    }
}

pub(crate) fn run_program(args: &[&str], home: &Path, input: &str) -> Done {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(args)
        .env_clear()
        .env(crate::AS_PROGRAM, "1")
        .env("HOME", home)
        .env("FROM_HERE", "yes")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || {
        // A program that does not read its input closes it.
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done {
        code: output.status.code().unwrap_or(-1),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}
