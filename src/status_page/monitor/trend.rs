//! The small chart of an address: loss and round-trip time over the last minutes, as SVG.

use std::fmt::Write;

use crate::monitor::recent::{Counts, PERIOD, PERIODS};
use crate::probe::Percent;
use crate::status_page::format::rough_time;
use crate::status_page::tables::escaped;

/// Width of a period, and height of the chart.
const STEP: usize = 10;
const HEIGHT: f64 = 40.0;
/// Height of the smallest bar: a single lost request must be visible.
const SMALLEST: f64 = 4.0;

/// Writes a bar of loss for each period, and the line of the mean round-trip times. Writes nothing
/// if no request is answered or lost yet.
pub(super) fn write_trend(out: &mut String, periods: &[Counts; PERIODS]) -> std::fmt::Result {
    let Some(title) = title(periods) else {
        return Ok(());
    };
    write!(
        out,
        "<svg class=\"trend\" viewBox=\"0 0 {} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\">\
         <title>{title}</title>",
        STEP * PERIODS,
    )?;
    for (class, data) in [("loss", bars(periods)?), ("rtt", line(periods)?)] {
        if !data.is_empty() {
            write!(out, "<path class=\"{class}\" d=\"{data}\"/>")?;
        }
    }
    out.push_str("</svg>");
    Ok(())
}

/// The chart in words.
fn title(periods: &[Counts; PERIODS]) -> Option<String> {
    let known = periods.iter().filter(|counts| counts.finished() > 0);
    let known: Vec<_> = known.collect();
    let losing = known.iter().filter(|counts| counts.lost > 0);
    let worst = losing
        .clone()
        .map(|counts| Percent(counts.lost.into(), counts.finished()));
    let worst = worst.max_by(|a, b| share(a).total_cmp(&share(b)));
    let losses = match worst {
        None => "no loss".to_owned(),
        Some(worst) => format!(
            "loss in {} of {} {} of {} s, up to {}",
            losing.count(),
            known.len(),
            if known.len() == 1 {
                "period"
            } else {
                "periods"
            },
            PERIOD.as_secs(),
            escaped(&worst.to_string()),
        ),
    };
    let means: Vec<_> = known
        .iter()
        .filter_map(|counts| counts.mean_rtt())
        .collect();
    let least = means.iter().copied().min_by(f64::total_cmp);
    let most = means.iter().copied().max_by(f64::total_cmp);
    let times = match (least.map(rough_time), most.map(rough_time)) {
        (Some(least), Some(most)) if least == most => format!("mean round-trip time {most}"),
        (Some(least), Some(most)) => format!("mean round-trip time {least} to {most}"),
        _ => "no replies".to_owned(),
    };
    (!known.is_empty()).then(|| format!("{losses}; {times}"))
}

/// The part of the requests that were lost.
#[expect(clippy::cast_precision_loss, reason = "a ratio")]
fn share(&Percent(lost, finished): &Percent) -> f64 {
    lost as f64 / finished as f64
}

/// A bar from the bottom for each period with loss.
fn bars(periods: &[Counts; PERIODS]) -> Result<String, std::fmt::Error> {
    let mut bars = String::new();
    for (period, counts) in periods.iter().enumerate() {
        if counts.lost > 0 {
            let share = share(&Percent(counts.lost.into(), counts.finished()));
            let top = HEIGHT - (HEIGHT * share).max(SMALLEST);
            let (left, width) = (period * STEP + 1, STEP - 2);
            write!(bars, "M{left},{HEIGHT}V{top:.0}h{width}V{HEIGHT}")?;
        }
    }
    Ok(bars)
}

/// A level for each period with replies, joined to the one before. The scale goes from 0 to the
/// highest mean.
fn line(periods: &[Counts; PERIODS]) -> Result<String, std::fmt::Error> {
    let means = periods.iter().map(Counts::mean_rtt);
    let highest = means.clone().flatten().fold(f64::MIN_POSITIVE, f64::max);
    let (mut line, mut is_joined) = (String::new(), false);
    for (period, mean) in means.enumerate() {
        if let Some(mean) = mean {
            let y = HEIGHT - 2.0 - (HEIGHT - 4.0) * mean / highest;
            if is_joined {
                write!(line, "V{y:.0}h{STEP}")?;
            } else {
                write!(line, "M{},{y:.0}h{STEP}", period * STEP)?;
            }
        }
        is_joined = mean.is_some();
    }
    Ok(line)
}
