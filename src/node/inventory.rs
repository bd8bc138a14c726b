//! What the runtime has: its version and the images it holds, in the form of the node's status (peer:
//! `nodestatus.VersionInfo`, `nodestatus.Images`).

use k8s_openapi::api::core::v1::ContainerImage;

use crate::runtime::cri;

/// Names of one image that the status shows at most.
const MAX_NAMES: usize = 5;

/// What the status shows of the runtime.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inventory {
    /// `nodeInfo.containerRuntimeVersion`, such as `containerd://2.1.4`.
    pub runtime_version: String,
    /// Images, largest first, cut to what the status may hold.
    pub images: Vec<ContainerImage>,
}

impl Inventory {
    /// From the runtime's answers; `max_images` below 0 is no limit.
    pub fn of(version: &cri::VersionResponse, images: Vec<cri::Image>, max_images: i32) -> Self {
        Inventory { runtime_version: runtime_version(version), images: status_images(images, max_images) }
    }
}

fn status_images(mut images: Vec<cri::Image>, max_images: i32) -> Vec<ContainerImage> {
    // By id among images of one size, so that the order never changes by itself.
    images.sort_by(|one, other| (other.size, &other.id).cmp(&(one.size, &one.id)));
    let maximum = usize::try_from(max_images).unwrap_or(usize::MAX);
    let image = |image: cri::Image| {
        let names: Vec<_> = image.repo_digests.into_iter().chain(image.repo_tags).take(MAX_NAMES).collect();
        ContainerImage {
            names: (!names.is_empty()).then_some(names),
            size_bytes: i64::try_from(image.size).ok().filter(|size| *size != 0),
        }
    };
    images.into_iter().take(maximum).map(image).collect()
}

fn runtime_version(version: &cri::VersionResponse) -> String {
    let number = normalized_version(&version.runtime_version).unwrap_or_else(|| "Unknown".to_owned());
    format!("{}://{number}", version.runtime_name)
}

/// A version without a leading `v`: a semantic version as a whole, of any other (`1.6.20~ds1`) the dotted numbers; none
/// if there are not two of them.
fn normalized_version(text: &str) -> Option<String> {
    let text = text.trim();
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (numbers, suffix) = text.split_at(end);
    let parts = numbers.split('.').map(|part| part.parse::<u64>().ok()).collect::<Option<Vec<_>>>()?;
    let has_leading_zero = |part: &str| part.len() > 1 && part.starts_with('0');
    let is_semantic = parts.len() == 3 && !numbers.split('.').any(has_leading_zero) && is_semantic_suffix(suffix);
    if is_semantic {
        Some(format!("{numbers}{suffix}"))
    } else if parts.len() >= 2 && !numbers.split('.').next().is_some_and(has_leading_zero) {
        Some(parts.iter().map(u64::to_string).collect::<Vec<_>>().join("."))
    } else {
        None
    }
}

/// `-pre.release`, `+build`, both in that order, or nothing.
fn is_semantic_suffix(suffix: &str) -> bool {
    let is_word = |word: &str| word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
    let (release, build) = suffix.split_once('+').map_or((suffix, ""), |(release, build)| (release, build));
    is_word(build) && (release.is_empty() || release.strip_prefix('-').is_some_and(is_word))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("v2.1.4", Some("2.1.4"))]
    #[case("2.2.0-rc.1+deb1", Some("2.2.0-rc.1+deb1"))]
    #[case("1.6.20~ds1", Some("1.6.20"))]
    #[case("1.34", Some("1.34"))]
    #[case("1.2.3.4", Some("1.2.3.4"))]
    #[case("1.02.3", Some("1.2.3"))]
    #[case("01.2.3", None)]
    #[case("7", None)]
    #[case("main", None)]
    #[case("", None)]
    fn normalizes_versions(#[case] text: &str, #[case] expected: Option<&str>) {
        assert_eq!(normalized_version(text).as_deref(), expected);
    }

    fn image(id: &str, size: u64, digests: &[&str], tags: &[&str]) -> cri::Image {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        cri::Image { id: id.into(), size, repo_digests: own(digests), repo_tags: own(tags), ..Default::default() }
    }

    #[test]
    fn shows_the_largest_images_by_digest_then_tag() {
        let images = vec![
            image("a", 10, &[], &["small:1"]),
            image("b", 300, &["big@sha256:1", "big@sha256:2"], &["big:1", "big:2", "big:3", "big:4"]),
            image("c", 20, &[], &[]),
            image("d", 20, &["same@sha256:3"], &[]),
        ];
        let version = cri::VersionResponse {
            runtime_name: "containerd".into(),
            runtime_version: "nightly".into(),
            ..Default::default()
        };
        let inventory = Inventory::of(&version, images.clone(), 3);
        assert_eq!(inventory.runtime_version, "containerd://Unknown");
        insta::assert_json_snapshot!(inventory.images, @r#"
        [
          {
            "names": [
              "big@sha256:1",
              "big@sha256:2",
              "big:1",
              "big:2",
              "big:3"
            ],
            "sizeBytes": 300
          },
          {
            "names": [
              "same@sha256:3"
            ],
            "sizeBytes": 20
          },
          {
            "sizeBytes": 20
          }
        ]
        "#);
        assert_eq!(Inventory::of(&version, images.clone(), -1).images.len(), 4);
        assert_eq!(Inventory::of(&version, images, 0).images.len(), 0);
    }
}
