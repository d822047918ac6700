//! Trees of Debian, made by debootstrap and kept between runs.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::machine::{KEPT, remove, take_turn};
use crate::namespace::shell;

/// The packages of every machine, beyond a minimal Debian.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,init-system-helpers,prometheus,procps,iproute2";

/// The releases that the package is for.
pub const DEBIAN_12: Debian = Debian {
    codename: "bookworm",
    more_packages: "",
};
pub const DEBIAN_13: Debian = Debian {
    codename: "trixie",
    more_packages: ",rpm",
};

/// A release of Debian.
pub struct Debian {
    codename: &'static str,
    /// Beyond [`PACKAGES`].
    more_packages: &'static str,
}

/// The kept tree of machines of a release. Makes the tree if it is missing. Needs the lock.
pub fn tree(debian: &Debian) -> PathBuf {
    let packages = format!("{PACKAGES}{}", debian.more_packages);
    let tree = kept_tree(debian, &packages);
    make_tree(debian, &tree, &format!("--include={packages}"), |making| {
        shell(&format!("systemctl --root={making} mask prometheus"));
    });
    tree
}

/// The kept tree of a minimal Debian 12, for images. Makes the tree if it is missing.
pub fn minimal_tree() -> PathBuf {
    let tree = kept_tree(&DEBIAN_12, "");
    // Without the lock if there is a tree: a machine has the lock for a long time.
    if !tree.exists() {
        let _turn = take_turn();
        make_tree(&DEBIAN_12, &tree, "", |_| ());
    }
    tree
}

/// The place of a Debian tree with these packages beyond a minimal one.
fn kept_tree(debian: &Debian, packages: &str) -> PathBuf {
    let codename = debian.codename;
    let mut hasher = DefaultHasher::new();
    (packages, codename).hash(&mut hasher);
    Path::new(KEPT).join(format!("{codename}-{:016x}", hasher.finish()))
}

/// Makes a tree if it is missing. Needs the lock.
fn make_tree(debian: &Debian, tree: &Path, options: &str, finish: impl FnOnce(&str)) {
    if tree.exists() {
        return;
    }
    eprintln!("making the Debian tree {}, about 100 s", tree.display());
    let making = Path::new(KEPT).join("making");
    remove(&making);
    let making = making.to_str().unwrap();
    shell(&format!(
        "unshare --mount debootstrap --variant=minbase {options} {} {making} {} \
         && rm -f {making}/var/cache/apt/archives/*.deb",
        debian.codename,
        mirror(),
    ));
    finish(making);
    // Renamed, so that no incomplete tree has the name.
    fs::rename(making, tree).unwrap();
}

/// The package mirror of this host.
fn mirror() -> String {
    let line = "sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources 2>/dev/null; \
                sed -n 's/^deb \\(\\[[^]]*\\] \\)\\?\\(http[^ ]*\\) .*/\\2/p' \
                /etc/apt/sources.list 2>/dev/null; true";
    let found = shell(line);
    let first = found
        .split_whitespace()
        .find(|uri| uri.ends_with("/debian") || uri.ends_with("/debian/"));
    first.unwrap_or("http://deb.debian.org/debian").to_owned()
}
