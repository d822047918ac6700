//! The text of the metrics, from given figures.

mod properties;

use std::collections::BTreeSet;
use std::sync::{LazyLock, Mutex};
use std::time::{Instant, SystemTime};

use super::*;
use crate::monitor::figures::{EngineFigures, FlowFigures};
use crate::reflect::Mode;

fn clocks() -> Clocks {
    #[expect(clippy::disallowed_methods, reason = "any time will do")]
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    Clocks {
        monotonic: *START,
        since_boot: Duration::ZERO,
        today: SystemTime::UNIX_EPOCH,
    }
}

fn text(targets: &[(&str, bool)], series: Vec<Series>, engine: EngineFigures) -> String {
    let targets: Vec<_> = targets
        .iter()
        .map(|(name, resolved)| ((*name).into(), *resolved))
        .collect();
    let snapshot = move || Snapshot {
        targets: targets.clone(),
        series: series.clone(),
        engine: engine.clone(),
        reload_succeeded: true,
    };
    let dropped = Arc::new(AtomicU64::new(12));
    let metrics = MonitorMetrics::new(Arc::new(snapshot), dropped, clocks(), clocks);
    metrics.unwrap().text().unwrap()
}

fn series(target: &str, address: &str, mode: Mode, flows: usize, figures: Figures) -> Series {
    Series {
        target: target.into(),
        address: address.into(),
        mode,
        flows,
        figures: Arc::new(Mutex::new(figures)),
        recent: Arc::default(),
    }
}

/// Figures that differ from one another.
fn figures(mode: Mode) -> Figures {
    let mut figures = Figures {
        sent: 10,
        received: 2,
        lost: 5,
        duplicates: 21,
        reordered: 22,
        corrupted: 23,
        reply_ttl: Some(61),
        last_reply: Duration::from_millis(1_700_000_000_250),
        flows: vec![
            FlowFigures { sent: 6, lost: 1 },
            FlowFigures { sent: 4, lost: 4 },
        ],
        ..Figures::new(mode)
    };
    figures.rtt.add(1_500_000);
    figures.rtt.add(20_000_000_000);
    figures.jitter.add(0);
    figures.send_errors.insert("EPERM", 31);
    figures.icmp_errors.insert("icmp_port_unreachable", 32);
    if let Some(stamp) = &mut figures.stamp {
        stamp.forward_delay.add(-5_000_000);
        stamp.backward_delay.add(70_000);
        stamp.forward_variation.add(-2_000_000_000);
        stamp.backward_variation.add(1_000_000_000);
        [stamp.forward_lost, stamp.backward_lost, stamp.unknown_lost] = [41, 42, 43];
    }
    figures
}

/// The samples of one metric without the prefix, and without the buckets that count no more than
/// the one before.
fn shown(text: &str, name: &str) -> Vec<String> {
    let mut last = String::new();
    let samples = text.lines().filter_map(|line| {
        let line = line.strip_prefix("udp_echo_monitor_")?;
        let rest = line.strip_prefix(name)?;
        let ends = ["{", " ", "_bucket{", "_sum", "_count"];
        ends.iter().any(|end| rest.starts_with(end)).then_some(line)
    });
    let samples = samples.filter(|line| {
        let Some((labels, bucket)) = line.split_once("le=\"") else {
            return true;
        };
        let count = bucket.split(' ').next_back();
        let before = std::mem::replace(&mut last, format!("{labels} {count:?}"));
        before != last || bucket.starts_with("+Inf")
    });
    samples.map(str::to_owned).collect()
}

