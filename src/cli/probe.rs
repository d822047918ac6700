//! The command line of the client: `udp-echo probe`.

mod exclusive;
pub(super) mod stamp;
pub(super) mod values;

use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Parser, ValueHint};

use super::dscp::dscp;
use super::key_file::UnusableKeyFile;
use super::mistakes;
use super::values::number;
use crate::address::Family;
use crate::probe;
pub use crate::probe::MetricsUrl;
use crate::probe::pace::Frequency;
use crate::reflect::Mode;
use crate::udp::{IpOptions, Source};
use stamp::ProbeStampArgs;
pub use values::{PathMtu, Target};
use values::{percent, rate, request_size, source, time, tos};

/// Measure loss and round-trip times over UDP, as ping does over ICMP
///
/// Send requests to a UDP reflector and report loss, duplicates, reordering, corruption and
/// round-trip times: a line per reply, and a summary at the end or on Ctrl-C.
///
/// A round-trip time runs from just before the request is sent to the kernel's receive timestamp of
/// the reply.
#[expect(clippy::doc_markdown, reason = "help texts have no backticks")]
#[expect(clippy::struct_excessive_bools, reason = "each is an option")]
#[derive(Debug, Clone, Parser)]
#[command(
    version = super::VERSION,
    display_name = "udp-echo",
    term_width = super::option::WIDTH,
    after_help = "Exit status:\n  \
                  0  less than --max-loss percent of the requests are lost\n  \
                  1  --max-loss percent or more are lost, or the client cannot run\n  \
                  2  usage error"
)]
pub struct ProbeArgs {
    /// Name or address of the reflector, and its port
    #[arg(
        value_name = "HOST[:PORT]",
        value_hint = ValueHint::Hostname,
        long_help = "Name or address of the reflector, and its port, which is 9999 if it is left \
                     out (stamp: 862). An IPv6 address with a port goes in brackets: 2001:db8::1, or \
                     [2001:db8::1]:9999."
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
        short = 'c',
        long,
        value_name = "N",
        value_parser = number::<u64>(1..=u64::MAX)
    )]
    pub count: Option<u64>,

    /// Stop after this long [default: until Ctrl-C]
    ///
    /// Send for this long: seconds (5, 0.25) or a time with a unit (10m), up to 366 days.
    #[arg(
        short = 'w',
        long,
        value_name = "DURATION",
        value_parser = time
    )]
    pub duration: Option<Duration>,

    /// Time between requests
    ///
    /// Time between requests: seconds (1, 0.25) or a time with a unit (10ms), up to 366 days.
    #[arg(
        short = 'i',
        long,
        value_name = "DURATION",
        value_parser = time,
        default_value = "1s"
    )]
    pub interval: Duration,

    /// Send N requests per second [default: none]
    ///
    /// Send N requests per second instead of one per --interval: up to 10000000, fractions too
    /// (0.5). One thread sends; if it cannot keep the rate, the summary says so.
    #[arg(
        long,
        value_name = "N",
        value_parser = rate
    )]
    pub rate: Option<Frequency>,

    /// Size of a request (stamp: 44)
    ///
    /// Size of a request in bytes of UDP payload, 16 to 65507, or with a unit (1KiB). In stamp mode
    /// 14 to 65507, TLVs included, and the default is 44 (authenticated: 112); 14 to 43 bytes make a
    /// TWAMP-Light request.
    #[arg(
        short = 's',
        long,
        value_name = "BYTES",
        value_parser = request_size,
        default_value = "64"
    )]
    pub size: u16,

    /// Wait this long for late replies
    ///
    /// Wait this long for late replies at the end: seconds or a time with a unit (250ms), up to
    /// 366 days. In exchange and lockstep mode, a flow also waits this long for each reply before
    /// it sends the next request.
    #[arg(
        short = 'W',
        long,
        value_name = "DURATION",
        value_parser = time,
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

    /// Use IPv4 only [default: any family]
    ///
    /// Use the IPv4 addresses of the target only. Without --ipv4 and --ipv6 the addresses are tried
    /// in the order of the system (RFC 6724), until one has a route.
    #[arg(short = '4', long, value_parser = BoolishValueParser::new())]
    pub ipv4: bool,

    /// Use IPv6 only [default: any family]
    ///
    /// Use the IPv6 addresses of the target only.
    #[arg(short = '6', long, value_parser = BoolishValueParser::new())]
    pub ipv6: bool,

    /// Source address or interface [default: the route's]
    ///
    /// Address of this host to send from, or interface to send and receive on (SO_BINDTODEVICE). A
    /// link-local address has its interface, as in fe80::1%eth0.
    #[arg(short = 'I', long, value_name = "ADDRESS", value_parser = source)]
    pub source: Option<Source>,

    /// DSCP of the requests [default: 0]
    ///
    /// Differentiated services code point of the requests: 0 to 63, or a name, CS0 to CS7, AF11 to
    /// AF43, EF, LE, VA. A router may treat each code point differently, or change it.
    #[arg(long, value_name = "DSCP", value_parser = dscp)]
    pub dscp: Option<u8>,

    /// TOS byte, as in ping [default: 0]
    ///
    /// Set the whole TOS byte of the requests (IPv6: traffic class), as ping does: 0 to 255, or in
    /// hexadecimal with 0x. The two ECN bits must be 0: -Q 0xb8 is --dscp 46.
    #[arg(short = 'Q', value_name = "TOS", value_parser = tos)]
    pub tos: Option<u8>,

    /// TTL, 1 to 255 [default: the kernel's]
    ///
    /// Time to live of the requests (IPv6: hop limit), 1 to 255.
    #[arg(short = 't', long, value_name = "N", value_parser = number::<u8>(1..=255))]
    pub ttl: Option<u8>,

    /// Never fragment requests [default: off]
    ///
    /// Set the DF bit of the requests and do not fragment them on this host. A request that is too
    /// long for the path fails. -M do does this too.
    #[arg(long, value_parser = BoolishValueParser::new())]
    pub df: bool,

    /// Path MTU mode, as in ping [default: the kernel's]
    ///
    /// Whether requests may be fragmented, as in ping.
    #[arg(short = 'M', value_enum, value_name = "WHEN")]
    pub path_mtu: Option<PathMtu>,

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

    /// Print figures at this interval [default: none]
    ///
    /// Print a line of figures at this interval: seconds or a time with a unit (10s, 1m).
    #[arg(long, value_name = "DURATION", value_parser = time)]
    pub report: Option<Duration>,

    /// Locate loss by the daemon's metrics [default: none]
    ///
    /// Read the daemon's metrics at this URL before and after the run, and report where requests
    /// were lost: on the way there, in the daemon's host, refused by the daemon, or on the way
    /// back. The URL is plain HTTP; its path defaults to /metrics. User and password in it are sent
    /// as basic authentication; set the variable instead of the option to hide them from other
    /// users of this host. The figures are exact only if the daemon has no other client during the
    /// run; otherwise the summary says so.
    #[arg(long, value_name = "URL")]
    pub metrics_url: Option<MetricsUrl>,

    /// Print only the summary [default: off]
    ///
    /// Print only the summary; on a terminal, also a line of progress during the run.
    #[arg(short = 'q', long, value_parser = BoolishValueParser::new())]
    pub quiet: bool,

    /// Print one JSON object at the end [default: off]
    ///
    /// Print one JSON object at the end and nothing else. Times are in seconds; an unknown figure
    /// is null. udp-echo-probe(1) lists its members.
    #[arg(long, value_parser = BoolishValueParser::new())]
    pub json: bool,

    /// Print a JSON object per event [default: off]
    ///
    /// Print one JSON object per line: one for each event, and the object of --json at the end.
    /// udp-echo-probe(1) lists their members.
    #[arg(long, value_parser = BoolishValueParser::new())]
    pub json_lines: bool,

    /// Print the UNIX time before each line [default: off]
    #[arg(short = 'D', long, value_parser = BoolishValueParser::new())]
    pub timestamps: bool,

    /// The options of STAMP mode.
    #[command(flatten)]
    stamp: ProbeStampArgs,
}

