//! `-h`, `--help`, `help` and `--version`.

use crate::harness::service::assert_has;
use crate::harness::{program, shell};
use crate::usage::{assert_wrong_usage, ended};

/// Options and defaults of each command, as users and scripts know them.
const DEFAULTS: [(&str, &str); 5] = [
    (
        "",
        "listen=localhost:9999 mode=exchange timeout=5s max-datagram=1024 \
         recv-buffer=auto send-buffer=the_kernel's workers=1 busy-poll=0 \
         kernel-echo=off pins=/sys/fs/bpf/udp-echo offload=auto max-peers=65536 exit-on=nothing \
         reuse-address=off timestamps=off min-source-port=1024 \
         rate-limit=off rate-limit-total=off metrics-listen=127.0.0.1:9862 log=info \
         log-format=auto stamp-sequence=stateful stamp-session-timeout=15m \
         stamp-min-request=14 stamp-key-file=none stamp-clock=auto stamp-dscp=copy \
         stamp-allow-dscp=none",
    ),
    (
        "probe",
        "mode=exchange count=until_Ctrl-C duration=until_Ctrl-C interval=1s rate=none size=64 \
         wait=1s flows=1 ipv4=any_family ipv6=any_family source=the_route's dscp=0 \
         ttl=the_kernel's df=off max-loss=100 report=none metrics-url=none quiet=off json=off \
         json-lines=off timestamps=off ssid=0 cos=none key-file=none padding=zero",
    ),
    (
        "monitor",
        "config=none metrics-listen=127.0.0.1:9863 probe-endpoint=on probe-allow=all log=info \
         log-format=auto",
    ),
    (
        "attach",
        "interface=none listen=none max-datagram=1024 min-source-port=1024 generic=off \
         pins=/sys/fs/bpf/udp-echo owner=root",
    ),
    ("detach", "interface=all pins=/sys/fs/bpf/udp-echo"),
];

/// An action: it has no variable and no default.
const CHECK: &str = "      --check";

/// Actions, which have no variable and no default, and options that only ping's letter names, which
/// have no variable.
const OTHER: [&str; 5] = [CHECK, "      --help", "      --version", "  -Q <", "  -M <"];

#[test]
fn short_help_has_one_line_with_the_default_per_option() {
    for (command, defaults) in DEFAULTS {
        let help = without_letters(&help(&format!("{command} -h")));
        let sections = help.split("\n\n").filter_map(|section| {
            let (heading, options) = section.split_once('\n')?;
            heading
                .to_lowercase()
                .ends_with("options:")
                .then_some(options)
        });
        let options = sections.flat_map(str::lines);
        let (other, options): (Vec<_>, Vec<_>) =
            options.partition(|line| OTHER.iter().any(|start| line.starts_with(start)));
        let is_action = |line: &&str| {
            let words = ["  Print ", "print them", ", as in ping [default: "];
            words.iter().any(|words| line.contains(words))
        };
        assert!(other.iter().all(is_action), "{help}");
        let shown: Vec<_> = options
            .iter()
            .map(|line| {
                let name = line
                    .strip_prefix("      --")
                    .unwrap_or_else(|| panic!("{line}"));
                let name = name.split(' ').next().unwrap();
                let rest = line.split_once(" [default: ");
                let default = rest.unwrap_or_else(|| panic!("no default: {line}")).1;
                let default = default.strip_suffix(']').expect("the default at the end");
                format!("{name}={}", default.replace(' ', "_"))
            })
            .collect();
        assert_eq!(shown.join(" "), defaults);
        assert!(
            !help.contains("[env: ") && !help.contains("[possible"),
            "{help}"
        );
    }
}

/// The help with spaces instead of the letter of each option that has a long name too.
fn without_letters(help: &str) -> String {
    let lines = help.split_inclusive('\n').map(|line| match line.get(..8) {
        Some(start) if start.starts_with("  -") && start.ends_with(", --") => {
            ["      --", &line[8..]].concat()
        }
        _ => line.to_owned(),
    });
    lines.collect()
}

