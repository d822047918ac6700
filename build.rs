//! Passes the revision and the compiler version to the program.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let rustc = output(&rustc, &["--version"])
        .and_then(|text| text.split_whitespace().nth(1).map(str::to_owned))
        .unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=BUILD_RUSTC={rustc}");
    // A build outside the repository sets the revision itself.
    println!("cargo:rerun-if-env-changed=UDP_ECHO_REVISION");
    let revision = env::var("UDP_ECHO_REVISION")
        .ok()
        .or_else(|| output("git", &["rev-parse", "--short=12", "HEAD"]))
        .unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=BUILD_REVISION={revision}");
    println!("cargo:rerun-if-changed=build.rs");
    // Git writes to one of these on each commit and checkout.
    for file in ["HEAD", "logs/HEAD"] {
        // In a worktree, .git is a file.
        let Some(file) = output("git", &["rev-parse", "--git-path", file]) else {
            continue;
        };
        if Path::new(&file).exists() {
            println!("cargo:rerun-if-changed={file}");
        }
    }
}

/// Returns the first line that a command prints, or `None` if it fails.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.to_owned();
    output.status.success().then_some(line)
}
