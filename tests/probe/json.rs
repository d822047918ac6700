//! The output for programs: one JSON object, or an object per event.

use std::net::Ipv4Addr;

use serde_json::{Value, json as expected};

use crate::harness::calm::undisturbed;
use crate::harness::{Daemon, unreachable};
use crate::reflectors::{LONG, Reflector, ended, joined, json, probe, sequence};

pub const RTTS: [&str; 7] = ["max", "mean", "min", "p50", "p90", "p99", "stddev"];

pub fn names(value: &Value) -> String {
    let members = value.as_object().unwrap();
    members.keys().cloned().collect::<Vec<_>>().join(" ")
}

#[test]
fn json_object_has_exactly_the_promised_members() {
    let daemon = Daemon::start(&[]);
    let metrics = format!("--metrics-url=http://{}/metrics", daemon.http.unwrap());
    let all = "address attribution corrupted duplicates duration_seconds errors flows \
               interval_seconds jitter_seconds loss_ratio lost mode not_sent notes per_flow \
               received records_sent reordered rtt_seconds sent size started target version";
    let args = format!("--count=6 --rate=100 --flows=2 {metrics} {LONG}");
    // A machine that stalls does not send all requests.
    let run = || json(daemon.address(), &args).1;
    let seen = undisturbed(run, |seen| seen["not_sent"] == 0);
    assert_eq!(names(&seen), all);
    assert_eq!(names(&seen["rtt_seconds"]), RTTS.join(" "));
    let nowhere = expected!({"uplink": 0, "server_drops": 0, "server_refused": 0, "downlink": 0});
    assert_eq!(seen["attribution"], nowhere);
    let rtts = RTTS.map(|name| seen["rtt_seconds"][name].as_f64().unwrap());
    assert!(rtts.iter().all(|rtt| *rtt >= 0.0), "{seen}");
    let local = daemon.address().to_string();
    for (name, value) in [
        ("target", expected!(local)),
        ("address", expected!(local)),
        ("mode", "exchange".into()),
        ("version", env!("CARGO_PKG_VERSION").into()),
        ("interval_seconds", 0.01.into()),
        ("size", 64.into()),
        ("flows", 2.into()),
        ("loss_ratio", 0.0.into()),
        ("not_sent", 0.into()),
        ("errors", expected!([])),
        ("notes", expected!([])),
    ] {
        assert_eq!(seen[name], value, "{name}: {seen}");
    }
    // 2026-11-26T14:13:50.123Z (RFC 3339)
    let started = seen["started"].as_str().unwrap();
    let shape: String = started
        .chars()
        .map(|c| if c.is_ascii_digit() { '9' } else { c })
        .collect();
    assert_eq!(shape, "9999-99-99T99:99:99.999Z");
    assert!(seen["duration_seconds"].as_f64().unwrap() > 0.05, "{seen}");
    for flow in seen["per_flow"].as_array().unwrap() {
        assert_eq!(names(flow), "lost received sent source_port");
        assert_eq!((&flow["sent"], &flow["lost"]), (&3.into(), &0.into()));
    }
}

#[test]
fn unknown_figures_are_null_and_never_left_out() {
    // Without a reply the times are null, with one reply only the jitter is.
    let silent = Reflector::new(|_| vec![]);
    let (status, seen) = json(silent.address, "--count=2 --interval=0.01 --wait=0.1");
    assert_eq!((status, &seen["loss_ratio"]), (1, &1.0.into()));
    assert!(RTTS.iter().all(|name| seen["rtt_seconds"][name].is_null()));
    assert_eq!(names(&seen["rtt_seconds"]), RTTS.join(" "));
    assert_eq!(seen.get("jitter_seconds"), Some(&Value::Null));
    // These have no value without their options.
    assert_eq!(
        (seen.get("per_flow"), seen.get("attribution")),
        (None, None)
    );
    let one = Reflector::new(|request| match sequence(request) {
        1 => vec![request.to_vec()],
        _ => vec![],
    });
    let (_, seen) = json(one.address, "--mode=echo --count=1");
    assert!(seen["rtt_seconds"]["max"].is_number() && seen["jitter_seconds"].is_null());
}

#[test]
fn jitter_is_the_mean_difference_of_consecutive_replies() {
    let reflector = Reflector::new(|request| vec![request.to_vec()]);
    let (_, seen) = json(
        reflector.address,
        &format!("--mode=echo --count=3 -i 0.01 {LONG}"),
    );
    let [min, max] = ["min", "max"].map(|name| seen["rtt_seconds"][name].as_f64().unwrap());
    let jitter = seen["jitter_seconds"].as_f64().unwrap();
    // Two differences among three times: each is at most the range, and their sum is at least it.
    assert!(jitter <= (max - min) * 1.001 + 1e-9, "{seen}");
    assert!(jitter >= (max - min) * 0.499 - 1e-9, "{seen}");
    let args = format!("--mode=echo --count=3 --interval=0.01 --quiet {LONG}");
    let (_, out, _) = ended(&mut probe(reflector.address, &args));
    let shown = out.split_once(", jitter ").map(|(_, rest)| rest.trim_end());
    assert!(
        shown.is_some_and(|shown| shown.parse::<f64>().is_ok()),
        "{out}"
    );
}

