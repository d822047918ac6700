//! Instructions of the core per datagram, counted by callgrind. The count does not depend on the
//! load of the machine, so it shows changes that are below the noise of a clock.
//!
//! Compares with `benches/instructions.txt`, and fails if a figure differs by more than [`BOUND`],
//! unless the file is from another compiler or architecture.
//! `cargo bench --bench instructions -- --save` writes a new file.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "this is a program for developers: any failure ends it; numbers are small"
)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use udp_echo::reflect::stamp::{Reception, StampSettings};
use udp_echo::reflect::{
    Admission, Datagram, Destination, ExitOn, LEAK, Limits, Mode, Rate, Reflector,
    ReflectorSettings, Timeout,
};

/// The datagrams that the core handles, repeated.
struct Scenario {
    name: &'static str,
    mode: Mode,
    /// The number of peers that owe a record all the time.
    owing: u32,
    /// The number of peers that send in turn, from this port.
    peers: u32,
    port: u16,
    /// The number of requests before as many records, in exchange mode.
    together: usize,
    /// The number of datagrams before their replies are sent.
    batch: usize,
    /// The number of datagrams per GRO batch; 1 is no batch.
    segments: usize,
    /// Whether rate limits apply, higher than the rates.
    limited: bool,
    datagram: &'static [u8],
}

/// The defaults of the scenarios.
const ORDINARY: Scenario = Scenario {
    name: "",
    mode: Mode::Exchange,
    owing: 0,
    peers: 1,
    port: PORT,
    together: 64,
    batch: 64,
    segments: 1,
    limited: false,
    datagram: HELLO,
};

/// All scenarios. A new one is an entry here and a run with `--save`.
const SCENARIOS: [Scenario; 11] = [
    Scenario {
        name: "echo, 1 peer",
        mode: Mode::Echo,
        ..ORDINARY
    },
    Scenario {
        name: "echo, 1 peer, rate limits",
        mode: Mode::Echo,
        limited: true,
        ..ORDINARY
    },
    Scenario {
        name: "exchange, 1 peer",
        together: 1,
        ..ORDINARY
    },
    Scenario {
        name: "exchange, 64 peers",
        peers: 64,
        ..ORDINARY
    },
    Scenario {
        name: "exchange, 64 peers while 100000 owe",
        peers: 64,
        owing: 100_000,
        ..ORDINARY
    },
    Scenario {
        name: "exchange, 100000 peers",
        peers: 100_000,
        together: 100_000,
        ..ORDINARY
    },
    Scenario {
        name: "echo, 64 peers, GRO batches of 64",
        mode: Mode::Echo,
        peers: 64,
        segments: 64,
        ..ORDINARY
    },
    Scenario {
        name: "exchange, 64 peers, GRO batches of 64",
        peers: 64,
        segments: 64,
        ..ORDINARY
    },
    Scenario {
        name: "lockstep, 64 peers",
        mode: Mode::Lockstep,
        peers: 64,
        // The core needs the result of each reply before the next datagram.
        batch: 1,
        ..ORDINARY
    },
    Scenario {
        name: "refused by source port",
        port: 7,
        ..ORDINARY
    },
    Scenario {
        name: "empty",
        datagram: b"",
        ..ORDINARY
    },
];

const HELLO: &[u8] = &[b'E'; 64];

/// The source port of ordinary peers.
const PORT: u16 = 40_000;

/// The tolerated relative difference from the saved figure.
const BOUND: f64 = 0.05;

/// The number of datagrams per measurement. A multiple of the rounds of every scenario.
const DATAGRAMS: u32 = 400_000;

const SAVED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");

/// Counts the instructions of the core per datagram
#[derive(Parser)]
struct Args {
    /// Write the figures to benches/instructions.txt instead of comparing them
    #[arg(long)]
    save: bool,
    /// Run one scenario. This program starts itself with it, under callgrind
    #[arg(long, hide = true, num_args = 2, value_names = ["SCENARIO", "DATAGRAMS"])]
    run: Vec<usize>,
    /// Added by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let [scenario, count] = args.run[..] {
        SCENARIOS[scenario].run(count);
        return ExitCode::SUCCESS;
    }
    match count_all(args.save) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Scenario {
    /// Passes `count` datagrams to a new core.
    fn run(&self, count: usize) {
        #[expect(clippy::disallowed_methods, reason = "a first instant")]
        let mut now = Instant::now();
        let settings = ReflectorSettings {
            mode: self.mode,
            timeout: Timeout::new(Duration::from_hours(1)),
            max_datagram: 1024,
            max_peers: NonZeroU32::new(131_072).expect("it is not 0"),
            exit_on: ExitOn::default(),
            admission: Admission::new(1024, [SocketAddr::from(([192, 0, 2, 1], 9999))]),
            limits: self.limited.then(|| {
                let rate = NonZeroU32::new(Rate::MOST).and_then(Rate::new);
                Arc::new(Limits::new(now, LEAK, rate, rate))
            }),
            stamp: StampSettings::default(),
        };
        let mut core = Reflector::new(settings, now).expect("there is memory");
        for number in 0..self.owing {
            let peer = peer(self.peers + number, PORT);
            core.handle(&mut datagram(now, peer, 1, &mut HELLO.to_vec()), now);
            core.batch_sent();
        }
        // The datagrams are prepared here, so that little is done between two calls of the core.
        let repeated = (0..self.peers).cycle();
        let all = self.together.max(self.peers as usize);
        let mut memory = vec![self.datagram.repeat(self.segments); all];
        let mut datagrams: Vec<_> = repeated
            .zip(&mut memory)
            .map(|(number, memory)| datagram(now, peer(number, self.port), self.segments, memory))
            .collect();
        let mut came = 0;
        while came < count {
            for together in datagrams.chunks_mut(self.together) {
                for _ in 0..2 {
                    for batch in together.chunks_mut(self.batch) {
                        came += batch.len() * self.segments;
                        if self.segments > 1 {
                            for datagram in batch {
                                handle(&mut core, datagram, self.segments, now);
                            }
                        } else {
                            for datagram in batch {
                                black_box(core.handle(black_box(datagram), now));
                            }
                        }
                        core.batch_sent();
                        now += Duration::from_micros(1);
                    }
                }
            }
        }
        assert_eq!(
            core.totals().peers,
            u64::from(self.owing),
            "the exchanges of {} are complete",
            self.name
        );
    }
}

