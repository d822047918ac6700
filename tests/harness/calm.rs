//! A result that counts: of a run that was not held up.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use super::{DEADLINE, wait_until};

/// How often the watch looks, and how late it may be.
const LOOK: Duration = Duration::from_millis(10);
const LATE: Duration = Duration::from_millis(50);

/// A thread that notes when this process or one of its children stood still.
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

    /// How many pauses there were until now.
    fn pauses(&self) -> u64 {
        // The one under way is told after the next look but one.
        let looks = self.looks.load(Relaxed);
        wait_until("the watch looks", || self.looks.load(Relaxed) > looks + 1);
        self.pauses.load(Relaxed)
    }
}

/// Takes what the kernel tells a parent of SIGSTOP and SIGCONT, and leaves how children end to those
/// who wait for that.
fn a_child_was_stopped() -> bool {
    let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WCONTINUED | WaitPidFlag::WNOHANG;
    let mut any = false;
    while let Ok(WaitStatus::Stopped(..) | WaitStatus::Continued(_)) = waitid(Id::All, flags) {
        any = true;
    }
    any
}

/// Runs what depends on a machine that does not stand still. The result is that of the first run
/// that is right, or of the first that is wrong although nothing was held up.
///
/// Not for a test program that traces its children: it would miss their stops.
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
