//! The summary as a JSON object.

use std::time::Duration;

use serde_json::{Value, json};

use super::attribution::Attribution;
use super::prober::Outcome;
use super::summary::Losses;
use crate::address::HostPort;

/// Returns the object of `--json`.
pub(super) fn object(target: &HostPort, outcome: &Outcome, losses: Option<&Losses>) -> Value {
    let totals = outcome.tally.totals();
    let rtts = outcome.tally.rtts().summary();
    let mut object = json!({
        "target": target.to_string(),
        "sent": totals.sent,
        "received": totals.received,
        "lost": totals.lost(),
        "loss_ratio": totals.loss_ratio(),
        "duplicates": totals.duplicates,
        "reordered": totals.reordered,
        "corrupted": totals.corrupted,
        "records_sent": outcome.notes.records_sent,
        "rtt_seconds": {
            "min": rtts.map(|rtts| seconds(rtts.min)),
            "mean": rtts.map(|rtts| seconds(rtts.mean)),
            "stddev": rtts.map(|rtts| seconds(rtts.stddev)),
            "p50": rtts.map(|rtts| seconds(rtts.p50)),
            "p90": rtts.map(|rtts| seconds(rtts.p90)),
            "p99": rtts.map(|rtts| seconds(rtts.p99)),
            "max": rtts.map(|rtts| seconds(rtts.max)),
        },
    });
    match losses {
        None => {}
        Some(Losses::Located(attribution)) => object["attribution"] = places(attribution),
        Some(Losses::DaemonRestarted | Losses::Unknown(_)) => object["attribution"] = Value::Null,
    }
    object
}

fn places(attribution: &Attribution) -> Value {
    let mut places = json!({
        "uplink": attribution.uplink,
        "server_drops": attribution.server_drops,
        "server_refused": attribution.server_refused,
        "downlink": attribution.downlink,
    });
    if attribution.of_others > 0 {
        places["of_others"] = attribution.of_others.into();
    }
    places
}

/// Returns seconds that print with at most nine decimals. `as_secs_f64` rounds twice.
fn seconds(time: Duration) -> f64 {
    time.div_duration_f64(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_print_with_at_most_nine_decimals() {
        for nanoseconds in (0..5_000_000_000).step_by(999_983) {
            let time = Duration::from_nanos(nanoseconds);
            let printed: f64 = format!("{:.9}", time.as_secs_f64()).parse().unwrap();
            assert_eq!(json!(seconds(time)), json!(printed), "{time:?}");
        }
    }
}