#[test]
fn long_help_has_variable_and_default_of_each_option() {
    for (command, defaults) in DEFAULTS {
        let help = without_letters(&help(&format!("{command} --help")));
        let help = OTHER
            .iter()
            .fold(help, |help, other| help.replace(other, ""));
        let letters = [" 0]", " the kernel's]"].map(|end| format!("\n          [default:{end}\n"));
        let is_probe = command == "probe";
        assert!(
            letters.iter().all(|end| help.contains(end) == is_probe),
            "{help}"
        );
        let entries: Vec<_> = help.split("\n      --").skip(1).collect();
        assert_eq!(entries.len(), defaults.split(' ').count(), "{help}");
        for (entry, option) in entries.iter().zip(defaults.split(' ')) {
            let (name, default) = option.split_once('=').unwrap();
            assert_eq!(entry.split([' ', '\n']).next(), Some(name));
            let prefix = match (command, name) {
                ("", _) | ("attach", "listen" | "max-datagram" | "min-source-port") => {
                    String::new()
                }
                ("detach", _) => "ATTACH_".to_owned(),
                (command, _) => format!("{}_", command.to_uppercase()),
            };
            let variable = name.to_uppercase().replace('-', "_");
            let variable = format!("UDP_ECHO_{prefix}{variable}");
            let default = default.replace('_', " ");
            let end = format!("[env: {variable}] [default: {default}]\n");
            assert_has(entry, &end);
        }
    }
}

#[test]
fn help_subcommand_prints_the_long_help_of_each_command() {
    for (command, _) in DEFAULTS {
        let by_subcommand = help(&format!("help {command}"));
        assert_eq!(by_subcommand, help(&format!("{command} --help")));
    }
    assert_wrong_usage(program().args(["help", "nonsense"]), "'nonsense'");
}

#[test]
fn help_names_the_reference_server_with_its_source() {
    let help = help("--help")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let source = "udp_server_ipv4_timeout.py of the Python Cookbook, leven-cn/python-cookbook";
    let named = help.find("reference server").unwrap();
    assert!(help[named..named + 200].contains(source), "{help}");
}

/// The help text, which has at most 80 columns on terminals of any width.
fn help(args: &str) -> String {
    let [narrow, wide] = ["40", "200"].map(|columns| {
        let mut command = program();
        command
            .args(args.split_whitespace())
            .env("COLUMNS", columns);
        let (status, help, stderr) = ended(&mut command);
        assert_eq!((status, stderr.as_str()), (Some(0), ""), "{args}");
        help
    });
    assert_eq!(narrow, wide);
    for line in wide.lines() {
        assert!(line.chars().count() <= 80, "{args}: {line}");
    }
    wide
}

#[test]
fn version_is_one_line_with_the_revision() {
    for flag in ["--version", "-V"] {
        let (status, version, stderr) = ended(program().arg(flag));
        assert_eq!((status, stderr.as_str()), (Some(0), ""));
        let start = concat!("udp-echo ", env!("CARGO_PKG_VERSION"), " (");
        assert!(
            version.starts_with(start) && version.lines().count() == 1,
            "{version}"
        );
    }
}

#[test]
fn closed_output_does_not_panic() {
    for script in [
        "\"$0\" --help | read -r line",
        "\"$0\" --help | true",
        "\"$0\" --help >&-",
        "\"$0\" --version >/dev/full",
        "\"$0\" --nonsense 2>&-; test $? = 2",
        "\"$0\" --nonsense 2>/dev/full; test $? = 2",
    ] {
        let mut command = shell(script);
        let (status, _, stderr) = ended(command.arg(program().get_program()));
        assert_eq!((status, stderr.as_str()), (Some(0), ""), "{script}");
    }
}
