//! README.md: its sections and the commands in them.
//!
//! These are commands:
//! - each line of a fenced `sh` block;
//! - each code span of more than one word whose first word could be a program's name
//!   (`udp-echo probe --help`);
//! - each code span that names a program of the checkout (`packaging/build-deb`);
//! - each local address (`http://localhost:9090/…`), which is opened.
//!
//! No test lists them: a new command is run, and must work.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Commands that no test runs literally, and the test that covers each.
pub const ELSEWHERE: [(&str, &str); 3] = [
    // It runs all tests, so none can run it.
    (
        ".ci/run",
        "readme_developer_commands_are_steps_of_the_check",
    ),
    // It takes 11 minutes and needs packages of npm.
    (
        "tests/pictures/dashboard/run",
        "dashboard_pictures_have_every_row_of_their_dashboards",
    ),
    // The machine has no man; lintian renders the page.
    ("man udp-echo", "lintian_has_no_error_and_no_warning"),
];

/// Tags of fenced blocks without commands.
const NOT_TYPED: [&str; 5] = ["text", "ini", "yaml", "json", "mermaid"];

/// The names of the client and the monitor. Without a host they are not commands.
const CLIENTS: [&str; 2] = ["udp-echo probe", "udp-echo monitor"];

/// The section about three hosts that measure each other.
const MESH: &str = "A mesh in five minutes";

/// Clients of other projects.
const OTHER_CLIENTS: [&str; 5] = ["hping3", "ncat", "nping", "python3", "socat"];

/// The place where a test runs a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A booted Debian with the package. The default.
    Machine,
    /// The checkout, in a network namespace: `cargo run`, `cargo install` and the commands
    /// beside them.
    Checkout,
    /// A host beside that of a reflector in echo mode: clients of other projects.
    Neighbor,
    /// Three hosts on one network.
    Mesh,
    /// A step of `.ci/run`: `cargo test`, `cargo bench`.
    Step,
    /// `packaging/build-deb`, which built the package that the machine has.
    Package,
    /// [`ELSEWHERE`].
    Elsewhere,
}

/// The text under a heading of the second level, or above the first one.
#[derive(Debug, Default)]
pub struct Section {
    pub title: String,
    pub text: String,
    pub passages: Vec<Passage>,
}

/// A fenced block, a row of a table, a paragraph or an item of a list.
#[derive(Debug, Default)]
pub struct Passage {
    pub text: String,
    /// Code spans, each joined to one line. A block has none.
    pub spans: Vec<String>,
    pub commands: Vec<String>,
}

impl Section {
    /// The commands of a passage that belong to a place.
    pub fn commands<'a>(&self, passage: &'a Passage, place: Place) -> Vec<&'a str> {
        let all = passage.commands.iter().map(String::as_str);
        all.filter(|command| self.place(command) == place).collect()
    }

    pub fn place(&self, command: &str) -> Place {
        let command = bare(command);
        if self.title == MESH {
            Place::Mesh
        } else if ELSEWHERE.iter().any(|(name, _)| *name == command) {
            Place::Elsewhere
        } else if command == "packaging/build-deb" {
            Place::Package
        } else if command.starts_with("cargo run") || command.starts_with("cargo install") {
            Place::Checkout
        } else if command.starts_with("cargo ") {
            Place::Step
        } else if self.has("cargo run") && asks(command) {
            // Any other command would change the test's own host.
            Place::Checkout
        } else if OTHER_CLIENTS.contains(&command.split(' ').next().unwrap()) {
            Place::Neighbor
        } else {
            Place::Machine
        }
    }

    /// Whether a command starts with this text.
    pub fn has(&self, start: &str) -> bool {
        let mut commands = self.passages.iter().flat_map(|passage| &passage.commands);
        commands.any(|command| command.starts_with(start))
    }
}

