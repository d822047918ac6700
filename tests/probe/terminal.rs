//! The client on a terminal: progress line, Ctrl-C, width of the histogram.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use nix::pty::{Winsize, openpty};
use nix::unistd::setsid;

use crate::harness::tidy::end_with_test;
use crate::harness::{Daemon, wait_until};
use crate::reflectors::{LONG, Reflector, ended, joined, probe, sequence};

/// A client on its own terminal.
struct Terminal {
    columns: u16,
    keyboard: File,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
    child: Child,
}

impl Terminal {
    fn start(columns: u16, target: impl Display, args: &str) -> Self {
        let size = Winsize {
            ws_row: 24,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).unwrap();
        let mut command = probe(target, args);
        command.stdin(pty.slave.try_clone().unwrap());
        command.stdout(pty.slave.try_clone().unwrap());
        command.stderr(pty.slave);
        let child = end_with_test(leads_session(&mut command)).spawn();
        let child = child.unwrap();
        let keyboard = File::from(pty.master);
        let mut master = keyboard.try_clone().unwrap();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&shown);
        let reader = thread::spawn(move || {
            let mut bytes = [0; 4096];
            // It fails once no process has the terminal open.
            while let Ok(count @ 1..) = master.read(&mut bytes) {
                seen.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        Self {
            columns,
            keyboard,
            shown,
            reader,
            child,
        }
    }

    /// Returns all output so far.
    fn text(&self) -> String {
        String::from_utf8(self.shown.lock().unwrap().clone()).unwrap()
    }

    /// Returns the number of requests sent in each progress line so far.
    fn progress(&self) -> Vec<u64> {
        let text = self.text();
        let lines = text.split("\r\x1b[K").skip(1);
        let sent = lines.filter_map(|line| line.split_once(" sent, ")?.0.parse().ok());
        sent.collect()
    }

    /// Returns the visible rows.
    fn rows(&self) -> Vec<String> {
        let mut rows = vec![Vec::new()];
        let mut column = 0;
        let text = self.text().replace("\x1b[K", "\x1b");
        for character in text.chars() {
            let row = rows.last_mut().unwrap();
            match character {
                '\r' => column = 0,
                '\n' => rows.push(Vec::new()),
                '\x1b' => row.truncate(column),
                _ if column == usize::from(self.columns) => {
                    rows.push(vec![character]);
                    column = 1;
                }
                _ => {
                    row.truncate(column);
                    row.resize(column, ' ');
                    row.push(character);
                    column += 1;
                }
            }
        }
        rows.into_iter().map(String::from_iter).collect()
    }

    /// Waits for the client to end. Returns its status, all output and the visible rows.
    fn end(mut self) -> (ExitStatus, String, Vec<String>) {
        wait_until("the client ends", || {
            self.child.try_wait().unwrap().is_some()
        });
        wait_until("all is read", || self.reader.is_finished());
        let status = self.child.wait().unwrap();
        (status, self.text(), self.rows())
    }

    fn press_ctrl_c(&mut self) {
        self.keyboard.write_all(b"\x03").unwrap();
    }

    fn press_ctrl_backslash(&mut self) {
        self.keyboard.write_all(b"\x1c").unwrap();
    }
}

/// Returns the lines as the client wrote them, without the echo of keys.
fn lines(text: &str) -> Vec<&str> {
    let lines = text.lines();
    lines
        .map(|line| {
            let line = line.rsplit("\x1b[K").next().unwrap();
            line.trim_start_matches("^\\").trim_start_matches("^C")
        })
        .collect()
}

/// Makes the process lead its own session with standard input as its terminal, so that keys send
/// signals.
#[allow(
    unsafe_code,
    reason = "std has no safe way to set an attribute of a child"
)]
fn leads_session(command: &mut Command) -> &mut Command {
    let lead = || {
        setsid()?;
        // SAFETY: it takes no pointer.
        match unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec there are two system calls, which are async-signal-safe.
    unsafe { command.pre_exec(lead) }
}

#[test]
fn progress_line_vanishes_before_the_summary_at_any_width() {
    let daemon = Daemon::start(&[]);
    for columns in [80, 40] {
        let args = format!("--quiet --interval=0.01 {LONG}");
        let mut terminal = Terminal::start(columns, daemon.address(), &args);
        wait_until("more and more was sent", || {
            let sent = terminal.progress();
            assert!(sent.is_sorted(), "{sent:?}");
            sent.first() < sent.last()
        });
        assert_eq!(terminal.rows().len(), 1, "{:?}", terminal.text());
        terminal.press_ctrl_c();
        let (status, text, rows) = terminal.end();
        assert!(status.success(), "{text:?}");
        assert!(rows[0].starts_with("--- "), "{rows:#?}");
        let seen = rows.concat();
        assert!(seen.contains(" 0 lost (0%)"), "{rows:#?}");
        assert!(
            !seen.contains("in flight") && !seen.contains("^C"),
            "{rows:#?}"
        );
        // A bar fits into one row with its times and its count.
        let bars: Vec<_> = rows.iter().filter(|row| row.contains('|')).collect();
        assert!((1..=8).contains(&bars.len()), "{rows:#?}");
        for bar in &bars {
            let parts: Vec<_> = bar.split('|').collect();
            assert_eq!(parts.len(), 3, "{rows:#?}");
            assert!(parts[0].contains(" to "), "{bar}");
            assert!(parts[2].trim().parse::<u64>().is_ok(), "{bar}");
        }
        assert!(
            bars.iter().any(|bar| bar.contains("########|")),
            "{rows:#?}"
        );
    }
}

#[test]
fn progress_is_absent_with_lines_json_or_a_pipe() {
    let daemon = Daemon::start(&[]);
    let mut lines = Terminal::start(80, daemon.address(), "--interval=0.1");
    let long = "--interval=0.1 --duration=2 --quiet";
    let json = Terminal::start(80, daemon.address(), &format!("{long} --json"));
    let (status, out, _) = ended(&mut probe(daemon.address(), long));
    assert_eq!(status, 0);
    assert!(
        out.starts_with("--- ") && !out.contains(['\r', '\x1b']),
        "{out:?}"
    );
    let (_, text, rows) = json.end();
    assert!(!text.contains("in flight"), "{text:?}");
    assert!(rows[0].starts_with("{\""), "{rows:#?}");
    wait_until("two seconds of lines", || lines.text().contains("seq=20 "));
    lines.press_ctrl_c();
    let (status, text, rows) = lines.end();
    assert!(status.success() && !text.contains("in flight"), "{text:?}");
    assert!(rows.iter().any(|row| row.starts_with("--- ")), "{rows:#?}");
}

#[test]
fn lines_are_broken_between_words_at_any_width() {
    let reflector = Reflector::new(|request| {
        let is_lost = sequence(request).is_multiple_of(2);
        let reply = (!is_lost).then(|| request.to_vec());
        reply.into_iter().chain([b"hello".to_vec()]).collect()
    });
    for columns in [80, 40] {
        let args = "--mode=echo --flows=2 --interval=0.02 --wait=0.1 -D";
        let mut terminal = Terminal::start(columns, reflector.address, args);
        wait_until("requests are lost", || {
            terminal.text().matches("no reply").count() > 15
        });
        terminal.press_ctrl_backslash();
        wait_until("figures are shown, and the run goes on", || {
            let text = terminal.text();
            let after = text.split_once(" 0 to ").map(|(_, after)| after);
            after.is_some_and(|after| after.contains("64 bytes"))
        });
        terminal.press_ctrl_c();
        let (status, text, _) = terminal.end();
        assert!(status.success(), "{text}");
        let lines = lines(&text);
        for line in &lines {
            assert!(line.chars().count() <= columns.into(), "{line:?} {text}");
        }
        let text = joined(&lines.join(" "));
        for sentence in [
            "64 bytes, one request every 20 ms, 2 flows",
            "no reply to seq=2 flow=2 within 100 ms",
            "some flows lose requests, others do not: flow 1, from port ",
            "round trip in ms: min ",
            "datagrams that are not replies: ",
        ] {
            assert!(text.contains(sentence), "{sentence}: {text}");
        }
    }
}
