//! udp-echo.
fn main() {}
