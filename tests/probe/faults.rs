//! Faults in input from outside: metrics, addresses, sockets passed in, options.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::thread;

use serde_json::json as object;

use crate::harness::program;
use crate::reflectors::{Reflector, ended, joined, json, probe};

/// Serves the texts as metrics, one per connection.
fn serve(texts: [String; 2]) -> SocketAddr {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    thread::spawn(move || {
        for text in texts {
            let (mut stream, _) = server.accept().unwrap();
            assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
            let length = text.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}"
            )
            .unwrap();
        }
    });
    address
}

/// Returns the metrics of a daemon with these counters and start time.
fn metrics(received: u32, refused: u32, started: &str) -> String {
    let series = |name: &str, value: &str| {
        format!("{name} {{instance=\"10.0.0.1:9862\", job=\"udp echo\"}} {value} 1700000000000\n")
    };
    [
        series("udp_echo_datagrams_received_total", &received.to_string()),
        series("udp_echo_datagrams_echoed_total", "0"),
        series("udp_echo_datagrams_refused_total", &refused.to_string()),
        series("process_start_time_seconds", started),
    ]
    .concat()
}

const ARGS: &str = "--mode=echo --count=3 --interval=0.01 --wait=0.1";

#[test]
fn probe_reads_metrics_with_timestamps_and_added_labels() {
    let silent = Reflector::new(|_| vec![]);
    let http = serve([metrics(7, 2, "1.7e9"), metrics(10, 4, "1.7e9")]);
    let args = format!("{ARGS} --metrics-url=http://{http}/metrics");
    let (status, seen) = json(silent.address, &args);
    let expected = object!({"uplink": 0, "server_drops": 0, "server_refused": 2, "downlink": 0});
    assert_eq!((status, &seen["attribution"]), (1, &expected));
}

#[test]
fn probe_names_a_metric_that_is_not_a_number() {
    let silent = Reflector::new(|_| vec![]);
    let http = serve([metrics(7, 2, "1.7e9"), metrics(10, 4, "NaN")]);
    let url = format!("http://{http}/metrics");
    let args = format!("{ARGS} --metrics-url={url}");
    let (status, out, _) = ended(&mut probe(silent.address, &args));
    let cause = format!(
        "cannot read the metrics at {url}: the value of process_start_time_seconds is not a finite \
         number"
    );
    assert!(status == 1 && joined(&out).ends_with(&cause), "{out}");
}

#[test]
fn addresses_show_the_name_of_their_interface() {
    // Interface 1 is always lo. Some call fails, with or without IPv6, and shows the address.
    for (args, shown) in [
        (
            "--listen=[fe80::7%1]:9 --metrics-listen=none",
            "UDP [fe80::7%lo]:9",
        ),
        (
            "--listen=127.0.0.1:0 --metrics-listen=[fe80::7%1]:9",
            "TCP [fe80::7%lo]:9",
        ),
        ("probe [fe80::7%1]:9 --count=1 --wait=0.1", "[fe80::7%lo]:9"),
    ] {
        let (status, out, err) = ended(program().args(args.split(' ')));
        assert_eq!(status, 1, "{args}: {out}{err}");
        assert!(format!("{out}{err}").contains(shown), "{args}: {out}{err}");
    }
}

#[test]
fn unnamed_sockets_of_a_wrong_kind_are_not_called_echo() {
    for (names, said) in [
        ("", "without a name (FileDescriptorName=)"),
        (
            "LISTEN_FDNAMES=unknown",
            "without a name (FileDescriptorName=)",
        ),
        ("LISTEN_FDNAMES=echo", "as echo"),
    ] {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!(
            "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 {names} exec \"$0\""
        ));
        command
            .arg(program().get_program())
            .stdin(OwnedFd::from(socket));
        let (status, _, err) = ended(&mut command);
        let said = format!(
            "udp-echo: cannot use socket 3, passed in {said}: it is a TCP socket, not a UDP socket; \
             set ListenDatagram= in its socket unit\n"
        );
        assert_eq!((status, err), (1, said));
    }
}

#[test]
fn times_out_of_bounds_are_rejected_with_the_bounds() {
    for option in ["--interval", "--duration", "--wait"] {
        for time in ["367days", "0"] {
            let (status, _, err) = ended(&mut probe("h:1", &format!("{option}={time}")));
            assert_eq!(status, 2, "{err}");
            assert!(err.contains("more than 0 and at most 366 days"), "{err}");
        }
        let (status, _, err) = ended(&mut probe("no..name:1", &format!("{option}=366days")));
        assert!(status == 1 && err.contains("no..name"), "{err}");
    }
}