/// Passes a GRO batch of `count` datagrams to the core.
fn handle(core: &mut Reflector, datagram: &mut Datagram<'_>, count: usize, now: Instant) {
    let mut handled = black_box(core.handle(black_box(datagram), now)).datagrams;
    while handled < count {
        let rest = &mut datagram.memory[handled * datagram.segment..];
        let mut rest = Datagram {
            length: rest.len(),
            memory: rest,
            ..*datagram
        };
        let verdict = black_box(core.handle(black_box(&mut rest), now));
        if verdict.datagrams == 0 {
            core.batch_sent();
        }
        handled += verdict.datagrams;
    }
}

/// A GRO batch of `count` datagrams on a socket that is bound to one address.
fn datagram(at: Instant, peer: SocketAddr, count: usize, memory: &mut [u8]) -> Datagram<'_> {
    Datagram {
        peer,
        destination: Destination::Here {
            address: None,
            over_loopback: false,
        },
        at,
        reception: Reception::default(),
        length: memory.len(),
        segment: memory.len() / count,
        memory,
    }
}

fn peer(number: u32, port: u16) -> SocketAddr {
    let first = Ipv4Addr::new(10, 0, 0, 0).to_bits();
    (Ipv4Addr::from_bits(first + number), port).into()
}

/// Counts all scenarios and prints the figures. Returns whether they match the saved ones.
fn count_all(save: bool) -> io::Result<bool> {
    let saved = std::fs::read_to_string(SAVED).unwrap_or_default();
    let compiled = format!(
        "# With rustc {} on {}.",
        env!("BUILD_RUSTC"),
        std::env::consts::ARCH
    );
    let mut file = format!(
        "# Instructions of the core per datagram: `cargo bench --bench instructions -- --save`\n\
         {compiled}\n"
    );
    let mut failed = Vec::new();
    println!("| scenario                              | instructions/datagram | before | change |");
    println!("|---------------------------------------|-----------------------|--------|--------|");
    for (index, Scenario { name, .. }) in SCENARIOS.iter().enumerate() {
        // The difference of two runs excludes the start of the program.
        let once = instructions(index, DATAGRAMS)?;
        let twice = instructions(index, 2 * DATAGRAMS)?;
        let figure = (twice as f64 - once as f64) / f64::from(DATAGRAMS);
        let before = before(&saved, name);
        let change = before.map(|before| figure / before - 1.0);
        let (before, percent) = match before.zip(change) {
            Some((before, change)) => (format!("{before:.1}"), format!("{:+.1} %", change * 100.0)),
            None => Default::default(),
        };
        println!("| {name:37} | {figure:21.1} | {before:>6} | {percent:>6} |");
        let _ = writeln!(file, "{name}: {figure:.1}");
        match change {
            Some(change) if change.abs() <= BOUND => {}
            Some(_) => failed.push(format!("{name}: {percent}, bound {:.0} %", BOUND * 100.0)),
            None => failed.push(format!("{name}: no saved figure")),
        }
    }
    if save {
        std::fs::write(SAVED, file)?;
        println!("\nsaved in {SAVED}");
        return Ok(true);
    }
    if !saved.lines().any(|line| line == compiled) {
        println!("\nNot compared: {SAVED} is from another compiler or architecture.");
        return Ok(true);
    }
    for line in &failed {
        eprintln!("{line}");
    }
    if !failed.is_empty() {
        eprintln!("If this is intended, run: cargo bench --bench instructions -- --save");
    }
    Ok(failed.is_empty())
}

fn before(saved: &str, name: &str) -> Option<f64> {
    let figure = |line: &str| {
        line.strip_prefix(name)?
            .strip_prefix(':')?
            .trim()
            .parse()
            .ok()
    };
    saved.lines().find_map(figure)
}

/// The number of instructions of a whole run of this program for one scenario.
fn instructions(scenario: usize, datagrams: u32) -> io::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["--run", &scenario.to_string(), &datagrams.to_string()])
        .output()
        .map_err(|error| {
            io::Error::other(format!(
                "cannot run valgrind: {error}; apt install valgrind"
            ))
        })?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text
        .lines()
        .find_map(|line| line.split("Collected : ").nth(1));
    match collected.and_then(|number| number.trim().parse().ok()) {
        Some(number) if output.status.success() => Ok(number),
        _ => Err(io::Error::other(format!(
            "valgrind: {}: {text}",
            output.status
        ))),
    }
}
