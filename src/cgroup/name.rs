//! Names of cgroups: a driver-independent list of components, and what each driver makes of it.

use std::fmt;
use std::path::PathBuf;

use crate::model::pod::PodUid;
use crate::model::qos::QosClass;

/// The cgroup below `cgroupRoot` that holds all pods.
pub const KUBEPODS: &str = "kubepods";
/// What a pod's cgroup name begins with; its UID follows.
pub const POD_PREFIX: &str = "pod";
const SLICE_SUFFIX: &str = ".slice";

/// Who makes cgroups (`cgroupDriver`), and so how they are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// Directories, made directly.
    #[default]
    Cgroupfs,
    /// Slices, made by systemd.
    Systemd,
}

impl Driver {
    /// The configuration's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Driver::Cgroupfs => "cgroupfs",
            Driver::Systemd => "systemd",
        }
    }

    /// The driver of that spelling; none for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        [Driver::Cgroupfs, Driver::Systemd].into_iter().find(|driver| driver.as_str() == text)
    }
}

/// A cgroup by its components from the root of the hierarchy; no components is the root itself.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupName(Vec<String>);

impl CgroupName {
    /// The name of a path in cgroupfs form (`/kubelet/x`), which is how `cgroupRoot` is given whatever the driver.
    /// Empty and `.` components are left out; none if a component is `..`.
    pub fn from_cgroupfs(path: &str) -> Option<Self> {
        let components = path.split('/').filter(|component| !component.is_empty() && *component != ".");
        let components: Vec<String> = components.map(str::to_owned).collect();
        (!components.iter().any(|component| component == "..")).then_some(CgroupName(components))
    }

    /// The name of a slice's path (`/a.slice/a-b.slice`): its last component says it all.
    pub fn from_systemd(path: &str) -> Self {
        let last = path.rsplit('/').next().unwrap_or_default();
        let name = last.strip_suffix(SLICE_SUFFIX).unwrap_or(last);
        let components = name.split('-').filter(|component| !component.is_empty());
        CgroupName(components.map(|component| component.replace('_', "-")).collect())
    }

    /// The cgroup of that name below this one.
    pub fn child(&self, component: &str) -> Self {
        let mut components = self.0.clone();
        components.push(component.to_owned());
        CgroupName(components)
    }

    /// The cgroups on the way from below the root to this one, parents first.
    pub fn lineage(&self) -> impl Iterator<Item = CgroupName> + '_ {
        (1..=self.0.len()).map(|length| CgroupName(self.0[..length].to_vec()))
    }

    /// Whether this is the root of the hierarchy.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path by the driver's naming, from the root of the hierarchy, with a leading `/`: what CRI gets as
    /// `cgroup_parent`.
    pub fn path(&self, driver: Driver) -> String {
        match driver {
            Driver::Cgroupfs => format!("/{}", self.0.join("/")),
            Driver::Systemd => self.slice_path(),
        }
    }

    /// The path relative to a mount point, by the driver's naming.
    pub fn relative(&self, driver: Driver) -> PathBuf {
        self.path(driver).split('/').filter(|component| !component.is_empty()).collect()
    }

    /// The cgroup that the driver makes of a path which someone else wrote down by the driver's naming.
    pub fn of_path(path: &str, driver: Driver) -> Option<Self> {
        match driver {
            Driver::Cgroupfs => CgroupName::from_cgroupfs(path),
            Driver::Systemd => Some(CgroupName::from_systemd(path)),
        }
    }

    // Every slice carries its ancestors' names: a.slice/a-b.slice/a-b-c.slice.
    fn slice_path(&self) -> String {
        let mut path = String::new();
        let mut joined = String::new();
        for component in &self.0 {
            if !joined.is_empty() {
                joined.push('-');
            }
            joined.push_str(&component.replace('-', "_"));
            path.push('/');
            path.push_str(&joined);
            path.push_str(SLICE_SUFFIX);
        }
        if path.is_empty() { "/".to_owned() } else { path }
    }
}

impl fmt::Debug for CgroupName {
    /// `["kubelet" "kubepods"]`, as the peer's messages show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted: Vec<String> = self.0.iter().map(|component| format!("{component:?}")).collect();
        write!(f, "[{}]", quoted.join(" "))
    }
}

/// The names of the tree below `cgroupRoot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeNames {
    /// `cgroupRoot`.
    pub root: CgroupName,
    /// All pods; Guaranteed ones directly below.
    pub kubepods: CgroupName,
    /// Burstable pods.
    pub burstable: CgroupName,
    /// BestEffort pods.
    pub best_effort: CgroupName,
}

impl TreeNames {
    /// The tree below a root.
    pub fn below(root: CgroupName) -> Self {
        let kubepods = root.child(KUBEPODS);
        let (burstable, best_effort) = (kubepods.child("burstable"), kubepods.child("besteffort"));
        TreeNames { root, kubepods, burstable, best_effort }
    }

    /// Where the pods of a class are.
    pub fn of_class(&self, class: QosClass) -> &CgroupName {
        match class {
            QosClass::Guaranteed => &self.kubepods,
            QosClass::Burstable => &self.burstable,
            QosClass::BestEffort => &self.best_effort,
        }
    }

