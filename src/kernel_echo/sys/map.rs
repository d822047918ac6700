//! Maps of the kernel.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::{
    Element, MAP_CREATE, MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, MapCreate, MapInfo, MapKind, Plain,
    READ_ONLY, address, call, get, info, name, number, open, size_in_bytes,
};

/// A map of values of one kind, with keys from 0.
#[derive(Debug)]
pub(in crate::kernel_echo) struct Map<T> {
    descriptor: OwnedFd,
    copies: usize,
    _values: PhantomData<T>,
}

impl<T: Plain> Map<T> {
    /// Creates a map.
    ///
    /// # Errors
    /// `EPERM` without the capability `CAP_BPF`.
    pub(in crate::kernel_echo) fn create(
        kind: MapKind,
        title: &str,
        entries: u32,
    ) -> io::Result<Self> {
        let mut attribute = MapCreate {
            kind: kind as u32,
            key_size: 4,
            value_size: size_in_bytes::<T>(),
            entries,
            name: name(title),
            ..MapCreate::default()
        };
        // SAFETY: there are no pointers in it.
        let descriptor = unsafe { open(MAP_CREATE, &mut attribute) }?;
        Self::with(descriptor, kind)
    }

    /// Opens a pinned map.
    ///
    /// # Errors
    /// `ENOENT` if there is none, `EACCES` without permission, `InvalidData` if it is of another
    /// kind.
    pub(in crate::kernel_echo) fn open(
        path: &Path,
        kind: MapKind,
        may_write: bool,
    ) -> io::Result<Self> {
        let descriptor = get(path, if may_write { 0 } else { READ_ONLY })?;
        let found: MapInfo = info(&descriptor)?;
        let size = size_in_bytes::<T>();
        if (found.kind, found.key_size, found.value_size) != (kind as u32, 4, size) {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        Self::with(descriptor, kind)
    }

    fn with(descriptor: OwnedFd, kind: MapKind) -> io::Result<Self> {
        // The kernel pads each value of a per-CPU map to 8 bytes.
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let copies = match kind {
            MapKind::Array => 1,
            MapKind::PerCpuArray => possible_cpus()?,
        };
        Ok(Self {
            descriptor,
            copies,
            _values: PhantomData,
        })
    }

    /// The values of a key: one, or one for each possible CPU.
    pub(in crate::kernel_echo) fn read(&self, key: u32) -> io::Result<Vec<T>> {
        let mut values = vec![T::default(); self.copies];
        let mut attribute = Element {
            map: number(&self.descriptor),
            key: address(&raw const key),
            value: address(values.as_mut_ptr()),
            ..Element::default()
        };
        // SAFETY: the kernel reads a key of 4 bytes and writes the values: the map has values of this
        // size and plain type, one for each copy.
        unsafe { call(MAP_LOOKUP_ELEM, &mut attribute) }?;
        Ok(values)
    }

    /// Replaces all values of a key.
    pub(in crate::kernel_echo) fn write(&self, key: u32, value: T) -> io::Result<()> {
        let values = vec![value; self.copies];
        let mut attribute = Element {
            map: number(&self.descriptor),
            key: address(&raw const key),
            value: address(values.as_ptr()),
            ..Element::default()
        };
        // SAFETY: the kernel reads a key of 4 bytes and the values, as above.
        unsafe { call(MAP_UPDATE_ELEM, &mut attribute) }.map(drop)
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
