//! Golden tests of the lowering: real request bodies in `tests/docker/*.json`, the specification or refusal beside them.

use std::path::Path;

use model::image::{ImageConfig, Platform};

use super::failure::Failure;
use super::from_docker::create::{ContainerDraft, Resolved};
use super::from_docker::placement::Names;

/// A pool with one container, `web`, and no image.
struct Nobody;

impl Names for Nobody {
    fn container(&self, name: &str) -> super::failure::Result<model::WorkloadId> {
        match name {
            "web" => Ok(model::WorkloadId::from_bytes(&[7; 32])),
            _ => Err(Failure::not_found(format!("No such container: {name}"))),
        }
    }

    fn image(&self, name: &str) -> super::failure::Result<model::ImageId> {
        Err(Failure::not_found(format!("No such image: {name}")))
    }
}

fn image_config() -> ImageConfig {
    ImageConfig {
        platform: Platform {
            architecture: "amd64".into(),
            os: "linux".into(),
        },
        created: None,
        env: vec!["PATH=/usr/bin:/bin".into(), "A=of-image".into()],
        entrypoint: vec!["/entry".into()],
        cmd: vec!["serve".into(), "--all".into()],
        user: "www".into(),
        working_dir: "/srv".into(),
        exposed_ports: ["443/tcp".to_owned()].into(),
        volumes: ["/var/lib/data".to_owned()].into(),
        labels: [("vendor".to_owned(), "example".to_owned())].into(),
        stop_signal: Some("SIGQUIT".into()),
        size_bytes: 0,
        history: Vec::new(),
    }
}

fn lower(body: &[u8]) -> String {
    let image = model::ImageId::parse(&format!("sha256:{}", "1".repeat(64))).unwrap();
    let config = image_config();
    let spec = ContainerDraft::decode(body).and_then(|draft| {
        draft.lower(&Resolved {
            image: &image,
            config: &config,
            network: None,
            names: &Nobody,
        })
    });
    match spec {
        Ok(spec) => serde_json::to_string_pretty(&spec).unwrap(),
        Err(failure) => format!("{}: {}", failure.status.as_u16(), failure.message),
    }
}

#[test]
fn bodies_of_real_clients() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/docker");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(&folder);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for file in files {
            let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
            insta::assert_snapshot!(name, lower(&std::fs::read(&file).unwrap()));
        }
    });
}

