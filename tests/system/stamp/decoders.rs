//! tshark and scapy decode the replies.

use std::process::Command;

use serde_json::{Value, json};

use super::{KEY, kept, key, key_file};
use crate::harness::stamp::{Fields, OPEN, SIGNED, T1, number, open, short, signed, tlv};
use crate::harness::tidy::Folder;
use crate::harness::{receive, run, shell};
use crate::namespace::Namespace;

/// The script that decodes packets by scapy.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/system/stamp/decode.py");

/// Type 11, which no reflector here knows.
const UNKNOWN: u8 = 11;

#[test]
#[ignore = "needs root and tshark; .ci/run runs it"]
fn tshark_decodes_every_field_of_stamp_replies() {
    let padded = [open(7, 0x1234), vec![0; 56]].concat();
    let requests = [open(5, 0x1234), padded, open(6, 0)];
    let replies = replies(&requests, &["--stamp-clock=1ms"]);
    let lines = tshark(&replies);
    assert_eq!(lines.len(), requests.len());
    for ((request, reply), line) in requests.iter().zip(&replies).zip(lines) {
        let time = |at: usize| shown_time(bits(reply, at));
        let number = |at| number(reply, at).to_string();
        let expected = [
            // The first and the second session have their first reply, then the second.
            number(0),
            time(OPEN.t3),
            // 1 ms: 132 · 2^(15 - 32) s.
            0x8f84.to_string(),
            "1,0".into(),
            "0,0".into(),
            "15,63".into(),
            "132,255".into(),
            short(request, OPEN.ssid).to_string(),
            time(OPEN.t2),
            number_of(request),
            "Nov 26, 2026 05:30:00.344345792 UTC".into(),
            0x3fff.to_string(),
            "0".into(),
            "64".into(),
            hex(&[&[0; 3], &request[OPEN.size..]].concat()),
        ];
        assert_eq!(line, expected);
    }
    let numbers = [0, 1, 2].map(|index| number(&replies[index], 0));
    assert_eq!(numbers, [0, 1, 0]);
}

#[test]
#[ignore = "needs root and scapy; .ci/run runs it"]
fn scapy_decodes_every_field_and_tlv_of_replies() {
    let tlvs = [
        tlv(3, &[0; 4]),
        tlv(4, &[46 << 2, 0, 0, 0]),
        tlv(5, &[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0]),
        tlv(UNKNOWN, b"what"),
        tlv(1, &[0xa5; 20]),
        // Of a wrong length: the rest is no TLV.
        tlv(4, &[7; 5]),
    ];
    let answered = json!([
        [0, 3, 4, "01020102"],
        // DSCP 46 is not allowed: RP is 1.
        [0, 4, 4, "b8010000"],
        [0, 5, 12, "000000090000000100000000"],
        [0x80, UNKNOWN, 4, "77686174"],
        [0, 1, 20, "a5".repeat(20)],
        [0x40, 4, 5, "0707070707"],
    ]);
    let requests = [
        open(5, 0x1234),
        [open(0, 7), tlvs.concat()].concat(),
        open(u32::MAX, 0),
    ];
    let replies = replies(&requests, &["--stamp-clock=1ms"]);
    let decoded = scapy(&replies, "open");
    for (index, tlvs) in [json!([]), answered, json!([])].into_iter().enumerate() {
        let expected = fields(&OPEN, &requests[index], &replies[index], 0, &tlvs);
        assert_eq!(decoded[index], expected);
    }
}

#[test]
#[ignore = "needs root and scapy; .ci/run runs it"]
fn scapy_decodes_and_verifies_authenticated_replies() {
    let folder = Folder::new();
    let key_file = key_file(&folder);
    let tlvs = [tlv(3, &[0; 4]), tlv(5, &[0; 12])].concat();
    let hmac = key().sign(&[&9_u32.to_be_bytes(), &tlvs]);
    let with_tlvs = [
        signed(&key(), 9, 0x1234),
        tlvs.clone(),
        tlv(8, &hmac),
        tlv(1, &[0xa5; 4]),
    ];
    let requests = [
        signed(&key(), 4, 0),
        with_tlvs.concat(),
        signed(&key(), 5, 0),
    ];
    let replies = replies(&requests, &["--stamp-clock=1ms", &key_file]);
    let decoded = scapy(&replies, "authenticated");
    let answered = [
        &[0, 3, 0, 4, 1, 2, 1, 2],
        &[0, 5, 0, 12, 0, 0, 0, 0][..],
        &[0, 0, 0, 1, 0, 0, 0, 0],
    ];
    let hmac = key().sign(&[&0_u32.to_be_bytes(), &answered.concat()]);
    let tlvs = json!([
        [0, 3, 4, "01020102"],
        [0, 5, 12, "000000000000000100000000"],
        [0, 8, 16, hex(&hmac)],
        [0, 1, 4, "a5a5a5a5"],
    ]);
    for (index, sequence, tlvs) in [(0, 0, json!([])), (1, 0, tlvs), (2, 1, json!([]))] {
        let mut expected = fields(&SIGNED, &requests[index], &replies[index], sequence, &tlvs);
        expected["is_authentic"] = true.into();
        assert_eq!(decoded[index], expected);
    }
}

