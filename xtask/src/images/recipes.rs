//! What is in each image: packages, users, configuration, the command.
//!
//! Every image starts with the layer of `busybox` (skeleton, shell, tools), so that `exec … sh` works in all of them;
//! those with shared libraries have the C library's layer on top of it.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::archive::{Image, Layer};
use super::debian::Debian;
use super::tree::Tree;
use crate::process;

/// The images that can be built.
pub const NAMES: &[&str] = &["busybox", "nginx", "redis", "postgres"];

/// Needed by maintainer scripts only, which are not run here.
const SCRIPT_ONLY: &[&str] = &[
    "adduser",
    "cdebconf",
    "debconf",
    "debianutils",
    "dpkg",
    "gcc-12-base",
    "init-system-helpers",
    "iproute2",
    "libbpf1",
    "libc-l10n",
    "libcap2-bin",
    "libdb5.3",
    "libfile-find-rule-perl",
    "libgdbm-compat4",
    "libgdbm6",
    "libjson-perl",
    "libmnl0",
    "libnumber-compare-perl",
    "libpam-runtime",
    "libperl5.36",
    "libsemanage-common",
    "libsemanage2",
    "libsepol2",
    "libtext-glob-perl",
    "libxtables12",
    "locales",
    "logrotate",
    "lsb-base",
    "netbase",
    "openssl",
    "passwd",
    "perl",
    "perl-base",
    "perl-modules-5.36",
    "postgresql-client-common",
    "postgresql-common",
    "sensible-utils",
    "ssl-cert",
    "sysvinit-utils",
    "tar",
    "ucf",
    "usrmerge",
    // Just-in-time compilation of queries: 100 MB that small databases do not use.
    "libllvm14",
    "libz3-4",
];

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// User and group ids inside the images.
const WWW_DATA: u32 = 33;
const REDIS: u32 = 999;
const POSTGRES: u32 = 998;

/// Builds one image.
pub(super) fn image(debian: &Debian, name: &str) -> Result<Image> {
    let busybox = busybox(debian)?;
    let bottom = Layer {
        created_by: "busybox-static",
        tar: busybox.layer()?,
    };
    let mut layers = vec![bottom];
    let config = if name == "busybox" {
        json!({ "Cmd": ["sh"], "Env": [PATH] })
    } else {
        let mut libc = debian.files(&["libc6", "libgcc-s1", "libcrypt1"], SCRIPT_ONLY)?;
        libc.subtract(&busybox);
        let (mut program, config) = match name {
            "nginx" => nginx(debian)?,
            "redis" => redis(debian)?,
            "postgres" => postgres(debian)?,
            _ => bail!("there is no recipe for {name}"),
        };
        program.subtract(&libc);
        for path in ["bin", "sbin", "lib", "lib64"] {
            program.remove(path);
        }
        layers.push(Layer {
            created_by: "libc6",
            tar: libc.layer()?,
        });
        layers.push(Layer {
            created_by: "debian packages",
            tar: program.layer()?,
        });
        config
    };
    Ok(Image {
        reference: format!("{name}:latest"),
        config,
        layers,
    })
}

/// Skeleton, users, shell and tools.
fn busybox(debian: &Debian) -> Result<Tree> {
    let package = debian.files(&["busybox-static"], SCRIPT_ONLY)?;
    let binary = package.bytes("usr/bin/busybox")?;
    let mut tree = Tree::skeleton();
    for applet in applets(binary)? {
        // "usr/bin/[" or "bin/sh": all links point at the one binary.
        let path = if applet.starts_with("usr/") {
            applet
        } else {
            format!("usr/{applet}")
        };
        if path != "usr/bin/busybox" {
            tree.link(&path, "/usr/bin/busybox");
        }
    }
    tree.binary("usr/bin/busybox", binary);
    tree.file("etc/passwd", 0o644, &passwd(None));
    tree.file("etc/group", 0o644, &group(None));
    tree.file(
        "etc/nsswitch.conf",
        0o644,
        "passwd: files\ngroup: files\nhosts: files dns\n",
    );
    tree.file(
        "etc/os-release",
        0o644,
        "PRETTY_NAME=\"Plimsoll demo image\"\nID=debian\n",
    );
    tree.folder("home/nobody", 0o755, 65534);
    Ok(tree)
}

