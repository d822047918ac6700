use std::io::{Read, Write};
use std::thread;

use socket2::SockRef;

use super::*;
use crate::runtime;

/// A page that is larger than the buffers of a connection.
struct Large;

impl Site for Large {
    fn metrics(&self) -> Result<(&'static str, String), String> {
        Ok(("text/plain", "a".repeat(64 << 20)))
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

/// Metrics that take until the test receives a message. Counts how often they are rendered.
struct Slow(std::sync::mpsc::SyncSender<()>);

impl Site for Slow {
    fn metrics(&self) -> Result<(&'static str, String), String> {
        self.0.send(()).map_err(|error| error.to_string())?;
        Ok(("text/plain", "a".repeat(1 << 20)))
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

#[test]
fn scrapes_that_wait_together_are_rendered_once() {
    let (listener, address) = bind(([127, 0, 0, 1], 0).into(), "").unwrap();
    // Each rendering ends when it is received.
    let (sender, renderings) = std::sync::mpsc::sync_channel(0);
    let (stop, stopped) = watch::channel(false);
    let server = thread::spawn(move || {
        runtime::new().unwrap().block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            serve(listener, site(Arc::new(Slow(sender))), stopped).await;
        });
    });
    let get = |path: &str| {
        let mut client = std::net::TcpStream::connect(address).unwrap();
        client
            .set_read_timeout(Some(Duration::from_mins(3)))
            .unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        client
    };
    let read = |mut client: std::net::TcpStream| {
        let mut text = Vec::new();
        client.read_to_end(&mut text).unwrap();
        text
    };
    // The first response shows that all requests before were accepted, the second one that they were
    // read: their sockets were ready before its own.
    let all_are_read = || (0..2).for_each(|_| drop(read(get("/-/healthy"))));
    let first = get("/metrics");
    all_are_read();
    let others: Vec<_> = (0..10).map(|_| get("/metrics")).collect();
    // These go away before it is their turn.
    drop((0..10).map(|_| get("/metrics")).collect::<Vec<_>>());
    all_are_read();
    renderings.recv().unwrap();
    renderings.recv().unwrap();
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
    let mut client = std::net::TcpStream::connect(address).unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    client.write_all(request).unwrap();
    let served = thread::spawn(move || {
        runtime::new().unwrap().block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let (_stop, stopped) = watch::channel(false);
            let ends = connection(stream, site(Arc::new(Large)), stopped);
            time::timeout(Duration::from_mins(3), ends).await
        })
    });
    assert!(served.join().unwrap().is_ok(), "not closed");
    drop(client);
}
