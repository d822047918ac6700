//! The command line of the client: `udp-echo probe`.

use std::str::FromStr;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, Parser};
use hyper::Uri;

use super::values::duration;
use crate::address::HostPort;
use crate::probe;
use crate::probe::pace::Frequency;
use crate::probe::wire::HEADER_BYTES;
use crate::reflect::Mode;

/// Like ping, for UDP: sends requests to a reflector and tells loss, duplicates, reordering,
/// corruption and round-trip times.
///
/// A line for each reply, and a summary at the end or on Ctrl-C. Round-trip times are from just
/// before the send to the kernel's receipt of the reply, where it tells.
#[derive(Debug, Clone, Parser)]
#[command(
    max_term_width = 100,
    after_help = "Exit status: 0, 1 too much was lost (see --max-loss) or it could not go on, \
                  2 wrong usage."
)]
pub struct ProbeArgs {
    /// The reflector
    #[arg(value_name = "HOST:PORT")]
    pub target: Target,

    /// What the reflector does, as its own --mode says
    #[arg(
        long,
        value_enum,
        default_value = "exchange",
        long_help = "What the reflector does, as its own --mode says\n\n\
                     In exchange each reply is followed by a record, and a flow that waits for a \
                     reply sends nothing else: with --rate, use as many --flows as are to be in \
                     flight. A flow without a reply waits for at most --wait; meanwhile others are \
                     used, and when all wait, requests are held up and those missed are not made \
                     up for. A record that is lost costs the next request, so loss on the way \
                     there shows twice. In lockstep one request is in flight over all flows. In \
                     echo, which is right for every plain reflector, there are no records, and \
                     requests are sent whether replies come or not."
    )]
    pub mode: Mode,

    /// Stop after so many requests [default: until Ctrl-C]
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub count: Option<u64>,

    /// Send for so long: seconds, or with a unit (10m) [default: until Ctrl-C]
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = some_time
    )]
    pub duration: Option<Duration>,

    /// From one request to the next: seconds, or with a unit (10ms)
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = some_time,
        default_value = "1s"
    )]
    pub interval: Duration,

    /// Requests a second, instead of --interval; as many as one core sends where that is less
    /// [default: none]
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=10_000_000)
    )]
    pub rate: Option<u32>,

    /// How long a request is, 16 to 65507
    #[arg(
        long,
        value_name = "BYTES",
        value_parser = clap::value_parser!(u16).range(HEADER_BYTES as i64..=65507),
        default_value = "64"
    )]
    pub size: u16,

    /// How long to wait for late replies at the end
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = some_time,
        default_value = "1s"
    )]
    pub wait: Duration,

    /// How many source ports to send from, in turn: other paths where routers and links spread
    /// flows (ECMP, LAG)
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=4096),
        default_value = "1"
    )]
    pub flows: u16,

    /// Exit with status 1 when so many of a hundred are lost, or more
    #[arg(
        long,
        value_name = "PERCENT",
        value_parser = percent,
        default_value = "100"
    )]
    pub max_loss: f64,

    /// Read the daemon's metrics before and after, and say where the lost ones were lost
    /// [default: none]
    #[arg(
        long,
        value_name = "URL",
        long_help = "Read the daemon's metrics before and after, and say where the lost ones were \
                     lost: on the way there, dropped by the daemon's host, refused by the daemon, \
                     or on the way back. As in http://192.0.2.1:9862/metrics, without TLS; the \
                     path may be left out. Exact while nobody else uses the daemon: where it got \
                     more than were sent from here, that is said too [default: none]"
    )]
    pub metrics_url: Option<MetricsUrl>,

    /// Only the summary [default: off]
    #[arg(
        long,
        value_parser = BoolishValueParser::new()
    )]
    pub quiet: bool,

    /// Only one JSON object, at the end [default: off]
    #[arg(
        long,
        long_help = "Only one JSON object, at the end: target, sent, received (each request once), \
                     lost, loss_ratio (0 to 1), duplicates, reordered, corrupted, records_sent, and \
                     rtt_seconds with min, mean, stddev, p50, p90, p99 and max, each null where \
                     nothing came back. With --metrics-url also attribution, null where it cannot \
                     be told: of the lost, uplink, server_drops, server_refused and downlink, and \
                     of_others where the daemon got so many more than were sent from here \
                     [default: off]",
        value_parser = BoolishValueParser::new()
    )]
    pub json: bool,
}

