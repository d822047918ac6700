//! Tests whose result depends on a machine that does not stall.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use super::{DEADLINE, wait_until};

/// Time between two looks of the watch, and how late a look may be.
const LOOK: Duration = Duration::from_millis(10);
const LATE: Duration = Duration::from_millis(50);

/// A thread that counts the pauses of this process and its children.
#[derive(Default)]
struct Watch {
    looks: AtomicU64,
    pauses: AtomicU64,
}

static WATCH: LazyLock<&Watch> = LazyLock::new(|| {
    let watch: &Watch = Box::leak(Box::default());
    thread::spawn(|| watch.look());
    watch
});

impl Watch {
    fn look(&self) {
        let mut last = Instant::now();
        loop {
            thread::sleep(LOOK);
            let now = Instant::now();
            if now - last > LOOK + LATE || a_child_was_stopped() {
                self.pauses.fetch_add(1, Relaxed);
            }
            last = now;
            self.looks.fetch_add(1, Relaxed);
        }
    }

    /// The number of pauses until now.
    fn pauses(&self) -> u64 {
        // A pause that has not ended is counted after the second look.
        let looks = self.looks.load(Relaxed);
        wait_until("the watch looks", || self.looks.load(Relaxed) > looks + 1);
        self.pauses.load(Relaxed)
    }
}

/// Whether a child was stopped or continued. Reads only these state changes: the tests themselves
/// wait for the exit of a child.
fn a_child_was_stopped() -> bool {
    let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WCONTINUED | WaitPidFlag::WNOHANG;
    let mut any = false;
    while let Ok(WaitStatus::Stopped(..) | WaitStatus::Continued(_)) = waitid(Id::All, flags) {
        any = true;
    }
    any
}

/// Runs a test that is right only on a machine that does not stall. Returns the first result that
/// is right, or the first wrong one of a run without a pause.
///
/// A test program that traces its children cannot use this: it would miss their stops.
pub fn undisturbed<T>(mut run: impl FnMut() -> T, is_right: impl Fn(&T) -> bool) -> T {
    let started = Instant::now();
    loop {
        let before = WATCH.pauses.load(Relaxed);
        let result = run();
        if is_right(&result) || WATCH.pauses() == before || started.elapsed() > DEADLINE {
            return result;
        }
    }
}
