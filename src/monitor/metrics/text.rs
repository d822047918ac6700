//! The Prometheus text format 0.0.4, written line by line.
//!
//! The encoder of the prometheus crate needs a structure with several allocations for each series:
//! eight times the CPU time, which a scrape of thousands of targets takes from the probing thread.

use std::fmt::{Display, Write};

use crate::monitor::buckets::Buckets;

/// The labels of a series as text, without braces.
pub(super) fn labels(pairs: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        let comma = if out.is_empty() { "" } else { "," };
        let value = value.replace('\\', "\\\\").replace('\n', "\\n");
        let value = value.replace('"', "\\\"");
        // Writing to a String cannot fail.
        let _ = write!(out, "{comma}{name}=\"{value}\"");
    }
    out
}

/// The samples of one metric.
pub(super) struct Samples<'a> {
    out: &'a mut String,
    name: &'static str,
}

impl<'a> Samples<'a> {
    /// Writes the head of a metric.
    pub(super) fn of(
        out: &'a mut String,
        name: &'static str,
        help: &'static str,
        kind: &'static str,
    ) -> Self {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Self { out, name }
    }

    /// Writes a sample with these labels.
    pub(super) fn add(&mut self, labels: &str, value: impl Display) {
        self.write("", labels, None, &value);
    }

    /// Writes a sample that also has a label whose value needs no escape.
    pub(super) fn add_part(
        &mut self,
        labels: &str,
        label: &str,
        part: impl Display,
        value: impl Display,
    ) {
        self.write("", labels, Some((label, &part)), &value);
    }

    /// Writes all samples of a histogram.
    pub(super) fn add_histogram(&mut self, labels: &str, buckets: &Buckets) {
        for (bound, count) in buckets.cumulative() {
            self.write("_bucket", labels, Some(("le", &bound)), &count);
        }
        let count = buckets.count();
        self.write("_bucket", labels, Some(("le", &"+Inf")), &count);
        self.write("_sum", labels, None, &buckets.sum());
        self.write("_count", labels, None, &count);
    }

    fn write(
        &mut self,
        suffix: &str,
        labels: &str,
        last: Option<(&str, &dyn Display)>,
        value: &dyn Display,
    ) {
        let Self { out, name } = self;
        let comma = if labels.is_empty() { "" } else { "," };
        let _ = match last {
            Some((label, part)) => writeln!(
                out,
                "{name}{suffix}{{{labels}{comma}{label}=\"{part}\"}} {value}"
            ),
            None if labels.is_empty() => writeln!(out, "{name}{suffix} {value}"),
            None => writeln!(out, "{name}{suffix}{{{labels}}} {value}"),
        };
    }
}