#[test]
fn samples_of_an_address_have_its_labels() {
    let a = series("a", "192.0.2.1:7", Mode::Echo, 0, figures(Mode::Echo));
    let text = text(
        &[("a", true), ("b", false)],
        vec![a],
        EngineFigures::default(),
    );
    let labels = "target=\"a\",address=\"192.0.2.1:7\"";
    for (name, value) in [
        ("requests_sent_total", "10"),
        ("replies_received_total", "2"),
        ("requests_lost_total", "5"),
        ("requests_in_flight", "3"),
        ("duplicates_total", "21"),
        ("reordered_total", "22"),
        ("corrupted_total", "23"),
        ("reply_ttl", "61"),
        ("last_reply_timestamp_seconds", "1700000000.25"),
    ] {
        assert_eq!(shown(&text, name), [format!("{name}{{{labels}}} {value}")]);
    }
    for (name, label, count, known) in [
        ("send_errors_total", "error=\"EPERM\"", 31, 17),
        ("icmp_errors_total", "kind=\"icmp_port_unreachable\"", 32, 7),
    ] {
        let lines = shown(&text, name);
        let wanted = format!("{name}{{{labels},{label}}} {count}");
        assert!(lines.contains(&wanted), "{lines:?}");
        let zeros = lines.iter().filter(|line| line.ends_with(" 0"));
        assert_eq!([lines.len(), zeros.count()], [known, known - 1]);
    }
    assert_eq!(
        shown(&text, "rtt_seconds"),
        [
            format!("rtt_seconds_bucket{{{labels},le=\"0.00005\"}} 0"),
            format!("rtt_seconds_bucket{{{labels},le=\"0.002\"}} 1"),
            format!("rtt_seconds_bucket{{{labels},le=\"+Inf\"}} 2"),
            format!("rtt_seconds_sum{{{labels}}} 20.0015"),
            format!("rtt_seconds_count{{{labels}}} 2"),
        ]
    );
    assert_eq!(
        shown(&text, "jitter_seconds"),
        [
            format!("jitter_seconds_bucket{{{labels},le=\"0.00005\"}} 1"),
            format!("jitter_seconds_bucket{{{labels},le=\"+Inf\"}} 1"),
            format!("jitter_seconds_sum{{{labels}}} 0"),
            format!("jitter_seconds_count{{{labels}}} 1"),
        ]
    );
    assert_eq!(
        shown(&text, "target_info"),
        [format!("target_info{{{labels},mode=\"echo\"}} 1")]
    );
    assert_eq!(
        shown(&text, "target_resolved"),
        [
            "target_resolved{target=\"a\"} 1",
            "target_resolved{target=\"b\"} 0"
        ]
    );
    for absent in ["flow_requests", "direction", "one_way", "variation"] {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        assert_eq!(samples.filter(|line| line.contains(absent)).count(), 0);
    }
}

#[test]
fn samples_before_the_first_reply_are_all_0() {
    let a = series("a", "b", Mode::Stamp, 0, Figures::new(Mode::Stamp));
    let text = text(&[], vec![a], EngineFigures::default());
    assert!(shown(&text, "reply_ttl").is_empty(), "{text}");
    let own = text.lines().filter(|line| line.contains("target=\"a\""));
    let other = own.filter(|line| !line.ends_with(" 0"));
    let info = "udp_echo_monitor_target_info{target=\"a\",address=\"b\",mode=\"stamp\"} 1";
    assert_eq!(other.collect::<Vec<_>>(), [info]);
}

#[test]
fn flows_have_samples_with_per_flow_only() {
    let all = [2, 1, 0].map(|flows| {
        let name = flows.to_string();
        series(&name, "x", Mode::Echo, flows, figures(Mode::Echo))
    });
    let text = text(&[], all.into(), EngineFigures::default());
    for (name, counts) in [("sent", [6, 4]), ("lost", [1, 4])] {
        let name = format!("flow_requests_{name}_total");
        // A target had two flows before a reload, and has one now.
        let wanted = [(2, 0), (2, 1), (1, 0)].map(|(flows, flow)| {
            let labels = format!("target=\"{flows}\",address=\"x\",flow=\"{flow}\"");
            format!("{name}{{{labels}}} {}", counts[flow])
        });
        assert_eq!(shown(&text, &name), wanted);
    }
}

