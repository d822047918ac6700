//! User and password of `--metrics-url`: sent as basic authentication, shown nowhere.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use crate::harness::{Daemon, program};
use crate::reflectors::{LONG, ended, probe};

/// Answers requests with metrics of a daemon, and returns their text.
fn server(answers: &'static [&'static str]) -> (String, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let served = thread::spawn(move || {
        let answer = |answer: &&str| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = Vec::new();
            while !bytes.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                bytes.extend(byte);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        answers.iter().map(answer).collect()
    });
    (address, served)
}

const METRICS: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n\
                       udp_echo_datagrams_received_total 1\nudp_echo_datagrams_echoed_total 1\n";
const REFUSED: &str = "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\n\r\n";

#[test]
fn user_and_password_of_the_url_are_basic_authentication() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let (address, served) = server(&[METRICS, METRICS]);
    let url = format!("http://me:pa%3ass%40word@{address}/metrics");
    let args = format!("--mode=echo --count=1 {LONG} --metrics-url={url}");
    let (status, out, err) = ended(&mut probe(daemon.address(), &args));
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    for request in served.join().unwrap() {
        let request = request.to_lowercase();
        // `me:pa:ss@word`.
        let sent = "\r\nauthorization: basic bwu6cge6c3nad29yza==\r\n";
        assert!(request.contains(sent), "{request}");
        assert!(
            request.contains(&format!("\r\nhost: {address}\r\n")),
            "{request}"
        );
        assert!(!request.contains("word@"), "{request}");
    }
}

#[test]
fn errors_keep_their_words_when_a_user_name_is_short() {
    let (status, _, err) = run("--metrics-url=https://e@h h");
    assert_eq!(status, 2, "{err}");
    let said = "error: invalid value 'https://***@h' for '--metrics-url <URL>': expected a plain";
    assert!(err.starts_with(said), "{err}");
}

#[test]
fn errors_never_show_the_password() {
    let (address, served) = server(&[REFUSED]);
    let valid = format!("--metrics-url=http://me:secret@{address}/metrics 127.0.0.1:9");
    let (status, out, err) = run(&valid);
    assert_eq!(status, 1, "{out}{err}");
    let said = format!("cannot read the metrics at http://{address}/metrics: ");
    assert!(
        err.contains(&said) && err.contains("401 Unauthorized; give user"),
        "{err}"
    );
    served.join().unwrap();
    for args in [
        "--metrics-url=https://me:secret@h h",
        "--metrics-url http://me:secret@ h",
        "--metrics-url http://me:secret@h:port h",
        "--metric-url http://me:secret@h h",
        "--metrics-url=http://me:secret\u{1b}@h h",
        "http://me:secret@h",
        "h http://me:secret@h",
        "--quiet=http://me:secret@h h",
    ] {
        let (status, out, err) = run(args);
        assert_eq!(status, 2, "{args}: {err}");
        assert!(!format!("{out}{err}").contains("secret"), "{args}: {err}");
    }
    for variable in ["UDP_ECHO_PROBE_METRICS_URL", "UDP_ECHO_METRICS_URL"] {
        let mut command = program();
        command
            .args(["probe", "h"])
            .env(variable, "ftp://me:secret@h");
        let (status, out, err) = ended(&mut command);
        assert_eq!(status, 2, "{err}");
        assert!(!format!("{out}{err}").contains("secret"), "{err}");
        assert!(err.contains(variable), "{err}");
    }
}

fn run(args: &str) -> (i32, String, String) {
    let mut command = program();
    ended(command.arg("probe").args(args.split(' ')))
}
