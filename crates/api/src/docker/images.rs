//! Images.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::response::Response;
use base64::Engine as _;
use control::Kept;
use control::images::{ImageRemoval, ImportEvent, ImportStream, Imported};
use futures::StreamExt as _;
use http::{HeaderValue, StatusCode, header};
use model::{Image, ImageReference};
use serde_json::{Value as Json, json};
use wire::link::{Credentials, ImageProgress};

use super::containers::now;
use super::failure::{Failure, Result};
use super::filters::Filters;
use super::reply;
use super::request::{Call, moment};
use super::to_docker::image as shape;
use super::value::{Fields, Value, shown};
use super::version::ApiVersion;

/// Longest accepted `X-Registry-Auth` in bytes: a token of a registry fits.
const AUTH_MAX_BYTES: usize = 16 << 10;

/// Most images of one archive.
const SAVE_MAX: usize = 256;

/// The API version that stopped writing `<none>:<none>` for images without a name.
const NO_NONE_SINCE: ApiVersion = ApiVersion(43);

/// An image of the call's pool.
pub(super) fn find(call: &Call, reference: &str) -> Result<Kept<Image>> {
    call.control
        .image_find(&call.caller, &call.pool, reference)
        .map_err(|error| {
            if error.kind == control::ErrorKind::NotFound {
                Failure::no_such_image(reference)
            } else {
                error.into()
            }
        })
}

/// `GET /images/json`.
pub(super) fn list(call: &Call) -> Result<Response> {
    let known = ["before", "dangling", "label", "reference", "since", "until"];
    let filters = Filters::from_query(&call.query, &known)?;
    let dangling = filters.flag("dangling")?;
    let named = |name: &str| -> Result<Option<String>> {
        let first = filters.values(name).first();
        first
            .map(|r| find(call, r).map(|image| image.config.created.clone().unwrap_or_default()))
            .transpose()
    };
    let (before, since) = (named("before")?, named("since")?);
    let until = filters
        .values("until")
        .first()
        .map(|text| {
            moment(text, now().millis())
                .ok_or_else(|| Failure::invalid(format!("invalid filter 'until={}'", shown(text))))
        })
        .transpose()?;
    let digests = call.query.flag("digests");
    let workloads = call.control.workload_list(&call.caller, &call.pool)?;
    let entries: Vec<Json> = call
        .control
        .image_list(&call.caller, &call.pool)?
        .iter()
        .filter(|image| {
            let created = image.config.created.clone().unwrap_or_default();
            dangling.is_none_or(|wanted| wanted == image.tags.is_empty())
                && filters.labels(&image.config.labels)
                && before.as_ref().is_none_or(|limit| created < *limit)
                && since.as_ref().is_none_or(|limit| created > *limit)
                && until.is_none_or(|limit| moment(&created, 0).is_some_and(|ms| ms < limit))
                && filters.any("reference", |pattern| is_named(image, pattern))
        })
        .map(|image| {
            let users = workloads
                .iter()
                .filter(|w| w.spec.task.image_id == image.id)
                .count();
            let mut entry = shape::list_entry(image, i64::try_from(users).unwrap_or(-1), digests);
            if call.version < NO_NONE_SINCE && image.tags.is_empty() {
                entry["RepoTags"] = json!(["<none>:<none>"]);
            }
            entry
        })
        .collect();
    Ok(reply::ok(&entries))
}

/// Whether a name of the image matches a pattern with `*` and `?`, with or without its tag.
fn is_named(image: &Image, pattern: &str) -> bool {
    image.tags.iter().chain(&image.digests).any(|name| {
        ImageReference::parse(name).is_ok_and(|reference| {
            glob(pattern.as_bytes(), reference.familiar().as_bytes())
                || glob(pattern.as_bytes(), reference.familiar_name().as_bytes())
                || glob(pattern.as_bytes(), reference.to_string().as_bytes())
                || glob(pattern.as_bytes(), reference.name().as_bytes())
        })
    })
}

/// `path.Match` of Go without classes: `*` and `?` do not match a slash. Takes time pattern × text at most.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let mut reach = vec![false; text.len() + 1];
    reach[0] = true;
    for &p in pattern {
        let mut next = vec![false; text.len() + 1];
        if p == b'*' {
            let mut open = false;
            for at in 0..=text.len() {
                open = reach[at] || (open && text[at - 1] != b'/');
                next[at] = open;
            }
        } else {
            for at in 0..text.len() {
                let same = if p == b'?' {
                    text[at] != b'/'
                } else {
                    text[at] == p
                };
                next[at + 1] = reach[at] && same;
            }
        }
        reach = next;
    }
    reach[text.len()]
}

