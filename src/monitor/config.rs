//! The settings of the monitor, checked once by the command line.

use std::net::IpAddr;
use std::time::Duration;

use crate::address::{Family, HostPort};
use crate::daemon::Given;
use crate::probe::stamp::StampRequests;
use crate::reflect::Mode;
use crate::udp::{IpOptions, Source};

/// The settings of the process. The targets are apart: a reload changes them.
#[derive(Debug, Clone)]
pub struct MonitorConfig {
    /// HTTP address; `None` serves no HTTP.
    pub metrics_listen: Option<HostPort>,
    /// The endpoint `/probe`; `None` turns it off.
    pub probe: Option<ProbeEndpoint>,
    /// The options that were set.
    pub given: Given,
    /// The options in force, for the status page: name and value.
    pub options: Vec<(String, String)>,
}

/// The settings of the endpoint `/probe`.
#[derive(Debug, Clone, Default)]
pub struct ProbeEndpoint {
    /// The networks of permitted targets: address and prefix length. Empty permits all.
    pub allow: Vec<(IpAddr, u8)>,
}

/// A target. Targets with equal settings are not touched by a reload.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetSettings {
    /// The label `target`, unique.
    pub name: String,
    /// Host and port of the reflector.
    pub address: HostPort,
    /// Mode of the reflector.
    pub mode: Mode,
    /// Time from one request to the next, over all flows.
    pub interval: Duration,
    /// Number of source ports, used in turn, at least 1.
    pub flows: usize,
    /// Length of a request in bytes.
    pub size: usize,
    /// Longest time to wait for a reply. A request without a reply is lost then.
    pub wait: Duration,
    /// Address family of the target.
    pub family: Family,
    /// Whether to probe every address of the name, not just the first one.
    pub all_addresses: bool,
    /// Whether to serve the counts of each flow.
    pub per_flow: bool,
    /// Address or interface to send from; `None` leaves it to the route.
    pub source: Option<Source>,
    /// IP header of the requests.
    pub ip: IpOptions,
    /// Requests in STAMP mode.
    pub stamp: Option<StampRequests>,
}

impl TargetSettings {
    /// Returns settings for tests of other modules.
    #[cfg(test)]
    pub(super) fn example(name: &str, address: &str, mode: Mode) -> Self {
        Self {
            name: name.into(),
            address: address.parse().unwrap(),
            mode,
            interval: Duration::from_millis(10),
            flows: 1,
            size: 64,
            wait: Duration::from_secs(1),
            family: Family::Any,
            all_addresses: false,
            per_flow: false,
            source: None,
            ip: IpOptions::default(),
            stamp: None,
        }
    }
}