/// Where to send: a host and a port other than 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(pub HostPort);

/// Where a daemon serves its metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsUrl(pub Uri);

impl ProbeArgs {
    /// Leaves `--rate` out where `--interval` counts: what is on the command line does, before what
    /// is in the environment.
    ///
    /// # Errors
    /// When both are given at the same place.
    pub(super) fn choose_frequency(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let sources = ["rate", "interval"].map(|id| matches.value_source(id));
        let twice = match sources {
            [
                Some(ValueSource::CommandLine),
                Some(ValueSource::CommandLine),
            ] => "--rate --interval",
            [
                Some(ValueSource::EnvVariable),
                Some(ValueSource::EnvVariable),
            ] => "UDP_ECHO_RATE UDP_ECHO_INTERVAL",
            _ => {
                if sources[1] == Some(ValueSource::CommandLine) {
                    self.rate = None;
                }
                return Ok(());
            }
        };
        let message = format!("only one of these says how often to send: {twice}");
        Err(Self::command().error(ErrorKind::ArgumentConflict, message))
    }

    /// What the client is to do.
    pub fn config(&self) -> probe::Config {
        probe::Config {
            target: self.target.0.clone(),
            mode: self.mode,
            count: self.count,
            duration: self.duration,
            frequency: self.frequency(),
            size: self.size.into(),
            wait: self.wait,
            flows: self.flows.into(),
            max_loss: self.max_loss,
            metrics_url: self.metrics_url.as_ref().map(|url| url.0.clone()),
            quiet: self.quiet,
            json: self.json,
        }
    }

    /// How often to send.
    fn frequency(&self) -> Frequency {
        match self.rate {
            Some(count) => Frequency {
                count,
                time: Duration::from_secs(1),
            },
            None => Frequency {
                count: 1,
                time: self.interval,
            },
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let target = text
            .parse::<HostPort>()
            .map_err(|error| error.to_string())?;
        if target.port() == 0 {
            return Err("no datagram can be sent to port 0".into());
        }
        Ok(Self(target))
    }
}

impl FromStr for MetricsUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        text.parse::<Uri>()
            .ok()
            .filter(|url| url.scheme_str() == Some("http"))
            .filter(|url| url.host().is_some_and(|host| !host.is_empty()))
            .map(Self)
            .ok_or("expected a plain HTTP address, such as http://localhost:9862/metrics")
    }
}

fn some_time(text: &str) -> Result<Duration, &'static str> {
    /// Long enough for anybody, and short enough to reckon with.
    const MOST: Duration = Duration::from_hours(24 * 366);
    duration(text)
        .filter(|time| !time.is_zero() && *time <= MOST)
        .ok_or("expected more than 0 and at most 366 days: seconds (5, 0.25) or with a unit (250ms, 1m)")
}

fn percent(text: &str) -> Result<f64, &'static str> {
    text.parse()
        .ok()
        .filter(|percent| *percent > 0.0 && *percent <= 100.0)
        .ok_or("expected more than 0 and at most 100: the status is 1 at or above it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metrics_url_is_plain_http() {
        for good in ["http://localhost:9862/metrics", "http://[::1]/", "http://h"] {
            assert!(good.parse::<MetricsUrl>().is_ok(), "{good}");
        }
        for wrong in [
            "https://h/metrics",
            "h:9862/metrics",
            "/metrics",
            "http://",
            "",
        ] {
            assert!(wrong.parse::<MetricsUrl>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn loss_is_a_percentage_that_is_not_always_reached() {
        assert_eq!(percent("0.5"), Ok(0.5));
        for wrong in ["0", "100.1", "-1", "nan", "inf", "much"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }
}
