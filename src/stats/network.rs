//! What went over a network namespace's interfaces, from `/proc/<pid>/net/dev`. Pure.

/// The interface that stands for a pod or node as a whole.
const MAIN: &str = "eth0";
/// Beginnings of names of interfaces that only pass on what others send.
const PASSING: [&str; 4] = ["lo", "veth", "docker", "nerdctl"];

/// What went over one interface since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// What came in.
    pub received: Traffic,
    /// What went out.
    pub transmitted: Traffic,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Errors.
    pub errors: u64,
    /// Packets that were dropped.
    pub dropped: u64,
}

/// The interfaces of a namespace, without those that only pass on.
pub(super) fn parse(text: &str) -> Vec<Interface> {
    text.lines().filter_map(interface).collect()
}

/// The interface that stands for the whole.
pub(super) fn main(interfaces: &[Interface]) -> Option<&Interface> {
    interfaces.iter().find(|interface| interface.name == MAIN)
}

fn interface(line: &str) -> Option<Interface> {
    let (name, counts) = line.split_once(':')?;
    let name = name.trim();
    if PASSING.iter().any(|beginning| name.starts_with(beginning)) {
        return None;
    }
    let counts: Vec<u64> = counts.split_whitespace().map_while(|count| count.parse().ok()).collect();
    let side = |at: usize| {
        let count = |offset: usize| counts.get(at + offset).copied();
        Some(Traffic { bytes: count(0)?, packets: count(1)?, errors: count(2)?, dropped: count(3)? })
    };
    Some(Interface { name: name.to_owned(), received: side(0)?, transmitted: side(8)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: &str = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       5       1    0    0    0     0          0         0        5       1    0    0    0     0       0          0
  eth0:    1776      20    1    2    0     0          0         0      682       9    3    4    0     0       0          0
veth1a:    1776      20    1    2    0     0          0         0      682       9    3    4    0     0       0          0
 short: 1 2
";

    #[test]
    fn interfaces_that_pass_on_are_left_out() {
        let interfaces = parse(RECORDED);
        let received = Traffic { bytes: 1776, packets: 20, errors: 1, dropped: 2 };
        let transmitted = Traffic { bytes: 682, packets: 9, errors: 3, dropped: 4 };
        assert_eq!(interfaces, [Interface { name: "eth0".to_owned(), received, transmitted }]);
        assert_eq!(main(&interfaces).map(|i| i.name.as_str()), Some("eth0"));
    }
}
