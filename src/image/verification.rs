//! Whether a pod may use an image that is on the node: by the policy, and by the credentials that the image was pulled with
//! (KEP-2535, `imagePullCredentialsVerificationPolicy`). Pure.

use std::collections::BTreeMap;

use super::credentials::{Credential, CredentialSource};
use super::pull_records::{PullCredentials, PullSecret, PulledRecord};
use super::reference::Reference;
use crate::model::Timestamp;

/// Secrets under which a record grows while it is only compared with: beyond that, pods with a new one pull again.
const MOST_SECRETS: usize = 100;

/// Of which images pods must show that they could pull them (`imagePullCredentialsVerificationPolicy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerificationPolicy {
    /// `NeverVerify`: of none.
    Never,
    /// `NeverVerifyPreloadedImages`: of those that an agent pulled.
    NeverPreloaded,
    /// `NeverVerifyAllowlistedImages`: of all but these names (`preloadedImagesVerificationAllowlist`), without tag and digest;
    /// one that ends in `/*` stands for all that begin like it.
    NeverAllowlisted(Vec<String>),
    /// `AlwaysVerify`: of all.
    Always,
}

impl VerificationPolicy {
    /// The configuration's words; none for words that it does not know.
    pub fn parse(policy: &str, allowlist: &[String]) -> Option<Self> {
        match policy {
            "NeverVerify" => Some(VerificationPolicy::Never),
            "NeverVerifyPreloadedImages" => Some(VerificationPolicy::NeverPreloaded),
            "NeverVerifyAllowlistedImages" => Some(VerificationPolicy::NeverAllowlisted(allowlist.to_vec())),
            "AlwaysVerify" => Some(VerificationPolicy::Always),
            _ => None,
        }
    }

    fn wants(&self, name: &str, is_pulled_by_agent: bool) -> bool {
        match self {
            VerificationPolicy::Never => false,
            VerificationPolicy::NeverPreloaded => is_pulled_by_agent,
            VerificationPolicy::NeverAllowlisted(allowed) => !allowed.iter().any(|pattern| is_like(name, pattern)),
            VerificationPolicy::Always => true,
        }
    }
}

fn is_like(name: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

/// What is to be done about an image on the node that a pod wants.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict<'a> {
    /// The pod may use it.
    Allowed(Why),
    /// The pod may use it if it has one of these.
    IfAmong(&'a PullCredentials),
    /// Only a pull can tell.
    MustPull,
}

/// Why a pod may use an image; what metrics call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The policy wants no more.
    Policy,
    /// Everybody on the node may, or the pod has what it was pulled with.
    Record,
}

/// Judges by what is known of the image. `name` is the image's as the pod has it, without tag and digest.
pub(super) fn judge<'a>(
    policy: &VerificationPolicy,
    name: &str,
    is_pulled_by_agent: bool,
    record: Option<&'a PulledRecord>,
) -> Verdict<'a> {
    if !policy.wants(name, is_pulled_by_agent) {
        return Verdict::Allowed(Why::Policy);
    }
    match record.and_then(|record| record.credential_mapping.get(name)) {
        Some(known) if known.node_pods_accessible => Verdict::Allowed(Why::Record),
        Some(known) if !known.kubernetes_secrets.is_empty() => Verdict::IfAmong(known),
        // Nothing is known of this name, or service accounts alone, whose tokens only credential plugins get.
        _ => Verdict::MustPull,
    }
}

/// How the pod's secrets compare with those that an image was pulled with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    /// One is known.
    Known,
    /// One is known by its content under another name, or by its name with other content: to be remembered as it is now.
    Changed(PullSecret),
    /// None is known.
    Unknown,
}

/// Compares a pod's secrets with those of a record.
pub(super) fn compare(known: &PullCredentials, of_pod: &[PullSecret]) -> Comparison {
    let has_room = known.kubernetes_secrets.len() < MOST_SECRETS;
    for own in of_pod {
        for other in &known.kubernetes_secrets {
            let same_content = !other.credential_hash.is_empty() && other.credential_hash == own.credential_hash;
            let same_secret = other.place() == own.place();
            match (same_content, same_secret) {
                (true, true) => return Comparison::Known,
                (true, false) if !has_room => return Comparison::Known,
                (true, false) => return Comparison::Changed(own.clone()),
                (false, true) if has_room => return Comparison::Changed(own.clone()),
                (false, _) => {}
            }
        }
    }
    Comparison::Unknown
}

