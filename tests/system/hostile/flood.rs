//! Memory is bounded for any number of sources.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::spoof::Flood;
use super::{count, released};
use crate::harness::{DEADLINE, Daemon};
use crate::namespace::Namespace;
use udp_echo::reflect::{BUCKETS, BYTES_PER_PEER};

const SOURCES: u64 = 10_000_000;
const MAX_PEERS: usize = 65536;

#[test]
#[ignore = "needs root, for namespaces and forged sources, and a release build; .ci/run runs it"]
fn ten_million_sources_take_only_the_memory_of_max_peers() {
    let (host, net) = Namespace::pair();
    host.shell("ip route add 100.0.0.0/8 via 10.77.0.2");
    let mut command = host.command(released().to_str().unwrap());
    let max_peers = format!("--max-peers={MAX_PEERS}");
    command.args(["--listen=10.77.0.1:9999", "--metrics-listen=127.0.0.1:0"]);
    // A limit that no source reaches: no source may be refused because of others, and the token
    // buckets may not take more memory.
    command.args(["--timeout=none", &max_peers, "--rate-limit=100000"]);
    let daemon = host.inside(|| Daemon::start_exactly(command));
    let before = resident_bytes(&daemon);
    let lost_before = lost_before_the_socket();

    let mut flood = net.inside(|| Flood::new("10.77.0.1:9999"));
    let peer = net.client("10.77.0.2:0", daemon.address());
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let (sent, served, resent) = thread::scope(|scope| {
        let client = scope.spawn(|| {
            let (mut served, mut resent, mut sent) = (0_u64, 0_u64, 0_u64);
            peer.set_read_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            while !stop.load(Relaxed) {
                let asked = Instant::now();
                let request = served.to_be_bytes();
                let mut reply = [0; 64];
                loop {
                    peer.send(&request).unwrap();
                    sent += 1;
                    // Ignores a late reply to an earlier request.
                    if matches!(peer.recv(&mut reply), Ok(8) if reply[..8] == request) {
                        break;
                    }
                    resent += 1;
                    assert!(asked.elapsed() < DEADLINE, "the client gets no reply");
                }
                served += 1;
                peer.send(&[0; 22]).unwrap();
                sent += 1;
            }
            (sent, served, resent)
        });
        let flooded = host.inside(|| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                flood_until(&mut flood, &daemon, SOURCES);
            }))
        });
        stop.store(true, Relaxed);
        let of_client = client.join().unwrap();
        flooded.unwrap();
        of_client
    });
    let took = start.elapsed();
    let after = resident_bytes(&daemon);

    let counted = |name| host.inside(|| count(&daemon, name));
    let all = u64::from(flood.sent) + sent;
    let arrived = || counted("datagrams_received_total") + counted("socket_drops_total");
    crate::harness::wait_until("all datagrams are received", || {
        counted("socket_receive_queue_bytes") == 0
            && arrived() + lost_before_the_socket() - lost_before >= all
    });
    host.inside(|| daemon.assert_accounted_for());
    let [received, drops, evicted, peers] = [
        "datagrams_received_total",
        "socket_drops_total",
        "peers_evicted_total",
        "peers",
    ]
    .map(counted);
    let grown = after.saturating_sub(before);
    eprintln!(
        "{all} datagrams in {took:.1?}: {received} received, {drops} dropped by the kernel; \
         {evicted} peers evicted, {peers} held; resident memory grew by {grown} bytes; a client got \
         {served} replies and repeated {resent} requests"
    );
    assert!(received + drops <= all, "{received} + {drops} of {all}");
    assert!(peers <= MAX_PEERS as u64);
    let records = counted("records_decoded_total") + counted("decode_errors_total");
    assert_eq!(peers + evicted + records, counted("datagrams_echoed_total"));
    assert!(served > 0);
    assert_eq!(counted("datagrams_refused_total"), 0);
    // Beyond the table and the token buckets: buffers of HTTP and others, whose size does not
    // depend on the sources.
    let buckets = BUCKETS * size_of::<u64>();
    let bound = (MAX_PEERS * BYTES_PER_PEER + buckets + (1 << 20)) as u64;
    assert!(grown <= bound, "{grown} bytes more, not {bound}");
}

/// Floods until the daemon has received `received` datagrams. Call it in the namespace of its HTTP
/// port.
pub(super) fn flood_until(flood: &mut Flood, daemon: &Daemon, received: u64) {
    let deadline = Instant::now() + 20 * DEADLINE;
    loop {
        let before = count(daemon, "datagrams_received_total");
        if before >= received {
            return;
        }
        assert!(Instant::now() < deadline, "received {before} so far");
        let missing = u32::try_from(received - before).unwrap();
        flood.send(missing.clamp(2000, 100_000));
    }
}

/// Datagrams that the kernel dropped before they reached a socket, because it was too slow.
fn lost_before_the_socket() -> u64 {
    let table = fs::read_to_string("/proc/net/softnet_stat").unwrap();
    let dropped = |line: &str| {
        let second = line.split_whitespace().nth(1).unwrap();
        u64::from_str_radix(second, 16).unwrap()
    };
    table.lines().map(dropped).sum()
}

fn resident_bytes(daemon: &Daemon) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", daemon.pid())).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Rss:"))
        .unwrap();
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kibibytes * 1024
}
