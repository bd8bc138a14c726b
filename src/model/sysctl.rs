//! Names of sysctls and the kernel namespaces that they belong to.

use std::fmt;

/// The kernel namespace that a sysctl belongs to: only sysctls of a namespace that a pod has for itself can be its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// Semaphores, shared memory, message queues.
    Ipc,
    /// The network.
    Net,
    /// Host and domain name.
    Uts,
    /// Users.
    User,
}

impl fmt::Display for Namespace {
    /// The name as messages about forbidden sysctls spell it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Namespace::Ipc => "IPC",
            Namespace::Net => "Net",
            Namespace::Uts => "UTS",
            Namespace::User => "User",
        })
    }
}

/// A sysctl's name with dots between its parts. The one with slashes, `net/ipv4/conf/eth0.1/x`, has dots within a part.
pub fn normal_name(name: &str) -> String {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        _ => c,
    };
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name.chars().map(swap).collect(),
        _ => name.to_owned(),
    }
}

/// The namespace of a sysctl by its normal name, or of all sysctls that begin with a prefix of such a name; none if it is not
/// known to have one.
pub fn namespace_of(name: &str) -> Option<Namespace> {
    match name {
        "kernel.domainname" => Some(Namespace::Uts),
        "kernel.sem"
        | "kernel.shm"
        | "kernel.shmall"
        | "kernel.shmmax"
        | "kernel.shmmni"
        | "kernel.shm_rmid_forced"
        | "kernel.msg"
        | "kernel.msgmax"
        | "kernel.msgmnb"
        | "kernel.msgmni" => Some(Namespace::Ipc),
        _ if name.starts_with("net.") => Some(Namespace::Net),
        _ if name.starts_with("fs.mqueue.") => Some(Namespace::Ipc),
        _ if name.starts_with("user.") => Some(Namespace::User),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("net.ipv4.ip_forward", "net.ipv4.ip_forward")]
    #[case("net/ipv4/conf/eno2.100/rp_filter", "net.ipv4.conf.eno2/100.rp_filter")]
    #[case("net.ipv4.conf.eno2/100.rp_filter", "net.ipv4.conf.eno2/100.rp_filter")]
    #[case("single", "single")]
    #[case("", "")]
    fn normal_names(#[case] name: &str, #[case] expected: &str) {
        assert_eq!(normal_name(name), expected);
    }

    #[rstest]
    #[case("kernel.domainname", Some(Namespace::Uts))]
    #[case("kernel.sem", Some(Namespace::Ipc))]
    #[case("kernel.shm", Some(Namespace::Ipc))]
    #[case("fs.mqueue.msg_max", Some(Namespace::Ipc))]
    #[case("net.core.somaxconn", Some(Namespace::Net))]
    #[case("user.max_user_namespaces", Some(Namespace::User))]
    #[case("kernel.pid_max", None)]
    #[case("kernel.shmx", None)]
    #[case("netx.y", None)]
    #[case("net", None)]
    #[case("", None)]
    fn namespaces(#[case] name: &str, #[case] expected: Option<Namespace>) {
        assert_eq!(namespace_of(name), expected);
    }
}
