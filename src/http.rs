//! The HTTP port: metrics, health, readiness and a page for people.
//!
//! Whoever connects gets little: a few connections at once, a few seconds and one request each.
//! What is slow, silent or too much is cut off, so that a scrape gets through and datagrams never
//! notice.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{Method, StatusCode, Version};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
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
use crate::udp::{NO_PORT, named_here};

/// Connections at once. When there is one more, the oldest is cut off.
const MAX_CONNECTIONS: usize = 64;
/// Connections that wait to be accepted. The kernel cuts it to net.core.somaxconn (listen(2)).
/// With less, a scrape loses its SYN when many connect.
const BACKLOG: i32 = i32::MAX;
/// How long a client may take to send the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a response that is under way may then still take.
const GRACE: Duration = Duration::from_millis(300);
/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// How long to wait when the system has no descriptor or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What the port shows.
pub(crate) trait Site: Send + Sync + 'static {
    /// The metrics and their Content-Type.
    ///
    /// # Errors
    /// A text that says why there are none.
    fn metrics(&self) -> Result<(&'static str, String), String>;

    /// Fine, or what is wrong.
    ///
    /// # Errors
    /// A text that says what is wrong.
    fn healthy(&self) -> Result<(), String>;

    /// Whether the daemon serves.
    fn ready(&self) -> bool;

    /// The status page, in HTML, whose style and script have this nonce.
    fn page(&self, nonce: &str) -> String;

    /// The part of it that changes: what is in its `main` element.
    fn page_main(&self) -> String;
}

/// An address that HTTP cannot be served on.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on TCP {} for metrics: {cause}{}",
    named_here(*.address),
    hint(.address, .cause)
)]
pub struct BindError {
    address: SocketAddr,
    #[source]
    cause: io::Error,
}

/// Listens. Connections wait until [`serve`] takes them.
///
/// # Errors
/// When the address cannot be had.
pub(crate) fn bind(address: SocketAddr) -> Result<(std::net::TcpListener, SocketAddr), BindError> {
    let failed = |cause| BindError { address, cause };
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).map_err(failed)?;
    // For TCP this only lets a daemon start again at once.
    socket.set_reuse_address(true).map_err(failed)?;
    socket.bind(&address.into()).map_err(failed)?;
    socket.listen(BACKLOG).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    let listener = std::net::TcpListener::from(socket);
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// A socket handed over that HTTP cannot be served on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptListenerError {
    /// It is of another kind.
    #[error("is not a listening TCP socket (ListenStream= makes one)")]
    Kind,
    /// It cannot be asked or set.
    #[error("cannot be used: {0}")]
    Unusable(#[from] io::Error),
}

/// Takes over a socket that the service manager listens on.
///
/// # Errors
/// When it is no listening TCP socket.
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

fn hint(address: &SocketAddr, cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::AddrInUse if address.port() == 0 => NO_PORT,
        io::ErrorKind::AddrInUse => {
            "; `ss -tlnp` shows what uses it, --metrics-listen takes another"
        }
        io::ErrorKind::AddrNotAvailable => "; `ip address` shows the addresses of this host",
        _ => "",
    }
}

/// What holds for every path: GET and HEAD alone, and in HTTP/1.1 one Host (RFC 9112, 3.2).
async fn check(request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(HOST).iter().count();
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let allow = [(ALLOW, "GET,HEAD")];
        (StatusCode::METHOD_NOT_ALLOWED, allow, "only GET and HEAD\n").into_response()
    } else if request.version() == Version::HTTP_11 && hosts != 1 {
        (StatusCode::BAD_REQUEST, "one Host is needed\n").into_response()
    } else {
        next.run(request).await
    }
}

/// Serves `site` until `stop` says true, then lets what is under way end.
pub(crate) async fn serve(
    listener: TcpListener,
    site: Arc<dyn Site>,
    mut stop: watch::Receiver<bool>,
) {
    let router = router(site);
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
                let task = tokio::spawn(connection(stream, router.clone(), stop.clone()));
                connections.push_back(task.abort_handle());
                // A request that came with it is answered before others can make it the oldest.
                task::yield_now().await;
            }
            Err(error) => {
                // One client's connection may be the cause, or the want of descriptors.
                if let Some(more) = warnings.pass(started.elapsed()) {
                    warn!("cannot accept an HTTP connection: {error}{more}");
                }
                // More than one descriptor: a scrape opens files, too.
                let older = connections.len().div_ceil(2);
                for connection in connections.drain(..older) {
                    connection.abort();
                }
                if older == 0 {
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
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            // A scrape comes less often than a connection may last. Who sends request after
            // request and reads nothing would have each of them answered, until no more fits.
            .keep_alive(false)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        _ = stop.wait_for(|stop| *stop) => None,
        () = time::sleep(CONNECTION_TIMEOUT) => None,
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        connection.as_mut().graceful_shutdown();
        time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
    };
    if let Err(error) = ended {
        debug!("an HTTP connection ended: {error}");
    }
}

type SiteState = State<Arc<dyn Site>>;

fn router(site: Arc<dyn Site>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/metrics", get(metrics))
        .route("/-/healthy", get(healthy))
        .route("/-/ready", get(ready))
        .fallback(|| async { (StatusCode::NOT_FOUND, "not found\n") })
        .with_state(site)
        .layer(middleware::from_fn(check))
}

/// The whole page, or, asked for `/?main`, the part that changes.
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

/// A number that nobody can guess: no two responses have the same.
fn nonce() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

async fn metrics(State(site): SiteState) -> Response {
    match site.metrics() {
        Ok((kind, text)) => ([(CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error + "\n").into_response(),
    }
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
