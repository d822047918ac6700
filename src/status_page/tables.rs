//! The tables of the status page.

use std::fmt::Write;
use std::time::Instant;

use super::Line;
use super::facts::bad_unless_0;
use super::format::{grouped, shown, size};
use super::history::rate;
use crate::metrics::{ErrorCounts, KernelState, MetricsSummary, SocketState};
use crate::reflect::stamp::{TlvFault, TlvKind};
use crate::reflect::{Mode, Refusal};

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
        id: &str,
        name: &str,
        count: impl Fn(&MetricsSummary) -> u64,
    ) -> std::fmt::Result {
        self.write_row(" class=\"part\"", id, name, "", count)
    }

    /// Writes a row for TLVs, and one for each part, if it is not 0.
    fn write_tlvs<const N: usize>(
        &mut self,
        id: &str,
        label: &str,
        names: [&str; N],
        counts: fn(&MetricsSummary) -> [u64; N],
    ) -> std::fmt::Result {
        let totals = counts(self.summary);
        if totals == [0; N] {
            return Ok(());
        }
        self.write_row("", id, label, "", |sum| counts(sum).iter().sum())?;
        let parts = names.into_iter().enumerate();
        for (index, name) in parts.filter(|(index, _)| totals[*index] > 0) {
            self.write_part(&format!("{id}-{name}"), name, |sum| counts(sum)[index])?;
        }
        Ok(())
    }
}

/// Writes the table of datagrams by outcome. Errors have a row only once they occurred.
pub(super) fn write_counts(
    out: &mut String,
    mode: Mode,
    summary: &MetricsSummary,
    recent: &[(Instant, MetricsSummary)],
) -> std::fmt::Result {
    write_heading(out, "datagrams", "Datagrams")?;
    let mut table = Counts {
        out,
        summary,
        recent,
    };
    table.write_rows([
        ("received", "received", |sum| sum.received),
        ("echoed", "echoed", |sum| sum.echoed),
    ])?;
    if mode != Mode::Stamp {
        table.write_rows([
            ("decoded", "records decoded", |sum| sum.decoded),
            ("decode-errors", "decode errors", |sum| sum.decode_errors),
            ("empty", "empty", |sum| sum.empty),
        ])?;
    }
    table.write_rows([("refused", "refused", MetricsSummary::refused)])?;
    let possible = |reason: &Refusal| mode == Mode::Stamp || !reason.is_of_stamp();
    for reason in Refusal::ALL.into_iter().filter(possible) {
        let name = reason.name();
        table.write_part(name, name, |sum| sum.refused[reason as usize])?;
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
            table.write_part(name, name, |sum| sum.send_errors[index])?;
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

/// Writes the table of requests, sessions and TLVs of STAMP mode.
pub(super) fn write_stamp(
    out: &mut String,
    summary: &MetricsSummary,
    recent: &[(Instant, MetricsSummary)],
) -> std::fmt::Result {
    write_heading(out, "stamp", "STAMP")?;
    let mut table = Counts {
        out,
        summary,
        recent,
    };
    table.write_rows([
        ("uplink-lost", "requests lost on the way here", |sum| {
            sum.stamp.sessions.uplink.lost
        }),
        (
            "uplink-reordered",
            "requests reordered on the way here",
            |sum| sum.stamp.sessions.uplink.reordered,
        ),
        (
            "uplink-duplicates",
            "requests duplicated on the way here",
            |sum| sum.stamp.sessions.uplink.duplicates,
        ),
        (
            "sessions-reset",
            "sessions restarted by their sender",
            |sum| sum.stamp.sessions.reset,
        ),
    ])?;
    let unkept = |sum: &MetricsSummary| sum.stamp.sessions.unkept;
    let label = "requests answered without a session";
    let bad = bad_unless_0(unkept(summary));
    table.write_row("", "sessions-unkept", label, bad, unkept)?;
    let kinds = TlvKind::ALL.map(TlvKind::name);
    table.write_tlvs("tlvs", "TLVs", kinds, |sum| sum.stamp.tlvs.kinds)?;
    let faults = TlvFault::ALL.map(TlvFault::name);
    table.write_tlvs("tlv-faults", "TLV faults", faults, |sum| {
        sum.stamp.tlvs.faults
    })?;
    out.push_str(
        "</table>\n<p class=\"dim\">Only requests of a session can be counted as lost, reordered \
         or duplicated. With UDP_ECHO_STAMP_SEQUENCE=stateless there are no sessions.</p>\n",
    );
    Ok(())
}

/// Writes a heading and the start of its table of counters.
fn write_heading(out: &mut String, id: &str, title: &str) -> std::fmt::Result {
    writeln!(
        out,
        "<h2 id=\"{id}\">{title}</h2>\n<table aria-labelledby=\"{id}\">\n\
         <tr><td><th scope=\"col\">total<th scope=\"col\">per second"
    )
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

/// Writes the table of the programs of the kernel path.
pub(super) fn write_kernel_path(out: &mut String, programs: &[KernelState]) -> std::fmt::Result {
    out.push_str("<h2 id=\"kernel-path\">Kernel path</h2>\n");
    if programs.is_empty() {
        out.push_str("<p class=\"dim\">No program is in use: see the log.</p>\n");
        return Ok(());
    }
    out.push_str(
        "<div class=\"wide\" role=\"region\" aria-labelledby=\"kernel-path\" tabindex=\"0\">\
         <table aria-labelledby=\"kernel-path\">\n<tr><th scope=\"col\">interface\
         <th scope=\"col\">program<th scope=\"col\">echoed<th scope=\"col\">passed to the socket\
         <th scope=\"col\">address\n",
    );
    for program in programs {
        let KernelState {
            interface, listen, ..
        } = program;
        let state = if program.is_active {
            "<td>attached"
        } else {
            "<td class=\"bad\">not attached"
        };
        let [echoed, passed] = [program.echoed, program.passed].map(grouped);
        let interface = escaped(interface);
        writeln!(
            out,
            "<tr><th scope=\"row\">{interface}{state}<td>{echoed}<td>{passed}<td>{listen}"
        )?;
    }
    out.push_str(
        "</table></div>\n<p class=\"dim\">The counts above include these echoes. Firewalls, \
         connection tracking and tcpdump do not see them.</p>\n",
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
        let value = escaped(value);
        writeln!(out, "<tr><th scope=\"row\">{name}<td>{value}")?;
    }
    out.push_str("</table></div>\n");
    Ok(())
}

/// A text without markup.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_path_shows_each_program_and_its_state() {
        let shown = |programs: &[KernelState]| {
            let mut out = String::new();
            write_kernel_path(&mut out, programs).unwrap();
            out.replace('\u{202f}', " ")
        };
        assert!(shown(&[]).contains("No program is in use"));
        let program = |interface: &str, is_active| KernelState {
            interface: interface.into(),
            listen: "[::1]:9".into(),
            is_active,
            echoed: 12_345,
            passed: 6,
        };
        let table = shown(&[program("eth0", true), program("<1", false)]);
        for row in [
            "<th scope=\"row\">eth0<td>attached<td>12 345<td>6<td>[::1]:9\n",
            "<th scope=\"row\">&lt;1<td class=\"bad\">not attached<td>12 345<td>6<td>[::1]:9\n",
        ] {
            assert!(table.contains(row), "{row} in {table}");
        }
    }
}
