//! The client beside plain clients: the time it adds to a round trip, and its send rate.

use std::io::{self, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::cmsg_space;
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use nix::sys::time::TimeSpec;

use crate::claims::Bound;
use crate::figures::{Judged, Spread, Table};
use crate::loads::{self, Shape};
use crate::machine;
use crate::servers::{DAEMON, Server, Start};
use crate::traffic::{Client, Span, now};

/// The claims about the client.
const SLOWER: Bound = Bound::AtMost(1.10);
const AS_MANY: Bound = Bound::AtLeast(0.90);

const CLIENT: &str = "udp-echo probe";
/// Measures like the client: from the clock before the send to the kernel's timestamp of the reply.
const STAMPED: &str = "sendto/recvmsg, kernel timestamp";
/// Its RTT includes its own wake-up.
const UNSTAMPED: &str = "sendto/recvfrom, clock after it";
const LOAD: &str = "the load generator, 16 in flight per flow";

/// Measures all clients in turn, round after round. Returns the figures and the claims.
pub fn compare(
    client: &mut Client,
    rounds: usize,
    span: Span,
) -> io::Result<(String, Vec<Judged>)> {
    let mut seen = Vec::new();
    for round in 0..rounds {
        eprintln!("round {} of {rounds}: the client", round + 1);
        let exchange = || Server::start(&Start::Daemon(vec!["--mode=exchange"], 1));
        let mut rtts = [0.0; 3];
        for turn in 0..rtts.len() {
            let at = (round + turn) % rtts.len();
            rtts[at] = match at {
                0 => median_of_plain(&exchange()?, span, true)?,
                1 => median_of_plain(&exchange()?, span, false)?,
                _ => probe(&exchange()?, &["--mode=exchange"], span)?.p50 * 1e6,
            };
        }
        let [stamped, unstamped, own] = rtts;
        let echo = || Server::start(&Start::Daemon(vec!["--mode=echo"], 1));
        let shape = Shape::Windows {
            flows: 16,
            window: 16,
            bytes: 64,
            pause: Duration::ZERO,
            header_at: 0,
        };
        let load = loads::run(client, &echo()?, shape, span)?;
        let load = load.echoes as f64 / load.time.as_secs_f64();
        let full = probe(&echo()?, &["--mode=echo", "--flows=16"], span)?;
        seen.push([stamped, unstamped, own, load, full.sent, full.received]);
    }
    let spread = |value: &dyn Fn(&[f64; 6]) -> f64| {
        Spread::of(seen.iter().map(value)).ok_or_else(|| io::Error::other("no rounds"))
    };
    let median = |column: usize| spread(&|seen| seen[column]).map(|spread| spread.median);
    let mut rtts = Table::new(&["one in flight, exchanges", "RTT p50, µs"]);
    for (column, name) in [STAMPED, UNSTAMPED, CLIENT].into_iter().enumerate() {
        rtts.row(vec![name.into(), format!("{:.1}", median(column)?)]);
    }
    let mut rates = Table::new(&["16 flows, full speed", "sent per second", "came back"]);
    let load = format!("{:.0}", median(3)?);
    rates.row(vec![LOAD.into(), load.clone(), load]);
    let [sent, received] = [4, 5].map(median);
    let cells = [format!("{:.0}", sent?), format!("{:.0}", received?)];
    rates.row([vec![CLIENT.into()], cells.into()].concat());
    let judged = |figure, against, column: usize, to: usize, bound| {
        Ok(Judged {
            title: "the client, `udp-echo probe`",
            figure,
            against,
            bound,
            ratio: spread(&|seen| seen[column] / seen[to])?,
        })
    };
    Ok((
        format!(
            "\n## client: `udp-echo probe` beside plain clients\n\n{}\n{}",
            rtts.show(),
            rates.show()
        ),
        [
            judged("RTT p50", STAMPED, 2, 0, SLOWER),
            judged("RTT p50", UNSTAMPED, 2, 1, SLOWER),
            judged("sent per second", LOAD, 4, 3, AS_MANY),
        ]
        .into_iter()
        .collect::<io::Result<_>>()?,
    ))
}

/// The median round-trip time, in microseconds, of a minimal client: send, wait, send the record.
fn median_of_plain(server: &Server, span: Span, stamped: bool) -> io::Result<f64> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server.address)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    setsockopt(&socket, ReceiveTimestampns, &stamped)?;
    let receive = if stamped { receive_stamped } else { receive };
    let mut rtts = Vec::new();
    let begin = now();
    while begin.elapsed() < span.warm_up + span.window {
        let sent = since_1970();
        socket.send(&[1; 64])?;
        let rtt = receive(&socket)?.saturating_sub(sent);
        socket.send(&[0; 22])?;
        if begin.elapsed() > span.warm_up {
            rtts.push(rtt.as_secs_f64() * 1e6);
        }
    }
    rtts.sort_by(f64::total_cmp);
    let middle = rtts.get(rtts.len() / 2).copied();
    middle.ok_or_else(|| io::Error::other("no reply"))
}

/// Receives a reply. Returns the time after the call.
fn receive(socket: &UdpSocket) -> io::Result<Duration> {
    socket.recv(&mut [0; 64])?;
    Ok(since_1970())
}

/// Receives a reply. Returns the kernel's receive timestamp.
fn receive_stamped(socket: &UdpSocket) -> io::Result<Duration> {
    let mut bytes = [0; 64];
    let mut bytes = [IoSliceMut::new(&mut bytes)];
    let mut control = cmsg_space!(TimeSpec);
    let flags = MsgFlags::empty();
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut bytes, Some(&mut control), flags)?;
    for message in message.cmsgs()? {
        if let ControlMessageOwned::ScmTimestampns(time) = message {
            return Ok(Duration::from(time));
        }
    }
    Err(io::Error::other("no timestamp"))
}

fn since_1970() -> Duration {
    #[expect(
        clippy::disallowed_methods,
        reason = "the kernel's timestamps are from this clock"
    )]
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Figures from the client's JSON output: seconds, and datagrams per second.
struct Probe {
    p50: f64,
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
        let rest = text.split(&format!("\"{name}\":")).nth(1)?;
        rest.split([',', '}']).next()?.parse::<f64>().ok()
    };
    let missing = || io::Error::other(format!("the client says {text:?}"));
    let per_second = |name| number(name).map(|count| count / time.as_secs_f64());
    Ok(Probe {
        p50: number("p50").ok_or_else(missing)?,
        sent: per_second("sent").ok_or_else(missing)?,
        received: per_second("received").ok_or_else(missing)?,
    })
}
