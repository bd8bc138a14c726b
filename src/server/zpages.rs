//! `/statusz`: what runs here, for people (`k8s.io/apiserver/pkg/server/statusz` of the peer).

use std::collections::BTreeSet;

use crate::model::Timestamp;

/// The version of Kubernetes that this stands for, and the one whose behaviour it has.
const VERSIONS: (&str, &str) = ("1.37.2", "1.37");

/// The text at `now` of an agent that was started at `started_at` and serves those paths. The peer picks the separator by
/// chance, so that nobody reads the text by machine.
pub(super) fn statusz<'a>(
    now: Timestamp,
    started_at: Timestamp,
    paths: impl IntoIterator<Item = &'a str>,
    separator: &str,
) -> String {
    let up = now.duration_since(started_at).as_secs().max(0);
    let firsts: BTreeSet<&str> = paths.into_iter().filter_map(|path| path.split('/').nth(1)).collect();
    let paths: Vec<String> = firsts.into_iter().filter(|first| !first.is_empty()).map(|f| format!("/{f}")).collect();
    let lines = [
        ("Started", started_at.strftime("%a %b %e %H:%M:%S UTC %Y").to_string()),
        ("Up", format!("{} hr {:02} min {:02} sec", up / 3600, up / 60 % 60, up % 60)),
        ("Go version", "none".to_owned()),
        ("Binary version", VERSIONS.0.to_owned()),
        ("Emulation version", VERSIONS.1.to_owned()),
        ("Paths", paths.join(" ")),
    ];
    let lines: String = lines.iter().map(|(name, value)| format!("{name}{separator} {value}\n")).collect();
    format!(
        "\nkubelet statusz\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
         guarantees and is for debugging purposes only.\n\n{lines}"
    )
}

/// One of the separators.
pub(super) fn separator() -> &'static str {
    const SEPARATORS: [&str; 4] = [":", ": ", "=", " "];
    SEPARATORS[usize::from(rand::random::<u8>()) % SEPARATORS.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_tells_when_it_was_started_and_what_is_served() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let text = statusz(at(90_061), at(3600), ["/metrics/cadvisor", "/metrics", "/healthz", "/"], ":");
        let expected = "\n\nStarted: Thu Jan  1 01:00:00 UTC 1970\nUp: 24 hr 01 min 01 sec\nGo version: none\n\
            Binary version: 1.37.2\nEmulation version: 1.37\nPaths: /healthz /metrics\n";
        assert!(text.starts_with("\nkubelet statusz\nWarning: "), "{text}");
        assert!(text.ends_with(&expected[1..]), "{text}");
    }
}
