//! The system call `bpf` (bpf(2), include/uapi/linux/bpf.h). Over 400 lines: a third are its structures.
#![expect(unsafe_code, reason = "the system call takes pointers in structures")]

mod map;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::error::KernelError;
use super::program::INSTRUCTIONS;
pub(super) use map::Map;

const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
#[cfg(test)]
const PROG_TEST_RUN: libc::c_long = 10;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_CREATE: libc::c_long = 28;
const LINK_DETACH: libc::c_long = 34;

const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
/// `BPF_F_RDONLY`.
const READ_ONLY: u32 = 1 << 3;

/// Kinds of maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum MapKind {
    Array = 2,
    PerCpuArray = 6,
}

/// How the program is attached (`XDP_FLAGS_…`, `if_link.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum XdpMode {
    /// After the driver, in every network device.
    Generic = 1 << 1,
    /// In the driver.
    Native = 1 << 2,
}

/// The parts of `union bpf_attr` that are used, each for one command.
#[repr(C)]
#[derive(Default)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct Element {
    map: u32,
    _padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct Object {
    path: u64,
    descriptor: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

#[cfg(test)]
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    result: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    _padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct Info {
    object: u32,
    size: u32,
    found: u64,
}

/// The start of `struct bpf_map_info`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
    name: [u8; 16],
}

/// The start of `struct bpf_link_info` of an XDP link.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    _padding: u32,
    /// 0 if the interface has gone.
    pub(super) interface: u32,
}

/// Calls `bpf` with an attribute that has the fields of `command`.
///
/// # Safety
/// The pointers in the attribute are valid for what the command reads and writes.
unsafe fn call<T>(command: libc::c_long, attribute: &mut T) -> io::Result<i32> {
    let size = size_of::<T>();
    let attribute: *mut T = attribute;
    // SAFETY: the kernel reads and writes `size` bytes of the attribute, which outlives the call. The
    // caller answers for the pointers in it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attribute, size) };
    i32::try_from(result)
        .ok()
        .filter(|result| *result >= 0)
        .ok_or_else(io::Error::last_os_error)
}

/// Calls a command that returns a new descriptor.
///
/// # Safety
/// As [`call`]; and the command returns a new descriptor.
unsafe fn open<T>(command: libc::c_long, attribute: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller answers for the pointers.
    let descriptor = unsafe { call(command, attribute) }?;
    // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[expect(clippy::cast_possible_truncation, reason = "a small structure")]
const fn size_in_bytes<T>() -> u32 {
    size_of::<T>() as u32
}

fn number(descriptor: &(impl AsFd + ?Sized)) -> u32 {
    descriptor.as_fd().as_raw_fd().unsigned_abs()
}

fn address<T>(value: *const T) -> u64 {
    value.expose_provenance() as u64
}

fn name(text: &str) -> [u8; 16] {
    let mut name = [0; 16];
    let length = text.len().min(15);
    name[..length].copy_from_slice(&text.as_bytes()[..length]);
    name
}

/// The bytes of a plain structure.
///
/// # Safety
/// The type has no padding, and every pattern of bytes is a valid value.
pub(super) unsafe trait Plain: Copy + Default {}

// SAFETY: an integer.
unsafe impl Plain for u64 {}

// SAFETY: integers and an array of them, without gaps.
unsafe impl Plain for MapInfo {}

// SAFETY: integers of one size.
unsafe impl Plain for LinkInfo {}

/// The instructions with the descriptors of the maps, in the order of their declaration.
pub(super) fn with_maps(maps: [&dyn AsFd; 2]) -> Vec<u64> {
    /// The opcode of a 64-bit constant, with which a map is named.
    const CONSTANT: u64 = 0x18;
    let [first, second] = maps.map(number);
    let with_map = |instruction: u64| {
        // The source register 1 means that the constant is a map (`BPF_PSEUDO_MAP_FD`).
        let is_map = instruction & 0xff == CONSTANT && (instruction >> 12) & 0xf == 1;
        let map = if instruction >> 32 == 0 {
            first
        } else {
            second
        };
        if is_map {
            instruction & 0xffff_ffff | u64::from(map) << 32
        } else {
            instruction
        }
    };
    INSTRUCTIONS.map(with_map).to_vec()
}

/// Loads a program. The error has the verdict of the verifier, if it refused the program.
///
/// # Errors
/// `EPERM` or `EACCES` without `CAP_BPF`, `CAP_PERFMON` and `CAP_NET_ADMIN`.
pub(super) fn load(instructions: &[u64]) -> Result<OwnedFd, KernelError> {
    /// The longest log that every kernel takes. The kernel writes a part of it.
    const LOG: u32 = (1 << 24) - 1;
    let license = c"Dual MIT/GPL";
    let attribute = || ProgramLoad {
        kind: PROG_TYPE_XDP,
        count: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
        instructions: address(instructions.as_ptr()),
        license: address(license.as_ptr()),
        name: name("udp_echo"),
        attach_type: ATTACH_XDP,
        ..ProgramLoad::default()
    };
    // SAFETY: the kernel reads `count` instructions and a text that ends with 0; both outlive the call.
    let cause = match retried(|| unsafe { open(PROG_LOAD, &mut attribute()) }) {
        Ok(program) => return Ok(program),
        Err(cause) => cause,
    };
    if cause.raw_os_error() == Some(libc::EPERM) {
        return Err(cause.into());
    }
    let mut log = vec![0; LOG as usize];
    let mut logged = ProgramLoad {
        log_level: 1,
        log_size: LOG,
        log: address(log.as_mut_ptr()),
        ..attribute()
    };
    // SAFETY: as above; the kernel writes at most `log_size` bytes to the log, which outlives the call.
    match unsafe { open(PROG_LOAD, &mut logged) } {
        Ok(program) => Ok(program),
        Err(_) => Err(KernelError::of_verifier(cause, &log)),
    }
}

/// Calls again if a signal interrupted the verifier, as libbpf does.
fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..4 {
        match call() {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            result => return result,
        }
    }
    call()
}

