//! The expected output of a command.

use crate::harness::readme::{Passage, bare};

/// The datagram of a client that is not ours.
pub const HELLO: &str = "hello";

/// The texts that a command must print, by the README or in general.
pub fn claims(passage: &Passage, command: &str) -> Vec<String> {
    let line = bare(command);
    let mut claims = Vec::new();
    // print(…)  # output
    for line in command.lines().filter(|line| line.contains("print(")) {
        claims.extend(
            line.split_once(" # ")
                .map(|(_, said)| said.trim().to_owned()),
        );
    }
    let mut claim = |start: &str, said: &[&str]| {
        if line.starts_with(start) {
            claims.extend(said.iter().map(|said| String::from(*said)));
        }
    };
    claim(
        "systemctl status",
        &["active (running)", "127.0.0.1:9999", "127.0.0.1:9862"],
    );
    claim("systemctl status", &[" received", " dropped by the kernel"]);
    claim("ss -ulnp", &["127.0.0.1:9999", "\"udp-echo\""]);
    claim("udp-echo", &["Usage: udp-echo"]);
    claim("apt remove", &["Removing udp-echo"]);
    claim("apt purge", &["Purging configuration files for udp-echo"]);
    claim("nping", &[" Lost: 0 (0.00%)"]);
    claim("hping3", &[", 0% packet loss"]);
    for client in ["ncat", "socat", "python3 -c"] {
        claim(client, &[HELLO]);
    }
    claim("promtool test", &["SUCCESS"]);
    if line.starts_with("systemd-analyze security") {
        let after = passage.text.rsplit(line).next().unwrap();
        let level = after.split_whitespace().find_map(|word| {
            let word = word.trim_end_matches(['.', ',', ':', ';']);
            word.parse::<f64>().ok()
        });
        let level = level.expect("the README says how exposed it is");
        claims.push(format!("exposure level for udp-echo.service: {level}"));
    }
    claims
}

/// Whether a command that shows figures has some: no metric is 0, each query has a result.
pub fn has_figures(line: &str, said: &str) -> bool {
    if line.starts_with("promtool query") {
        let values = said.lines().filter_map(|line| {
            let value = line.split("=> ").nth(1)?;
            value.split(' ').next()?.parse::<f64>().ok()
        });
        return values.fold(0.0, f64::max) > 0.0;
    }
    let lines = said.lines().filter(|line| !line.starts_with('#'));
    let values: Vec<_> = lines.filter_map(|line| line.rsplit(' ').next()).collect();
    (!values.is_empty() || line.contains("/dev/null")) && !values.contains(&"0")
}
