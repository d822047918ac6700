//! The compiled instructions in the checkout are those of the source.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use udp_echo::kernel_echo::INSTRUCTIONS;

use crate::harness::run;
use crate::harness::tidy::Folder;

/// The maps in the order in which the program names them.
const MAPS: [&str; 2] = ["addresses", "heartbeat"];
/// The kernel's headers are those of this host's architecture; types of fixed size are the same.
const COMPILE: &str = "clang -target bpfel -mcpu=v2 -O2 -Wall -Wextra -Werror \
                       -I/usr/include/$(gcc -dumpmachine) -c echo.c -o";

#[test]
#[ignore = "needs clang 14, as in Debian 12; .ci/run runs it"]
fn instructions_are_those_that_clang_compiles() {
    let folder = Folder::new();
    let object = folder.join("echo.o");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernel_echo");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{COMPILE} {}", object.display())]);
    let (status, _, said) = run(command.current_dir(&source));
    assert!(status.success(), "{said}");
    let compiled = instructions(&fs::read(&object).unwrap());
    if compiled == INSTRUCTIONS {
        return;
    }
    // To be committed if the source was changed on purpose.
    let file = source.join("program.rs");
    fs::write(&file, text(&compiled)).unwrap();
    panic!("{} was not compiled from echo.c: it is now", file.display());
}

/// The instructions of the section `xdp`, in which each map is named by its number.
fn instructions(object: &[u8]) -> Vec<u64> {
    let elf = Elf(object);
    let sections = elf.sections();
    let mut code = elf.content(sections["xdp"]).to_vec();
    let symbols = elf.content(sections[".symtab"]);
    let names = elf.content(sections[".strtab"]);
    for relocation in elf.content(sections[".relxdp"]).chunks(16) {
        let at = usize::try_from(number(relocation, 0, 8)).unwrap();
        let symbol = usize::try_from(number(relocation, 8, 8) >> 32).unwrap();
        let name = number(symbols, symbol * 24, 4);
        let map = MAPS.iter().position(|map| *map == text_at(names, name));
        let map = u8::try_from(map.expect("a map")).unwrap();
        // The source register says that the constant is a map (`BPF_PSEUDO_MAP_FD`).
        code[at + 1] |= 0x10;
        code[at + 4] = map;
    }
    let words = code.chunks(8).map(|word| number(word, 0, 8));
    words.collect()
}

/// An object file of 64 bits, little-endian (elf(5)).
struct Elf<'a>(&'a [u8]);

impl<'a> Elf<'a> {
    /// The headers of the sections by name.
    fn sections(&self) -> BTreeMap<String, &'a [u8]> {
        let start = usize::try_from(number(self.0, 0x28, 8)).unwrap();
        let [count, names] = [0x3c, 0x3e].map(|at| usize::try_from(number(self.0, at, 2)).unwrap());
        let headers: Vec<_> = self.0[start..].chunks(64).take(count).collect();
        let names = self.content(headers[names]);
        let with_name = |header: &&'a [u8]| (text_at(names, number(header, 0, 4)), *header);
        headers.iter().map(with_name).collect()
    }

    fn content(&self, header: &[u8]) -> &'a [u8] {
        let [at, length] = [0x18, 0x20].map(|at| usize::try_from(number(header, at, 8)).unwrap());
        &self.0[at..at + length]
    }
}

fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    let bytes = bytes[at..at + length].iter().rev();
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn text_at(names: &[u8], at: u64) -> String {
    let rest = &names[usize::try_from(at).unwrap()..];
    let end = rest.iter().position(|byte| *byte == 0).unwrap();
    String::from_utf8(rest[..end].to_vec()).unwrap()
}

/// The file `program.rs`.
fn text(instructions: &[u64]) -> String {
    let mut text = format!(
        "//! The instructions of `echo.c`. The test `instructions_are_those_that_clang_compiles` writes \
         this\n//! file.\n\n/// The program. Each map is named by its number.\npub const INSTRUCTIONS: \
         [u64; {}] = [\n",
        instructions.len()
    );
    for word in instructions {
        let part = |shift: u32| word >> shift & 0xffff;
        writeln!(
            text,
            "    0x{:04x}_{:04x}_{:04x}_{:04x},",
            part(48),
            part(32),
            part(16),
            part(0)
        )
        .unwrap();
    }
    text + "];\n"
}
