//! A run that has ended, as the summary in all its forms shows it.

use std::net::IpAddr;

use super::Config;
use super::attribution::Attribution;
use super::directions::Directions;
use super::findings::{self, Finding};
use super::prober::Outcome;
use super::summary::Summary;

/// A run that has ended.
#[derive(Debug)]
pub(super) struct Finished<'a> {
    /// The settings of the run.
    pub config: &'a Config,
    /// The target's address for output.
    pub address: &'a str,
    /// The target's address.
    pub target: IpAddr,
    /// The result of the run.
    pub outcome: &'a Outcome,
    /// Where requests were lost, with `--metrics-url`.
    pub losses: Option<&'a Losses>,
}

/// Where requests were lost, by the daemon's metrics.
#[derive(Debug)]
pub(super) enum Losses {
    /// The metrics were read before and after the run.
    Located(Attribution),
    /// The daemon restarted during the run, or the metrics are of another one.
    DaemonRestarted,
    /// The metrics could not be read after the run, for this reason.
    Unknown(String),
}

impl Finished<'_> {
    /// Returns the findings, which text and JSON show.
    pub(super) fn findings(&self) -> Vec<Finding> {
        findings::of(self)
    }

    /// Returns the figures of STAMP mode.
    pub(super) fn directions(&self) -> Option<Directions<'_>> {
        Some(Directions {
            stamp: self.outcome.stamp.as_ref()?,
            local: self.outcome.clock_error,
            dscp_sent: self.config.ip.traffic_class.unwrap_or_default() >> 2,
            lost: self.outcome.tally.totals().lost(),
        })
    }

    /// Returns the summary as text, for a terminal of this width if there is one.
    pub(super) fn text(&self, columns: Option<usize>) -> Summary<'_> {
        Summary {
            finished: self,
            columns,
        }
    }
}
