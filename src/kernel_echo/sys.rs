//! The system call `bpf` (bpf(2), include/uapi/linux/bpf.h).
#![expect(unsafe_code, reason = "the system call takes pointers in structures")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::program::INSTRUCTIONS;

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
fn call<T>(command: libc::c_long, attribute: &mut T) -> io::Result<i32> {
    let size = size_of::<T>();
    let attribute: *mut T = attribute;
    // SAFETY: the kernel reads and writes `size` bytes of the attribute, which outlives the call. Each
    // caller passes pointers in it that are valid for what the command reads or writes.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attribute, size) };
    i32::try_from(result)
        .ok()
        .filter(|result| *result >= 0)
        .ok_or_else(io::Error::last_os_error)
}

/// Calls a command that returns a new descriptor.
fn open<T>(command: libc::c_long, attribute: &mut T) -> io::Result<OwnedFd> {
    let descriptor = call(command, attribute)?;
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

/// A map of values of one kind, with keys from 0.
#[derive(Debug)]
pub(super) struct Map<T> {
    descriptor: OwnedFd,
    copies: usize,
    _values: std::marker::PhantomData<T>,
}

impl<T: Plain> Map<T> {
    /// Creates a map.
    ///
    /// # Errors
    /// `EPERM` without the capability `CAP_BPF`.
    pub(super) fn create(kind: MapKind, title: &str, entries: u32) -> io::Result<Self> {
        let mut attribute = MapCreate {
            kind: kind as u32,
            key_size: 4,
            value_size: size_in_bytes::<T>(),
            entries,
            name: name(title),
            ..MapCreate::default()
        };
        let descriptor = open(MAP_CREATE, &mut attribute)?;
        Self::with(descriptor, kind)
    }

    /// Opens a pinned map.
    ///
    /// # Errors
    /// `ENOENT` if there is none, `EACCES` without permission, `InvalidData` if it is of another
    /// kind.
    pub(super) fn open(path: &Path, kind: MapKind, may_write: bool) -> io::Result<Self> {
        let descriptor = get(path, if may_write { 0 } else { READ_ONLY })?;
        let found: MapInfo = info(&descriptor)?;
        let size = size_in_bytes::<T>();
        if (found.kind, found.key_size, found.value_size) != (kind as u32, 4, size) {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        Self::with(descriptor, kind)
    }

    fn with(descriptor: OwnedFd, kind: MapKind) -> io::Result<Self> {
        let copies = match kind {
            MapKind::Array => 1,
            MapKind::PerCpuArray => possible_cpus()?,
        };
        Ok(Self {
            descriptor,
            copies,
            _values: std::marker::PhantomData,
        })
    }

    /// The values of a key: one, or one for each possible CPU.
    pub(super) fn read(&self, key: u32) -> io::Result<Vec<T>> {
        let mut values = vec![T::default(); self.copies];
        let mut attribute = Element {
            map: number(&self.descriptor),
            key: address(&raw const key),
            value: address(values.as_mut_ptr()),
            ..Element::default()
        };
        call(MAP_LOOKUP_ELEM, &mut attribute)?;
        Ok(values)
    }

    /// Replaces all values of a key.
    pub(super) fn write(&self, key: u32, value: T) -> io::Result<()> {
        let values = vec![value; self.copies];
        let mut attribute = Element {
            map: number(&self.descriptor),
            key: address(&raw const key),
            value: address(values.as_ptr()),
            ..Element::default()
        };
        call(MAP_UPDATE_ELEM, &mut attribute).map(drop)
    }
}

impl<T> AsFd for Map<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// The number of CPUs that may ever be online. A per-CPU map has a value for each.
fn possible_cpus() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim_end().rsplit([',', '-']).next();
    let last: Option<usize> = last.and_then(|last| last.parse().ok());
    last.map(|last| last + 1)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Loads the program with its maps, in the order of their declaration.
///
/// # Errors
/// `EPERM` or `EACCES` without `CAP_BPF`, `CAP_PERFMON` and `CAP_NET_ADMIN`.
#[expect(clippy::cast_possible_truncation, reason = "a short program")]
pub(super) fn load(maps: [&dyn AsFd; 2]) -> io::Result<OwnedFd> {
    /// The opcode of a 64-bit constant, with which a map is named.
    const CONSTANT: u64 = 0x18;
    let mut instructions = INSTRUCTIONS;
    for instruction in &mut instructions {
        // The source register 1 means that the constant is a map (`BPF_PSEUDO_MAP_FD`).
        let is_map = *instruction & 0xff == CONSTANT && (*instruction >> 12) & 0xf == 1;
        if is_map {
            let [first, second] = maps.map(|map| map.as_fd().as_raw_fd().unsigned_abs());
            let descriptor = if *instruction >> 32 == 0 {
                first
            } else {
                second
            };
            *instruction = *instruction & 0xffff_ffff | u64::from(descriptor) << 32;
        }
    }
    let license = c"Dual MIT/GPL";
    let mut attribute = ProgramLoad {
        kind: PROG_TYPE_XDP,
        count: INSTRUCTIONS.len() as u32,
        instructions: address(instructions.as_ptr()),
        license: address(license.as_ptr()),
        name: name("udp_echo"),
        attach_type: ATTACH_XDP,
        ..ProgramLoad::default()
    };
    retried(|| open(PROG_LOAD, &mut attribute))
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
    open(LINK_CREATE, &mut attribute)
}

/// Pins an object in a file system of type bpf.
pub(super) fn pin(object: &(impl AsFd + ?Sized), path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attribute = Object {
        path: address(path.as_ptr()),
        descriptor: number(object),
        flags: 0,
    };
    call(OBJ_PIN, &mut attribute).map(drop)
}

/// Opens a pinned object.
pub(super) fn get(path: &Path, flags: u32) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attribute = Object {
        path: address(path.as_ptr()),
        descriptor: 0,
        flags,
    };
    open(OBJ_GET, &mut attribute)
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
pub(super) fn info<T: Default + Copy>(object: &impl AsFd) -> io::Result<T> {
    let mut found = T::default();
    let mut attribute = Info {
        object: number(object),
        size: size_in_bytes::<T>(),
        found: address(&raw mut found),
    };
    call(OBJ_GET_INFO_BY_FD, &mut attribute)?;
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
    call(PROG_TEST_RUN, &mut attribute)?;
    left.truncate(usize::try_from(attribute.size_out).unwrap());
    Ok((attribute.result, left))
}

/// A network interface.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) mac: [u8; 6],
}

/// Looks up an interface (netdevice(7)).
///
/// # Errors
/// `ENODEV` if there is none of this name; another if it is no Ethernet device.
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
    let mut ask = |command| {
        // SAFETY: the descriptor is open; the kernel reads and writes a structure of this type, which
        // outlives the call.
        let status = unsafe { libc::ioctl(socket.as_raw_fd(), command, &raw mut request) };
        if status == 0 {
            Ok(request.ifr_ifru)
        } else {
            Err(io::Error::last_os_error())
        }
    };
    let index = ask(libc::SIOCGIFINDEX)?;
    // SAFETY: the kernel has written this field.
    let index = unsafe { index.ifru_ifindex };
    let address = ask(libc::SIOCGIFHWADDR)?;
    // SAFETY: the kernel has written this field.
    let address = unsafe { address.ifru_hwaddr };
    if ![libc::ARPHRD_ETHER, libc::ARPHRD_LOOPBACK].contains(&address.sa_family) {
        return Err(io::Error::other("it is no Ethernet device"));
    }
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(address.sa_data) {
        *to = from.to_ne_bytes()[0];
    }
    Ok(Interface {
        index: index.unsigned_abs(),
        mac,
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
