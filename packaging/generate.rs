//! Writes the package's files that come from the command line's definition: the manual pages, the
//! shell completions and /etc/default/udp-echo; and its documents, with links that work in the package.
//! `cargo run --example generate FOLDER`.

#[path = "completions.rs"]
mod completions;
#[path = "defaults.rs"]
mod defaults;
#[path = "documents.rs"]
mod documents;
#[path = "manual.rs"]
mod manual;

use std::fs;
use std::io;
use std::path::PathBuf;

use udp_echo::cli;

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| io::Error::other("usage: generate FOLDER"))?;
    fs::create_dir_all(&folder)?;
    let completions = completions::scripts(cli::command())?;
    let documents = documents::documents();
    let texts = manual::pages()?.into_iter().chain(completions);
    for (name, text) in texts.chain(documents) {
        fs::write(folder.join(name), text)?;
    }
    fs::write(
        folder.join("udp-echo.default"),
        defaults::file(&cli::command()),
    )
}
