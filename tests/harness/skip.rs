//! Reports tests that cannot run here.

use std::io::Write;

/// Prints one line directly to standard error, which libtest does not capture. Tests use
/// [`skip!`](crate::skip).
pub fn skipped(place: &str, reason: &str) {
    // The name as libtest prints it: without the crate and without items inside the test.
    let name = place.split("::{{closure}}").next().unwrap_or(place);
    let name = name.strip_suffix("::here").unwrap_or(name);
    let name = name.split_once("::").map_or(name, |(_, name)| name);
    let line = format!("SKIPPED {name}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Reports why the test cannot run here, and returns from it.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::skipped!($($reason)*);
        return;
    }};
}

/// Reports which part of the test cannot run here, and why.
#[macro_export]
macro_rules! skipped {
    ($($reason:tt)*) => {{
        fn here() {}
        let place = std::any::type_name_of_val(&here);
        $crate::harness::skip::skipped(place, &format!($($reason)*));
    }};
}
