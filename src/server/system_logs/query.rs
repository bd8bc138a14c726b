//! The query of node logs: which services or file, and which of their lines. Checked as the peer does, in its words
//! (`pkg/kubelet/kubelet_server_journal.go`).

use std::fmt;

use serde_json::json;

use crate::model::Timestamp;
use crate::server::query::Query;

const MAX_TAIL_LINES: i64 = 100_000;
const MAX_NAME: usize = 256;
const MAX_SERVICES: usize = 4;

/// What is wrong with a query.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub(super) struct Faults(Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => formatter.write_str(one),
            all => write!(formatter, "[{}]", all.join(", ")),
        }
    }
}

impl Faults {
    fn invalid(&mut self, field: &str, value: &serde_json::Value, detail: impl fmt::Display) {
        let fault = format!("{field}: Invalid value: {value}: {detail}");
        if !self.0.contains(&fault) {
            self.0.push(fault);
        }
    }

    fn or<T>(self, value: T) -> Result<T, Faults> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

/// A query that could be decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogQuery {
    services: Vec<String>,
    files: Vec<String>,
    pub lines: LineOptions,
}

/// Which lines are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LineOptions {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    tail: Option<i64>,
    boot: Option<i64>,
    pattern: String,
}

/// What is to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Services(Vec<String>),
    File(String),
}

impl LogQuery {
    /// None if nothing is asked for, so that the path counts.
    pub(super) fn of(query: &Query) -> Result<Option<Self>, Faults> {
        let mut faults = Faults::default();
        let mut decoded = LogQuery::default();
        let asked: Vec<&str> = query.all("query").collect();
        for name in &asked {
            if name.contains(['/', '\\']) {
                decoded.files.push((*name).to_owned());
            } else if !name.trim().is_empty() {
                decoded.services.push((*name).to_owned());
            }
        }
        if !asked.is_empty() && decoded.files.is_empty() && decoded.services.is_empty() {
            faults.invalid("query", &json!(asked), "may not be empty");
        }
        let mut time = |name: &str| {
            let text = query.get(name).filter(|text| !text.is_empty())?;
            let time = text.parse().ok();
            if time.is_none() {
                faults.invalid(name, &json!(text), "invalid time format");
            }
            time
        };
        (decoded.lines.since, decoded.lines.until) = (time("sinceTime"), time("untilTime"));
        let mut number = |name: &str| {
            let text = query.get(name).filter(|text| !text.is_empty())?;
            let number = text.parse().ok();
            if number.is_none() {
                let detail = format!("strconv.Atoi: parsing {text:?}: invalid syntax");
                faults.invalid(name, &json!(text), detail);
            }
            number
        };
        (decoded.lines.boot, decoded.lines.tail) = (number("boot"), number("tailLines"));
        query.get("pattern").unwrap_or_default().clone_into(&mut decoded.lines.pattern);
        faults.or((decoded != LogQuery::default()).then_some(decoded))
    }

    /// What is to be shown, if that is allowed. `has` says why a file cannot be shown.
    pub(super) fn wanted(&self, has: impl Fn(&str) -> Result<(), String>) -> Result<Wanted, Faults> {
        let mut faults = Faults::default();
        for service in &self.services {
            let is_safe = |c: char| c.is_ascii_alphanumeric() || "-_.:@".contains(c);
            if service.len() > MAX_NAME {
                faults.invalid("query", &json!(service), format!("length must be less than {MAX_NAME}"));
            } else if !service.chars().all(is_safe) {
                faults.invalid("query", &json!(service), "input contains unsupported characters");
            }
        }
        if self.services.len() > MAX_SERVICES {
            let count = self.services.len();
            faults.0.push(format!("query: Too many: {count}: must have at most {MAX_SERVICES} items"));
        }
        let mut wanted = Wanted::Services(self.services.clone());
        match (self.files.as_slice(), self.services.as_slice()) {
            ([], []) => faults.0.push("query: Required value: cannot be empty with options".to_owned()),
            ([], _) => {}
            (files, [_, ..]) => {
                let both = format!("[{}], [{}]", files.join(" "), self.services.join(" "));
                faults.invalid("query", &json!(both), "cannot specify a file and service");
            }
            ([file], []) => {
                if !self.lines.is_empty() {
                    faults.invalid("query", &json!(self.files), "cannot specify file with options");
                } else if let Err(problem) = has(file) {
                    faults.invalid("query", &json!(self.files), problem);
                }
                wanted = Wanted::File(file.clone());
            }
            (files, []) => faults.invalid("query", &json!(files), "cannot specify more than one file"),
        }
        let LineOptions { since, until, tail, boot, .. } = &self.lines;
        if let (Some(since), Some(until)) = (since, until)
            && since > until
        {
            faults.invalid("untilTime", &json!(until.to_string()), "must be after `sinceTime`");
        }
        if let Some(boot) = boot.filter(|boot| *boot > 0) {
            faults.invalid("boot", &json!(boot), "must be less than 1");
        }
        if let Some(tail) = tail.filter(|tail| !(0..=MAX_TAIL_LINES).contains(tail)) {
            faults.invalid("tailLines", &json!(tail), format!("must be between 0 and {MAX_TAIL_LINES}, inclusive"));
        }
        faults.or(wanted)
    }
}

