//! Compares the daemon with plain loops under the same loads, in turn, round after round.
//!
//! `cargo bench --bench echo -- --help` shows the options. Only ratios are comparable between
//! machines. Each is the median of the ratios of all rounds, with the minimum and the maximum.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a program for developers: any failure ends it"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "numbers that become narrower are small, and figures are rounded"
)]

mod calls;
mod claims;
mod clients;
mod figures;
mod gso;
mod limits;
mod loads;
mod machine;
mod monitor;
mod peers;
mod plan;
mod references;
mod servers;
mod stamp;
mod traffic;
mod veth;
mod windows;
mod wire;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;

use crate::figures::Seen;
use crate::plan::{Contender, Load};
use crate::references::Reference;
use crate::servers::{Server, Start};
use crate::traffic::{Client, Sample, Span};
use crate::veth::Veth;

/// Compares the daemon with plain loops under the same loads
#[derive(Parser)]
struct Args {
    /// Run one short round of everything, as a smoke test
    #[arg(long)]
    quick: bool,
    /// Number of rounds; each measures every server once
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Run only this load (repeatable): one, paced, echo, large, gso, exchange, growth, workers,
    /// stamp, veth-one, veth, veth-batches, client, monitor or limits. Those over veth need root, ip,
    /// ethtool and clang
    #[arg(long)]
    load: Vec<String>,
    /// Run another build of the daemon, too, and compare this build with it
    #[arg(long, value_name = "PROGRAM")]
    before: Option<PathBuf>,
    /// Take precedence over the programs of other sessions (needs root)
    #[arg(long)]
    precedence: bool,
    /// Run a plain loop until standard input ends. This program starts itself with it
    #[arg(long, hide = true)]
    reference: Option<Reference>,
    /// Added by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.reference {
        Some(reference) => references::run(reference),
        None => measure(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> io::Result<()> {
    let cpus = machine::cpus();
    let _precedence = args
        .precedence
        .then(machine::Precedence::take)
        .transpose()?;
    let (rounds, span, idle) = if args.quick {
        (1, Span::of_milliseconds(30, 100), Duration::from_secs(1))
    } else {
        let span = Span::of_milliseconds(80, 400);
        (args.rounds.max(1), span, Duration::from_secs(10))
    };
    let mut loads = plan::loads();
    if let Some(name) = args.load.iter().find(|name| {
        ![CLIENT, monitor::NAME, limits::NAME].contains(&name.as_str())
            && loads.iter().all(|load| load.name != **name)
    }) {
        return Err(io::Error::other(format!("unknown load {name}")));
    }
    loads.retain(|load| args.load.is_empty() || args.load.iter().any(|name| name == load.name));
    if let Some(program) = &args.before {
        plan::add_other_build(&mut loads, program);
    }
    let veth = if loads.iter().any(|load| load.over_veth) {
        match Veth::new() {
            Ok(veth) => Some(veth),
            Err(error) if args.load.is_empty() => {
                eprintln!("no loads over veth: {error}");
                loads.retain(|load| !load.over_veth);
                None
            }
            Err(error) => return Err(error),
        }
    } else {
        None
    };
    println!("{}", preface(cpus, rounds, span)?);

    let mut seen: Vec<Seen> = loads
        .iter()
        .map(|load| vec![Vec::new(); load.contenders.len()])
        .collect();
    let mut client = Client::new();
    let mut kept: Vec<Vec<Option<Server>>> = loads
        .iter()
        .map(|load| load.contenders.iter().map(|_| None).collect())
        .collect();
    for round in 0..rounds {
        for (index, load) in loads.iter().enumerate() {
            eprintln!("round {} of {rounds}: {}", round + 1, load.title);
            let number = load.contenders.len();
            for turn in 0..number {
                let at = (round + turn) % number;
                let contender = &load.contenders[at];
                let kept = &mut kept[index][at];
                let veth = veth.as_ref().filter(|_| load.over_veth);
                let sample = sample(&mut client, load, contender, veth, kept, span)?;
                seen[index][at].push(sample);
            }
        }
    }
    drop(kept);
    for (load, seen) in loads.iter().zip(&seen) {
        print!("{}", figures::tables(load, seen));
    }
    let mut judged = figures::judged(&loads, &seen);
    if args.load.is_empty() || args.load.iter().any(|name| name == CLIENT) {
        let (text, more) = clients::compare(&mut client, rounds, span)?;
        print!("{text}");
        judged.extend(more);
    }
    if args.load.is_empty() || args.load.iter().any(|name| name == monitor::NAME) {
        let (text, more) = monitor::compare(rounds, args.quick)?;
        print!("{text}");
        judged.extend(more);
    }
    if args.load.is_empty() || args.load.iter().any(|name| name == limits::NAME) {
        eprintln!("the rate limits");
        print!("{}", limits::compare(rounds, args.quick)?);
    }
    if args.load.is_empty() || args.load.iter().any(|name| name == stamp::NAME) {
        eprintln!("the residence of STAMP");
        print!("{}", stamp::residence(&mut client, span, rounds)?);
    }
    if !judged.is_empty() {
        print!("{}", figures::claims(&judged));
    }
    if !loads.is_empty() {
        println!("\n{}", figures::loss(&loads, &seen));
    }
    if args.load.is_empty() {
        eprintln!("idle");
        println!("{}", at_rest(idle)?);
    }
    Ok(())
}

/// The name of the comparison of clients for `--load`.
const CLIENT: &str = "client";

/// The text before the tables.
fn preface(cpus: usize, rounds: usize, span: Span) -> io::Result<String> {
    let daemon = Server::start(&Start::Daemon(vec![], 1))?;
    let buffer = daemon.metric("udp_echo_socket_receive_buffer_bytes{")?;
    Ok(format!(
        "{cpus} CPUs: the load runs on the first, a server on one of the others per worker, or on \
         all if there are too few. The load never sleeps, so no figure includes its wake-ups.\n\
         {rounds} rounds of {} ms for each server; figures are medians of the rounds. CPU time is \
         that of all threads of the server. The RTT of GSO senders is that of a whole batch.\n\
         Over veth each datagram is a frame, each server has the kernel thread that receives for it, \
         whose CPU time is part of its own, and an XDP program is attached: one that passes all \
         frames, if the server is a socket.\n\
         Receive buffer of the servers: {buffer} bytes, as the kernel reports.",
        span.window.as_millis()
    ))
}

/// Measures one server once.
fn sample(
    client: &mut Client,
    load: &Load,
    contender: &Contender,
    veth: Option<&Veth>,
    kept: &mut Option<Server>,
    span: Span,
) -> io::Result<Sample> {
    let name = &contender.name;
    let explain = |error: io::Error| io::Error::other(format!("{}, {name}: {error}", load.title));
    for _ in 0..TRIES {
        let mut server = if let Some(server) = kept.take() {
            server
        } else {
            let started = match veth {
                Some(veth) => veth.start(&contender.start),
                None => Server::start(&contender.start),
            };
            let server = started.map_err(explain)?;
            if let Some(peers) = contender.owing {
                peers::make_owe(client, &server, peers).map_err(explain)?;
            }
            server
        };
        let sample = match veth {
            Some(veth) => veth.run(client, &server, load.shape, span),
            None => loads::run(client, &server, load.shape, span),
        };
        let sample = sample.map_err(explain)?;
        server.check().map_err(explain)?;
        *kept = contender.owing.map(|_| server);
        if sample.echoes > 0 {
            return Ok(sample);
        }
    }
    Err(explain(io::Error::other("no reply")))
}

/// How often to try a server that does not reply: on a busy machine it can get no CPU for a while.
const TRIES: usize = 3;

/// The CPU time and memory of the daemon without traffic.
fn at_rest(time: Duration) -> io::Result<String> {
    let server = Server::start(&Start::Daemon(vec![], 1))?;
    thread::sleep(Duration::from_millis(300));
    let before = server.cpu()?;
    thread::sleep(time);
    let used = server.cpu()?.saturating_sub(before);
    Ok(format!(
        "Idle over {} s: {:.3} % of a CPU, {} KiB resident.",
        time.as_secs(),
        100.0 * used.as_secs_f64() / time.as_secs_f64(),
        server.resident()?
    ))
}
