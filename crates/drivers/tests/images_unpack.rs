//! Layers, good and bad: what is unpacked is right, and nothing ever leaves the layer's folder.

#![allow(clippy::unwrap_used, reason = "tests")]

mod images_support;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use drivers::images::{ImagesError, Limits, LocalImages};
use images_support::*;

async fn load_layer(
    root: &Path,
    limits: Limits,
    layer: Vec<u8>,
    blob: Vec<u8>,
) -> Result<PathBuf, agent::driver::DriverError> {
    let store = LocalImages::open(root, limits, Default::default()).unwrap();
    let config = config(&[layer], "x");
    let manifest =
        serde_json::json!([{ "Config": "c.json", "RepoTags": null, "Layers": ["layer"] }]);
    let files = [
        ("c.json".to_owned(), config),
        ("layer".to_owned(), blob),
        (
            "manifest.json".to_owned(),
            manifest.to_string().into_bytes(),
        ),
    ];
    let images = load(&store, archive(&files)).await?;
    Ok(store
        .lowerdirs(&images[0].content.config)
        .unwrap()
        .remove(0))
}

/// Unpacks a layer into a store in a fresh folder.
async fn good(layer: LayerTar) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let layer = layer.end();
    let path = load_layer(dir.path(), Limits::default(), layer.clone(), layer)
        .await
        .unwrap();
    (dir, path)
}

/// Every file below a folder with its content, without the store's own `lock`.
fn everything(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                todo.push(path);
            } else if path.file_name().unwrap() != "lock" {
                found.push(path);
            }
        }
    }
    found
}

