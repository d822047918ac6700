//! The charts of the status page, as SVG.

use std::fmt::Write;
use std::time::Instant;

use super::history::{WIDTH, rate};
use super::{Line, shown};
use crate::metrics::MetricsSummary;

/// Writes a chart of the rates between samples, the newest at the right.
pub(super) fn write_chart(
    out: &mut String,
    title: &str,
    samples: &[(Instant, MetricsSummary)],
    lines: &[Line],
) -> std::fmt::Result {
    let rates = |count: fn(&MetricsSummary) -> u64| -> Vec<f64> {
        samples.windows(2).map(|pair| rate(pair, count)).collect()
    };
    let all: Vec<_> = lines.iter().map(|(.., count)| rates(*count)).collect();
    let most = all.iter().flatten().copied().fold(0.0, f64::max);
    let (top, width) = (round_above(most), WIDTH.as_secs());
    write!(out, "<figure>\n<figcaption><b>{title}</b> <span>")?;
    for (class, name, _) in lines {
        write!(out, "<span class=\"key {class}\">{name}</span>")?;
    }
    writeln!(
        out,
        "</span></figcaption>\n<div class=\"plot\"><span class=\"top\" aria-hidden=\"true\">{}</span>\n\
         <svg viewBox=\"0 0 {width} 100\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"{title}, last 5 minutes, maximum {}\">",
        shown(top),
        shown(most)
    )?;
    let at = |sample: usize| {
        let age = samples[samples.len() - 1].0 - samples[sample].0;
        WIDTH.as_secs_f64() - age.as_secs_f64()
    };
    for ((class, ..), rates) in lines.iter().zip(&all) {
        let mut points = String::new();
        for (index, rate) in rates.iter().enumerate() {
            write!(
                points,
                "{:.0},{:.1} ",
                at(index + 1),
                99.0 - 98.0 * rate / top
            )?;
        }
        if !rates.is_empty() {
            let start = at(1);
            writeln!(
                out,
                "<polygon class=\"{class}\" points=\"{start:.0},100 {points}{width},100\"/>"
            )?;
        }
        writeln!(out, "<polyline class=\"{class}\" points=\"{points}\"/>")?;
    }
    out.push_str(
        "</svg>\n<div class=\"ends\" aria-hidden=\"true\"><span>5 minutes ago</span><span>now</span></div>\
         </div>\n</figure>\n",
    );
    Ok(())
}

/// The top of a chart: the smallest of 1, 2, 5, 10, 20 and so on that is not below `rate`, so that
/// the scale seldom changes.
fn round_above(rate: f64) -> f64 {
    let mut unit = 1.0;
    loop {
        for digit in [1.0, 2.0, 5.0] {
            if digit * unit >= rate {
                return digit * unit;
            }
        }
        unit *= 10.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chart_scale_ends_at_a_round_number() {
        for (rate, top) in [
            (0.0, 1.0),
            (1.0, 1.0),
            (1.2, 2.0),
            (20.5, 50.0),
            (870.0, 1000.0),
            (1e12, 1e12),
        ] {
            assert!((round_above(rate) - top).abs() < 1e-9, "{rate}");
        }
    }
}
