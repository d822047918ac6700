//! The files of a release: each package, its list of dependencies, checksums.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::booted::{UNITS, files};
use crate::debian::DEBIAN_13;
use crate::harness::run;
use crate::machine::{ECHO, KEPT, Machine};
use crate::namespace::shell;
use crate::skip;

const HERE: &str = env!("CARGO_MANIFEST_DIR");
const ARM64: &str = "aarch64-unknown-linux-gnu";

#[test]
#[ignore = "builds packages; .ci/run runs it"]
fn release_has_each_package_and_its_checksum() {
    let version = env!("CARGO_PKG_VERSION");
    let names: Vec<_> = release().iter().map(|path| name(path)).collect();
    let expected = [
        "SHA256SUMS".to_owned(),
        format!("udp-echo-{version}-1.x86_64.rpm"),
        format!("udp-echo-{version}.linux-amd64.cdx.json"),
        format!("udp-echo-{version}.linux-amd64.tar.gz"),
        format!("udp-echo_{version}_amd64.deb"),
    ];
    assert_eq!(names, expected);
    let folder = release()[0].parent().unwrap().display();
    let checked = shell(&format!(
        "cd {folder}; sha256sum --check --strict SHA256SUMS"
    ));
    let checked: Vec<_> = checked.lines().collect();
    assert_eq!(
        checked,
        expected[1..]
            .iter()
            .map(|name| format!("{name}: OK"))
            .collect::<Vec<_>>()
    );
}

#[test]
#[ignore = "needs rpm and builds packages; .ci/run runs it"]
fn rpm_and_tarball_have_the_files_of_the_debian_package() {
    let folder = Removed::new("files");
    let list = |command: &str| -> BTreeSet<String> {
        let all = shell(&format!("cd {}; {command}", folder.0.display()));
        all.lines().map(str::to_owned).collect()
    };
    let sums = "find . -type f -printf '%P\\0' | xargs -0 sha256sum";
    let [deb, tarball, rpm] = [".deb", ".tar.gz", ".rpm"].map(|end| file(end).display());
    let deb = list(&format!("mkdir deb; cd deb; dpkg-deb -x {deb} .; {sums}"));
    let tarball = list(&format!(
        "mkdir tar; cd tar; tar -xzf {tarball} --strip-components=1; {sums}"
    ));
    let rpm = list(&format!(
        "rpm -qp --qf '[%{{FILEDIGESTS}}  %{{FILENAMES}}\n]' {rpm} | sed 's|  /|  |'"
    ));

    // The licences replace two documents that have no use outside of Debian.
    let without = |list: &BTreeSet<String>, names: [&str; 2]| -> BTreeSet<String> {
        let names = names.map(|name| format!("  usr/share/doc/udp-echo/{name}"));
        let is_one = |line: &&String| names.iter().any(|name| line.ends_with(name));
        assert_eq!(list.iter().filter(is_one).count(), 2, "{list:#?}");
        list.iter().filter(|line| !is_one(line)).cloned().collect()
    };
    let deb = without(&deb, ["changelog.gz", "copyright"]);
    let licences = ["LICENSE-APACHE", "LICENSE-MIT"];
    let moved = |line: &String| line.replace("/zsh/vendor-completions/", "/zsh/site-functions/");
    let deb: BTreeSet<_> = deb.iter().map(moved).collect();
    assert_eq!(without(&tarball, licences), deb);
    assert_eq!(without(&rpm, licences), deb);
}

