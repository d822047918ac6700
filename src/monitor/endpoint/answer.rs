//! The figures of a probe in the text format of Prometheus.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use crate::probe::once::OnceFigures;

/// The figures of a probe.
#[derive(Debug)]
pub(super) struct Answer {
    /// How long it took, name resolution included.
    pub(super) duration: Duration,
    /// The figures of the run; `None` if nothing could be sent.
    pub(super) figures: Option<OnceFigures>,
}

impl Display for Answer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [sent, received] = self
            .figures
            .map_or([0; 2], |figures| [figures.sent, figures.received]);
        let duration = self.duration.as_secs_f64();
        for (name, help, value) in [
            (
                "probe_success",
                "Whether at least one reply came.",
                f64::from(u8::from(received > 0)),
            ),
            (
                "probe_duration_seconds",
                "Duration of the probe, name resolution included.",
                duration,
            ),
            (
                "probe_udp_sent",
                "Requests sent, failed sends included.",
                whole(sent),
            ),
            ("probe_udp_received", "Requests answered.", whole(received)),
            (
                "probe_udp_loss_ratio",
                "Share of the requests without a reply; 1 if none could be sent.",
                loss_ratio(sent, received),
            ),
        ] {
            family(f, name, help)?;
            writeln!(f, "{name} {value}")?;
        }
        let Some(rtt) = self.figures.and_then(|figures| figures.rtt) else {
            return Ok(());
        };
        let name = "probe_udp_rtt_seconds";
        family(f, name, "Round-trip times; left out without a reply.")?;
        for (stat, time) in [
            ("min", rtt.min),
            ("mean", rtt.mean),
            ("p50", rtt.p50),
            ("p99", rtt.p99),
            ("max", rtt.max),
        ] {
            writeln!(f, "{name}{{stat=\"{stat}\"}} {}", time.as_secs_f64())?;
        }
        Ok(())
    }
}

fn family(f: &mut Formatter<'_>, name: &str, help: &str) -> fmt::Result {
    writeln!(f, "# HELP {name} {help}\n# TYPE {name} gauge")
}

/// A target that nothing could be sent to is as bad as one that answers nothing: a failed send counts
/// as lost, too.
fn loss_ratio(sent: u64, received: u64) -> f64 {
    if sent == 0 {
        1.0
    } else {
        whole(sent - received) / whole(sent)
    }
}

#[expect(clippy::cast_precision_loss, reason = "at most 100")]
fn whole(number: u64) -> f64 {
    number as f64
}
