//! Parsers of external input return a value or an error for any text, and never panic. The parsers
//! of records, control messages and kernel releases have such tests in their modules.
//! `PROPTEST_CASES` sets the number of cases; each test prints its number.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    unreachable_pub,
    unsafe_code,
    reason = "a test fails by a panic; these tests set environment variables"
)]

#[path = "../harness/mod.rs"]
mod harness;

mod text;

use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{TestCaseResult, TestRunner};
use udp_echo::address::HostPort;
use udp_echo::cli::{Args, Command};
use udp_echo::daemon::Given;
use udp_echo::systemd::{Listen, PassedInError, Role};
use udp_echo::telemetry::Filter;

use harness::tidy::{Folder, end_with_test};
use harness::{Daemon, client, program, receive};
use text::{args, bytes, monitor_file, text, value};

/// Held while a test reads, writes or passes on the environment of this process.
static ENVIRONMENT: Mutex<()> = Mutex::new(());

/// Runs a test with 1/`share` of the requested cases.
fn try_cases<S: Strategy>(
    what: &str,
    share: u32,
    input: &S,
    test: impl Fn(S::Value) -> TestCaseResult,
) where
    S::Value: Debug,
{
    let asked = ProptestConfig::default();
    let config = ProptestConfig {
        cases: asked.cases.div_ceil(share),
        failure_persistence: None,
        ..asked
    };
    let cases = config.cases;
    if let Err(failure) = TestRunner::new(config).run(input, test) {
        panic!("{what}: {failure}");
    }
    eprintln!("tried: {cases} {what}");
}

#[test]
fn address_parser_accepts_any_text_and_parses_its_own_output() {
    try_cases("addresses", 1, &text(), |text| {
        if let Ok(address) = text.parse::<HostPort>() {
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }
        Ok(())
    });
}

#[test]
fn filter_parser_accepts_any_text_and_parses_its_own_output() {
    try_cases("log filters", 4, &text(), |text| {
        if let Ok(filter) = text.parse::<Filter>() {
            let shown = filter.to_string();
            let again = shown.parse::<Filter>();
            prop_assert_eq!(again.map(|filter| filter.to_string()).ok(), Some(shown));
        }
        Ok(())
    });
}

#[test]
fn command_line_parser_accepts_any_text_with_values_in_bounds() {
    let _guard = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    try_cases("command lines", 5, &args(&options()), |args| {
        let asks = args.iter().any(|arg| {
            let asking = [&b"-h"[..], b"--help", b"-V", b"--version"];
            asking.iter().any(|it| arg.as_bytes().starts_with(it))
        });
        check(&parsed(args), asks)
    });
}

#[test]
fn variable_parser_accepts_any_text_and_agrees_with_options() {
    let _guard = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    let given = (select(options()), value());
    try_cases("variables", 5, &given, |(option, value)| {
        let name = format!("UDP_ECHO_{}", option.to_uppercase().replace('-', "_"));
        // SAFETY: all threads of this process use the environment through `std`.
        unsafe { std::env::set_var(&name, &value) };
        let from_variable = parsed(vec![]);
        // SAFETY: as above.
        unsafe { std::env::remove_var(&name) };
        check(&from_variable, false)?;
        let from_flag = if value.is_empty() {
            parsed(vec![])
        } else if ["reuse-address", "timestamps", "check"].contains(&option.as_str()) {
            return Ok(());
        } else {
            let mut flag = OsString::from(format!("--{option}="));
            flag.push(&value);
            parsed(vec![flag])
        };
        check(&from_flag, false)?;
        let shown = |mut args: Args| {
            args.given = Given::default();
            format!("{args:?}")
        };
        prop_assert_eq!(from_variable.map(shown).ok(), from_flag.map(shown).ok());
        Ok(())
    });
}

