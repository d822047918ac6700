//! Routes that lead replies to the network of an interface over another device. The socket would
//! send its replies there; the program sends them back the way the datagrams came.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Route {
    device: String,
    network: IpAddr,
    length: u32,
    metric: u32,
    is_connected: bool,
}

/// The networks of an interface, and the other device to which the best route leads.
pub(super) fn elsewhere(interface: &str) -> Vec<String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let mut routes = ipv4(&read("/proc/net/route"));
    routes.extend(ipv6(&read("/proc/net/ipv6_route")));
    lead_away(&routes, interface)
}

fn lead_away(routes: &[Route], interface: &str) -> Vec<String> {
    let own = routes
        .iter()
        .filter(|route| route.device == interface && route.is_connected);
    let away = own.filter_map(|own| {
        let same = routes
            .iter()
            .filter(|route| (route.network, route.length) == (own.network, own.length));
        let best = same.min_by_key(|route| route.metric)?;
        let Route {
            network,
            length,
            device,
            ..
        } = best;
        (device != interface).then(|| format!("{network}/{length} by {device}"))
    });
    away.collect()
}

/// The routes of `/proc/net/route` (`fib_route_seq_show`): addresses are in the byte order of the host.
fn ipv4(table: &str) -> Vec<Route> {
    let route = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let hex = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        let address = |number: u32| Ipv4Addr::from(number.to_ne_bytes());
        Some(Route {
            device: (*fields.first()?).to_owned(),
            network: address(hex(1)?).into(),
            length: hex(7)?.count_ones(),
            metric: fields.get(6)?.parse().ok()?,
            is_connected: hex(2)? == 0,
        })
    };
    table.lines().skip(1).filter_map(route).collect()
}

/// The routes of `/proc/net/ipv6_route` (`rt6_info_route`), without those to the host itself and to
/// multicast addresses.
fn ipv6(table: &str) -> Vec<Route> {
    let route = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let address = |at: usize| u128::from_str_radix(fields.get(at)?, 16).ok();
        let hex = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        let network = Ipv6Addr::from(address(0)?);
        let length = hex(1)?;
        let is_plain = length < 128 && !network.is_multicast() && !network.is_unicast_link_local();
        is_plain.then_some(Route {
            device: (*fields.get(9)?).to_owned(),
            network: network.into(),
            length,
            metric: hex(5)?,
            is_connected: address(4)? == 0,
        })
    };
    table.lines().filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPV4: &str = "\
Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
eth0\t00000000\t0101000A\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth1\t0001000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
eth0\t0001000A\t00000000\t0001\t0\t0\t50\t00FFFFFF\t0\t0\t0
eth1\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
";
    const IPV6: &str = "\
20010db8000000000000000000000000 40 00000000000000000000000000000000 00 \
00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth1
20010db8000000000000000000000000 40 00000000000000000000000000000000 00 \
00000000000000000000000000000000 00000080 00000001 00000000 00000001     eth0
fe800000000000000000000000000000 40 00000000000000000000000000000000 00 \
00000000000000000000000000000000 00000080 00000001 00000000 00000001     eth0
";

    #[test]
    #[cfg(target_endian = "little")]
    fn networks_whose_best_route_is_another_are_named() {
        let mut routes = ipv4(IPV4);
        assert_eq!(routes.len(), 4);
        routes.extend(ipv6(IPV6));
        assert_eq!(routes.len(), 6);
        let away = lead_away(&routes, "eth1");
        assert_eq!(away, ["10.0.1.0/24 by eth0", "2001:db8::/64 by eth0"]);
        assert_eq!(lead_away(&routes, "eth0"), [""; 0]);
        assert_eq!(lead_away(&routes, "lo"), [""; 0]);
    }
}
