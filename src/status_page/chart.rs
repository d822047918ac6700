//! The charts of the status page, as SVG.

use std::fmt::Write;
use std::time::Instant;

use super::Line;
use super::format::shown;
use super::history::{WIDTH, rate};
use crate::metrics::MetricsSummary;

/// A chart of the rates between samples, the newest at the right.
struct Chart<'a> {
    samples: &'a [(Instant, MetricsSummary)],
    top: f64,
}

/// Writes a chart. Each sample with `faults` also has a mark over the full height: faults are rare
/// beside the other lines, and must be visible on any scale.
pub(super) fn write_chart(
    out: &mut String,
    title: &str,
    samples: &[(Instant, MetricsSummary)],
    lines: &[Line],
    faults: Option<Line>,
) -> std::fmt::Result {
    let rates = |line: &Line| -> Vec<f64> {
        let pairs = samples.windows(2);
        pairs.map(|pair| rate(pair, line.2)).collect()
    };
    let most = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
    let faults = faults.map(|line| (line, rates(&line)));
    let lines: Vec<_> = lines.iter().map(|line| (*line, rates(line))).collect();
    let all = || faults.iter().chain(&lines);
    let top = round_above(all().map(|(_, rates)| most(rates)).fold(0.0, f64::max));
    write!(out, "<figure>\n<figcaption><b>{title}</b> <span>")?;
    for ((class, name, _), rates) in all() {
        let most = shown(most(rates));
        write!(
            out,
            "<span class=\"key {class}\">{name}, max {most}</span> "
        )?;
    }
    writeln!(
        out,
        "</span></figcaption>\n<div class=\"plot\"><span class=\"top\" aria-hidden=\"true\">{}</span>\n\
         <svg viewBox=\"0 0 {} 100\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"{title}, last 5 minutes\">",
        shown(top),
        WIDTH.as_secs(),
    )?;
    let chart = Chart { samples, top };
    for ((class, ..), rates) in &lines {
        chart.write_line(out, class, rates)?;
    }
    // Drawn last, above the other lines.
    if let Some(((class, ..), rates)) = &faults {
        chart.write_faults(out, class, rates)?;
    }
    let mark = faults.map_or(String::new(), |((_, name, _), _)| {
        format!("<span>vertical line: {name}</span>")
    });
    writeln!(
        out,
        "</svg>\n<div class=\"ends\" aria-hidden=\"true\"><span>5 minutes ago</span>{mark}\
         <span>now</span></div></div>\n</figure>"
    )
}

impl Chart<'_> {
    /// Writes a line and the area under it.
    fn write_line(&self, out: &mut String, class: &str, rates: &[f64]) -> std::fmt::Result {
        let mut points = String::new();
        for (index, rate) in rates.iter().enumerate() {
            write!(points, "{:.0},{:.1} ", self.x(index), self.y(*rate))?;
        }
        if !rates.is_empty() {
            let (start, width) = (self.x(0), WIDTH.as_secs());
            writeln!(
                out,
                "<polygon class=\"{class}\" points=\"{start:.0},100 {points}{width},100\"/>"
            )?;
        }
        writeln!(out, "<polyline class=\"{class}\" points=\"{points}\"/>")
    }

    /// Writes a line only where the rate is not 0, and a mark at each of these samples.
    fn write_faults(&self, out: &mut String, class: &str, rates: &[f64]) -> std::fmt::Result {
        let (mut line, mut marks) = (String::new(), String::new());
        let mut previous = None;
        for (index, rate) in rates.iter().enumerate() {
            let (x, y) = (self.x(index), self.y(*rate));
            if *rate > 0.0 {
                write!(marks, "M{x:.0},0V100")?;
            }
            if previous.is_some_and(|previous| previous > 0.0 || *rate > 0.0) {
                write!(line, "L{x:.0},{y:.1}")?;
            } else if *rate > 0.0 || rates.get(index + 1).is_some_and(|next| *next > 0.0) {
                write!(line, "M{x:.0},{y:.1}")?;
            }
            previous = Some(*rate);
        }
        writeln!(
            out,
            "<path class=\"{class} mark\" d=\"{marks}\"/>\n<path class=\"{class}\" d=\"{line}\"/>"
        )
    }

    /// The place of a rate in time: that of the sample at its end.
    fn x(&self, rate: usize) -> f64 {
        let age = self.samples[self.samples.len() - 1].0 - self.samples[rate + 1].0;
        WIDTH.as_secs_f64() - age.as_secs_f64()
    }

    fn y(&self, rate: f64) -> f64 {
        99.0 - 98.0 * rate / self.top
    }
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
    use crate::status_page::PERIOD;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn chart_marks_each_sample_with_drops_above_the_rest() {
        let start = Instant::now();
        let drawn = |counts: &[(u64, u64)]| {
            let (mut samples, mut sum) = (Vec::new(), MetricsSummary::default());
            for (index, (drops, refused)) in (0..).zip([(0, 0)].iter().chain(counts)) {
                sum.drops += drops;
                sum.refused[0] += refused;
                samples.push((start + index * PERIOD, sum));
            }
            let refused: Line = ("first", "refused", MetricsSummary::refused);
            let drops: Line = ("third", "dropped", |sum| sum.drops);
            let mut out = String::new();
            write_chart(&mut out, "Discarded", &samples, &[refused], Some(drops)).unwrap();
            let (rest, faults) = out.split_once("<path").unwrap();
            assert!(rest.contains("<polyline class=\"first\""), "{out}");
            assert!(!faults.contains("polyline"), "{out}");
            [1, 2].map(|path| {
                let data = faults.split(" d=\"").nth(path).unwrap();
                data.split('"').next().unwrap().to_owned()
            })
        };
        let none = [String::new(), String::new()];
        assert_eq!(drawn(&[]), none);
        assert_eq!(drawn(&[(0, 5), (0, 5)]), none);
        // One drop, a thousandth of the refusals: the line is flat, the mark is not.
        let [marks, line] = drawn(&[(0, 1000), (0, 1000), (1, 1000), (0, 1000), (0, 1000)]);
        assert_eq!(marks, "M294,0V100");
        assert_eq!(line, "M292,99.0L294,98.9L296,99.0");
        // Equal rates.
        let [marks, line] = drawn(&[(4, 4), (4, 4)]);
        assert_eq!(marks, "M296,0V100M298,0V100");
        assert_eq!(line, "M296,1.0L298,1.0");
    }

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