#[test]
fn listen_fds_parser_accepts_any_text_and_names_each_socket() {
    const OWN: u32 = 4242;
    let as_many = |count: i32| Listen {
        pid: Some(OWN.to_string().into()),
        descriptors: Some(count.to_string().into()),
        names: None,
    };
    assert_eq!(as_many(1 << 20).sockets(OWN).unwrap().len(), 1 << 20);
    assert!(as_many(i32::MAX - 3).sockets(OWN).is_err());
    let names = vec(
        select(vec!["echo", "metrics", "unknown", "", "x", "echo:echo"]),
        0..5,
    );
    let likely = (0_usize..5, names).prop_map(|(count, names)| Listen {
        pid: Some(OWN.to_string().into()),
        descriptors: Some(count.to_string().into()),
        names: Some(names.join(":").into()),
    });
    let any = (
        option::of(prop_oneof![Just(OWN.to_string().into()), bytes()]),
        option::of(bytes()),
        option::of(bytes()),
    );
    let any = any.prop_map(|(pid, descriptors, names)| Listen {
        pid,
        descriptors,
        names,
    });
    try_cases(
        "sets of LISTEN variables",
        1,
        &prop_oneof![likely, any],
        |it| {
            let own = it.pid.as_deref() == Some(OsStr::new(&OWN.to_string()));
            match it.sockets(OWN) {
                Ok(sockets) if sockets.is_empty() => {}
                Ok(sockets) => {
                    prop_assert!(own);
                    let (descriptors, roles): (Vec<_>, Vec<_>) = sockets.into_iter().unzip();
                    let count = it.descriptors.unwrap().into_string().unwrap();
                    prop_assert_eq!(count.parse(), Ok(descriptors.len()));
                    prop_assert!(descriptors.into_iter().eq((3..).take(roles.len())));
                    let names: Vec<_> = roles.iter().map(Role::to_string).collect();
                    // systemd calls a socket without a name "unknown".
                    let all = vec!["unknown"; roles.len()].join(":").into();
                    let given = it.names.unwrap_or(all).into_string().unwrap();
                    let said = given.split(':').map(|name| match name {
                        "unknown" => "without a name (FileDescriptorName=)".to_owned(),
                        name => format!("as {name}"),
                    });
                    prop_assert_eq!(names, said.collect::<Vec<_>>());
                }
                Err(PassedInError::Name { descriptor, name }) => {
                    prop_assert!(
                        own && descriptor >= 3
                            && !["echo", "metrics", "unknown"].contains(&name.as_str())
                    );
                }
                Err(error) => prop_assert!(!error.to_string().contains(char::is_control)),
            }
            Ok(())
        },
    );
}

#[test]
fn monitor_parser_accepts_any_text_and_says_why_in_one_line() {
    let _guard = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Folder::new();
    let path = folder.join("monitor.toml");
    let monitor = |args: Vec<OsString>| {
        let args = [vec!["monitor".into()], args].concat();
        parsed(args).map(|args| match args.command {
            Some(Command::Monitor(monitor)) => monitor,
            other => panic!("{other:?}"),
        })
    };
    let of_file = monitor(vec![format!("--config={}", path.display()).into()]).unwrap();
    try_cases("files of targets", 5, &monitor_file(), |file| {
        std::fs::write(&path, file).unwrap();
        match of_file.targets() {
            Ok(targets) => prop_assert!(targets.iter().all(|target| target.flows > 0)),
            Err(error) => {
                let text = error.to_string();
                prop_assert!(!text.contains(char::is_control), "{:?}", text);
            }
        }
        Ok(())
    });
    let command = udp_echo::cli::command();
    let options = command.find_subcommand("monitor").unwrap();
    let names = options.get_arguments().filter_map(|it| it.get_long());
    let names: Vec<_> = names.map(str::to_owned).collect();
    try_cases("monitor command lines", 50, &args(&names), |args| {
        match monitor(args) {
            Ok(monitor) => {
                let _ = (monitor.config(), monitor.targets());
            }
            Err(error) => prop_assert!([0, 2].contains(&error.exit_code()), "{}", error),
        }
        Ok(())
    });
}

