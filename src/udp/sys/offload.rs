//! Batches of datagrams: received by GRO (`UDP_GRO`), sent by GSO (`UDP_SEGMENT`). See udp(7).
#![expect(unsafe_code, reason = "uname takes a pointer")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use super::sockopt;

/// Whether the kernel supports GSO and is not known to corrupt it.
pub(in crate::udp) fn can_send_batches(socket: impl AsFd) -> bool {
    sockopt::get(socket, libc::SOL_UDP, libc::UDP_SEGMENT).is_ok()
        && kernel_release().is_ok_and(|release| !corrupts_gso(&release))
}

/// Whether GRO is enabled on the socket.
pub(in crate::udp) fn receives_batches(socket: impl AsFd) -> bool {
    sockopt::get(socket, libc::SOL_UDP, libc::UDP_GRO).is_ok_and(|value| value != 0)
}

/// Enables or disables GRO on the socket. Linux supports it since 5.0.
pub(in crate::udp) fn set_receives_batches(socket: impl AsFd, wanted: bool) -> io::Result<()> {
    sockopt::set(socket, libc::SOL_UDP, libc::UDP_GRO, wanted.into())
}

/// Whether this kernel corrupts the checksums of GSO datagrams. Linux 7.0-rc1 to 7.1-rc4 do, and
/// no error shows it (<https://github.com/tailscale/tailscale/issues/19918>).
fn corrupts_gso(release: &str) -> bool {
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

/// Parses the first two numbers of a release. Returns them with the rest.
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

/// The output of `uname -r`. A sandbox can hide the file in /proc.
fn kernel_release() -> io::Result<String> {
    let mut name = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: the kernel writes no more than the structure.
    if unsafe { libc::uname(name.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed above, and any bytes are valid characters.
    let name = unsafe { name.assume_init() };
    // c_char is signed on some architectures.
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
        fn release_parser_accepts_any_text_and_finds_both_numbers(
            major in any::<u32>(), minor in any::<u32>(), rest in "[-.a-z]\\PC{0,8}|", any in "\\PC{0,12}"
        ) {
            let release = format!("{major}.{minor}{rest}");
            prop_assert_eq!(parse_version(&release), Some(((major, minor), rest.as_str())));
            let _ = corrupts_gso(&any);
            for text in [format!("7.1{any}"), format!("7.1.0-rc{any}"), format!("{major}{minor}.{any}")] {
                let _ = corrupts_gso(&text);
            }
        }
    }

    #[test]
    fn release_shows_kernels_that_corrupt_gso_datagrams() {
        for bad in [
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
            assert!(corrupts_gso(bad), "{bad}");
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
            assert!(!corrupts_gso(good), "{good}");
        }
        assert!(parse_version(&kernel_release().unwrap()).is_some());
    }
}
