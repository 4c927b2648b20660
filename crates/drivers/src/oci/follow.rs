//! Output of a task as a stream, while it is written.
//!
//! Start with [`follow`]. Always holds: an attached reader slows the task down rather than lose output; a
//! log reader does not.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use agent::driver::{DriverError, FollowFrom, FollowRequest, Output, OutputStream};
use bytes::Bytes;
use shim::log::{Entry, LogReader, Record, Stream};
use shim::message::{Phase, Request, Subscribe};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::client::Connection;
use super::observe::timestamp;
use super::runtime::{Inner, failed, unknown};

/// Pieces read ahead of a slow client, each at most 64 KiB.
const AHEAD: usize = 4;
/// A holding reader says so often how far it is while it catches up; far below any log's size.
const ACK_STEP: u64 = 256 << 10;

/// What of the output is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) since_ms: Option<i64>,
    pub(super) until_ms: Option<i64>,
    /// Offset at which a reader that does not follow stops: a task that writes without a pause would otherwise keep it
    /// reading for ever.
    pub(super) stop: Option<u64>,
    /// Whether what comes first must be there: a reader that goes on where it stopped must not miss anything.
    pub(super) whole: bool,
}

impl Choice {
    /// Everything of both streams.
    pub(super) fn all() -> Choice {
        Choice {
            stdout: true,
            stderr: true,
            since_ms: None,
            until_ms: None,
            stop: None,
            whole: false,
        }
    }

    fn wants(&self, record: &Record) -> bool {
        let wanted = match record.stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
            Stream::RunStart => false,
        };
        let ms = timestamp(record.time_ns).millis();
        wanted && self.since_ms.is_none_or(|since| ms >= since)
    }

    fn is_after(&self, record: &Record) -> bool {
        self.until_ms
            .is_some_and(|until| timestamp(record.time_ns).millis() > until)
    }
}

fn output(record: Record, position: u64) -> Output {
    Output {
        stderr: record.stream == Stream::Stderr,
        time: timestamp(record.time_ns),
        bytes: Bytes::from(record.bytes),
        position,
    }
}

/// Says where output begins, so that a stream that breaks off before its first piece can be resumed.
async fn begin(sender: &Sender, position: u64) {
    let nothing = Output {
        stderr: false,
        time: super::observe::now(),
        bytes: Bytes::new(),
        position,
    };
    // A reader that is gone is noticed with the next piece.
    let _ = sender.send(Ok(nothing)).await;
}

fn rotated(bytes: u64) -> DriverError {
    DriverError::new(
        agent::driver::ErrorClass::Failed,
        format!(
            "{bytes} bytes of output were written and overwritten while nobody could read them: \
             give the task a larger log (max-size, max-file)"
        ),
    )
}

type Sender = mpsc::Sender<Result<Output, DriverError>>;

