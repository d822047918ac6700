//! The HTTP server: metrics, health, readiness and the status page.
//!
//! The number of connections is bounded, and each has a few seconds for one request. Clients that
//! are slow, silent or too many are cut off, so that they disturb neither scrapes nor datagrams.

mod scrape;

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::extract::{RawQuery, Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{Method, StatusCode, Version};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{self, AbortHandle};
use tokio::time;
use tracing::{debug, warn};

use crate::throttle::Throttle;
use crate::udp::{NO_ADDRESS, NO_PORT, NO_PRIVILEGE, named_here};

/// The most connections at once. One more closes the oldest.
const MAX_CONNECTIONS: usize = 64;
/// The most connections that wait for accept; the kernel cuts it to net.core.somaxconn (listen(2)).
/// With a shorter queue, a scrape loses its SYN when many clients connect.
const BACKLOG: i32 = i32::MAX;
/// The longest time until the head of a request is complete.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest life of a connection, unless its response may take [`ExtraTime`].
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
// SECURITY.md promises that dead connections are closed within 15 seconds.
const _: () = assert!(HEAD_TIMEOUT.as_secs() < CONNECTION_TIMEOUT.as_secs());
const _: () = assert!(CONNECTION_TIMEOUT.as_secs() < 15);
/// The time to complete a response after the longest life of its connection.
const GRACE: Duration = Duration::from_millis(300);
/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// The wait after an accept that failed with no connection to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The content that the server shows.
pub(crate) trait Site: Send + Sync + 'static {
    /// The metrics and their Content-Type.
    ///
    /// # Errors
    /// The cause, as text.
    fn metrics(&self) -> Result<(&'static str, String), String>;

    /// Whether [`Self::metrics`] is slow and needs a thread of its own.
    fn metrics_are_slow(&self) -> bool {
        false
    }

    /// Whether the workers make progress.
    ///
    /// # Errors
    /// The fault, as text.
    fn healthy(&self) -> Result<(), String>;

    /// Whether the daemon serves.
    fn ready(&self) -> bool;

    /// The status page, in HTML. Its style and script carry the nonce.
    fn page(&self, nonce: &str) -> String;

    /// The content of the page's `main` element, which changes.
    fn page_main(&self) -> String;
}

/// A TCP address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on TCP {} for metrics: {cause}{}",
    named_here(*.address),
    hint(.address, .cause, .setting)
)]
pub struct BindError {
    address: SocketAddr,
    setting: String,
    #[source]
    cause: io::Error,
}

/// Listens on a TCP address, which `setting` set. Connections wait until [`serve`] accepts them.
///
/// # Errors
/// If the address cannot be bound.
pub(crate) fn bind(
    address: SocketAddr,
    setting: &str,
) -> Result<(std::net::TcpListener, SocketAddr), BindError> {
    let failed = |cause| BindError {
        address,
        setting: setting.to_owned(),
        cause,
    };
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).map_err(failed)?;
    if address.is_ipv6() {
        // Else net.ipv6.bindv6only decides whether [::] includes IPv4.
        let only_ipv6 = !address.ip().is_unspecified();
        socket.set_only_v6(only_ipv6).map_err(failed)?;
    }
    // For TCP this allows a bind while old connections are in TIME_WAIT (socket(7)).
    socket.set_reuse_address(true).map_err(failed)?;
    socket.bind(&address.into()).map_err(failed)?;
    socket.listen(BACKLOG).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    let listener = std::net::TcpListener::from(socket);
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// The fault of a socket passed in to serve HTTP.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptListenerError {
    /// Not a listening TCP socket.
    #[error("it is not a listening TCP socket; set ListenStream= in its socket unit")]
    Kind,
    /// A system call on the socket failed.
    #[error("cannot set it up for HTTP: {0}")]
    Unusable(#[from] io::Error),
}

/// Adopts a listening socket that the service manager passed in.
///
/// # Errors
/// If the descriptor is not a listening TCP socket.
pub(crate) fn adopt(
    descriptor: OwnedFd,
) -> Result<(std::net::TcpListener, SocketAddr), AdoptListenerError> {
    let socket = Socket::from(descriptor);
    let stream = socket.r#type()? == Type::STREAM && socket.protocol()? == Some(Protocol::TCP);
    if !(stream && socket.is_listener()?) {
        return Err(AdoptListenerError::Kind);
    }
    socket.set_nonblocking(true)?;
    let listener = std::net::TcpListener::from(socket);
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn hint(address: &SocketAddr, cause: &io::Error, setting: &str) -> String {
    match cause.kind() {
        io::ErrorKind::AddrInUse if address.port() == 0 => NO_PORT.into(),
        io::ErrorKind::AddrInUse => {
            format!("; `ss -tlnp` shows the process that uses it: stop it or change {setting}")
        }
        io::ErrorKind::AddrNotAvailable => NO_ADDRESS.into(),
        io::ErrorKind::PermissionDenied => NO_PRIVILEGE.into(),
        _ => String::new(),
    }
}

/// Refuses methods other than GET and HEAD, and HTTP/1.1 without exactly one Host (RFC 9112, 3.2).
async fn check(request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(HOST).iter().count();
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let allow = [(ALLOW, "GET,HEAD")];
        (StatusCode::METHOD_NOT_ALLOWED, allow, "use GET or HEAD\n").into_response()
    } else if request.version() == Version::HTTP_11 && hosts != 1 {
        (StatusCode::BAD_REQUEST, "send one Host header\n").into_response()
    } else {
        next.run(request).await
    }
}

