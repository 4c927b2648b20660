//! Printing: aligned tables, JSON, YAML, and the few colours.
//!
//! What always holds: text from the server is shown without control characters; colour never carries meaning of its
//! own; a reader that went away (`| head`) ends the program quietly.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

use crate::args::Format;
use crate::error::{Failure, Result};
use crate::exit;

/// Emphasis of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Tone {
    /// As it is.
    #[default]
    Plain,
    /// It is well.
    Good,
    /// Someone should look.
    Warn,
    /// It is broken.
    Bad,
}

/// A text with an emphasis.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell.
    pub(crate) fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }
}

impl Cell {
    /// Its text.
    #[must_use]
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// Rows under headings.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub(crate) fn new(headings: &[&'static str]) -> Self {
        Self {
            headings: headings.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Whether it has no rows.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The lines, columns aligned, the last one not padded.
    #[must_use]
    pub(crate) fn text(&self, color: bool) -> String {
        let clean: Vec<Vec<(String, Tone)>> = self
            .rows
            .iter()
            .map(|row| {
                row.iter()
                    .map(|cell| (visible(&cell.text), cell.tone))
                    .collect()
            })
            .collect();
        let width = |column: usize| {
            let cells = clean
                .iter()
                .filter_map(|row| row.get(column))
                .map(|(text, _)| text.chars().count());
            cells
                .chain([self.headings[column].chars().count()])
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let headings = self
            .headings
            .iter()
            .map(|text| ((*text).to_owned(), Tone::Plain))
            .collect();
        let mut out = String::new();
        for row in std::iter::once(&headings).chain(&clean) {
            let mut line = String::new();
            let last = row
                .iter()
                .rposition(|(text, _)| !text.is_empty())
                .unwrap_or(0);
            for (column, (text, tone)) in row.iter().enumerate().take(last + 1) {
                line.push_str(&paint(text, *tone, color));
                if column < last {
                    let pad = widths[column] - text.chars().count() + 3;
                    line.extend(std::iter::repeat_n(' ', pad));
                }
            }
            out.push_str(&line);
            out.push('\n');
        }
        out
    }
}

fn paint(text: &str, tone: Tone, color: bool) -> String {
    let code = match tone {
        Tone::Plain => return text.to_owned(),
        Tone::Good => "32",
        Tone::Warn => "33",
        Tone::Bad => "31",
    };
    if color {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// The text in one line without control characters: what others wrote must not drive a terminal.
#[must_use]
pub(crate) fn visible(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Where and how to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    /// Whether to use colour.
    pub color: bool,
    /// Only ids or names.
    pub quiet: bool,
    /// Whether standard output is a terminal.
    pub terminal: bool,
}

impl Printer {
    /// A printer for this process.
    #[must_use]
    pub(crate) fn new(no_color: bool, quiet: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let wanted = !no_color && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            color: terminal && wanted,
            quiet,
            terminal,
        }
    }

    /// Writes text to standard output.
    pub(crate) fn print(&self, text: &str) -> Result<()> {
        self.write(text.as_bytes())
    }

    /// Writes bytes to standard output.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes)
            .and_then(|()| out.flush())
            .map_err(|error| lost(&error))
    }

    /// Writes one line to standard output.
    pub(crate) fn line(&self, text: &str) -> Result<()> {
        self.print(&format!("{text}\n"))
    }

    /// Writes one line for people to standard error, unless quiet.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            // If standard error is gone nobody reads it.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Prints a value for programs.
    pub(crate) fn value<T: Serialize>(&self, value: &T, format: Format) -> Result<()> {
        self.print(&document(value, format)?)
    }
}

/// A value as a JSON or YAML document with a newline at its end.
pub(crate) fn document<T: Serialize>(value: &T, format: Format) -> Result<String> {
    let failed = |error: String| Failure::new(exit::FAILED, "cannot print the answer").why(error);
    match format {
        Format::Yaml => serde_yaml_ng::to_string(value).map_err(|error| failed(error.to_string())),
        Format::Json | Format::Table => {
            let mut text =
                serde_json::to_string_pretty(value).map_err(|error| failed(error.to_string()))?;
            text.push('\n');
            Ok(text)
        }
    }
}

/// A thing as `NAME  value` lines; lines without a value are left out.
#[must_use]
pub(crate) fn fields(pairs: &[(&str, String)]) -> String {
    let shown = pairs.iter().filter(|(_, value)| !value.is_empty());
    let width = shown
        .clone()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    let mut out = String::new();
    for (name, value) in shown {
        // Writing to a String does not fail.
        let _ = writeln!(out, "{name:width$}   {}", visible(value));
    }
    out
}

fn lost(error: &std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        Failure::silent(exit::OK)
    } else {
        Failure::new(exit::FAILED, "cannot write to standard output").why(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_clean() {
        let mut table = Table::new(&["NAME", "STATE", "NOTE"]);
        table.row(vec![
            "web".into(),
            Cell::new("running", Tone::Good),
            "".into(),
        ]);
        table.row(vec!["a-long-name".into(), "x\x1b[2Jy".into(), "hi".into()]);
        assert_eq!(
            table.text(false),
            "NAME          STATE     NOTE\nweb           running\na-long-name   x [2Jy    hi\n"
        );
        assert!(table.text(true).contains("\x1b[32mrunning\x1b[0m"));
    }

    #[test]
    fn fields_without_value_are_left_out() {
        assert_eq!(
            fields(&[
                ("a", "1".into()),
                ("bcd", String::new()),
                ("ef", "2".into())
            ]),
            "a    1\nef   2\n"
        );
    }
}