/// The replies of a daemon to requests from one port, with TTL 64.
fn replies(requests: &[Vec<u8>], args: &[&str]) -> Vec<Vec<u8>> {
    let host = Namespace::new();
    let daemon = host.daemon(&[&["--mode=stamp", "--listen=127.0.0.1:862"], args].concat());
    let peer = host.client("127.0.0.1:0", daemon.address());
    peer.set_ttl(64).unwrap();
    let ask = |request: &Vec<u8>| {
        peer.send(request).unwrap();
        receive(&peer)
    };
    requests.iter().map(ask).collect()
}

/// The fields of tshark for each packet, in the order of the packet.
fn tshark(packets: &[Vec<u8>]) -> Vec<Vec<String>> {
    const FIELDS: &str = "seq_number timestamp error_estimate error_estimate.s error_estimate.z \
        error_estimate.scale error_estimate.multiplier mbz1 receive_timestamp sender_seq_number \
        sender_timestamp sender_error_estimate mbz2 sender_ttl padding";
    let line = |packet: &Vec<u8>| format!("000000 {}\n", digits(packet).join(" "));
    let dump: Vec<_> = packets.iter().map(line).collect();
    let fields: Vec<_> = FIELDS
        .split_whitespace()
        .map(|name| format!(" -e twamp.test.{name}"))
        .collect();
    let fields = fields.concat();
    let script = format!(
        "printf %s \"$0\" | text2pcap -q -4 10.77.0.1,10.77.0.2 -u 862,5000 - - | \
         TZ=UTC tshark -r - -d udp.port==862,twamp.test -T fields -E 'separator=;'{fields}"
    );
    let (status, out, err) = run(shell(&script).arg(dump.concat()));
    assert!(status.success() && !out.is_empty(), "{status}: {out}{err}");
    // Newer versions write booleans as words.
    let out = out.replace("True", "1").replace("False", "0");
    out.lines()
        .map(|line| line.split(';').map(str::to_owned).collect())
        .collect()
}

/// An NTP timestamp in the form of tshark. Computed as tshark does, so that it is rounded equally.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "less than 10^9"
)]
fn shown_time(bits: u64) -> String {
    const MONTHS: &str = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec";
    let seconds = (bits >> 32) - 2_208_988_800;
    let fraction = u32::try_from(bits & 0xffff_ffff).unwrap();
    let nanoseconds = (1e9 * (f64::from(fraction) / 2_f64.powi(32))) as u32;
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(seconds, nanoseconds);
    let time = humantime::format_rfc3339_nanos(time).to_string();
    let (date, time) = time.split_once('T').unwrap();
    let [year, month, day] = date.split('-').collect::<Vec<_>>()[..] else {
        panic!("{date}");
    };
    let month = MONTHS.split(' ').nth(month.parse::<usize>().unwrap() - 1);
    let day = day.trim_start_matches('0');
    let time = time.trim_end_matches('Z');
    format!("{} {day:>2}, {year} {time} UTC", month.unwrap())
}

/// The fields of each packet as scapy decodes them. It has the types of all fields, but no layer of
/// authenticated packets.
fn scapy(packets: &[Vec<u8>], kind: &str) -> Vec<Value> {
    let python = kept(
        "scapy-2.8.0/bin/python",
        "python3 -m venv /var/cache/udp-echo-test/scapy-2.8.0 && \
         /var/cache/udp-echo-test/scapy-2.8.0/bin/pip install scapy==2.8.0",
    );
    let mut command = Command::new(python);
    command.args([SCRIPT, kind, KEY]);
    let (status, out, err) = run(command.args(packets.iter().map(|packet| hex(packet))));
    assert!(status.success(), "{status}: {out}{err}");
    let lines = out.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The fields that scapy must find in a reply with this sequence number and these TLVs.
fn fields(at: &Fields, request: &[u8], reply: &[u8], sequence: u32, tlvs: &Value) -> Value {
    let mbz = if at.size == OPEN.size { 2 } else { 6 };
    json!({
        "seq": sequence,
        "ts": bits(reply, at.t3),
        "err": [1, 0, 15, 132],
        "ssid": short(request, at.ssid),
        "ts_rx": bits(reply, at.t2),
        "seq_sender": number(request, 0),
        "ts_sender": T1,
        "err_sender": [0, 0, 63, 255],
        "ttl_sender": 64,
        "mbz": vec![0; mbz],
        "tlvs": tlvs,
    })
}

fn number_of(request: &[u8]) -> String {
    number(request, 0).to_string()
}

fn bits(packet: &[u8], at: usize) -> u64 {
    u64::from(number(packet, at)) << 32 | u64::from(number(packet, at + 4))
}

fn hex(bytes: &[u8]) -> String {
    digits(bytes).concat()
}

fn digits(bytes: &[u8]) -> Vec<String> {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
