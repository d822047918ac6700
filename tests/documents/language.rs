//! Phrases that the texts may not have. Over 400 lines: the list and its checker belong together.

use std::fs;
use std::path::Path;

use crate::harness::{self, readme};

/// A banned phrase, and the words to use.
///
/// Words are apart by spaces, their alternatives by `|`. `#` is any number, `!is|was` any word but
/// these. A phrase that starts with a capital letter is banned only with it, at the start of a
/// sentence. All others are found in any case and in the names `snake_case` and `CamelCase`.
const BANNED: &[(&str, &str)] = &[
    (
        "nobody|whoever|somebody",
        "client, peer, process, sender: programs are not people",
    ),
    ("no one", "none, no client, no process"),
    ("anew", "again, restart"),
    ("trouble|troubles", "error, fault, disturbance"),
    ("recipe|recipes", "reference server"),
    ("burst|bursts", "GRO batch, GSO batch"),
    ("forget|forgets|forgotten", "evict, drop"),
    ("give|gives|giving|given|gave up", "expire, stop waiting"),
    ("tells|told|untold", "report, say, control message"),
    ("looped", "sent by this host, came over loopback"),
    ("for want of", "for lack of"),
    ("so many|much|long", "N, this many, at least"),
    ("in a circle", "routing loop"),
    ("count|counts for nothing", "is ignored"),
    ("of a hundred", "percent"),
    ("hand|hands|handed|handing over", "pass in"),
    (
        "#|once|twice|times|many|few|one|datagrams|requests|packets|bytes|bits|replies|records|lines \
         a|an second|minute|hour|day",
        "per second",
    ),
    ("room|rooms", "space, capacity, free slots"),
    ("quiet", "idle"),
    ("group|groups", "batch, set"),
    (
        "What|That !is|was|would",
        "a sentence that starts with its subject",
    ),
    ("The same", "a sentence that stands alone"),
    ("Of these", "a sentence that stands alone"),
    ("Makes one", "a sentence that stands alone"),
    ("Who", "a sentence that stands alone"),
];

/// Phrases that are right though they have a banned one in them: the texts that may have them, by
/// the start of their names; the phrase; and why.
const ALLOWED: &[(&str, &str, &str)] = &[
    (
        "",
        "process|control|multicast|broadcast|capture|supplementary|benchmark group|groups",
        "terms of the system and its libraries",
    ),
    (
        "",
        "group address|leader|write|may|and|or",
        "multicast addresses, process groups and permissions of files",
    ),
    (
        "tests/system/hostile/port.rs",
        "nobody",
        "a user of the system",
    ),
    ("", "mem forget", "a function of the standard library"),
    ("", "rate # burst", "a parameter of tc-tbf(8)"),
    ("", "udp echo quiet", "the variable of the option --quiet"),
    ("", "start limit burst", "a setting of systemd.unit(5)"),
    (
        "",
        "udp echo probe quiet",
        "the variable of the option --quiet",
    ),
    ("src/cli/environment.rs", "quiet", "the option --quiet"),
    ("src/cli/probe", "quiet", "the option --quiet"),
    ("src/probe", "quiet", "the option --quiet"),
    ("src/monitor/endpoint", "quiet", "the option --quiet"),
    ("tests/probe/", "quiet", "the option --quiet"),
    ("tests/daemon/help.rs", "quiet", "the option --quiet"),
    ("tests/daemon/mistakes.rs", "quiet", "the option --quiet"),
    ("tests/daemon/variables.rs", "quiet", "the option --quiet"),
    (
        "tests/system/prometheus.rs",
        "groups",
        "a key of the API of Prometheus",
    ),
    ("packaging/grafana/", "group", "a key of Grafana's"),
    ("tests/pictures/dashboard/", "group", "a key of Grafana's"),
    (
        "packaging/prometheus/",
        "group|groups",
        "a key and an operator of Prometheus",
    ),
    (
        "packaging/kubernetes/",
        "group left",
        "an operator of Prometheus",
    ),
    ("", "run as group", "a field of Kubernetes"),
    (".github/workflows/", "group", "a key of GitHub's"),
    ("packaging/nginx/", "burst", "a parameter of limit_req"),
];

