//! The completion scripts. Only bash is common enough to run its script.

use std::fs;
use std::process::Command;

use crate::harness::{has_program, run};
use crate::skip;

#[path = "../../packaging/completions.rs"]
mod generator;

/// Words, of which the last is to be completed, and the words offered.
const OFFERED: &str = "
    --log= | off error warn info debug trace
    --log-format= | auto journald text json
    --mode=l | lockstep
    --mode=s | stamp
    --stamp-sequence= | stateful stateless
    --stamp-dscp= |
    --listen= |
    --metrics-listen=lo | lo
    --workers= |
    stray |
    pro | probe
    help= | probe attach detach monitor help
    mon | monitor
    monitor --log= | off error warn info debug trace
    monitor --probe-endpoint= | on off
    monitor --probe-allow= |
    monitor --me | --metrics-listen
    monitor localho | localhost
    monitor localhost:9 localho | localhost
    probe --mode= | exchange lockstep echo stamp
    probe --padding= | zero random plain
    probe --wait= |
    probe --metrics-url= |
    probe --js | --json --json-lines
    probe -M= | do want dont
    probe localhost:9 --fl | --flows
    probe localho | localhost";

#[test]
fn bash_completion_offers_values_options_and_hosts() {
    if !has_program("bash") {
        skip!("no bash");
    }
    let bash = script("udp-echo.bash");
    let hosts = std::env::temp_dir().join(format!("udp-echo-hosts-{}", std::process::id()));
    fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    // bash has compopt only during an interactive completion.
    let complete = format!(
        "{bash}\ncompopt() {{ :; }}; HOSTFILE=$1; shift; COMP_WORDS=(udp-echo \"$@\")\n\
         COMP_CWORD=$#; _udp__echo udp-echo \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"\n\
         echo \"${{COMPREPLY[*]}}\""
    );
    for line in OFFERED.trim().lines() {
        let (words, offered) = line.split_once('|').unwrap();
        let mut command = Command::new("bash");
        command
            .args(["--norc", "-c", &complete, "bash"])
            .arg(&hosts);
        let words = words.trim().split([' ', '=']);
        let (status, seen, errors) = run(command.args(words).env("LC_ALL", "C"));
        assert!(status.success() && errors.is_empty(), "{line}: {errors}");
        assert_eq!(seen.trim(), offered.trim(), "{line}");
    }
    fs::remove_file(hosts).unwrap();
    for files in ["-o default", "-o bashdefault"] {
        assert!(!bash.contains(files), "{files} in {bash}");
    }
    // Only the key files and the configuration are files.
    let cases = bash.split(";;").filter(|case| case.contains("compgen -f"));
    let cases: Vec<_> = cases.collect();
    let is_file = |case: &&str| {
        ["key-file)\n", "--config)\n"]
            .iter()
            .any(|it| case.contains(it))
    };
    assert!(cases.len() == 3 && cases.iter().all(is_file), "{bash}");
}

#[test]
fn zsh_completion_offers_hosts_and_files() {
    let zsh = script("_udp-echo");
    // An unescaped colon after HOST would make PORT a command to run.
    for value in [
        "its port:_hosts'",
        ":HOST\\:PORT:'",
        ":LEVEL-OR-FILTER:(off error warn info debug trace)'",
    ] {
        assert!(zsh.contains(value), "{value} in {zsh}");
    }
    for wrong in [":HOST:PORT", "_default"] {
        assert!(!zsh.contains(wrong), "{wrong} in {zsh}");
    }
    let mut files = zsh.lines().filter(|line| line.contains("_files"));
    let is_file = |line: &str| {
        ["key-file=", "--config=", "--pins="]
            .iter()
            .any(|option| line.contains(option))
    };
    assert!(files.all(is_file), "{zsh}");
}

#[test]
fn fish_completion_offers_hosts_and_files() {
    let fish = script("udp-echo.fish");
    for part in [
        "\"__fish_udp_echo_using_subcommand probe\" -a \"(__fish_print_hostnames)\"\n",
        "\"__fish_udp_echo_using_subcommand monitor\" -a \"(__fish_print_hostnames)\"\n",
        "\ncomplete -c udp-echo -f\n",
        "\n    or argparse -s (__fish_udp_echo_global_optspecs) -- $cmd[1..-2] ",
        " -l log -d 'Log level or filter [default: info]' -r -f -a \"off\\t''\nerror\\t''\n",
    ] {
        assert!(fish.contains(part), "{part} in {fish}");
    }
    for line in fish.lines().filter(|line| line.contains("' -r")) {
        let takes_file = line.contains("key-file ") || line.contains("-l config ");
        assert_eq!(line.contains("' -r -f"), !takes_file, "{line}");
    }
}

fn script(wanted: &str) -> String {
    let scripts = generator::scripts(udp_echo::cli::command()).unwrap();
    let mut scripts = scripts.into_iter();
    scripts.find(|(name, _)| *name == wanted).unwrap().1
}
