//! Changes the environment, which is sound only while there is one thread. (operating system)

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Takes the value of `name` out of the environment: children do not inherit it, and `/proc/PID/environ` shows blanks
/// in its place.
///
/// Must be called before the first thread is started, as everything that changes the environment.
#[must_use]
pub fn take_variable(name: &str) -> Option<OsString> {
    let c_name =
        CString::new(name).ok().filter(|name| !name.is_empty() && !name.as_bytes().contains(&b'='))?;
    // SAFETY: `c_name` is a NUL-terminated string that outlives the call; no other thread changes the environment.
    let value = unsafe { libc::getenv(c_name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: getenv returned the start of a NUL-terminated string inside the environment.
    let length = unsafe { libc::strlen(value) };
    // SAFETY: the `length` bytes from `value` on were just found to be that string, nothing else refers to them, and
    // the block they lie in (the stack the kernel made, or what setenv allocated) is writable.
    let bytes = unsafe { std::slice::from_raw_parts_mut(value.cast::<u8>(), length) };
    let taken = OsString::from_vec(bytes.to_vec());
    bytes.fill(b' ');
    // SAFETY: the process has one thread, which is the caller's duty.
    unsafe { std::env::remove_var(OsStr::from_bytes(c_name.as_bytes())) };
    Some(taken)
}

/// Puts a variable into the environment, for the program that this process is about to become.
///
/// Must be called before the first thread is started, as everything that changes the environment.
pub fn set_variable(name: &str, value: &str) {
    // SAFETY: the process has one thread, which is the caller's duty.
    unsafe { std::env::set_var(name, value) };
}