impl LineOptions {
    /// Whether all lines are wanted.
    pub(super) fn is_empty(&self) -> bool {
        *self == LineOptions::default()
    }

    /// The arguments of `journalctl` for services.
    pub(super) fn journal(&self, services: &[String]) -> Vec<String> {
        let mut arguments: Vec<String> = ["--utc", "--no-pager", "--output=short-precise"].map(str::to_owned).to_vec();
        let time = |at: &Timestamp| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        arguments.extend(self.since.as_ref().map(|at| format!("--since={}", time(at))));
        arguments.extend(self.until.as_ref().map(|at| format!("--until={}", time(at))));
        if let Some(tail) = self.tail {
            arguments.extend(["--pager-end".to_owned(), format!("--lines={tail}")]);
        }
        arguments.extend(services.iter().map(|service| format!("--unit={service}")));
        if !self.pattern.is_empty() {
            arguments.push(format!("--grep={}", self.pattern));
        }
        if let Some(boot) = self.boot {
            arguments.extend(["--boot".to_owned(), boot.to_string()]);
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn wanted(query: &str) -> Result<Option<Wanted>, String> {
        let has = |file: &str| if file.ends_with("absent") { Err("no such file".to_owned()) } else { Ok(()) };
        let decoded = LogQuery::of(&Query::parse(query)).map_err(|faults| faults.to_string())?;
        decoded.map(|query| query.wanted(has)).transpose().map_err(|faults| faults.to_string())
    }

    #[rstest]
    #[case("", Ok(None))]
    #[case("other=1", Ok(None))]
    #[case("query=kubelet", Ok(Some(Wanted::Services(vec!["kubelet".to_owned()]))))]
    #[case("query=/foo.log", Ok(Some(Wanted::File("/foo.log".to_owned()))))]
    #[case("query=+++", Err("query: Invalid value: [\"   \"]: may not be empty"))]
    #[case("query=a&sinceTime=x", Err("sinceTime: Invalid value: \"x\": invalid time format"))]
    #[case("query=a&boot=x", Err("boot: Invalid value: \"x\": strconv.Atoi: parsing \"x\": invalid syntax"))]
    #[case("query=a&boot=1", Err("boot: Invalid value: 1: must be less than 1"))]
    #[case("tailLines=1", Err("query: Required value: cannot be empty with options"))]
    #[case("query=a&tailLines=-1", Err("tailLines: Invalid value: -1: must be between 0 and 100000, inclusive"))]
    #[case("query=a%3Bb", Err("query: Invalid value: \"a;b\": input contains unsupported characters"))]
    #[case("query=a&query=b&query=c&query=d&query=e", Err("query: Too many: 5: must have at most 4 items"))]
    #[case("query=a&query=/b", Err("query: Invalid value: \"[/b], [a]\": cannot specify a file and service"))]
    #[case("query=/a&query=/b", Err("query: Invalid value: [\"/a\",\"/b\"]: cannot specify more than one file"))]
    #[case("query=/a&tailLines=1", Err("query: Invalid value: [\"/a\"]: cannot specify file with options"))]
    #[case("query=/absent", Err("query: Invalid value: [\"/absent\"]: no such file"))]
    #[case(
        "query=a&sinceTime=2026-01-02T00:00:00Z&untilTime=2026-01-01T00:00:00Z",
        Err("untilTime: Invalid value: \"2026-01-01T00:00:00Z\": must be after `sinceTime`")
    )]
    #[case(
        "query=a&boot=x&tailLines=y",
        Err(
            "[boot: Invalid value: \"x\": strconv.Atoi: parsing \"x\": invalid syntax, tailLines: Invalid value: \"y\": \
             strconv.Atoi: parsing \"y\": invalid syntax]"
        )
    )]
    fn queries(#[case] query: &str, #[case] expected: Result<Option<Wanted>, &str>) {
        assert_eq!(wanted(query), expected.map_err(str::to_owned));
    }

    #[test]
    fn the_journal_is_asked_for_exactly_that() {
        let text = "query=kubelet&sinceTime=2026-01-02T03:04:05%2B01:00&tailLines=7&boot=-1&pattern=a.*b";
        let query = LogQuery::of(&Query::parse(text)).unwrap().unwrap();
        let expected = [
            "--utc",
            "--no-pager",
            "--output=short-precise",
            "--since=2026-01-02 02:04:05 UTC",
            "--pager-end",
            "--lines=7",
            "--unit=kubelet",
            "--grep=a.*b",
            "--boot",
            "-1",
        ];
        assert_eq!(query.lines.journal(&["kubelet".to_owned()]), expected);
        assert!(!query.lines.is_empty());
    }

    proptest! {
        #[test]
        fn a_service_that_is_asked_for_is_a_plain_name(query in "query=[^&]{0,20}", more in ".{0,40}") {
            if let Ok(Some(Wanted::Services(names))) = wanted(&format!("{query}&{more}")) {
                for name in names {
                    prop_assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:@".contains(c)), "{}", name);
                }
            }
        }
    }
}
