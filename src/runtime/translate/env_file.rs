//! Environment files (`fileKeyRef`, KEP 3721): `NAME='value'` lines, a strict subset of the shell's syntax.

/// Why a text is no environment file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid environment variable format at line {line}: {rule}")]
pub struct EnvFileError {
    /// The line, counted from 1.
    pub line: usize,
    /// The rule that it breaks.
    pub rule: &'static str,
}

/// The value of `key` in the text of an environment file; empty if the file does not set it, as in the peer.
///
/// A value stands in single quotes, in which every character is itself and lines may end. `NAME= 'value'` sets the empty
/// text, as a shell would. What follows the key's line is not looked at.
///
/// # Errors
/// When a line before the key's, or its own, breaks the format.
pub fn value_in_file(text: &str, key: &str) -> Result<String, EnvFileError> {
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let fail = |rule| EnvFileError { line: index + 1, rule };
        let line = line.trim_start_matches(BLANKS);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').ok_or(fail("missing '='"))?;
        if name.trim_end_matches(BLANKS).is_empty() {
            return Err(fail("empty variable name"));
        }
        if name.ends_with(BLANKS) {
            return Err(fail("whitespace before '=' is not allowed"));
        }
        if value.starts_with(BLANKS) {
            if name == key {
                return Ok(String::new());
            }
            continue;
        }
        let mut rest = value.strip_prefix('\'').ok_or(fail("value must be enclosed in single quotes"))?;
        let mut value = String::new();
        let (end, after) = loop {
            if let Some((end, after)) = rest.split_once('\'') {
                break (end, after.trim_start_matches(BLANKS));
            }
            value.push_str(rest);
            value.push('\n');
            rest = lines.next().ok_or(fail("unclosed single quote"))?.1;
        };
        if !(after.is_empty() || after.starts_with('#')) {
            return Err(fail("unexpected content after closing quote"));
        }
        if name == key {
            value.push_str(end);
            return Ok(value);
        }
    }
    Ok(String::new())
}

const BLANKS: [char; 2] = [' ', '\t'];

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("A='1'\nB='2'\n", "B", "2")]
    #[case("  A='1'\n\t\tB='2'", "B", "2")]
    #[case("# note\n\n   # another\n \t\nB='2'", "B", "2")]
    #[case("A='1'", "B", "")]
    #[case("A='a#b=c \"d\" $(E) \\n'", "A", "a#b=c \"d\" $(E) \\n")]
    #[case("A='  x  '", "A", "  x  ")]
    #[case("A=''", "A", "")]
    #[case("A= 'x'\nB='2'", "A", "")]
    #[case("A= 'x'\nB='2'", "B", "2")]
    #[case("A='one\n  two\n\n# three'\nB='2'", "A", "one\n  two\n\n# three")]
    #[case("A='one\ntwo'\nB='2'", "B", "2")]
    #[case("A='1' # note", "A", "1")]
    #[case("A='1'#note", "A", "1")]
    #[case("A='1'\r\nB='2'\r\n", "B", "2")]
    #[case("A='1'\nnonsense", "A", "1")]
    #[case("A='1'\nA='2'", "A", "1")]
    #[case("", "A", "")]
    fn values(#[case] text: &str, #[case] key: &str, #[case] expected: &str) {
        assert_eq!(value_in_file(text, key), Ok(expected.to_owned()));
    }

    #[rstest]
    #[case("A", 1, "missing '='")]
    #[case("\n='x'", 2, "empty variable name")]
    #[case(" \t='x'", 1, "empty variable name")]
    #[case("B='1'\nA ='x'", 2, "whitespace before '=' is not allowed")]
    #[case("A=x", 1, "value must be enclosed in single quotes")]
    #[case("A=", 1, "value must be enclosed in single quotes")]
    #[case("A=\"x\"", 1, "value must be enclosed in single quotes")]
    #[case("A='x' y", 1, "unexpected content after closing quote")]
    #[case("B='1'\nA='x\ny", 2, "unclosed single quote")]
    fn faults(#[case] text: &str, #[case] line: usize, #[case] rule: &'static str) {
        assert_eq!(value_in_file(text, "KEY"), Err(EnvFileError { line, rule }));
    }
}
