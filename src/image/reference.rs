//! Image names as container runtimes read them (the grammar of github.com/distribution/reference). Pure.

/// The tag of a name that has neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
/// The registry of a name that has none.
const DEFAULT_DOMAIN: &str = "docker.io";
/// Longest repository name, registry included.
const MAX_NAME_LENGTH: usize = 255;

/// A name taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Registry and path, with the defaults filled in: `docker.io/library/busybox`.
    pub repository: String,
    /// The tag, if the name has one.
    pub tag: Option<String>,
    /// The digest, if the name has one.
    pub digest: Option<String>,
}

/// A text that names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name {name:?}: {problem}")]
pub struct ReferenceError {
    /// The text.
    pub name: String,
    /// What is wrong with it, in the words that users know.
    pub problem: String,
}

impl Reference {
    /// Takes a name apart.
    ///
    /// # Errors
    /// What makes the text no image name.
    pub fn parse(name: &str) -> Result<Self, ReferenceError> {
        let wrong = |problem: String| ReferenceError { name: name.to_owned(), problem };
        let invalid = || wrong("invalid reference format".to_owned());
        if name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            let text = format!("invalid repository name ({name}), cannot specify 64-byte hexadecimal strings");
            return Err(wrong(text));
        }
        let (domain, rest) = split_domain(name);
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        let is_official = domain == DEFAULT_DOMAIN && !path.contains('/');
        let full_path = if is_official { format!("library/{path}") } else { path.to_owned() };
        if path.chars().any(char::is_uppercase) {
            return Err(wrong(format!("invalid reference format: repository name ({full_path}) must be lowercase")));
        }
        let repository = format!("{domain}/{full_path}");
        if !is_domain(domain) || !path.split('/').all(is_path_component) || tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid());
        }
        if repository.len() > MAX_NAME_LENGTH {
            let text = format!("repository name must not be more than {MAX_NAME_LENGTH} characters");
            return Err(wrong(text));
        }
        if let Some(digest) = digest {
            check_digest(digest).map_err(|problem| wrong(problem.to_owned()))?;
        }
        Ok(Reference { repository, tag: tag.map(str::to_owned), digest: digest.map(str::to_owned) })
    }

    /// Whether the newest image is meant: the tag `latest`, given or not, and no digest.
    pub fn is_latest(&self) -> bool {
        self.digest.is_none() && self.tag.as_deref().is_none_or(|tag| tag == DEFAULT_TAG)
    }
}

/// The name with the default tag if it has neither tag nor digest; otherwise as it is, the short form of a name included.
///
/// # Errors
/// What makes the text no image name.
pub fn with_default_tag(name: &str) -> Result<(String, Reference), ReferenceError> {
    let reference = Reference::parse(name)?;
    let bare = reference.tag.is_none() && reference.digest.is_none();
    let full = if bare { format!("{name}:{DEFAULT_TAG}") } else { name.to_owned() };
    Ok((full, reference))
}

