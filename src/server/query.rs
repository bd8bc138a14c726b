//! The query of a request.

/// Names and values in their order, decoded as a form. What cannot be decoded as text is replaced, never refused.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Of a request's address.
    pub(super) fn of(uri: &axum::http::Uri) -> Self {
        Query::parse(uri.query().unwrap_or_default())
    }

    pub(super) fn parse(text: &str) -> Self {
        Query(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The first value of that name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of that name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether the first value of that name is `1`.
    pub(super) fn is_one(&self, name: &str) -> bool {
        self.get(name) == Some("1")
    }
}

/// A plain number up to `largest`, read and refused as Go's `strconv.ParseUint` does.
pub(super) fn unsigned(value: &str, largest: u32) -> Result<u32, String> {
    let problem = |what: &str| format!("strconv.ParseUint: parsing {value:?}: {what}");
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(problem("invalid syntax"));
    }
    let number = value.parse().ok().filter(|number| *number <= largest);
    number.ok_or_else(|| problem("value out of range"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(pairs in prop::collection::vec((any::<String>(), any::<String>()), 0..5)) {
            let mut encoder = form_urlencoded::Serializer::new(String::new());
            encoder.extend_pairs(&pairs);
            prop_assert_eq!(Query::parse(&encoder.finish()), Query(pairs));
        }

        #[test]
        fn any_query_is_taken_and_nothing_is_made_of_it(text in "[%&=+;a-f0-9é]{0,60}") {
            let Query(pairs) = Query::parse(&text);
            prop_assert!(pairs.len() <= text.split('&').count());
        }
    }

    #[test]
    fn values_are_decoded_in_their_order() {
        let query = Query::parse("command=sh&command=-c&command=echo+%22a%26b%22&tty=1&tty=0&empty=&bare&%ff=%zz");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "echo \"a&b\""]);
        assert!(query.is_one("tty") && !query.is_one("empty") && !query.is_one("absent"));
        assert_eq!((query.get("empty"), query.get("bare"), query.get("absent")), (Some(""), Some(""), None));
        assert_eq!(query.get("\u{fffd}"), Some("%zz"));
    }
}