/// A word of a text, and its place.
struct Word<'a> {
    text: &'a str,
    start: usize,
    /// Whether the word before it can be in one phrase with it.
    is_joined: bool,
}

/// The banned phrases of a text, each with its line. `name` is what to call the text.
pub(crate) fn findings(name: &str, text: &str) -> Vec<String> {
    let words = words(text);
    let lower = text.to_ascii_lowercase();
    let allowed = ALLOWED.iter().filter(|(start, ..)| name.starts_with(start));
    let allowed: Vec<_> = allowed
        .filter(|(_, phrase, _)| may_have(&lower, phrase))
        .flat_map(|(_, phrase, _)| matches(phrase, &words))
        .collect();
    let mut found = Vec::new();
    // Most texts have few of the words: the first look saves most of the time.
    let banned = BANNED.iter().filter(|(phrase, _)| may_have(&lower, phrase));
    for (phrase, better) in banned {
        for (start, end) in matches(phrase, &words) {
            if allowed
                .iter()
                .any(|range| range.0 <= start && end <= range.1)
            {
                continue;
            }
            let number = text[..start].matches('\n').count() + 1;
            let line = text.lines().nth(number - 1).unwrap_or_default().trim();
            let phrase = &text[start..end];
            found.push(format!(
                "{name}:{number}: {phrase:?} (use: {better}): {line}"
            ));
        }
    }
    found
}

/// The names of tests that are too long or no statement about a subject.
pub(crate) fn bad_test_names(name: &str, code: &str) -> Vec<String> {
    let mut bad = Vec::new();
    for (at, attribute) in code.match_indices("test]\n") {
        let is_attribute = code[..at].ends_with("#[") || code[..at].ends_with("::");
        let rest = &code[at + attribute.len()..];
        let Some((_, rest)) = rest.split_once("fn ").filter(|_| is_attribute) else {
            continue;
        };
        let test = rest.split('(').next().unwrap_or_default();
        let mut words = test.split('_');
        let opens = ["what", "that", "where"].contains(&words.clone().next().unwrap_or_default());
        if test.len() >= 60 {
            bad.push(format!("{name}: {test} has {} characters", test.len()));
        }
        if opens || words.any(|word| ["it", "so"].contains(&word)) {
            bad.push(format!("{name}: {test} is not <subject>_<does>_<when>"));
        }
    }
    bad
}

/// Where a phrase stands: from its first byte to the end of its last word.
fn matches(phrase: &str, words: &[Word]) -> Vec<(usize, usize)> {
    let parts: Vec<Vec<_>> = phrase
        .split_whitespace()
        .map(|part| part.split('|').collect())
        .collect();
    let found = words.windows(parts.len()).filter(|words| {
        words[1..].iter().all(|word| word.is_joined)
            && parts
                .iter()
                .zip(*words)
                .all(|(part, word)| fits(part, word.text))
    });
    found
        .map(|words| {
            let last = &words[words.len() - 1];
            (words[0].start, last.start + last.text.len())
        })
        .collect()
}

/// Whether a text in small letters has all words of a phrase, in whatever place.
fn may_have(text: &str, phrase: &str) -> bool {
    phrase
        .to_lowercase()
        .split_whitespace()
        .all(|part| part.starts_with(['#', '!']) || part.split('|').any(|word| text.contains(word)))
}

fn fits(part: &[&str], word: &str) -> bool {
    let fits_one = |one: &&str| {
        let is_number = *one == "#" && (word == "{}" || word.ends_with(char::is_numeric));
        let is_exact = one.starts_with(char::is_uppercase);
        is_number || word == *one || (!is_exact && word.eq_ignore_ascii_case(one))
    };
    match part[0].strip_prefix('!') {
        Some(first) => !fits_one(&first) && !part[1..].iter().any(fits_one),
        None => part.iter().any(fits_one),
    }
}

