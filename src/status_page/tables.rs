//! The tables of the status page.

use std::fmt::Write;
use std::time::Instant;

use super::Line;
use super::facts::bad_unless_0;
use super::format::{grouped, shown, size};
use super::history::rate;
use crate::metrics::{ErrorCounts, MetricsSummary, SocketState};
use crate::reflect::Refusal;

/// The table of datagrams by outcome.
struct Counts<'a> {
    out: &'a mut String,
    summary: &'a MetricsSummary,
    recent: &'a [(Instant, MetricsSummary)],
}

impl Counts<'_> {
    fn write_rows<const N: usize>(&mut self, rows: [Line; N]) -> std::fmt::Result {
        let mut rows = rows.into_iter();
        rows.try_for_each(|(id, label, count)| self.write_row("", id, label, "", count))
    }

    /// Writes a row: the attributes and text of its heading, its id, the class of the total.
    fn write_row(
        &mut self,
        heading: &str,
        id: &str,
        label: &str,
        class: &str,
        count: impl Fn(&MetricsSummary) -> u64,
    ) -> std::fmt::Result {
        let total = grouped(count(self.summary));
        let rate = shown(rate(self.recent, count));
        writeln!(
            self.out,
            "<tr><th scope=\"row\"{heading}>{label}<td id=\"{id}\"{class}>{total}<td>{rate}"
        )
    }

    /// Writes a row for a part of the row above.
    fn write_part(
        &mut self,
        name: &str,
        count: impl Fn(&MetricsSummary) -> u64,
    ) -> std::fmt::Result {
        self.write_row(" class=\"part\"", name, name, "", count)
    }
}

/// Writes the table of datagrams by outcome. Errors have a row only once they occurred.
pub(super) fn write_counts(
    out: &mut String,
    summary: &MetricsSummary,
    recent: &[(Instant, MetricsSummary)],
) -> std::fmt::Result {
    out.push_str(
        "<h2 id=\"datagrams\">Datagrams</h2>\n<table aria-labelledby=\"datagrams\">\n\
         <tr><td><th scope=\"col\">total<th scope=\"col\">per second\n",
    );
    let mut table = Counts {
        out,
        summary,
        recent,
    };
    table.write_rows([
        ("received", "received", |sum| sum.received),
        ("echoed", "echoed", |sum| sum.echoed),
        ("decoded", "records decoded", |sum| sum.decoded),
        ("decode-errors", "decode errors", |sum| sum.decode_errors),
        ("empty", "empty", |sum| sum.empty),
        ("refused", "refused", MetricsSummary::refused),
    ])?;
    for reason in Refusal::ALL {
        table.write_part(reason.name(), |sum| sum.refused[reason as usize])?;
    }
    let bad = bad_unless_0(summary.send_errors());
    table.write_row(
        "",
        "send-errors",
        "send errors",
        bad,
        MetricsSummary::send_errors,
    )?;
    for (index, name) in ErrorCounts::names().enumerate() {
        if summary.send_errors[index] > 0 {
            table.write_part(name, |sum| sum.send_errors[index])?;
        }
    }
    table.write_rows([("truncated", "truncated (also counted above)", |sum| {
        sum.truncated
    })])?;
    let bad = bad_unless_0(summary.drops);
    table.write_row("", "drops", "dropped by the kernel", bad, |sum| sum.drops)?;
    out.push_str("</table>\n");
    Ok(())
}

/// Writes the table of sockets. The drops come first: a phone shows the first columns.
pub(super) fn write_sockets(out: &mut String, sockets: &[SocketState]) -> std::fmt::Result {
    out.push_str(
        "<h2 id=\"sockets\">Sockets</h2>\n<div class=\"wide\" role=\"region\" \
         aria-labelledby=\"sockets\" tabindex=\"0\">\
         <table aria-labelledby=\"sockets\">\n<tr><th scope=\"col\">address\
         <th scope=\"col\">worker<th scope=\"col\">dropped<th scope=\"col\">queued\
         <th scope=\"col\">receive buffer<th scope=\"col\">send buffer\n",
    );
    for socket in sockets {
        let SocketState {
            listen,
            worker,
            requested,
            reading,
        } = socket;
        write!(out, "<tr><th scope=\"row\">{listen}<td>{worker}")?;
        let Some(reading) = reading else {
            out.push_str("<td colspan=\"4\">unavailable\n");
            continue;
        };
        let [receive, send] = [0, 1].map(|buffer| {
            // The kernel doubles the size that it grants (socket(7)).
            let got = reading.buffers[buffer] / 2;
            let shown = size(got as u64);
            let Some(requested) = requested[buffer] else {
                return format!("<td>{shown}");
            };
            let class = if got < requested {
                " class=\"bad\""
            } else {
                ""
            };
            format!("<td{class}>{shown} (requested {})", size(requested as u64))
        });
        let queued = size(reading.receive_queue.into());
        let (bad, drops) = (bad_unless_0(reading.drops), grouped(reading.drops));
        writeln!(out, "<td{bad}>{drops}<td>{queued}{receive}{send}")?;
    }
    out.push_str(
        "</table></div>\n<p class=\"dim\">Queued includes the kernel's overhead: at most about \
         twice the receive buffer.</p>\n",
    );
    Ok(())
}

/// Writes the table of the options in force.
pub(super) fn write_options(out: &mut String, options: &[(String, String)]) -> std::fmt::Result {
    out.push_str(
        "<h2 id=\"options\">Options</h2>\n<div class=\"wide\" role=\"region\" \
         aria-labelledby=\"options\" tabindex=\"0\"><table aria-labelledby=\"options\">\n",
    );
    for (name, value) in options {
        let value = value.replace('&', "&amp;").replace('<', "&lt;");
        writeln!(out, "<tr><th scope=\"row\">{name}<td>{value}")?;
    }
    out.push_str("</table></div>\n");
    Ok(())
}
