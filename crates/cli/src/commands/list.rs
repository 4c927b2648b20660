//! Lists: printed once, or again and again as things change.

use std::collections::BTreeMap;

use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::client::native::with_query;
use wire::native::List;
use wire::native::stream::WatchEvent;

use crate::app::App;
use crate::args::{Format, ListArgs};
use crate::error::{Doing as _, Result};
use crate::output::{Table, document};

/// How a list of `T` is shown.
pub(crate) struct View<'a, T> {
    /// Where it is read.
    pub path: String,
    /// For messages, for example `pools`.
    pub noun: &'a str,
    /// What to do when it is empty.
    pub empty: &'a str,
    /// Which things are shown.
    pub keep: &'a (dyn Fn(&T) -> bool + Sync),
    /// Identity, for changes.
    pub id: fn(&T) -> &str,
    /// What `--quiet` prints.
    pub quiet: &'a (dyn Fn(&T) -> String + Sync),
    /// The table.
    pub table: &'a (dyn Fn(&[T]) -> Table + Sync),
}

/// Prints a list as asked.
pub(crate) async fn show<T>(app: &App, args: &ListArgs, view: View<'_, T>) -> Result<()>
where
    T: Serialize + DeserializeOwned + Clone,
{
    if args.watch {
        return watch(app, args.output.output, view).await;
    }
    let mut list: List<T> = app
        .client
        .get(&view.path)
        .await
        .doing(|| format!("cannot list {}", view.noun))?;
    list.items.retain(|item| (view.keep)(item));
    print(app, args.output.output, &list, &view)
}

fn print<T: Serialize>(
    app: &App,
    format: Format,
    list: &List<T>,
    view: &View<'_, T>,
) -> Result<()> {
    if app.printer.quiet {
        let names: String = list
            .items
            .iter()
            .map(|item| (view.quiet)(item) + "\n")
            .collect();
        return app.printer.print(&names);
    }
    match format {
        Format::Json | Format::Yaml => app.printer.value(list, format),
        Format::Table => {
            let table = (view.table)(&list.items);
            app.printer.print(&table.text(app.printer.color))?;
            if table.is_empty() {
                app.printer.note(view.empty);
            }
            Ok(())
        }
    }
}

async fn watch<T>(app: &App, format: Format, view: View<'_, T>) -> Result<()>
where
    T: Serialize + DeserializeOwned + Clone,
{
    let what = || format!("cannot watch {}", view.noun);
    let path = with_query(view.path.clone(), "watch", "true");
    let mut lines = app
        .client
        .lines(Method::GET, &path, None::<&()>)
        .await
        .doing(what)?;
    let mut known: BTreeMap<String, T> = BTreeMap::new();
    let mut synced = false;
    while let Some(event) = lines.next().await.doing(what)? {
        let event: WatchEvent<T> = event;
        if let WatchEvent::Added(item) | WatchEvent::Modified(item) = &event
            && !(view.keep)(item)
            && !known.contains_key((view.id)(item))
        {
            continue;
        }
        if format != Format::Table {
            print_change(app, format, &event)?;
            if let WatchEvent::Added(item) = &event {
                known.insert((view.id)(item).to_owned(), item.clone());
            }
            continue;
        }
        match event {
            WatchEvent::Added(item) | WatchEvent::Modified(item) => {
                if (view.keep)(&item) {
                    known.insert((view.id)(&item).to_owned(), item);
                } else {
                    known.remove((view.id)(&item));
                }
            }
            WatchEvent::Removed(id) => {
                known.remove(&id);
            }
            WatchEvent::Synced => synced = true,
            WatchEvent::Resync => {
                known.clear();
                synced = false;
            }
        }
        if synced {
            redraw(app, &known, &view)?;
        }
    }
    Ok(())
}

fn print_change<T: Serialize>(app: &App, format: Format, event: &WatchEvent<T>) -> Result<()> {
    if format == Format::Yaml {
        return app
            .printer
            .print(&format!("---\n{}", document(event, format)?));
    }
    let line = serde_json::to_string(event).unwrap_or_default();
    app.printer.line(&line)
}

/// On a terminal the screen is drawn again; elsewhere the whole list follows after an empty line.
fn redraw<T: Clone>(app: &App, known: &BTreeMap<String, T>, view: &View<'_, T>) -> Result<()> {
    let items: Vec<T> = known.values().cloned().collect();
    let text = (view.table)(&items).text(app.printer.color);
    if app.printer.terminal {
        app.printer.print(&format!("\x1b[H\x1b[2J{text}"))
    } else {
        app.printer.print(&format!("{text}\n"))
    }
}
