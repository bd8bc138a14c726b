//! Whether a container that ended is started again.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, PodSpec};

use crate::model::observation::Exit;
use crate::model::pod;

/// The action of a rule that starts its own container again. Any other leaves the decision to the policy.
const RESTART: &str = "Restart";
/// The action of a rule that starts all containers of the pod anew.
const RESTART_ALL: &str = "RestartAllContainers";

/// How far containers' own restart policies and rules count (gates ContainerRestartRules, RestartAllContainersOnContainerExits).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartRules {
    /// Not at all: the pod's policy alone decides, except that sidecars are always started again.
    Ignored,
    /// Each for its own container; a rule that would start all anew leaves the decision to the policy.
    OwnContainer,
    /// Also for all containers of the pod.
    #[default]
    AllContainers,
}

impl RestartRules {
    /// Whether the container's end with that code makes all containers of the pod start anew.
    pub(super) fn asks_for_all(self, container: &Container, code: i32) -> bool {
        self == RestartRules::AllContainers && rule(container, code).is_some_and(|rule| rule.action == RESTART_ALL)
    }

    /// Whether any end of the container does.
    pub(super) fn can_ask_for_all(self, container: &Container) -> bool {
        let mut rules = container.restart_policy_rules.iter().flatten();
        self == RestartRules::AllContainers && rules.any(|rule| rule.action == RESTART_ALL)
    }

    /// The restart policy that holds for the container: its own, else the pod's.
    pub(super) fn policy<'a>(self, spec: &'a PodSpec, container: &'a Container, is_init: bool) -> &'a str {
        let counts = self != RestartRules::Ignored || (is_init && pod::is_sidecar(container));
        let own = container.restart_policy.as_deref().filter(|_| counts);
        own.or(spec.restart_policy.as_deref()).unwrap_or("Always")
    }

    /// Whether the container is started again after an exit with that code: by the first of its own rules that knows the code,
    /// else by its own restart policy, else by the pod's.
    pub(super) fn should_restart(self, spec: &PodSpec, container: &Container, code: i32, is_init: bool) -> bool {
        // An init container that succeeded has done its work, whatever its rules say of its code.
        let is_done = is_init && code == 0 && !pod::is_sidecar(container);
        let by_rule = match rule(container, code).filter(|_| !is_done) {
            Some(rule) if rule.action == RESTART => self != RestartRules::Ignored,
            Some(rule) if rule.action == RESTART_ALL => self == RestartRules::AllContainers,
            _ => false,
        };
        if by_rule {
            return true;
        }
        match self.policy(spec, container, is_init) {
            "Never" => false,
            "OnFailure" => code != 0,
            // An init container of a pod that restarts always is done once it succeeded; a sidecar never is.
            _ => !is_init || container.restart_policy.as_deref() == Some("Always") || code != 0,
        }
    }
}

/// The first of the container's rules that speaks of that exit code (`restartPolicyRules`, KEP 5307). Rules count only
/// beside a restart policy of the container's own.
fn rule(container: &Container, code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy.as_ref()?;
    container.restart_policy_rules.iter().flatten().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|value| *value == code);
            match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
    })
}

/// Whether an exit of a regular or init container counts as a success.
pub(super) fn is_success(exit: &Exit) -> bool {
    // An init container that the kernel killed for memory has failed even if its shell went on to exit with 0.
    exit.code == 0 && exit.reason != "OOMKilled"
}

