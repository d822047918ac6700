//! A run without output, for the monitor.

use std::net::SocketAddr;

use super::prober::{self, Prober, RunError};
use super::rtt::RttSummary;
use super::{Config, Output, Signals, random};

/// The figures of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct OnceFigures {
    /// Requests sent, failed sends included.
    pub(crate) sent: u64,
    /// Requests answered.
    pub(crate) received: u64,
    /// Round-trip times, if there is a reply.
    pub(crate) rtt: Option<RttSummary>,
}

/// Probes the first of the addresses that this host has a route to. Prints nothing and does not
/// wait for duplicates. [`Signals::end`] ends the run.
///
/// # Errors
/// Fails if a socket cannot be opened or connected, or if waiting for replies fails.
pub(crate) fn once(
    config: Config,
    targets: &[SocketAddr],
    signals: &Signals,
) -> Result<OnceFigures, RunError> {
    // With --json, the output is only the summary, and no progress on a terminal.
    let config = Config {
        quiet: true,
        json: true,
        json_lines: false,
        report: None,
        ..config
    };
    let target = prober::first_with_a_route(&config, targets)?;
    let mut output = Output::new(&config, "");
    let prober = Prober::new(&config, target, "", random(), &mut output, signals)?;
    let outcome = prober.without_linger().run()?;
    let totals = outcome.tally.totals();
    Ok(OnceFigures {
        sent: totals.sent,
        received: totals.received,
        rtt: outcome.round_trips.rtts.summary(),
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::udp::ConnectError;

    #[test]
    fn shortage_of_this_host_differs_from_path_faults() {
        for (errno, is_shortage) in [
            (libc::EMFILE, true),
            (libc::ENOBUFS, true),
            (libc::ENETUNREACH, false),
            (libc::EACCES, false),
        ] {
            let cause = || io::Error::from_raw_os_error(errno);
            let source = ConnectError::Source {
                address: ([127, 0, 0, 1], 0).into(),
                cause: cause(),
            };
            for error in [RunError::Wait(cause()), source.into()] {
                assert_eq!(error.is_shortage(), is_shortage, "{error}");
            }
        }
    }
}
