//! The machine's time zone.

#![allow(unsafe_code, reason = "the C library alone knows the machine's time zone")]

/// How far the local clock is ahead of UTC at a moment (seconds since the epoch), seconds; 0 if the machine does not tell.
pub fn utc_offset(at: i64) -> i32 {
    let at: libc::time_t = at;
    let mut local = std::mem::MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both pointers are to live values of the right types; the result is read only if the call filled it.
    let offset = unsafe {
        if libc::localtime_r(&raw const at, local.as_mut_ptr()).is_null() { 0 } else { local.assume_init().tm_gmtoff }
    };
    i32::try_from(offset).unwrap_or(0)
}