/// `GET /images/{name}/json`.
pub(super) fn inspect(call: &Call) -> Result<Response> {
    Ok(reply::ok(&shape::inspect(&*find(call, call.subject())?)))
}

/// `GET /images/{name}/history`.
pub(super) fn history(call: &Call) -> Result<Response> {
    Ok(reply::ok(&shape::history(&*find(call, call.subject())?)))
}

fn reference(text: &str) -> Result<ImageReference> {
    ImageReference::parse(text)
        .map_err(|error| Failure::invalid(format!("invalid reference format: {error}")))
}

/// `POST /images/{name}/tag`.
pub(super) async fn tag(call: Call) -> Result<Response> {
    let Some(repository) = call.query.text("repo") else {
        return Err(Failure::invalid("repo: is needed"));
    };
    let target = match call.query.text("tag") {
        Some(tag) => reference(&format!("{repository}:{tag}"))?,
        None => reference(repository)?,
    };
    let source = find(&call, call.subject())?;
    call.control
        .image_tag(&call.caller, &call.pool, source.id.as_str(), &target)
        .await?;
    Ok(reply::empty(StatusCode::CREATED))
}

/// `DELETE /images/{name}`.
pub(super) async fn remove(call: Call) -> Result<Response> {
    let name = call.subject();
    find(&call, name)?;
    let removals = call
        .control
        .image_remove(&call.caller, &call.pool, name, call.query.flag("force"))
        .await?;
    let lines: Vec<Json> = removals
        .iter()
        .map(|removal| match removal {
            ImageRemoval::Untagged(name) => json!({ "Untagged": name }),
            ImageRemoval::Deleted(id) => json!({ "Deleted": id.as_str() }),
        })
        .collect();
    Ok(reply::ok(&lines))
}

/// What `fromImage` and `tag` name together.
fn wanted(call: &Call) -> Result<ImageReference> {
    let Some(image) = call.query.text("fromImage") else {
        return Err(if call.query.text("fromSrc").is_some() {
            Failure::unsupported("fromSrc: importing file systems as images is not supported")
        } else {
            Failure::invalid("fromImage: is needed")
        });
    };
    for parameter in ["repo", "changes"] {
        if call.query.text(parameter).is_some() {
            return Err(Failure::unsupported(format!(
                "{parameter}: only for imports, which are not supported"
            )));
        }
    }
    match call.query.text("tag") {
        Some(digest) if digest.starts_with("sha256:") => reference(&format!("{image}@{digest}")),
        Some(tag) => reference(&format!("{image}:{tag}")),
        None => reference(image),
    }
}

/// Credentials of `X-Registry-Auth`: base64 of a JSON object.
pub(super) fn credentials(header: &[u8]) -> Result<Option<Credentials>> {
    let bad =
        || Failure::invalid("X-Registry-Auth: must be base64 (URL alphabet) of a JSON object");
    if header.len() > AUTH_MAX_BYTES {
        return Err(bad());
    }
    let trimmed: Vec<u8> = header
        .iter()
        .copied()
        .filter(|byte| *byte != b'=' && !byte.is_ascii_whitespace())
        .map(|byte| match byte {
            b'+' => b'-',
            b'/' => b'_',
            byte => byte,
        })
        .collect();
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(trimmed)
        .map_err(|_| bad())?;
    if json.is_empty() {
        return Ok(None);
    }
    let mut fields = Fields::open(Value::parse(&json).map_err(|_| bad())?, "X-Registry-Auth")
        .map_err(|_| bad())?;
    // Registries differ in what more they want here; only these take part in a login.
    let (username, password, both) = (
        fields.text("username")?,
        fields.text("password")?,
        fields.text("auth")?,
    );
    for token in ["identitytoken", "registrytoken"] {
        fields.unsupported(
            token,
            "only user name and password are supported; log in with them",
        )?;
    }
    if !username.is_empty() {
        return Ok(Some(Credentials { username, password }));
    }
    if both.is_empty() {
        return Ok(None);
    }
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(both)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(bad)?;
    let (username, password) = decoded.split_once(':').ok_or_else(bad)?;
    Ok(Some(Credentials {
        username: username.to_owned(),
        password: password.to_owned(),
    }))
}

/// The registry that `serveraddress` of a login names: a host, or what older clients call Docker Hub.
pub(super) fn registry(address: &str) -> Result<String> {
    let host = address
        .split_once("://")
        .map_or(address, |(_, rest)| rest)
        .split('/')
        .next()
        .unwrap_or_default();
    if matches!(host, "" | "index.docker.io" | "registry-1.docker.io") {
        return Ok("docker.io".to_owned());
    }
    // The grammar of references decides what can be a registry.
    match ImageReference::parse(&format!("{host}/any")) {
        Ok(reference) if reference.registry == host => Ok(reference.registry),
        Ok(_) | Err(_) => Err(Failure::invalid(format!(
            "serveraddress: {} is not the address of a registry",
            shown(address)
        ))),
    }
}

