//! The foreground: logs with prefixes, Ctrl-C, and the cluster's end by someone else's `dev down`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::plan::Plan;
use super::state;

/// How often logs are looked at: quick enough for a person.
const LOOK: Duration = Duration::from_millis(100);
/// Most that is shown of one log at a time; the rest comes with the next look.
const PIECE: u64 = 64 << 10;

/// Prints what is added to the cluster's logs from now on.
pub(super) fn start(plan: &Plan) -> JoinHandle<()> {
    let folder = plan.folder.join("logs");
    let mut logs = Logs {
        folder,
        offsets: BTreeMap::new(),
    };
    logs.skip();
    tokio::spawn(async move {
        loop {
            logs.print();
            tokio::time::sleep(LOOK).await;
        }
    })
}

struct Logs {
    folder: PathBuf,
    offsets: BTreeMap<PathBuf, u64>,
}

impl Logs {
    fn paths(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        paths
            .filter(|path| path.extension().is_some_and(|e| e == "log"))
            .collect()
    }

    fn skip(&mut self) {
        for path in self.paths() {
            let length = fs::metadata(&path).map_or(0, |metadata| metadata.len());
            self.offsets.insert(path, length);
        }
    }

    fn print(&mut self) {
        for path in self.paths() {
            let offset = self.offsets.get(&path).copied().unwrap_or(0);
            let name = path
                .file_stem()
                .map(|name| name.to_string_lossy().into_owned());
            let (text, next) = piece(&path, offset);
            for line in String::from_utf8_lossy(&text).lines() {
                println!("{:<8}{line}", name.as_deref().unwrap_or_default());
            }
            self.offsets.insert(path, next);
        }
    }
}

/// Whole lines after an offset, and where they end.
fn piece(path: &PathBuf, offset: u64) -> (Vec<u8>, u64) {
    let read = || -> std::io::Result<(Vec<u8>, u64)> {
        let mut file = File::open(path)?;
        // A log that became shorter was begun anew.
        let offset = if file.metadata()?.len() < offset {
            0
        } else {
            offset
        };
        file.seek(SeekFrom::Start(offset))?;
        let mut text = Vec::new();
        file.take(PIECE).read_to_end(&mut text)?;
        let whole = match text.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if text.len() as u64 == PIECE => text.len(),
            None => 0,
        };
        text.truncate(whole);
        Ok((text, offset + whole as u64))
    };
    read().unwrap_or((Vec::new(), offset))
}

/// Waits for Ctrl-C or SIGTERM.
pub(super) async fn interrupted() {
    let interrupt = signal(SignalKind::interrupt());
    let terminate = signal(SignalKind::terminate());
    let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else {
        // Without handlers the signals end this program, which is what is asked for.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Waits until the cluster was taken down by someone else.
pub(super) async fn removed(plan: &Plan) {
    loop {
        let alive = match state::read(plan) {
            Ok(Some(state)) => state.programs.values().any(|process| process.alive()),
            Ok(None) => false,
            Err(_) => true,
        };
        if !alive {
            return;
        }
        tokio::time::sleep(LOOK * 5).await;
    }
}
