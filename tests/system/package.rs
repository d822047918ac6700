//! The Debian package.

use std::path::{Path, PathBuf};

use crate::harness::run;
use crate::namespace::shell;
use crate::release;

/// The paths of the package, without its documentation.
const PATHS: &[&str] = &[
    "./etc/default/udp-echo",
    "./etc/udp-echo/monitor.toml",
    "./usr/bin/udp-echo",
    "./usr/lib/systemd/system/udp-echo-metrics.socket",
    "./usr/lib/systemd/system/udp-echo-monitor.service",
    "./usr/lib/systemd/system/udp-echo-open.target",
    "./usr/lib/systemd/system/udp-echo-started.target",
    "./usr/lib/systemd/system/udp-echo.service",
    "./usr/lib/systemd/system/udp-echo.socket",
    "./usr/share/bash-completion/completions/udp-echo",
    "./usr/share/fish/vendor_completions.d/udp-echo.fish",
    "./usr/share/man/man1/udp-echo-probe.1.gz",
    "./usr/share/man/man8/udp-echo-monitor.8.gz",
    "./usr/share/man/man8/udp-echo.8.gz",
    "./usr/share/udp-echo/balancing/bird.conf",
    "./usr/share/udp-echo/balancing/nftables.conf",
    "./usr/share/udp-echo/balancing/nginx-stream.conf",
    "./usr/share/udp-echo/compose/compose.yaml",
    "./usr/share/udp-echo/compose/grafana-dashboards.yaml",
    "./usr/share/udp-echo/compose/grafana-datasources.yaml",
    "./usr/share/udp-echo/compose/monitor.toml",
    "./usr/share/udp-echo/compose/prometheus.yml",
    "./usr/share/udp-echo/container/Containerfile",
    "./usr/share/udp-echo/grafana/udp-echo-mesh.json",
    "./usr/share/udp-echo/grafana/udp-echo.json",
    "./usr/share/udp-echo/kernel-echo/kernel-echo.conf",
    "./usr/share/udp-echo/kubernetes/daemonset.yaml",
    "./usr/share/udp-echo/kubernetes/kustomization.yaml",
    "./usr/share/udp-echo/kubernetes/monitor.toml",
    "./usr/share/udp-echo/kubernetes/podmonitor.yaml",
    "./usr/share/udp-echo/kubernetes/service.yaml",
    "./usr/share/udp-echo/nginx/scrape.yml",
    "./usr/share/udp-echo/nginx/udp-echo.conf",
    "./usr/share/udp-echo/prometheus/alerting.rules.yml",
    "./usr/share/udp-echo/prometheus/monitor.alerting.rules.yml",
    "./usr/share/udp-echo/prometheus/monitor.recording.rules.yml",
    "./usr/share/udp-echo/prometheus/monitor.scrape.yml",
    "./usr/share/udp-echo/prometheus/recording.rules.yml",
    "./usr/share/udp-echo/prometheus/scrape.yml",
    "./usr/share/udp-echo/prometheus/tests.yml",
    "./usr/share/udp-echo/stamp/udp-echo.service.d/stamp.conf",
    "./usr/share/udp-echo/stamp/udp-echo.socket.d/stamp.conf",
    "./usr/share/zsh/vendor-completions/_udp-echo",
];

/// The names of its documentation. A test of tests/documents checks their links.
const DOCUMENTS: [&str; 6] = [
    "CHANGELOG.md",
    "README.md",
    "SECURITY.md",
    "THIRD-PARTY-LICENSES.txt",
    "changelog.gz",
    "copyright",
];

#[test]
#[ignore = "needs lintian and builds a package; .ci/run runs it"]
fn lintian_has_no_error_and_no_warning() {
    let lintian = format!(
        "lintian --allow-root --fail-on error,warning --display-info {}",
        package().display()
    );
    eprintln!("{}", shell(&lintian));
}

#[test]
#[ignore = "builds a package; .ci/run runs it"]
fn package_has_the_documented_files_and_dependency_list() {
    let package = package().display();
    let listed = shell(&format!(
        "dpkg-deb --fsys-tarfile {package} | tar -t | grep -v '/$' | LC_ALL=C sort"
    ));
    let (documents, rest): (Vec<_>, Vec<_>) = listed
        .lines()
        .partition(|path| path.starts_with("./usr/share/doc/udp-echo/"));
    assert_eq!(rest, PATHS);
    let names = documents
        .iter()
        .map(|path| path.rsplit('/').next().unwrap());
    let names: Vec<_> = names.collect();
    assert_eq!(names, DOCUMENTS);
    // From Cargo.toml.
    let control = shell(&format!(
        "dpkg-deb -f {package} Maintainer Homepage Version"
    ));
    let expected = [
        ("Maintainer", env!("CARGO_PKG_AUTHORS")),
        ("Homepage", env!("CARGO_PKG_HOMEPAGE")),
        ("Version", env!("CARGO_PKG_VERSION")),
    ];
    for (name, value) in expected {
        let line = format!("{name}: {value}");
        assert!(control.lines().any(|other| other == line), "{control}");
    }
    let conffiles = shell(&format!("dpkg-deb -I {package} conffiles"));
    let expected = ["/etc/default/udp-echo", "/etc/udp-echo/monitor.toml", ""].join("\n");
    assert_eq!(conffiles, expected);

    let file = |path: &str| format!("dpkg-deb --fsys-tarfile {package} | tar -xO {path}");
    let list = shell(&format!(
        "{} | grep -c -a -F .dep-v0",
        file("./usr/bin/udp-echo")
    ));
    assert_ne!(list.trim(), "0", "the binary has no list of dependencies");
    for page in PATHS.iter().filter(|path| path.contains("/man/")) {
        shell(&format!("{} | gzip -t", file(page)));
    }
    // Every option that the sockets of systemd do not replace has a commented line. None is set.
    let replaced = ["LISTEN", "METRICS_LISTEN", "WORKERS", "REUSE_ADDRESS"];
    let replaced = replaced.map(|name| format!("UDP_ECHO_{name}"));
    let defaults = shell(&file(PATHS[0]));
    let help = run(crate::harness::program().arg("--help")).1;
    for option in help.split("[env: ").skip(1) {
        let variable = option.split(['=', ']']).next().unwrap();
        let is_replaced = replaced.iter().any(|name| name == variable);
        let is_there = defaults.contains(&format!("\n#{variable}="));
        assert!(is_there != is_replaced, "{variable}");
    }
    assert!(
        defaults
            .lines()
            .all(|line| line.is_empty() || line.starts_with('#'))
    );
}

/// The package of this checkout, built once per run.
pub fn package() -> &'static Path {
    release::file(".deb")
}

/// A package of an older version, which had another conffile.
pub fn older_package(folder: &Path) -> PathBuf {
    let older = folder.join("older.deb");
    shell(&format!(
        "set -e; cd {folder}; dpkg-deb -R {package} older; \
         sed -i 's/^Version: .*/Version: 0.0.9/' older/DEBIAN/control; \
         sed -i '1s/.*/# Options, as they once were./' older/etc/default/udp-echo; \
         (cd older; find etc usr -type f -exec md5sum {{}} + >DEBIAN/md5sums); \
         dpkg-deb -b older {older}",
        folder = folder.display(),
        package = package().display(),
        older = older.display(),
    ));
    older
}
