//! The memory allocator.

#![allow(unsafe_code, reason = "the C library's allocator is set up by a call of its own")]

/// Keeps the allocator from holding a pool of memory for every thread: an agent that mostly waits gains nothing by them, and
/// they are half of its size. To be called before threads are started.
pub fn use_few_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets parameters of the allocator; both names and values are ones it documents.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 256 * 1024);
    }
}

/// Gives memory back to the system that is not in use: what a burst of pods or a scrape needed for a moment would stay with
/// the process else, wherever something small is still in use behind it. Takes a millisecond or so.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim touches free memory of the allocator alone, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