/// The stream for a request.
pub(super) async fn follow(
    inner: &Arc<Inner>,
    request: &FollowRequest,
) -> Result<OutputStream, DriverError> {
    let waits_for_run = matches!(request.from, FollowFrom::Run(_));
    if inner.task(&request.id).is_none()
        && inner.look_at(&request.id).await.is_none()
        && !waits_for_run
    {
        return Err(unknown(&request.id));
    }
    let (sender, receiver) = mpsc::channel(AHEAD);
    let run = match request.from {
        FollowFrom::Run(run) => Some(run),
        FollowFrom::Start
        | FollowFrom::SinceMs(_)
        | FollowFrom::End
        | FollowFrom::Lines(_)
        | FollowFrom::Position(_) => None,
    };
    // From here on removing the task waits, so that a short run is read to its end.
    let reading = inner.readers.enter(&request.id, run);
    let (inner, request) = (Arc::clone(inner), request.clone());
    tokio::spawn(async move {
        let _reading = reading;
        tokio::select! {
            () = sender.closed() => {}
            result = serve(&inner, &request, &sender) => {
                if let Err(error) = result {
                    // A reader that is gone needs no error.
                    let _ = sender.send(Err(error)).await;
                }
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

async fn serve(
    inner: &Arc<Inner>,
    request: &FollowRequest,
    sender: &Sender,
) -> Result<(), DriverError> {
    let dir = inner.dir(&request.id).sub("log");
    let mut choice = Choice {
        stdout: request.stdout,
        stderr: request.stderr,
        until_ms: request.until_ms,
        ..Choice::all()
    };
    let mut reader = LogReader::new(&dir, 0);
    let mut hold = false;
    match request.from {
        FollowFrom::Start => {}
        FollowFrom::SinceMs(since) => choice.since_ms = Some(since),
        FollowFrom::End => {
            reader = LogReader::new(&dir, end_of(&dir)?);
            hold = request.follow;
        }
        FollowFrom::Lines(lines) => {
            let end = last_lines(&dir, lines, &choice, sender).await?;
            if !request.follow {
                return Ok(());
            }
            reader = LogReader::new(&dir, end);
        }
        FollowFrom::Run(run) => {
            if !wait_for_run(inner, request, run).await {
                return Ok(());
            }
            if let Some(offset) = offset_of_run(&dir, run)? {
                reader = LogReader::new(&dir, offset);
            }
            hold = true;
        }
        FollowFrom::Position(position) => {
            reader = LogReader::new(&dir, position);
            choice.whole = true;
            hold = request.follow && request.run.is_some();
        }
    }
    if request.resumable {
        begin(sender, reader.offset()).await;
    }
    if !request.follow {
        choice.stop = Some(end_of(&dir)?);
    }
    let connection = match inner.task(&request.id).and_then(|task| task.connection) {
        Some(connection) if request.follow => Connection::connect(connection.dir()).await.ok(),
        _ => None,
    };
    pump(&mut reader, connection.as_ref(), hold, &choice, sender).await
}

/// Waits until a run has begun; false when it cannot begin any more.
async fn wait_for_run(inner: &Arc<Inner>, request: &FollowRequest, run: u64) -> bool {
    let mut changes = inner.changes();
    let mut existed = false;
    loop {
        changes.borrow_and_update();
        match inner.task(&request.id) {
            Some(task) if task.run.run > run => return false,
            Some(task) if task.run.run == run => {
                let phase = task
                    .connection
                    .as_ref()
                    .and_then(|connection| connection.life().borrow().phase.clone());
                match phase {
                    Some(Phase::Prepared | Phase::Starting) if !task.status.phase.is_final() => {}
                    // Running, ended, or failed to start: whatever it wrote is in the log.
                    _ => return true,
                }
                existed = true;
            }
            Some(_) => existed = true,
            None if existed => return false,
            None => {}
        }
        if changes.changed().await.is_err() {
            return false;
        }
    }
}

/// Hands records on until the task has ended and everything was read.
pub(super) async fn pump(
    reader: &mut LogReader,
    connection: Option<&Connection>,
    hold: bool,
    choice: &Choice,
    sender: &Sender,
) -> Result<(), DriverError> {
    let mut life = connection.map(Connection::life);
    let mut whole = choice.whole;
    if let Some(connection) = connection {
        let subscribe = Subscribe {
            hold,
            offset: reader.offset(),
        };
        // Refused only by a shim that is gone; then the log is complete.
        let _ = connection.call(Request::Subscribe(subscribe)).await;
    }
    loop {
        let over = life.as_mut().is_none_or(|life| {
            let life = life.borrow_and_update();
            life.gone
                || matches!(
                    life.phase,
                    Some(Phase::Exited { .. } | Phase::Failed { .. })
                )
        });
        let mut acknowledged = reader.offset();
        while choice.stop.is_none_or(|stop| reader.offset() < stop)
            && let Some(entry) = reader.next_entry().map_err(|error| failed("log", error))?
        {
            match entry {
                Entry::Record(record) => {
                    if choice.is_after(&record) {
                        return Ok(());
                    }
                    let piece = output(record.clone(), reader.offset());
                    if choice.wants(&record) && sender.send(Ok(piece)).await.is_err() {
                        return Ok(());
                    }
                }
                Entry::Gap { bytes } if whole => return Err(rotated(bytes)),
                Entry::Gap { .. } => {}
            }
            whole = false;
            if let Some(connection) =
                connection.filter(|_| hold && reader.offset() - acknowledged > ACK_STEP)
            {
                acknowledged = reader.offset();
                connection
                    .notice(Request::Ack {
                        offset: acknowledged,
                    })
                    .await;
            }
        }
        if over {
            return Ok(());
        }
        if let Some(connection) = connection.filter(|_| hold && reader.offset() > acknowledged) {
            connection
                .notice(Request::Ack {
                    offset: reader.offset(),
                })
                .await;
        }
        if let Some(life) = &mut life
            && life.changed().await.is_err()
        {
            // The connection ended; one more round reads what is left.
            continue;
        }
    }
}

fn end_of(dir: &std::path::Path) -> Result<u64, DriverError> {
    let mut tries = 0;
    loop {
        let files = shim::log::files(dir).map_err(|error| failed("log", error))?;
        let Some((base, path)) = files.last() else {
            return Ok(0);
        };
        match std::fs::metadata(path) {
            Ok(found) => return Ok(base + found.len()),
            // A task that writes without a pause has taken even its newest file away meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && tries < LOOK_TRIES => {
                tries += 1;
            }
            Err(error) => return Err(failed("log", error)),
        }
    }
}

fn offset_of_run(dir: &std::path::Path, run: u64) -> Result<Option<u64>, DriverError> {
    let mut reader = LogReader::new(dir, 0);
    loop {
        let before = reader.offset();
        match reader.next_entry().map_err(|error| failed("log", error))? {
            Some(Entry::Record(record)) => {
                if record.stream == Stream::RunStart && record.bytes == run.to_string().as_bytes() {
                    return Ok(Some(before));
                }
            }
            Some(Entry::Gap { .. }) => {}
            // Rotated away already: what is left is of this run.
            None => return Ok(None),
        }
    }
}

/// How often it is looked again at what a task has overwritten meanwhile.
const LOOK_TRIES: u32 = 16;

/// Sends the last lines of what is there; gives the offset to go on from.
async fn last_lines(
    dir: &PathBuf,
    lines: u64,
    choice: &Choice,
    sender: &Sender,
) -> Result<u64, DriverError> {
    // First where the lines begin, then them: this holds no output. With a small log a task that writes without a
    // pause may overwrite them in between.
    for _ in 0..LOOK_TRIES {
        let end = end_of(dir)?;
        let Some(found) = find_lines(dir, lines, choice, end)? else {
            return Ok(end);
        };
        if send_lines(dir, found, choice, end, sender).await? {
            return Ok(end);
        }
    }
    end_of(dir)
}

/// Where lines begin.
#[derive(Clone, Copy)]
struct Beginning {
    /// Offset of the record that holds the first one.
    from: u64,
    /// Lines of it that come before.
    skip: u64,
}

/// Where the last lines before `end` begin; `None`: there are none.
fn find_lines(
    dir: &PathBuf,
    lines: u64,
    choice: &Choice,
    end: u64,
) -> Result<Option<Beginning>, DriverError> {
    let mut total = 0u64;
    let mut open = [false; 2];
    // Records that may hold the first wanted line, with the lines before each.
    let mut marks: VecDeque<(u64, u64)> = VecDeque::new();
    let mut reader = LogReader::new(dir, 0);
    loop {
        let at = reader.offset();
        let Some(entry) = next_before(&mut reader, end)? else {
            break;
        };
        if choice.wants(&entry) {
            marks.push_back((at, total));
            total += entry.bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            open[usize::from(entry.stream == Stream::Stderr)] =
                entry.bytes.last().is_some_and(|byte| *byte != b'\n');
            while marks
                .get(1)
                .is_some_and(|(_, before)| *before <= total.saturating_sub(lines))
            {
                marks.pop_front();
            }
        }
    }
    total += open.iter().filter(|open| **open).count() as u64;
    let first = marks.pop_front().filter(|_| lines > 0);
    Ok(first.map(|(from, before)| Beginning {
        from,
        skip: total.saturating_sub(lines).saturating_sub(before),
    }))
}

/// Sends the lines up to `end`; false, with nothing sent, when they are not there any more.
async fn send_lines(
    dir: &PathBuf,
    beginning: Beginning,
    choice: &Choice,
    end: u64,
    sender: &Sender,
) -> Result<bool, DriverError> {
    let mut skip = beginning.skip;
    let mut reader = LogReader::new(dir, beginning.from);
    let mut first = true;
    while reader.offset() < end {
        let entry = reader.next_entry().map_err(|error| failed("log", error))?;
        let mut record = match entry {
            Some(Entry::Record(record)) => record,
            Some(Entry::Gap { .. }) if first => return Ok(false),
            Some(Entry::Gap { .. }) => continue,
            None => break,
        };
        first = false;
        if !choice.wants(&record) {
            continue;
        }
        while skip > 0 {
            let Some(at) = record.bytes.iter().position(|byte| *byte == b'\n') else {
                record.bytes.clear();
                break;
            };
            record.bytes.drain(..=at);
            skip -= 1;
        }
        let piece = output(record, reader.offset());
        if !piece.bytes.is_empty() && sender.send(Ok(piece)).await.is_err() {
            break;
        }
    }
    Ok(true)
}

fn next_before(reader: &mut LogReader, end: u64) -> Result<Option<Record>, DriverError> {
    while reader.offset() < end {
        match reader.next_entry().map_err(|error| failed("log", error))? {
            Some(Entry::Record(record)) => return Ok(Some(record)),
            Some(Entry::Gap { .. }) => {}
            None => break,
        }
    }
    Ok(None)
}

/// Exec output from a position of its own log. It is held for as long as it is read here; while nobody reads, the log
/// keeps its last files. Without a connection the exec has ended.
pub(super) fn exec_output(
    dir: PathBuf,
    connection: Option<Arc<Connection>>,
    position: u64,
) -> OutputStream {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let choice = Choice {
            whole: position > 0,
            ..Choice::all()
        };
        let mut reader = LogReader::new(dir, position);
        begin(&sender, position).await;
        tokio::select! {
            () = sender.closed() => {}
            result = pump(&mut reader, connection.as_deref(), true, &choice, &sender) => {
                if let Err(error) = result {
                    // A reader that is gone needs no error.
                    let _ = sender.send(Err(error)).await;
                }
            }
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}