/// A command without the comment at its end.
pub fn bare(command: &str) -> &str {
    match command.split_once(" #") {
        Some((command, _)) if !command.contains('\n') => command.trim_end(),
        _ => command,
    }
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether this is the crate as cargo publishes it, which leaves out the pictures.
pub fn is_published_crate() -> bool {
    root().join("Cargo.toml.orig").exists()
}

/// Cargo.toml as it was written. The published crate has another text of it, too.
pub fn manifest() -> String {
    let name = ["Cargo.toml", "Cargo.toml.orig"][usize::from(is_published_crate())];
    std::fs::read_to_string(root().join(name)).unwrap()
}

/// Whether a path exists in the repository.
pub fn exists(path: &str) -> bool {
    let path = Path::new(path);
    let is_picture = path.extension().is_some_and(|end| end == "png");
    root().join(path).exists() || (is_picture && is_published_crate())
}

pub fn text() -> String {
    std::fs::read_to_string(root().join("README.md")).unwrap()
}

pub fn sections() -> Vec<Section> {
    let mut sections = vec![Section::default()];
    let mut passage = String::new();
    let text = text();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let section = sections.last_mut().unwrap();
        let own = ["- ", "|", "#", "```"];
        if line.is_empty() || own.iter().any(|start| line.starts_with(start)) {
            let text = std::mem::take(&mut passage);
            section.passages.push(Passage::prose(text));
        }
        if let Some(title) = line.strip_prefix("## ") {
            sections.push(Section {
                title: title.to_owned(),
                ..Section::default()
            });
        } else if let Some(tag) = line.strip_prefix("```") {
            let lines: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            if tag == "sh" {
                section.passages.push(Passage::block(&lines));
            }
            let known = tag == "sh" || NOT_TYPED.contains(&tag);
            assert!(known, "does a block of {tag:?} have commands? {lines:#?}");
        } else {
            passage.push_str(line);
            passage.push('\n');
        }
        let section = sections.last_mut().unwrap();
        section.text.push_str(line);
        section.text.push('\n');
    }
    let section = sections.last_mut().unwrap();
    section.passages.push(Passage::prose(passage));
    sections
}

impl Passage {
    fn prose(text: String) -> Self {
        // A link to a local address counts as a code span.
        let links = ["http://localhost", "http://127.0.0.1"];
        let mut quoted = text.clone();
        for line in text.split_inclusive('>') {
            let link = line.rsplit('<').next().unwrap();
            if links.iter().any(|start| link.starts_with(start)) {
                let span = format!("`{}`", link.trim_end_matches('>'));
                quoted = quoted.replace(&format!("<{link}"), &span);
            }
        }
        let spans = quoted.split('`').skip(1).step_by(2);
        let spans: Vec<_> = spans.map(|span| span.replace('\n', " ")).collect();
        let commands = spans.iter().filter_map(|span| {
            if links.iter().any(|start| span.starts_with(start)) {
                Some(format!("curl -fsSLg -o /dev/null '{span}'"))
            } else {
                is_command(span).then(|| span.clone())
            }
        });
        Self {
            commands: commands.collect(),
            spans,
            text,
        }
    }

    fn block(lines: &[&str]) -> Self {
        let mut commands = Vec::new();
        let mut command = String::new();
        for line in lines {
            let is_comment = line.trim_start().starts_with('#') || line.trim().is_empty();
            if command.is_empty() && is_comment {
                continue;
            }
            command.push_str(line);
            if is_whole(&command) {
                commands.push(std::mem::take(&mut command));
            } else {
                command.push('\n');
            }
        }
        assert!(command.is_empty(), "incomplete command: {command}");
        Self {
            text: lines.join("\n"),
            spans: Vec::new(),
            commands,
        }
    }
}

/// Whether a command only queries a daemon.
fn asks(command: &str) -> bool {
    let programs = ["python3 ", "curl "];
    programs.iter().any(|program| command.starts_with(program))
}

/// Whether a code span is a command, not an option, expression, message or synopsis.
fn is_command(span: &str) -> bool {
    let words: Vec<_> = span.split(' ').collect();
    let is_name = span.starts_with(|first: char| first.is_ascii_lowercase() || first == '.')
        && words[0]
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || "._/-".contains(character));
    let is_placeholder = |word: &&str| {
        word.starts_with(|first: char| first.is_ascii_uppercase())
            && word
                .chars()
                .all(|character| character.is_ascii_uppercase() || ":_-".contains(character))
    };
    is_name
        && !CLIENTS.contains(&span)
        && !words.contains(&"=")
        && !words.iter().any(is_placeholder)
        && (words.len() > 1 || is_program(&root().join(span)))
}

fn is_program(path: &PathBuf) -> bool {
    let data = std::fs::metadata(path);
    data.is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// Whether the shell takes this as a complete command.
fn is_whole(command: &str) -> bool {
    let shell = Command::new("sh").args(["-n", "-c", command]).output();
    !command.ends_with('\\') && shell.expect("sh").status.success()
}
