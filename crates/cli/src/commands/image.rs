//! Images: list, pull, load, save, tag, remove.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt as _;
use http::Method;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use wire::client::native::{Lines, Patience, path, with_query};
use wire::native::image::{
    Image, ImagePull, ImageRemoved, ImageSave, ImageTag, ImportDone, ImportEvent, Progress,
    RegistryCredentials,
};
use wire::native::{List, ProblemKind};

use crate::app::App;
use crate::args::{Format, ImageCommand, ListArgs};
use crate::commands::list::{View, show};
use crate::error::{Doing as _, Failure, Result};
use crate::output::{Table, visible};
use crate::{exit, human, terminal};

pub(super) async fn execute(app: &App, command: ImageCommand) -> Result<()> {
    let pool = app.pool().await?;
    match command {
        ImageCommand::Ls(args) => ls(app, &pool, &args).await,
        ImageCommand::Show { images, output } => inspect(app, &pool, &images, output).await,
        ImageCommand::Pull {
            image,
            platform,
            user,
            ..
        } => {
            let credentials = match user {
                Some(username) => Some(RegistryCredentials {
                    username,
                    password: password()?,
                }),
                None => None,
            };
            pull(
                app,
                &pool,
                ImagePull {
                    reference: image,
                    platform,
                    credentials,
                },
            )
            .await
        }
        ImageCommand::Load { input } => load(app, &pool, input).await,
        ImageCommand::Save { images, file } => save(app, &pool, images, file.as_deref()).await,
        ImageCommand::Tag { image, target } => {
            let body = ImageTag {
                target: target.clone(),
            };
            let tag = path(&["pools", &pool, "images", &image, "tag"]);
            let tagged = app
                .client
                .call(Method::POST, &tag, Some(&body), Patience::Short)
                .await;
            let _: Image = explained(app, &pool, tagged, || {
                format!("cannot tag image \"{image}\"")
            })
            .await?;
            app.printer.line(&target)
        }
        ImageCommand::Rm { images, force, yes } => {
            let question = format!("Remove {} from pool {pool}?", images.join(", "));
            app.confirm(yes.yes || force, &question)?;
            for image in images {
                remove(app, &pool, &image, force).await?;
            }
            Ok(())
        }
    }
}

/// Whether the pool lacks an image; a pool that is not there lacks nothing.
pub(super) async fn missing(app: &App, pool: &str, image: &str) -> bool {
    let found = app
        .client
        .get::<Image>(&path(&["pools", pool, "images", image]))
        .await;
    let lacking = found.is_err_and(|error| error.kind() == Some(ProblemKind::NotFound));
    lacking
        && app
            .client
            .get::<serde_json::Value>(&path(&["pools", pool]))
            .await
            .is_ok()
}

/// Pulls without printing what came.
pub(super) async fn pull_quietly(app: &App, pool: &str, image: &str) -> Result<()> {
    let body = ImagePull {
        reference: image.to_owned(),
        platform: None,
        credentials: None,
    };
    import(app, pool, &body).await.map(|_| ())
}

async fn pull(app: &App, pool: &str, body: ImagePull) -> Result<()> {
    let done = import(app, pool, &body).await?;
    if done.unchanged {
        app.printer
            .note(&format!("{} is up to date", body.reference));
    }
    print_names(app, &done)
}

async fn import(app: &App, pool: &str, body: &ImagePull) -> Result<ImportDone> {
    let what = || format!("cannot pull image \"{}\"", body.reference);
    let lines = app
        .client
        .lines(Method::POST, &path(&["pools", pool, "pull"]), Some(body))
        .await;
    let lines = explained(app, pool, lines, what).await?;
    follow(app, lines, what).await
}

async fn load(app: &App, pool: &str, input: Option<PathBuf>) -> Result<()> {
    let what = || "cannot load images".to_owned();
    let lines = match input {
        Some(file) => {
            let open = tokio::fs::File::open(&file).await;
            let open = open.doing(|| format!("cannot read {}", file.display()))?;
            app.client
                .upload(&path(&["pools", pool, "load"]), chunks(open))
                .await
        }
        None if std::io::stdin().is_terminal() => {
            return Err(
                Failure::new(exit::USAGE, "standard input is a terminal, not an archive")
                    .hint("plimsoll image load -i FILE"),
            );
        }
        None => {
            app.client
                .upload(&path(&["pools", pool, "load"]), stdin_chunks())
                .await
        }
    };
    let lines = explained(app, pool, lines, what).await?;
    let done = follow(app, lines, what).await?;
    print_names(app, &done)
}

