//! The main thread's stack, which the kernel lengthens as it is used. (operating system)

use std::mem::size_of;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::os_error::OsError;

/// More than any of our processes uses: 160 KiB were seen of the release build, 270 of the debug build.
const ROOM: usize = 512 * 1024;

/// Lengthens the calling process's main stack to what it will need, while there is address space to be had. It takes no
/// memory before it is used.
///
/// Under a bound on the address space (`ulimit -v`, a batch system's) it could not be lengthened later, when everything
/// else has taken its share, and a process cannot say anything about that: it ends by SIGSEGV in the middle of its work.
/// Every other thread gets its whole stack at its start, or an error.
///
/// To be called by the main thread, before it starts others.
///
/// # Errors
/// There is no room for it.
pub fn lengthen_main_stack() -> Result<(), OsError> {
    // A short stack cannot be made longer; where the limit is not known, no more is touched than is needed.
    if getrlimit(Resource::RLIMIT_STACK).map_or(true, |(limit, _hard)| limit < 2 * ROOM as u64) {
        return Ok(());
    }
    if getrlimit(Resource::RLIMIT_AS).is_ok_and(|(limit, _hard)| limit != RLIM_INFINITY) {
        ask_for_room()?;
    }
    let here = 0_usize;
    let far = std::ptr::from_ref(&here).expose_provenance() - ROOM;
    // SAFETY: the page is far above the end of the stack's limit, which was looked at, and nothing of Rust's lies there:
    // the kernel either maps the page of zeros there, or has mapped it before. Nothing is written. The address is a
    // multiple of the word's size, because ROOM and that of `here` are.
    let _zero = unsafe { std::ptr::with_exposed_provenance::<usize>(far).read_volatile() };
    Ok(())
}

/// Whether the stack can be made longer, in the way in which the kernel can say no.
fn ask_for_room() -> Result<(), OsError> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping where the kernel likes, which nobody uses.
    let room = unsafe { libc::mmap(std::ptr::null_mut(), ROOM, libc::PROT_NONE, flags, -1, 0) };
    if room == libc::MAP_FAILED {
        return Err(OsError::last());
    }
    // SAFETY: the mapping of above, whole.
    unsafe { libc::munmap(room, ROOM) };
    Ok(())
}

const _: () = assert!(ROOM.is_multiple_of(size_of::<usize>()));