/// Starts the program on a port that is in use, so that it never serves.
#[test]
fn program_accepts_any_options_and_variables_or_says_why() {
    const NAMES: [&str; 9] = [
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "JOURNAL_STREAM",
        "COLUMNS",
        "RUST_LOG",
        "NO_COLOR",
    ];
    let _guard = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = format!("--listen={}", taken.local_addr().unwrap());
    let variables = vec((select(&NAMES[..]), bytes()), 0..4);
    let input = (any::<bool>(), variables, args(&options()));
    try_cases(
        "starts of the program",
        1000,
        &input,
        |(own, variables, args)| {
            let mut command = std::process::Command::new("sh");
            let pid = if own { "$$" } else { "1" };
            let line = format!("LISTEN_PID={pid} exec \"$0\" \"$@\"");
            command.args(["-c", &line]).arg(program().get_program());
            command.args([listen.as_str(), "--metrics-listen=none"]);
            // A random --listen could be a free address or a name that resolves slowly.
            let elsewhere = |arg: &OsString| arg.as_bytes().windows(4).any(|part| part == b"list");
            command.args(args.into_iter().filter(|arg| !elsewhere(arg)));
            command.envs(variables).env("RUST_BACKTRACE", "0");
            // A shell may warn of an unknown locale.
            command
                .env("LC_ALL", "C")
                .stdin(std::process::Stdio::null());
            let output = end_with_test(&mut command).output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            prop_assert!(!stderr.contains("panicked"), "{}", stderr);
            let ended = output.status.code();
            prop_assert!(matches!(ended, Some(0..=2)), "{:?}: {}", ended, stderr);
            prop_assert_eq!(
                ended == Some(0),
                stderr.is_empty(),
                "{:?}: {}",
                ended,
                stderr
            );
            Ok(())
        },
    );
}

#[test]
fn daemon_serves_with_the_limits_of_each_option_range() {
    let _guard = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    for arg in [
        "--timeout=1ns",
        "--timeout=18446744073709551615s",
        "--timeout=1.8446744073709550e19",
        "--busy-poll=18446744073709551615s",
        "--max-datagram=1",
        "--max-datagram=65507",
        "--max-peers=1",
        "--max-peers=16777216",
        "--recv-buffer=1",
        "--recv-buffer=1073741823",
        "--send-buffer=1",
        "--send-buffer=1073741823",
        "--min-source-port=0",
        "--rate-limit=1",
        "--rate-limit=10000000",
        "--rate-limit-total=1",
        "--rate-limit-total=10000000",
    ] {
        for mode in ["--mode=echo", "--mode=exchange"] {
            let mut command = program();
            command.env("WATCHDOG_USEC", u64::MAX.to_string());
            let daemon = Daemon::start_as(command, &[arg, mode]);
            let peer = client(daemon.address());
            peer.send(b"x").unwrap();
            assert_eq!(receive(&peer), b"x", "{arg} {mode}");
            assert_eq!(daemon.stop().code(), Some(0), "{arg} {mode}");
        }
    }
}

fn options() -> Vec<String> {
    let command = udp_echo::cli::command();
    let names = command.get_arguments().filter_map(|it| it.get_long());
    names.map(str::to_owned).collect()
}

fn parsed(args: Vec<OsString>) -> Result<Args, clap::Error> {
    Args::parse_from_environment([OsString::from("udp-echo")].into_iter().chain(args))
}

/// Checks that values are in bounds, and that an error has exit status 2 and readable text.
fn check(outcome: &Result<Args, clap::Error>, asks: bool) -> TestCaseResult {
    let args = match outcome {
        Ok(args) => args,
        Err(error) => {
            let text = error.to_string();
            prop_assert!(error.exit_code() == 2 || asks && error.exit_code() == 0);
            let odd = |c: char| c.is_control() && c != '\n';
            prop_assert!(!text.is_empty() && !text.contains(odd), "{:?}", text);
            return Ok(());
        }
    };
    prop_assert!((1..=65507).contains(&args.max_datagram));
    prop_assert!((1..=1 << 24).contains(&args.max_peers));
    prop_assert!(!args.listen.is_empty());
    prop_assert!((1..=1024).contains(&args.workers.number()));
    let sizes = [args.recv_buffer.given(), args.send_buffer];
    for size in sizes.into_iter().flatten() {
        prop_assert!(i32::try_from(2 * size).is_ok_and(|size| size > 0));
    }
    if let Some(timeout) = args.timeout.0 {
        prop_assert!(timeout.get() > Duration::ZERO);
    }
    let _ = (args.config(), args.log_format());
    Ok(())
}
