//! The client, with our daemon and stamp-suite as reflectors.

use std::fs;

use serde_json::Value;

use super::{KEY, Suite, key_file};
use crate::harness::tidy::Folder;
use crate::harness::{program, run};
use crate::namespace::Namespace;

/// The requests and the replies that the network drops, by the number of the request.
const LOST_THERE: [u32; 3] = [2, 3, 5];
const LOST_BACK: [u32; 2] = [7, 9];

const COUNT: u64 = 12;

#[test]
#[ignore = "needs root, nft and stamp-suite; .ci/run runs it"]
fn client_counts_loss_of_each_way_with_two_reflectors() {
    let folder = Folder::new();
    let key_file = key_file(&folder);
    let with_key = key_file.replace("--stamp-key-file", "--key-file");
    for (args, is_authenticated) in [
        ("", false),
        ("--size=14", false),
        ("--size=1472 --ssid=4660", false),
        (&with_key, true),
        (&format!("--size=1472 --ssid=4660 {with_key}"), true),
    ] {
        let (clients, server) = Namespace::pair();
        drop_some(&clients, &server, is_authenticated);
        {
            let mut options = vec!["--mode=stamp", "--listen=10.77.0.2:862"];
            options.extend(is_authenticated.then_some(key_file.as_str()));
            let _daemon = server.daemon(&options);
            assert_loss(&clients, args, "the daemon");
        }
        let mut options = vec!["--stateful-reflector"];
        options.extend(is_authenticated.then_some("-AA"));
        let _suite = Suite::start(&server, &options);
        assert_loss(&clients, args, "stamp-suite");
        for (host, lost) in [(&server, LOST_THERE.len()), (&clients, LOST_BACK.len())] {
            let rules = host.shell("nft list table inet t");
            let dropped = format!("counter packets {} ", lost * 2);
            assert!(rules.contains(&dropped), "{args}: {rules}");
        }
    }
}

#[test]
#[ignore = "needs root and stamp-suite; .ci/run runs it"]
fn client_with_another_key_loses_all_with_two_reflectors() {
    let folder = Folder::new();
    let key_file = key_file(&folder);
    let other = folder.join("other");
    // With the mode of the key file.
    fs::copy(folder.join("keys"), &other).unwrap();
    fs::write(&other, format!("* {}\n", KEY.replace("00", "01"))).unwrap();
    let args = format!("--wait=0.5 --key-file={}", other.display());
    let (clients, server) = Namespace::pair();
    {
        let daemon = server.daemon(&["--mode=stamp", "--listen=10.77.0.2:862", &key_file]);
        assert_eq!(probe(&clients, &args)["received"], 0);
        server.inside(|| daemon.assert_accounted_for());
    }
    let _suite = Suite::start(&server, &["-AA"]);
    assert_eq!(probe(&clients, &args)["received"], 0);
}

/// Drops requests where they arrive at the server, and replies where they arrive at the client.
/// Each is found by the sequence number of the request.
fn drop_some(clients: &Namespace, server: &Namespace, is_authenticated: bool) {
    // Bytes of the UDP header, and of a reply before this number.
    let number_in_reply = (8 + if is_authenticated { 48 } else { 24 }) * 8;
    for (host, port, at, numbers) in [
        (server, "dport", 64, &LOST_THERE[..]),
        (clients, "sport", number_in_reply, &LOST_BACK),
    ] {
        let numbers: Vec<_> = numbers.iter().map(u32::to_string).collect();
        let numbers = numbers.join(", ");
        host.shell("nft add table inet t");
        host.shell("nft 'add chain inet t input { type filter hook input priority 0; }'");
        host.shell(&format!(
            "nft 'add rule inet t input iifname eth0 udp {port} 862 @th,{at},32 {{ {numbers} }} \
             counter drop'"
        ));
    }
}

fn assert_loss(clients: &Namespace, args: &str, reflector: &str) {
    let seen = probe(clients, &format!("--wait=2 {args}"));
    for (way, lost) in [
        ("forward", LOST_THERE.len()),
        ("backward", LOST_BACK.len()),
        ("unknown", 0),
    ] {
        let counted = &seen["lost_by_direction"][way];
        assert_eq!(*counted, lost, "{reflector} {args} {way}: {seen}");
    }
    for (name, count) in [
        ("sent", COUNT),
        ("lost", 5),
        ("corrupted", 0),
        ("duplicates", 0),
    ] {
        assert_eq!(seen[name], count, "{reflector} {args} {name}: {seen}");
    }
    assert_eq!(seen["reflector"]["stateful"], true, "{seen}");
    assert_eq!(
        seen["path"]["forward_ttl"], 64,
        "{reflector} {args}: {seen}"
    );
    let expected = "lost on the way there: 3, on the way back: 2";
    // Every run has sentences about the path and the clocks, and a busy machine has another.
    let usual = [
        "TTL ",
        "one-way times",
        "the reflector's clock",
        "requests due",
    ];
    let notes = seen["notes"].as_array().unwrap().iter();
    let unusual: Vec<_> = notes
        .map(|note| note.as_str().unwrap())
        .filter(|note| !usual.iter().any(|usual| note.starts_with(usual)))
        .collect();
    // Faults of the reflector have a sentence, wrong HMACs among them.
    assert_eq!(unusual, [expected], "{reflector} {args}");
}

/// Runs the client against 10.77.0.2:862. Returns its object.
fn probe(host: &Namespace, args: &str) -> Value {
    let mut command = host.command(program().get_program().to_str().unwrap());
    command.args(["probe", "10.77.0.2", "--mode=stamp", "--json"]);
    command.args(["--interval=0.02", &format!("--count={COUNT}")]);
    let (_, out, err) = run(command.args(args.split_whitespace()));
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"))
}
