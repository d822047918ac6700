//! A signal that ends a receive of a thread that waits, for nothing else does: a shutdown would
//! end those of every copy of the socket for good.
#![expect(unsafe_code, reason = "signal handlers and masks take raw structures")]

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::thread::JoinHandle;

/// The process ignores it unless it asks for it (signal(7)).
const WAKE: libc::c_int = libc::SIGURG;

extern "C" fn ignore(_: libc::c_int) {}

/// Has [`wake`] end the system calls of threads that are started from this one.
///
/// # Errors
/// What sigaction(2) and `pthread_sigmask(3)` give.
pub fn prepare_wake() -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeros are a valid one, and the pointer is to it.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = ignore as *const () as libc::sighandler_t;
    // Without SA_RESTART a call that the handler interrupts ends with EINTR.
    action.sa_flags = 0;
    // SAFETY: the handler does nothing, and both structures outlive the call.
    if unsafe { libc::sigaction(WAKE, action, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut signals = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is as large as the function expects.
    unsafe { libc::sigemptyset(signals.as_mut_ptr()) };
    // SAFETY: as above, and it was made empty before.
    unsafe { libc::sigaddset(signals.as_mut_ptr(), WAKE) };
    // What started this process may have blocked it.
    // SAFETY: the set outlives the call.
    let error =
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, signals.as_ptr(), ptr::null_mut()) };
    match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Ends the system call that a thread waits in. One that it is about to begin goes on: call it
/// again until the thread has done what it was woken for.
pub fn wake<T>(thread: &JoinHandle<T>) {
    // SAFETY: a thread that was neither joined nor detached has a valid handle, even when it has
    // ended. That it cannot be woken then does not matter.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), WAKE) };
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn wake_ends_a_receive_that_waits_for_ever() {
        prepare_wake().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let waiting = thread::spawn(move || socket.recv(&mut [0]).map_err(|error| error.kind()));
        while !waiting.is_finished() {
            wake(&waiting);
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(waiting.join().unwrap(), Err(io::ErrorKind::Interrupted));
    }
}
