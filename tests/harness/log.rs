//! The log of a running daemon.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::DEADLINE;

/// The lines of a daemon's log, read by a thread.
#[derive(Clone)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Arc<JoinHandle<()>>,
}

impl Log {
    /// Reads a daemon's standard error to its end.
    pub fn follow(stderr: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        let reader = Arc::new(reader);
        Self { lines, reader }
    }

    pub fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the log is complete: the daemon closed its standard error, or ended.
    pub fn has_ended(&self) -> bool {
        self.reader.is_finished()
    }

    /// Waits for a line that contains this text.
    pub fn wait_for(&self, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let last = self.has_ended() || Instant::now() > deadline;
            if self.lines().iter().any(|line| line.contains(text)) {
                return;
            }
            assert!(!last, "no {text:?} in {:#?}", self.lines());
            thread::sleep(Duration::from_millis(2));
        }
    }
}
