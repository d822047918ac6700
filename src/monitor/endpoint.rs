//! The endpoint `/probe`: probes a target once and returns the figures, as the multi-target exporters
//! of Prometheus do.
//!
//! Each probe has a thread of its own, because both resolving a name and probing block. A thread
//! that still resolves a name after its request was answered counts as running.

mod answer;
mod request;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use axum::extract::{RawQuery, State};
use axum::http::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use tokio::sync::{Semaphore, oneshot};
use tokio::time;
use tracing::debug;

use super::ProbeEndpoint;
use crate::address::{Family, is_one_host};
use crate::http::ExtraTime;
use crate::metrics::Metrics;
use crate::probe::Signals;
use crate::probe::once::{OnceFigures, once};
use crate::service::now;
use answer::Answer;
use request::{NOT_ONE_HOST, ProbeRequest};

/// The header with Prometheus's scrape timeout.
const TIMEOUT_HEADER: &str = "x-prometheus-scrape-timeout-seconds";
/// The scrape timeout without that header.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_TIMEOUT: Duration = Duration::from_mins(2);
/// The time before the scrape timeout at which a probe ends.
const MARGIN: Duration = Duration::from_millis(500);
/// The longest wait for the thread after that. The client's loop looks every 100 ms whether to end.
const GRACE: Duration = Duration::from_millis(300);
/// The most probes at once.
const MAX_RUNNING: usize = 16;

struct Endpoint {
    allow: Vec<(IpAddr, u8)>,
    running: Arc<Semaphore>,
}

/// A request that gets no figures: status, and a line of text.
#[derive(Debug, PartialEq, Eq)]
struct Refusal(StatusCode, String);

/// Ends a probe when its client goes away.
struct EndOnDrop(Arc<Signals>);

/// The route `/probe`.
pub(super) fn router(endpoint: ProbeEndpoint) -> Router {
    let endpoint = Endpoint {
        allow: endpoint.allow,
        running: Arc::new(Semaphore::new(MAX_RUNNING)),
    };
    Router::new()
        .route("/probe", get(respond))
        .with_state(Arc::new(endpoint))
}

