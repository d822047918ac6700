//! Numbers in texts: status codes, ranges, limits.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::num::NonZeroU32;
use std::time::Instant;

use nix::sys::signal::Signal;
use udp_echo::record::Record;
use udp_echo::reflect::stamp::OPEN_BYTES;
use udp_echo::reflect::{BUCKETS, LEAK, Limits, Rate};
use udp_echo::udp::BufferSize;

use crate::harness::held::Held;
use crate::harness::{Daemon, program, readme, run, wait_until};
use crate::skip;

#[test]
fn exit_statuses_are_those_of_readme_and_manual() {
    let daemon = Daemon::start(&[]);
    daemon.signal(Signal::SIGTERM);
    let asked = daemon.stop();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = format!("--listen={}", taken.local_addr().unwrap());
    let failed = run(program().args([&listen, "--metrics-listen=none"])).0;
    let wrong = run(program().arg("--no-such-option")).0;
    let statuses = [asked, failed, wrong].map(|status| status.code().unwrap());
    let text = readme::text();
    let own = text.split("Exit status: ").nth(1).unwrap();
    let words = own.split("\n\n").next().unwrap().split([' ', '\n']);
    let seen: Vec<i32> = words.filter_map(|word| word.parse().ok()).collect();
    assert_eq!(seen, statuses, "{own}");
    let manual = read("packaging/manual/udp-echo.8.in");
    let own = manual.split(".SH EXIT STATUS").nth(1).unwrap();
    let own = own.split(".SH ").next().unwrap();
    let entries = own.lines().filter_map(|line| line.strip_prefix(".B "));
    let seen: Vec<i32> = entries.filter_map(|entry| entry.parse().ok()).collect();
    assert_eq!(seen, statuses, "{own}");
}

#[test]
fn http_statuses_are_those_of_readme() {
    let daemon = Daemon::start(&[]);
    let text = readme::text();
    let mut count = 0;
    for rest in text
        .split("`, which answers ")
        .collect::<Vec<_>>()
        .windows(2)
    {
        let path = rest[0].rsplit('`').next().unwrap();
        let status: u16 = rest[1].split(' ').next().unwrap().parse().unwrap();
        assert_eq!(daemon.get(path).status, status, "{path}");
        count += 1;
    }
    assert_eq!(count, 2);
}

/// `/-/ready` has the same statuses as `/-/healthy`.
#[test]
fn http_statuses_are_those_of_the_manual() {
    let manual = read("packaging/manual/udp-echo.8.in");
    let lines = manual.lines().filter(|line| line.starts_with("Status "));
    let seen: Vec<Vec<u16>> = lines
        .map(|line| {
            let words = line.split([' ', ',', '.']);
            words.filter_map(|word| word.parse().ok()).collect()
        })
        .collect();
    let daemon = Daemon::start(&["--mode=echo"]);
    let healthy = daemon.get("/-/healthy").status;
    let Some(held) = Held::hold(daemon.pid(), "worker-0") else {
        skip!("ptrace is not allowed");
    };
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.send_to(b"waits", daemon.address()).unwrap();
    let mut stalled = healthy;
    wait_until("the worker is stalled", || {
        stalled = daemon.get("/-/healthy").status;
        stalled != healthy
    });
    drop(held);
    assert_eq!(seen, [[healthy, stalled]; 2]);
}

#[test]
fn auto_receive_buffer_is_that_of_the_texts() {
    let size = format!("{}MiB", BufferSize::AUTO >> 20);
    let help = run(program().arg("--help")).1;
    let own = help.split("--recv-buffer <").nth(1).unwrap();
    let own = own.split("--send-buffer <").next().unwrap();
    let text = readme::text();
    let row = text
        .lines()
        .find(|line| line.starts_with("| `--recv-buffer BYTES`"))
        .unwrap();
    // "request 4MiB", "requests 4 MiB".
    for text in [own, row] {
        let text: String = text.split_whitespace().collect();
        let said = text.replace("requests", "request");
        assert!(said.contains(&format!("request{size}")), "{size}: {text}");
    }
}