/// How much longer than others the connection of a request may live. A request handler gets it as an
/// `Extension`.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExtraTime(Arc<AtomicU64>);

impl ExtraTime {
    /// Lets the connection live longer.
    pub(crate) fn allow(&self, time: Duration) {
        self.0.store(time.as_secs(), Relaxed);
    }

    /// Waits for the longest life of a connection.
    async fn passed(self) {
        time::sleep(CONNECTION_TIMEOUT).await;
        time::sleep(Duration::from_secs(self.0.load(Relaxed))).await;
    }
}

/// Serves `routes` until `stop` becomes true, then waits briefly for open responses.
pub(crate) async fn serve(listener: TcpListener, routes: Router, mut stop: watch::Receiver<bool>) {
    let routes = checked(routes);
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();
    let (started, warnings) = (time::Instant::now(), Throttle::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.retain(|connection| !connection.is_finished());
                if connections.len() == MAX_CONNECTIONS
                    && let Some(oldest) = connections.pop_front()
                {
                    oldest.abort();
                }
                let task = tokio::spawn(connection(stream, routes.clone(), stop.clone()));
                connections.push_back(task.abort_handle());
                // Answers a request that came with the connection before others make it the oldest.
                task::yield_now().await;
            }
            Err(error) => {
                // Half of the connections: a scrape needs descriptors for files, too.
                let oldest = connections.len().div_ceil(2);
                if let Some(more) = warnings.pass(started.elapsed()) {
                    warn!(
                        "cannot accept an HTTP connection: {error}; closing the oldest {oldest} of \
                         {} open ones{more}",
                        connections.len()
                    );
                }
                for connection in connections.drain(..oldest) {
                    connection.abort();
                }
                if oldest == 0 {
                    time::sleep(ACCEPT_PAUSE).await;
                } else {
                    task::yield_now().await;
                }
            }
        }
    }
    let _ = time::timeout(GRACE, async {
        while connections
            .iter()
            .any(|connection| !connection.is_finished())
        {
            time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn connection(stream: TcpStream, router: Router, mut stop: watch::Receiver<bool>) {
    let extra = ExtraTime::default();
    let router = router.layer(Extension(extra.clone()));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            // Scrapes are further apart than a connection lasts. A client that sends requests and
            // reads nothing could fill the memory with responses.
            .keep_alive(false)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        _ = stop.wait_for(|stop| *stop) => None,
        () = extra.passed() => None,
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        connection.as_mut().graceful_shutdown();
        time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
    };
    if let Err(error) = ended {
        debug!("cannot serve an HTTP connection: {error}");
    }
}

type SiteState = State<Arc<dyn Site>>;

/// The routes of a site.
pub(crate) fn site(site: Arc<dyn Site>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/metrics", get(scrape::metrics))
        .route("/-/healthy", get(healthy))
        .route("/-/ready", get(ready))
        .with_state(site)
        .layer(Extension(scrape::LastRendered::default()))
}

/// Adds the response to unknown paths, and the checks that each request has to pass.
fn checked(routes: Router) -> Router {
    routes
        .fallback(|| async { (StatusCode::NOT_FOUND, "not found\n") })
        .layer(middleware::from_fn(check))
}

/// The whole page; for `/?main`, only the part that changes.
async fn page(State(site): SiteState, RawQuery(query): RawQuery) -> Response {
    let nonce = nonce();
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, &policy),
    ];
    let body = if query.as_deref() == Some("main") {
        site.page_main()
    } else {
        site.page(&nonce)
    };
    (headers, body).into_response()
}

/// An unpredictable number, different in each response.
fn nonce() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

async fn healthy(State(site): SiteState) -> (StatusCode, String) {
    match site.healthy() {
        Ok(()) => (StatusCode::OK, "healthy\n".into()),
        Err(problem) => (StatusCode::SERVICE_UNAVAILABLE, problem + "\n"),
    }
}

async fn ready(State(site): SiteState) -> (StatusCode, &'static str) {
    if site.ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

#[cfg(test)]
mod tests;
