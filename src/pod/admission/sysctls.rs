//! Which sysctls pods may set on this node (`allowedUnsafeSysctls` and the safe ones; peer: `kubelet/sysctl`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::Rejection;
use crate::model::pod;
use crate::model::sysctl::{self, Namespace};

/// Sysctls that change nothing outside the pod, each with the kernel that keeps it apart for a namespace.
const SAFE: &[(&str, (u32, u32))] = &[
    ("kernel.shm_rmid_forced", (0, 0)),
    ("net.ipv4.ip_local_port_range", (0, 0)),
    ("net.ipv4.tcp_syncookies", (0, 0)),
    ("net.ipv4.ping_group_range", (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", (3, 16)),
    ("net.ipv4.tcp_keepalive_time", (4, 5)),
    ("net.ipv4.tcp_fin_timeout", (4, 6)),
    ("net.ipv4.tcp_keepalive_intvl", (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", (4, 5)),
    ("net.ipv4.tcp_rmem", (4, 15)),
    ("net.ipv4.tcp_wmem", (4, 15)),
    ("net.ipv4.tcp_slow_start_after_idle", (4, 15)),
    ("net.ipv4.tcp_notsent_lowat", (4, 6)),
];

/// The sysctls that pods may set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SysctlAllowlist {
    names: BTreeMap<String, Namespace>,
    prefixes: BTreeMap<String, Namespace>,
}

impl SysctlAllowlist {
    /// The safe sysctls of a kernel (its release, such as `6.18.0-rc1`) and the patterns of `allowedUnsafeSysctls`. Patterns
    /// of no known namespace are left out; the configuration's validation refuses them.
    pub fn new(kernel_release: &str, allowed_unsafe: &[String]) -> Self {
        let kernel = kernel_version(kernel_release);
        let safe = SAFE.iter().filter(|(_, since)| *since <= kernel).map(|(name, _)| *name);
        let mut list = SysctlAllowlist::default();
        for pattern in safe.chain(allowed_unsafe.iter().map(String::as_str)) {
            let name = sysctl::normal_name(pattern);
            let (name, map) = match name.split_once('*') {
                Some((prefix, _)) => (prefix, &mut list.prefixes),
                None => (name.as_str(), &mut list.names),
            };
            if let Some(namespace) = sysctl::namespace_of(name) {
                map.insert(name.to_owned(), namespace);
            }
        }
        list
    }

    /// Refuses a pod that sets a sysctl that is not allowed, or that is of a namespace that it shares with the host.
    pub(super) fn check(&self, pod: &Pod) -> Result<(), Rejection> {
        let spec = pod::spec(pod);
        let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
        for name in sysctls.map(|sysctl| sysctl::normal_name(&sysctl.name)) {
            let shares = |namespace| match namespace {
                Namespace::Ipc => spec.host_ipc == Some(true),
                Namespace::Net => pod::is_host_network(spec),
                Namespace::User => spec.host_users != Some(false),
                Namespace::Uts => false,
            };
            let cause = match self.namespace_of(&name) {
                None => format!("{name:?} not allowlisted"),
                Some(namespace) if shares(namespace) => format!("{name:?} not allowed with host {namespace} enabled"),
                Some(_) => continue,
            };
            return Err(Rejection::new("SysctlForbidden", format!("forbidden sysctl: {cause}")));
        }
        Ok(())
    }

    fn namespace_of(&self, name: &str) -> Option<Namespace> {
        let by_prefix = || self.prefixes.iter().find(|(prefix, _)| name.starts_with(prefix.as_str()));
        self.names.get(name).or_else(|| by_prefix().map(|(_, namespace)| namespace)).copied()
    }
}

/// The first two numbers of a kernel's release; 0.0 if there are none, so that only what every kernel has is safe.
fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("6.18.0-rc1+", (6, 18))]
    #[case("4.5.0", (4, 5))]
    #[case("3.16", (3, 16))]
    #[case("odd", (0, 0))]
    #[case("", (0, 0))]
    fn kernel_versions(#[case] release: &str, #[case] version: (u32, u32)) {
        assert_eq!(kernel_version(release), version);
    }

    #[rstest]
    #[case("3.10.0", 5)]
    #[case("3.16.0", 6)]
    #[case("4.5.0", 9)]
    #[case("4.6.0", 11)]
    #[case("4.15.0", 14)]
    #[case("6.18.0", 14)]
    fn old_kernels_have_fewer_safe_sysctls(#[case] release: &str, #[case] count: usize) {
        assert_eq!(SysctlAllowlist::new(release, &[]).names.len(), count);
    }
}
