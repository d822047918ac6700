//! Reads a daemon's metrics over HTTP, before and after a run.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::MetricsUrl;
use super::attribution::{Counters, MetricsError};
use super::metrics_url::percent_decoded;
use crate::runtime;

/// Longest time to read the metrics.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time until a signal is noticed.
const TICK: Duration = Duration::from_millis(50);

/// Maximum length of a response in MiB.
const MAX_MIB: usize = 16;

/// Metrics that cannot be read.
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
    #[error("not an HTTP address")]
    Address,
    #[error("no response within {} s", TIMEOUT.as_secs())]
    TimedOut,
    #[error("interrupted")]
    Interrupted,
    #[error("the server responded {}{}", .0, hint(*.0))]
    Status(StatusCode),
    #[error("the response is longer than {MAX_MIB} MiB")]
    TooLong,
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// Reads the counters of the daemon at `url`, until `stops` counts another signal.
///
/// # Errors
/// Fails if no response arrives in time, or if it is not the metrics of a daemon.
pub(super) fn counters(
    url: &MetricsUrl,
    stops: Option<&AtomicU32>,
) -> Result<Counters, FetchError> {
    let read = || Ok(Counters::parse(&within(TIMEOUT, stops, get(url))?)?);
    read().map_err(|cause| FetchError {
        url: url.url().clone(),
        cause,
    })
}

/// Does the work, for at most `timeout` and until `stops` counts another signal. A resolver that
/// does not answer blocks a thread of the runtime, which is left running.
fn within<T>(
    timeout: Duration,
    stops: Option<&AtomicU32>,
    work: impl Future<Output = Result<T, Cause>>,
) -> Result<T, Cause> {
    let runtime = runtime::new()?;
    let done = runtime.block_on(async {
        tokio::select! {
            done = work => done,
            () = tokio::time::sleep(timeout) => Err(Cause::TimedOut),
            () = one_more(stops) => Err(Cause::Interrupted),
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

/// Returns what to do about a status.
fn hint(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "; give user and password, as in http://USER:PASSWORD@HOST",
        _ => "",
    }
}

async fn get(target: &MetricsUrl) -> Result<String, Cause> {
    let url = target.url();
    let (name, header) = host(url).ok_or(Cause::Address)?;
    let port = url.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((name, port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // The status page is at the root of a daemon.
    let path = url.path_and_query().map(PathAndQuery::as_str);
    let path = path.filter(|path| *path != "/").unwrap_or("/metrics");
    let header = match url.port() {
        Some(port) => format!("{header}:{port}"),
        None => header,
    };
    let mut request = Request::get(path).header(HOST, header);
    if let Some(authorization) = target.authorization() {
        request = request.header(AUTHORIZATION, authorization);
    }
    let request = request.body(String::new()).map_err(|_| Cause::Address)?;
    let answer = async {
        let response = sender.send_request(request).await?;
        text(response).await
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer,
        // The response may be in the buffer when the connection ends.
        ended = &mut connection => { ended?; answer.await }
    }
}

/// Returns the host of a URL for the resolver and for the `Host` header. For the resolver an IPv6
/// address has no brackets. For the header it has no zone, which follows `%25` (RFC 6874).
fn host(url: &Uri) -> Option<(String, String)> {
    let host = url.host()?;
    let inner = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    Some(match inner.map(|inner| inner.split_once('%')) {
        None => (host.into(), host.into()),
        Some(None) => (inner?.into(), host.into()),
        Some(Some((address, zone))) => {
            // The 25 is often left out.
            let zone = zone.strip_prefix("25").filter(|zone| !zone.is_empty());
            let zone = percent_decoded(zone.unwrap_or(&inner?[address.len() + 1..]));
            let zone = String::from_utf8_lossy(&zone);
            (format!("{address}%{zone}"), format!("[{address}]"))
        }
    })
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
        if bytes.len() > MAX_MIB << 20 {
            return Err(Cause::TooLong);
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::thread;

    use super::*;

    /// Returns the error of a read whose resolver never answers.
    fn blocked(timeout: Duration, stops: Option<&Arc<AtomicU32>>) -> Cause {
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
            ended.send(within(timeout, counted.as_deref(), resolve))
        });
        let mut waited = Duration::ZERO;
        while waited < DEADLINE {
            // Only signals after the start of the work count.
            if let Some(stops) = stops {
                stops.fetch_add(1, Relaxed);
            }
            if let Ok(end) = end.recv_timeout(TICK) {
                drop(answer);
                return end.unwrap_err();
            }
            waited += TICK;
        }
        panic!("still waiting for the resolver");
    }

    #[test]
    fn fetch_ends_at_its_deadline_while_the_resolver_blocks() {
        assert!(matches!(blocked(TICK, None), Cause::TimedOut));
    }

    #[test]
    fn fetch_ends_on_a_signal_while_the_resolver_blocks() {
        let stops = Arc::new(AtomicU32::new(0));
        let cause = blocked(Duration::from_hours(1), Some(&stops));
        assert!(matches!(cause, Cause::Interrupted));
    }

    #[test]
    fn url_hosts_are_resolved_with_their_zone_and_sent_without() {
        for (url, name, header) in [
            ("http://localhost:9862/metrics", "localhost", "localhost"),
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