/// The words of a text: those of a name are words of their own. `--option` has none. A placeholder
/// has a word `{}` behind its name, as it stands for a number.
fn words(text: &str) -> Vec<Word<'_>> {
    let mut words: Vec<Word> = Vec::new();
    let mut end = 0;
    let mut letters = text.char_indices().peekable();
    while let Some((start, first)) = letters.next() {
        if first == '}' && is_placeholder(text, start) {
            words.push(Word {
                text: "{}",
                start: start - 1,
                is_joined: true,
            });
            end = start + 1;
        }
        if !first.is_alphanumeric() {
            continue;
        }
        // The manual has a backslash before each hyphen.
        if text[..start].ends_with("--") || text[..start].ends_with("-\\-") {
            while letters
                .next_if(|(_, next)| next.is_alphanumeric() || *next == '-')
                .is_some()
            {}
            end = letters.peek().map_or(text.len(), |(at, _)| *at);
            continue;
        }
        let mut last = first;
        while let Some((_, next)) = letters.next_if(|(at, next)| {
            let after = text[at + next.len_utf8()..].chars().next();
            let ends_acronym = last.is_uppercase() && after.is_some_and(char::is_lowercase);
            let is_capital = next.is_uppercase() && (!last.is_uppercase() || ends_acronym);
            next.is_alphanumeric() && !is_capital
        }) {
            last = next;
        }
        let stop = letters.peek().map_or(text.len(), |(at, _)| *at);
        let gap = &text[end..start];
        end = stop;
        words.push(Word {
            text: &text[start..stop],
            start,
            is_joined: joins(gap),
        });
    }
    words
}

/// Whether a brace ends a placeholder of a format string.
fn is_placeholder(text: &str, end: usize) -> bool {
    let inside = text[..end].rsplit('{').next().unwrap_or_default();
    inside.len() < end && !inside.contains(|it: char| it.is_whitespace() || it == '}')
}

/// Whether one phrase can go on from word to word over this: in a name, or over spaces, the end of
/// a line and the marks of a comment.
fn joins(gap: &str) -> bool {
    if !gap.contains(char::is_whitespace) {
        return gap.chars().all(|it| "_-.:'`}".contains(it));
    }
    let mut lines = gap.split('\n');
    let first = lines.next().unwrap_or_default();
    let marks = ["///", "//!", "//", "#", "*", ">", "\\"];
    let is_blank = |text: &str| text.chars().all(|it| " \t`*}\\".contains(it));
    let mut rest = lines.map(|line| {
        let line = line.trim_start();
        marks
            .iter()
            .find_map(|mark| line.strip_prefix(mark))
            .unwrap_or(line)
    });
    is_blank(first) && rest.all(is_blank) && gap.matches('\n').count() < 2
}

#[test]
fn texts_have_no_banned_phrase() {
    let mut found = Vec::new();
    for (name, text) in texts() {
        found.extend(findings(&name, &text));
        if Path::new(&name).extension().is_some_and(|end| end == "rs") {
            found.extend(bad_test_names(&name, &text));
        }
    }
    for command in [
        &["-h"][..],
        &["--help"],
        &["probe", "-h"],
        &["probe", "--help"],
    ] {
        let help = harness::run(harness::program().args(command)).1;
        assert!(help.contains("Usage: "), "{help}");
        found.extend(findings(&command.join(" "), &help));
    }
    assert!(
        found.is_empty(),
        "{}\n{} findings",
        found.join("\n"),
        found.len()
    );
}

