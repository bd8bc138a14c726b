//! Capacity and allocatable of the node (KEP-0016 node allocatable; peer: `nodestatus.MachineInfo`,
//! `cm.GetNodeAllocatableReservation`).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::model::quantity::{self, Amount, Format, QuantityError};
pub use crate::model::resources::is_extended;
use crate::sys::machine::MachineFacts;

use super::settings::{NodeFacts, NodeSettings};

/// Amounts by resource name, as in the API.
pub type ResourceList = BTreeMap<String, Quantity>;

/// What is held back from pods.
#[derive(Clone, Debug, Default)]
pub struct Reservations {
    /// `systemReserved`; with `reservedSystemCPUs` its `cpu` is the size of that set.
    pub system: BTreeMap<String, Amount>,
    /// `kubeReserved`.
    pub kube: BTreeMap<String, Amount>,
    /// The part of `evictionHard` that is reserved: `memory.available` and `nodefs.available`.
    pub eviction: EvictionReservation,
}

/// Thresholds of hard eviction that reduce what is allocatable.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EvictionReservation {
    /// `memory.available`.
    pub memory: Option<Threshold>,
    /// `nodefs.available`.
    pub ephemeral_storage: Option<Threshold>,
}

/// An eviction threshold's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// An amount.
    Amount(Amount),
    /// A part of the capacity, 0 to 1. In single precision, as the API server's peers compute it.
    Part(f32),
}

/// An eviction threshold that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    /// Neither a percentage nor a quantity.
    #[error("evictionHard {signal}")]
    Quantity {
        /// The signal.
        signal: &'static str,
        /// Why.
        source: QuantityError,
    },
    /// A percentage outside 0% to 100%.
    #[error("evictionHard {signal}: {text:?} is no percentage between 0% and 100%")]
    Percentage {
        /// The signal.
        signal: &'static str,
        /// The text.
        text: String,
    },
}

impl EvictionReservation {
    /// Reads `evictionHard` (after defaulting).
    pub fn of(eviction_hard: &BTreeMap<String, String>) -> Result<Self, ThresholdError> {
        let threshold = |signal: &'static str| match eviction_hard.get(signal) {
            Some(text) => Threshold::parse(signal, text),
            None => Ok(None),
        };
        Ok(EvictionReservation {
            memory: threshold("memory.available")?,
            ephemeral_storage: threshold("nodefs.available")?,
        })
    }
}

impl Threshold {
    /// None for `0%` and `100%`, which switch a threshold off.
    fn parse(signal: &'static str, text: &str) -> Result<Option<Self>, ThresholdError> {
        let Some(percentage) = text.strip_suffix('%') else {
            let amount = quantity::parse(text).map_err(|source| ThresholdError::Quantity { signal, source })?;
            return Ok(Some(Threshold::Amount(amount)));
        };
        if matches!(text, "0%" | "100%") {
            return Ok(None);
        }
        match percentage.parse::<f32>() {
            Ok(percentage) if (0.0..=100.0).contains(&percentage) => Ok(Some(Threshold::Part(percentage / 100.0))),
            _ => Err(ThresholdError::Percentage { signal, text: text.to_owned() }),
        }
    }

    fn of_capacity(self, capacity: Amount) -> Amount {
        match self {
            Threshold::Amount(amount) => amount,
            #[allow(clippy::cast_possible_truncation, reason = "a part of an i64, cut to whole units as the peer does")]
            Threshold::Part(part) => Amount::from_units((capacity.value() as f64 * f64::from(part)) as i64),
        }
    }
}

/// Resources that device plugins provide; empty until they register.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceResources {
    /// All devices by resource.
    pub capacity: ResourceList,
    /// Healthy devices by resource.
    pub allocatable: ResourceList,
    /// Resources whose plugin is gone: shown as 0, so that they stay known as node-level.
    pub removed: Vec<String>,
}

/// CPU, memory and huge pages: what the machine itself has.
pub fn machine_capacity(machine: &MachineFacts) -> BTreeMap<String, Amount> {
    let mut capacity = BTreeMap::from([
        ("cpu".to_owned(), Amount::from_units(i64::from(machine.cpus))),
        ("memory".to_owned(), Amount::from_units(machine.memory_bytes)),
    ]);
    for pool in &machine.huge_pages {
        let name = format!("hugepages-{}", quantity::binary(pool.page_bytes).0);
        capacity.insert(name, Amount::from_units(pool.page_bytes.saturating_mul(pool.pages)));
    }
    capacity
}

