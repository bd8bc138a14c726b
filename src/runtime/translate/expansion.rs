//! `$(VAR)` references in commands, arguments, environment values and sub-paths.
//!
//! The grammar is the API's (`Container.command`): `$(NAME)` is replaced, `$$` is a plain `$` and hides what follows it
//! from replacement, every other `$` stands for itself. A reference to an unknown variable stays as it is written.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::VolumeMount;

use super::environment::Environment;
use super::error::TranslateError;

/// Replaces the references in `text`. Values are bytes since those of a Secret need not be text.
pub fn expand_bytes<'v>(text: &str, mut value_of: impl FnMut(&str) -> Option<&'v [u8]>) -> Vec<u8> {
    let mut expanded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        expanded.extend_from_slice(before.as_bytes());
        let reference = after.strip_prefix('(').and_then(|name| name.split_once(')'));
        rest = if let Some((name, remainder)) = reference {
            match value_of(name) {
                Some(value) => expanded.extend_from_slice(value),
                None => expanded.extend_from_slice(format!("$({name})").as_bytes()),
            }
            remainder
        } else {
            expanded.push(b'$');
            after.strip_prefix('$').unwrap_or(after)
        };
    }
    expanded.extend_from_slice(rest.as_bytes());
    expanded
}

/// [`expand_bytes`] where only text will do: none if a value in it is not UTF-8.
pub fn expand(text: &str, environment: &Environment) -> Option<String> {
    String::from_utf8(expand_bytes(text, |name| environment.get(name))).ok()
}

/// The sub-path of a mount, its `subPathExpr` expanded; none for the volume's root.
///
/// # Errors
/// When a variable in it is unset or empty, or its value is not text.
pub fn expand_sub_path(
    container: &str,
    mount: &VolumeMount,
    environment: &Environment,
) -> Result<Option<String>, TranslateError> {
    let expression = mount.sub_path_expr.as_deref().unwrap_or_default();
    if expression.is_empty() {
        return Ok(mount.sub_path.clone().filter(|path| !path.is_empty()));
    }
    let mut missing = BTreeSet::new();
    let expanded = expand_bytes(expression, |name| {
        let value = environment.get(name).filter(|value| !value.is_empty());
        if value.is_none() {
            missing.insert(name.to_owned());
        }
        value
    });
    if !missing.is_empty() {
        let names = missing.into_iter().collect::<Vec<_>>().join(", ");
        return Err(TranslateError::SubPathVariableMissing { names });
    }
    let path = String::from_utf8(expanded)
        .map_err(|_| TranslateError::NotText { place: "subPathExpr", container: container.to_owned() })?;
    Ok(Some(path).filter(|path| !path.is_empty()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn environment() -> Environment {
        let mut environment = Environment::default();
        for (name, value) in [("A", "1"), ("B", "$(A)"), ("EMPTY", ""), ("é", "e"), ("", "nameless")] {
            environment.set(name, value.as_bytes().to_vec());
        }
        environment.set("RAW", vec![0xff]);
        environment
    }

    // The cases of the peer's expansion tests, in other words.
    #[rstest]
    #[case("plain", "plain")]
    #[case("", "")]
    #[case("$(A)", "1")]
    #[case("x$(A)y$(A)z", "x1y1z")]
    #[case("$(B)", "$(A)")]
    #[case("$(EMPTY)", "")]
    #[case("$(MISSING)-$(A)", "$(MISSING)-1")]
    #[case("$$", "$")]
    #[case("$$(A)", "$(A)")]
    #[case("$$$(A)", "$1")]
    #[case("$$$$(A)", "$$(A)")]
    #[case("$$$$$(A)", "$$1")]
    #[case("$", "$")]
    #[case("a$", "a$")]
    #[case("$(", "$(")]
    #[case("$(A", "$(A")]
    #[case("$(A$(A)", "$(A$(A)")]
    #[case("$A", "$A")]
    #[case("$é$(é)", "$ée")]
    #[case("$)(A)", "$)(A)")]
    #[case("$()", "nameless")]
    #[case("$($$A)", "$($$A)")]
    #[case("$$(A)$(A)$$", "$(A)1$")]
    #[case("--$(A)-$(A)", "--1-1")]
    fn expansion(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(expand(text, &environment()).as_deref(), Some(expected));
    }

    #[test]
    fn values_that_are_no_text() {
        let environment = environment();
        assert_eq!(expand_bytes("a$(RAW)b", |name| environment.get(name)), b"a\xffb");
        assert_eq!(expand("a$(RAW)b", &environment), None);
    }

    #[rstest]
    #[case("d/$(A)", Ok(Some("d/1")))]
    #[case("$$(A)", Ok(Some("$(A)")))]
    #[case("$(Z)/$(EMPTY)/$(B)/$(Y)", Err("missing value for EMPTY, Y, Z"))]
    #[case("$(RAW)", Err("subPathExpr of container \"app\" refers to a variable whose value is not UTF-8"))]
    fn sub_paths(#[case] expression: &str, #[case] expected: Result<Option<&str>, &str>) {
        let mount = VolumeMount { sub_path_expr: Some(expression.into()), ..VolumeMount::default() };
        let found = expand_sub_path("app", &mount, &environment()).map_err(|e| e.to_string());
        assert_eq!(found.as_ref().map(Option::as_deref).map_err(String::as_str), expected);
    }

    #[test]
    fn plain_sub_paths_are_not_expanded() {
        let mount = VolumeMount { sub_path: Some("$(A)".into()), ..VolumeMount::default() };
        assert_eq!(expand_sub_path("app", &mount, &environment()), Ok(Some("$(A)".to_owned())));
        assert_eq!(expand_sub_path("app", &VolumeMount::default(), &environment()), Ok(None));
    }

    proptest! {
        #[test]
        fn any_text_expands(text in ".*") {
            expand_bytes(&text, |_| Some(b"v"));
        }

        #[test]
        fn text_without_dollar_is_unchanged(text in "[^$]*") {
            prop_assert_eq!(expand(&text, &environment()), Some(text));
        }

        #[test]
        fn doubled_dollars_escape_everything(text in "[$()A-Ca-z ]*") {
            prop_assert_eq!(expand(&text.replace('$', "$$"), &environment()), Some(text));
        }

        #[test]
        fn unknown_references_stay(text in "[$()x-z]*") {
            // Without `$$` there is nothing to unescape, and no variable of these letters exists.
            prop_assume!(!text.contains("$$") && !text.contains("()"));
            prop_assert_eq!(expand(&text, &environment()), Some(text));
        }
    }
}
