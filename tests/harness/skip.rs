//! A test that cannot run here says so.

use std::io::Write;

/// Prints one line to the real standard error: libtest captures `eprintln!`, but not this. Use
/// [`skip!`](crate::skip).
pub fn skipped(place: &str, reason: &str) {
    // The name as libtest prints it: without the program's name and what is inside the test.
    let name = place.split("::{{closure}}").next().unwrap_or(place);
    let name = name.strip_suffix("::here").unwrap_or(name);
    let name = name.split_once("::").map_or(name, |(_, name)| name);
    let line = format!("SKIPPED {name}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Says why the test cannot run here, and returns from it.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::skipped!($($reason)*);
        return;
    }};
}

/// Says which part of the test cannot run here, and why.
#[macro_export]
macro_rules! skipped {
    ($($reason:tt)*) => {{
        fn here() {}
        let place = std::any::type_name_of_val(&here);
        $crate::harness::skip::skipped(place, &format!($($reason)*));
    }};
}
