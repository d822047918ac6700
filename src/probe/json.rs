//! Events and the summary as JSON objects.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::attribution::Attribution;
use super::event::{Event, Reply, RequestName};
use super::finished::{Finished, Losses};
use super::notes::Notes;
use super::report::Figures;
use super::rtt::RttSummary;
use super::tally::Tally;

/// Returns the objects of an event at `time` since 1970, one per line.
pub(super) fn lines(time: Duration, event: &Event<'_>) -> Vec<Value> {
    match event {
        // Each request of a run of lost ones has an object of its own.
        Event::Start | Event::LostRun { .. } => Vec::new(),
        Event::Reply(reply) if reply.is_duplicate => {
            vec![line("duplicate", time, members(reply))]
        }
        Event::Reply(reply) => vec![line("reply", time, members(reply))],
        Event::Lost { request, .. } => {
            let RequestName {
                sequence,
                source_port,
                ..
            } = request;
            let members = json!({"sequence": sequence, "source_port": source_port});
            vec![line("lost", time, members)]
        }
        Event::Error { error, .. } => {
            let members = json!({"kind": error.kind(), "from": error.from()});
            vec![line("error", time, members)]
        }
        Event::Report(figures) => vec![line("report", time, report(figures))],
        Event::Note(text) => vec![line("note", time, json!({"text": text}))],
        Event::Summary(finished) => {
            let notes = finished.findings().into_iter();
            notes
                .map(|finding| line("note", time, json!({"text": finding.sentence})))
                .chain([line("summary", time, summary(finished))])
                .collect()
        }
    }
}

fn line(event: &str, time: Duration, mut members: Value) -> Value {
    members["event"] = event.into();
    members["time"] = seconds(time).into();
    members
}

fn members(reply: &Reply) -> Value {
    json!({
        "sequence": reply.request.sequence,
        "source_port": reply.request.source_port,
        "bytes": reply.bytes,
        "rtt_seconds": seconds(reply.rtt),
        "ttl": reply.ttl,
    })
}

fn report(figures: &Figures) -> Value {
    json!({
        "from_seconds": seconds(figures.from),
        "to_seconds": seconds(figures.to),
        "sent": figures.sent,
        "received": figures.received,
        "lost": figures.lost,
        "in_flight": figures.in_flight,
        "loss_ratio": ratio(figures.lost, figures.received + figures.lost),
        "duplicates": figures.duplicates,
        "reordered": figures.reordered,
        "corrupted": figures.corrupted,
        "rtt_seconds": rtts(figures.rtts),
        "jitter_seconds": figures.jitter.map(seconds),
    })
}

/// Returns the object of `--json`.
pub(super) fn summary(finished: &Finished<'_>) -> Value {
    let Finished {
        config, outcome, ..
    } = finished;
    let tally = &outcome.tally;
    let totals = tally.totals();
    let notes = finished.findings().into_iter();
    let notes: Vec<_> = notes.map(|finding| finding.sentence).collect();
    let mut object = json!({
        "target": config.target.to_string(),
        "address": finished.address,
        "mode": config.mode.name(),
        "version": env!("CARGO_PKG_VERSION"),
        "started": humantime::format_rfc3339_millis(outcome.started).to_string(),
        "duration_seconds": seconds(outcome.time),
        "interval_seconds": seconds(config.frequency.time) / f64::from(config.frequency.count),
        "size": config.size,
        "flows": config.flows,
        "sent": totals.sent,
        "received": totals.received,
        "lost": totals.lost(),
        "loss_ratio": ratio(totals.lost(), totals.sent),
        "duplicates": totals.duplicates,
        "reordered": totals.reordered,
        "corrupted": totals.corrupted,
        "records_sent": outcome.notes.records_sent,
        "not_sent": outcome.missed.total(),
        "errors": errors(&outcome.notes),
        "rtt_seconds": rtts(outcome.round_trips.rtts.summary()),
        "jitter_seconds": outcome.round_trips.jitter.mean().map(seconds),
        "notes": notes,
    });
    if config.flows > 1 {
        object["per_flow"] = per_flow(tally, &outcome.ports);
    }
    if let Some(directions) = finished.directions() {
        directions.add_to(&mut object);
    }
    match finished.losses {
        None => {}
        Some(Losses::Located(attribution)) => object["attribution"] = places(attribution),
        Some(Losses::DaemonRestarted | Losses::Unknown(_)) => object["attribution"] = Value::Null,
    }
    object
}

/// Returns the errors, those of the same kind and sender in one object.
fn errors(notes: &Notes) -> Value {
    let mut errors: Vec<(&str, Option<IpAddr>, u64)> = Vec::new();
    for (error, count) in notes.errors.kinds() {
        let (kind, from) = (error.kind(), error.from());
        match errors
            .iter_mut()
            .find(|known| (known.0, known.1) == (kind, from))
        {
            Some((.., sum)) => *sum += count,
            None => errors.push((kind, from, count)),
        }
    }
    let other = notes.errors.other();
    if other > 0 {
        errors.push(("other", None, other));
    }
    let objects = errors.into_iter();
    objects
        .map(|(kind, from, count)| json!({"kind": kind, "from": from, "count": count}))
        .collect()
}

fn rtts(rtts: Option<RttSummary>) -> Value {
    let seconds = |time: fn(&RttSummary) -> Duration| rtts.as_ref().map(|rtts| seconds(time(rtts)));
    json!({
        "min": seconds(|rtts| rtts.min),
        "mean": seconds(|rtts| rtts.mean),
        "stddev": seconds(|rtts| rtts.stddev),
        "p50": seconds(|rtts| rtts.p50),
        "p90": seconds(|rtts| rtts.p90),
        "p99": seconds(|rtts| rtts.p99),
        "max": seconds(|rtts| rtts.max),
    })
}

fn per_flow(tally: &Tally, ports: &[u16]) -> Value {
    let flows = tally.flows().iter().zip(ports);
    flows
        .map(|(flow, port)| {
            let (sent, received) = (flow.sent, flow.received);
            json!({
                "source_port": port,
                "sent": sent,
                "received": received,
                "lost": sent - received,
            })
        })
        .collect()
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

/// Returns the part of the whole, 0 to 1, or `None` if the whole is 0.
#[expect(clippy::cast_precision_loss, reason = "a ratio")]
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
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
