//! `version`.

use serde::Serialize;
use wire::client::native::path;
use wire::native::system::Version;

use crate::app::App;
use crate::args::{Format, Global};
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