/// A reader as chunks; a read that fails ends the upload early, which the server notices as a broken archive.
fn chunks(
    reader: impl tokio::io::AsyncRead + Send + Unpin + 'static,
) -> impl futures::Stream<Item = Bytes> + Send {
    futures::stream::unfold(reader, |mut reader| async move {
        let mut buffer = bytes::BytesMut::with_capacity(256 << 10);
        match reader.read_buf(&mut buffer).await {
            Ok(read) if read > 0 => Some((buffer.freeze(), reader)),
            Ok(_) | Err(_) => None,
        }
    })
}

fn stdin_chunks() -> impl futures::Stream<Item = Bytes> + Send {
    futures::stream::unfold(terminal::read_stdin(), |mut input| async {
        input.recv().await.map(|bytes| (bytes, input))
    })
}

/// Shows progress until the last line.
async fn follow(
    app: &App,
    mut lines: Lines<ImportEvent>,
    what: impl Fn() -> String,
) -> Result<ImportDone> {
    let mut bars = Bars::new(app);
    while let Some(event) = lines.next().await.doing(&what)? {
        match event {
            ImportEvent::Progress(progress) => bars.show(&progress),
            ImportEvent::Done(done) => {
                bars.clear();
                return Ok(done);
            }
            ImportEvent::Failed(problem) => {
                bars.clear();
                return Err(wire::client::native::ClientError::Refused(Box::new(
                    problem,
                )))
                .doing(what);
            }
        }
    }
    Err(Failure::new(exit::FAILED, what()).why("the server ended the answer half-way"))
}

/// Progress on standard error: one line that is drawn again on a terminal, a line per finished step elsewhere.
struct Bars {
    terminal: bool,
    quiet: bool,
    layers: BTreeMap<String, (u64, u64)>,
    drawn: bool,
}

