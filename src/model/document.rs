//! The text of a file for people, YAML or JSON, as a value without types.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer};
use serde_json::{Map, Number, Value};

/// Why a text is no document.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum DocumentError {
    /// Nothing in it.
    #[error("the file is empty")]
    Empty,
    /// Neither YAML nor JSON.
    #[error("neither YAML nor JSON: {problem}")]
    Syntax {
        /// What the parser says, in one line.
        problem: String,
    },
}

/// A file's content before it is given types.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its fields, lists and values.
    pub value: Value,
    /// Fields given twice; the last one holds.
    pub repeated: Vec<String>,
}

/// Reads YAML or JSON. Of several YAML documents the first that holds something counts.
///
/// # Errors
/// The text is empty or neither of both.
pub fn parse(text: &str) -> Result<Document, DocumentError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(DocumentError::Empty);
    }
    // JSON allows tabs where YAML does not, and its errors are clearer.
    let json_error = if text.trim_start().starts_with('{') {
        match serde_json::from_str::<Document>(text) {
            Ok(document) => return Ok(document),
            Err(error) => Some(error.to_string()),
        }
    } else {
        None
    };
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
        // File modes are written so, and the peer's parser reads YAML 1.1.
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let documents = serde_saphyr::from_multiple_with_options::<Document>(text, options).map_err(|yaml_error| {
        let problem = json_error.unwrap_or_else(|| yaml_error.to_string());
        DocumentError::Syntax { problem: one_line(&problem) }
    })?;
    documents.into_iter().find(|document| !document.value.is_null()).ok_or(DocumentError::Empty)
}

/// A parser's message may span lines; an error of ours may not.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DocumentVisitor)
    }
}

struct DocumentVisitor;

impl Document {
    fn scalar(value: impl Into<Value>) -> Self {
        Document { value: value.into(), repeated: Vec::new() }
    }
}

impl<'de> de::Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fields, lists, text, numbers, true or false")
    }
    fn visit_unit<E: de::Error>(self) -> Result<Document, E> {
        Ok(Document::scalar(Value::Null))
    }
    fn visit_none<E: de::Error>(self) -> Result<Document, E> {
        Ok(Document::scalar(Value::Null))
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Document, D::Error> {
        Document::deserialize(deserializer)
    }
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Document, E> {
        Ok(Document::scalar(value))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Document, E> {
        Ok(Document::scalar(value))
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Document, E> {
        Ok(Document::scalar(value))
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Document, E> {
        Ok(Document::scalar(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }
    fn visit_str<E: de::Error>(self, value: &str) -> Result<Document, E> {
        Ok(Document::scalar(value))
    }
    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Document, A::Error> {
        let mut values = Vec::new();
        let mut repeated = Vec::new();
        while let Some(item) = items.next_element::<Document>()? {
            let position = values.len();
            repeated.extend(item.repeated.into_iter().map(|field| format!("{position}.{field}")));
            values.push(item.value);
        }
        Ok(Document { value: Value::Array(values), repeated })
    }
    fn visit_map<A: de::MapAccess<'de>>(self, mut entries: A) -> Result<Document, A::Error> {
        let mut fields = Map::new();
        let mut repeated = Vec::new();
        while let Some(name) = entries.next_key::<String>()? {
            let field = entries.next_value::<Document>()?;
            repeated.extend(field.repeated.into_iter().map(|inner| format!("{name}.{inner}")));
            if fields.insert(name.clone(), field.value).is_some() {
                repeated.push(name);
            }
        }
        Ok(Document { value: Value::Object(fields), repeated })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[test]
    fn yaml_and_json_are_the_same() {
        let yaml = parse("a: 1\nb: [x, true, null, 1.5]\nc: {d: 10s}\n").unwrap();
        let json = parse("\u{feff}\t{\"a\": 1,\n\t\"b\": [\"x\", true, null, 1.5], \"c\": {\"d\": \"10s\"}}").unwrap();
        assert_eq!(yaml.value, json.value);
        // YAML in braces that is no JSON.
        assert_eq!(parse("{a: 1}").unwrap().value, serde_json::json!({"a": 1}));
        // Booleans of YAML 1.1, which the peer's parser knows.
        assert_eq!(parse("a: 0644\nb: 0\nc: 10\n").unwrap().value, serde_json::json!({"a": 420, "b": 0, "c": 10}));
        assert_eq!(parse("a: yes\nb: off\n").unwrap().value, serde_json::json!({"a": true, "b": false}));
    }

    #[test]
    fn of_several_documents_the_first_that_holds_something_counts() {
        assert_eq!(parse("# note\n---\na: 1\n---\na: 2\n").unwrap().value, serde_json::json!({"a": 1}));
        assert_eq!(parse("---\na: 1\n").unwrap().value, serde_json::json!({"a": 1}));
    }

    #[rstest]
    #[case("")]
    #[case(" \n")]
    #[case("# only a comment\n")]
    #[case("---\n")]
    fn nothing_is_a_fault(#[case] text: &str) {
        assert!(matches!(parse(text), Err(DocumentError::Empty)), "{text:?}");
    }

    #[rstest]
    #[case("{\"a\": [}")]
    #[case("a: [1,\n")]
    #[case("a: b: c\n")]
    fn bad_syntax_is_told_in_one_line(#[case] text: &str) {
        let error = parse(text).unwrap_err();
        assert!(matches!(error, DocumentError::Syntax { .. }), "{error}");
        assert!(!error.to_string().contains('\n'));
    }

    #[test]
    fn repeated_fields_are_found_and_the_last_holds() {
        for text in [
            "a: 1\na: 2\nb: {c: 1, c: 3}\nd: [{e: 1, e: 2}]\n",
            r#"{"a": 1, "a": 2, "b": {"c": 1, "c": 3}, "d": [{"e": 1, "e": 2}]}"#,
        ] {
            let document = parse(text).unwrap();
            assert_eq!(document.repeated, ["a", "b.c", "d.0.e"]);
            assert_eq!(document.value, serde_json::json!({"a": 2, "b": {"c": 3}, "d": [{"e": 2}]}));
        }
    }

    #[test]
    fn what_expands_beyond_measure_or_is_too_deep_is_refused() {
        let mut laughs = "a0: &a0 ha\n".to_owned();
        for level in 1..30 {
            let below = vec![format!("*a{}", level - 1); 10].join(", ");
            laughs += &format!("a{level}: &a{level} [{below}]\n");
        }
        for text in [laughs, "[".repeat(100_000), format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))] {
            assert!(matches!(parse(&text), Err(DocumentError::Syntax { .. })));
        }
        let json = format!("{{\"a\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(parse(&json), Err(DocumentError::Syntax { .. })));
    }

    proptest! {
        #[test]
        fn any_text_is_borne(text in "[-a-c0-9:&*!|>{}\\[\\]\"'#,%@? \t\n\u{85}é]{0,120}") {
            if let Ok(document) = parse(&text) {
                prop_assert!(!document.value.is_null());
            }
        }
    }
}
