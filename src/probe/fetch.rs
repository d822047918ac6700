//! Reads a daemon's metrics over HTTP, before and after a run, never while it lasts.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::attribution::{Counters, MetricsError};
use crate::runtime;

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long until a stop is seen.
const TICK: Duration = Duration::from_millis(50);

/// How long a page may be, in bytes.
const MOST: usize = 16 << 20;

/// Metrics that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the metrics at {url}: {cause}")]
pub struct FetchError {
    url: Uri,
    #[source]
    cause: Cause,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("the address is no HTTP address")]
    Address,
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Late,
    #[error("asked to stop")]
    Stopped,
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("the answer is too long")]
    Long,
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// Reads them, until `stops` counts one more who asks for the end.
///
/// # Errors
/// When nobody answers, or with something else.
pub(super) fn counters(url: &Uri, stops: Option<&AtomicU32>) -> Result<Counters, FetchError> {
    let read = || Ok(Counters::parse(&within(PATIENCE, stops, get(url))?)?);
    read().map_err(|cause| FetchError {
        url: url.clone(),
        cause,
    })
}

/// Does the work, unless it takes longer than `patience` or `stops` counts one more. A resolver that
/// does not answer blocks a thread of the runtime, which is left behind.
fn within<T>(
    patience: Duration,
    stops: Option<&AtomicU32>,
    work: impl Future<Output = Result<T, Cause>>,
) -> Result<T, Cause> {
    let runtime = runtime::new()?;
    let done = runtime.block_on(async {
        tokio::select! {
            done = work => done,
            () = tokio::time::sleep(patience) => Err(Cause::Late),
            () = one_more(stops) => Err(Cause::Stopped),
        }
    });
    runtime.shutdown_background();
    done
}

async fn one_more(stops: Option<&AtomicU32>) {
    let count = || stops.map_or(0, |stops| stops.load(Relaxed));
    let before = count();
    while count() == before {
        tokio::time::sleep(TICK).await;
    }
}

async fn get(url: &Uri) -> Result<String, Cause> {
    let (name, header) = host(url).ok_or(Cause::Address)?;
    let port = url.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((name, port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // At its root a daemon has its status page.
    let path = url.path_and_query().map(PathAndQuery::as_str);
    let path = path.filter(|path| *path != "/").unwrap_or("/metrics");
    let header = match url.port() {
        Some(port) => format!("{header}:{port}"),
        None => header,
    };
    let request = Request::get(path)
        .header(HOST, header)
        .body(String::new())
        .map_err(|_| Cause::Address)?;
    let answer = async {
        let response = sender.send_request(request).await?;
        text(response).await
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer,
        // What it had to say may still have to be read.
        ended = &mut connection => { ended?; answer.await }
    }
}

/// The host of a URL as a resolver takes it, and as the header has it. An IPv6 address loses its
/// brackets for the resolver, and its zone, which stands behind `%25`, for the header (RFC 6874).
fn host(url: &Uri) -> Option<(String, String)> {
    let host = url.host()?;
    let inner = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    Some(match inner.map(|inner| inner.split_once('%')) {
        None => (host.into(), host.into()),
        Some(None) => (inner?.into(), host.into()),
        Some(Some((address, zone))) => {
            // People leave out the 25.
            let zone = zone.strip_prefix("25").filter(|zone| !zone.is_empty());
            let zone = percent_decoded(zone.unwrap_or(&inner?[address.len() + 1..]));
            (format!("{address}%{zone}"), format!("[{address}]"))
        }
    })
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| *first == b'%');
        let byte = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn text(response: Response<Incoming>) -> Result<String, Cause> {
    if response.status() != StatusCode::OK {
        return Err(Cause::Status(response.status()));
    }
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame?.into_data() {
            let data: Bytes = data;
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > MOST {
            return Err(Cause::Long);
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::thread;

    use super::*;

    /// The cause of the end when the resolver blocks for ever.
    fn blocked(patience: Duration, stops: Option<&Arc<AtomicU32>>) -> Cause {
        const DEADLINE: Duration = Duration::from_mins(1);
        let (answer, answered) = mpsc::channel::<()>();
        let (ended, end) = mpsc::channel();
        let counted = stops.cloned();
        thread::spawn(move || {
            let resolve = async {
                let blocked = tokio::task::spawn_blocking(move || answered.recv());
                blocked.await.unwrap().unwrap();
                Ok(())
            };
            ended.send(within(patience, counted.as_deref(), resolve))
        });
        let mut waited = Duration::ZERO;
        while waited < DEADLINE {
            // Only stops after the start of the work count.
            if let Some(stops) = stops {
                stops.fetch_add(1, Relaxed);
            }
            if let Ok(end) = end.recv_timeout(TICK) {
                drop(answer);
                return end.unwrap_err();
            }
            waited += TICK;
        }
        panic!("it waits for the resolver");
    }

    #[test]
    fn fetch_ends_at_its_deadline_while_the_resolver_blocks() {
        assert!(matches!(blocked(TICK, None), Cause::Late));
    }

    #[test]
    fn fetch_ends_on_a_signal_while_the_resolver_blocks() {
        let stops = Arc::new(AtomicU32::new(0));
        let cause = blocked(Duration::from_hours(1), Some(&stops));
        assert!(matches!(cause, Cause::Stopped));
    }

    #[test]
    fn url_hosts_are_resolved_with_their_zone_and_sent_without() {
        for (url, name, header) in [
            ("http://localhost:9862/metrics", "localhost", "localhost"),
            ("http://user:password@h:1", "h", "h"),
            ("http://192.0.2.1", "192.0.2.1", "192.0.2.1"),
            ("http://[::1]:9862", "::1", "[::1]"),
            ("http://[fe80::1%25eth0]/", "fe80::1%eth0", "[fe80::1]"),
            ("http://[fe80::1%eth0]:9862", "fe80::1%eth0", "[fe80::1]"),
            ("http://[fe80::1%2]", "fe80::1%2", "[fe80::1]"),
            ("http://[fe80::1%25a%2Eb%2e1]", "fe80::1%a.b.1", "[fe80::1]"),
        ] {
            let expected = Some((name.into(), header.into()));
            assert_eq!(host(&url.parse().unwrap()), expected, "{url}");
        }
    }
}