/// `POST /auth`: whether a registry accepts credentials. The client keeps them and sends them with a pull.
pub(super) async fn login(mut call: Call) -> Result<Response> {
    let body = call.json_body().await?;
    let mut fields = Fields::open(Value::parse(&body)?, "")?;
    let (username, password) = (fields.text("username")?, fields.text("password")?);
    let registry = registry(&fields.text("serveraddress")?)?;
    for ignored in ["email", "auth"] {
        fields.text(ignored)?;
    }
    for token in ["identitytoken", "registrytoken"] {
        fields.unsupported(
            token,
            "only user name and password are supported; log in with them",
        )?;
    }
    fields.finish()?;
    let credentials = Credentials { username, password };
    call.control
        .registry_login(&call.caller, &call.pool, &registry, credentials)
        .await?;
    Ok(reply::ok(
        &json!({ "Status": "Login Succeeded", "IdentityToken": "" }),
    ))
}

/// `POST /images/create`: a pull.
pub(super) async fn pull(call: Call) -> Result<Response> {
    let reference = wanted(&call)?;
    let credentials = match call.headers.get("x-registry-auth") {
        Some(header) => credentials(header.as_bytes())?,
        None => None,
    };
    let platform = call.query.text("platform").map(str::to_owned);
    let mut steps = call
        .control
        .image_pull(
            &call.caller,
            &call.pool,
            reference.clone(),
            platform,
            credentials,
        )
        .await?;
    let first = first_step(&mut steps).await?;
    let label = match (&reference.tag, &reference.digest) {
        (_, Some(digest)) => digest.to_string(),
        (Some(tag), None) => tag.clone(),
        (None, None) => String::new(),
    };
    let from = &reference.repository;
    let heading = json!({ "status": format!("Pulling from {from}"), "id": label });
    let familiar = reference.familiar();
    Ok(steps_response(Some(heading), first, steps, move |done| {
        pulled(&familiar, done)
    }))
}

/// The first step: a failure before anything was said can still be a status code.
async fn first_step(steps: &mut ImportStream) -> Result<ImportEvent> {
    match steps.recv().await {
        Some(ImportEvent::Failed(error)) => Err(error.into()),
        Some(step) => Ok(step),
        None => Err(Failure::internal("the import ended without a word")),
    }
}

fn pulled(reference: &str, done: &[Imported]) -> Vec<Json> {
    let mut lines = Vec::new();
    for image in done {
        if let Some(digest) = &image.manifest {
            lines.push(json!({ "status": format!("Digest: {digest}") }));
        }
        let sentence = if image.unchanged {
            format!("Status: Image is up to date for {reference}")
        } else {
            format!("Status: Downloaded newer image for {reference}")
        };
        lines.push(json!({ "status": sentence }));
    }
    lines
}

fn loaded(done: &[Imported]) -> Vec<Json> {
    let line = |text: String| json!({ "stream": format!("{text}\n") });
    done.iter()
        .flat_map(|image| {
            if image.names.is_empty() {
                vec![line(format!("Loaded image ID: {}", image.image.id))]
            } else {
                image
                    .names
                    .iter()
                    .map(|name| line(format!("Loaded image: {name}")))
                    .collect()
            }
        })
        .collect()
}

fn progress_line(progress: &ImageProgress) -> Json {
    let mut line = json!({ "status": progress.status });
    if !progress.id.is_empty() {
        line["id"] = json!(progress.id);
    }
    line["progressDetail"] = match (progress.current, progress.total) {
        (Some(current), Some(total)) => json!({ "current": current, "total": total }),
        (Some(current), None) => json!({ "current": current }),
        (None, _) => json!({}),
    };
    line
}

