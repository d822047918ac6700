//! Requests to the HTTP port, and the metrics in the responses.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{DEADLINE, wait_until};

/// An HTTP response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// The head, in lower case.
    pub head: String,
    pub body: String,
}

pub fn request_to(address: SocketAddr, request: &str) -> Response {
    let text = answer_to(address, request.as_bytes());
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    Response {
        status: head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or_else(|| panic!("no status in {text:?}")),
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

/// Sends a request and reads until the daemon closes the connection, which may be before it has
/// read all. Repeats a request that this process sent too late for the daemon's deadline.
pub fn answer_to(address: SocketAddr, request: &[u8]) -> String {
    /// Below the daemon's deadline.
    const SLOW: Duration = Duration::from_secs(4);
    let mut bytes = Vec::new();
    wait_until("a request is sent in time", || {
        bytes.clear();
        let start = Instant::now();
        let mut stream = TcpStream::connect(address).expect("the port is open");
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let _ = stream.write_all(request);
        if let Err(error) = stream.read_to_end(&mut bytes) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "not closed");
        }
        let cut_off = bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 408 ");
        !cut_off || start.elapsed() < SLOW
    });
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The samples of a text in the Prometheus exposition format.
pub fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a sample");
            (series.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

/// The sum of a metric over all series that have the given labels.
pub fn total(metrics: &BTreeMap<String, f64>, series: &str) -> f64 {
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels: Vec<_> = labels.trim_end_matches('}').split(',').collect();
    let belongs = |key: &str| {
        let (own, given) = key.split_once('{').unwrap_or((key, ""));
        own.strip_prefix("udp_echo_") == Some(name)
            && labels.iter().all(|label| given.contains(label))
    };
    let values: Vec<_> = metrics.iter().filter(|(key, _)| belongs(key)).collect();
    assert!(!values.is_empty(), "no {series} in {metrics:#?}");
    values.into_iter().map(|(_, value)| value).sum()
}
