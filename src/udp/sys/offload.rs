//! Batches: what the kernel can receive (`UDP_GRO`) and send (`UDP_SEGMENT`) as one, see udp(7).
#![expect(unsafe_code, reason = "uname takes a pointer")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use super::sockopt;

/// Whether the kernel can cut a payload into datagrams, and does it well.
pub(in crate::udp) fn can_send_batches(socket: impl AsFd) -> bool {
    sockopt::get(socket, libc::SOL_UDP, libc::UDP_SEGMENT).is_ok()
        && kernel_release().is_ok_and(|release| !mangles_batches(&release))
}

/// Whether the socket gets bursts as one.
pub(in crate::udp) fn receives_batches(socket: impl AsFd) -> bool {
    sockopt::get(socket, libc::SOL_UDP, libc::UDP_GRO).is_ok_and(|value| value != 0)
}

/// Has the socket get bursts as one, which Linux can since 5.0, or no more.
pub(in crate::udp) fn set_receives_batches(socket: impl AsFd, wanted: bool) -> io::Result<()> {
    sockopt::set(socket, libc::SOL_UDP, libc::UDP_GRO, wanted.into())
}

/// Linux 7.0-rc1 to 7.1-rc4 spoil the checksums of datagrams sent in bursts, and nothing tells
/// (<https://github.com/tailscale/tailscale/issues/19918>).
fn mangles_batches(release: &str) -> bool {
    let Some((version, rest)) = parse_version(release) else {
        return false;
    };
    match version {
        (7, 0) => true,
        // 7.1.0-rc3, 7.1.0-0.rc3.20260601.fc45, 7.1~rc3, 7.1.0-060100rc3-generic.
        (7, 1) => rest.split("rc").skip(1).any(|rest| {
            let candidate = leading_number(rest);
            candidate.is_some_and(|(candidate, _)| candidate <= 4)
        }),
        _ => false,
    }
}

/// The first two numbers, and what follows.
fn parse_version(release: &str) -> Option<((u32, u32), &str)> {
    let (major, rest) = leading_number(release)?;
    let (minor, rest) = leading_number(rest.strip_prefix('.')?)?;
    Some(((major, minor), rest))
}

fn leading_number(text: &str) -> Option<(u32, &str)> {
    let rest = text.trim_start_matches(|character: char| character.is_ascii_digit());
    let number = text[..text.len() - rest.len()].parse().ok()?;
    Some((number, rest))
}

/// As `uname -r` has it. Not from /proc, which a service may not see.
fn kernel_release() -> io::Result<String> {
    let mut name = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: the kernel writes no more than the structure.
    if unsafe { libc::uname(name.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed above, and any bytes are characters.
    let name = unsafe { name.assume_init() };
    // Signed or not, as the processor has it.
    let bytes = name.release.iter().map(|byte| byte.to_ne_bytes()[0]);
    let release: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    Ok(String::from_utf8_lossy(&release).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parsing_a_release_is_total_and_finds_both_numbers(
            major in any::<u32>(), minor in any::<u32>(), rest in "[-.a-z]\\PC{0,8}|", any in "\\PC{0,12}"
        ) {
            let release = format!("{major}.{minor}{rest}");
            prop_assert_eq!(parse_version(&release), Some(((major, minor), rest.as_str())));
            let _ = mangles_batches(&any);
            for text in [format!("7.1{any}"), format!("7.1.0-rc{any}"), format!("{major}{minor}.{any}")] {
                let _ = mangles_batches(&text);
            }
        }
    }

    #[test]
    fn kernels_that_mangle_bursts_are_told_by_their_release() {
        for mangling in [
            "7.0.0-rc1",
            "7.0.0",
            "7.0.12-amd64",
            "7.0-rc3",
            "7.1.0-rc4",
            "7.1.0-rc1-custom",
            "7.1.0-0.rc3.20260601git1234567.fc45.x86_64",
            "7.1~rc3-amd64",
            "7.1.0-060100rc3-generic",
        ] {
            assert!(mangles_batches(mangling), "{mangling}");
        }
        for good in [
            "7.1.0-rc5",
            "7.1.0-rc10",
            "7.1.0-0.rc5.fc45.x86_64",
            "7.1.2-arch1",
            "7.1.0",
            "7.1.3-amd64",
            "6.18.44-fc-v595",
            "6.1.0-32-amd64",
            "17.0.1",
            "70.1",
            "7.10.0",
            "unknown",
            "",
        ] {
            assert!(!mangles_batches(good), "{good}");
        }
        assert!(parse_version(&kernel_release().unwrap()).is_some());
    }
}
