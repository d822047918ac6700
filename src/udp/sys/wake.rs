//! Waking a thread that blocks in a receive call, by a signal. shutdown(2) is no alternative: it
//! ends receives on every copy of the socket, in other processes too, for good.
#![expect(unsafe_code, reason = "signal handlers and masks take raw structures")]

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::thread::JoinHandle;

/// By default, a process ignores this signal (signal(7)).
const WAKE: libc::c_int = libc::SIGURG;

extern "C" fn ignore(_: libc::c_int) {}

/// Prepares this thread, and threads that it starts later, for [`wake`].
///
/// # Errors
/// The errors of sigaction(2) and `pthread_sigmask(3)`.
pub fn prepare_wake() -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a sigaction of zeros is valid.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = ignore as *const () as libc::sighandler_t;
    // Without SA_RESTART, an interrupted call returns EINTR.
    action.sa_flags = 0;
    // SAFETY: the handler does nothing, and both structures outlive the call.
    if unsafe { libc::sigaction(WAKE, action, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut signals = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is as large as the function expects.
    unsafe { libc::sigemptyset(signals.as_mut_ptr()) };
    // SAFETY: as above, and sigemptyset initialized the set.
    unsafe { libc::sigaddset(signals.as_mut_ptr(), WAKE) };
    // The parent process may have blocked it.
    // SAFETY: the set outlives the call.
    let error =
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, signals.as_ptr(), ptr::null_mut()) };
    match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Interrupts the system call in which a thread blocks. The signal has no effect if it arrives just
/// before the call: repeat until the thread has reacted.
pub fn wake<T>(thread: &JoinHandle<T>) {
    // The result is ignored: a thread that has ended need not be woken.
    // SAFETY: the handle is valid, because the thread was neither joined nor detached.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), WAKE) };
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn wake_ends_a_receive_without_a_timeout() {
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
