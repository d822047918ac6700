//! The settings of a table of the monitor's file, each checked by itself.

use std::path::PathBuf;
use std::time::Duration;

use super::document::{Table, Value};
use super::targets::Fault;
use crate::address::Family;
use crate::cli::dscp;
use crate::cli::probe::Target;
use crate::cli::probe::stamp::ssid;
use crate::cli::probe::values::{request_size, source, time};
use crate::cli::values::{number, path};
use crate::reflect::Mode;
use crate::telemetry::is_control;
use crate::udp::Source;

/// A setting and its place.
#[derive(Debug, Clone)]
pub(super) struct Set<T> {
    pub(super) value: T,
    /// The line in the file; 0 is the command line.
    pub(super) line: usize,
    /// The setting as an error shows it.
    pub(super) shown: String,
}

/// The settings of a table.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) name: Option<Set<String>>,
    pub(super) address: Option<Set<Target>>,
    pub(super) mode: Option<Set<Mode>>,
    pub(super) interval: Option<Set<Duration>>,
    pub(super) flows: Option<Set<u16>>,
    pub(super) size: Option<Set<u16>>,
    pub(super) wait: Option<Set<Duration>>,
    pub(super) dscp: Option<Set<u8>>,
    pub(super) family: Option<Set<Family>>,
    pub(super) all_addresses: Option<Set<bool>>,
    pub(super) per_flow: Option<Set<bool>>,
    pub(super) source: Option<Set<Source>>,
    pub(super) ttl: Option<Set<u8>>,
    pub(super) ssid: Option<Set<u16>>,
    pub(super) key_file: Option<Set<PathBuf>>,
}

impl Settings {
    /// Parses the values of a table.
    ///
    /// # Errors
    /// If a value is not one of its key.
    pub(super) fn of(table: &Table) -> Result<Self, Fault> {
        Ok(Self {
            name: get(table, "name", |value| text(value).and_then(label))?,
            address: get(table, "address", |value| match value {
                Value::Text(text) => text.parse(),
                _ => Err("expected HOST[:PORT] in quotes".to_owned()),
            })?,
            mode: get(table, "mode", |value| {
                let mode = Mode::ALL
                    .into_iter()
                    .find(|mode| is_text(value, mode.name()));
                mode.ok_or("expected \"exchange\", \"lockstep\", \"echo\" or \"stamp\"")
            })?,
            interval: get(table, "interval", duration)?,
            flows: get(table, "flows", |value| number(1..=4096)(integer(value)))?,
            size: get(table, "size", |value| request_size(text_or_integer(value)))?,
            wait: get(table, "wait", duration)?,
            dscp: get(table, "dscp", |value| dscp::dscp(text_or_integer(value)))?,
            family: get(table, "family", |value| {
                let families = [
                    ("any", Family::Any),
                    ("ipv4", Family::Ipv4),
                    ("ipv6", Family::Ipv6),
                ];
                let family = families.into_iter().find(|(name, _)| is_text(value, name));
                let family = family.map(|(_, family)| family);
                family.ok_or("expected \"any\", \"ipv4\" or \"ipv6\"")
            })?,
            all_addresses: get(table, "all_addresses", boolean)?,
            per_flow: get(table, "per_flow", boolean)?,
            source: get(table, "source", |value| {
                text(value).and_then(|text| source(text).map_err(str::to_owned))
            })?,
            ttl: get(table, "ttl", |value| number(1..=255)(integer(value)))?,
            ssid: get(table, "ssid", |value| ssid(text_or_integer(value)))?,
            key_file: get(table, "key_file", |value| {
                text(value).and_then(|text| path(text).map_err(str::to_owned))
            })?,
        })
    }
}

/// Parses the value of a key, if the table has it.
fn get<T, E: std::fmt::Display>(
    table: &Table,
    key: &str,
    parse: impl Fn(&Value) -> Result<T, E>,
) -> Result<Option<Set<T>>, Fault> {
    let Some(entry) = table.entries.get(key) else {
        return Ok(None);
    };
    let shown = format!("{key} = {}", entry.value);
    match parse(&entry.value) {
        Ok(value) => Ok(Some(Set {
            value,
            line: entry.line,
            shown,
        })),
        Err(expected) => Err(Fault {
            line: entry.line,
            message: format!("cannot use {shown}: {expected}"),
        }),
    }
}

fn is_text(value: &Value, expected: &str) -> bool {
    matches!(value, Value::Text(text) if text == expected)
}

fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::Text(text) => Ok(text),
        _ => Err("expected a string in quotes".to_owned()),
    }
}

/// The digits of an integer, or a text that no parser of numbers accepts.
fn integer(value: &Value) -> &str {
    match value {
        Value::Integer(digits) => digits,
        _ => "",
    }
}

fn text_or_integer(value: &Value) -> &str {
    match value {
        Value::Text(text) => text,
        value => integer(value),
    }
}

/// A time with a unit, or a number of seconds.
fn duration(value: &Value) -> Result<Duration, &'static str> {
    match value {
        Value::Text(text) | Value::Integer(text) | Value::Fraction(text) => time(text),
        _ => time(""),
    }
}

fn boolean(value: &Value) -> Result<bool, &'static str> {
    match value {
        Value::Boolean(boolean) => Ok(*boolean),
        _ => Err("expected true or false"),
    }
}

/// A name, as the label `target` has it.
fn label(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(is_control) {
        return Err("expected a non-empty string without control characters".to_owned());
    }
    Ok(text.to_owned())
}

/// A mode as the file sets it.
pub(super) fn shown_mode(mode: Mode) -> String {
    format!("mode = {:?}", mode.name())
}
