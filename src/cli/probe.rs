//! The command line of the client: `udp-echo probe`.

use std::str::FromStr;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueHint};
use hyper::Uri;

use super::values::{duration, number};
use crate::address::HostPort;
use crate::daemon::Given;
use crate::probe;
use crate::probe::pace::Frequency;
use crate::probe::wire::HEADER_BYTES;
use crate::reflect::Mode;

/// Measure loss and round-trip times over UDP, as ping does over ICMP
///
/// Send requests to a UDP reflector and report loss, duplicates, reordering, corruption and
/// round-trip times: a line per reply, and a summary at the end or on Ctrl-C.
///
/// A round-trip time runs from just before the request is sent to the kernel's receive timestamp of
/// the reply.
#[derive(Debug, Clone, Parser)]
#[command(
    term_width = super::option::WIDTH,
    after_help = "Exit status:\n  \
                  0  less than --max-loss percent of the requests are lost\n  \
                  1  --max-loss percent or more are lost, or the client cannot run\n  \
                  2  usage error"
)]
pub struct ProbeArgs {
    /// Name or address of the reflector, and its port
    #[arg(
        value_name = "HOST:PORT",
        value_hint = ValueHint::Hostname,
        long_help = "Name or address of the reflector, and its port; an IPv6 address goes in \
                     brackets, as in [2001:db8::1]:9999."
    )]
    pub target: Target,

    /// Mode that the reflector runs in
    ///
    /// Mode that the reflector runs in. For every reflector that is not udp-echo, use echo.
    ///
    /// In exchange mode, a flow has one request in flight: it waits at most --wait for the reply,
    /// and sends a record after each reply. To keep N requests in flight, use --flows N. A request
    /// that is due while every flow waits is skipped. If a record is lost, the daemon decodes the
    /// next request as the record and does not answer it, so loss on the way there counts about
    /// twice.
    #[arg(long, value_enum, default_value = "exchange")]
    pub mode: Mode,

    /// Stop after N requests [default: until Ctrl-C]
    ///
    /// Stop after N requests, then wait for late replies.
    #[arg(
        long,
        value_name = "N",
        value_parser = number::<u64>(1..=u64::MAX)
    )]
    pub count: Option<u64>,

    /// Stop after this long [default: until Ctrl-C]
    ///
    /// Send for this long: seconds (5, 0.25) or a time with a unit (10m), up to 366 days.
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = some_time
    )]
    pub duration: Option<Duration>,

    /// Time between requests
    ///
    /// Time between requests: seconds (1, 0.25) or a time with a unit (10ms), up to 366 days.
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = some_time,
        default_value = "1s"
    )]
    pub interval: Duration,

    /// Send N requests per second [default: none]
    ///
    /// Send N requests per second instead of one per --interval, 1 to 10000000. One thread sends;
    /// if it cannot keep the rate, the summary says so.
    #[arg(
        long,
        value_name = "N",
        value_parser = number::<u32>(1..=10_000_000)
    )]
    pub rate: Option<u32>,

    /// Size of a request, 16 to 65507
    ///
    /// Size of a request in bytes of UDP payload, 16 to 65507.
    #[arg(
        long,
        value_name = "BYTES",
        value_parser = number::<u16>(HEADER_BYTES as u64..=65507),
        default_value = "64"
    )]
    pub size: u16,

    /// Wait this long for late replies
    ///
    /// Wait this long for late replies at the end: seconds or a time with a unit (250ms), up to
    /// 366 days. In exchange and lockstep mode, a flow also waits this long for each reply before
    /// it sends the next request.
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = some_time,
        default_value = "1s"
    )]
    pub wait: Duration,

    /// Number of source ports, used in turn
    ///
    /// Number of source ports, 1 to 4096, used in turn. Routers and links that spread flows (ECMP,
    /// LAG) send different source ports over different paths.
    #[arg(
        long,
        value_name = "N",
        value_parser = number::<u16>(1..=4096),
        default_value = "1"
    )]
    pub flows: u16,

    /// Exit with 1 at PERCENT loss or more
    ///
    /// Exit with status 1 if at least PERCENT of the requests are lost: more than 0, at most 100.
    #[arg(
        long,
        value_name = "PERCENT",
        value_parser = percent,
        default_value = "100"
    )]
    pub max_loss: f64,

    /// Locate loss by the daemon's metrics [default: none]
    ///
    /// Read the daemon's metrics at this URL before and after the run, and report where requests
    /// were lost: on the way there, in the daemon's host, refused by the daemon, or on the way
    /// back. The URL is plain HTTP; its path defaults to /metrics. The figures are exact only if
    /// the daemon has no other client during the run; otherwise the summary says so.
    #[arg(long, value_name = "URL")]
    pub metrics_url: Option<MetricsUrl>,

    /// Print only the summary [default: off]
    ///
    /// Print only the summary; on a terminal, also a line of progress during the run.
    #[arg(long, value_parser = BoolishValueParser::new())]
    pub quiet: bool,

    /// Print one JSON object at the end [default: off]
    ///
    /// Print one JSON object at the end and nothing else. Times are in seconds; an unknown figure
    /// is null. udp-echo-probe(1) lists its members.
    #[arg(long, value_parser = BoolishValueParser::new())]
    pub json: bool,
}

/// The address to send to; its port is not 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(pub HostPort);

/// The URL of a daemon's metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsUrl(pub Uri);

impl ProbeArgs {
    /// Removes `--rate` if `--interval` overrides it: the command line wins over the environment.
    ///
    /// # Errors
    /// If both are on the command line, or both in the environment.
    pub(super) fn choose_frequency(&mut self, given: &Given) -> Result<(), clap::Error> {
        let (Some(rate), Some(interval)) = (given.get("rate"), given.get("interval")) else {
            return Ok(());
        };
        let is_option = [rate, interval].map(|name| name.starts_with("--"));
        if is_option[0] == is_option[1] {
            let message = format!(
                "cannot use {rate} with {interval}: both set how often to send; remove one"
            );
            return Err(Self::command().error(ErrorKind::ArgumentConflict, message));
        }
        if is_option[1] {
            self.rate = None;
        }
        Ok(())
    }

    /// The client's settings.
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
            return Err("cannot send to port 0: it is reserved; use 1 to 65535".into());
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
            .ok_or("expected a plain HTTP URL, such as http://localhost:9862/metrics")
    }
}

fn some_time(text: &str) -> Result<Duration, &'static str> {
    /// Added to any instant, this does not overflow.
    const MOST: Duration = Duration::from_hours(24 * 366);
    duration(text)
        .filter(|time| !time.is_zero() && *time <= MOST)
        .ok_or("expected seconds (5, 0.25) or a time with a unit (250ms, 1m), more than 0 and at most 366 days")
}

fn percent(text: &str) -> Result<f64, &'static str> {
    text.parse()
        .ok()
        .filter(|percent| *percent > 0.0 && *percent <= 100.0)
        .ok_or("expected a percentage, more than 0 and at most 100")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_url_accepts_only_plain_http() {
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
    fn max_loss_accepts_above_0_and_at_most_100() {
        assert_eq!(percent("0.5"), Ok(0.5));
        for wrong in ["0", "100.1", "-1", "nan", "inf", "much"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }
}
