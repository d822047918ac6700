//! The manual pages: templates in `manual/`, and what the code knows of options and metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use clap::{Arg, Command};
use udp_echo::cli;
use udp_echo::kernel_echo::KernelCounts;
use udp_echo::metrics::{
    Clocks, Counts, KernelMetrics, Metrics, MetricsSources, SocketReading, WorkerMetrics,
};
use udp_echo::worker::StampClock;

const TEMPLATES: [(&str, &str); 3] = [
    ("udp-echo.8", include_str!("manual/udp-echo.8.in")),
    (
        "udp-echo-probe.1",
        include_str!("manual/udp-echo-probe.1.in"),
    ),
    (
        "udp-echo-monitor.8",
        include_str!("manual/udp-echo-monitor.8.in"),
    ),
];

/// The file name and the text of each page.
pub(crate) fn pages() -> io::Result<Vec<(&'static str, String)>> {
    let page = |(name, template): (&'static str, &str)| {
        let mut text = String::new();
        for line in template.lines() {
            let directive = line
                .strip_prefix('@')
                .and_then(|line| line.strip_suffix('@'));
            match directive {
                Some(directive) => text += &generated(directive)?,
                None => text.extend([line, "\n"]),
            }
        }
        Ok((name, text))
    };
    TEMPLATES.into_iter().map(page).collect()
}

fn generated(directive: &str) -> io::Result<String> {
    let (what, rest) = directive.split_once(' ').unwrap_or((directive, ""));
    match what {
        "TITLE" => title(rest),
        "SYNOPSIS" => Ok(synopsis(rest)),
        "OPTIONS" => Ok(command(rest).get_arguments().map(entry).collect()),
        "METRICS" => metrics(),
        _ => Err(io::Error::other(format!("unknown directive {directive}"))),
    }
}

/// The page's title, with the date and version of the newest entry of `changelog`.
fn title(rest: &str) -> io::Result<String> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let date = || {
        let line = include_str!("changelog")
            .lines()
            .find(|line| line.starts_with(" -- "))?;
        let mut words = line.split(", ").nth(1)?.split(' ');
        let [day, month, year] = [words.next()?, words.next()?, words.next()?];
        let month = MONTHS.find(month)? / 3 + 1;
        Some(format!("{year}-{month:02}-{day:0>2}"))
    };
    let date = date().ok_or_else(|| io::Error::other("packaging/changelog has no date"))?;
    let (start, manual) = rest.split_once(" \"").unwrap_or((rest, ""));
    let version = env!("CARGO_PKG_VERSION");
    Ok(format!(
        ".TH {start} {date} \"udp\\-echo {version}\" \"{manual}\n"
    ))
}

/// The daemon's command, or that of the client.
fn command(name: &str) -> Command {
    let command = cli::command();
    match name
        .split_once(' ')
        .and_then(|(_, name)| command.find_subcommand(name))
    {
        Some(subcommand) => subcommand.clone(),
        None => command,
    }
}

fn synopsis(name: &str) -> String {
    let line = |argument: &Arg| {
        let value = escaped(&value(argument));
        let name = match (argument.get_long(), argument.get_short()) {
            (Some(long), _) => format!("--{long}"),
            (None, Some(letter)) => format!("-{letter}"),
            (None, None) => return format!(".I {value}\n"),
        };
        let line = format!(".OP {} {value}", escaped(&name));
        line.trim_end().to_owned() + "\n"
    };
    let lines: String = command(name).get_arguments().map(line).collect();
    let name = escaped(name).replace(' ', "\\ ");
    format!(".SY {name}\n{lines}.YS\n")
}

/// The name of an argument's value; empty for a flag.
fn value(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    let takes_values = argument.get_action().takes_values();
    let name = names
        .first()
        .map(ToString::to_string)
        .filter(|_| takes_values);
    let id = argument.get_id().as_str().to_uppercase();
    name.unwrap_or(if takes_values { id } else { String::new() })
}

/// An option with its long help.
fn entry(argument: &Arg) -> String {
    let letter = argument.get_short().map(|letter| format!("-{letter}"));
    let long = argument.get_long().map(|long| format!("--{long}"));
    let names: Vec<_> = letter.into_iter().chain(long).collect();
    if names.is_empty() {
        return String::new();
    }
    let names = names
        .iter()
        .map(|name| format!("\\fB{}\\fR", escaped(name)));
    let mut text = format!(".TP\n{}", names.collect::<Vec<_>>().join(", "));
    let value = value(argument);
    if !value.is_empty() {
        text.extend([" \\fI", &escaped(&value), "\\fR"]);
    }
    let help = argument.get_long_help().map(ToString::to_string);
    let help = help.unwrap_or_default();
    for (index, paragraph) in help.split("\n\n").enumerate() {
        text += match (index, list(paragraph)) {
            (_, Some(list)) => format!("\n{list}"),
            (0, None) => format!("\n{}", prose(paragraph)),
            (_, None) => format!("\n.IP\n{}", prose(paragraph)),
        }
        .as_str();
    }
    text + "\n"
}

/// The possible values of an option, if the paragraph is their list.
fn list(paragraph: &str) -> Option<String> {
    let item = |line: &str| {
        let (name, help) = line.strip_prefix("- ")?.split_once(": ")?;
        Some(format!(".TP\n.B {}\n{}.\n", escaped(name), prose(help)))
    };
    let items = paragraph.lines().map(item).collect::<Option<String>>()?;
    Some(format!(".RS\n{items}.RE"))
}