/// The paths at which the binary wants to be found.
fn applets(binary: &[u8]) -> Result<Vec<String>> {
    let path = std::env::temp_dir().join(format!("xtask-busybox-{}", std::process::id()));
    std::fs::write(&path, binary).with_context(|| format!("write {}", path.display()))?;
    let listed = std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700))
        .context("make busybox executable")
        .and_then(|()| process::read(Command::new(&path).arg0("busybox").arg("--list-full")));
    std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    let applets: Vec<String> = listed?.lines().map(str::to_owned).collect();
    if !applets.iter().any(|a| a == "bin/sh" || a == "usr/bin/sh") {
        bail!("busybox lists no shell");
    }
    Ok(applets)
}

fn nginx(debian: &Debian) -> Result<(Tree, Value)> {
    let mut tree = debian.files(&["nginx-light"], SCRIPT_ONLY)?;
    tree.remove("etc/nginx/sites-available");
    tree.remove("etc/nginx/sites-enabled");
    tree.file("etc/nginx/nginx.conf", 0o644, NGINX_CONF);
    tree.file(
        "var/www/html/index.html",
        0o644,
        "<h1>Hello from a Plimsoll pool</h1>\n",
    );
    tree.remove("var/www/html/index.nginx-debian.html");
    tree.folder("var/lib/nginx", 0o755, WWW_DATA);
    tree.link("var/log/nginx/access.log", "/dev/stdout");
    tree.link("var/log/nginx/error.log", "/dev/stderr");
    users(&mut tree, "www-data", WWW_DATA);
    let config = json!({
        "Cmd": ["nginx", "-g", "daemon off;"],
        "Env": [PATH],
        "ExposedPorts": { "80/tcp": {} },
        "StopSignal": "SIGQUIT",
    });
    Ok((tree, config))
}

const NGINX_CONF: &str = "\
user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 512; }
http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /dev/stdout;
    sendfile on;
    server {
        listen 80 default_server;
        root /var/www/html;
        index index.html;
    }
}
";

fn redis(debian: &Debian) -> Result<(Tree, Value)> {
    let mut tree = debian.files(&["redis-server"], SCRIPT_ONLY)?;
    tree.folder("data", 0o755, REDIS);
    users(&mut tree, "redis", REDIS);
    let config = json!({
        "Cmd": ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--dir", "/data"],
        "Env": [PATH],
        "ExposedPorts": { "6379/tcp": {} },
        "User": "redis",
        "WorkingDir": "/data",
    });
    Ok((tree, config))
}

fn postgres(debian: &Debian) -> Result<(Tree, Value)> {
    let mut tree = debian.files(&["postgresql-15", "libc-bin"], SCRIPT_ONLY)?;
    for path in [
        "usr/lib/postgresql/15/lib/bitcode",
        "usr/lib/postgresql/15/lib/llvmjit.so",
    ] {
        tree.remove(path);
    }
    for path in ["var/lib/postgresql/data", "run/postgresql"] {
        tree.folder(path, 0o700, POSTGRES);
    }
    tree.file("usr/local/bin/start-postgres", 0o755, START_POSTGRES);
    users(&mut tree, "postgres", POSTGRES);
    let path = PATH.replace("PATH=", "PATH=/usr/lib/postgresql/15/bin:");
    let config = json!({
        "Cmd": ["start-postgres"],
        "Env": [path, "LANG=C.UTF-8", "PGDATA=/var/lib/postgresql/data"],
        "ExposedPorts": { "5432/tcp": {} },
        "StopSignal": "SIGINT",
        "User": "postgres",
        "WorkingDir": "/var/lib/postgresql",
    });
    Ok((tree, config))
}

const START_POSTGRES: &str = "\
#!/bin/sh
# Makes the database on the first start; every address may connect, as befits a demo.
set -e
if [ ! -s \"$PGDATA/PG_VERSION\" ]; then
    initdb --auth=trust --username=postgres >/dev/null
    echo 'host all all all trust' >>\"$PGDATA/pg_hba.conf\"
fi
exec postgres -c listen_addresses='*' -c jit=off
";

/// Adds a user beside those of the base.
fn users(tree: &mut Tree, name: &str, id: u32) {
    tree.file("etc/passwd", 0o644, &passwd(Some((name, id))));
    tree.file("etc/group", 0o644, &group(Some((name, id))));
}

fn passwd(extra: Option<(&str, u32)>) -> String {
    let mut text =
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home/nobody:/bin/sh\n"
            .to_owned();
    if let Some((name, id)) = extra {
        text.push_str(&format!("{name}:x:{id}:{id}:{name}:/:/bin/sh\n"));
    }
    text
}

fn group(extra: Option<(&str, u32)>) -> String {
    let mut text = "root:x:0:\nnogroup:x:65534:\n".to_owned();
    if let Some((name, id)) = extra {
        text.push_str(&format!("{name}:x:{id}:\n"));
    }
    text
}