/// `1 to 65507` in the row of an option.
#[test]
fn ranges_of_options_are_those_of_the_program() {
    let mut count = 0;
    for (title, arguments) in [("Measure", &["probe", "localhost:9"][..]), ("Modes", &[])] {
        let sections = readme::sections();
        let section = sections.iter().find(|section| section.title == title);
        for row in section
            .unwrap()
            .text
            .lines()
            .filter(|line| line.starts_with("| `--"))
        {
            let option = row[5..].split([' ', '`']).next().unwrap();
            let words: Vec<_> = row.split([' ', ',', ':', '.']).collect();
            let ranges = words.windows(3).filter_map(|words| {
                let is_range = words[1] == "to";
                let [first, last] = [words[0], words[2]].map(str::parse::<u64>);
                is_range.then(|| Some((first.ok()?, last.ok()?)))?
            });
            for (first, last) in ranges {
                let takes = |value: u64| {
                    // Options are parsed first: an error about the variable means that this is right.
                    let value = format!("--{option}={value}");
                    let mut command = program();
                    command
                        .env("UDP_ECHO_MODE", "wrong")
                        .args(arguments)
                        .arg(&value);
                    run(&mut command).2.contains("UDP_ECHO_MODE")
                };
                assert!(takes(first) && takes(last), "{row}");
                assert!(!takes(first - 1) && !takes(last + 1), "{row}");
                count += 1;
            }
        }
    }
    assert!(count > 1, "{count}");
}

#[test]
fn rate_limit_is_per_ipv6_network_of_the_documented_size() {
    let help = run(program().arg("--help")).1;
    let text = readme::text();
    let row = text
        .lines()
        .find(|line| line.starts_with("| `--rate-limit N`"))
        .unwrap();
    let own = help.split("--rate-limit <").nth(1).unwrap();
    for text in [row, own] {
        let after = text.split("IPv6").nth(1).unwrap();
        let mut bits = after.split(|other: char| !other.is_ascii_digit());
        let bits: u32 = bits
            .find(|digits| !digits.is_empty())
            .unwrap()
            .parse()
            .unwrap();
        let each = Rate::new(NonZeroU32::MIN);
        let network = 0x2001_0db8_u128 << 96;
        let address = |bit: u32| IpAddr::from(Ipv6Addr::from(network ^ (1 << (128 - bit))));
        let base = IpAddr::from(Ipv6Addr::from(network));
        // Two networks share a bucket by chance, once in 65536 times.
        let differ = |bit| {
            (0..3).any(|_| {
                let limits = Limits::new(Instant::now(), LEAK, each, None);
                limits.have_own_buckets(&[base, address(bit)])
            })
        };
        assert!(differ(bits) && !differ(bits + 1), "{bits} bits: {text}");
    }
    assert!(row.contains(&format!("one in {LEAK}")), "{row}");
    let security = read("SECURITY.md");
    assert!(
        security.contains(&format!("in {LEAK}"))
            && security.contains(&format!("{BUCKETS} budgets"))
    );
}

#[test]
fn record_size_is_that_of_the_texts() {
    for file in [
        "README.md",
        "Cargo.toml",
        "packaging/prometheus/alerting.rules.yml",
    ] {
        let text = read(file).replace('\n', " ").replace("22-byte", "22 bytes");
        let sizes = text.match_indices(" bytes").filter_map(|(end, _)| {
            let number = text[..end].rsplit(' ').next()?;
            number.parse::<usize>().ok().filter(|size| *size < 100)
        });
        let sizes: Vec<_> = sizes
            .filter(|size| ![2, OPEN_BYTES].contains(size))
            .collect();
        assert!(!sizes.is_empty(), "{file}");
        assert!(
            sizes.iter().all(|size| *size == Record::BYTES),
            "{file}: {sizes:?}"
        );
    }
}

fn read(file: &str) -> String {
    fs::read_to_string(readme::root().join(file)).unwrap()
}
