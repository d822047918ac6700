//! `udp-echo`: see `udp-echo --help`.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use udp_echo::cli::{Args, AttachArgs, Command, DetachArgs, MonitorArgs, ProbeArgs};
use udp_echo::daemon::Inherited;
use udp_echo::{daemon, kernel_echo, monitor, probe, telemetry};

fn main() -> ExitCode {
    let args = match Args::parse_from_environment(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => {
            if error.use_stderr() && telemetry::stderr_is_the_journal() {
                telemetry::last_line(&first_paragraph(&error.to_string()));
            } else {
                // A closed output leaves no way to report its error.
                let _ = error.print();
            }
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    let serves = match &args.command {
        None => !args.check,
        Some(Command::Monitor(monitor)) => !monitor.check,
        Some(Command::Probe(_) | Command::Attach(_) | Command::Detach(_)) => false,
    };
    // Daemon and monitor log it.
    if let Some(warning) = args.warning().filter(|_| !serves) {
        telemetry::last_line(&format_args!("udp-echo: {warning}"));
    }
    match &args.command {
        Some(Command::Probe(args)) => probe(args),
        Some(Command::Attach(args)) => attach(args),
        Some(Command::Detach(args)) => detach(args),
        Some(Command::Monitor(monitor)) if serves => watch(&args, monitor),
        Some(Command::Monitor(monitor)) => match monitor.targets() {
            Ok(_) => print_options(&monitor.in_force()),
            Err(error) => usage(&error),
        },
        None if serves => serve(&args),
        None => match args.config() {
            Ok(_) => print_options(&args.in_force()),
            Err(error) => usage(&error),
        },
    }
}

/// The error without tips and usage, as one line: each line is an entry of the journal.
fn first_paragraph(error: &str) -> String {
    let lines = error.lines().take_while(|line| !line.is_empty());
    lines.map(str::trim).collect::<Vec<_>>().join(" ")
}

/// Prints the options in force.
fn print_options(options: &[(String, String)]) -> ExitCode {
    let mut lines = String::new();
    for (name, value) in options {
        lines.extend([name, "=", value, "\n"]);
    }
    match std::io::stdout().write_all(lines.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&format_args!("cannot write to standard output: {error}")),
    }
}

fn probe(args: &ProbeArgs) -> ExitCode {
    let config = match args.config() {
        Ok(config) => config,
        Err(error) => return usage(&error),
    };
    match probe::run(&config) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failed(&error),
    }
}

fn attach(args: &AttachArgs) -> ExitCode {
    let settings = match args.settings() {
        Ok(settings) => settings,
        Err(error) if error.is_usage() => return usage(&error),
        Err(error) => return failed(&error),
    };
    match settings.run() {
        Ok(warnings) => {
            for warning in warnings {
                telemetry::last_line(&format_args!("udp-echo: warning: {warning}"));
            }
            say(&format!("attached to {}", settings.interfaces.join(", ")))
        }
        Err(error) if error.is_usage() => usage(&error),
        Err(error) => failed(&error),
    }
}

fn detach(args: &DetachArgs) -> ExitCode {
    match kernel_echo::detach(&args.pins, &args.interface) {
        Ok(detached) if detached.is_empty() => say(&format!(
            "nothing to detach: no such pins in {}",
            args.pins.display()
        )),
        Ok(detached) => say(&format!("detached from {}", detached.join(", "))),
        Err(error) => failed(&error),
    }
}

/// Prints a line. It is no failure if it is not read.
fn say(line: &str) -> ExitCode {
    let _ = writeln!(std::io::stdout(), "{line}");
    ExitCode::SUCCESS
}

fn serve(args: &Args) -> ExitCode {
    let inherited = match Inherited::take() {
        Ok(inherited) => inherited,
        Err(error) => return failed(&error),
    };
    let config = match args.config() {
        Ok(config) => config,
        Err(error) => return usage(&error),
    };
    let log = match telemetry::start(&args.log, args.log_format()) {
        Ok(log) => log,
        Err(error) => return failed(&error),
    };
    if let Some(warning) = args.warning() {
        tracing::warn!("{warning}");
    }
    let ended = daemon::run(&config, inherited, &log);
    drop(log);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_usage() => usage(&error),
        Err(error) => failed(&error),
    }
}

fn watch(all: &Args, args: &MonitorArgs) -> ExitCode {
    let targets = match args.targets() {
        Ok(targets) => targets,
        Err(error) => return usage(&error),
    };
    let log = match telemetry::start(&args.log, args.log_format()) {
        Ok(log) => log,
        Err(error) => return failed(&error),
    };
    if let Some(warning) = all.warning() {
        tracing::warn!("{warning}");
    }
    let reload = || args.targets().map_err(|error| error.to_string());
    let ended = monitor::run(&args.config(), targets, &reload, &log);
    drop(log);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Prints the error of a setting.
fn usage(error: &dyn Display) -> ExitCode {
    failed(error);
    ExitCode::from(2)
}

/// Prints the error to standard error, independent of the log settings.
fn failed(error: &dyn Display) -> ExitCode {
    telemetry::last_line(&format_args!("udp-echo: {error}"));
    ExitCode::FAILURE
}