/// The record after one more pull; none if it says nothing new. Of a pull of which nothing is known (no `used`) no more is kept
/// than that it took place: the next pod has to pull again.
pub(super) fn after_pull(
    before: Option<PulledRecord>,
    image_ref: &str,
    name: &str,
    used: Option<PullCredentials>,
    now: Timestamp,
) -> Option<PulledRecord> {
    let Some(mut record) = before else {
        let mapping = used.map(|used| (name.to_owned(), used));
        return Some(PulledRecord::new(image_ref, mapping.into_iter().collect(), now));
    };
    let used = used.filter(|used| *used != PullCredentials::default())?;
    let changed = match record.credential_mapping.get_mut(name) {
        None => record.credential_mapping.insert(name.to_owned(), used).is_none(),
        Some(known) if known.node_pods_accessible => false,
        Some(known) if used.node_pods_accessible => {
            *known = used;
            true
        }
        Some(known) => add_secrets(&mut known.kubernetes_secrets, used.kubernetes_secrets),
    };
    record.update(now);
    changed.then_some(record)
}

/// One for each secret, the newest content, in order. Whether that changed anything.
fn add_secrets(known: &mut Vec<PullSecret>, new: Vec<PullSecret>) -> bool {
    if new.iter().all(|secret| known.contains(secret)) {
        return false;
    }
    let all = known.drain(..).chain(new).map(|secret| (secret.sort_key(), secret));
    *known = all.collect::<BTreeMap<_, _>>().into_values().collect();
    true
}

/// What a pull with that credential proves: all pods of the node may use what needs none, or one of the node's own.
pub(super) fn proven_by(credential: Option<&Credential>) -> PullCredentials {
    match credential.and_then(secret_of) {
        Some(secret) => PullCredentials { kubernetes_secrets: vec![secret], ..PullCredentials::default() },
        None => PullCredentials { node_pods_accessible: true, ..PullCredentials::default() },
    }
}

/// The secret that a credential comes from; none for one of the node's own.
pub(super) fn secret_of(credential: &Credential) -> Option<PullSecret> {
    match &credential.source {
        CredentialSource::Node => None,
        CredentialSource::Secret { namespace, name, uid } => Some(PullSecret {
            uid: uid.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
            credential_hash: credential.hash(),
        }),
    }
}