/// A stream of JSON lines out of the steps of an import.
fn steps_response(
    heading: Option<Json>,
    first: ImportEvent,
    steps: ImportStream,
    summary: impl Fn(&[Imported]) -> Vec<Json> + Send + 'static,
) -> Response {
    let quiet = heading.is_none();
    let lines = move |event: ImportEvent| -> Vec<Json> {
        match event {
            ImportEvent::Progress(_) if quiet => Vec::new(),
            ImportEvent::Progress(progress) => vec![progress_line(&progress)],
            ImportEvent::Done(done) => summary(&done),
            ImportEvent::Failed(error) => vec![json!({
                "errorDetail": { "message": error.message },
                "error": error.message,
            })],
        }
    };
    let chunks = futures::stream::unfold((Some(first), steps), |(first, mut steps)| async move {
        let event = match first {
            Some(event) => event,
            None => steps.recv().await?,
        };
        Some((event, (None, steps)))
    })
    .map(move |event| encode_lines(lines(event)));
    let heading = heading.map(|line| encode_lines(vec![line]));
    let body = futures::stream::iter(heading).chain(chunks);
    let mut response = Response::new(Body::from_stream(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

#[expect(clippy::unnecessary_wraps, reason = "a body's stream is of results")]
fn encode_lines(lines: Vec<Json>) -> std::result::Result<Bytes, Infallible> {
    let mut bytes = Vec::new();
    for line in lines {
        bytes.extend_from_slice(line.to_string().as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    Ok(bytes.into())
}

/// `POST /images/load`.
pub(super) async fn load(mut call: Call) -> Result<Response> {
    if call.query.text("platform").is_some() {
        return Err(Failure::unsupported(
            "platform: loading one platform out of several is not supported yet",
        ));
    }
    let quiet = call.query.flag("quiet");
    let mut upload = call.control.image_load(&call.caller, &call.pool).await?;
    let mut chunks = std::mem::take(&mut call.body).into_data_stream();
    while let Some(chunk) = chunks.next().await {
        // Dropping the upload tells the host that it was not finished.
        let chunk =
            chunk.map_err(|_| Failure::invalid("the upload ended early: nothing was loaded"))?;
        if upload.write(&chunk).await.is_err() {
            break;
        }
    }
    let mut steps = upload.finish().await;
    let first = first_step(&mut steps).await?;
    let heading = (!quiet).then(|| json!({ "status": "Loading" }));
    Ok(steps_response(heading, first, steps, loaded))
}

/// `GET /images/{name}/get` and `GET /images/get?names=…`.
pub(super) async fn save(call: Call) -> Result<Response> {
    if call.query.text("platform").is_some() {
        return Err(Failure::unsupported(
            "platform: saving one platform out of several is not supported yet",
        ));
    }
    let names: Vec<String> = if call.path.is_empty() {
        call.query
            .all("names")
            .flat_map(|names| names.split(','))
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect()
    } else {
        call.path.clone()
    };
    if names.is_empty() || names.len() > SAVE_MAX {
        return Err(Failure::invalid(format!(
            "names: between 1 and {SAVE_MAX} images are expected"
        )));
    }
    for name in &names {
        find(&call, name)?;
    }
    let archive = call
        .control
        .image_save(&call.caller, &call.pool, &names)
        .await?;
    let mut archive = Box::pin(archive);
    let first = match archive.next().await {
        None => Ok(Bytes::new()),
        // A failure before the first byte can still be a status code.
        Some(Err(error)) => return Err(error.into()),
        Some(Ok(bytes)) => Ok(bytes),
    };
    let rest = archive.map(|chunk| chunk.map_err(|error| std::io::Error::other(error.message)));
    let body = futures::stream::iter([first]).chain(rest);
    let mut response = Response::new(Body::from_stream(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-tar"),
    );
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, matches) in [
            ("busybox", "busybox", true),
            ("busy*", "busybox:latest", true),
            ("b*x:?a*", "busybox:latest", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("", "a", false),
            ("a?", "a", false),
        ] {
            assert_eq!(
                glob(pattern.as_bytes(), text.as_bytes()),
                matches,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn registries_that_logins_name() {
        for (address, expected) in [
            ("", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("docker.io", "docker.io"),
            ("https://registry.example", "registry.example"),
            ("registry.example/v2/", "registry.example"),
            ("http://127.0.0.1:5000", "127.0.0.1:5000"),
            ("localhost:5000/team", "localhost:5000"),
        ] {
            assert_eq!(registry(address).unwrap(), expected, "{address}");
        }
        for bad in ["name", "https://user@host.example", "a b.c", "x.y:port"] {
            assert!(registry(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn registry_credentials() {
        let header = |json: &str| base64::engine::general_purpose::URL_SAFE.encode(json);
        let good = header(r#"{"username":"u","password":"p","serveraddress":"x"}"#);
        let found = credentials(good.as_bytes()).unwrap().unwrap();
        assert_eq!(
            (found.username.as_str(), found.password.as_str()),
            ("u", "p")
        );
        let auth = header(r#"{"auth":"dTpw"}"#);
        assert_eq!(credentials(auth.as_bytes()).unwrap().unwrap().password, "p");
        assert!(credentials(header("{}").as_bytes()).unwrap().is_none());
        assert!(credentials(b"").unwrap().is_none());
        for bad in [
            "!!!",
            &header("[]"),
            &header(r#"{"identitytoken":"x"}"#),
            &header("{"),
        ] {
            assert!(credentials(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