/// The registry and the rest. The part before the first slash is a registry if it cannot be the first part of a path.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some(("index.docker.io", rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => {
                let is_address = !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
                if !is_address {
                    return false;
                }
                match port.strip_prefix(':') {
                    Some(port) => (None, Some(port)),
                    None if port.is_empty() => (None, None),
                    None => return false,
                }
            }
            None => return false,
        },
        None => match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        },
    };
    let is_component = |part: &str| {
        let bytes = part.as_bytes();
        let inner = bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
        inner && !part.is_empty() && !part.starts_with('-') && !part.ends_with('-')
    };
    host.is_none_or(|host| host.split('.').all(is_component))
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Lower-case letters and digits, with a dot, one or two underscores or any number of dashes between them.
fn is_path_component(part: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !is_word(*first) || !is_word(*last) {
        return false;
    }
    let separators = bytes.split(|b| is_word(*b)).filter(|run| !run.is_empty());
    separators.into_iter().all(|run| matches!(run, b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = tag.as_bytes();
    (1..=128).contains(&bytes.len())
        && is_word(bytes[0])
        && bytes.iter().all(|b| is_word(*b) || matches!(b, b'.' | b'-'))
}

fn check_digest(digest: &str) -> Result<(), &'static str> {
    const FORMAT: &str = "invalid reference format";
    let (algorithm, hex) = digest.split_once(':').ok_or(FORMAT)?;
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    if !algorithm.split(['-', '_', '+', '.']).all(is_part) {
        return Err(FORMAT);
    }
    if hex.len() < 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(FORMAT);
    }
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err("unsupported digest algorithm"),
    };
    if hex.len() != length {
        return Err("invalid checksum digest length");
    }
    if hex.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("invalid checksum digest format");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const SHA256: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[rstest]
    #[case("busybox", "docker.io/library/busybox", None, false, "busybox:latest")]
    #[case("busybox:1.36", "docker.io/library/busybox", Some("1.36"), false, "busybox:1.36")]
    #[case("team/app", "docker.io/team/app", None, false, "team/app:latest")]
    #[case("docker.io/busybox", "docker.io/library/busybox", None, false, "docker.io/busybox:latest")]
    #[case(
        "index.docker.io/library/busybox",
        "docker.io/library/busybox",
        None,
        false,
        "index.docker.io/library/busybox:latest"
    )]
    #[case("localhost/app:v1", "localhost/app", Some("v1"), false, "localhost/app:v1")]
    #[case("registry:5000/app", "registry:5000/app", None, false, "registry:5000/app:latest")]
    #[case("registry.k8s.io/pause:3.10", "registry.k8s.io/pause", Some("3.10"), false, "registry.k8s.io/pause:3.10")]
    #[case("[fd00::1]:5000/a/b__c:x", "[fd00::1]:5000/a/b__c", Some("x"), false, "[fd00::1]:5000/a/b__c:x")]
    #[case("Host/app", "Host/app", None, false, "Host/app:latest")]
    #[case("q.io/a/b---c", "q.io/a/b---c", None, false, "q.io/a/b---c:latest")]
    fn names(
        #[case] name: &str,
        #[case] repository: &str,
        #[case] tag: Option<&str>,
        #[case] digest: bool,
        #[case] full: &str,
    ) {
        let (with_tag, reference) = with_default_tag(name).unwrap();
        assert_eq!(reference.repository, repository);
        assert_eq!((reference.tag.as_deref(), reference.digest.is_some()), (tag, digest));
        assert_eq!(with_tag, full);
    }

    #[test]
    fn a_digest_needs_no_tag() {
        for (name, tag) in [(format!("busybox@{SHA256}"), None), (format!("q.io/a:v1@{SHA256}"), Some("v1"))] {
            let (full, reference) = with_default_tag(&name).unwrap();
            assert_eq!(full, name);
            assert_eq!((reference.tag.as_deref(), reference.digest.as_deref()), (tag, Some(SHA256)));
            assert!(!reference.is_latest());
        }
    }

    #[rstest]
    #[case("", "invalid reference format")]
    #[case("Busybox", "invalid reference format: repository name (library/Busybox) must be lowercase")]
    #[case("q.io/Busybox:1", "invalid reference format: repository name (Busybox) must be lowercase")]
    #[case("busybox:", "invalid reference format")]
    #[case("busybox:-x", "invalid reference format")]
    #[case("a/b:c:d", "invalid reference format")]
    #[case("q.io/", "invalid reference format")]
    #[case("q.io//a", "invalid reference format")]
    #[case("-q.io/a", "invalid reference format")]
    #[case("q.io:port/a", "invalid reference format")]
    #[case("a___b", "invalid reference format")]
    #[case("a._b", "invalid reference format")]
    #[case("a b", "invalid reference format")]
    #[case("https://q.io/a", "invalid reference format")]
    #[case("a@sha256:abc", "invalid reference format")]
    #[case("a@md5:0123456789abcdef0123456789abcdef", "unsupported digest algorithm")]
    #[case("a@sha256:0123456789abcdef0123456789abcdef", "invalid checksum digest length")]
    fn not_names(#[case] name: &str, #[case] problem: &str) {
        let error = Reference::parse(name).unwrap_err();
        assert_eq!(error.problem, problem);
        assert_eq!(error.to_string(), format!("couldn't parse image name {name:?}: {problem}"));
    }

    #[test]
    fn lengths_are_bounded() {
        assert!(Reference::parse(&"a".repeat(255 - "docker.io/library/".len())).is_ok());
        assert!(Reference::parse(&"a".repeat(256 - "docker.io/library/".len())).is_err());
        assert!(Reference::parse(&"a".repeat(64)).is_err(), "an id is no name");
        assert!(Reference::parse(&format!("a:{}", "t".repeat(129))).is_err());
    }

    #[rstest]
    #[case("a", true)]
    #[case("a:latest", true)]
    #[case("a:1", false)]
    fn newest(#[case] name: &str, #[case] latest: bool) {
        assert_eq!(Reference::parse(name).unwrap().is_latest(), latest);
    }

    proptest! {
        #[test]
        fn never_panics_and_stays_parsed(name in "[a-zA-Z0-9:/@._\\-\\[\\]]{0,40}") {
            if let Ok((full, reference)) = with_default_tag(&name) {
                let again = Reference::parse(&full).unwrap();
                prop_assert_eq!(again.repository, reference.repository);
            }
        }
    }
}
