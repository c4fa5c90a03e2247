//! Memory for secrets: never swapped out where the limit allows, in no core file, empty in a forked process, wiped when
//! given back. (operating system)
//!
//! # Theory of operation
//! Pages are mapped apart from the heap, in chunks, and cut into slots of one size per chunk. A slot holds one value
//! and goes to the free list of its size, wiped, when the value is dropped; chunks are never unmapped, so there are as
//! many as there once were secrets at a time. `MAP_LOCKED` asks for the lock within the one call that maps: a tunnel
//! that has locked itself down may still map memory, and no more.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::os_error::OsError;

/// A value in such memory; what is moved about is its address.
pub struct SecretBox<T> {
    /// Invariant: a slot of class `class_of::<T>()`, initialised, and nobody else's until this is dropped.
    slot: NonNull<T>,
    owns: PhantomData<T>,
}

// SAFETY: the slot belongs to this box alone, as that of a `Box` does; what may be sent is decided by the value.
unsafe impl<T: Send> Send for SecretBox<T> {}
// SAFETY: as a `Box`: shared access to the box is shared access to the value.
unsafe impl<T: Sync> Sync for SecretBox<T> {}

impl<T> SecretBox<T> {
    /// Moves a value in. Where it came from may keep a copy: make it empty and fill it in place if it matters.
    #[must_use]
    pub fn new(value: T) -> Self {
        const { assert!(class_of::<T>() < CLASSES && align_of::<T>() <= GRAIN) };
        let slot = take_slot(class_of::<T>()).cast::<T>();
        // SAFETY: the slot is as large as its class says, which is at least the size of `T`; slots are aligned to
        // `GRAIN`, which is at least the alignment of `T`; and nobody else has it.
        unsafe { slot.write(value) };
        Self { slot, owns: PhantomData }
    }
}

impl<T> Deref for SecretBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the slot is initialised and ours (invariant); it is borrowed as long as the box is.
        unsafe { self.slot.as_ref() }
    }
}

impl<T> DerefMut for SecretBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the box is borrowed exclusively.
        unsafe { self.slot.as_mut() }
    }
}

impl<T: Clone> Clone for SecretBox<T> {
    fn clone(&self) -> Self {
        Self::new((**self).clone())
    }
}

impl<T> Drop for SecretBox<T> {
    fn drop(&mut self) {
        // SAFETY: the value is initialised (invariant) and not looked at again.
        unsafe { self.slot.drop_in_place() };
        give_back(self.slot.cast(), class_of::<T>());
    }
}

impl<T> std::fmt::Debug for SecretBox<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretBox(redacted)")
    }
}

/// Why secrets of this process may be swapped out; `None` while all of them are locked into memory.
#[must_use]
pub fn lock_failure() -> Option<OsError> {
    let errno = LOCK_FAILURE.load(Ordering::Relaxed);
    (errno != 0).then(|| OsError::from_raw(errno))
}

/// Slots are multiples of this: a key of 32 bytes is the smallest secret there is.
const GRAIN: usize = 32;

/// Sizes of slots: up to 1 KiB; an expanded key of the data path has half of that.
const CLASSES: usize = 32;

/// Mapped at once: whole pages, few calls for thousands of keys, and several chunks within the 64 KiB that older systems
/// let a process lock.
const CHUNK: usize = 16 << 10;

static FREE: Mutex<[Vec<Slot>; CLASSES]> = Mutex::new([const { Vec::new() }; CLASSES]);
static LOCK_FAILURE: AtomicI32 = AtomicI32::new(0);

/// The address of a slot that nobody uses.
struct Slot(NonNull<u8>);

// SAFETY: an address; the memory behind it is used by whoever took it from the list, which is one thread.
unsafe impl Send for Slot {}

const fn class_of<T>() -> usize {
    size_of::<T>().saturating_sub(1) / GRAIN
}

const fn slot_size(class: usize) -> usize {
    (class + 1) * GRAIN
}

fn take_slot(class: usize) -> NonNull<u8> {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    if free[class].is_empty() {
        let chunk = map_chunk();
        let size = slot_size(class);
        free[class].extend((0..CHUNK / size).map(|index| {
            // SAFETY: the slot ends within `CHUNK`, the size of the mapping.
            Slot(unsafe { chunk.add(index * size) })
        }));
    }
    free[class].pop().expect("a chunk has slots, and they were just put there").0
}

