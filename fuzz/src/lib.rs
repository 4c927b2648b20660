//! Fuzz targets: one function per decoder of bytes that come from outside.
//!
//! What always holds for each: no input makes it panic, hang or take memory out of proportion, and what it accepts it
//! can write again.
//! They are driven twice: by libFuzzer (`cargo xtask fuzz`, program `fuzz-all`) and, on the stable toolchain without
//! instrumentation, by the tests below.

use std::io::Write;

use bytes::BytesMut;

/// A named decoder.
pub struct Target {
    /// Short, as on the command line.
    pub name: &'static str,
    /// Must not panic.
    pub run: fn(&[u8]),
    /// Valid inputs to start from.
    pub seeds: &'static [&'static [u8]],
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "link-frame",
        run: link_frame,
        seeds: &[b"\x02\0\0\0\0\0\0\0\x07\0\0\0\x03out\x07\0\0\0\0\0\0\0\0\0\0\0\0"],
    },
    Target {
        name: "link-message",
        run: link_message,
        seeds: &[
            b"\0\0\0\x14{\"type\":\"heartbeat\"}",
            b"\0\0\0\x3b{\"type\":\"open-stream\",\"id\":\"a\",\"request\":{\"type\":\"stats\"}}",
        ],
    },
    Target { name: "join-token", run: join_token, seeds: &[b"plimsoll-1-a-b-c"] },
    Target {
        name: "shim-frame",
        run: shim_frame,
        seeds: &[b"\x01\0\0\0\x02{}", b"\0\0\0\x02\x01{}"],
    },
    Target { name: "shim-log", run: shim_log, seeds: &[b"\0\0\0\0"] },
    Target {
        name: "names",
        run: names,
        seeds: &[
            b"registry.example:5000/team/web:1.2@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            b"busybox",
        ],
    },
    Target {
        name: "stored",
        run: stored,
        seeds: &[b"{\"v\":1,\"object\":{\"setting\":{\"name\":\"a\",\"value\":\"b\"}}}"],
    },
    Target {
        name: "docker-create",
        run: docker_create,
        seeds: &[
            b"{\"Image\":\"busybox\",\"Cmd\":[\"a\"],\"Env\":[\"A=b\"],\"ExposedPorts\":{\"80/tcp\":{}},\"HostConfig\":{\
              \"Binds\":[\"v:/x:ro\"],\"PortBindings\":{\"80/tcp\":[{\"HostPort\":\"8080\"}]},\"Memory\":67108864,\
              \"RestartPolicy\":{\"Name\":\"on-failure\",\"MaximumRetryCount\":3},\"Tmpfs\":{\"/t\":\"size=1m\"}}}",
        ],
    },
    Target { name: "docker-rest", run: docker_rest, seeds: &[b"{\"label\":[\"a=b\"]}", b"/v1.41/containers/x/json"] },
    Target {
        name: "image-documents",
        run: image_documents,
        seeds: &[
            b"{\"schemaVersion\":2,\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\
              \"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\",\"size\":2},\"layers\":[]}",
            b"{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"Cmd\":[\"sh\"]},\"rootfs\":{\"type\":\"layers\",\
              \"diff_ids\":[\"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"]}}",
        ],
    },
    Target { name: "image-layer", run: image_layer, seeds: &[include_bytes!("../seeds/layer.tar"), include_bytes!("../seeds/layer.tar.gz")] },
];

/// The body that makes a container.
pub fn docker_create(data: &[u8]) {
    let _ = api::docker::fuzz::container_create(data);
}

/// Smaller inputs of the Docker endpoint.
pub fn docker_rest(data: &[u8]) {
    use api::docker::fuzz;
    let _ = fuzz::exec_create(data);
    let _ = fuzz::filters(data);
    let _ = fuzz::registry_auth(data);
    let _ = fuzz::path(data);
    assert!(
        fuzz::stdcopy_frames(data) <= data.len(),
        "more frames than bytes"
    );
}

/// Manifests, indexes and configurations.
pub fn image_documents(data: &[u8]) {
    let _ = drivers::images::fuzz::manifest(data);
    let _ = drivers::images::fuzz::config(data);
}

/// Layers: nothing appears outside of their folder.
pub fn image_layer(data: &[u8]) {
    assert!(
        drivers::images::fuzz::archive_entries(data) <= data.len(),
        "more entries than bytes"
    );
    let Ok(outside) = tempfile::tempdir() else {
        return;
    };
    let root = outside.path().join("root");
    if std::fs::create_dir(&root).is_err() {
        return;
    }
    let _ = drivers::images::fuzz::layer(data, &root);
    let there = std::fs::read_dir(outside.path()).map_or(0, Iterator::count);
    assert_eq!(there, 1, "something was written outside of the root");
}

/// Frames of the streams between server and host.
pub fn link_frame(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(frame)) = wire::link::Frame::decode(&mut buffer) {
        let mut again = BytesMut::from(&frame.encode()[..]);
        let read = wire::link::Frame::decode(&mut again);
        assert!(
            matches!(read, Ok(Some(ref same)) if *same == frame),
            "a frame changes when written again"
        );
    }
}

/// Messages of the session between server and host, in both directions.
pub fn link_message(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(message)) = wire::link::decode_message::<wire::link::FromHost>(&mut buffer) {
        assert!(
            wire::link::encode_message(&message).is_ok(),
            "a message cannot be written again"
        );
    }
    let mut buffer = BytesMut::from(data);
    while let Ok(Some(message)) = wire::link::decode_message::<wire::link::ToHost>(&mut buffer) {
        assert!(
            wire::link::encode_message(&message).is_ok(),
            "a message cannot be written again"
        );
    }
}

/// The text an operator carries to a new host.
pub fn join_token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(token) = wire::link::JoinTokenText::parse(text) {
        let again = wire::link::JoinTokenText::parse(&token.to_string());
        assert!(again.is_ok(), "a token cannot be read again");
    }
}

/// What a shim says, in pieces of any size.
pub fn shim_frame(data: &[u8]) {
    let mut decoder = shim::frame::Decoder::default();
    let step = data.first().map_or(1, |byte| usize::from(*byte).max(1));
    for piece in data.chunks(step) {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// A log file with any content: the reader comes to an end and its offset never goes back.
pub fn shim_log(data: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else {
        return;
    };
    for base in [0, 7] {
        let path = folder.path().join(format!("log.{base}"));
        let written = std::fs::File::create(path).and_then(|mut file| file.write_all(data));
        if written.is_err() {
            return;
        }
    }
    let mut reader = shim::log::LogReader::new(folder.path(), 0);
    let mut last = reader.offset();
    for _ in 0..=data.len() * 2 + 8 {
        match reader.next_entry() {
            Ok(Some(_)) => {
                assert!(reader.offset() >= last, "the offset goes back");
                last = reader.offset();
            }
            Ok(None) | Err(_) => return,
        }
    }
    panic!("the reader finds more entries than there are bytes");
}

/// Image references, digests and names.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(reference) = model::ImageReference::parse(text) {
        let written = reference.to_string();
        let again = model::ImageReference::parse(&written);
        assert!(
            again.is_ok_and(|again| again == reference),
            "{written} is read as something else"
        );
    }
    let _ = model::Digest::parse(text);
    let _ = model::Name::parse(text);
}

/// Stored objects.
pub fn stored(data: &[u8]) {
    if let Ok(object) = model::stored::decode(data) {
        let again = model::stored::encode(&object).and_then(|bytes| model::stored::decode(&bytes));
        assert!(
            again.is_ok_and(|again| again == object),
            "an object changes when stored again"
        );
    }
}

#[cfg(test)]
mod tests;
