//! Feature gates: what is known, what is on, and what a user may set (`featuregate` of component-base).

mod table;

use std::collections::BTreeMap;
use std::fmt;

use table::GATES;
pub use table::Gate;

/// How far a feature has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Off by default, may go.
    Alpha,
    /// Complete.
    Beta,
    /// Done; the gate will go.
    Stable,
    /// The gate will go, and the feature with it or not.
    Deprecated,
}

/// What is known of a gate.
#[derive(Debug)]
struct Spec {
    gate: Gate,
    name: &'static str,
    stage: Stage,
    default: bool,
    /// Only the default may be set.
    locked: bool,
    /// Gates that must be on if this one is.
    needs: &'static [Gate],
}

/// Which features are on: the defaults and what was set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FeatureGates {
    set: BTreeMap<Gate, bool>,
}

/// Why gates cannot be set as asked. Each names the gates, the value and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// No such gate.
    #[error("featureGates (--feature-gates): {name} is not a feature gate of Kubernetes 1.37")]
    Unknown {
        /// The name.
        name: String,
    },
    /// The gate only takes its default.
    #[error("featureGates (--feature-gates): {name} cannot be {value}, it is locked to {default}")]
    Locked {
        /// The gate.
        name: &'static str,
        /// What was asked.
        value: bool,
        /// What it is locked to.
        default: bool,
    },
    /// A gate that is on needs one that is off.
    #[error("featureGates (--feature-gates): {name} is on but needs {needs}, which is off")]
    Needs {
        /// The gate that is on.
        name: &'static str,
        /// The gate that is off.
        needs: &'static str,
    },
}

