//! The options and variables of the monitor.

use crate::harness::program;
use crate::{ended, monitor};

/// Options that are not the defaults, and what `--check` prints for them. `--config` is not one of
/// them: its file is read.
const OPTIONS: [(&str, &str); 5] = [
    ("--metrics-listen=none", "METRICS_LISTEN=none"),
    ("--probe-endpoint=off", "PROBE_ENDPOINT=off"),
    (
        "--probe-allow=192.0.2.0/24,::1",
        "PROBE_ALLOW=192.0.2.0/24,::1/128",
    ),
    ("--log=warn", "LOG=warn"),
    ("--log-format=json", "LOG_FORMAT=json"),
];

#[test]
fn check_prints_defaults_in_the_order_of_help() {
    let help = ended(program().args(["help", "monitor"])).1;
    let expected = help.split("[env: ").skip(1).map(|entry| {
        let (name, rest) = entry.split_once("] [default: ").unwrap();
        // An empty variable counts as unset.
        let default = match rest.split(']').next().unwrap() {
            "none" | "all" => "",
            default => default,
        };
        format!("{name}={default}\n")
    });
    let expected: String = expected.collect();
    assert_eq!(expected.lines().count(), OPTIONS.len() + 1, "{help}");
    let checked = ended(&mut monitor("--check localhost"));
    assert_eq!(checked, (Some(0), expected, String::new()));
}

#[test]
fn check_prints_options_as_their_variables() {
    let options: Vec<_> = OPTIONS.iter().map(|(option, _)| *option).collect();
    let mut expected = "UDP_ECHO_MONITOR_CONFIG=\n".to_owned();
    expected.extend(
        OPTIONS
            .iter()
            .map(|(_, line)| format!("UDP_ECHO_MONITOR_{line}\n")),
    );
    let by_option = ended(&mut monitor(&format!("--check h {}", options.join(" "))));
    assert_eq!(by_option, (Some(0), expected.clone(), String::new()));
    let mut command = monitor("--check h");
    let variables = expected.lines().map(|line| line.split_once('=').unwrap());
    let by_variable = ended(command.envs(variables));
    assert_eq!(by_variable, by_option);
}

#[test]
fn variable_names_the_file() {
    let mut command = monitor("--check h");
    command.env("UDP_ECHO_MONITOR_CONFIG", "/dev/null");
    let line = "udp-echo: cannot use /dev/null: it is not a regular file of at most 64 MiB\n";
    assert_eq!(ended(&mut command), (Some(2), String::new(), line.into()));
}

#[test]
fn wrong_value_names_option_or_variable() {
    let networks = "expected a network such as 192.0.2.0/24 or 2001:db8::/32, or an address\n";
    for (option, value, said) in [
        (
            "metrics-listen",
            "8080",
            "such as 127.0.0.1:8080, or none\n",
        ),
        ("metrics-listen", "off", "such as 127.0.0.1:9863, or none\n"),
        ("probe-endpoint", "yes", "[possible values: on, off]\n"),
        ("probe-allow", "reflector", networks),
        ("probe-allow", "::1,", networks),
        (
            "probe-allow",
            "192.0.2.1/24",
            "the address has bits after its prefix; the network is 192.0.2.0/24\n",
        ),
        (
            "probe-allow",
            "::/129",
            "expected a prefix length of 0 to 128\n",
        ),
        (
            "log",
            "inof",
            "expected off, error, warn, info, debug, trace or a filter",
        ),
        (
            "log-format",
            "xml",
            "[possible values: auto, journald, text, json]\n",
        ),
    ] {
        let (status, _, stderr) = ended(&mut monitor(&format!("h --{option}={value}")));
        assert_eq!(status, Some(2), "{stderr}");
        assert!(stderr.starts_with("error: invalid value '"), "{stderr}");
        assert!(stderr.contains(&format!(" for '--{option} ")), "{stderr}");
        assert!(stderr.contains(said), "{said} in {stderr}");
        let name = format!(
            "UDP_ECHO_MONITOR_{}",
            option.to_uppercase().replace('-', "_")
        );
        let (status, _, stderr) = ended(monitor("h").env(&name, value));
        assert_eq!(status, Some(2), "{stderr}");
        let start = format!("error: {name}: invalid value '");
        assert!(stderr.starts_with(&start), "{stderr}");
        assert!(stderr.contains(said), "{said} in {stderr}");
    }
}

#[test]
fn wrong_target_is_a_usage_error() {
    for (args, said) in [
        (
            "h:0",
            "cannot send to port 0: it is reserved; use 1 to 65535\n",
        ),
        (
            "localhost 9999",
            "expected HOST:PORT, such as localhost:9999\n",
        ),
        (
            "http://reflector/x",
            "expected HOST:PORT, such as reflector:9999\n",
        ),
        ("h --nonsense", "unexpected argument '--nonsense' found\n"),
        ("h --count=3", "unexpected argument '--count' found\n"),
        (
            "h --check=yes",
            "cannot use 'yes' with --check: it takes no value; remove 'yes'",
        ),
    ] {
        let (status, _, stderr) = ended(&mut monitor(args));
        assert_eq!(status, Some(2), "{args}: {stderr}");
        assert!(stderr.starts_with("error: "), "{stderr}");
        assert!(stderr.contains(said), "{args}: {stderr}");
        assert!(!stderr.contains("Usage: udp-echo ["), "{stderr}");
    }
}

#[test]
fn commands_ignore_the_variables_of_each_other() {
    for (name, value) in [
        ("UDP_ECHO_LOG", "inof"),
        ("UDP_ECHO_PROBE_FLOWS", "0"),
        ("UDP_ECHO_METRICS_LISTEN", "x"),
    ] {
        let (status, _, stderr) = ended(monitor("--check h").env(name, value));
        assert_eq!((status, stderr.as_str()), (Some(0), ""), "{name}");
    }
    let mut daemon = program();
    daemon.arg("--check").env("UDP_ECHO_MONITOR_LOG", "inof");
    let (status, stdout, stderr) = ended(&mut daemon);
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    assert!(!stdout.contains("MONITOR"), "{stdout}");
}

#[test]
fn unknown_variable_warning_names_the_help_of_its_command() {
    let helps = [
        "`udp-echo --help`",
        "`udp-echo monitor --help`",
        "`udp-echo probe --help`",
    ];
    let names = ["X", "MONITOR_X", "PROBE_X"].map(|name| format!("UDP_ECHO_{name}"));
    let warning = |names: &[String]| {
        let mut command = monitor("--check h");
        command.envs(names.iter().map(|name| (name, "1")));
        ended(&mut command).2
    };
    for (name, help) in names.iter().zip(helps) {
        let line = format!(
            "udp-echo: ignoring {name}: it belongs to no option; {help} names the variables\n"
        );
        assert_eq!(warning(std::slice::from_ref(name)), line);
    }
    let all = warning(&names);
    let end = format!("{} name the variables\n", helps.join(" and "));
    assert!(all.ends_with(&end), "{all}");
}
