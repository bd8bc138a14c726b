//! The FNV-1a hashes that the peer stores in labels, annotations and file names, byte for byte as Go's `hash/fnv` gives
//! them.
//!
//! Own code in place of the `fnv` crate because that has the 64-bit width alone and fixes no output form.

const OFFSET_32: u32 = 0x811c_9dc5;
const PRIME_32: u32 = 0x0100_0193;
const OFFSET_64: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME_64: u64 = 0x0000_0100_0000_01b3;
const OFFSET_128: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME_128: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

/// FNV-1a of 32 bits, Go's `fnv.New32a`: the restart hash of a container.
pub fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(OFFSET_32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(PRIME_32))
}

/// FNV-1a of 64 bits, Go's `fnv.New64a`: checkpoint checksums.
pub fn fnv64a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(OFFSET_64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME_64))
}

/// FNV-1a of 128 bits, Go's `fnv.New128a`.
pub fn fnv128a(bytes: &[u8]) -> u128 {
    bytes.iter().fold(OFFSET_128, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME_128))
}

/// [`fnv32a`] as Go's `hex.EncodeToString(h.Sum(nil))` prints it: 8 lower-case digits, leading zeros kept.
pub fn fnv32a_hex(bytes: &[u8]) -> String {
    format!("{:08x}", fnv32a(bytes))
}

/// [`fnv64a`] as Go's `hex.EncodeToString(h.Sum(nil))` prints it: 16 lower-case digits, leading zeros kept.
pub fn fnv64a_hex(bytes: &[u8]) -> String {
    format!("{:016x}", fnv64a(bytes))
}

/// [`fnv128a`] as Go's `hex.EncodeToString(h.Sum(nil))` prints it: 32 lower-case digits, leading zeros kept.
pub fn fnv128a_hex(bytes: &[u8]) -> String {
    format!("{:032x}", fnv128a(bytes))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    // The golden values of Go's own hash/fnv tests.
    #[rstest]
    #[case("", "811c9dc5", "cbf29ce484222325", "6c62272e07bb014262b821756295c58d")]
    #[case("a", "e40c292c", "af63dc4c8601ec8c", "d228cb696f1a8caf78912b704e4a8964")]
    #[case("ab", "4d2505ca", "089c4407b545986a", "08809544bbab1be95aa0733055b69a62")]
    #[case("abc", "1a47e90b", "e71fa2190541574b", "a68d622cec8b5822836dbc7977af7f3b")]
    fn prints_what_go_prints(#[case] text: &str, #[case] h32: &str, #[case] h64: &str, #[case] h128: &str) {
        assert_eq!(fnv32a_hex(text.as_bytes()), h32);
        assert_eq!(fnv64a_hex(text.as_bytes()), h64);
        assert_eq!(fnv128a_hex(text.as_bytes()), h128);
    }
}
