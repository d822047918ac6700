//! The manual pages, against the program.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::thread;

use crate::harness::{Daemon, has_program, program, run, unreachable};
use crate::skip;
use udp_echo::reflect::stamp::StampKeys;

#[path = "../../packaging/manual.rs"]
mod generator;

pub(crate) fn pages() -> [(&'static str, String); 3] {
    generator::pages().unwrap().try_into().unwrap()
}

#[test]
fn manual_has_every_option_with_variable_and_default() {
    let commands = [&[][..], &["probe"], &["monitor"]];
    for ((name, page), command) in pages().iter().zip(commands) {
        let prefix = command.iter().map(|name| name.to_uppercase() + "_");
        let prefix: String = prefix.collect();
        let help = run(program().args(command).arg("-h")).1;
        let mut count = 0;
        for line in help.lines() {
            let Some((option, default)) = line
                .get(..8)
                .filter(|start| start.ends_with("--"))
                .and_then(|_| line[8..].strip_suffix(']')?.split_once(" [default: "))
            else {
                continue;
            };
            let letter = line[2..4].trim().replace('-', "\\-");
            let option = option.split(' ').next().unwrap().replace('-', "\\-");
            let mut entries = page.split("\n.TP\n\\fB");
            let names = match letter.as_str() {
                "" => format!("\\-\\-{option}\\fR"),
                letter => format!("{letter}\\fR, \\fB\\-\\-{option}\\fR"),
            };
            let entry = entries.find(|entry| entry.starts_with(&names));
            let entry = entry.unwrap_or_else(|| panic!("{name}: no {option}"));
            let default = default.replace('-', "\\-").replace('\'', "\\(aq");
            let variable = option.to_uppercase().replace("\\-", "_");
            let end = format!("Environment: UDP_ECHO_{prefix}{variable}; default: {default}");
            let plain = entry.replace("\\%", "");
            assert!(
                plain.lines().any(|line| line == end),
                "{name}: {end} in {plain}"
            );
            let in_synopsis = format!(".OP \\-\\-{option}");
            assert!(page.contains(&in_synopsis), "{name}: {in_synopsis}");
            count += 1;
        }
        assert!(count > 5, "{help}");
    }
}

/// The metrics of the kernel path. The system tests read them.
const KERNEL_PATH: [&str; 4] = [
    "udp_echo_kernel_echo_active (interface)",
    "udp_echo_kernel_echo_bytes_total (interface, listen)",
    "udp_echo_kernel_echo_datagrams_total (interface, listen)",
    "udp_echo_kernel_echo_passed_total (interface, listen)",
];

#[test]
fn manual_has_every_metric_with_its_labels() {
    let daemon = Daemon::start(&["--mode=stamp", "--recv-buffer=64KiB", "--send-buffer=64KiB"]);
    let metrics = daemon.get("/metrics").body;
    let [(_, page), ..] = pages();
    let described: BTreeSet<_> = page
        .split(".SH METRICS\n")
        .nth(1)
        .and_then(|rest| rest.split("\n.SH ").next())
        .unwrap()
        .split("\n.TP\n\\fB")
        .skip(1)
        .map(|entry| {
            let heading = entry.lines().next().unwrap();
            heading.replace("\\fI", "").replace("\\fR", "")
        })
        .collect();
    let types = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let served: BTreeSet<_> = types
        // No series, so no program.
        .filter(|line| !line.contains("_kernel_echo_"))
        .map(|line| {
            let name = line.split(' ').next().unwrap();
            let series = metrics
                .lines()
                .find(|line| line.starts_with(&format!("{name}{{")));
            let labels = series.and_then(|series| series.split(['{', '}']).nth(1));
            let labels = labels.unwrap_or_default().split(',');
            let keys: BTreeSet<_> = labels
                .filter_map(|label| Some(label.split_once('=')?.0))
                .collect();
            let keys: Vec<_> = keys.into_iter().collect();
            if keys.is_empty() {
                name.to_owned()
            } else {
                format!("{name} ({})", keys.join(", "))
            }
        })
        // A daemon has these only with a program in the kernel.
        .chain(KERNEL_PATH.map(str::to_owned))
        .collect();
    assert_eq!(described, served);
}

#[test]
fn manual_explains_every_part_of_the_probes_output() {
    let daemon = Daemon::start(&[]);
    let output = |args: &str| {
        let mut command = program();
        command.arg("probe").arg(daemon.address().to_string());
        let (status, out, err) = run(command.args(args.split(' ')));
        assert!(status.success(), "{out}{err}");
        out
    };
    let url = format!("--metrics-url=http://{}", daemon.http.unwrap());
    let [_, (_, page), _] = pages();
    // The terms of a section's list: `.B word`, or `.BR word ", " word`.
    let terms = |title: &str| -> Vec<String> {
        let section = page.split(title).nth(1).unwrap();
        let section = section.split("\n.S").next().unwrap();
        let headings = section.split(".TP\n.B").skip(1);
        let words = headings.flat_map(|entry| {
            let heading = entry.lines().next().unwrap();
            heading.trim_start_matches('R').split("\", \"")
        });
        words.map(|word| word.trim().to_owned()).collect()
    };
    // A count of zero is not shown.
    let reflector = unsteady();
    let unusual = run(program().arg("probe").arg(reflector.to_string()).args([
        "--mode=echo",
        "--count=10",
        "--interval=0.01",
        "--wait=0.2",
        "--report=0.01",
    ]));
    let text = output("--count=20 --interval=0.005 --flows=2") + &unusual.1;
    for term in [terms(".SS A line per event"), terms(".SS Summary")].concat() {
        let term = term.trim_end_matches(" \" \\fIN\\fR\"");
        let seen = text.contains(term) || term == "other lines";
        assert!(seen, "{term} in {text}");
    }
    let json = output(&format!(
        "--count=2 --interval=0.005 --flows=2 --json {url}"
    ));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let members: BTreeSet<_> = json.as_object().unwrap().keys().cloned().collect();
    assert_eq!(BTreeSet::from_iter(terms(".SS JSON")), members);
    let (_kept, closed) = unreachable(Ipv4Addr::LOCALHOST.into());
    let mut events = BTreeSet::new();
    for target in [reflector, closed] {
        let mut command = program();
        command.arg("probe").arg(target.to_string()).args([
            "--mode=echo",
            "--count=10",
            "--interval=0.01",
            "--wait=0.2",
            "--report=0.01",
            "--json-lines",
        ]);
        for line in run(&mut command).1.lines() {
            let object: serde_json::Value = serde_json::from_str(line).unwrap();
            events.insert(object["event"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(BTreeSet::from_iter(terms(".SS JSON lines")), events);
}

/// Starts a reflector that drops, duplicates, reorders and changes replies. It ends with the test.
fn unsteady() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut bytes = [0; 1024];
        let mut kept = None;
        while let Ok((length, peer)) = socket.recv_from(&mut bytes) {
            let number = u64::from_be_bytes(bytes[4..12].try_into().unwrap());
            let mut reply = bytes[..length].to_vec();
            match number {
                1 => continue,
                2 => {
                    kept = Some(reply);
                    continue;
                }
                3 => reply[20] ^= 1,
                _ => {}
            }
            // Twice for two duplicates: the plural.
            let times = if number == 4 { 3 } else { 1 };
            for reply in std::iter::repeat_n(reply, times).chain(kept.take()) {
                socket.send_to(&reply, peer).unwrap();
            }
        }
    });
    address
}

#[test]
fn manual_has_the_usual_sections_in_the_usual_order() {
    let [daemon, probe, monitor] = pages().map(|(_, page)| {
        let titles = page.lines().filter_map(|line| line.strip_prefix(".SH "));
        titles.collect::<Vec<_>>().join(", ")
    });
    assert_eq!(
        daemon,
        "NAME, SYNOPSIS, DESCRIPTION, OPTIONS, RECORD, STAMP, KERNEL PATH, METRICS, HTTP, SIGNALS, EXIT STATUS, \
         ENVIRONMENT, FILES, EXAMPLES, SEE ALSO"
    );
    assert_eq!(
        probe,
        "NAME, SYNOPSIS, DESCRIPTION, OPTIONS, OUTPUT, SIGNALS, EXIT STATUS, ENVIRONMENT, \
         EXAMPLES, COMPARISON, SEE ALSO"
    );
    assert_eq!(
        monitor,
        "NAME, SYNOPSIS, DESCRIPTION, OPTIONS, FILES, SIGNALS, METRICS, HTTP, EXIT STATUS, \
         ENVIRONMENT, EXAMPLES, SEE ALSO"
    );
}

#[test]
fn manual_key_file_is_a_valid_one() {
    let [(_, page), ..] = pages();
    let section = page.split("\n.SS Keys\n").nth(1).unwrap();
    let file = section.split("\n.EX\n").nth(1).unwrap();
    let file = file.split(".EE").next().unwrap().replace("\\-", "-");
    let keys = StampKeys::parse(file.as_bytes()).unwrap();
    for ssid in [4660, 1] {
        assert!(keys.get(ssid).is_some(), "{ssid}");
    }
}

#[test]
fn comparison_has_every_letter_and_output_of_the_probe() {
    let [_, (_, page), _] = pages();
    let section = page.split(".SH COMPARISON\n").nth(1).unwrap();
    let table = section.split(".EX\n").nth(1).unwrap();
    let table = table.split(".EE\n").next().unwrap().replace("\\-", "-");
    let own: Vec<_> = table
        .lines()
        .map(|line| &line[17..33.min(line.len())])
        .collect();
    let own = own.join("\n");
    let words: BTreeSet<_> = own.split([' ', '\n', ',']).collect();
    let command = udp_echo::cli::command();
    let probe = command.find_subcommand("probe").unwrap();
    for argument in probe.get_arguments() {
        let letter = argument.get_short().map(|letter| format!("-{letter}"));
        let long = argument.get_long().map(|long| format!("--{long}"));
        // The mode is that of the reflector, which the other tools have not.
        let named = [letter, long].into_iter().flatten().collect::<Vec<_>>();
        let compared = named.is_empty() || argument.get_id() == "mode";
        assert!(
            compared || named.iter().any(|name| words.contains(name.as_str())),
            "{named:?} in {table}"
        );
    }
}

#[test]
fn manual_source_has_short_lines_as_mandoc_asks_for() {
    for (name, page) in pages() {
        let mut text = page.lines().filter(|line| !line.starts_with(['.', '\\']));
        let long = text.find(|line| line.len() > 80);
        assert_eq!(long, None, "{name}");
    }
}

#[test]
fn manual_renders_without_warnings_at_80_columns() {
    if !has_program("groff") {
        skip!("no groff");
    }
    for (name, page) in pages() {
        let file = std::env::temp_dir().join(format!("{}-{name}", std::process::id()));
        fs::write(&file, page).unwrap();
        let mut groff = Command::new("groff");
        groff.args(["-man", "-Tutf8", "-ww", "-P-cbou", "-rLL=78n"]);
        let (status, text, warnings) = run(groff.arg(&file));
        fs::remove_file(file).unwrap();
        assert!(
            status.success() && warnings.is_empty(),
            "{name}: {warnings}"
        );
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{name}: {line}");
        }
    }
}
