//! The host: network interfaces, users, file systems and the clock.
#![expect(unsafe_code, reason = "std has no such calls")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Whether a file is in a file system of type bpf.
pub(super) fn is_in_bpf(file: &File) -> io::Result<bool> {
    // SAFETY: `statfs` has only integers, for which zero is valid.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open; the function writes to the structure, which outlives the call.
    let status = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut found) };
    if status == 0 {
        // The type of the field differs between C libraries.
        Ok(i128::from(found.f_type) == i128::from(libc::BPF_FS_MAGIC))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The effective user.
pub(super) fn effective_user() -> u32 {
    // SAFETY: the function has no arguments and cannot fail.
    unsafe { libc::geteuid() }
}

/// A network interface.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) mac: [u8; 6],
    /// Whether VLAN tags are taken off frames before a program gets them.
    pub(super) takes_vlan_tags: bool,
    /// Whether it is an end of a veth pair.
    pub(super) is_veth: bool,
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    value: u32,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct EthtoolDriver {
    command: u32,
    driver: [u8; 32],
    others: [u8; 160],
}

const SIOCETHTOOL: u16 = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 3;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// Looks up an interface (netdevice(7)).
///
/// # Errors
/// `ENODEV` if no interface has this name. Another error if it is not an Ethernet device.
pub(super) fn interface(name: &str) -> io::Result<Interface> {
    // SAFETY: `ifreq` has only integers and a union of plain types, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0. A name with a slash would leave the folder of the pins. The kernel takes
    // `eth0:1` as eth0.
    if name.is_empty()
        || name.len() >= libc::IFNAMSIZ
        || name.contains(['/', ':'])
        || name.starts_with('.')
    {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    let none = request.ifr_ifru;
    let mut ask = |command, argument| {
        request.ifr_ifru = argument;
        // SAFETY: the descriptor is open; the kernel reads and writes a structure of this type and, for
        // ethtool, the one that it points to; both outlive the call.
        let status = unsafe { libc::ioctl(socket.as_raw_fd(), command, &raw mut request) };
        if status == 0 {
            Ok(request.ifr_ifru)
        } else {
            Err(io::Error::last_os_error())
        }
    };
    let index = ask(libc::SIOCGIFINDEX, none)?;
    // SAFETY: the kernel has written this field.
    let index = unsafe { index.ifru_ifindex };
    let address = ask(libc::SIOCGIFHWADDR, none)?;
    // SAFETY: the kernel has written this field.
    let address = unsafe { address.ifru_hwaddr };
    if ![libc::ARPHRD_ETHER, libc::ARPHRD_LOOPBACK].contains(&address.sa_family) {
        return Err(io::Error::other("it is not an Ethernet device"));
    }
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(address.sa_data) {
        *to = from.to_ne_bytes()[0];
    }
    let mut flags = EthtoolValue {
        command: ETHTOOL_GFLAGS,
        value: 0,
    };
    let argument = libc::__c_anonymous_ifr_ifru {
        ifru_data: (&raw mut flags).cast(),
    };
    // The value stays 0 if the driver has no such flags.
    let _ = ask(SIOCETHTOOL.into(), argument);
    let mut found = EthtoolDriver {
        command: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        others: [0; 160],
    };
    let argument = libc::__c_anonymous_ifr_ifru {
        ifru_data: (&raw mut found).cast(),
    };
    // The name stays empty if the driver has none.
    let _ = ask(SIOCETHTOOL.into(), argument);
    Ok(Interface {
        index: index.unsigned_abs(),
        mac,
        takes_vlan_tags: flags.value & ETH_FLAG_RXVLAN != 0,
        is_veth: found.driver.starts_with(b"veth\0"),
    })
}

/// The number of a user (`getpwnam_r(3)`).
pub fn user(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: `passwd` has only integers and pointers, for which zero is valid.
    let mut found: libc::passwd = unsafe { std::mem::zeroed() };
    let mut memory: Vec<libc::c_char> = vec![0; 1 << 14];
    let mut result = std::ptr::null_mut();
    // SAFETY: the name ends with 0; the function writes to the structure and to the memory, which
    // outlive the call, and stays within its length.
    unsafe {
        libc::getpwnam_r(
            name.as_ptr(),
            &raw mut found,
            memory.as_mut_ptr(),
            memory.len(),
            &raw mut result,
        );
    }
    (!result.is_null()).then_some(found.pw_uid)
}

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of the program.
pub(super) fn monotonic_time() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the function writes to the structure, which outlives the call. It cannot fail: the
    // clock exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}
