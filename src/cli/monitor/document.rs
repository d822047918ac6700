//! The monitor's file as TOML: its tables with the line of each value.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::targets::UnusableTargets;
use crate::cli::regular_file::{self, FileFault};

/// Larger than the file of the most targets with all keys.
const MAX_BYTES: u64 = 64 << 20;

/// The tables of the file.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) defaults: Table,
    pub(super) targets: Vec<Table>,
}

/// A table: its line, and its entries by their keys.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) line: usize,
    pub(super) entries: BTreeMap<&'static str, Entry>,
}

/// An entry of a table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) line: usize,
    pub(super) value: Value,
}

/// A value of a type that some key has. Numbers are texts, for the parsers of options.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Integer(String),
    Fraction(String),
    Boolean(bool),
    /// A value of another type, by the name of its type.
    Other(&'static str),
}

/// The keys of a target, as the documents list them.
pub(super) const KEYS: [&str; 15] = [
    "name",
    "address",
    "mode",
    "interval",
    "flows",
    "size",
    "wait",
    "dscp",
    "family",
    "all_addresses",
    "per_flow",
    "source",
    "ttl",
    "ssid",
    "key_file",
];

/// Reads and parses a file.
pub(super) fn read(path: &Path) -> Result<Document, UnusableTargets> {
    let shown = path.display();
    let unreadable =
        |cause| format!("cannot read {shown}: {cause}; check its path and permissions");
    let (file, _) = regular_file::open(path, MAX_BYTES).map_err(|fault| match fault {
        FileFault::Unreadable(cause) => unreadable(cause),
        FileFault::Kind => {
            format!("cannot use {shown}: it is not a regular file of at most 64 MiB")
        }
    })?;
    let mut bytes = Vec::new();
    let mut file = file.take(MAX_BYTES);
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    let text = str::from_utf8(&bytes).map_err(|error| {
        let line = line_at(&bytes, error.valid_up_to());
        format!("{shown}:{line}: the text is not UTF-8; correct it")
    })?;
    Document::parse(text).map_err(|(line, message)| format!("{shown}:{line}: {message}").into())
}

impl Document {
    /// Parses the text of a file.
    ///
    /// # Errors
    /// The line of the first error, and its text.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let lines = Lines::of(text);
        let table = DeTable::parse(text).map_err(|error| {
            let span = error.span().unwrap_or_default();
            (lines.number(span.start), not_toml(text, &error, span))
        })?;
        let mut document = Self::default();
        for (key, value) in in_order(table.get_ref()) {
            let line = lines.number(key.span().start);
            match (&**key.get_ref(), value.get_ref()) {
                ("defaults", DeValue::Table(table)) => {
                    document.defaults = Table::of(table, line, "[defaults]", &lines)?;
                }
                ("target", DeValue::Array(targets)) => {
                    for target in targets {
                        let line = lines.number(target.span().start);
                        let DeValue::Table(table) = target.get_ref() else {
                            return Err((line, "cannot use target: expected [[target]]".into()));
                        };
                        let table = Table::of(table, line, "[[target]]", &lines)?;
                        document.targets.push(table);
                    }
                }
                ("defaults", _) => {
                    return Err((line, "cannot use defaults: expected [defaults]".into()));
                }
                ("target", _) => {
                    return Err((line, "cannot use target: expected [[target]]".into()));
                }
                (key, _) => {
                    let key = format!("{key:?}");
                    let expected = "expected [defaults] or [[target]]";
                    return Err((line, format!("unknown key {}; {expected}", bare(&key))));
                }
            }
        }
        Ok(document)
    }
}

impl Table {
    fn of(
        table: &DeTable<'_>,
        line: usize,
        title: &str,
        lines: &Lines,
    ) -> Result<Self, (usize, String)> {
        let mut entries = BTreeMap::new();
        for (key, value) in in_order(table) {
            let line = lines.number(key.span().start);
            let name = &**key.get_ref();
            let known = KEYS.iter().find(|known| **known == name);
            let Some(known) = known else {
                let keys = KEYS.join(", ");
                let name = format!("{name:?}");
                let name = bare(&name);
                return Err((
                    line,
                    format!("unknown key {name} in {title}; expected {keys}"),
                ));
            };
            let value = Value::of(value.get_ref());
            entries.insert(*known, Entry { line, value });
        }
        Ok(Self { line, entries })
    }
}

impl Value {
    fn of(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Integer(number) => {
                let decimal = i128::from_str_radix(number.as_str(), number.radix());
                // A number beyond all ranges stays one.
                Self::Integer(decimal.map_or_else(|_| number.to_string(), |it| it.to_string()))
            }
            DeValue::Float(number) => Self::Fraction(number.as_str().to_owned()),
            DeValue::Boolean(boolean) => Self::Boolean(*boolean),
            DeValue::Datetime(_) => Self::Other("a date or time"),
            DeValue::Array(_) => Self::Other("an array"),
            DeValue::Table(_) => Self::Other("a table"),
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // Debug output escapes control characters.
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Integer(number) | Self::Fraction(number) => f.write_str(number),
            Self::Boolean(boolean) => boolean.fmt(f),
            Self::Other(kind) => f.write_str(kind),
        }
    }
}

/// The entries of a table in the order of the file.
fn in_order<'a, 'i>(
    table: &'a DeTable<'i>,
) -> Vec<(
    &'a Spanned<std::borrow::Cow<'i, str>>,
    &'a Spanned<DeValue<'i>>,
)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// A key without its quotes, if it needs none.
fn bare(quoted: &str) -> &str {
    let inner = quoted.trim_matches('"');
    let is_bare = |char: char| char.is_ascii_alphanumeric() || "-_".contains(char);
    if !inner.is_empty() && inner.chars().all(is_bare) {
        inner
    } else {
        quoted
    }
}

/// The error of a text that is not TOML, as one line.
fn not_toml(text: &str, error: &toml::de::Error, span: Range<usize>) -> String {
    const MOST: usize = 40;
    let place = text.get(span).unwrap_or_default();
    let place = place.lines().next().unwrap_or_default().trim();
    let place: String = place.chars().take(MOST).collect();
    let mut message = format!("not TOML: {}", error.message().replace('\n', " "));
    if !place.is_empty() {
        // Writing to a string cannot fail.
        let _ = write!(message, ", at {place:?}");
    }
    message
}

/// The starts of a text's lines.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        let ends = text.match_indices('\n').map(|(end, _)| end + 1);
        Self(std::iter::once(0).chain(ends).collect())
    }

    /// The number of the line with a byte, from 1.
    fn number(&self, byte: usize) -> usize {
        self.0.partition_point(|start| *start <= byte)
    }
}

/// The number of the line with a byte, from 1.
fn line_at(text: &[u8], byte: usize) -> usize {
    let newlines = text[..byte].iter().filter(|byte| **byte == b'\n');
    newlines.count() + 1
}
