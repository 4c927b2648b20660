//! `version`.

use http::Method;
use serde::Serialize;
use wire::client::native::{Patience, path};
use wire::native::slice::Installation;
use wire::native::system::Version;

use crate::app::App;
use crate::args::{Format, Global, InstallationCommand};
use crate::error::{Doing as _, Result};
use crate::exit;
use crate::output::{Printer, fields};

#[derive(Serialize)]
struct Both {
    client: String,
    server: Option<Version>,
    address: Option<String>,
}

/// Shows both versions; without a server that is said, and the exit code tells.
pub(super) async fn version(global: &Global, format: Format) -> Result<u8> {
    let printer = Printer::new(global.no_color, global.quiet);
    let mut both = Both {
        client: env!("CARGO_PKG_VERSION").into(),
        server: None,
        address: None,
    };
    let failure = match App::new(global) {
        Ok(app) => {
            both.address = Some(app.client.endpoint().to_string());
            match app
                .client
                .get(&path(&["version"]))
                .await
                .doing(|| "cannot learn the server's version".into())
            {
                Ok(version) => {
                    both.server = Some(version);
                    None
                }
                Err(failure) => Some(failure),
            }
        }
        Err(failure) => Some(failure),
    };
    match format {
        Format::Table => {
            let server = both
                .server
                .as_ref()
                .map(|it| format!("{} (API {}, {})", it.version, it.api, it.platform));
            printer.print(&fields(&[
                ("Client", both.client),
                ("Server", server.unwrap_or_else(|| "not reached".into())),
                ("Address", both.address.unwrap_or_default()),
            ]))?;
        }
        format => printer.value(&both, format)?,
    }
    failure.map_or(Ok(exit::OK), Err)
}

/// Shows or changes what holds for the whole installation.
pub(super) async fn installation(app: &App, command: InstallationCommand) -> Result<()> {
    let path = path(&["installation"]);
    let (settings, format): (Installation, Format) = match command {
        InstallationCommand::Show { output } => {
            let found = app.client.get(&path).await;
            let settings = found.doing(|| "cannot show the installation's settings".into())?;
            (settings, output.output)
        }
        InstallationCommand::Update {
            overcommit_cpu,
            overcommit_memory,
            host_loss_after,
            output,
        } => {
            let body = Installation {
                cpu_overcommit: overcommit_cpu,
                memory_overcommit: overcommit_memory,
                defaults: None,
                host_loss_seconds: host_loss_after
                    .map(|span| u32::try_from(span.as_secs()).unwrap_or(u32::MAX)),
            };
            let changed = app
                .client
                .call(Method::PATCH, &path, Some(&body), Patience::Short)
                .await;
            let settings = changed.doing(|| "cannot change the installation's settings".into())?;
            (settings, output.output)
        }
    };
    if format != Format::Table {
        return app.printer.value(&settings, format);
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let defaults = settings.defaults.clone().unwrap_or_default();
    let seconds = settings.host_loss_seconds;
    let host_loss = seconds.map(|it| format!("{it}s")).unwrap_or_default();
    app.printer.print(&fields(&[
        ("CPU overcommit", text(&settings.cpu_overcommit)),
        ("Memory overcommit", text(&settings.memory_overcommit)),
        ("CPU charged by default", text(&defaults.cpu_request)),
        ("Memory charged by default", text(&defaults.memory_request)),
        ("Host is lost after", host_loss),
    ]))
}