#[test]
fn directions_have_samples_in_stamp_mode() {
    let a = series("a", "x", Mode::Stamp, 0, figures(Mode::Stamp));
    let text = text(&[], vec![a], EngineFigures::default());
    let [forward, backward, unknown] = ["forward", "backward", "unknown"]
        .map(|direction| format!("target=\"a\",address=\"x\",direction=\"{direction}\""));
    assert_eq!(
        shown(&text, "lost_by_direction_total"),
        [
            format!("lost_by_direction_total{{{forward}}} 41"),
            format!("lost_by_direction_total{{{backward}}} 42"),
            format!("lost_by_direction_total{{{unknown}}} 43"),
        ]
    );
    for (name, [first, second], sums) in [
        ("one_way_delay_seconds", ["0", "0.0001"], [-0.005, 0.00007]),
        ("delay_variation_seconds", ["-1", "1"], [-2.0, 1.0]),
    ] {
        let lines = shown(&text, name);
        for (labels, bound, sum) in [(&forward, first, sums[0]), (&backward, second, sums[1])] {
            for line in [
                format!("{name}_bucket{{{labels},le=\"{bound}\"}} 1"),
                format!("{name}_bucket{{{labels},le=\"+Inf\"}} 1"),
                format!("{name}_sum{{{labels}}} {sum}"),
                format!("{name}_count{{{labels}}} 1"),
            ] {
                assert!(lines.contains(&line), "{line} in {lines:#?}");
            }
        }
    }
}

#[test]
fn figures_of_the_monitor_have_no_target() {
    let mut engine = EngineFigures {
        socket_drops: 5,
        not_sent: 6,
        ..EngineFigures::default()
    };
    engine.schedule_delay.add(60_000);
    let text = text(&[], Vec::new(), engine);
    for (name, lines) in [
        ("socket_drops_total", &["socket_drops_total 5"][..]),
        ("requests_not_sent_total", &["requests_not_sent_total 6"]),
        ("config_reload_success", &["config_reload_success 1"]),
        ("log_lines_dropped_total", &["log_lines_dropped_total 12"]),
        (
            "schedule_delay_seconds",
            &[
                "schedule_delay_seconds_bucket{le=\"0.00005\"} 0",
                "schedule_delay_seconds_bucket{le=\"0.0001\"} 1",
                "schedule_delay_seconds_bucket{le=\"+Inf\"} 1",
                "schedule_delay_seconds_sum 0.00006",
                "schedule_delay_seconds_count 1",
            ],
        ),
    ] {
        assert_eq!(shown(&text, name), lines);
    }
    let build = shown(&text, "build_info");
    let version = format!("build_info{{version=\"{}\",", env!("CARGO_PKG_VERSION"));
    assert!(
        build.len() == 1 && build[0].starts_with(&version),
        "{build:?}"
    );
    assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
}

#[test]
fn each_metric_is_declared_once_with_a_sentence() {
    let text = text(&[], Vec::new(), EngineFigures::default());
    let heads = text.lines().filter_map(|line| line.strip_prefix("# HELP "));
    let mut names = BTreeSet::new();
    for head in heads {
        let (name, help) = head.split_once(' ').unwrap();
        assert!(names.insert(name), "{name}");
        assert!(help.starts_with(char::is_uppercase), "{head}");
        assert!(
            help.ends_with('.') && !help.contains(['\\', '\n']),
            "{head}"
        );
    }
    for family in catalogue::FAMILIES {
        assert!(
            family.name.starts_with("udp_echo_monitor_"),
            "{}",
            family.name
        );
        let is_total = family.name.ends_with("_total");
        assert_eq!(is_total, family.kind == "counter", "{}", family.name);
    }
    assert!(names.len() > catalogue::FAMILIES.len(), "{names:?}");
}
