//! Images of a pool.

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use control::images::{ImageRemoval, ImportEvent as ControlEvent, ImportStream};
use control::{Caller, Control};
use futures::StreamExt as _;
use model::{ImageReference, PoolId};
use serde::Deserialize;
use utoipa::IntoParams;
use wire::link::Credentials;
use wire::native::image::{
    Image, ImagePull, ImageRemoved, ImageSave, ImageTag, ImportDone, ImportEvent, Progress,
};
use wire::native::{List, Problem};

use super::ListQuery;
use crate::native::access_log::request_id;
use crate::native::extract::{Asked, Body, By, Segments};
use crate::native::failure::{Failure, Result};
use crate::native::table::Native;
use crate::native::watch::watch;
use crate::native::{lines, to_native};

/// Pool and image of a path.
type At = Segments<(String, String)>;

/// How to remove an image.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RemoveQuery {
    /// Also if it has several names or stopped workloads use it.
    force: bool,
}

impl Native {
    fn images(&self, caller: &Caller, pool: &PoolId) -> Result<Vec<Image>> {
        let images = self.control.image_list(caller, pool)?;
        Ok(images
            .iter()
            .map(|image| to_native::image(&self.control, image))
            .collect())
    }
}

#[utoipa::path(get, path = "/api/v1/pools/{pool}/images", tag = "images", operation_id = "image_list",
    params(("pool" = String, Path, description = "Name or id."), ListQuery), responses(
    (status = 200, description = "Images of the pool.", body = List<Image>),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn list(
    State(native): State<Native>,
    By(caller): By,
    Segments(pool): Segments<String>,
    Asked(query): Asked<ListQuery>,
) -> Result<Response> {
    let pool = native.pool_id(&caller, &pool)?;
    if query.watch {
        let control = native.control.clone();
        return Ok(watch(
            &control,
            |image: &Image| &image.id,
            move || native.images(&caller, &pool),
        ));
    }
    Ok(Json(List {
        items: native.images(&caller, &pool)?,
    })
    .into_response())
}

#[utoipa::path(get, path = "/api/v1/pools/{pool}/images/{image}", tag = "images", operation_id = "image_show",
    params(("pool" = String, Path, description = "Name or id."),
        ("image" = String, Path, description = "Name, digest, id or unique beginning of the id; slashes escaped.")), responses(
    (status = 200, description = "The image.", body = Image),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn show(
    State(native): State<Native>,
    By(caller): By,
    Segments((pool, image)): At,
) -> Result<Json<Image>> {
    let pool = native.pool_id(&caller, &pool)?;
    let image = native.control.image_find(&caller, &pool, &image)?;
    Ok(Json(to_native::image(&native.control, &image)))
}

#[utoipa::path(delete, path = "/api/v1/pools/{pool}/images/{image}", tag = "images", operation_id = "image_remove",
    params(("pool" = String, Path, description = "Name or id."), ("image" = String, Path, description = "Name, digest or id."), RemoveQuery), responses(
    (status = 200, description = "What is gone.", body = ImageRemoved),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn remove(
    State(native): State<Native>,
    By(caller): By,
    Segments((pool, image)): At,
    Asked(query): Asked<RemoveQuery>,
) -> Result<Json<ImageRemoved>> {
    let pool = native.pool_id(&caller, &pool)?;
    let mut removed = ImageRemoved::default();
    for removal in native
        .control
        .image_remove(&caller, &pool, &image, query.force)
        .await?
    {
        match removal {
            ImageRemoval::Untagged(name) => removed.untagged.push(name),
            ImageRemoval::Deleted(id) => removed.deleted.push(id.to_string()),
        }
    }
    Ok(Json(removed))
}

#[utoipa::path(post, path = "/api/v1/pools/{pool}/images/{image}/tag", tag = "images", operation_id = "image_tag",
    request_body = ImageTag,
    params(("pool" = String, Path, description = "Name or id."), ("image" = String, Path, description = "Name, digest or id.")), responses(
    (status = 200, description = "The image with its names.", body = Image),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn tag(
    State(native): State<Native>,
    By(caller): By,
    Segments((pool, image)): At,
    Body(body): Body<ImageTag>,
) -> Result<Json<Image>> {
    let pool = native.pool_id(&caller, &pool)?;
    let target = reference("target", &body.target)?;
    native
        .control
        .image_tag(&caller, &pool, &image, &target)
        .await?;
    let image = native
        .control
        .image_find(&caller, &pool, &target.to_string())?;
    Ok(Json(to_native::image(&native.control, &image)))
}

fn reference(field: &str, text: &str) -> Result<ImageReference> {
    ImageReference::parse(text).map_err(|error| Failure::invalid(format!("{field}: {error}")))
}

#[utoipa::path(post, path = "/api/v1/pools/{pool}/pull", tag = "images", operation_id = "image_pull", request_body = ImagePull,
    params(("pool" = String, Path, description = "Name or id.")), responses(
    (status = 200, description = "Progress, one JSON document per line; the last one says how it ended.", body = ImportEvent, content_type = "application/x-ndjson"),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn pull(
    State(native): State<Native>,
    By(caller): By,
    Segments(pool): Segments<String>,
    Body(body): Body<ImagePull>,
) -> Result<Response> {
    let pool = native.pool_id(&caller, &pool)?;
    let reference = reference("reference", &body.reference)?;
    let credentials = body.credentials.map(|it| Credentials {
        username: it.username,
        password: it.password,
    });
    let events = native
        .control
        .image_pull(&caller, &pool, reference, body.platform, credentials)
        .await?;
    Ok(import(&native.control, events))
}

#[utoipa::path(post, path = "/api/v1/pools/{pool}/load", tag = "images", operation_id = "image_load",
    request_body(content = [u8], content_type = "application/x-tar", description = "A docker or OCI archive."),
    params(("pool" = String, Path, description = "Name or id.")), responses(
    (status = 200, description = "Progress, one JSON document per line; the last one says how it ended.", body = ImportEvent, content_type = "application/x-ndjson"),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn load(
    State(native): State<Native>,
    By(caller): By,
    Segments(pool): Segments<String>,
    request: Request,
) -> Result<Response> {
    let pool = native.pool_id(&caller, &pool)?;
    let mut upload = native.control.image_load(&caller, &pool).await?;
    let mut body = request.into_body().into_data_stream();
    while let Some(bytes) = body.next().await {
        let bytes =
            bytes.map_err(|_| Failure::invalid("the upload was cut off: nothing was added"))?;
        // A host that has seen enough says why in its answer.
        if upload.write(&bytes).await.is_err() {
            break;
        }
    }
    let events = upload.finish().await;
    Ok(import(&native.control, events))
}

fn import(control: &Control, events: ImportStream) -> Response {
    let (control, request_id) = (control.clone(), request_id());
    let events = tokio_stream::wrappers::ReceiverStream::new(events);
    lines::lines(events.map(move |event| {
        match event {
            ControlEvent::Progress(step) => ImportEvent::Progress(Progress {
                id: step.id,
                status: step.status,
                current_bytes: step.current,
                total_bytes: step.total,
            }),
            ControlEvent::Done(imported) => ImportEvent::Done(ImportDone {
                unchanged: imported.iter().all(|it| it.unchanged),
                images: imported
                    .iter()
                    .map(|it| to_native::image(&control, &it.image))
                    .collect(),
            }),
            ControlEvent::Failed(error) => {
                let mut problem = Failure::from(error).into_problem();
                problem.request_id.clone_from(&request_id);
                ImportEvent::Failed(problem)
            }
        }
    }))
}

#[utoipa::path(post, path = "/api/v1/pools/{pool}/save", tag = "images", operation_id = "image_save", request_body = ImageSave,
    params(("pool" = String, Path, description = "Name or id.")), responses(
    (status = 200, description = "An archive docker can load.", body = [u8], content_type = "application/x-tar"),
    (status = "default", description = "It failed.", body = Problem)))]
pub(crate) async fn save(
    State(native): State<Native>,
    By(caller): By,
    Segments(pool): Segments<String>,
    Body(body): Body<ImageSave>,
) -> Result<Response> {
    if body.images.is_empty() {
        return Err(Failure::invalid("images: none was named"));
    }
    let pool = native.pool_id(&caller, &pool)?;
    let archive = native
        .control
        .image_save(&caller, &pool, &body.images)
        .await?;
    Ok(lines::try_body("application/x-tar", archive))
}
