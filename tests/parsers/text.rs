//! Text close to valid input, and arbitrary text.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Parts of values, and values at the limits of their ranges.
const WORDS: &str = "
    0 1 2 9 -1 + - . 1e e-9 0.25 1024 32767 65507 65508 65535 65536 16777216 2147483647
    4294967295 4294967296 1073741823 1073741824 9223372036854775807 18446744073709551615
    18446744073709551616 nan inf none auto off , = : :: [ ] % * / [::] [::1] fe80::1 ::ffff:
    127.0.0.1 0.0.0.0 localhost host :9999 ns us ms s m h d w y month K B KiB MiB GiB EiB kb
    exchange lockstep echo metrics timeout empty decode-error info debug TRACE udp_echo
    udp_echo::worker =debug =off [span] [span{field=1}] { } \" \\ true no text json journald é
    \u{202e} \u{10ffff} --
";

fn any_word() -> impl Strategy<Value = &'static str> {
    let words = WORDS.split_whitespace().chain([" "]);
    select(words.collect::<Vec<_>>())
}

fn word() -> impl Strategy<Value = Vec<u8>> {
    let character = any::<char>().prop_map(|it| it.to_string().into_bytes());
    prop_oneof![
        12 => any_word().prop_map(|word| word.as_bytes().to_vec()),
        2 => character,
        1 => vec(1_u8..=255, 1..4),
    ]
}

/// Bytes of an argument or a variable: without NUL, possibly not UTF-8.
pub fn bytes() -> impl Strategy<Value = OsString> {
    vec(word(), 0..6).prop_map(|words| {
        let bytes = words.concat().into_iter();
        OsString::from_vec(bytes.filter(|byte| *byte != 0).collect())
    })
}

/// Bytes as valid UTF-8.
pub fn text() -> impl Strategy<Value = String> {
    bytes().prop_map(|bytes| bytes.to_string_lossy().into_owned())
}

/// Values of options.
pub fn value() -> impl Strategy<Value = OsString> {
    let short = any_word().prop_map(OsString::from);
    let two = (any_word(), any_word());
    let two = two.prop_map(|(one, other)| [one, other].concat().into());
    prop_oneof![2 => short, 3 => two, 3 => bytes()]
}

/// Files of the monitor, most of their lines with a key and a value.
pub fn monitor_file() -> impl Strategy<Value = Vec<u8>> {
    const KEYS: &str = "name address mode interval flows size wait dscp family all_addresses \
                        per_flow source ttl ssid key_file other";
    let key = select(KEYS.split_whitespace().collect::<Vec<_>>());
    let value = value().prop_map(OsString::into_vec);
    let setting = (key, any::<bool>(), value).prop_map(|(key, is_quoted, value)| {
        let quote: &[u8] = if is_quoted { b"\"" } else { b"" };
        [key.as_bytes(), b" = ", quote, &value, quote].concat()
    });
    let header = select(vec![
        "[[target]]\naddress = \"h\"",
        "[defaults]",
        "[[target]]",
    ]);
    let line = prop_oneof![
        4 => setting,
        2 => header.prop_map(|header| header.as_bytes().to_vec()),
        1 => bytes().prop_map(OsString::into_vec),
    ];
    vec(line, 0..5).prop_map(|lines| lines.join(&b'\n'))
}

/// Arguments, most of them options.
pub fn args(options: &[String]) -> impl Strategy<Value = Vec<OsString>> + use<> {
    let option = || select(options.to_vec());
    let name = option().prop_map(|name| format!("--{name}").into());
    let given = (option(), value()).prop_map(|(name, value)| {
        let mut argument = OsString::from(format!("--{name}="));
        argument.push(value);
        argument
    });
    let short = select(vec!["-h", "-V", "--", "-", "-x", "--listen", "--li"]);
    let argument = prop_oneof![
        6 => given,
        2 => name,
        2 => value(),
        1 => short.prop_map(OsString::from),
    ];
    vec(argument, 0..6)
}
