//! A start where the system has little to give.

use crate::harness::program;
use crate::usage::assert_cannot_start;

#[test]
fn without_a_thread_to_be_had_it_says_so_all_the_same() {
    // The stack of a thread then has no room in the whole address space.
    let stack = (1_u64 << 50).to_string();
    for (args, what) in [
        (&["--listen=127.0.0.1:0"][..], "the thread that writes"),
        (&["probe", "127.0.0.1:9"], "wait for signals"),
    ] {
        let mut command = program();
        command.args(args).env("RUST_MIN_STACK", &stack);
        assert_cannot_start(&command, what, "Resource temporarily unavailable");
    }
}
