//! The client beside what a plain client does: what it adds to a round trip, how many it sends.

use std::io;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::figures::Spread;
use crate::loads::{self, Client, Shape, Span};
use crate::machine;
use crate::servers::{DAEMON, Server, Start};

/// What is claimed of it.
const SLOWER: f64 = 1.10;
const AS_MANY: f64 = 0.90;

/// Measures rounds of both, in turn, and tells the ratios.
pub fn compare(client: &mut Client, rounds: usize, span: Span) -> io::Result<String> {
    let (mut rtts, mut rates) = (Vec::new(), Vec::new());
    let mut seen = Vec::new();
    for round in 0..rounds {
        eprintln!("round {} of {rounds}: the client", round + 1);
        let exchange = Start::Daemon(vec!["--mode=exchange"], 1);
        let plain = median_of_plain(&Server::start(&exchange)?, span)?;
        let own = probe(&Server::start(&exchange)?, &["--mode=exchange"], span)?;
        rtts.push(own.p50 / plain);
        let echo = Start::Daemon(vec!["--mode=echo"], 1);
        let shape = Shape::Windows {
            flows: 16,
            window: 16,
            bytes: 64,
            pause: Duration::ZERO,
        };
        let load = loads::run(client, &Server::start(&echo)?, shape, span)?;
        let load = load.echoes as f64 / load.time.as_secs_f64();
        let full = probe(&Server::start(&echo)?, &["--mode=echo", "--flows=16"], span)?;
        rates.push(full.sent / load);
        seen.push([plain * 1e6, own.p50 * 1e6, load, full.sent, full.received]);
    }
    let median = |column: usize| {
        Spread::of(seen.iter().map(|seen| seen[column])).map_or(f64::NAN, |spread| spread.median)
    };
    let show = |ratios: Vec<f64>| Spread::of(ratios.into_iter()).map(|spread| spread.show());
    Ok(format!(
        "\n## The client, `udp-echo probe`\n\n\
         One in flight, exchanges, RTT p50: {:.1} µs by a plain blocking loop, {:.1} µs by the \
         client; ratio {} (at most {SLOWER:.2}).\n\
         As many as it can, 16 flows, a second: {:.0} sent by the load (16 in flight each), {:.0} \
         by the client, of which {:.0} came back; sent, ratio {} (at least {AS_MANY:.2}).\n",
        median(0),
        median(1),
        show(rtts).unwrap_or_default(),
        median(2),
        median(3),
        median(4),
        show(rates).unwrap_or_default(),
    ))
}

/// The median round trip, in seconds, of a client in a few lines: send, wait, send the record.
fn median_of_plain(server: &Server, span: Span) -> io::Result<f64> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server.address)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut rtts = Vec::new();
    let mut bytes = [0; 64];
    let begin = loads::now();
    while begin.elapsed() < span.warm_up + span.window {
        let sent = loads::now();
        socket.send(&[1; 64])?;
        socket.recv(&mut bytes)?;
        let rtt = sent.elapsed();
        socket.send(&[0; 22])?;
        if begin.elapsed() > span.warm_up {
            rtts.push(rtt.as_secs_f64());
        }
    }
    rtts.sort_by(f64::total_cmp);
    let middle = rtts.get(rtts.len() / 2).copied();
    middle.ok_or_else(|| io::Error::other("not one reply"))
}

/// What the client says.
struct Probe {
    p50: f64,
    /// A second.
    sent: f64,
    received: f64,
}

fn probe(server: &Server, args: &[&str], span: Span) -> io::Result<Probe> {
    let time = span.warm_up + span.window;
    let mut command = Command::new(DAEMON);
    command
        .arg("probe")
        .arg(server.address.to_string())
        .args(["--json", "--rate=10000000", "--wait=0.3"])
        .arg(format!("--duration={}", time.as_secs_f64()))
        .args(args)
        .env_clear()
        .stdin(Stdio::null());
    machine::pin_load()?;
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = |name: &str| {
        let rest = text.split(&format!("\"{name}\": ")).nth(1)?;
        rest.split([',', '}']).next()?.parse::<f64>().ok()
    };
    let missing = || io::Error::other(format!("the client says {text:?}"));
    let a_second = |name| number(name).map(|count| count / time.as_secs_f64());
    Ok(Probe {
        p50: number("p50").ok_or_else(missing)?,
        sent: a_second("sent").ok_or_else(missing)?,
        received: a_second("received").ok_or_else(missing)?,
    })
}