#[test]
#[ignore = "needs rpm and rpmlint, and builds packages; .ci/run runs it"]
fn rpm_has_dependencies_and_only_known_findings_of_rpmlint() {
    let rpm = file(".rpm").display();
    let list = |options: &str| shell(&format!("rpm -qp {options} {rpm}"));
    let configuration = list("--configfiles");
    assert_eq!(
        configuration,
        "/etc/default/udp-echo\n/etc/udp-echo/monitor.toml\n"
    );
    let flags = list("--qf '[%{FILEFLAGS:fflags} %{FILENAMES}\n]'");
    assert_eq!(flags.matches("cn /etc/").count(), 2, "{flags}");
    let requires = list("--requires");
    let versions = requires.split("libc.so.6(GLIBC_2.").skip(1);
    let newest = versions.filter_map(|rest| rest.split([')', '.']).next()?.parse::<u32>().ok());
    // README states it.
    assert_eq!(newest.max(), Some(34), "{requires}");
    for name in ["systemd\n", "/bin/sh\n", "config(udp-echo) = "] {
        assert!(requires.contains(name), "{name} in {requires}");
    }

    let (_, report, _) = run(Command::new("rpmlint").arg(file(".rpm")));
    let findings = report
        .lines()
        .filter_map(|line| line.strip_prefix("udp-echo.x86_64: "));
    // cargo-generate-rpm writes no optional tags. A build host would make each build different.
    let is_tag = |name: &str| name.starts_with("no-") && name.ends_with("-tag");
    let is_known = |finding: &&str| {
        let finding = &finding["E: ".len()..];
        is_tag(finding) || KNOWN.iter().any(|known| finding.starts_with(known))
    };
    let new: Vec<_> = findings
        .clone()
        .filter(|finding| !is_known(finding))
        .collect();
    assert!(new.is_empty(), "{new:#?}");
    assert!(
        findings.count() > 0 && report.contains("1 packages"),
        "{report}"
    );
}

/// Findings of rpmlint that stay.
const KNOWN: [&str; 5] = [
    // The publisher signs.
    "no-signature",
    // It expects names that were used before those of SPDX, and bzip2.
    "invalid-license",
    "manpage-not-compressed bz2",
    // Units, which belong there.
    "only-non-binary-in-usr-lib",
    // It expects section 1. A daemon's page is in section 8.
    "no-manual-page-for-binary udp-echo",
];