/// The machine's capacity and its ephemeral storage: the resources that can be reserved.
pub fn reservable_capacity(facts: &NodeFacts, local_storage_isolation: bool) -> BTreeMap<String, Amount> {
    let mut capacity = machine_capacity(&facts.machine);
    if let Some(bytes) = facts.ephemeral_storage_bytes.filter(|_| local_storage_isolation) {
        capacity.insert("ephemeral-storage".to_owned(), Amount::from_units(bytes));
    }
    capacity
}

/// What scheduling must leave free of each reservable resource; only amounts above nothing.
pub fn reserved(reservations: &Reservations, capacity: &BTreeMap<String, Amount>) -> BTreeMap<String, Amount> {
    let of = |name: &String, available: Amount| {
        let eviction = match name.as_str() {
            "memory" => reservations.eviction.memory,
            "ephemeral-storage" => reservations.eviction.ephemeral_storage,
            _ => None,
        };
        [&reservations.system, &reservations.kube]
            .into_iter()
            .filter_map(|reservation| reservation.get(name).copied())
            .chain(eviction.map(|threshold| threshold.of_capacity(available)))
            .fold(Amount::default(), |sum, amount| sum + amount)
    };
    let all = capacity.iter().map(|(name, available)| (name.clone(), of(name, *available)));
    all.filter(|(_, amount)| *amount != Amount::default()).collect()
}

/// Reservations larger than what the machine has, as texts for an error at the start; empty if all is well.
pub fn excessive_reservations(reservations: &Reservations, facts: &NodeFacts) -> Vec<String> {
    let capacity = reservable_capacity(facts, true);
    let excess = |(name, reserved): (String, Amount)| {
        let available = capacity.get(&name).copied().unwrap_or_default();
        let text = |amount: Amount| amount_text(&name, amount).0;
        (reserved > available).then(|| {
            let (reserved, available) = (text(reserved), text(available));
            format!(
                "Resource {name:?} has a reservation of {reserved} but capacity of {available}. Expected capacity >= \
                 reservation."
            )
        })
    };
    self::reserved(reservations, &capacity).into_iter().filter_map(excess).collect()
}

/// Writes the node's resources over those of an existing status: capacity and allocatable. Resources that are not the
/// agent's own (patched in by an administrator) stay.
pub fn apply(
    capacity: &mut ResourceList,
    allocatable: &mut ResourceList,
    settings: &NodeSettings,
    facts: &NodeFacts,
    devices: &DeviceResources,
) {
    let machine = reservable_capacity(facts, settings.local_storage_isolation);
    for (name, amount) in &machine {
        set(capacity, name, amount_text(name, *amount));
    }
    set(capacity, "pods", quantity::decimal(pod_capacity(settings, facts)));
    for (name, amount) in &devices.capacity {
        set(capacity, name, amount.clone());
    }
    for name in &devices.removed {
        set(capacity, name, quantity::decimal(0));
    }

    allocatable.retain(|name, _| capacity.contains_key(name) || !is_extended(name));
    let reserved = reserved(&settings.reservations, &machine);
    let huge_pages = capacity.iter().filter(|(name, _)| is_huge_page(name)).map(|(_, amount)| amount_of(amount));
    let huge_pages = huge_pages.fold(Amount::default(), |sum, amount| sum + amount);
    for (name, amount) in capacity.iter() {
        let mut held_back = reserved.get(name).copied().unwrap_or_default();
        if name == "memory" {
            // Not one sum: a reservation above the capacity counts as all of it.
            let rest = (amount_of(amount) - held_back).max(Amount::default());
            held_back = amount_of(amount) - rest + huge_pages;
        }
        let value = if held_back == Amount::default() {
            amount.clone()
        } else {
            amount_text(name, (amount_of(amount) - held_back).max(Amount::default()))
        };
        set(allocatable, name, value);
    }
    for (name, amount) in &devices.allocatable {
        set(allocatable, name, amount.clone());
    }
}

