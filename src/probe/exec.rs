//! Probes by a command in the container: exit code 0 is a success, any other a failure, and so is one that takes too long.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ExecAction};

use super::attempt::{Attempt, MAX_OUTPUT};
use crate::model::field_ref::go_quote;
use crate::model::go_duration::GoDuration;
use crate::runtime::client::RuntimeClient;
use crate::runtime::translate::expand_bytes;

/// The command with its `$(VAR)` references replaced. Only variables with a plain value count: others are not known here,
/// nor are they to the peer.
pub(super) fn command(action: &ExecAction, container: &Container) -> Vec<String> {
    let value_of = |name: &str| {
        let env = container.env.iter().flatten().rev().find(|env| env.name == name)?;
        Some(env.value.as_deref().unwrap_or_default().as_bytes())
    };
    let expand = |part: &String| String::from_utf8_lossy(&expand_bytes(part, value_of)).into_owned();
    action.command.iter().flatten().map(expand).collect()
}

/// Runs the command.
pub(super) async fn probe(runtime: &RuntimeClient, id: &str, command: Vec<String>, timeout: Duration) -> Attempt {
    let line = command.join(" ");
    match runtime.exec_sync(id, command, timeout).await {
        Ok(output) if output.exit_code == 0 => Attempt::Success,
        Ok(output) => {
            let mut text = output.stdout;
            text.extend_from_slice(&output.stderr);
            text.truncate(MAX_OUTPUT);
            Attempt::Failure(String::from_utf8_lossy(&text).into_owned())
        }
        Err(error) if error.is_timeout() => {
            let after = GoDuration::from(timeout);
            Attempt::Failure(format!("command timed out: {} timed out after {after}", go_quote(&line)))
        }
        Err(error) => Attempt::unknown(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource};

    use super::*;

    #[test]
    fn references_to_plain_variables_are_replaced() {
        let var =
            |name: &str, value: &str| EnvVar { name: name.into(), value: Some(value.into()), ..EnvVar::default() };
        let from = EnvVar { name: "FROM".into(), value_from: Some(EnvVarSource::default()), ..EnvVar::default() };
        let container = Container { env: Some(vec![var("A", "one"), var("A", "two"), from]), ..Container::default() };
        let action = ExecAction { command: Some(["$(A)/x", "$(B)", "$$(A)", "[$(FROM)]"].map(Into::into).into()) };
        assert_eq!(command(&action, &container), ["two/x", "$(B)", "$(A)", "[]"]);
    }
}
