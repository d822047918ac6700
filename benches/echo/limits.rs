//! The CPU time of the rate limits: the core alone, on one thread and on two that share the limits.
//! On a busy machine, the two threads do not always run at the same time and contend less.

use std::hint::black_box;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use udp_echo::reflect::stamp::{Reception, StampSettings};
use udp_echo::reflect::{
    Action, Admission, Datagram, Destination, ExitOn, LEAK, Limits, Mode, Rate, Reflector,
    ReflectorSettings, Timeout,
};

use crate::figures::{Spread, Table};
use crate::machine;
use crate::traffic::now;

/// The name for `--load`.
pub const NAME: &str = "limits";

const BATCH: usize = 64;
const SOURCES: usize = 1024;

/// Measures the core without and with limits in turn, round after round.
pub fn compare(rounds: usize, quick: bool) -> io::Result<String> {
    let batches = if quick { 1000 } else { 40_000 };
    let mut table = Table::new(&[
        "threads",
        "without, ns",
        "both limits, ns",
        "more, ns (spread)",
    ]);
    for (threads, name) in [(1, "1"), (2, "2, shared limits")] {
        let mut seen = Vec::new();
        for round in 0..rounds {
            let mut taken = [0.0; 2];
            for turn in 0..2 {
                let at = (round + turn) % 2;
                taken[at] = nanoseconds(threads, at == 1, batches)?;
            }
            seen.push(taken);
        }
        let spread = |value: &dyn Fn(&[f64; 2]) -> f64| {
            Spread::of(seen.iter().map(value)).ok_or_else(|| io::Error::other("no rounds"))
        };
        table.row(vec![
            name.into(),
            format!("{:.0}", spread(&|[without, _]| *without)?.median),
            format!("{:.0}", spread(&|[_, with]| *with)?.median),
            spread(&|[without, with]| with - without)?.show(),
        ]);
    }
    Ok(format!(
        "\n## {}: CPU time of the core per datagram in echo mode\n\n{}",
        NAME,
        table.show()
    ))
}

/// The CPU time per datagram if `threads` threads run at once, in nanoseconds.
fn nanoseconds(threads: usize, limited: bool, batches: u32) -> io::Result<f64> {
    let start = now();
    let limits = limited.then(|| {
        let rate = NonZeroU32::new(Rate::MOST).and_then(Rate::new);
        Arc::new(Limits::new(start, LEAK, rate, rate))
    });
    let cpus = machine::for_threads();
    let together = Barrier::new(threads);
    let run = |thread: usize| {
        machine::pin(&[cpus[thread % cpus.len()]])?;
        let core = core(limits.clone(), start);
        together.wait();
        run(core, thread, batches, start)
    };
    let cpu = thread::scope(|scope| {
        let run = &run;
        let running: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || run(thread)))
            .collect();
        let ended = running.into_iter();
        let taken = ended.map(|thread| thread.join().expect("it does not panic"));
        taken.sum::<io::Result<Duration>>()
    })?;
    let datagrams = threads * BATCH * batches as usize;
    Ok(cpu.as_nanos() as f64 / datagrams as f64)
}

fn core(limits: Option<Arc<Limits>>, now: Instant) -> Reflector {
    let settings = ReflectorSettings {
        mode: Mode::Echo,
        timeout: Timeout::new(Duration::from_hours(1)),
        max_datagram: 1024,
        max_peers: NonZeroU32::MIN,
        exit_on: ExitOn::default(),
        admission: Admission::new(1024, [SocketAddr::from(([192, 0, 2, 1], 9999))]),
        limits,
        stamp: StampSettings::default(),
    };
    Reflector::new(settings, now).expect("there is memory")
}

/// Passes batches to a core, from each source in turn, none above a limit. Returns the CPU time.
fn run(mut core: Reflector, thread: usize, batches: u32, start: Instant) -> io::Result<Duration> {
    /// By this clock, two threads pass 5 million datagrams per second and stay within a second of
    /// each other.
    const STEP: Duration = Duration::from_micros(25);
    let first = Ipv4Addr::new(10, thread as u8, 0, 0).to_bits();
    let mut memory = vec![*b"hello"; SOURCES];
    let mut datagrams: Vec<_> = memory
        .iter_mut()
        .enumerate()
        .map(|(number, memory)| Datagram {
            peer: (Ipv4Addr::from_bits(first + number as u32), 40_000).into(),
            destination: Destination::Here {
                address: None,
                over_loopback: false,
            },
            at: start,
            reception: Reception::default(),
            length: 5,
            segment: 5,
            memory,
        })
        .collect();
    let before = cpu()?;
    let mut echoed = 0;
    for batch in 0..batches {
        let now = start + STEP * batch;
        let from = batch as usize * BATCH % SOURCES;
        for datagram in &mut datagrams[from..from + BATCH] {
            datagram.at = now;
            let verdict = black_box(core.handle(black_box(datagram), now));
            echoed += u32::from(matches!(verdict.action, Action::Reply { .. }));
        }
        core.batch_sent();
    }
    let taken = cpu()?.saturating_sub(before);
    assert_eq!(echoed, batches * BATCH as u32, "none is above a limit");
    Ok(taken)
}

/// The CPU time of this thread. Without a call of the scheduler, it is as old as the last tick.
fn cpu() -> io::Result<Duration> {
    thread::yield_now();
    machine::own_cpu()
}