/// `maxPods`, or fewer where `podsPerCore` allows no more.
pub fn pod_capacity(settings: &NodeSettings, facts: &NodeFacts) -> i64 {
    let maximum = i64::from(settings.max_pods);
    match i64::from(settings.pods_per_core) {
        per_core if per_core > 0 => maximum.min(per_core.saturating_mul(i64::from(facts.machine.cpus))),
        _ => maximum,
    }
}

/// The amount in the form that the resource is customarily shown in.
fn amount_text(name: &str, amount: Amount) -> Quantity {
    let format = if name == "memory" || is_huge_page(name) { Format::BinarySi } else { Format::DecimalSi };
    amount.quantity(format)
}

/// A quantity's amount; the API server stores none that cannot be read.
pub(super) fn amount_of(quantity: &Quantity) -> Amount {
    Amount::from_quantity(quantity).unwrap_or_default()
}

/// Sets an entry unless it says the same in other words, so that the API server's spelling is no change.
pub(super) fn set(list: &mut ResourceList, name: &str, quantity: Quantity) {
    match list.get_mut(name) {
        Some(present) if is_same_amount(present, &quantity) => {}
        Some(present) => *present = quantity,
        None => {
            list.insert(name.to_owned(), quantity);
        }
    }
}

/// Whether two quantities are the same amount, however written.
pub(super) fn is_same_amount(one: &Quantity, other: &Quantity) -> bool {
    one == other || matches!((Amount::from_quantity(one), Amount::from_quantity(other)), (Ok(a), Ok(b)) if a == b)
}