impl Bars {
    fn new(app: &App) -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            quiet: app.printer.quiet,
            layers: BTreeMap::new(),
            drawn: false,
        }
    }

    fn show(&mut self, progress: &Progress) {
        if self.quiet {
            return;
        }
        if let (Some(current), Some(total)) = (progress.current_bytes, progress.total_bytes) {
            self.layers.insert(progress.id.clone(), (current, total));
        }
        let mut err = std::io::stderr().lock();
        // Progress that cannot be shown is not missed.
        let _ = if self.terminal {
            let (done, total) = self
                .layers
                .values()
                .fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
            self.drawn = true;
            let amount = if total > 0 {
                format!("{} of {}  ", human::size(done), human::size(total))
            } else {
                String::new()
            };
            write!(
                err,
                "\r\x1b[K{amount}{} {}",
                visible(&progress.id),
                visible(&progress.status)
            )
            .and_then(|()| err.flush())
        } else if progress.current_bytes.is_none() {
            writeln!(
                err,
                "{} {}",
                visible(&progress.id),
                visible(&progress.status)
            )
        } else {
            Ok(())
        };
    }

    fn clear(&mut self) {
        if self.drawn {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn print_names(app: &App, done: &ImportDone) -> Result<()> {
    for image in &done.images {
        match image.tags.first() {
            Some(tag) if !app.printer.quiet => app.printer.line(human::image_name(tag))?,
            _ => app.printer.line(&image.id)?,
        }
    }
    Ok(())
}

async fn save(app: &App, pool: &str, images: Vec<String>, file: Option<&Path>) -> Result<()> {
    if file.is_none() && std::io::stdout().is_terminal() {
        return Err(
            Failure::new(exit::USAGE, "an archive would be written to the terminal")
                .hint("plimsoll image save -O FILE IMAGE, or redirect standard output"),
        );
    }
    let what = || format!("cannot save {}", images.join(", "));
    let body = ImageSave {
        images: images.clone(),
    };
    let opened = app
        .client
        .download(Method::POST, &path(&["pools", pool, "save"]), Some(&body))
        .await;
    let mut download = explained(app, pool, opened, what).await?;
    let Some(file) = file else {
        while let Some(bytes) = download.next().await {
            app.printer.write(&bytes.doing(what)?)?;
        }
        return Ok(());
    };
    // Written beside and renamed, so that a broken download never looks like an archive.
    let part = file.with_extension("part");
    let wrong = || format!("cannot write {}", part.display());
    let mut out = tokio::fs::File::create(&part).await.doing(wrong)?;
    while let Some(bytes) = download.next().await {
        out.write_all(&bytes.doing(what)?).await.doing(wrong)?;
    }
    out.sync_all().await.doing(wrong)?;
    tokio::fs::rename(&part, file)
        .await
        .doing(|| format!("cannot write {}", file.display()))
}

async fn remove(app: &App, pool: &str, image: &str, force: bool) -> Result<()> {
    let mut remove = path(&["pools", pool, "images", image]);
    if force {
        remove = with_query(remove, "force", "true");
    }
    let removed = app
        .client
        .call(Method::DELETE, &remove, None::<&()>, Patience::Short)
        .await;
    let removed: ImageRemoved = explained(app, pool, removed, || {
        format!("cannot remove image \"{image}\"")
    })
    .await?;
    for tag in &removed.untagged {
        app.printer
            .line(&format!("untagged {}", human::image_name(tag)))?;
    }
    for id in &removed.deleted {
        app.printer.line(&format!("deleted {id}"))?;
    }
    Ok(())
}

async fn inspect(app: &App, pool: &str, images: &[String], format: Format) -> Result<()> {
    let mut items: Vec<Image> = Vec::new();
    for image in images {
        let found = app
            .client
            .get(&path(&["pools", pool, "images", image]))
            .await;
        items.push(
            explained(app, pool, found, || {
                format!("cannot show image \"{image}\"")
            })
            .await?,
        );
    }
    app.printer.value(&List { items }, format)
}

async fn ls(app: &App, pool: &str, args: &ListArgs) -> Result<()> {
    let empty = format!(
        "No images in pool {pool} yet. Get one: plimsoll image pull IMAGE, or plimsoll image load -i FILE"
    );
    let view = View {
        path: path(&["pools", pool, "images"]),
        noun: "images",
        empty: &empty,
        keep: &|_| true,
        id: |it: &Image| &it.id,
        quiet: &|it| it.id.clone(),
        table: &table,
    };
    match show(app, args, view).await {
        Ok(()) => Ok(()),
        Err(failure) => Err(app.explain_pool(pool, failure).await),
    }
}

fn table(images: &[Image]) -> Table {
    let mut table = Table::new(&[
        "IMAGE", "ID", "PLATFORM", "SIZE", "HOSTS", "USED BY", "ADDED",
    ]);
    let now = human::now_ms();
    for image in images {
        let names: Vec<&str> = if image.tags.is_empty() {
            vec!["<none>"]
        } else {
            image
                .tags
                .iter()
                .map(|tag| human::image_name(tag))
                .collect()
        };
        for name in names {
            table.row(vec![
                name.into(),
                human::short(&image.id).into(),
                image.platform.as_str().into(),
                human::size(image.size_bytes).into(),
                image.hosts.to_string().into(),
                image.workloads.to_string().into(),
                format!("{} ago", human::age(&image.added_at, now)).into(),
            ]);
        }
    }
    table
}

/// Adds "did you mean" when it was the pool or image that is not there.
async fn explained<T>(
    app: &App,
    pool: &str,
    result: std::result::Result<T, wire::client::native::ClientError>,
    what: impl FnOnce() -> String,
) -> Result<T> {
    match result.doing(what) {
        Ok(value) => Ok(value),
        Err(failure) if failure.code == exit::NOT_FOUND => {
            let there = app
                .client
                .get::<serde_json::Value>(&path(&["pools", pool]))
                .await
                .is_ok();
            if there && failure.hint.is_empty() {
                return Err(failure.hint(format!("see `plimsoll image ls --pool {pool}`")));
            }
            Err(app.explain_pool(pool, failure).await)
        }
        Err(failure) => Err(failure),
    }
}

fn password() -> Result<String> {
    let mut text = String::new();
    // A registry's tokens are some kilobytes at most.
    let read = std::io::stdin().take(64 << 10).read_to_string(&mut text);
    read.doing(|| "cannot read the password from standard input".into())?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
