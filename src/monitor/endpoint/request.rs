//! The parameters of `/probe`.

use std::collections::BTreeMap;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::address::{Family, HostPort};
use crate::cli::values::{duration, number, size};
use crate::probe::Config;
use crate::probe::pace::Frequency;
use crate::probe::stamp::{Padding, StampRequests};
use crate::reflect::Mode;
use crate::udp::IpOptions;

const NAMES: [&str; 6] = ["target", "mode", "count", "interval", "flows", "size"];

/// The shortest and the longest time between two requests.
const INTERVALS: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// The time to wait for a reply, as the client has it. Replies that arrive later count, too, if the
/// scrape timeout allows.
const WAIT: Duration = Duration::from_secs(1);

/// A probe as the client of the endpoint asks for it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ProbeRequest {
    /// The reflector.
    pub(super) target: HostPort,
    mode: Mode,
    count: u32,
    interval: Duration,
    flows: u32,
    size: u16,
}

impl ProbeRequest {
    /// Parses the query of a URL.
    ///
    /// # Errors
    /// A line that says what is wrong and what is expected.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut values = parameters(query)?;
        let mut parsed = |name| values.remove(name);
        let target =
            parsed("target").ok_or("the target is missing: expected /probe?target=HOST:PORT")?;
        let mode = match parsed("mode") {
            None => Mode::Exchange,
            Some(name) => mode(&name).map_err(wrong("mode", &name))?,
        };
        let mut value = |name, default, parse: &dyn Fn(&str) -> Result<u32, String>| {
            parsed(name).map_or(Ok(default), |text| parse(&text).map_err(wrong(name, &text)))
        };
        let count = value("count", 10, &number(1..=100))?;
        let flows = value("flows", 1, &number(1..=32))?;
        let (default, least) = match mode {
            Mode::Stamp => (44, 14),
            Mode::Exchange | Mode::Lockstep | Mode::Echo => (64, 16),
        };
        let bytes = size(least..=65507);
        let bytes = value("size", default, &|text| bytes(text).map(u32::from))?;
        let interval = match parsed("interval") {
            None => Duration::from_millis(100),
            Some(text) => interval(&text).map_err(wrong("interval", &text))?,
        };
        let request = Self {
            target: host_port(&target, mode).map_err(wrong("target", &target))?,
            mode,
            count,
            interval,
            flows,
            size: u16::try_from(bytes).unwrap_or(u16::MAX),
        };
        match request.stamp().map(|stamp| stamp.check_size()) {
            Some(Err((least, other))) => Err(wrong("size", &bytes.to_string())(format!(
                "expected {least} or at least {other} bytes in stamp mode"
            ))),
            _ => Ok(request),
        }
    }

    /// The settings of a run that ends in time.
    pub(super) fn config(&self, time: Duration) -> Config {
        let (sending, wait) = self.times(time);
        Config {
            target: self.target.clone(),
            mode: self.mode,
            count: Some(self.count.into()),
            duration: Some(sending),
            frequency: Frequency {
                count: 1,
                time: self.interval,
            },
            size: self.size.into(),
            wait,
            // At most 32.
            flows: usize::try_from(self.flows).unwrap_or(1),
            max_loss: 100.0,
            metrics_url: None,
            family: Family::Any,
            source: None,
            ip: IpOptions::default(),
            report: None,
            stamp: self.stamp(),
            quiet: true,
            json: true,
            json_lines: false,
            timestamps: false,
        }
    }

    /// How long to send, and how long to wait for a reply. Where a flow waits for each reply, it
    /// must not use up the time for its further requests.
    fn times(&self, time: Duration) -> (Duration, Duration) {
        let least = WAIT.min(time / 2);
        let waits = match self.mode {
            Mode::Echo | Mode::Stamp => 1,
            Mode::Exchange => self.count.div_ceil(self.flows),
            Mode::Lockstep => self.count,
        };
        let spare = time.saturating_sub(self.interval * (self.count - 1));
        (time.saturating_sub(least), least.max(spare / waits))
    }

    fn stamp(&self) -> Option<StampRequests> {
        (self.mode == Mode::Stamp).then(|| StampRequests {
            size: self.size.into(),
            ssid: 0,
            is_authenticated: false,
            key: None,
            class_of_service: None,
            padding: Padding::default(),
        })
    }
}

/// Why an address cannot be the target.
pub(super) const NOT_ONE_HOST: &str =
    "expected the address of one host, neither multicast nor broadcast nor unspecified";

/// Splits and decodes a query.
fn parameters(query: &str) -> Result<BTreeMap<&'static str, String>, String> {
    let mut values = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decoded(name)?, decoded(value)?);
        let Some(known) = NAMES.into_iter().find(|known| *known == name) else {
            let names = NAMES.join(", ");
            return Err(format!("unknown parameter {name:?}: expected {names}"));
        };
        if values.insert(known, value).is_some() {
            return Err(format!("{known} is there twice: expected it at most once"));
        }
    }
    Ok(values)
}

fn decoded(text: &str) -> Result<String, String> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    let decoded = decoded.map_err(|_| format!("{text:?} is not UTF-8: expected UTF-8"))?;
    Ok(decoded.into_owned())
}

/// Completes an error with the parameter that it is about.
fn wrong<E: ToString>(name: &str, value: &str) -> impl FnOnce(E) -> String {
    move |expected| format!("cannot use {name}={value:?}: {}", expected.to_string())
}

fn mode(name: &str) -> Result<Mode, &'static str> {
    let mode = Mode::ALL.into_iter().find(|mode| mode.name() == name);
    mode.ok_or("expected exchange, lockstep, echo or stamp")
}

fn interval(text: &str) -> Result<Duration, &'static str> {
    let [least, most] = INTERVALS;
    duration(text)
        .filter(|interval| (least..=most).contains(interval))
        .ok_or("expected 10 ms to 1 s, as seconds (0.25) or with a unit (250ms)")
}

fn host_port(text: &str, mode: Mode) -> Result<HostPort, String> {
    let port = if mode == Mode::Stamp { 862 } else { 9999 };
    let target = HostPort::parse_with_default(text, port).map_err(|error| error.to_string())?;
    if target.port() == 0 {
        return Err("port 0 is reserved; expected 1 to 65535".into());
    }
    if target.is_wildcard() {
        return Err(NOT_ONE_HOST.into());
    }
    Ok(target)
}