impl ProbeArgs {
    /// The client's settings.
    ///
    /// # Errors
    /// If the key file of STAMP mode cannot be used.
    pub fn config(&self) -> Result<probe::Config, UnusableKeyFile> {
        Ok(probe::Config {
            target: self.target.host_port().clone(),
            mode: self.mode,
            count: self.count,
            duration: self.duration,
            frequency: self.frequency(),
            size: self.size.into(),
            wait: self.wait,
            flows: self.flows.into(),
            max_loss: self.max_loss,
            metrics_url: self.metrics_url.clone(),
            family: self.family(),
            source: self.source.clone(),
            ip: self.ip(),
            report: self.report,
            stamp: self.stamp_requests()?,
            quiet: self.quiet,
            json: self.json,
            json_lines: self.json_lines,
            timestamps: self.timestamps,
        })
    }

    fn family(&self) -> Family {
        match (self.ipv4, self.ipv6) {
            (true, _) => Family::Ipv4,
            (_, true) => Family::Ipv6,
            _ => Family::Any,
        }
    }

    /// The fields of the requests' IP headers.
    fn ip(&self) -> IpOptions {
        let path_mtu = self.path_mtu.or(self.df.then_some(PathMtu::Do));
        IpOptions {
            traffic_class: self.dscp.map(|dscp| dscp << 2).or(self.tos),
            ttl: self.ttl,
            fragmentation: path_mtu.map(Into::into),
        }
    }

    fn frequency(&self) -> Frequency {
        self.rate.unwrap_or(Frequency {
            count: 1,
            time: self.interval,
        })
    }
}
