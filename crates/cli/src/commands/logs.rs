//! `logs`: what a workload wrote, each stream to its own.

use wire::client::native::with_query;
use wire::link::{Frame, FrameKind};

use crate::app::App;
use crate::args::LogsArgs;
use crate::commands::session::failed;
use crate::error::{Failure, Result};
use crate::{exit, human};

pub(super) async fn logs(app: &App, args: &LogsArgs) -> Result<()> {
    let at = app.locate(&args.workload).await?;
    let now = human::now_ms();
    let mut path = at.path(&["logs"]);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            path = with_query(std::mem::take(&mut path), name, &value);
        }
    };
    add("follow", args.follow.then(|| "true".into()));
    add("tail", args.tail.map(|lines| lines.to_string()));
    add(
        "since_ms",
        args.since.map(|time| time.millis(now).to_string()),
    );
    add(
        "until_ms",
        args.until.map(|time| time.millis(now).to_string()),
    );
    let what = || format!("cannot show the output of workload \"{}\"", args.workload);
    let mut frames = match app.client.frames(&path).await {
        Ok(frames) => frames,
        Err(error) => return Err(app.explain(&at, error, what()).await),
    };
    let (mut out, mut err) = (Lines::new(args.timestamps), Lines::new(args.timestamps));
    loop {
        let frame = match frames.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(()),
            Err(error) => return Err(app.explain(&at, error, what()).await),
        };
        let written = match frame.kind {
            FrameKind::Stdout => out.write(&mut std::io::stdout().lock(), &frame),
            FrameKind::Stderr => err.write(&mut std::io::stderr().lock(), &frame),
            FrameKind::Error => return Err(failed(&frame)),
            FrameKind::End => return Ok(()),
            FrameKind::Data | FrameKind::Stdin | FrameKind::EndInput | FrameKind::Json => Ok(()),
        };
        written.map_err(|error| {
            if error.kind() == std::io::ErrorKind::BrokenPipe {
                Failure::silent(exit::OK)
            } else {
                Failure::new(exit::FAILED, what()).why(error.to_string())
            }
        })?;
    }
}

/// Puts the time before each line; a line may come in several frames.
struct Lines {
    timestamps: bool,
    at_start: bool,
}

impl Lines {
    fn new(timestamps: bool) -> Self {
        Self {
            timestamps,
            at_start: true,
        }
    }

    fn write(&mut self, out: &mut impl std::io::Write, frame: &Frame) -> std::io::Result<()> {
        if !self.timestamps {
            out.write_all(&frame.payload)?;
            return out.flush();
        }
        let time = jiff::Timestamp::from_millisecond(frame.time_ms).unwrap_or_default();
        for line in frame.payload.split_inclusive(|byte| *byte == b'\n') {
            if self.at_start {
                write!(out, "{time:.3} ")?;
            }
            out.write_all(line)?;
            self.at_start = line.ends_with(b"\n");
        }
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_begins_with_its_time_once() {
        let mut lines = Lines::new(true);
        let mut out = Vec::new();
        for (time_ms, text) in [(1000, "a\nb"), (2000, "c\n"), (3000, "d\n")] {
            let frame = Frame {
                kind: FrameKind::Stdout,
                time_ms,
                position: None,
                payload: text.into(),
            };
            lines.write(&mut out, &frame).unwrap();
        }
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "1970-01-01T00:00:01.000Z a\n1970-01-01T00:00:01.000Z bc\n1970-01-01T00:00:03.000Z d\n"
        );
    }
}
