//! The summary, for programs.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use super::prober::Outcome;
use super::summary::Where;
use crate::address::HostPort;

/// One object.
pub fn object(target: &HostPort, outcome: &Outcome, whereabouts: Option<&Where>) -> String {
    let totals = outcome.tally.totals();
    let rtts = outcome.tally.rtts().summary();
    let seconds = |time: Option<Duration>| match time {
        Some(time) => format!("{:.9}", time.as_secs_f64()),
        None => "null".into(),
    };
    let mut members = Members::default();
    members.add("target", quoted(&target.to_string()));
    members.add("sent", totals.sent);
    members.add("received", totals.received);
    members.add("lost", totals.lost());
    // As a fraction also where it is a whole number.
    members.add("loss_ratio", format_args!("{:?}", totals.loss_ratio()));
    members.add("duplicates", totals.duplicates);
    members.add("reordered", totals.reordered);
    members.add("corrupted", totals.corrupted);
    members.add("records_sent", outcome.notes.records_sent);
    let mut times = Members::default();
    times.add("min", seconds(rtts.map(|rtts| rtts.min)));
    times.add("mean", seconds(rtts.map(|rtts| rtts.mean)));
    times.add("stddev", seconds(rtts.map(|rtts| rtts.stddev)));
    times.add("p50", seconds(rtts.map(|rtts| rtts.p50)));
    times.add("p90", seconds(rtts.map(|rtts| rtts.p90)));
    times.add("p99", seconds(rtts.map(|rtts| rtts.p99)));
    times.add("max", seconds(rtts.map(|rtts| rtts.max)));
    members.add("rtt_seconds", times.object());
    match whereabouts {
        None => {}
        Some(Where::Known(attribution)) => {
            let mut places = Members::default();
            places.add("uplink", attribution.uplink);
            places.add("server_drops", attribution.server_drops);
            places.add("server_refused", attribution.server_refused);
            places.add("downlink", attribution.downlink);
            if attribution.of_others > 0 {
                places.add("of_others", attribution.of_others);
            }
            members.add("attribution", places.object());
        }
        Some(Where::StartedAnew | Where::Unknown(_)) => members.add("attribution", "null"),
    }
    members.object()
}

/// The members of an object, in order.
#[derive(Default)]
struct Members(String);

impl Members {
    fn add(&mut self, name: &str, value: impl Display) {
        let comma = if self.0.is_empty() { "" } else { ", " };
        let _ = write!(self.0, "{comma}\"{name}\": {value}");
    }

    fn object(&self) -> String {
        format!("{{{}}}", self.0)
    }
}

/// A string of JSON.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(character));
            }
            _ => quoted.push(character),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted() {
        assert_eq!(quoted("a\"b\\c\n:ü"), r#""a\"b\\c\u000a:ü""#);
    }
}
