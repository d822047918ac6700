//! The endpoint on a real port, and reflectors.

use std::collections::HashMap;
use std::fmt::Display;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::monitor::endpoint::{ProbeEndpoint, router};
use crate::service::now;
use crate::{http, runtime};

/// The longest wait for a condition.
pub(super) const DEADLINE: Duration = Duration::from_mins(2);

pub(super) const ALL: &[(IpAddr, u8)] = &[];

/// A server that stops when it is dropped.
pub(super) struct Server {
    address: SocketAddr,
    _stop: watch::Sender<bool>,
}

impl Server {
    pub(super) fn start(allow: &[(IpAddr, u8)]) -> Self {
        let (listener, address) = http::bind(([127, 0, 0, 1], 0).into(), "").unwrap();
        let (stop, stopped) = watch::channel(false);
        let allow = allow.to_vec();
        let routes = router(ProbeEndpoint { allow });
        thread::spawn(move || {
            runtime::new().unwrap().block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                http::serve(listener, routes, stopped).await;
            });
        });
        Self {
            address,
            _stop: stop,
        }
    }

    /// Sends a request without waiting for the response.
    pub(super) fn send(&self, method: &str, path: &str, headers: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    pub(super) fn request(&self, method: &str, path: &str, headers: &str) -> Reply {
        let mut text = String::new();
        let mut stream = self.send(method, path, headers);
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        Reply {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_lowercase(),
            body: body.into(),
        }
    }

    /// Probes a target that answers every request: the probe ends with the last reply.
    pub(super) fn probe(&self, target: impl Display, rest: &str) -> Reply {
        self.probe_within("120", target, rest)
    }

    /// Probes a target that leaves a request unanswered, so that the probe uses its whole time.
    /// Repeats it until the counts are as expected: this process may get too little CPU time.
    pub(super) fn probe_until(&self, counts: &str, target: impl Display, rest: &str) -> Reply {
        let start = now();
        loop {
            let reply = self.probe_within("3", &target, rest);
            if reply.counts() == counts {
                return reply;
            }
            assert!(now() - start < DEADLINE, "{counts} expected: {reply:?}");
        }
    }

    pub(super) fn probe_within(&self, seconds: &str, target: impl Display, rest: &str) -> Reply {
        let path = format!("/probe?target={target}{rest}");
        self.request("GET", &path, &scrape_timeout(seconds))
    }
}

pub(super) fn scrape_timeout(seconds: &str) -> String {
    format!("X-Prometheus-Scrape-Timeout-Seconds: {seconds}\r\n")
}

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Reply {
    /// The value of a series, if it is there.
    pub(super) fn value(&self, series: &str) -> Option<f64> {
        assert_eq!(self.status, 200, "{self:?}");
        let mut lines = self.body.lines();
        let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map(|value| value.parse().unwrap())
    }

    /// Success, sent, received, and the share of lost requests.
    pub(super) fn counts(&self) -> String {
        ["success", "udp_sent", "udp_received", "udp_loss_ratio"]
            .map(|name| self.value(&format!("probe_{name}")).unwrap().to_string())
            .join(" ")
    }

    pub(super) fn has_rtt(&self) -> bool {
        self.body.contains("probe_udp_rtt_seconds")
    }
}

/// Starts a reflector, and returns its address. `reply` is called with the number of datagrams that
/// the sender had sent before.
pub(super) fn reflector(
    reply: impl Fn(u32, &[u8]) -> Option<Vec<u8>> + Send + 'static,
) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut senders = HashMap::<_, u32>::new();
        let mut bytes = vec![0; 1 << 16];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            let before = senders.entry(from).or_default();
            if let Some(reply) = reply(*before, &bytes[..length]) {
                let _ = socket.send_to(&reply, from);
            }
            *before += 1;
        }
    });
    address
}

pub(super) fn echo() -> SocketAddr {
    reflector(|_, bytes| Some(bytes.into()))
}