async fn respond(
    State(endpoint): State<Arc<Endpoint>>,
    Extension(extra): Extension<ExtraTime>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    extra.allow(MAX_TIMEOUT);
    match answer(endpoint, &headers, &query.unwrap_or_default()).await {
        Ok(answer) => {
            let headers = [(CONTENT_TYPE, Metrics::CONTENT_TYPE)];
            (headers, answer.to_string()).into_response()
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn answer(
    endpoint: Arc<Endpoint>,
    headers: &HeaderMap,
    query: &str,
) -> Result<Answer, Refusal> {
    let started = now();
    let request = ProbeRequest::parse(query).map_err(Refusal::bad)?;
    let deadline = started + budget(timeout(headers).map_err(Refusal::bad)?);
    let running = Arc::clone(&endpoint.running).try_acquire_owned();
    let running = running
        .map_err(|_| Refusal::busy(format_args!("{MAX_RUNNING} probes are running, the limit")))?;
    let target = request.target.clone();
    let signals = EndOnDrop(Arc::default());
    let (sender, mut result) = oneshot::channel();
    let end = Arc::clone(&signals.0);
    let spawned = thread::Builder::new().name("probe".into()).spawn(move || {
        let result = probe(&request, &endpoint.allow, deadline, &end);
        drop(running);
        // The receiver is gone if the client is, or if resolving the name took too long.
        let _ = sender.send(result);
    });
    spawned.map_err(|error| Refusal::busy(format_args!("cannot start a thread: {error}")))?;
    let result = tokio::select! {
        result = &mut result => Some(result),
        () = time::sleep_until(deadline.into()) => {
            signals.0.end();
            time::timeout(GRACE, result).await.ok()
        }
    };
    let figures = match result {
        Some(Ok(result)) => result?,
        Some(Err(_)) => {
            let line = "the probe failed; report this as a bug".into();
            return Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, line));
        }
        None => {
            debug!("cannot probe {target}: no result in time; its name may resolve too slowly");
            None
        }
    };
    Ok(Answer {
        duration: now() - started,
        figures,
    })
}

/// Resolves the name and probes. Without a figure, if the target cannot be probed.
fn probe(
    request: &ProbeRequest,
    allow: &[(IpAddr, u8)],
    deadline: Instant,
    signals: &Signals,
) -> Result<Option<OnceFigures>, Refusal> {
    let target = &request.target;
    let found = match target.resolve_all(Family::Any) {
        Ok(found) => found,
        Err(error) => {
            debug!("{error}");
            return Ok(None);
        }
    };
    let targets = permitted(found, allow).map_err(|(status, cause)| {
        let target = target.to_string();
        Refusal(status, format!("cannot probe {target:?}: {cause}"))
    })?;
    let time = deadline.saturating_duration_since(now());
    if time.is_zero() {
        return Ok(None);
    }
    match once(request.config(time), &targets, signals) {
        Ok(figures) => {
            let OnceFigures { sent, received, .. } = figures;
            debug!("probed {target}: {sent} sent, {received} received");
            Ok(Some(figures))
        }
        Err(error) if error.is_shortage() => Err(Refusal::busy(error)),
        Err(error) => {
            debug!("{error}");
            Ok(None)
        }
    }
}

/// The addresses to which probes may be sent, at least one.
fn permitted(
    found: Vec<SocketAddr>,
    allow: &[(IpAddr, u8)],
) -> Result<Vec<SocketAddr>, (StatusCode, &'static str)> {
    let mut targets = found;
    targets.retain(|target| is_one_host(target.ip()));
    if targets.is_empty() {
        return Err((StatusCode::BAD_REQUEST, NOT_ONE_HOST));
    }
    targets.retain(|target| {
        allow.is_empty() || allow.iter().any(|network| includes(*network, target.ip()))
    });
    if targets.is_empty() {
        return Err((StatusCode::FORBIDDEN, "--probe-allow does not permit it"));
    }
    Ok(targets)
}

/// Whether a network includes an address. An IPv6 network includes no IPv4 address, unless it is one
/// of IPv4-mapped addresses.
fn includes((network, prefix): (IpAddr, u8), address: IpAddr) -> bool {
    const MAPPED: u8 = 96;
    let (network, prefix) = match (network.to_canonical(), prefix.checked_sub(MAPPED)) {
        (ipv4 @ IpAddr::V4(_), Some(prefix)) if network.is_ipv6() => (ipv4, prefix),
        _ => (network, prefix),
    };
    let (differences, bits): (u128, u32) = match (network, address.to_canonical()) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            ((network.to_bits() ^ address.to_bits()).into(), u32::BITS)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            (network.to_bits() ^ address.to_bits(), u128::BITS)
        }
        _ => return false,
    };
    let ignored = bits.saturating_sub(prefix.into());
    differences.checked_shr(ignored).unwrap_or(0) == 0
}

/// The scrape timeout.
fn timeout(headers: &HeaderMap) -> Result<Duration, String> {
    let mut values = headers.get_all(TIMEOUT_HEADER).iter();
    let Some(value) = values.next() else {
        return Ok(DEFAULT_TIMEOUT);
    };
    let seconds = |value: &HeaderValue| value.to_str().ok()?.parse::<f64>().ok();
    seconds(value)
        .filter(|seconds| seconds.is_finite() && *seconds > 0.0 && values.next().is_none())
        .and_then(|seconds| {
            Duration::try_from_secs_f64(seconds.min(MAX_TIMEOUT.as_secs_f64())).ok()
        })
        .ok_or_else(|| {
            format!(
                "cannot use X-Prometheus-Scrape-Timeout-Seconds: {value:?}: expected one number of \
                 seconds, more than 0"
            )
        })
}

/// The time for a probe within a scrape timeout: at least half of it.
fn budget(timeout: Duration) -> Duration {
    timeout.saturating_sub(MARGIN).max(timeout / 2)
}

impl Refusal {
    fn bad(line: String) -> Self {
        Self(StatusCode::BAD_REQUEST, line)
    }

    /// Refuses a probe that may succeed later.
    fn busy(cause: impl Display) -> Self {
        let line = format!("cannot probe now: {cause}; try again later");
        Self(StatusCode::SERVICE_UNAVAILABLE, line)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, line) = self;
        let nosniff = [(X_CONTENT_TYPE_OPTIONS, "nosniff")];
        let mut response = (status, nosniff, line + "\n").into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}