    /// A pod's cgroup; none for a UID that is no plain path component.
    pub fn pod(&self, uid: &PodUid, class: QosClass) -> Option<CgroupName> {
        let plain = !uid.as_str().is_empty() && !uid.as_str().contains(['/', '\0']);
        plain.then(|| self.of_class(class).child(&format!("{POD_PREFIX}{uid}")))
    }
}

/// The pod whose cgroup has that last component by the driver's naming; none for other cgroups.
pub fn pod_of_directory(directory: &str, driver: Driver) -> Option<PodUid> {
    let component = match driver {
        Driver::Cgroupfs => directory.to_owned(),
        Driver::Systemd => {
            let CgroupName(components) = CgroupName::from_systemd(directory.strip_suffix(SLICE_SUFFIX)?);
            components.into_iter().next_back()?
        }
    };
    let uid = component.strip_prefix(POD_PREFIX)?;
    (!uid.is_empty()).then(|| PodUid::from(uid))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const UID: &str = "1234-abcd-5678-efgh";

    #[rstest]
    #[case(
        "/",
        QosClass::Guaranteed,
        "/kubepods/pod1234-abcd-5678-efgh",
        "/kubepods.slice/kubepods-pod1234_abcd_5678_efgh.slice"
    )]
    #[case(
        "",
        QosClass::Burstable,
        "/kubepods/burstable/pod1234-abcd-5678-efgh",
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1234_abcd_5678_efgh.slice"
    )]
    #[case(
        "/kubelet",
        QosClass::BestEffort,
        "/kubelet/kubepods/besteffort/pod1234-abcd-5678-efgh",
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/\
         kubelet-kubepods-besteffort-pod1234_abcd_5678_efgh.slice"
    )]
    fn pod_paths_by_driver(#[case] root: &str, #[case] class: QosClass, #[case] cgroupfs: &str, #[case] systemd: &str) {
        let names = TreeNames::below(CgroupName::from_cgroupfs(root).unwrap());
        let pod = names.pod(&PodUid::from(UID), class).unwrap();
        assert_eq!(pod.path(Driver::Cgroupfs), cgroupfs);
        assert_eq!(pod.path(Driver::Systemd), systemd);
        assert_eq!(CgroupName::from_cgroupfs(cgroupfs), Some(pod.clone()));
        assert_eq!(CgroupName::from_systemd(systemd), pod);
        let last = |path: &str| path.rsplit('/').next().unwrap().to_owned();
        assert_eq!(pod_of_directory(&last(cgroupfs), Driver::Cgroupfs), Some(PodUid::from(UID)));
        assert_eq!(pod_of_directory(&last(systemd), Driver::Systemd), Some(PodUid::from(UID)));
        for (path, driver) in [(cgroupfs, Driver::Cgroupfs), (systemd, Driver::Systemd)] {
            assert_eq!(CgroupName::of_path(path, driver), Some(pod.clone()));
            assert_eq!(Path::new("/").join(pod.relative(driver)), Path::new(path));
        }
    }

    #[test]
    fn the_root_has_the_same_path_everywhere() {
        let root = CgroupName::from_cgroupfs("//./").unwrap();
        assert!(root.is_root());
        assert_eq!((root.path(Driver::Cgroupfs), root.path(Driver::Systemd)), ("/".into(), "/".into()));
        assert_eq!(format!("{root:?}"), "[]");
        assert_eq!(format!("{:?}", root.child("a").child("b")), r#"["a" "b"]"#);
    }

    #[rstest]
    #[case("pod", Driver::Cgroupfs)]
    #[case("burstable", Driver::Cgroupfs)]
    #[case("besteffort", Driver::Cgroupfs)]
    #[case("xpod1", Driver::Cgroupfs)]
    #[case("kubepods-burstable.slice", Driver::Systemd)]
    #[case("kubepods-pod1", Driver::Systemd)]
    #[case("kubepods-pod.slice", Driver::Systemd)]
    fn other_directories_are_no_pods(#[case] directory: &str, #[case] driver: Driver) {
        assert_eq!(pod_of_directory(directory, driver), None);
    }

    #[rstest]
    #[case("")]
    #[case("a/b")]
    #[case("../x")]
    fn uids_that_would_leave_the_tree_have_no_cgroup(#[case] uid: &str) {
        let names = TreeNames::below(CgroupName::default());
        assert_eq!(names.pod(&PodUid::from(uid), QosClass::Burstable), None);
    }

    #[test]
    fn a_root_that_climbs_is_refused() {
        assert_eq!(CgroupName::from_cgroupfs("/a/../.."), None);
    }

    proptest! {
        #[test]
        fn slice_names_lead_back(components in proptest::collection::vec("[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", 1..5)) {
            let name = CgroupName(components);
            prop_assert_eq!(&CgroupName::from_systemd(&name.path(Driver::Systemd)), &name);
            let cgroupfs = name.path(Driver::Cgroupfs);
            prop_assert_eq!(CgroupName::from_cgroupfs(&cgroupfs), Some(name));
        }
    }
}