#[test]
#[ignore = "needs cyclonedx-python-lib, and builds packages; .ci/run runs it"]
fn sbom_is_valid_and_lists_the_crates_of_the_binary() {
    let sbom: serde_json::Value =
        serde_json::from_slice(&fs::read(file(".cdx.json")).unwrap()).unwrap();
    assert_eq!(sbom["bomFormat"], "CycloneDX", "{sbom}");
    let crate_name = |crate_: &serde_json::Value| {
        format!(
            "{} v{}",
            crate_["name"].as_str().unwrap(),
            crate_["version"].as_str().unwrap()
        )
    };
    let component = &sbom["metadata"]["component"];
    let own = crate_name(component);
    assert_eq!(own, concat!("udp-echo v", env!("CARGO_PKG_VERSION")));
    let url = concat!("pkg:cargo/udp-echo@", env!("CARGO_PKG_VERSION"));
    assert_eq!(component["purl"], url);
    let listed: BTreeSet<_> = sbom["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(crate_name)
        .collect();

    let mut expected = cargo_tree("--edges normal,build");
    assert!(expected.remove(&own), "{expected:?}");
    let missing: Vec<_> = expected.difference(&listed).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let binary = format!("target/release-tree/{}/usr/bin/udp-echo", tree());
    let (_, audit, _) = run(Command::new("rust-audit-info")
        .current_dir(HERE)
        .arg(binary));
    let audit: serde_json::Value = serde_json::from_str(&audit).unwrap();
    let embedded = audit["packages"].as_array().unwrap().iter().map(crate_name);
    assert_eq!(
        embedded
            .filter(|crate_| *crate_ != own)
            .collect::<BTreeSet<_>>(),
        listed
    );
    // cargo-auditable adds crates of features that only the tests turn on.
    let more: Vec<_> = listed.difference(&expected).collect();
    assert!(more.len() < 10, "{more:?}");

    let check = "from cyclonedx.validation.json import JsonStrictValidator as Validator; \
                 from cyclonedx.schema import SchemaVersion as Version; import sys; \
                 sys.exit(Validator(Version.V1_3).validate_str(open(sys.argv[1]).read()))";
    let python = format!("{KEPT}/cyclonedx-python-lib-11.12.0/bin/python");
    let (status, _, errors) = run(Command::new(python)
        .args(["-c", check])
        .arg(file(".cdx.json")));
    assert!(status.success(), "{errors}");
}

#[test]
#[ignore = "builds packages; .ci/run runs it"]
fn package_has_a_licence_of_each_crate_in_the_binary() {
    let deb = file(".deb").display();
    let document = "./usr/share/doc/udp-echo/THIRD-PARTY-LICENSES.txt";
    let text = shell(&format!(
        "dpkg-deb --fsys-tarfile {deb} | tar -xO {document}"
    ));
    // Each part has a line for the licence, the crates in a list, and the text.
    let parts: Vec<_> = text.split(&format!("\n{}\n", "-".repeat(80))).collect();
    let mut crates = BTreeSet::new();
    for part in &parts[1..] {
        let (heading, licence) = part.split_once("\n\n").unwrap();
        let (_, names) = heading.split_once('\n').unwrap();
        let name = |line: &str| line.strip_prefix("- ").unwrap().replacen(' ', " v", 1);
        crates.extend(names.lines().map(name));
        assert!(licence.len() > 500, "{part}");
    }
    let tree = |target: &str| cargo_tree(&format!("--edges normal --target {target}"));
    let expected: BTreeSet<_> = tree("x86_64-unknown-linux-gnu")
        .union(&tree(ARM64))
        .cloned()
        .collect();
    assert_eq!(crates, expected);
    // The notice of a crate, and that of a module from elsewhere.
    for notice in ["Tokio Contributors", "Mathijs van de Nes"] {
        assert!(text.contains(notice), "{notice}");
    }
    // cargo-about takes a general text for a crate that lacks its own.
    for placeholder in ["<year>", "<copyright holders>"] {
        assert!(!text.contains(placeholder), "{placeholder}");
    }
    let accepted = include_str!("../../packaging/about.toml");
    let (_, accepted) = accepted.split_once("accepted = ").unwrap();
    let tag = shell(&format!(
        "rpm -qp --qf '%{{LICENSE}}' {}",
        file(".rpm").display()
    ));
    for licence in accepted.split('"').skip(1).step_by(2) {
        assert!(tag.contains(&format!(" AND {licence}")), "{licence}: {tag}");
    }
}

#[test]
#[ignore = "builds packages, twice; .ci/run runs it"]
fn release_is_reproducible_elsewhere_and_builds_for_arm64() {
    let folder = Removed::new("again");
    let elsewhere = folder.0.join("under-another-name");
    // The commit, with the files of the work tree.
    shell(&format!(
        "set -e; cd {HERE}; git clone --quiet . {there}; (cd {there}; git ls-files -z | xargs -0 rm); \
         git ls-files -z --cached --others --exclude-standard | \
         xargs -0 sh -c 'for file; do [ ! -e \"$file\" ] || cp --parents \"$file\" {there}; done' -",
        there = elsewhere.display(),
    ));
    let again = build(&elsewhere, &[], &[]);
    let pairs = || release().iter().zip(&again);
    assert!(pairs().all(|(one, other)| name(one) == name(other)));
    let differ = pairs().filter(|(one, other)| fs::read(one).unwrap() != fs::read(other).unwrap());
    let differ: Vec<_> = differ.map(|(one, _)| name(one)).collect();
    // The Debian package is the last one.
    let details = || {
        pairs()
            .next_back()
            .map(|(one, other)| difference(one, other))
    };
    assert!(differ.is_empty(), "{differ:?}: {:#?}", details());

    let has = |what: &str| run(Command::new("sh").args(["-c", what])).0.success();
    let library = format!("[ -d \"$(rustc --print sysroot)/lib/rustlib/{ARM64}\" ]");
    if !has(&library) || !has("command -v aarch64-linux-gnu-gcc") {
        skip!("no Rust or no linker for arm64");
    }
    // Without optimization, to be quick.
    let quick = ["OPT_LEVEL=0", "LTO=off", "CODEGEN_UNITS=16"];
    let quick = quick.map(|setting| format!("CARGO_PROFILE_RELEASE_{setting}"));
    let built = build(&elsewhere, &quick, &["--target", ARM64]);
    let names: Vec<_> = built
        .iter()
        .map(|path| {
            name(path)
                .replace("arm64", "amd64")
                .replace("aarch64", "x86_64")
        })
        .collect();
    assert_eq!(
        names,
        release().iter().map(|path| name(path)).collect::<Vec<_>>()
    );
    let deb = built.last().unwrap().display();
    let fields = shell(&format!("dpkg-deb -f {deb} Architecture Depends"));
    assert!(
        fields.contains("Architecture: arm64\nDepends: libc6:arm64 (>= "),
        "{fields}"
    );
    if !has("command -v qemu-aarch64") {
        skip!("no qemu-aarch64 to run the binary for arm64");
    }
    let binary = elsewhere.join(format!("target/package/{ARM64}/release/udp-echo"));
    // It has no timestamps of datagrams, so it cannot run the daemon.
    let printed = shell(&format!(
        "qemu-aarch64 -L /usr/aarch64-linux-gnu {} --version",
        binary.display()
    ));
    assert!(
        printed.starts_with(concat!("udp-echo ", env!("CARGO_PKG_VERSION"))),
        "{printed}"
    );
}

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn rpm_and_tarball_install_a_service_in_debian_13() {
    let machine = Machine::boot_release(&DEBIAN_13);
    let older = machine.folder().join("older.rpm");
    shell(&format!(
        "cd {HERE}; cargo generate-rpm --target x86_64-unknown-linux-gnu --set-metadata 'version = \"0.0.9\"' \
         --metadata-overwrite target/release-tree/{}.toml --auto-req disabled --output {} 2>&1",
        tree(),
        older.display()
    ));
    let copy = |from: &Path, to: &str| fs::copy(from, machine.path(to)).unwrap();
    copy(&older, "/root/older.rpm");
    copy(file(".rpm"), "/root/new.rpm");
    copy(file(".tar.gz"), "/root/new.tar.gz");
    let active = || machine.attempt(&format!("systemctl is-active {UNITS}")).1;

    // Debian knows no requirements of RPM packages.
    machine.shell("rpm --install --nodeps /root/older.rpm 2>&1");
    assert_eq!(active(), "inactive\n".repeat(3));
    machine.shell("echo UDP_ECHO_MODE=echo >>/etc/default/udp-echo; systemctl start udp-echo");
    machine.assert_echoes(ECHO, 3);
    let pid = machine.main_pid();

    machine.shell("rpm --upgrade --nodeps /root/new.rpm 2>&1");
    let installed = machine.shell("rpm -q --qf '%{VERSION}' udp-echo");
    assert_eq!(installed, env!("CARGO_PKG_VERSION"));
    machine.assert_echoes(ECHO, 3);
    assert_ne!(machine.main_pid(), pid);
    let settings = machine.shell("cat /etc/default/udp-echo");
    assert!(settings.ends_with("\nUDP_ECHO_MODE=echo\n"), "{settings}");

    machine.shell("rpm --erase udp-echo 2>&1; rm /etc/default/udp-echo.rpmsave");
    assert_eq!(active(), "inactive\n".repeat(3));
    let listening = "ss -Hnlutp 'sport = :9999 or sport = :9862'";
    assert_eq!(machine.shell(listening), "");
    let left = files(&machine);
    let left: Vec<_> = left
        .iter()
        .filter(|path| path.contains("udp-echo"))
        .collect();
    assert!(left.is_empty(), "{left:#?}");

    let readme = fs::read_to_string(Path::new(HERE).join("README.md")).unwrap();
    let commands = readme.lines().filter(|line| line.starts_with("tar "));
    let commands: Vec<_> = commands.collect();
    assert_eq!(commands.len(), 2, "{commands:?}");
    let archive = "udp-echo-VERSION.linux-amd64.tar.gz";
    let unpack = || {
        for command in &commands {
            machine.shell(&command.replace(archive, "/root/new.tar.gz"));
        }
    };
    machine.shell("chmod 700 /etc/default");
    unpack();
    machine.shell("test -s /etc/udp-echo/monitor.toml && test -s /etc/default/udp-echo");
    machine.shell("echo UDP_ECHO_MODE=echo >/etc/default/udp-echo");
    unpack();
    assert_eq!(machine.shell("stat -c %a /etc/default"), "700\n");
    machine.shell("systemctl daemon-reload");
    machine.shell("systemctl start udp-echo");
    machine.assert_echoes(ECHO, 3);
}

/// The files of a release of this checkout, built once per run.
fn release() -> &'static [PathBuf] {
    static RELEASE: OnceLock<Vec<PathBuf>> = OnceLock::new();
    RELEASE.get_or_init(|| build(Path::new(HERE), &[], &[]))
}

