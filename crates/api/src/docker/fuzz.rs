//! The decoders of outside bytes as plain functions, for fuzzing. None may panic.

use bytes::BytesMut;

use super::filters::Filters;
use super::from_docker::create::ContainerDraft;
use super::{exec, images, routes, stdcopy, version};

/// The body of `POST /containers/create`; true: it was accepted.
pub fn container_create(bytes: &[u8]) -> bool {
    ContainerDraft::decode(bytes).is_ok()
}

/// The body of `POST /containers/{id}/exec`; true: it was accepted.
pub fn exec_create(bytes: &[u8]) -> bool {
    exec::decode_create(bytes).is_ok()
}

/// The `filters` of a query; true: they were accepted.
pub fn filters(bytes: &[u8]) -> bool {
    Filters::parse(bytes, &["label", "name", "status"]).is_ok_and(|f| f.patterns("name").is_ok())
}

/// Frames of output; the number of whole ones.
pub fn stdcopy_frames(bytes: &[u8]) -> usize {
    let mut buffer = BytesMut::from(bytes);
    let mut count = 0;
    while let Ok(Some(_)) = stdcopy::decode(&mut buffer) {
        count += 1;
    }
    count
}

/// The header `X-Registry-Auth`; true: it was accepted.
pub fn registry_auth(bytes: &[u8]) -> bool {
    images::credentials(bytes).is_ok()
}

/// A path with version; true: there is such a route.
pub fn path(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| {
        let (version, rest) = version::split(text);
        version.is_ok() && routes::find(&http::Method::GET, rest).is_some()
    })
}