/// Text as roff source, wrapped at 80 columns, with options in bold.
fn prose(text: &str) -> String {
    let text = text
        .replace("[env: ", "Environment: ")
        .replace("] [default: ", "; default: ");
    let text = if text.starts_with("Environment: ") {
        text.trim_end_matches(']')
    } else {
        &text
    };
    let mut lines = String::new();
    let mut width = 0;
    for word in text.split_whitespace() {
        let name = word.trim_end_matches(['.', ',', ';', ':', ')']);
        let is_option = name.starts_with("--");
        let is_capitals = name.len() > 1 && name.ends_with(char::is_uppercase);
        let is_name = is_option || is_capitals || name.contains(['_', ',']);
        let [name, rest] = [name, &word[name.len()..]].map(escaped);
        let name = if is_option {
            format!("\\fB{name}\\fR")
        } else {
            name
        };
        // Names are easier to find and to copy without hyphenation.
        let hyphenation = if is_name { "\\%" } else { "" };
        let word = hyphenation.to_owned() + &name + &rest;
        let sentence_ends = lines.ends_with('.');
        if width > 0 && (sentence_ends || width + 1 + word.len() > 80) {
            lines.push('\n');
            width = 0;
        } else if width > 0 {
            lines.push(' ');
            width += 1;
        }
        width += word.len();
        lines += &word;
    }
    lines
}

/// Text that roff shows literally.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    text.replace('\'', "\\(aq")
}

/// Each metric with its type, labels and help, as `/metrics` has them.
fn metrics() -> io::Result<String> {
    let exposition = exposition().map_err(io::Error::other)?;
    let entries = exposition.split("# HELP ").skip(1).filter_map(metric);
    let (process, own): (Vec<_>, Vec<_>) = entries.partition(|text| text.contains("fBprocess_"));
    Ok(own.concat() + &process.concat())
}

/// An entry from the part of the exposition after `# HELP `.
fn metric(part: &str) -> Option<String> {
    let (help, rest) = part.split_once("\n# TYPE ")?;
    let (name, help) = help.split_once(' ')?;
    let (kind, series) = rest.split_once('\n')?;
    let kind = kind.strip_prefix(name)?.trim();
    let labels = labels(series);
    let mut text = format!(".TP\n\\fB{name}\\fR");
    if !labels.is_empty() {
        let keys: Vec<_> = labels.keys().map(|key| format!("\\fI{key}\\fR")).collect();
        text.extend([" (", &keys.join(", "), ")"]);
    }
    let help = format!("{}: {help}", capital(kind));
    text.extend(["\n", &prose(&help), "\n"]);
    for (key, values) in labels {
        if ["reason", "waiting_for", "error", "type", "fault"].contains(&key) {
            let values = values.into_iter().collect::<Vec<_>>().join(", ");
            let values = prose(&format!("is one of {values}."));
            text.extend([".I ", key, "\n", &values, "\n"]);
        }
    }
    Some(text)
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

/// The labels of a metric's series and their values; `le` belongs to the type.
fn labels(series: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut labels: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    let series = series.lines().filter_map(|line| line.split_once('{'));
    for (_, series) in series {
        let pairs = series.split('}').next().unwrap_or_default().split(',');
        for (key, value) in pairs.filter_map(|pair| pair.split_once('=')) {
            if key != "le" {
                labels
                    .entry(key)
                    .or_default()
                    .insert(value.trim_matches('"'));
            }
        }
    }
    labels
}

/// The metrics of a daemon with one worker and every optional metric.
fn exposition() -> prometheus::Result<String> {
    Metrics::new(MetricsSources {
        workers: vec![WorkerMetrics {
            listen: "127.0.0.1:9999".into(),
            worker: "0".into(),
            counts: Arc::new(Counts::default()),
            requested: [Some(1); 2],
            read_socket: Box::new(|| {
                Ok(SocketReading {
                    buffers: [1; 2],
                    receive_queue: 0,
                    drops: 0,
                })
            }),
        }],
        kernel: Some(kernel()),
        timestamps: true,
        stamp_clock: Some(StampClock::NotSynchronized),
        config_info: ["mode", "timeout", "offload", "kernel_echo"]
            .map(|label| (label, String::new()))
            .into(),
        dropped_log_lines: Arc::default(),
        read_limits: || [Some(1); 2],
        started: clocks(),
        clocks,
        last: std::sync::Mutex::default(),
    })?
    .text()
}

/// A program of the kernel path on one interface.
fn kernel() -> KernelMetrics {
    let counts = || KernelCounts {
        listen: ([127, 0, 0, 1], 9999).into(),
        interface: "eth0".into(),
        datagrams: 0,
        bytes: 0,
        passed: 0,
        since_last: None,
        last: 0,
    };
    KernelMetrics::new(
        Box::new(move || vec![counts()]),
        Box::new(|| vec![("eth0".into(), true)]),
        |address| address.to_string(),
    )
}

#[expect(
    clippy::disallowed_methods,
    reason = "any time: only names and labels are used"
)]
fn clocks() -> Clocks {
    Clocks {
        monotonic: Instant::now(),
        since_boot: Duration::ZERO,
        today: SystemTime::UNIX_EPOCH,
    }
}
