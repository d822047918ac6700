//! Changes of units and options that the README describes.

use crate::harness::readme::{Passage, bare};
use crate::harness::{request_to, wait_until};
use crate::machine::{ECHO, Machine};
use crate::namespace::Namespace;
use crate::routed::assert_serves_only;

use super::Person;
use super::typed::Typed;

const DEFAULTS: &str = "/etc/default/udp-echo";

/// A change by `systemctl edit`.
#[derive(Default)]
pub struct Edit {
    pub units: Vec<String>,
    /// The lines to enter in the editor.
    pub lines: String,
    /// The commands after the edit, for passages that do not repeat them.
    rest: Vec<String>,
}

impl Edit {
    /// The change of the next passage, which may refer to this one by "the same".
    pub fn next(self, passage: &Passage) -> Self {
        let commands = || passage.commands.iter().map(|command| bare(command));
        let units: Vec<_> = commands().filter_map(edited).map(str::to_owned).collect();
        let is_setting = |span: &&String| {
            let name = span.split_once('=').map_or("", |(name, _)| name);
            let is_name = name.starts_with(|first: char| first.is_ascii_uppercase())
                && name
                    .chars()
                    .all(|character| character.is_ascii_alphabetic());
            is_name || (span.starts_with('[') && span.ends_with(']'))
        };
        let settings: Vec<_> = passage.spans.iter().filter(is_setting).collect();
        if let ([unit], [setting], [same]) = (&*units, &*settings, &*self.units)
            && passage.text.contains("the same")
        {
            let key = |text: &str| text.rfind('\n').map(|at| text[at + 1..].to_owned());
            let last = key(self.lines.trim_end()).expect("lines");
            let name = format!("{}=", last.split('=').next().unwrap());
            return Self {
                lines: self.lines.replace(&name, setting),
                rest: self
                    .rest
                    .iter()
                    .map(|command| command.replace(same, unit))
                    .collect(),
                units,
            };
        }
        let mut lines = String::new();
        for setting in settings {
            lines.push_str(setting);
            lines.push('\n');
        }
        if lines.is_empty() {
            "[Unit]\n".clone_into(&mut lines);
        }
        let rest = commands().filter(|command| edited(command).is_none());
        Self {
            rest: rest.map(str::to_owned).collect(),
            units,
            lines,
        }
    }

    /// Runs the commands that the passage omits.
    pub fn finish(&self, operator: &Person, passage: &Passage, busy: &mut Vec<Typed>) {
        for command in &self.rest {
            if !passage.commands.contains(command) {
                operator.types(passage, command, self, busy);
            }
        }
    }

    /// Asserts that the daemon serves at the configured addresses, or on the configured interface,
    /// which leads to the first network.
    pub fn is_in_effect(&self, machine: &Machine, [served, other]: &[Namespace; 2]) {
        let is_bound = self.lines.contains("\nBindToDevice=");
        if is_bound {
            assert_serves_only(machine, served, other);
        }
        for line in self.lines.lines() {
            match line.split_once('=') {
                Some(("ListenDatagram", address)) if !address.is_empty() && !is_bound => {
                    machine.assert_echoes(address, 1);
                }
                Some(("ListenStream", address)) if !address.is_empty() => {
                    let request =
                        "GET /-/ready HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
                    let ready = || request_to(address.parse().unwrap(), request).status == 200;
                    wait_until(line, || machine.inside(ready));
                }
                _ => {}
            }
        }
    }
}

/// The unit that a command edits.
pub fn edited(command: &str) -> Option<&str> {
    bare(command).strip_prefix("systemctl edit ")
}

/// `UDP_ECHO_…=…`
pub fn assignments(passage: &Passage) -> Vec<&str> {
    let spans = passage.spans.iter().map(String::as_str);
    spans
        .filter(|span| span.starts_with("UDP_ECHO_") && span.contains('='))
        .collect()
}

/// Sets an option of the service. Asserts that the service runs, or exits if that is the option.
pub fn assigned(machine: &Machine, assignment: &str) {
    eprintln!("{assignment}");
    let kept = machine.shell(&format!("cat {DEFAULTS}"));
    machine.write(DEFAULTS, &format!("{kept}\n{assignment}\n"));
    machine.shell("systemctl restart udp-echo");
    machine.assert_echoes(ECHO, 1);
    if assignment == "UDP_ECHO_EXIT_ON=timeout" {
        machine.wait_for("ActiveState", "inactive");
        machine.assert_echoes(ECHO, 1);
        machine.wait_for("ActiveState", "active");
    }
    machine.write(DEFAULTS, &kept);
}

/// Removes all changes.
pub fn undo(machine: &Machine) {
    machine.shell(
        "systemctl revert udp-echo.service udp-echo.socket udp-echo-metrics.socket; \
         systemctl restart udp-echo.socket udp-echo-metrics.socket udp-echo.service",
    );
    machine.assert_echoes(ECHO, 1);
}
