//! Lists of processors as Linux and the configuration write them: `0-3,8`.

use std::collections::BTreeSet;

/// Processors have lower numbers than this on every machine that Linux runs on.
const MOST: u32 = 1 << 16;

/// The processors of a list: numbers and ranges of them, with commas between. None if it is no such list.
pub fn parse(text: &str) -> Option<BTreeSet<u32>> {
    let mut cpus = BTreeSet::new();
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0", Some(vec![0]))]
    #[case("0-2,5", Some(vec![0, 1, 2, 5]))]
    #[case("5,0-1,1", Some(vec![0, 1, 5]))]
    #[case("65535", Some(vec![65535]))]
    #[case("", None)]
    #[case("2-1", None)]
    #[case("0-", None)]
    #[case("0,,1", None)]
    #[case("0-65536", None)]
    #[case("0-4294967295", None)]
    #[case("1-2-3", None)]
    #[case("a", None)]
    fn lists(#[case] text: &str, #[case] cpus: Option<Vec<u32>>) {
        assert_eq!(parse(text), cpus.map(BTreeSet::from_iter));
    }
}