/// A pod's name of an image without tag and digest.
pub(super) fn bare_name<'a>(image: &'a str, reference: &Reference) -> &'a str {
    let without = |text: &'a str, mark: char, part: &Option<String>| match part {
        Some(part) => text.strip_suffix(part.as_str()).and_then(|rest| rest.strip_suffix(mark)).unwrap_or(text),
        None => text,
    };
    without(without(image, '@', &reference.digest), ':', &reference.tag)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn secret(name: &str, hash: &str) -> PullSecret {
        PullSecret {
            uid: format!("uid-{name}"),
            namespace: "ns".into(),
            name: name.into(),
            credential_hash: hash.into(),
        }
    }

    fn with(secrets: &[PullSecret]) -> PullCredentials {
        PullCredentials { kubernetes_secrets: secrets.to_vec(), ..PullCredentials::default() }
    }

    fn open() -> PullCredentials {
        PullCredentials { node_pods_accessible: true, ..PullCredentials::default() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn record(used: Option<PullCredentials>) -> PulledRecord {
        after_pull(None, "sha256:1", "reg.io/a", used, at(0)).unwrap()
    }

    #[rstest]
    #[case("NeverVerify", "reg.io/a", [false, false])]
    #[case("NeverVerifyPreloadedImages", "reg.io/a", [false, true])]
    #[case("NeverVerifyAllowlistedImages", "reg.io/a", [true, true])]
    #[case("NeverVerifyAllowlistedImages", "reg.io/ok", [false, false])]
    #[case("NeverVerifyAllowlistedImages", "reg.io/okay", [true, true])]
    #[case("NeverVerifyAllowlistedImages", "reg.io/team/b", [false, false])]
    #[case("NeverVerifyAllowlistedImages", "reg.io/team", [true, true])]
    #[case("AlwaysVerify", "reg.io/a", [true, true])]
    fn policies(#[case] policy: &str, #[case] name: &str, #[case] wants: [bool; 2]) {
        let allowlist = ["reg.io/ok".to_owned(), "reg.io/team/*".to_owned()];
        let policy = VerificationPolicy::parse(policy, &allowlist).unwrap();
        assert_eq!([false, true].map(|is_pulled| policy.wants(name, is_pulled)), wants);
        assert_eq!(VerificationPolicy::parse("Sometimes", &allowlist), None);
    }

    #[test]
    fn an_image_that_was_pulled_wants_what_it_was_pulled_with() {
        let policy = VerificationPolicy::NeverPreloaded;
        assert_eq!(judge(&policy, "reg.io/a", false, None), Verdict::Allowed(Why::Policy));
        assert_eq!(judge(&policy, "reg.io/a", true, None), Verdict::MustPull, "a pull is under way, or was cut off");
        let closed = with(&[secret("s", "h")]);
        let known = record(Some(closed.clone()));
        assert_eq!(judge(&policy, "reg.io/a", true, Some(&known)), Verdict::IfAmong(&closed));
        assert_eq!(judge(&policy, "mirror.io/a", true, Some(&known)), Verdict::MustPull, "the same under another name");
        assert_eq!(judge(&policy, "reg.io/a", true, Some(&record(Some(open())))), Verdict::Allowed(Why::Record));
        assert_eq!(judge(&policy, "reg.io/a", true, Some(&record(None))), Verdict::MustPull);
    }

    #[rstest]
    #[case::the_same(&[secret("a", "1")], Comparison::Known)]
    #[case::renewed(&[secret("a", "2")], Comparison::Changed(secret("a", "2")))]
    #[case::copied(&[secret("b", "1")], Comparison::Changed(secret("b", "1")))]
    #[case::another(&[secret("b", "2")], Comparison::Unknown)]
    #[case::second(&[secret("b", "2"), secret("a", "1")], Comparison::Known)]
    #[case::none(&[], Comparison::Unknown)]
    fn secrets_are_compared_by_content_and_by_place(#[case] of_pod: &[PullSecret], #[case] expected: Comparison) {
        assert_eq!(compare(&with(&[secret("a", "1"), secret("x", "9")]), of_pod), expected);
    }

    #[test]
    fn what_could_not_be_hashed_matches_nothing_and_a_full_record_does_not_grow() {
        assert_eq!(compare(&with(&[secret("a", "")]), &[secret("b", "")]), Comparison::Unknown);
        let full: Vec<_> = (0..MOST_SECRETS).map(|n| secret(&n.to_string(), &n.to_string())).collect();
        assert_eq!(compare(&with(&full), &[secret("new", "7")]), Comparison::Known);
        assert_eq!(compare(&with(&full), &[secret("7", "new")]), Comparison::Unknown);
    }

    #[test]
    fn a_record_grows_by_what_is_new_and_opens_for_good() {
        let pull =
            |before: &PulledRecord, name: &str, used| after_pull(Some(before.clone()), "sha256:1", name, used, at(9));
        let first = record(Some(with(&[secret("b", "1")])));
        assert_eq!(first.last_updated_time, Some(at(0)));
        assert_eq!(pull(&first, "reg.io/a", Some(with(&[secret("b", "1")]))), None);
        assert_eq!(pull(&first, "reg.io/a", None), None);
        assert_eq!(pull(&first, "reg.io/b", Some(PullCredentials::default())), None);
        let second = pull(&first, "reg.io/a", Some(with(&[secret("a", "1"), secret("b", "2")]))).unwrap();
        assert_eq!(second.last_updated_time, Some(at(9)));
        assert_eq!(second.credential_mapping["reg.io/a"], with(&[secret("a", "1"), secret("b", "2")]));
        let third = pull(&second, "mirror.io/a", Some(open())).unwrap();
        assert_eq!(third.credential_mapping.len(), 2);
        let fourth = pull(&third, "reg.io/a", Some(open())).unwrap();
        assert_eq!(fourth.credential_mapping["reg.io/a"], open());
        assert_eq!(pull(&fourth, "reg.io/a", Some(with(&[secret("c", "3")]))), None);
    }

    #[test]
    fn only_what_a_secret_opened_is_closed_to_others() {
        let own = CredentialSource::Secret { namespace: "ns".into(), name: "s".into(), uid: "u".into() };
        let own = Credential::new("joe", "p", own);
        let proven = proven_by(Some(&own));
        assert_eq!(proven.kubernetes_secrets[0].credential_hash, own.hash());
        assert_eq!(proven_by(Some(&Credential::new("node", "p", CredentialSource::Node))), open());
        assert_eq!(proven_by(None), open());
    }

    #[rstest]
    #[case("busybox", "busybox")]
    #[case("busybox:1.35", "busybox")]
    #[case("reg.io:5000/a/b:1", "reg.io:5000/a/b")]
    #[case("reg.io:5000/a", "reg.io:5000/a")]
    #[case("a:1@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "a")]
    fn names_without_tag_and_digest(#[case] image: &str, #[case] expected: &str) {
        assert_eq!(bare_name(image, &Reference::parse(image).unwrap()), expected);
    }
}
