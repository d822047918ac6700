//! The file of the monitor: keys, defaults, and the line of each error. Over 400 lines: the table of
//! errors is most of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::targets;
use crate::address::Family;
use crate::cli::probe::Target;
use crate::monitor::TargetSettings;
use crate::reflect::Mode;
use crate::udp::{IpOptions, Source};

/// A folder that is removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("udp-echo-file-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    /// The targets of a file with this text, and an error without the folder's name.
    fn read(&self, text: &str, added: &[&str]) -> Result<Vec<TargetSettings>, String> {
        let file = self.0.join("m.toml");
        fs::write(&file, text).unwrap();
        let added: Vec<Target> = added.iter().map(|target| target.parse().unwrap()).collect();
        let folder = format!("{}/", self.0.display());
        let targets = targets::read(Some(&file), &added);
        targets.map_err(|error| error.to_string().replace(&folder, ""))
    }

    fn write_keys(&self, name: &str, text: &str, mode: u32) {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that stays behind is harmless.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn read(text: &str) -> Result<Vec<TargetSettings>, String> {
    Folder::new().read(text, &[])
}

/// A target with the defaults.
fn target(name: &str, address: &str, mode: Mode) -> TargetSettings {
    TargetSettings {
        name: name.into(),
        address: address.parse().unwrap(),
        mode,
        interval: Duration::from_secs(1),
        flows: 1,
        size: 64,
        wait: Duration::from_secs(1),
        family: Family::Any,
        all_addresses: false,
        per_flow: false,
        source: None,
        ip: IpOptions::default(),
        stamp: None,
    }
}

#[test]
fn target_has_the_defaults_of_the_probe() {
    let text = "[[target]]\naddress = \"h\"\n[[target]]\naddress = \" [::1]:7\"\nname = \"b c\"\n";
    let expected = [
        target("h", "h:9999", Mode::Exchange),
        target("b c", "[::1]:7", Mode::Exchange),
    ];
    assert_eq!(read(text).unwrap(), expected);
}

#[test]
fn every_key_sets_its_setting() {
    let text = "[[target]]\nname = \"t\"\naddress = \"h:1\"\nmode = \"echo\"\ninterval = \"20ms\"\n\
                flows = 0x8\nsize = \"1KiB\"\nwait = 2.5\ndscp = \"EF\"\nfamily = \"ipv4\"\n\
                all_addresses = true\nper_flow = true\nsource = \"192.0.2.1\"\nttl = 3\n";
    let expected = TargetSettings {
        interval: Duration::from_millis(20),
        flows: 8,
        size: 1024,
        wait: Duration::from_millis(2500),
        family: Family::Ipv4,
        all_addresses: true,
        per_flow: true,
        source: Some(Source {
            address: Some([192, 0, 2, 1].into()),
            interface: None,
        }),
        ip: IpOptions {
            traffic_class: Some(46 << 2),
            ttl: Some(3),
            fragmentation: None,
        },
        ..target("t", "h:1", Mode::Echo)
    };
    assert_eq!(read(text).unwrap(), std::slice::from_ref(&expected));
    // As defaults, all but name and address.
    let (own, defaults) = text.split_once("mode").unwrap();
    let text = format!("[defaults]\nmode{defaults}{own}");
    assert_eq!(read(&text).unwrap(), [expected]);
}

#[test]
fn own_settings_override_the_defaults() {
    let text = "[defaults]\nmode = \"echo\"\nflows = 8\nper_flow = true\nttl = 9\n\
                [[target]]\naddress = \"a\"\nflows = 2\nper_flow = false\nmode = \"lockstep\"\n";
    let added = TargetSettings {
        flows: 8,
        per_flow: true,
        ..target("b", "b:9999", Mode::Echo)
    };
    let mut expected = [target("a", "a:9999", Mode::Lockstep), added];
    expected[0].flows = 2;
    for target in &mut expected {
        target.ip.ttl = Some(9);
    }
    assert_eq!(Folder::new().read(text, &["b"]).unwrap(), expected);
}

#[test]
fn times_have_units_or_are_seconds() {
    for (text, milliseconds) in [
        ("\"250ms\"", 250),
        ("\"1m 1s\"", 61_000),
        ("\"0.5\"", 500),
        ("3", 3000),
        ("1_0", 10_000),
        ("0.25", 250),
        ("1e-3", 1),
    ] {
        let text = format!("[[target]]\naddress = \"h\"\ninterval = {text}\nwait = {text}\n");
        let targets = read(&text).unwrap();
        let expected = Duration::from_millis(milliseconds);
        assert_eq!(
            [targets[0].interval, targets[0].wait],
            [expected; 2],
            "{text}"
        );
    }
}

#[test]
fn stamp_target_has_its_own_defaults() {
    let folder = Folder::new();
    folder.write_keys("keys", &format!("7 {}\n", "ab".repeat(16)), 0o600);
    let text = "[defaults]\nssid = 7\nkey_file = \"keys\"\n[[target]]\naddress = \"a\"\n\
                [[target]]\naddress = \"b\"\nmode = \"stamp\"\n";
    let targets = folder.read(text, &[]).unwrap();
    assert_eq!(targets[0], target("a", "a:9999", Mode::Exchange));
    let stamp = targets[1].stamp.clone().unwrap();
    assert_eq!(targets[1].address, "b:862".parse().unwrap());
    assert_eq!((targets[1].size, stamp.size, stamp.ssid), (112, 112, 7));
    assert!(stamp.is_authenticated && stamp.key.is_some());
    for (setting, size) in [("", 44), ("size = 14", 14), ("size = 48", 48)] {
        let text = format!("[[target]]\naddress = \"a:1\"\nmode = \"stamp\"\n{setting}\n");
        let targets = folder.read(&text, &[]).unwrap();
        let stamp = targets[0].stamp.clone().unwrap();
        assert_eq!([targets[0].size, stamp.size], [size; 2]);
        assert_eq!(targets[0].address, "a:1".parse().unwrap());
        assert!(!stamp.is_authenticated && stamp.key.is_none() && stamp.ssid == 0);
    }
}

#[test]
fn source_decides_the_family() {
    let text = "[[target]]\naddress = \"h\"\nsource = \"::1\"\n";
    assert_eq!(read(text).unwrap()[0].family, Family::Ipv6);
    let text = "[[target]]\naddress = \"h\"\nsource = \"eth0\"\n";
    assert_eq!(read(text).unwrap()[0].family, Family::Any);
}

/// Lines of a target, and the error of the last one.
const WRONG_SETTINGS: &[(&str, &str)] = &[
    (
        "name = \"\"",
        "expected a non-empty string without control characters",
    ),
    (
        "name = \"a\\u0007\"",
        "expected a non-empty string without control characters",
    ),
    ("name = 7", "expected a string in quotes"),
    (
        "mode = \"ecko\"",
        "expected \"exchange\", \"lockstep\", \"echo\" or \"stamp\"",
    ),
    (
        "mode = true",
        "expected \"exchange\", \"lockstep\", \"echo\" or \"stamp\"",
    ),
    ("interval = 0", TIME),
    ("interval = -1", TIME),
    ("interval = inf", TIME),
    ("interval = \"soon\"", TIME),
    ("interval = true", TIME),
    ("wait = \"367d\"", TIME),
    ("wait = nan", TIME),
    ("flows = 0", "expected a whole number, 1 to 4096"),
    ("flows = 4097", "expected a whole number, 1 to 4096"),
    ("flows = 1.5", "expected a whole number, 1 to 4096"),
    ("flows = \"8\"", "expected a whole number, 1 to 4096"),
    (
        "flows = 99999999999999999999999999999999999999999",
        "expected a whole number, 1 to 4096",
    ),
    ("size = 13", SIZE),
    ("size = 65508", SIZE),
    ("size = 64.0", SIZE),
    (
        "dscp = 64",
        "expected 0 to 63 or a name: CS0 to CS7, AF11 to AF43, EF, LE, VA",
    ),
    (
        "family = \"inet\"",
        "expected \"any\", \"ipv4\" or \"ipv6\"",
    ),
    ("all_addresses = \"true\"", "expected true or false"),
    ("per_flow = 1", "expected true or false"),
    (
        "source = \"a/b\"",
        "expected an address without port, or an interface, as `ip address` shows them",
    ),
    ("ttl = 0", "expected a whole number, 1 to 255"),
    ("ttl = 256", "expected a whole number, 1 to 255"),
    ("ssid = 65536", "expected 0 to 65535, or 0x0 to 0xffff"),
    ("key_file = \"\"", "expected the path of a file"),
];

const TIME: &str = "expected seconds (5, 0.25) or a time with a unit (250ms, 1m), more than 0 and \
                    at most 366 days";
const SIZE: &str =
    "expected 16 to 65507 bytes (14 to 65507 in stamp mode), or a size with a unit (1KiB)";

#[test]
fn wrong_value_is_an_error_of_its_line() {
    for (setting, said) in WRONG_SETTINGS {
        for (text, line) in [
            (format!("[[target]]\naddress = \"h\"\n{setting}\n"), 3),
            (
                format!("[[target]]\naddress = \"h\"\n[defaults]\n{setting}\n"),
                4,
            ),
        ] {
            let key = setting.split(' ').next().unwrap();
            if key == "name" && line == 4 {
                continue;
            }
            let error = read(&text).unwrap_err();
            let shown = setting.replace("\\u0007", "\\u{7}");
            assert_eq!(error, format!("m.toml:{line}: cannot use {shown}: {said}"));
        }
    }
}

#[test]
fn wrong_file_is_an_error_of_its_line() {
    let expected = "expected [defaults] or [[target]]";
    for (text, error) in [
        (
            "",
            "no target: add one to m.toml or name it on the command line",
        ),
        ("# x\nx", ":2: not TOML: key with no value, expected `=`"),
        (
            "[[target]\n",
            ":1: not TOML: unclosed array table, expected `]`",
        ),
        (
            "[[target]]\nttl = 1\nttl = 2\n",
            ":3: not TOML: duplicate key, at \"ttl\"",
        ),
        (
            "targets = 3\n",
            &format!(":1: unknown key targets; {expected}"),
        ),
        (
            "\"a\\nb\" = 3\n",
            &format!(":1: unknown key \"a\\nb\"; {expected}"),
        ),
        (
            "[target]\nname = \"x\"\n",
            ":1: cannot use target: expected [[target]]",
        ),
        (
            "target = [3]\n",
            ":1: cannot use target: expected [[target]]",
        ),
        ("target = 3\n", ":1: cannot use target: expected [[target]]"),
        (
            "defaults = 3\n",
            ":1: cannot use defaults: expected [defaults]",
        ),
        (
            "[defaults]\n\naddress = \"h\"\n",
            ":3: cannot use address in [defaults]: each target has its own; move it to a [[target]]",
        ),
        (
            "[defaults]\nname = \"h\"\n",
            ":2: cannot use name in [defaults]: each target has its own; move it to a [[target]]",
        ),
        (
            "\n[[target]]\nname = \"x\"\n",
            ":2: this target has no address; add address = \"HOST[:PORT]\"",
        ),
        (
            "[[target]]\naddress = 7\n",
            ":2: cannot use address = 7: expected HOST[:PORT] in quotes",
        ),
        (
            "[[target]]\naddress = \"http://h/x\"\n",
            ":2: cannot use address = \"http://h/x\": expected HOST:PORT, such as h:9999",
        ),
        (
            "[[target]]\naddress = \"127.0.0.1\"\nfamily = \"ipv6\"\n",
            ":2: cannot use address = \"127.0.0.1\": it is no address of the family that the target \
             or its source has",
        ),
        (
            "[[target]]\naddress = \"h\"\ninterval = 0.000001\n",
            ":2: cannot use interval 1µs with wait 1s: at least 10us, and at most 2000000 requests \
             in flight, are possible",
        ),
        (
            "[[target]]\naddress = \"h\"\ninterval = 0.001\nwait = \"1h\"\n",
            ":2: cannot use interval 1ms with wait 3600s: at least 10us, and at most 2000000 requests \
             in flight, are possible",
        ),
        (
            "[[target]]\naddress = \"[ff02::1%eth0]\"\n",
            ":2: cannot use address = \"[ff02::1%eth0]\": reflectors refuse multicast; use the \
             address of one reflector",
        ),
        (
            "[[target]]\naddress = [1]\n",
            ":2: cannot use address = an array: expected HOST[:PORT] in quotes",
        ),
        (
            "[[target]]\naddress = \"h\"\n[[target]]\nname = \"h\"\naddress = \"i\"\n",
            ":4: cannot add target \"h\" twice: line 2 has the same name; use another name",
        ),
    ] {
        let error = match error.strip_prefix(':') {
            Some(_) => format!("m.toml{error}"),
            None => error.to_owned(),
        };
        assert_eq!(read(text).unwrap_err(), error, "{text}");
    }
}

#[test]
fn settings_that_contradict_each_other_are_errors() {
    let for_h = "for target \"h\": ";
    let other = "it is for STAMP; add mode = \"stamp\"";
    for (text, line, said) in [
        (
            "mode = \"echo\"\nssid = 7\n",
            4,
            &format!("ssid = 7 with mode = \"echo\" {for_h}{other}"),
        ),
        (
            "key_file = \"k\"\n",
            3,
            &format!("key_file = \"k\" with mode = \"exchange\" {for_h}{other}"),
        ),
        (
            "size = 15\n",
            3,
            &format!("size = 15 with mode = \"exchange\" {for_h}{SIZE}"),
        ),
        (
            "[defaults]\nsize = 15\n",
            4,
            &format!("size = 15 with mode = \"exchange\" {for_h}{SIZE}"),
        ),
        (
            "mode = \"stamp\"\nsize = 46\n",
            4,
            &format!(
                "size = 46 {for_h}the header of the padding does not fit; use 44 or at least 48"
            ),
        ),
        (
            "mode = \"stamp\"\nsize = 64\nkey_file = \"k\"\n",
            4,
            &format!("size = 64 {for_h}these requests have at least 112 bytes"),
        ),
        (
            "mode = \"stamp\"\nsize = 20\nssid = 7\n",
            4,
            &format!(
                "ssid = 7 with size = 20 {for_h}requests below 44 bytes have none; remove one"
            ),
        ),
        (
            "family = \"ipv4\"\nsource = \"::1\"\n",
            4,
            &format!(
                "source = \"::1\" with family = \"ipv4\" {for_h}it is an address of the other \
                 family; remove one"
            ),
        ),
    ] {
        let error = read(&format!("[[target]]\naddress = \"h\"\n{text}")).unwrap_err();
        assert_eq!(error, format!("m.toml:{line}: cannot use {said}"));
    }
}

#[test]
fn key_file_error_names_line_and_file() {
    let folder = Folder::new();
    let keys = format!("8 {}\n", "ab".repeat(16));
    folder.write_keys("open", &keys, 0o644);
    folder.write_keys("other", &keys, 0o600);
    folder.write_keys("wrong", "7 secret\n", 0o600);
    for (file, said) in [
        (
            "none",
            "cannot read the STAMP key file none: No such file or directory (os error 2); ",
        ),
        (
            "open",
            "cannot use the STAMP key file open: mode 0644 lets other users access it ",
        ),
        (
            "other",
            "cannot use the STAMP key file other: it has no key for SSID 7; add one, ",
        ),
        ("wrong", "cannot use the STAMP key file wrong: line 1: "),
    ] {
        let text = format!(
            "[[target]]\naddress = \"h\"\nmode = \"stamp\"\nssid = 7\nkey_file = \"{file}\"\n"
        );
        let error = folder.read(&text, &[]).unwrap_err();
        assert!(error.starts_with(&format!("m.toml:5: {said}")), "{error}");
    }
}