/// `hugepages-2Mi` and its likes.
pub fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::sys::machine::HugePages;

    fn facts() -> NodeFacts {
        let machine = MachineFacts {
            cpus: 4,
            memory_bytes: 8_000_000 * 1024,
            huge_pages: vec![
                HugePages { page_bytes: 2 << 20, pages: 256 },
                HugePages { page_bytes: 1 << 30, pages: 0 },
            ],
            ..MachineFacts::default()
        };
        NodeFacts { machine, ephemeral_storage_bytes: Some(100_000_000_001) }
    }

    fn amounts(entries: &[(&str, &str)]) -> BTreeMap<String, Amount> {
        entries.iter().map(|(name, text)| ((*name).to_owned(), quantity::parse(text).unwrap())).collect()
    }

    fn strings(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    fn applied(settings: &NodeSettings, capacity: &[(&str, &str)]) -> (ResourceList, ResourceList) {
        let mut capacity = strings(capacity).into_iter().map(|(name, text)| (name, Quantity(text))).collect();
        let mut allocatable = ResourceList::from([("example.com/gone".to_owned(), Quantity("1".into()))]);
        apply(&mut capacity, &mut allocatable, settings, &facts(), &DeviceResources::default());
        (capacity, allocatable)
    }

    fn texts(list: &ResourceList) -> Vec<(&str, &str)> {
        list.iter().map(|(name, amount)| (name.as_str(), amount.0.as_str())).collect()
    }

    #[test]
    fn allocatable_is_what_reservations_leave() {
        let mut settings = NodeSettings::named("n");
        settings.reservations = Reservations {
            system: amounts(&[("cpu", "250m"), ("memory", "200Mi"), ("pid", "1000"), ("pods", "10")]),
            kube: amounts(&[("cpu", "250m"), ("ephemeral-storage", "1Gi")]),
            eviction: EvictionReservation::of(&strings(&[("memory.available", "100Mi"), ("nodefs.available", "10%")]))
                .unwrap(),
        };
        let (capacity, allocatable) = applied(&settings, &[("example.com/patched", "3")]);
        assert_eq!(
            texts(&capacity),
            [
                ("cpu", "4"),
                ("ephemeral-storage", "100000000001"),
                ("example.com/patched", "3"),
                ("hugepages-1Gi", "0"),
                ("hugepages-2Mi", "512Mi"),
                ("memory", "8000000Ki"),
                ("pods", "110"),
            ]
        );
        assert_eq!(
            texts(&allocatable),
            [
                ("cpu", "3500m"),
                ("ephemeral-storage", "88926258028"),
                ("example.com/patched", "3"),
                ("hugepages-1Gi", "0"),
                ("hugepages-2Mi", "512Mi"),
                // 8000000Ki - 300Mi - 512Mi of huge pages
                ("memory", "7168512Ki"),
                ("pods", "110"),
            ]
        );
    }

    #[test]
    fn nothing_becomes_negative() {
        let mut settings = NodeSettings::named("n");
        settings.reservations.system = amounts(&[("cpu", "5"), ("memory", "1Ti")]);
        let (_, allocatable) = applied(&settings, &[]);
        assert_eq!((allocatable["cpu"].0.as_str(), allocatable["memory"].0.as_str()), ("0", "0"));
        assert_eq!(
            excessive_reservations(&settings.reservations, &facts()),
            [
                "Resource \"cpu\" has a reservation of 5 but capacity of 4. Expected capacity >= reservation.",
                "Resource \"memory\" has a reservation of 1Ti but capacity of 8000000Ki. Expected capacity >= reservation.",
            ]
        );
        assert_eq!(excessive_reservations(&Reservations::default(), &facts()), Vec::<String>::new());
    }

    #[test]
    fn another_spelling_is_no_change() {
        let (capacity, _) = applied(&NodeSettings::named("n"), &[("memory", "8192000000"), ("cpu", "4000m")]);
        assert_eq!((capacity["memory"].0.as_str(), capacity["cpu"].0.as_str()), ("8192000000", "4000m"));
    }

    #[test]
    fn local_storage_can_be_left_out() {
        let settings = NodeSettings { local_storage_isolation: false, ..NodeSettings::named("n") };
        let (capacity, _) = applied(&settings, &[]);
        assert!(!capacity.contains_key("ephemeral-storage"));
    }

    #[test]
    fn devices_are_shown_as_their_plugins_tell() {
        let list = |text: &str| ResourceList::from([("example.com/gpu".to_owned(), Quantity(text.into()))]);
        let devices = DeviceResources {
            capacity: list("4"),
            allocatable: list("3"),
            removed: vec!["example.com/old".to_owned()],
        };
        let (mut capacity, mut allocatable) = (ResourceList::new(), ResourceList::new());
        apply(&mut capacity, &mut allocatable, &NodeSettings::named("n"), &facts(), &devices);
        assert_eq!((capacity["example.com/gpu"].0.as_str(), allocatable["example.com/gpu"].0.as_str()), ("4", "3"));
        assert_eq!((capacity["example.com/old"].0.as_str(), allocatable["example.com/old"].0.as_str()), ("0", "0"));
    }

    #[rstest]
    #[case(110, 0, 110)]
    #[case(110, 10, 40)]
    #[case(30, 10, 30)]
    fn pods_per_core_limits_pods(#[case] max_pods: i32, #[case] pods_per_core: i32, #[case] expected: i64) {
        let settings = NodeSettings { max_pods, pods_per_core, ..NodeSettings::named("n") };
        assert_eq!(pod_capacity(&settings, &facts()), expected);
    }

    #[rstest]
    #[case("10%", Ok(Some(Threshold::Part(0.1))))]
    #[case("0%", Ok(None))]
    #[case("100%", Ok(None))]
    #[case("100Mi", Ok(Some(Threshold::Amount(Amount::from_units(100 << 20)))))]
    #[case("-1%", Err("evictionHard memory.available: \"-1%\" is no percentage between 0% and 100%"))]
    #[case("101%", Err("evictionHard memory.available: \"101%\" is no percentage between 0% and 100%"))]
    #[case("lots", Err("evictionHard memory.available"))]
    fn reads_thresholds(#[case] text: &str, #[case] expected: Result<Option<Threshold>, &str>) {
        let result = EvictionReservation::of(&strings(&[("memory.available", text)]));
        assert_eq!(result.map(|r| r.memory).map_err(|e| e.to_string()), expected.map_err(str::to_owned));
    }

    #[rstest]
    #[case("example.com/gpu", true)]
    #[case("cpu", false)]
    #[case("kubernetes.io/batch", false)]
    #[case("scheduling.kubernetes.io/foo", false)]
    #[case("requests.example.com/gpu", false)]
    #[case("hugepages-2Mi", false)]
    fn tells_extended_resources(#[case] name: &str, #[case] expected: bool) {
        assert_eq!(is_extended(name), expected);
    }
}
