//! The release of Kubernetes whose kubelet's behaviour this agent has, in the forms in which it is told.

/// Its first two parts, for `concat!`.
macro_rules! minor_release {
    () => {
        "1.37"
    };
}
pub(crate) use minor_release;

/// The first part.
pub const MAJOR: &str = "1";
/// The second part.
pub const MINOR: &str = "37";
/// All three parts.
pub const NUMBER: &str = concat!(minor_release!(), ".2");
/// All three parts, as versions are told.
pub const VERSION: &str = concat!("v", minor_release!(), ".2");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_are_of_one_release() {
        assert_eq!(minor_release!(), format!("{MAJOR}.{MINOR}"));
        assert_eq!(VERSION, format!("v{NUMBER}"));
    }
}
