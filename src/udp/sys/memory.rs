//! Memory shared with the kernel.
#![expect(unsafe_code, reason = "memory reached through pointers alone")]

use std::ptr::{self, NonNull};

/// Values that the kernel writes through pointers in other arrays. They are therefore accessed
/// through pointers only.
#[derive(Debug)]
pub(in crate::udp) struct Array<T: Copy> {
    first: NonNull<T>,
    length: usize,
}

impl<T: Copy> Array<T> {
    pub(in crate::udp) fn new(value: T, length: usize) -> Self {
        let memory = Box::leak(vec![value; length].into_boxed_slice());
        Self {
            first: NonNull::from(memory).cast(),
            length,
        }
    }

    pub(in crate::udp) fn at(&self, index: usize) -> *mut T {
        assert!(index < self.length, "index {index} of {}", self.length);
        // SAFETY: within the allocation, as just checked.
        unsafe { self.first.as_ptr().add(index) }
    }

    pub(in crate::udp) fn get(&self, index: usize) -> T {
        // SAFETY: `at` gives a pointer to one of the values, all of which are initialised, and
        // the kernel writes to them only during a call.
        unsafe { self.at(index).read() }
    }

    pub(in crate::udp) fn set(&self, index: usize, value: T) {
        // SAFETY: as in `get`. No slice of the array exists: only the payload is sliced, and only
        // the kernel writes to the payload.
        unsafe { self.at(index).write(value) }
    }

    pub(in crate::udp) fn slice(&self, start: usize, length: usize) -> &[T] {
        assert!(start <= self.length && length <= self.length - start);
        // SAFETY: within the allocation, as just checked.
        let first = unsafe { self.first.as_ptr().add(start) };
        // SAFETY: all values are initialised. While the slice borrows `self`, nothing writes to
        // them: the kernel does so only in calls that borrow the whole batch mutably.
        unsafe { std::slice::from_raw_parts(first, length) }
    }

    pub(in crate::udp) fn slice_mut(&mut self, start: usize, length: usize) -> &mut [T] {
        assert!(start <= self.length && length <= self.length - start);
        // SAFETY: within the allocation, as just checked.
        let first = unsafe { self.first.as_ptr().add(start) };
        // SAFETY: all values are initialised. While the slice borrows `self` mutably, nothing else
        // accesses them: the kernel does so only in calls that borrow the whole batch mutably.
        unsafe { std::slice::from_raw_parts_mut(first, length) }
    }
}

impl<T: Copy> Drop for Array<T> {
    fn drop(&mut self) {
        let memory = ptr::slice_from_raw_parts_mut(self.first.as_ptr(), self.length);
        // SAFETY: `new` leaked a box of this length, and nothing else frees it.
        drop(unsafe { Box::from_raw(memory) });
    }
}
