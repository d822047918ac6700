//! stamp-suite as sender.

use serde_json::Value;

use super::{KEY, key_file, stamp_suite};
use crate::harness::tidy::Folder;
use crate::harness::{Daemon, run, wait_until};
use crate::namespace::Namespace;

const COUNT: u64 = 5;

/// Options of the sender, and the type of the TLV that they add.
const EXTENSIONS: [(&str, Option<u8>); 6] = [
    ("", None),
    ("--ssid=4660", None),
    ("--cos --dscp=46", Some(4)),
    ("--direct-measurement", Some(5)),
    ("--timestamp-info", Some(3)),
    ("--extra-padding=100", Some(1)),
];

#[test]
#[ignore = "needs root and stamp-suite; .ci/run runs it"]
fn stamp_suite_reports_no_loss_and_no_fault() {
    let host = Namespace::new();
    let folder = Folder::new();
    let key_file = key_file(&folder);
    for sequence in ["stateful", "stateless"] {
        for authenticated in [false, true] {
            let sequence = format!("--stamp-sequence={sequence}");
            let mut args = vec!["--mode=stamp", "--listen=[::]:862", &sequence];
            if authenticated {
                args.push(&key_file);
            }
            let daemon = host.daemon(&args);
            let run = Run {
                host: &host,
                daemon: &daemon,
                is_stateful: sequence.ends_with("stateful"),
                authenticated,
            };
            let mut echoed = 0;
            for address in ["127.0.0.1", "::1"] {
                for (options, tlv) in EXTENSIONS {
                    run.assert_is_flawless(address, options, tlv);
                    echoed += COUNT;
                    run.assert_echoed(echoed);
                }
            }
        }
    }
}

#[test]
#[ignore = "needs root and stamp-suite; .ci/run runs it"]
fn stamp_suite_with_another_key_gets_no_reply() {
    let host = Namespace::new();
    let folder = Folder::new();
    let key_file = key_file(&folder);
    let daemon = host.daemon(&["--mode=stamp", "--listen=127.0.0.1:862", &key_file]);
    let other = KEY.replace("00", "01");
    let report = send(&host, "127.0.0.1", "", Some(&other), "--timeout=1");
    assert_eq!(report["packets_received"], 0, "{report}");
    assert_eq!(report["packets_lost"], COUNT, "{report}");
    host.inside(|| {
        let refused = "datagrams_refused_total{reason=\"integrity\"}";
        daemon.wait_for_metric(refused, f64::from(u32::try_from(COUNT).unwrap()));
        daemon.assert_accounted_for();
    });
}

/// A daemon that stamp-suite sends to.
struct Run<'a> {
    host: &'a Namespace,
    daemon: &'a Daemon,
    is_stateful: bool,
    authenticated: bool,
}

impl Run<'_> {
    /// Sends some requests, and asserts that stamp-suite finds no fault in the replies.
    fn assert_is_flawless(&self, address: &str, options: &str, tlv: Option<u8>) {
        let key = self.authenticated.then_some(KEY);
        let report = send(self.host, address, options, key, "--timeout=60");
        let is = |path: &str, expected: u64| {
            let seen = report.pointer(path);
            assert_eq!(
                seen,
                Some(&expected.into()),
                "{path} of {options}: {report}"
            );
        };
        is("/packets_sent", COUNT);
        is("/packets_received", COUNT);
        is("/packets_lost", 0);
        for count in ["additional", "late", "duplicate", "unknown", "reordered"] {
            is(&format!("/measurements/{count}_replies"), 0);
        }
        is("/measurements/answered_probes", COUNT);
        is("/measurements/last_reflector_sequence", COUNT - 1);
        let tlvs = "/measurements/tlv_validation";
        for count in [
            "rejected_replies",
            "hmac/missing",
            "hmac/unverified",
            "hmac/failed",
            "flags/malformed",
            "flags/integrity_failed",
        ] {
            is(&format!("{tlvs}/{count}"), 0);
        }
        // Without a session there are no counts for Direct Measurement.
        let has_counts = tlv == Some(5) && self.is_stateful;
        let unrecognized = tlv == Some(5) && !self.is_stateful;
        is(
            &format!("{tlvs}/flags/unrecognized"),
            u64::from(unrecognized) * COUNT,
        );
        // stamp-suite signs TLVs, not a packet without them.
        let verified = tlv.is_some() && self.authenticated;
        is(
            &format!("{tlvs}/hmac/verified"),
            u64::from(verified) * COUNT,
        );
        if let Some(tlv) = tlv {
            is(&format!("{tlvs}/by_type/{tlv}/observed"), COUNT);
        }
        if has_counts {
            let counts = "/measurements/direct_measurement";
            is(&format!("{counts}/observations"), COUNT);
            for count in ["forward_missing", "reverse_missing", "discontinuities"] {
                is(&format!("{counts}/{count}"), 0);
            }
        }
    }

    /// Asserts that the daemon echoed all it received.
    fn assert_echoed(&self, echoed: u64) {
        let echoed = f64::from(u32::try_from(echoed).unwrap());
        self.host.inside(|| {
            self.daemon
                .wait_for_metric("datagrams_echoed_total", echoed);
            self.daemon
                .wait_for_metric("datagrams_received_total", echoed);
            self.daemon.wait_for_metric("datagrams_refused_total", 0.0);
            for fault in ["malformed", "integrity"] {
                let series = format!("stamp_tlv_faults_total{{fault=\"{fault}\"}}");
                self.daemon.wait_for_metric(&series, 0.0);
            }
            let sessions = if self.is_stateful { echoed } else { 0.0 };
            let per_session = f64::from(u32::try_from(COUNT).unwrap());
            let sessions = sessions / per_session;
            // Two runs can get the same source port: their session starts again.
            let counts = ["stamp_sessions", "stamp_sessions_reset_total"];
            wait_until("each run has a session", || {
                let all = counts.map(|count| self.daemon.metric(count));
                (all[0] + all[1] - sessions).abs() < 0.5
            });
        });
    }
}

/// Sends to port 862 of an address, from a new port. Returns the report.
fn send(host: &Namespace, address: &str, options: &str, key: Option<&str>, timeout: &str) -> Value {
    let mut command = host.command(stamp_suite().to_str().unwrap());
    command.args(["--remote-addr", address, "--local-addr", address]);
    command.args(["--output-format=json", "--send-delay=5", timeout]);
    command.arg(format!("--count={COUNT}"));
    if let Some(key) = key {
        command.args(["-AA", "--verify-tlv-hmac"]);
        command.env("STAMP_HMAC_KEY", key);
    }
    command.args(options.split_whitespace());
    let (status, out, err) = run(&mut command);
    assert!(status.success(), "{options}: {status} {out}{err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"))
}