/// A plain body with some fields of `HostConfig` (and of the container) replaced.
fn with(config: &str, host: &str) -> String {
    let comma = if config.is_empty() { "" } else { "," };
    lower(format!(r#"{{"Image":"web"{comma}{config},"HostConfig":{{{host}}}}}"#).as_bytes())
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one scenario or one table of cases, read from top to bottom"
)]
fn refusals_name_the_field() {
    let mut out = String::new();
    for (config, host) in [
        ("", r#""CgroupParent":"../../x""#),
        ("", r#""DeviceCgroupRules":["a *:* rwm"]"#),
        ("", r#""CgroupnsMode":"host""#),
        ("", r#""UsernsMode":"host""#),
        ("", r#""UsernsMode":"zz""#),
        ("", r#""PidMode":"zz""#),
        ("", r#""PidMode":"none""#),
        ("", r#""PidMode":"container:""#),
        ("", r#""UTSMode":"container:b1""#),
        ("", r#""IpcMode":"none""#),
        ("", r#""PidMode":"container:b1""#),
        ("", r#""IpcMode":"container:b1""#),
        ("", r#""NetworkMode":"container:b1""#),
        ("", r#""NetworkMode":"nosuch""#),
        ("", r#""VolumesFrom":["b1"]"#),
        ("", r#""Links":["b1:x"]"#),
        ("", r#""Binds":["relative/path:/x"]"#),
        ("", r#""Binds":["/a:/"]"#),
        ("", r#""Binds":["/a/../b:/x"]"#),
        ("", r#""Binds":["/a\n:/x"]"#),
        ("", r#""Binds":["/a\u0000:/x"]"#),
        ("", r#""Binds":["/a:/x:evil"]"#),
        ("", r#""Binds":["/a:/x","/b:/x"]"#),
        ("", r#""Mounts":[{"Type":"zz","Target":"/x"}]"#),
        (
            "",
            r#""Mounts":[{"Type":"image","Source":"b/app","Target":"/x"}]"#,
        ),
        ("", r#""Mounts":[{"Type":"bind","Source":"/root"}]"#),
        (
            "",
            r#""Mounts":[{"Type":"volume","Target":"/x","VolumeOptions":{"DriverConfig":{"Options":{"o":"bind","device":"/"}}}}]"#,
        ),
        (
            "",
            r#""Mounts":[{"Type":"tmpfs","Target":"/x","TmpfsOptions":{"Options":[["lowerdir","/"]]}}]"#,
        ),
        ("", r#""Tmpfs":{"/x":"lowerdir=/"}"#),
        ("", r#""Tmpfs":{"/x":"size=-1"}"#),
        ("", r#""Memory":1"#),
        ("", r#""Memory":-5"#),
        ("", r#""Memory":"64m""#),
        ("", r#""NanoCpus":-1"#),
        ("", r#""CpusetCpus":"a-b""#),
        ("", r#""MemorySwappiness":500"#),
        ("", r#""BlkioWeight":5"#),
        ("", r#""OomScoreAdj":-2000"#),
        ("", r#""PidsLimit":-7"#),
        ("", r#""ShmSize":-1"#),
        ("", r#""CpuRealtimeRuntime":1"#),
        ("", r#""RestartPolicy":{"Name":"zz"}"#),
        (
            "",
            r#""RestartPolicy":{"Name":"always","MaximumRetryCount":3}"#,
        ),
        ("", r#""AutoRemove":true,"RestartPolicy":{"Name":"always"}"#),
        ("", r#""CpusetCpus":"3-1""#),
        ("", r#""CpusetMems":"99999""#),
        ("", r#""GroupAdd":["-1"]"#),
        ("", r#""GroupAdd":["a:b"]"#),
        ("", r#""GroupAdd":["4294967296"]"#),
        ("", r#""SecurityOpt":["zz"]"#),
        ("", r#""SecurityOpt":["seccomp={"]"#),
        ("", r#""SecurityOpt":["apparmor=x"]"#),
        ("", r#""SecurityOpt":["writable-cgroups=true"]"#),
        ("", r#""LogConfig":{"Type":"zz"}"#),
        ("", r#""LogConfig":{"Type":"syslog"}"#),
        (
            "",
            r#""LogConfig":{"Type":"json-file","Config":{"path":"/etc/x"}}"#,
        ),
        ("", r#""StorageOpt":{"size":"1"}"#),
        ("", r#""Isolation":"hyperv""#),
        ("", r#""VolumeDriver":"nfs""#),
        ("", r#""Ulimits":[{"Name":"zz","Soft":1,"Hard":1}]"#),
        ("", r#""PortBindings":{"80/tcp":[{"HostPort":"99999"}]}"#),
        ("", r#""PortBindings":{"80/zz":[{}]}"#),
        ("", r#""Unheard":{"of":1}"#),
        ("", r#""privileged":false,"Privileged":true"#),
        (r#""Unheard":1"#, ""),
        (r#""Image":"other""#, ""),
        (r#""image":"other""#, ""),
        (r#""Healthcheck":{"Test":["CMD","true"]}"#, ""),
        (r#""StopSignal":"SIGZZ""#, ""),
        (r#""User":"0:0:0""#, ""),
        (r#""User":"a\nb""#, ""),
        (r#""User":"4294967296""#, ""),
        (r#""MacAddress":"02:42:ac:11:00:02""#, ""),
        (r#""Entrypoint":[""]"#, ""),
        (r#""ExposedPorts":{"1-65535/tcp":{}}"#, ""),
        (r#""Env":["A\u0000=1"]"#, ""),
        (
            r#""NetworkingConfig":{"EndpointsConfig":{"bridge":{"IPAMConfig":{"IPv4Address":"10.0.0.1"}}}}"#,
            "",
        ),
        (
            r#""NetworkingConfig":{"EndpointsConfig":{"nosuch":{}}}"#,
            "",
        ),
    ] {
        let answer = with(config, host);
        assert!(
            !answer.starts_with('{'),
            "{config}{host} must be refused, became {answer}"
        );
        out.push_str(&format!("{config}{host}\n  {answer}\n"));
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/docker"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("refusals", out));
}

#[test]
fn commands_merge_as_docker_merges_them() {
    let command = |config: &str| -> (Vec<String>, Vec<String>) {
        let text = with(config, "");
        let spec: model::WorkloadSpec =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("{config}: {text}"));
        (spec.task.entrypoint, spec.task.args)
    };
    let words = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    for (config, entrypoint, args) in [
        (r#""Cmd":null"#, &["/entry"][..], &["serve", "--all"][..]),
        (r#""Cmd":["x"]"#, &["/entry"], &["x"]),
        (r#""Cmd":"x y""#, &["/entry"], &["x y"]),
        (r#""Entrypoint":"e""#, &["e"], &[]),
        (r#""Entrypoint":["e"],"Cmd":["x"]"#, &["e"], &["x"]),
        (r#""Entrypoint":[""],"Cmd":["x"]"#, &[], &["x"]),
        (r#""Entrypoint":[]"#, &[], &["serve", "--all"]),
    ] {
        assert_eq!(
            command(config),
            (words(entrypoint), words(args)),
            "{config}"
        );
    }
}