#[test]
fn every_banned_phrase_is_found_in_prose_comments_and_names() {
    let mut count = 0;
    for (phrase, _) in BANNED {
        for words in variants(phrase) {
            let is_found = |text: &str| {
                let found = findings("text", text);
                assert!(!found.is_empty(), "{words:?} is not found in {text:?}");
            };
            let has_capital = words[0].starts_with(char::is_uppercase);
            let [middle, sentence] = if has_capital {
                ["", ". "]
            } else {
                ["of ", " in use. "]
            };
            is_found(&format!("A line.\n{middle}{}{sentence}", words.join(" ")));
            is_found(&format!(
                "/// {middle}{}\n/// end",
                words.join("\n    /// ")
            ));
            is_found(&format!("# {middle}{}\n", words.join("\n# ")));
            if !has_capital {
                is_found(&format!("fn a_{}_b() {{}}", words.join("_")));
                is_found(&format!(
                    "struct Has{};",
                    words.iter().map(|word| capital(word)).collect::<String>()
                ));
                is_found(&words.join(" ").to_uppercase());
            }
            count += 1;
        }
    }
    assert!(count > BANNED.len(), "{count}");
}

#[test]
fn allowed_phrases_and_options_are_not_found() {
    for (name, phrase, reason) in ALLOWED {
        for words in variants(phrase) {
            let text = words.join(" ");
            assert!(findings(name, &text).is_empty(), "{text}: {reason}");
            let found = findings("text", &text).is_empty();
            assert!(name.is_empty() || !found, "{text} has no banned phrase");
        }
    }
    for text in [
        "--quiet prints no line per reply, --clear-groups none",
        r"\-\-quiet prints no line per reply",
        "Stop. Up to 5 a. Second",
        "That is it, and so what",
        "the mushroom regroups without a recipes",
        "no. One",
    ] {
        let found = findings("text", text);
        assert_eq!(
            found.len(),
            usize::from(text.contains("recipes")),
            "{found:?}"
        );
    }
}

#[test]
fn test_names_are_short_statements() {
    let code = |name: &str| format!("#[test]\n#[ignore = \"a (reason)\"]\nfn {name}() {{}}");
    let long = "x".repeat(60);
    for (name, count) in [
        ("peers_expire_after_the_timeout", 0),
        (&long[1..], 0),
        (&long, 1),
        ("what_is_sent_is_counted", 1),
        ("replies_match_when_it_fails", 1),
        ("so_is_this", 1),
    ] {
        assert_eq!(bad_test_names("code", &code(name)).len(), count, "{name}");
    }
    let helper = code(&long).replace("#[test]\n", "");
    assert_eq!(bad_test_names("code", &helper).len(), 0);
}

/// The texts of the repository, each with its path, but for this file.
pub(crate) fn texts() -> Vec<(String, String)> {
    let mut texts = Vec::new();
    for place in [
        ".ci",
        ".github",
        "benches",
        "build.rs",
        "Cargo.toml",
        "CHANGELOG.md",
        "clippy.toml",
        "CONTRIBUTING.md",
        "deny.toml",
        "packaging",
        "README.md",
        "SECURITY.md",
        "src",
        "systemd",
        "tests",
    ] {
        add_texts(&readme::root().join(place), &mut texts);
    }
    let own = readme::root().join(file!());
    assert!(own.is_file(), "{}", own.display());
    texts.retain(|(name, _)| name != file!());
    texts
}

fn add_texts(path: &Path, texts: &mut Vec<(String, String)>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            add_texts(&entry.unwrap().path(), texts);
        }
    } else if let Ok(text) = String::from_utf8(fs::read(path).unwrap()) {
        // Pictures are no UTF-8.
        let name = path.strip_prefix(readme::root()).unwrap();
        texts.push((name.to_str().unwrap().to_owned(), text));
    }
}

/// All phrases that a pattern stands for.
fn variants(phrase: &str) -> Vec<Vec<String>> {
    let mut variants = vec![Vec::new()];
    for part in phrase.split_whitespace() {
        let part = part.replace('#', "20");
        let words = if part.starts_with('!') { "else" } else { &part };
        variants = variants
            .iter()
            .flat_map(|start| {
                words
                    .split('|')
                    .map(|word| [&start[..], &[word.to_owned()]].concat())
            })
            .collect();
    }
    variants
}

fn capital(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    first.to_uppercase() + rest
}
