//! Computes figures from samples, and formats tables.

use std::fmt::Write as _;
use std::time::Duration;

use crate::claims::{Bound, CLAIMS};
use crate::plan::{Figure, Load};
use crate::traffic::Sample;

/// The samples of one load: for each contender, one per round.
pub type Seen = Vec<Vec<Sample>>;

impl Figure {
    fn of(self, sample: &Sample, load: &Load) -> f64 {
        let echoes = sample.echoes as f64;
        let microseconds =
            |nanoseconds: Option<u32>| nanoseconds.map_or(f64::NAN, |time| f64::from(time) / 1e3);
        match self {
            Self::Rate => echoes / sample.time.as_secs_f64(),
            Self::Cpu => {
                sample.cpu.as_secs_f64() * 1e6 / echoes / f64::from(load.datagrams_per_echo)
            }
            Self::Median => microseconds(sample.rtt[0]),
            Self::Slow => microseconds(sample.rtt[1]),
        }
    }

    fn name(self, load: &Load) -> &'static str {
        match self {
            Self::Rate => "echoes per second",
            Self::Cpu if load.datagrams_per_echo > 1 => "CPU per datagram",
            Self::Cpu => "CPU per echo",
            Self::Median => "RTT p50",
            Self::Slow => "RTT p99",
        }
    }
}

/// Median, minimum and maximum.
pub struct Spread {
    pub median: f64,
    least: f64,
    greatest: f64,
}

impl Spread {
    pub fn of(numbers: impl Iterator<Item = f64>) -> Option<Self> {
        // No frame that circles has a round-trip time.
        let mut sorted: Vec<f64> = numbers.filter(|number| number.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (least, greatest) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self {
            median,
            least,
            greatest,
        })
    }

    pub fn show(&self) -> String {
        let Self {
            median,
            least,
            greatest,
        } = self;
        format!("{median:.2} ({least:.2}–{greatest:.2})")
    }
}

/// The ratio of the figures of two contenders, computed for each round.
fn ratio(load: &Load, seen: &Seen, figure: Figure, of: &str, to: &str) -> Option<Spread> {
    let samples = |name: &str| {
        let index = load
            .contenders
            .iter()
            .position(|contender| contender.name == name);
        Some(&seen[index?])
    };
    let pairs = samples(of)?.iter().zip(samples(to)?);
    Spread::of(pairs.map(|(of, to)| figure.of(of, load) / figure.of(to, load)))
}

/// Formats all figures and ratios of a load.
pub fn tables(load: &Load, seen: &Seen) -> String {
    let mut text = format!("\n## {}: {}\n\n", load.name, load.title);
    let cpu = Figure::Cpu.name(load);
    let mut table = Table::new(&[
        "server",
        "echoes per second",
        &format!("{cpu}, µs"),
        "on CPU, %: server",
        "load",
        "RTT p50, µs",
        "RTT p99, µs",
        "lost",
    ]);
    for (contender, samples) in load.contenders.iter().zip(seen) {
        let median = |value: &dyn Fn(&Sample) -> f64| {
            Spread::of(samples.iter().map(value)).map_or(f64::NAN, |spread| spread.median)
        };
        let figure = |figure: Figure| median(&|sample| figure.of(sample, load));
        let rtt = |figure: Figure| {
            let median = Spread::of(samples.iter().map(|sample| figure.of(sample, load)));
            median.map_or_else(|| "–".into(), |rtt| format!("{:.1}", rtt.median))
        };
        let on_cpu = |cpu: fn(&Sample) -> Duration| {
            median(&|sample| 100.0 * cpu(sample).as_secs_f64() / sample.time.as_secs_f64())
        };
        let lost: u64 = samples.iter().map(|sample| sample.lost).sum();
        table.row(vec![
            contender.name.clone(),
            format!("{:.0}", figure(Figure::Rate)),
            format!("{:.3}", figure(Figure::Cpu)),
            format!("{:.0}", on_cpu(|sample| sample.cpu)),
            format!("{:.0}", on_cpu(|sample| sample.load_cpu)),
            rtt(Figure::Median),
            rtt(Figure::Slow),
            lost.to_string(),
        ]);
    }
    text += &table.show();
    text += "\n";
    let figures = [Figure::Rate, Figure::Cpu, Figure::Median];
    let names = figures.map(|figure| figure.name(load));
    let mut table = Table::new(&["ratio of", "to", names[0], names[1], names[2]]);
    for contender in &load.contenders {
        if load.against.contains(&contender.name) {
            continue;
        }
        for against in &load.against {
            let ratios = figures.map(|figure| {
                let ratio = ratio(load, seen, figure, &contender.name, against);
                ratio.map_or_else(String::new, |ratio| ratio.show())
            });
            let names = [contender.name.clone(), against.clone()];
            table.row(names.into_iter().chain(ratios).collect());
        }
    }
    text + &table.show()
}

