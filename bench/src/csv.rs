//! Traces: CSV files without quoting, also compressed.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result};

/// A file's lines as columns by the names of its first line.
pub(crate) struct Table {
    names: Vec<String>,
    /// The lines below the first.
    pub(crate) rows: Vec<Vec<String>>,
}

/// Reads a file; one whose name ends in `.gz` is unpacked.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn read(path: &Path) -> Result<Table> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let mut text = String::new();
    if path.extension().is_some_and(|it| it == "gz") {
        let mut unpacked = flate2::read::GzDecoder::new(bytes.as_slice());
        unpacked
            .read_to_string(&mut text)
            .with_context(|| format!("unpack {}", path.display()))?;
    } else {
        text = String::from_utf8(bytes).with_context(|| format!("read {}", path.display()))?;
    }
    let split = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>();
    let mut lines = text.lines().filter(|line| !line.is_empty());
    Ok(Table {
        names: lines.next().map(split).unwrap_or_default(),
        rows: lines.map(split).collect(),
    })
}

impl Table {
    /// A cell of a row.
    ///
    /// # Errors
    /// When there is no such column.
    pub(crate) fn text<'a>(&self, row: &'a [String], name: &str) -> Result<&'a str> {
        let at = self.names.iter().position(|it| it == name);
        let cell = at.and_then(|at| row.get(at));
        Ok(cell.with_context(|| format!("no column {name}"))?)
    }

    /// A cell that is a number.
    ///
    /// # Errors
    /// When there is no such column, or it is none.
    pub(crate) fn number<N: std::str::FromStr>(&self, row: &[String], name: &str) -> Result<N>
    where
        N::Err: std::error::Error + Send + Sync + 'static,
    {
        let text = self.text(row, name)?;
        text.parse().with_context(|| format!("{name}: {text}"))
    }
}