fn give_back(slot: NonNull<u8>, class: usize) {
    for offset in 0..slot_size(class) {
        // SAFETY: the offset is within the slot, which has the size of its class.
        let byte = unsafe { slot.add(offset) };
        // SAFETY: the byte is within our own mapping, and whoever had the slot gives it back. Volatile: nobody reads it
        // again, and the store must happen all the same.
        unsafe { byte.write_volatile(0) };
    }
    FREE.lock().unwrap_or_else(PoisonError::into_inner)[class].push(Slot(slot));
}

/// A new chunk, protected as far as the system allows.
fn map_chunk() -> NonNull<u8> {
    let chunk = match map(libc::MAP_LOCKED) {
        Ok(chunk) => chunk,
        Err(error) => {
            LOCK_FAILURE.store(error.errno(), Ordering::Relaxed);
            let Ok(chunk) = map(0) else {
                let layout = std::alloc::Layout::from_size_align(CHUNK, GRAIN);
                std::alloc::handle_alloc_error(layout.expect("both are powers of two"))
            };
            chunk
        }
    };
    for advice in [libc::MADV_DONTDUMP, libc::MADV_WIPEONFORK] {
        // SAFETY: the range is the mapping just made, and neither advice changes what this process reads there.
        // Kernels before 4.14 do not know the second: then a forked process has the bytes until it executes.
        let _best_effort = unsafe { libc::madvise(chunk.as_ptr().cast(), CHUNK, advice) };
    }
    chunk
}

fn map(flags: libc::c_int) -> Result<NonNull<u8>, OsError> {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
    let address =
        unsafe { libc::mmap(std::ptr::null_mut(), CHUNK, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(OsError::last());
    }
    Ok(NonNull::new(address.cast()).expect("the kernel maps nothing at address 0 unasked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flags of the mapping that an address is in.
    fn flags_at(address: usize) -> Vec<String> {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in smaps.lines() {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            if let Some((Ok(from), Ok(to))) =
                range.map(|(from, to)| (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16)))
            {
                inside = (from..to).contains(&address);
            }
            if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| inside) {
                return flags.split_whitespace().map(str::to_owned).collect();
            }
        }
        panic!("no mapping at {address:x}");
    }

    #[test]
    fn secrets_are_locked_left_out_of_dumps_and_wiped_in_a_fork() {
        let secret = SecretBox::new([7_u8; 32]);
        let flags = flags_at(secret.as_ptr().addr());
        let has = |flag: &str| flags.iter().any(|one| one == flag);
        assert!(has("dd") && has("wf"), "{flags:?}");
        assert!(has("lo") || lock_failure().is_some(), "{flags:?}");
    }

    #[test]
    fn a_slot_is_wiped_when_its_value_is_dropped_and_then_used_again() {
        // A size that no other test uses, so that the free list is ours.
        let secret = SecretBox::new([0xa5_u8; 900]);
        let address = secret.slot;
        drop(secret);
        let free = FREE.lock().unwrap();
        let class = class_of::<[u8; 900]>();
        assert_eq!(free[class].last().unwrap().0, address.cast());
        // SAFETY: chunks are never unmapped, and the list, which is locked, says that nobody uses the slot.
        assert_eq!(unsafe { address.read() }, [0; 900]);
        drop(free);
        assert_eq!(SecretBox::new([1_u8; 900]).slot, address);
    }

    #[test]
    fn ten_thousand_secrets_keep_their_values() {
        let secrets: Vec<_> = (0..10_000_u32).map(SecretBox::new).collect();
        let copies = secrets.clone();
        drop(secrets);
        assert!(copies.iter().zip(0..).all(|(secret, index)| **secret == index));
    }

    #[test]
    fn the_value_is_dropped_once() {
        let shared = std::sync::Arc::new(());
        drop(SecretBox::new(std::sync::Arc::clone(&shared)));
        assert_eq!(std::sync::Arc::strong_count(&shared), 1);
    }
}
