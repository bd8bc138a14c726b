//! How much is written: klog's numbers by tracing's levels, and by source file.

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};

use crate::config::LoggingConfiguration;

/// What the log is asked for. A level of tracing stands for the first number that shows it.
pub(super) struct Levels {
    own: LevelFilter,
    /// Patterns of file names, each with its level; the first that fits wins.
    files: Vec<(String, LevelFilter)>,
}

/// klog's number of a level: what `-v` must be at least to show it.
pub(super) fn number(level: Level) -> u32 {
    match level {
        Level::TRACE => 6,
        Level::DEBUG => 4,
        _ => 0,
    }
}

fn shown_at(verbosity: u32) -> LevelFilter {
    match verbosity {
        0..=3 => LevelFilter::INFO,
        4..=5 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}

impl Levels {
    pub(super) fn new(logging: &LoggingConfiguration) -> Self {
        let of_file = |item: &crate::config::VModuleItem| (item.file_pattern.clone(), shown_at(item.verbosity));
        Levels { own: shown_at(logging.verbosity), files: logging.vmodule.iter().map(of_file).collect() }
    }

    /// The most that anything is asked for.
    pub(super) fn deepest(&self) -> LevelFilter {
        self.files.iter().map(|(_, level)| *level).fold(self.own, LevelFilter::max)
    }

    /// Whether a line of that place and level is written; of other crates, warnings and errors alone.
    pub(super) fn is_on(&self, metadata: &Metadata<'_>) -> bool {
        let is_own = metadata.target().split("::").next() == Some("ferrolet");
        self.shows(*metadata.level(), is_own, metadata.file().unwrap_or_default())
    }

    fn shows(&self, level: Level, is_own: bool, file: &str) -> bool {
        if !is_own {
            return level <= Level::WARN;
        }
        level <= self.of_file(file)
    }

    fn of_file(&self, file: &str) -> LevelFilter {
        let file = file.strip_suffix(".rs").unwrap_or(file);
        let name = file.rsplit('/').next().unwrap_or(file);
        // A pattern with a slash is about the whole path, as klog has it.
        let fits =
            |pattern: &str| matches(pattern.as_bytes(), if pattern.contains('/') { file } else { name }.as_bytes());
        self.files.iter().find(|(pattern, _)| fits(pattern)).map_or(self.own, |(_, level)| *level)
    }
}

/// Whether a name fits a pattern of `*` (anything) and `?` (one character).
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut star) = ((0, 0), None);
    while at.1 < name.len() {
        match pattern.get(at.0) {
            Some(b'*') => {
                star = Some(at);
                at.0 += 1;
            }
            Some(wanted) if *wanted == b'?' || *wanted == name[at.1] => at = (at.0 + 1, at.1 + 1),
            _ => match star {
                // The last star takes one more.
                Some((pattern_at, name_at)) => {
                    star = Some((pattern_at, name_at + 1));
                    at = (pattern_at + 1, name_at + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at.0..].iter().all(|left| *left == b'*')
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::config::VModuleItem;

    fn levels(verbosity: u32, files: &[(&str, u32)]) -> Levels {
        let item = |(pattern, verbosity): &(&str, u32)| VModuleItem {
            file_pattern: (*pattern).to_owned(),
            verbosity: *verbosity,
        };
        let vmodule = files.iter().map(item).collect();
        Levels::new(&LoggingConfiguration { verbosity, vmodule, ..LoggingConfiguration::default() })
    }

    #[rstest]
    #[case(0, Level::INFO, true)]
    #[case(3, Level::DEBUG, false)]
    #[case(4, Level::DEBUG, true)]
    #[case(5, Level::TRACE, false)]
    #[case(10, Level::TRACE, true)]
    fn numbers(#[case] verbosity: u32, #[case] level: Level, #[case] shown: bool) {
        let levels = levels(verbosity, &[]);
        assert_eq!(levels.shows(level, true, "src/pod/worker.rs"), shown);
        assert!(levels.shows(Level::WARN, false, "x.rs") && !levels.shows(Level::INFO, false, "x.rs"));
        assert_eq!(number(level) <= verbosity, shown);
    }

    #[test]
    fn a_file_has_its_own_level() {
        let levels = levels(0, &[("work*", 6), ("src/pod/plan/*", 4), ("manager", 0)]);
        assert_eq!(levels.deepest(), LevelFilter::TRACE);
        assert!(levels.shows(Level::TRACE, true, "src/pod/worker.rs"));
        assert!(levels.shows(Level::DEBUG, true, "src/pod/plan/running.rs"));
        assert!(!levels.shows(Level::TRACE, true, "src/pod/plan/running.rs"));
        assert!(!levels.shows(Level::DEBUG, true, "src/pod/manager.rs"));
    }

    #[rstest]
    #[case("*", "anything", true)]
    #[case("*", "", true)]
    #[case("a?c*", "abcd", true)]
    #[case("*b*d", "abcbd", true)]
    #[case("a*", "ba", false)]
    #[case("a", "ab", false)]
    #[case("a?", "a", false)]
    fn patterns(#[case] pattern: &str, #[case] name: &str, #[case] fits: bool) {
        assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), fits);
    }
}