/// A claim and its measurement.
pub struct Judged {
    /// The load, as the table shows it.
    pub title: &'static str,
    pub figure: &'static str,
    pub against: &'static str,
    pub bound: Bound,
    pub ratio: Spread,
}

/// Evaluates the claims about the loads that were run.
pub fn judged(loads: &[Load], seen: &[Seen]) -> Vec<Judged> {
    let judged = CLAIMS.iter().filter_map(|claim| {
        let index = loads.iter().position(|load| load.name == claim.load)?;
        let load = &loads[index];
        let seen = &seen[index];
        Some(Judged {
            title: claim.title,
            figure: claim.figure.name(load),
            against: claim.against,
            bound: claim.bound,
            ratio: ratio(load, seen, claim.figure, claim.contender, claim.against)?,
        })
    });
    judged.collect()
}

/// Formats all claims, and lists those that failed.
pub fn claims(judged: &[Judged]) -> String {
    let mut table = Table::new(&["load", "figure", "against", "at most", "measured (spread)"]);
    let mut missed = String::new();
    for Judged {
        title,
        figure,
        against,
        bound,
        ratio,
    } in judged
    {
        let (bound, holds) = match bound {
            Bound::AtMost(bound) => (format!("{bound:.2}"), ratio.median <= *bound),
            Bound::AtLeast(bound) => (format!("at least {bound} ×"), ratio.median >= *bound),
        };
        if !holds {
            let _ = writeln!(missed, "Failed here: {title}, {figure}, against {against}.");
        }
        let cells = [*title, *figure, *against, &bound, &ratio.show()];
        table.row(cells.map(str::to_owned).into());
    }
    format!("\n## Claims\n\n{}\n{missed}", table.show())
}

/// Formats the lost and late replies in all rows of the daemon.
pub fn loss(loads: &[Load], seen: &[Seen]) -> String {
    let (mut requests, mut lost, mut late) = (0, 0, 0);
    for (load, seen) in loads.iter().zip(seen) {
        for (contender, samples) in load.contenders.iter().zip(seen) {
            for sample in samples.iter().filter(|_| contender.is_daemon()) {
                requests += sample.echoes + sample.lost + sample.late;
                lost += sample.lost;
                late += sample.late;
            }
        }
    }
    format!("Lost in all rows of the daemon: {lost} of {requests}; late and not counted: {late}.")
}

/// A table in Markdown.
pub struct Table(Vec<Vec<String>>);

impl Table {
    pub fn new(head: &[&str]) -> Self {
        Self(vec![head.iter().map(|&name| name.to_owned()).collect()])
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.0.push(cells);
    }

    pub fn show(&self) -> String {
        let columns = self.0[0].len();
        let width = |column: usize| {
            let widths = self.0.iter().map(|row| row[column].chars().count());
            widths.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (index, row) in self.0.iter().enumerate() {
            for (cell, &width) in row.iter().zip(&widths) {
                let _ = write!(text, "| {cell:width$} ");
            }
            text += "|\n";
            if index == 0 {
                for &width in &widths {
                    let _ = write!(text, "|{:-<1$}", "", width + 2);
                }
                text += "|\n";
            }
        }
        text
    }
}
