//! A measurement over loopback, without the engine.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Mutex;

use super::*;
use crate::reflect::Mode;
use crate::udp::Icmp;

/// A measurement and the reflector that it probes, which answers nothing by itself.
struct Probed {
    measurement: Measurement,
    tools: Tools,
    reflector: UdpSocket,
}

impl Probed {
    fn new(mode: Mode) -> Self {
        let reflector = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = reflector.local_addr().unwrap();
        let settings = TargetSettings::example("a", &address.to_string(), mode);
        let settings = TargetSettings {
            wait: Duration::from_mins(3),
            ..settings
        };
        let series = Series {
            target: "a".into(),
            address: address.to_string().into(),
            mode,
            flows: 0,
            figures: Arc::new(Mutex::new(Figures::new(mode))),
            recent: Arc::default(),
        };
        let mut measurement = Measurement::new(1, &Arc::new(settings), address, series, 7);
        measurement.start(Duration::ZERO);
        let state = Arc::new(EngineState::default());
        Self {
            measurement,
            tools: Tools::new(RunClock::start(), state, RawFd::MAX),
            reflector,
        }
    }

    /// Sends a request. Returns its bytes as the reflector received them.
    fn request(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 100];
        let (measurement, tools) = (&mut self.measurement, &mut self.tools);
        measurement.send_request(0, tools, &mut |_, _| true);
        let length = self.reflector.recv(&mut bytes).unwrap();
        bytes.truncate(length);
        bytes
    }

    /// Sends datagrams as the reflector, and receives them.
    fn reply(&mut self, replies: &[&[u8]]) {
        let flows = self.measurement.flows.as_ref().unwrap();
        let to = flows.sockets()[0].address();
        for bytes in replies {
            self.reflector.send_to(bytes, to).unwrap();
            while self.measurement.receive_on(0, &mut self.tools) == 0 {}
        }
    }

    /// Feeds in ICMP errors that quote these bytes, each from another address.
    fn reject(&mut self, bytes: &[u8], errors: u32) {
        let rejection = |from| Rejection {
            errno: libc::ECONNREFUSED,
            icmp: Some(Icmp {
                v6: false,
                kind: 3,
                code: 3,
            }),
            from: Some(IpAddr::V4(Ipv4Addr::from_bits(from))),
            bytes: bytes.into(),
        };
        self.tools.rejections.extend((0..errors).map(rejection));
        self.measurement.count_rejections(0, &mut self.tools);
    }

    fn figures(&self) -> Figures {
        self.measurement.figures().clone()
    }
}

#[test]
fn icmp_errors_count_once_per_request_and_end_no_wait() {
    for mode in [Mode::Echo, Mode::Exchange] {
        let mut probed = Probed::new(mode);
        let request = probed.request();
        probed.reject(&request, 1000);
        // Those that quote another datagram are ignored.
        probed.reject(&[b'x'; 64], 1000);
        let figures = probed.figures();
        assert_eq!(figures.icmp_errors["icmp_port_unreachable"], 1, "{mode:?}");
        assert_eq!(figures.icmp_errors.values().sum::<u64>(), 1, "{mode:?}");
        assert_eq!((figures.lost, figures.in_flight()), (0, 1), "{mode:?}");
        probed.reply(&[&request]);
        let figures = probed.figures();
        assert_eq!((figures.received, figures.in_flight()), (1, 0), "{mode:?}");
    }
}

#[test]
fn replies_change_only_the_figures_that_they_belong_to() {
    let mut probed = Probed::new(Mode::Echo);
    let [first, second] = [probed.request(), probed.request()];
    let mut altered = second.clone();
    altered[40] ^= 1;
    let foreign = [b'?'; 63];
    probed.reply(&[&altered, &first, &first, &foreign, &[], &first[..3]]);
    let figures = probed.figures();
    assert_eq!((figures.sent, figures.received), (2, 2));
    assert_eq!((figures.duplicates, figures.reordered), (1, 1));
    // The altered reply, and the one that is too short to be of a request.
    assert_eq!(figures.corrupted, 2);
    assert_eq!(figures.rtt.count(), 2);
    assert_eq!(figures.jitter.count(), 1);
    assert_eq!(figures.reply_ttl, Some(64));
}