/// Returns the release file whose name ends with `end`.
pub fn file(end: &str) -> &'static Path {
    let found = release().iter().find(|path| name(path).ends_with(end));
    found.expect("the release has such a file")
}

/// The name of the folder below `target/release-tree` that has the files of the packages.
fn tree() -> &'static str {
    name(file(".tar.gz")).trim_end_matches(".tar.gz")
}

/// Name and version of each crate that Cargo lists.
fn cargo_tree(options: &str) -> BTreeSet<String> {
    let listed = shell(&format!(
        "cd {HERE}; cargo tree --locked --offline --prefix none {options}"
    ));
    let words = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    listed.lines().map(words).collect()
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// Builds a release, and returns the paths of its files.
fn build(checkout: &Path, environment: &[String], options: &[&str]) -> Vec<PathBuf> {
    eprintln!("building a release in {}", checkout.display());
    let mut command = Command::new("env");
    command.current_dir(checkout);
    // Another cargo must not get the variables that cargo sets for tests.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let home = name == "CARGO_HOME" || name.starts_with("RUSTUP_");
        if !home && (name.starts_with("CARGO") || name.starts_with("RUST")) {
            command.env_remove(&*name);
        }
    }
    command
        .args(environment)
        .arg("packaging/build-release")
        .args(options);
    let (status, out, err) = run(&mut command);
    assert!(status.success(), "{status}\n{out}{err}");
    let paths: Vec<_> = out.lines().map(|line| checkout.join(line)).collect();
    assert!(paths.iter().all(|path| path.is_file()), "{paths:?}");
    paths
}

/// The lines in which the contents of two Debian packages differ.
fn difference(one: &Path, other: &Path) -> [Vec<String>; 2] {
    let list = |package: &Path| {
        let package = package.display();
        shell(&format!(
            "d=$(mktemp -d); dpkg-deb -R '{package}' $d; dpkg-deb -c '{package}'; cd $d; \
             find . -type f -exec md5sum {{}} +; rm -rf $d"
        ))
    };
    let (one, other) = (list(one), list(other));
    let differ = |a: &str, b: &str| -> Vec<String> {
        a.lines()
            .filter(|line| !b.lines().any(|l| l == *line))
            .map(str::to_owned)
            .collect()
    };
    [differ(&one, &other), differ(&other, &one)]
}

/// A temporary folder that is removed when dropped.
struct Removed(PathBuf);

impl Removed {
    fn new(name: &str) -> Self {
        let name = format!("udp-echo-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