#[test]
fn json_has_every_sentence_of_the_text() {
    let (_kept, target) = unreachable(Ipv4Addr::LOCALHOST.into());
    let (status, seen) = json(target, "--count=5 --interval=0.01");
    let errors = expected!([{"kind": "icmp_port_unreachable", "from": "127.0.0.1", "count": 5}]);
    assert_eq!((status, &seen["errors"]), (1, &errors));
    let sentence = "5 requests: the port is closed (ICMP port unreachable from 127.0.0.1)";
    assert_eq!(seen["notes"], expected!([sentence]));

    // Requests not sent, flows that lose, and datagrams that are not replies.
    let reflector = Reflector::new(|request| {
        let is_lost = request.len() == 64 && sequence(request).is_multiple_of(2);
        let reply = (!is_lost).then(|| request.to_vec());
        reply.into_iter().chain([b"hello".to_vec()]).collect()
    });
    let args = "--flows=2 --rate=50 --count=40 --mode=echo --wait=0.3";
    let run = || json(reflector.address, args).1;
    let flows = expected!("some flows lose requests, others do not");
    let is_right = |seen: &Value| seen["per_flow"][1]["lost"] == 20;
    let seen = undisturbed(run, is_right);
    assert!(is_right(&seen), "{seen}");
    let notes = seen["notes"].as_array().unwrap();
    assert!(notes.contains(&flows), "{seen}");
    assert!(
        notes.contains(&"datagrams that are not replies: 40".into()),
        "{seen}"
    );
    let (_, out, _) = ended(probe(reflector.address, args).arg("--quiet"));
    for note in [
        flows.as_str().unwrap(),
        "datagrams that are not replies: 40",
    ] {
        assert!(joined(&out).contains(note), "{note} {out}");
    }
    let silent = Reflector::new(|_| vec![]);
    let args = "--rate=1000 --duration=0.2 --wait=0.4";
    let (_, seen) = json(silent.address, args);
    assert!(seen["not_sent"].as_u64() > Some(0), "{seen}");
    let sentence = "requests due but not sent: ";
    let mut notes = seen["notes"].as_array().unwrap().iter();
    assert!(
        notes.any(|note| note.as_str().unwrap().starts_with(sentence)),
        "{seen}"
    );
}

/// Runs a client with `--json-lines`. Returns the objects.
fn lines(target: impl std::fmt::Display, args: &str) -> Vec<Value> {
    let (_, out, err) = ended(probe(target, args).arg("--json-lines"));
    assert_eq!(err, "");
    let parse = |line| serde_json::from_str(line).unwrap();
    out.lines().map(parse).collect()
}

#[test]
fn json_lines_have_one_object_per_event() {
    let reflector = Reflector::new(|request| match sequence(request) {
        2 | 3 => vec![],
        4 => vec![request.to_vec(), request.to_vec()],
        _ => vec![request.to_vec()],
    });
    let args = "--mode=echo --count=5 --interval=0.05 --wait=0.5 --report=0.1 --flows=2";
    let run = || lines(reflector.address, args);
    let events = |all: &[Value], event: &str| -> Vec<Value> {
        let these = all.iter().filter(|object| object["event"] == event);
        these.cloned().collect()
    };
    let is_right =
        |all: &Vec<Value>| events(all, "reply").len() == 3 && events(all, "lost").len() == 2;
    let all = undisturbed(run, is_right);
    assert!(is_right(&all), "{all:#?}");
    let of = |event: &str| events(&all, event);
    assert_eq!(of("duplicate").len(), 1, "{all:#?}");
    assert!(of("report").len() > 1, "{all:#?}");
    for object in &all {
        assert!(object["time"].as_f64().unwrap() > 1e9, "{object}");
    }
    for reply in [of("reply"), of("duplicate")].concat() {
        let members = "bytes event rtt_seconds sequence source_port time ttl";
        assert_eq!(names(&reply), members);
        assert_eq!(reply["bytes"], 64);
        assert!(
            reply["ttl"].as_u64() > Some(0) && reply["rtt_seconds"].is_number(),
            "{reply}"
        );
    }
    for (lost, number) in of("lost").iter().zip([2, 3]) {
        assert_eq!(names(lost), "event sequence source_port time");
        assert_eq!(lost["sequence"], number);
    }
    // The last object is that of --json.
    let summary = all.last().unwrap();
    let (_, object) = json(
        reflector.address,
        "--mode=echo --count=5 --flows=2 --interval=0.01",
    );
    let members = format!("event time {}", names(&object));
    let mut members: Vec<_> = members.split(' ').collect();
    members.sort_unstable();
    assert_eq!(names(summary), members.join(" "));
    assert_eq!(
        (&summary["event"], &summary["lost"]),
        (&"summary".into(), &2.into())
    );
    let ports: Vec<_> = summary["per_flow"].as_array().unwrap().iter().collect();
    assert_eq!(of("lost")[0]["source_port"], ports[1]["source_port"]);
    let reports = of("report");
    let sum: u64 = reports
        .iter()
        .map(|report| report["sent"].as_u64().unwrap())
        .sum();
    assert_eq!(sum, 5, "{reports:#?}");
}

#[test]
fn json_lines_have_errors_and_notes() {
    let (_kept, target) = unreachable(Ipv4Addr::LOCALHOST.into());
    let all = lines(target, "--count=3 --interval=0.01");
    let events: Vec<_> = all
        .iter()
        .map(|object| object["event"].as_str().unwrap())
        .collect();
    // A machine that stalls adds a note about requests that were not sent.
    assert_eq!(events[..4], ["error", "error", "error", "note"]);
    assert!(
        events[4..events.len() - 1]
            .iter()
            .all(|event| *event == "note")
    );
    assert_eq!(events[events.len() - 1], "summary");
    for error in &all[..3] {
        assert_eq!(names(error), "event from kind time");
        assert_eq!(error["kind"], "icmp_port_unreachable");
        assert_eq!(error["from"], "127.0.0.1");
    }
    assert_eq!(all[3]["text"], all[all.len() - 1]["notes"][0]);
}
