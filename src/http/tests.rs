use std::io::{Read, Write};
use std::sync::mpsc;
use std::thread;

use socket2::SockRef;

use super::*;
use crate::runtime;

/// A site that has only metrics, which are always slow.
struct MetricsOnly<F>(F);

impl<F: Fn() -> String + Send + Sync + 'static> Site for MetricsOnly<F> {
    fn metrics(&self) -> Result<(&'static str, String), String> {
        Ok(("text/plain", (self.0)()))
    }

    fn metrics_are_slow(&self) -> bool {
        true
    }

    fn healthy(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> bool {
        true
    }

    fn page(&self, _: &str) -> String {
        String::new()
    }

    fn page_main(&self) -> String {
        String::new()
    }
}

/// After a stop, connections that the daemon closed keep the port for a minute.
#[test]
fn listener_takes_a_port_with_closed_connections() {
    let (listener, _) = bind(([127, 0, 0, 1], 0).into(), "").unwrap();
    assert!(SockRef::from(&listener).reuse_address().unwrap());
}

#[test]
fn scrapes_that_wait_together_are_rendered_once() {
    let (listener, address) = bind(([127, 0, 0, 1], 0).into(), "").unwrap();
    // A rendering takes until the test has received two messages: it has begun, and it may end.
    let (sender, renderings) = mpsc::sync_channel(0);
    let slow = MetricsOnly(move || {
        sender.send(()).unwrap();
        sender.send(()).unwrap();
        "a".repeat(1 << 20)
    });
    let (requested, requests) = mpsc::channel();
    let count = move |request: Request, next: Next| {
        requested.send(()).unwrap();
        next.run(request)
    };
    let routes = site(Arc::new(slow)).layer(middleware::from_fn(count));
    let (stop, stopped) = watch::channel(false);
    let server = thread::spawn(move || {
        runtime::new().unwrap().block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            serve(listener, routes, stopped).await;
        });
    });
    let deadline = Duration::from_mins(3);
    let get = |path: &str| {
        let mut client = std::net::TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(deadline)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        requests.recv_timeout(deadline).unwrap();
        client
    };
    let read = |mut client: std::net::TcpStream| {
        let mut text = Vec::new();
        client.read_to_end(&mut text).unwrap();
        text
    };
    let next_message = || renderings.recv_timeout(deadline).unwrap();
    let first = get("/metrics");
    next_message();
    let others: Vec<_> = (0..10).map(|_| get("/metrics")).collect();
    // The server has one thread: with this response, it has put the requests before in the queue.
    read(get("/-/healthy"));
    (0..3).for_each(|_| next_message());
    for client in others.into_iter().chain([first]) {
        let text = read(client);
        assert!(text.starts_with(b"HTTP/1.1 200") && text.len() > 1 << 20);
    }
    assert!(renderings.try_recv().is_err());
    let _ = stop.send(true);
    server.join().unwrap();
}

#[test]
fn connection_ends_when_the_client_reads_nothing() {
    let (listener, address) = bind(([127, 0, 0, 1], 0).into(), "--metrics-listen").unwrap();
    // More than the buffers of a connection hold.
    let large = MetricsOnly(|| "a".repeat(64 << 20));
    let mut client = std::net::TcpStream::connect(address).unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    client.write_all(request).unwrap();
    let served = thread::spawn(move || {
        runtime::new().unwrap().block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let (_stop, stopped) = watch::channel(false);
            let ends = connection(stream, site(Arc::new(large)), stopped);
            time::timeout(Duration::from_mins(3), ends).await
        })
    });
    assert!(served.join().unwrap().is_ok(), "not closed");
    drop(client);
}