impl Gate {
    fn spec(self) -> &'static Spec {
        // The table is made in the order of the variants.
        &GATES[self as usize]
    }

    /// The gate's name.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// The gate's stage in Kubernetes 1.37.
    pub fn stage(self) -> Stage {
        self.spec().stage
    }

    /// The gate's default in Kubernetes 1.37.
    pub fn default(self) -> bool {
        self.spec().default
    }

    /// Whether only the default may be set.
    pub fn is_locked(self) -> bool {
        self.spec().locked
    }

    /// The gate of that name.
    pub fn by_name(name: &str) -> Option<Gate> {
        GATES.iter().find(|spec| spec.name == name).map(|spec| spec.gate)
    }

    /// All gates by name.
    pub fn all() -> impl Iterator<Item = Gate> {
        GATES.iter().map(|spec| spec.gate)
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FeatureGates {
    /// The gates with these set; `AllAlpha` and `AllBeta` set those of their stage that are not named.
    ///
    /// Fails as the peer does for unknown gates, locked ones and broken dependencies; all locked gates are reported.
    pub fn from_map(map: &BTreeMap<String, bool>) -> Result<Self, Vec<GateError>> {
        let mut errors = Vec::new();
        let mut set = BTreeMap::new();
        for (name, &value) in map {
            let Some(gate) = Gate::by_name(name) else {
                errors.push(GateError::Unknown { name: name.clone() });
                continue;
            };
            if gate.is_locked() && gate.default() != value {
                errors.push(GateError::Locked { name: gate.name(), value, default: gate.default() });
                continue;
            }
            set.insert(gate, value);
        }
        for (all, stage) in [(Gate::AllAlpha, Stage::Alpha), (Gate::AllBeta, Stage::Beta)] {
            let Some(&value) = set.get(&all) else { continue };
            for gate in Gate::all().filter(|gate| gate.stage() == stage) {
                if gate != Gate::AllAlpha && gate != Gate::AllBeta {
                    set.entry(gate).or_insert(value);
                }
            }
        }
        let gates = FeatureGates { set };
        if errors.is_empty() {
            errors.extend(gates.broken_dependencies());
        }
        if errors.is_empty() { Ok(gates) } else { Err(errors) }
    }

    /// Whether a feature is on.
    pub fn enabled(&self, gate: Gate) -> bool {
        self.set.get(&gate).copied().unwrap_or_else(|| gate.default())
    }

    /// The gates that differ from their defaults.
    pub fn changed(&self) -> impl Iterator<Item = (Gate, bool)> {
        self.set.iter().map(|(&gate, &value)| (gate, value)).filter(|(gate, value)| gate.default() != *value)
    }

    /// What a start-up log should say of gates that were set though they are about to go.
    pub(super) fn warnings(map: &BTreeMap<String, bool>) -> impl Iterator<Item = String> {
        map.iter().filter_map(|(name, value)| {
            let gate = Gate::by_name(name)?;
            let stage = match gate.stage() {
                Stage::Stable => "stable",
                Stage::Deprecated => "deprecated",
                Stage::Alpha | Stage::Beta => return None,
            };
            Some(format!("feature gate {name}={value}: the gate is {stage} and will be removed in a later release"))
        })
    }

    fn broken_dependencies(&self) -> impl Iterator<Item = GateError> {
        Gate::all().filter(|gate| self.enabled(*gate)).flat_map(|gate| {
            let needs = gate.spec().needs.iter();
            needs
                .filter(|needed| !self.enabled(**needed))
                .map(move |needed| GateError::Needs { name: gate.name(), needs: needed.name() })
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn map(pairs: &[(&str, bool)]) -> BTreeMap<String, bool> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn table_is_in_the_order_of_the_enum_and_complete() {
        for (position, spec) in GATES.iter().enumerate() {
            assert_eq!(spec.gate as usize, position, "{}", spec.name);
        }
        // As many as kubelet v1.37.2 registers.
        assert_eq!(GATES.len(), 254);
        assert!(GATES.is_sorted_by_key(|spec| spec.name));
    }

    #[rstest]
    #[case(Gate::MemoryQoS, Stage::Beta, true, false)]
    #[case(Gate::NodeSwap, Stage::Stable, true, true)]
    #[case(Gate::EventedPLEG, Stage::Alpha, false, false)]
    #[case(Gate::DisableNodeKubeProxyVersion, Stage::Deprecated, true, true)]
    #[case(Gate::GitRepoVolumeDriver, Stage::Deprecated, false, true)]
    #[case(Gate::KubeletCrashLoopBackOffMax, Stage::Beta, true, false)]
    #[case(Gate::CustomCPUCFSQuotaPeriod, Stage::Stable, true, false)]
    #[case(Gate::PodAndContainerStatsFromCRI, Stage::Beta, false, false)]
    #[case(Gate::LoggingBetaOptions, Stage::Beta, true, false)]
    fn knows_the_gates_of_the_peer(
        #[case] gate: Gate,
        #[case] stage: Stage,
        #[case] default: bool,
        #[case] locked: bool,
    ) {
        assert_eq!((gate.stage(), gate.default(), gate.is_locked()), (stage, default, locked));
        assert_eq!(FeatureGates::default().enabled(gate), default);
    }

    #[test]
    fn the_defaults_satisfy_their_dependencies() {
        assert_eq!(FeatureGates::from_map(&BTreeMap::new()).unwrap().broken_dependencies().count(), 0);
    }

    #[test]
    fn sets_gates_and_tells_what_changed() {
        let gates = FeatureGates::from_map(&map(&[("EventedPLEG", true), ("NodeSwap", true)])).unwrap();
        assert!(gates.enabled(Gate::EventedPLEG));
        assert_eq!(gates.changed().collect::<Vec<_>>(), [(Gate::EventedPLEG, true)]);
    }

    #[test]
    fn all_alpha_and_all_beta_spare_what_is_named() {
        let gates =
            FeatureGates::from_map(&map(&[("AllAlpha", true), ("EventedPLEG", false), ("AllBeta", true)])).unwrap();
        assert!(gates.enabled(Gate::CRIListStreaming));
        assert!(!gates.enabled(Gate::EventedPLEG));
        assert!(gates.enabled(Gate::PodAndContainerStatsFromCRI));
        assert!(!gates.enabled(Gate::ChangeContainerStatusOnKubeletRestart));
    }

    #[test]
    fn refuses_what_the_peer_refuses() {
        let errors = FeatureGates::from_map(&map(&[("NoSuchGate", true), ("NodeSwap", false)])).unwrap_err();
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "featureGates (--feature-gates): NoSuchGate is not a feature gate of Kubernetes 1.37",
                "featureGates (--feature-gates): NodeSwap cannot be false, it is locked to true",
            ]
        );
        let errors = FeatureGates::from_map(&map(&[("GracefulNodeShutdown", false)])).unwrap_err();
        assert_eq!(
            errors,
            [
                GateError::Needs { name: "GracefulNodeShutdownBasedOnPodPriority", needs: "GracefulNodeShutdown" },
                GateError::Needs { name: "WindowsGracefulNodeShutdown", needs: "GracefulNodeShutdown" },
            ]
        );
    }

    #[test]
    fn a_locked_gate_takes_its_default() {
        let wanted = map(&[("NodeSwap", true)]);
        assert!(FeatureGates::from_map(&wanted).is_ok());
        let warnings: Vec<_> = FeatureGates::warnings(&wanted).collect();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("NodeSwap=true"), "{warnings:?}");
    }
}