/// Tries a layer that must be refused; checks that nothing is left and nothing outside was touched.
async fn refused(what: &str, layer: Vec<u8>, blob: Vec<u8>, limits: Limits) -> String {
    let outer = tempfile::tempdir().unwrap();
    std::fs::write(outer.path().join("canary"), "untouched").unwrap();
    let root = outer.path().join("a/b/c/store");
    let error = load_layer(&root, limits, layer, blob)
        .await
        .expect_err(what);
    assert_eq!(
        error.class,
        agent::driver::ErrorClass::Invalid,
        "{what}: {error}"
    );
    assert_eq!(
        everything(outer.path()),
        [outer.path().join("canary")],
        "{what}"
    );
    assert_eq!(
        std::fs::read(outer.path().join("canary")).unwrap(),
        b"untouched",
        "{what}"
    );
    assert_eq!(
        std::fs::symlink_metadata(outer.path().join("canary"))
            .unwrap()
            .nlink(),
        1
    );
    error.message
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "one scenario or one table of cases, read from top to bottom"
)]
async fn nothing_leaves_the_layer() {
    let up = "../../../../../../../canary";
    let cases: Vec<(&str, LayerTar)> = vec![
        ("a name with ..", LayerTar::new().file("../canary", b"x")),
        ("a name with many ..", LayerTar::new().file(up, b"x")),
        (
            "a name with .. inside",
            LayerTar::new().dir("d").file("d/../../canary", b"x"),
        ),
        (
            "an absolute name",
            LayerTar::new().file("/tmp/plimsoll-canary", b"x"),
        ),
        ("a folder ..", LayerTar::new().dir("..")),
        (
            "a hard link to outside",
            LayerTar::new().hard_link("h", up).file("h", b"x"),
        ),
        (
            "a hard link to an absolute name",
            LayerTar::new().hard_link("h", "/etc/shadow"),
        ),
        (
            "a hard link over a link",
            LayerTar::new()
                .symlink("d", "../../../../../../..")
                .hard_link("h", "d/canary"),
        ),
        (
            "a file over a relative link",
            LayerTar::new()
                .symlink("d", "../../../../../../..")
                .file("d/canary", b"x"),
        ),
        (
            "a folder over a relative link",
            LayerTar::new().symlink("d", "../..").dir("d/new"),
        ),
        (
            "a link over a link",
            LayerTar::new().symlink("d", "..").symlink("d/e", "x"),
        ),
        (
            "links in a row",
            LayerTar::new()
                .dir("a")
                .symlink("a/b", "..")
                .symlink("c", "a/b/..")
                .file("c/canary", b"x"),
        ),
        (
            "links in a circle",
            LayerTar::new()
                .symlink("a", "b")
                .symlink("b", "a")
                .file("a/x", b"x"),
        ),
        ("a whiteout of ..", LayerTar::new().file(".wh...", b"")),
        ("a whiteout of .", LayerTar::new().file(".wh..", b"")),
        ("a whiteout of nothing", LayerTar::new().file("d/.wh.", b"")),
        ("a whiteout with ..", LayerTar::new().file(".wh./../x", b"")),
        (
            "a whiteout as a folder",
            LayerTar::new().file(".wh.d/x", b""),
        ),
        (
            "a whiteout over a link",
            LayerTar::new()
                .symlink("d", "../../../../../../..")
                .file("d/.wh.canary", b""),
        ),
        (
            "an opaque mark over a link",
            LayerTar::new()
                .symlink("d", "../..")
                .file("d/.wh..wh..opq", b""),
        ),
        ("an opaque root", LayerTar::new().file(".wh..wh..opq", b"")),
        (
            "a file as the root",
            LayerTar::new()
                .file("./", b"")
                .raw(b'2', b"./", b"/etc", 0o777, (0, 0), b""),
        ),
        (
            "a name over a file",
            LayerTar::new().file("f", b"").file("f/x", b""),
        ),
        (
            "a name with NUL",
            LayerTar::new().pax(&[("path", b"a\0b")]).file("x", b""),
        ),
        ("an empty link", LayerTar::new().symlink("l", "")),
        (
            "a hard link to nothing",
            LayerTar::new().hard_link("h", "missing"),
        ),
        (
            "a hard link to a folder",
            LayerTar::new().dir("d").hard_link("h", "d"),
        ),
        (
            "a hard link to a whiteout",
            LayerTar::new().file(".wh.w", b"").hard_link("h", "w"),
        ),
        (
            "a trusted attribute",
            LayerTar::new()
                .pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")])
                .dir("d"),
        ),
        (
            "a trusted redirect",
            LayerTar::new()
                .pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/etc")])
                .dir("d"),
        ),
        (
            "a uid that means no change",
            LayerTar::new()
                .pax(&[("uid", b"4294967295")])
                .file("x", b""),
        ),
        (
            "a uid that wraps to root",
            LayerTar::new()
                .pax(&[("uid", b"4294967296")])
                .file("x", b""),
        ),
        (
            "a sparse file",
            LayerTar::new().raw(b'S', b"s", b"", 0o644, (0, 0), b""),
        ),
        (
            "a PAX sparse file",
            LayerTar::new()
                .pax(&[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.realsize", b"9223372036854775807"),
                ])
                .file("s", b""),
        ),
        (
            "an unknown type",
            LayerTar::new().raw(b'Z', b"z", b"", 0o644, (0, 0), b""),
        ),
        (
            "a damaged PAX record",
            LayerTar::new()
                .raw(b'x', b"p", b"", 0o644, (0, 0), b"99 path=x\n")
                .file("x", b""),
        ),
    ];
    for (what, layer) in cases {
        let layer = layer.end();
        let message = refused(what, layer.clone(), layer, Limits::default()).await;
        println!("{what}: {message}");
    }
    assert!(!Path::new("/tmp/plimsoll-canary").exists());
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "one scenario or one table of cases, read from top to bottom"
)]
async fn bombs_are_stopped() {
    let few = Limits {
        layer_entries: 1000,
        ratio_free_bytes: 16 << 20,
        ..Limits::default()
    };
    let zeros = LayerTar::new().file("zeros", &vec![0; 64 << 20]).end();
    let many = (0..2000)
        .fold(LayerTar::new(), |t, n| t.file(&format!("f{n}"), b""))
        .end();
    let deep = LayerTar::new().dir(&"d/".repeat(255)).end();
    let mut creeping = LayerTar::new();
    for n in 1..200 {
        creeping = creeping.dir(&"d/".repeat(n));
    }
    let over_links = LayerTar::new()
        .dir(&"d/".repeat(120))
        .symlink("l", "d/".repeat(120).trim_end_matches('/'))
        .dir(&format!("l/{}", "e/".repeat(20)));
    let huge = |size: &[u8]| LayerTar::new().pax(&[("size", size)]).file("x", b"").end();
    let meta = (0..40)
        .fold(LayerTar::new(), |t, _| t.pax(&[("comment", b"x")]))
        .file("x", b"")
        .end();
    let long_meta = LayerTar::new()
        .raw(b'x', b"p", b"", 0o644, (0, 0), &vec![b' '; 2 << 20])
        .file("x", b"")
        .end();
    let mut cut = LayerTar::new().file("x", &[7; 5000]).end();
    cut.truncate(2000);
    for (what, layer, blob, expected) in [
        (
            "zeros",
            zeros.clone(),
            gzip(&zeros),
            "unpacked bytes per compressed byte",
        ),
        (
            "many files",
            many.clone(),
            many.clone(),
            "number of entries",
        ),
        ("deep nesting", deep.clone(), deep, "nested folders"),
        (
            "nesting step by step",
            creeping.0.clone(),
            creeping.0,
            "nested folders",
        ),
        (
            "nesting over links",
            over_links.0.clone(),
            over_links.0,
            "nested folders",
        ),
        (
            "PAX size 2^63",
            huge(b"9223372036854775808"),
            huge(b"9223372036854775808"),
            "out of range",
        ),
        (
            "PAX size 2^64",
            huge(b"18446744073709551616"),
            huge(b"18446744073709551616"),
            "out of range",
        ),
        (
            "PAX size 2^63-1",
            huge(b"9223372036854775807"),
            huge(b"9223372036854775807"),
            "cut off",
        ),
        ("a negative size", huge(b"-1"), huge(b"-1"), "out of range"),
        (
            "many PAX headers",
            meta.clone(),
            meta,
            "too many extended headers",
        ),
        (
            "a long PAX header",
            long_meta.clone(),
            long_meta,
            "extended tar header",
        ),
        ("a cut archive", cut.clone(), cut, "cut off"),
        (
            "a 4 KiB name",
            LayerTar::new().file(&"n".repeat(4096), b"").end(),
            LayerTar::new().file(&"n".repeat(4096), b"").end(),
            "bytes",
        ),
        (
            "a 300 byte segment",
            LayerTar::new().file(&"n".repeat(300), b"").end(),
            LayerTar::new().file(&"n".repeat(300), b"").end(),
            "255 bytes",
        ),
        (
            "no tar at all",
            vec![b'x'; 2000],
            vec![b'x'; 2000],
            "check sum",
        ),
        (
            "damaged gzip",
            many.clone(),
            gzip(&many)[..2000].to_vec(),
            "damaged",
        ),
        ("xz", many.clone(), b"\xfd7zXZ\0abc".to_vec(), "xz"),
    ] {
        let message = refused(what, layer, blob, few.clone()).await;
        assert!(message.contains(expected), "{what}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_layers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let layer = LayerTar::new().file("x", b"").end();
    let config = config(&vec![layer.clone(); 10_000], "x");
    let manifest =
        serde_json::json!([{ "Config": "c", "RepoTags": null, "Layers": vec!["l"; 10_000] }]);
    let files = [
        ("c".to_owned(), config),
        ("l".to_owned(), layer),
        (
            "manifest.json".to_owned(),
            manifest.to_string().into_bytes(),
        ),
    ];
    let error = load(&store, archive(&files)).await.unwrap_err();
    assert!(
        matches!(cause(&error), ImagesError::TooLarge { .. }),
        "{error}"
    );
    let files: Vec<_> = (0..5000).map(|n| (format!("f{n}"), Vec::new())).collect();
    let error = load(&store, archive(&files)).await.unwrap_err();
    assert!(
        matches!(cause(&error), ImagesError::TooLarge { .. }),
        "{error}"
    );
    assert_eq!(names(dir.path(), "tmp"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "one scenario or one table of cases, read from top to bottom"
)]
async fn metadata_is_kept() {
    let long = format!("{}/{}", "p".repeat(200), "q".repeat(250));
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let (_dir, root) = good(
        LayerTar::new()
            .raw(b'5', b"./", b"", 0o751, (5, 6), b"")
            .raw(b'0', b"bin/su", b"", 0o4755, (0, 0), b"suid")
            .raw(b'0', b"bin/mine", b"", 0o2640, (1000, 1001), b"mine")
            .pax(&[
                ("SCHILY.xattr.security.capability", capability),
                ("mtime", b"1234567890.5"),
            ])
            .file("bin/ping", b"ping")
            .pax(&[
                ("SCHILY.xattr.user.with\nnewline", b"a\nb\0c"),
                ("SCHILY.xattr.security.selinux", b"x"),
            ])
            .file("xattrs", b"")
            .pax(&[("path", long.as_bytes()), ("uid", b"3000000")])
            .file("short", b"long")
            .file(&format!("gnu/{}", "g".repeat(200)), b"gnu")
            .symlink("link", "/etc/passwd")
            .raw(b'6', b"fifo", b"", 0o600, (0, 0), b"")
            .hard_link("hard", "bin/mine")
            .hard_link("hard2", "/bin/mine")
            .raw(b'7', b"contiguous", b"", 0o644, (0, 0), b"c"),
    )
    .await;
    let meta = |name: &str| std::fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!(
        (
            meta("").permissions().mode() & 0o7777,
            meta("").uid(),
            meta("").gid()
        ),
        (0o751, 5, 6)
    );
    assert_eq!(meta("").mtime(), 1_000_000_000);
    assert_eq!(meta("bin/su").permissions().mode() & 0o7777, 0o4755);
    assert_eq!(
        (
            meta("bin/mine").permissions().mode() & 0o7777,
            meta("bin/mine").uid(),
            meta("bin/mine").gid()
        ),
        (0o2640, 1000, 1001)
    );
    assert_eq!(
        xattr::get(root.join("bin/ping"), "security.capability")
            .unwrap()
            .unwrap(),
        capability
    );
    assert_eq!(
        (meta("bin/ping").mtime(), meta("bin/ping").mtime_nsec()),
        (1_234_567_890, 500_000_000)
    );
    assert_eq!(
        xattr::get(root.join("xattrs"), "user.with\nnewline")
            .unwrap()
            .unwrap(),
        b"a\nb\0c"
    );
    assert_eq!(
        xattr::get(root.join("xattrs"), "security.selinux").unwrap(),
        None
    );
    assert_eq!(
        (std::fs::read(root.join(&long)).unwrap(), meta(&long).uid()),
        (b"long".to_vec(), 3_000_000)
    );
    assert!(root.join(format!("gnu/{}", "g".repeat(200))).exists());
    assert_eq!(
        std::fs::read_link(root.join("link")).unwrap(),
        Path::new("/etc/passwd")
    );
    assert!(meta("fifo").file_type().is_fifo());
    assert_eq!(
        (
            meta("hard").ino(),
            meta("hard2").ino(),
            meta("hard").nlink()
        ),
        (meta("bin/mine").ino(), meta("bin/mine").ino(), 3)
    );
    assert_eq!(meta("link").mtime(), 1_000_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn device_nodes_have_their_numbers() {
    let mut header = tar::Header::new_ustar();
    header.set_path("null").unwrap();
    header.set_entry_type(tar::EntryType::Char);
    header.set_mode(0o666);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header.set_device_major(1).unwrap();
    header.set_device_minor(3).unwrap();
    header.set_cksum();
    let (_dir, root) = good(LayerTar(header.as_bytes().to_vec())).await;
    let null = std::fs::symlink_metadata(root.join("null")).unwrap();
    assert!(null.file_type().is_char_device());
    assert_eq!(
        (null.rdev(), null.permissions().mode() & 0o777),
        (libc::makedev(1, 3), 0o666)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn later_entries_win() {
    let (_dir, root) = good(
        LayerTar::new()
            .file("twice", b"first")
            .file("twice", b"second")
            .dir("was-dir")
            .file("was-dir/child", b"")
            .file("was-dir", b"file")
            .file("was-file", b"")
            .dir("was-file")
            .file("was-file/child", b"")
            .symlink("was-link", "twice")
            .file("was-link", b"own")
            .symlink("was-link-dir", "/etc")
            .dir("was-link-dir")
            .file("was-link-dir/passwd", b"mine")
            .file("self", b"self")
            .hard_link("self", "self")
            .dir("kept")
            .file("kept/x", b"")
            .raw(b'5', b"kept", b"", 0o700, (0, 0), b""),
    )
    .await;
    assert_eq!(std::fs::read(root.join("twice")).unwrap(), b"second");
    assert_eq!(std::fs::read(root.join("was-dir")).unwrap(), b"file");
    assert!(root.join("was-file/child").exists());
    assert_eq!(std::fs::read(root.join("was-link")).unwrap(), b"own");
    assert_eq!(
        std::fs::read(root.join("was-link-dir/passwd")).unwrap(),
        b"mine"
    );
    assert_eq!(std::fs::read(root.join("self")).unwrap(), b"self");
    assert!(root.join("kept/x").exists());
    assert_eq!(
        std::fs::metadata(root.join("kept"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o700
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn links_inside_the_layer_are_followed_inside_the_layer() {
    let (_dir, root) = good(
        LayerTar::new()
            .dir("usr")
            .dir("usr/lib")
            .symlink("lib", "usr/lib")
            .file("lib/relative", b"1")
            .symlink("lib64", "/usr/lib")
            .file("lib64/absolute", b"2")
            .dir("a")
            .symlink("a/up", "../usr")
            .file("a/up/lib/up", b"3")
            .symlink("root", "/")
            .file("root/canary", b"4"),
    )
    .await;
    for name in [
        "usr/lib/relative",
        "usr/lib/absolute",
        "usr/lib/up",
        "canary",
    ] {
        assert!(root.join(name).exists(), "{name}");
    }
    assert!(!Path::new("/canary").exists() && !Path::new("/usr/lib/absolute").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn whiteouts_take_overlayfs_form() {
    let (_dir, root) = good(
        LayerTar::new()
            .dir("d")
            .file("d/.wh.gone", b"")
            .dir("opaque")
            .file("opaque/.wh..wh..opq", b"")
            .file("opaque/new", b"")
            .file(".wh.remade", b"")
            .dir("remade")
            .file("remade/x", b"")
            .dir("made-then-hidden")
            .file("made-then-hidden/x", b"")
            .file(".wh.made-then-hidden", b"")
            .file(".wh.file", b"")
            .file("file", b"new")
            .file("implicit/.wh..wh..opq", b"")
            .file(".wh..wh.plnk/1.2", b"aufs")
            .file(".wh..wh.aufs", b""),
    )
    .await;
    let opaque = |name: &str| {
        xattr::get(root.join(name), "trusted.overlay.opaque")
            .unwrap()
            .as_deref()
            == Some(b"y")
    };
    let whiteout = |name: &str| {
        let meta = std::fs::symlink_metadata(root.join(name)).unwrap();
        meta.file_type().is_char_device() && meta.rdev() == 0
    };
    assert!(whiteout("d/gone") && !opaque("d"));
    assert!(opaque("opaque") && opaque("implicit"));
    assert!(opaque("remade") && root.join("remade/x").exists());
    assert!(opaque("made-then-hidden") && root.join("made-then-hidden/x").exists());
    assert_eq!(std::fs::read(root.join("file")).unwrap(), b"new");
    assert!(!root.join(".wh..wh.plnk").exists() && !root.join(".wh..wh.aufs").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_layers_are_the_same_layers() {
    let layer = LayerTar::new().file("x", &[5; 300_000]).end();
    let zstd = zstd::encode_all(layer.as_slice(), 3).unwrap();
    let mut members = gzip(&layer[..1000]);
    members.extend(gzip(&layer[1000..]));
    for (blob, kind) in [
        (layer.clone(), "tar"),
        (gzip(&layer), "tar+gzip"),
        (members, "tar+gzip"),
        (zstd, "tar+zstd"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let root = load_layer(dir.path(), Limits::default(), layer.clone(), blob.clone())
            .await
            .unwrap();
        assert_eq!(std::fs::read(root.join("x")).unwrap(), [5; 300_000]);
        let meta = std::fs::read_to_string(root.parent().unwrap().join("layer.json")).unwrap();
        assert!(
            meta.contains(&format!("application/vnd.oci.image.layer.v1.{kind}\"")),
            "{meta}"
        );
        assert!(dir.path().join("blobs/sha256").join(sha(&blob)).exists());
    }
}
