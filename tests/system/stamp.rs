//! Stamp mode beside other implementations of STAMP: stamp-suite, tshark and scapy.

mod client;
mod decoders;
mod loops;
mod suite;

use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use udp_echo::reflect::stamp::HmacKey;

use crate::harness::stamp::{open, signed};
use crate::harness::tidy::{Folder, end_with_test};
use crate::harness::wait_until;
use crate::machine::KEPT;
use crate::namespace::Namespace;

/// The key of every SSID.
const KEY: &str = "00112233445566778899aabbccddeeff";

fn key() -> HmacKey {
    HmacKey::new(&0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128.to_be_bytes()).unwrap()
}

/// Writes a key file. Returns the option with its path.
fn key_file(folder: &Folder) -> String {
    let path = folder.join("keys");
    fs::write(&path, format!("* {KEY}\n")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    format!("--stamp-key-file={}", path.display())
}

/// A program that `.ci/run` installs outside of the checkout.
fn kept(path: &str, how: &str) -> PathBuf {
    let program = Path::new(KEPT).join(path);
    let shown = program.display();
    assert!(program.exists(), "no {shown}: run .ci/run, or `{how}`");
    program
}

pub fn stamp_suite() -> PathBuf {
    kept(
        "stamp-suite-1.0.0/bin/stamp-suite",
        "cargo install stamp-suite --version 1.0.0 --locked --features ttl-nix,metrics \
         --root /var/cache/udp-echo-test/stamp-suite-1.0.0",
    )
}

/// A reflector of stamp-suite.
pub struct Suite(Child);

impl Suite {
    /// Starts it in a namespace at 10.77.0.2:862, and waits until it answers.
    pub fn start(host: &Namespace, args: &[&str]) -> Self {
        let mut command = Command::new(stamp_suite());
        command.args(["-i", "--local-addr=10.77.0.2", "--local-port=862"]);
        let is_authenticated = args.contains(&"-AA");
        if is_authenticated {
            // With a key, it adds an HMAC to TLVs in open mode, too.
            command.env("STAMP_HMAC_KEY", KEY);
        }
        command.args(args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let suite = Self(host.inside(|| end_with_test(&mut command).spawn().unwrap()));
        let peer = host.inside(|| UdpSocket::bind("10.77.0.2:0").unwrap());
        peer.set_nonblocking(true).unwrap();
        let request = if is_authenticated {
            signed(&key(), 0, 0)
        } else {
            open(0, 0)
        };
        wait_until("stamp-suite answers", || {
            let _ = peer.send_to(&request, "10.77.0.2:862");
            peer.recv(&mut [0; 200]).is_ok()
        });
        suite
    }
}

impl Drop for Suite {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