/// Whether a container never came to run because the agent ended while the runtime was starting it: the runtime gives such a
/// start up with its caller. It is as good as one that was only created.
pub(super) fn was_cut_off(exit: &Exit) -> bool {
    exit.started_at.is_none() && exit.reason == "StartError" && exit.message.contains("context canceled")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ContainerRestartRuleOnExitCodes;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("Always", None, 0, false, true)]
    #[case("Always", None, 1, false, true)]
    #[case("OnFailure", None, 0, false, false)]
    #[case("OnFailure", None, 1, false, true)]
    #[case("Never", None, 1, false, false)]
    #[case("Always", None, 0, true, false)]
    #[case("Always", None, 1, true, true)]
    #[case("Never", None, 1, true, false)]
    #[case("Never", Some("Always"), 0, true, true)]
    #[case("Never", Some("OnFailure"), 1, false, true)]
    #[case("Always", Some("Never"), 1, false, false)]
    fn policies(
        #[case] pod: &str,
        #[case] own: Option<&str>,
        #[case] code: i32,
        #[case] is_init: bool,
        #[case] expected: bool,
    ) {
        let spec = PodSpec { restart_policy: Some(pod.into()), ..PodSpec::default() };
        let container = Container { restart_policy: own.map(Into::into), ..Container::default() };
        assert_eq!(RestartRules::default().should_restart(&spec, &container, code, is_init), expected);
    }

    #[rstest]
    #[case("Never", "In", &[42, 43], 42, true)]
    #[case("Never", "In", &[42, 43], 1, false)]
    #[case("Never", "NotIn", &[0], 1, true)]
    #[case("Never", "NotIn", &[0], 0, false)]
    #[case("OnFailure", "In", &[0], 0, true)]
    #[case("OnFailure", "In", &[42], 1, true)]
    #[case("Never", "Sometimes", &[42], 42, false)]
    fn rules_come_before_policies(
        #[case] own: &str,
        #[case] operator: &str,
        #[case] values: &[i32],
        #[case] code: i32,
        #[case] expected: bool,
    ) {
        let spec = PodSpec { restart_policy: Some("Never".into()), ..PodSpec::default() };
        let codes = ContainerRestartRuleOnExitCodes { operator: operator.into(), values: Some(values.to_vec()) };
        let rules = vec![ContainerRestartRule { action: "Restart".into(), exit_codes: Some(codes) }];
        let mut container = Container { restart_policy_rules: Some(rules), ..Container::default() };
        assert!(
            !RestartRules::default().should_restart(&spec, &container, code, false),
            "rules need a policy beside them"
        );
        container.restart_policy = Some(own.into());
        assert_eq!(RestartRules::default().should_restart(&spec, &container, code, false), expected);
        // An init container that succeeded is not run again.
        assert_eq!(RestartRules::default().should_restart(&spec, &container, code, true), expected && code != 0);
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let of = |action: &str, values: Vec<i32>| {
            let codes = ContainerRestartRuleOnExitCodes { operator: "In".into(), values: Some(values) };
            ContainerRestartRule { action: action.into(), exit_codes: Some(codes) }
        };
        let rules = vec![of("Other", vec![1]), of("Restart", vec![1, 2])];
        let container = Container {
            restart_policy: Some("Never".into()),
            restart_policy_rules: Some(rules),
            ..Container::default()
        };
        let spec = PodSpec::default();
        assert!(!RestartRules::default().should_restart(&spec, &container, 1, false));
        assert!(RestartRules::default().should_restart(&spec, &container, 2, false));
    }
    #[test]
    fn with_their_gates_off_rules_and_policies_of_containers_do_not_count() {
        let rule = |action: &str, code| {
            let codes = ContainerRestartRuleOnExitCodes { operator: "In".into(), values: Some(vec![code]) };
            ContainerRestartRule { action: action.into(), exit_codes: Some(codes) }
        };
        let of = |policy: &str, rules: Vec<ContainerRestartRule>| Container {
            restart_policy: Some(policy.into()),
            restart_policy_rules: Some(rules),
            ..Container::default()
        };
        let spec = PodSpec { restart_policy: Some("Never".into()), ..PodSpec::default() };
        let container = of("Never", vec![rule(RESTART, 1), rule(RESTART_ALL, 2)]);
        let decisions = |rules: RestartRules| {
            let codes = [1, 2, 3];
            codes.map(|code| {
                (rules.should_restart(&spec, &container, code, false), rules.asks_for_all(&container, code))
            })
        };
        assert_eq!(decisions(RestartRules::AllContainers), [(true, false), (true, true), (false, false)]);
        assert_eq!(decisions(RestartRules::OwnContainer), [(true, false), (false, false), (false, false)]);
        assert_eq!(decisions(RestartRules::Ignored), [(false, false); 3]);
        let always = of("Always", vec![]);
        assert!(!RestartRules::Ignored.should_restart(&spec, &always, 1, false), "the pod's policy decides");
        assert!(RestartRules::Ignored.should_restart(&spec, &always, 1, true), "a sidecar is one for all that");
    }
}