/// Attaches a program to an interface. It stays until the last descriptor and pin of the link are
/// gone.
///
/// # Errors
/// `EPERM`, `ENODEV` if there is no such interface, `EBUSY` if it has a program, `EOPNOTSUPP` if its
/// driver has no XDP.
pub(super) fn attach(program: &OwnedFd, interface: u32, mode: XdpMode) -> io::Result<OwnedFd> {
    let mut attribute = LinkCreate {
        program: number(program),
        interface,
        attach_type: ATTACH_XDP,
        flags: mode as u32,
    };
    // SAFETY: there are no pointers in it.
    unsafe { open(LINK_CREATE, &mut attribute) }
}

/// Detaches the program of a link now, even if other processes have a descriptor of the link.
pub(super) fn detach(link: &OwnedFd) -> io::Result<()> {
    let mut descriptor = number(link);
    // SAFETY: there are no pointers in it.
    unsafe { call(LINK_DETACH, &mut descriptor) }.map(drop)
}

/// Pins an object in a file system of type bpf.
pub(super) fn pin(object: &(impl AsFd + ?Sized), path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attribute = Object {
        path: address(path.as_ptr()),
        descriptor: number(object),
        flags: 0,
    };
    // SAFETY: the kernel reads the path, which ends with 0 and outlives the call.
    unsafe { call(OBJ_PIN, &mut attribute) }.map(drop)
}

/// Opens a pinned object.
pub(super) fn get(path: &Path, flags: u32) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attribute = Object {
        path: address(path.as_ptr()),
        descriptor: 0,
        flags,
    };
    // SAFETY: the kernel reads the path, which ends with 0 and outlives the call.
    unsafe { open(OBJ_GET, &mut attribute) }
}

/// Whether a pinned object is a map of this name.
pub(super) fn map_has_name(path: &Path, title: &str) -> io::Result<bool> {
    match get(path, READ_ONLY) {
        Ok(object) => info(&object).map(|found: MapInfo| found.name == name(title)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The kernel's description of an object.
pub(super) fn info<T: Plain>(object: &impl AsFd) -> io::Result<T> {
    let mut found = T::default();
    let mut attribute = Info {
        object: number(object),
        size: size_in_bytes::<T>(),
        found: address(&raw mut found),
    };
    // SAFETY: the kernel writes at most `size` bytes of a plain structure, which outlives the call.
    // Pointers that it reads from there are null, with lengths of 0.
    unsafe { call(OBJ_GET_INFO_BY_FD, &mut attribute) }?;
    Ok(found)
}

/// Runs a program once on a frame. Returns its result and the frame that it leaves.
///
/// # Errors
/// `EINVAL` if the frame is shorter than an Ethernet header.
#[cfg(test)]
pub(super) fn run(program: &OwnedFd, frame: &[u8]) -> io::Result<(u32, Vec<u8>)> {
    let mut left = vec![0; frame.len() + 256];
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
    let mut attribute = TestRun {
        program: number(program),
        size_in: size(frame),
        size_out: size(&left),
        data_in: address(frame.as_ptr()),
        data_out: address(left.as_mut_ptr()),
        repeat: 1,
        ..TestRun::default()
    };
    // SAFETY: the kernel reads the frame and writes at most `size_out` bytes; both outlive the call.
    unsafe { call(PROG_TEST_RUN, &mut attribute) }?;
    left.truncate(usize::try_from(attribute.size_out).unwrap());
    Ok((attribute.result, left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_retried_five_times_after_a_signal() {
        let attempts = |succeeds_at: u32, error: i32| {
            let mut count = 0;
            let result = retried(|| {
                count += 1;
                if count == succeeds_at {
                    Ok(())
                } else {
                    Err(io::Error::from_raw_os_error(error))
                }
            });
            (count, result.is_ok())
        };
        assert_eq!(attempts(1, libc::EAGAIN), (1, true));
        assert_eq!(attempts(5, libc::EAGAIN), (5, true));
        assert_eq!(attempts(6, libc::EAGAIN), (5, false));
        assert_eq!(attempts(2, libc::EPERM), (1, false));
    }
}
