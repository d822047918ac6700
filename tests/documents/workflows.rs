//! The workflows of GitHub. `tests/system/workflows.rs` parses them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::harness::tidy::Folder;
use crate::harness::{has_program, readme, run};
use crate::{is_step, skip, steps_of_the_check};

#[test]
fn workflows_run_scripts_and_steps_of_the_check() {
    let steps = steps_of_the_check();
    let mut counts = [0; 2];
    for workflow in ["check", "release"] {
        let path = format!(".github/workflows/{workflow}.yml");
        let text = fs::read_to_string(readme::root().join(path)).unwrap();
        for line in text.lines().filter(|line| !line.trim().starts_with('#')) {
            let own = [".ci/", "packaging/"];
            let words = line.split([' ', '"', '\'', '(', ')']);
            for script in words.filter(|word| own.iter().any(|start| word.starts_with(start))) {
                let data = fs::metadata(readme::root().join(script)).expect(script);
                assert!(data.permissions().mode() & 0o111 != 0, "{script}");
                counts[0] += 1;
            }
            if let Some((_, command)) = line.split_once("run: cargo ") {
                let command = format!("cargo {command}");
                assert!(is_step(&steps, &command), "no step of .ci/run is {command}");
                counts[1] += 1;
            }
        }
    }
    assert!(counts[0] > 5 && counts[1] == 4, "{counts:?}");
}

#[test]
fn release_notes_are_those_of_the_version() {
    if !["bash", "sed", "grep"].into_iter().all(has_program) {
        skip!("no bash, sed or grep");
    }
    let version = env!("CARGO_PKG_VERSION");
    let folder = Folder::new();
    let copy = |name: &str, change: &dyn Fn(String) -> String| {
        let text = fs::read_to_string(readme::root().join(name)).unwrap();
        fs::write(folder.join(name), change(text)).unwrap();
    };
    fs::create_dir(folder.join(".ci")).unwrap();
    copy(".ci/release-notes", &|text| text);
    copy("CHANGELOG.md", &|text| text);
    let notes = |tag: &str| {
        let (status, out, err) = run(bash(&folder.join(".ci/release-notes")).arg(tag));
        (status.success(), out, err)
    };
    let fails = |tag: &str, message: &str| {
        let (succeeded, out, err) = notes(tag);
        assert!(
            !succeeded && out.is_empty() && err.contains(message),
            "{out}{err}"
        );
    };

    let tag = format!("v{version}");
    copy("Cargo.toml", &|text| text + "# example.org\n");
    fails(&tag, "fill in the publisher");
    copy("Cargo.toml", &|text| {
        text.replace("example.org", "example.net")
    });
    fails("v0.0.1", &format!("has version {version}"));
    let (succeeded, out, err) = notes(&tag);
    assert!(succeeded && err.is_empty(), "{err}");
    let changelog = fs::read_to_string(folder.join("CHANGELOG.md")).unwrap();
    let section = changelog.split("\n## [").nth(2).unwrap();
    let (title, section) = section.split_once('\n').unwrap();
    assert!(title.starts_with(version), "{title}");
    let section = section.split("\n[").next().unwrap().trim();
    // GitHub shows each end of a line as a line break.
    let wrapped = section.lines().filter(|line| line.starts_with(' ')).count();
    assert!(wrapped > 9, "{section}");
    assert_eq!(
        out.trim().lines().count() + wrapped,
        section.lines().count()
    );
    assert!(!out.contains("\n "), "{out}");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words(&out), words(section));

    copy("CHANGELOG.md", &|text| {
        text.replace(&format!("## [{version}] - "), "## [9.9.9] - ")
    });
    fails(&tag, "no section");
}

#[test]
fn install_rust_sets_the_toolchain_of_this_checkout_only() {
    if !["bash", "sed", "dirname"].into_iter().all(has_program) {
        skip!("no bash, sed or dirname");
    }
    let mut command = bash(&readme::root().join(".ci/install-rust"));
    // A function of the shell takes the place of the program.
    command.env("BASH_FUNC_rustup%%", "() { echo \"rustup $*\"; }");
    let (status, out, err) = run(&mut command);
    assert!(status.success() && err.is_empty(), "{err}");
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    let lines = out.lines().filter(|line| line.starts_with("rustup "));
    let [install, set] = lines.collect::<Vec<_>>()[..] else {
        panic!("{out}");
    };
    // Neither the default toolchain nor rustup itself changes.
    let start = format!("rustup toolchain install {oldest} --no-self-update ");
    assert!(install.starts_with(&start), "{install}");
    assert_eq!(set, format!("rustup override set {oldest}"));
}

/// A command that runs a script. bash would warn of a locale that is not installed.
fn bash(script: &Path) -> Command {
    let mut command = Command::new("bash");
    command.arg(script).env("LC_ALL", "C");
    command
}
