//! `/etc/default/udp-echo`, against the program.

use std::collections::BTreeSet;

use udp_echo::cli;

#[path = "../../packaging/defaults.rs"]
mod generator;

#[test]
fn default_file_has_every_option_that_works_under_the_units() {
    let file = generator::file(&cli::command());
    let set = file.lines().filter_map(|line| line.strip_prefix("#UDP_"));
    let set: BTreeSet<_> = set.map(|line| line.split('=').next().unwrap()).collect();
    let command = cli::command();
    let monitor = command.find_subcommand("monitor").unwrap();
    let all = command.get_arguments().chain(monitor.get_arguments());
    let all = all.filter_map(clap::Arg::get_env);
    let all = all.map(|name| name.to_str().unwrap().strip_prefix("UDP_").unwrap());
    // The sockets of systemd replace these, and the monitor's unit names its file.
    let replaced = [
        "LISTEN",
        "METRICS_LISTEN",
        "WORKERS",
        "REUSE_ADDRESS",
        "MONITOR_CONFIG",
    ];
    let replaced = replaced.map(|name| format!("ECHO_{name}"));
    let expected: BTreeSet<_> = all
        .filter(|name| !replaced.iter().any(|it| it == name))
        .collect();
    assert_eq!(set, expected);
    assert!(expected.len() > 10, "{file}");
}
