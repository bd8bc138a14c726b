//! What happens to sandboxes and containers.

use std::sync::Arc;

use ferrolet::runtime::cri;
use tonic::Status;

use super::Shared;
use super::model::{Behaviour, Container, Sandbox};

use cri::ContainerEventType::{
    ContainerCreatedEvent as CREATED, ContainerDeletedEvent as DELETED, ContainerStartedEvent as STARTED,
    ContainerStoppedEvent as STOPPED,
};
use cri::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};

/// Exit code of a process that was ended by SIGTERM.
const TERMINATED: i32 = 143;
/// Exit code of a process that was ended by SIGKILL.
const KILLED: i32 = 137;

impl Shared {
    pub(super) fn run_sandbox(&self, config: cri::PodSandboxConfig, runtime_handler: String) -> Result<String, Status> {
        let metadata =
            config.metadata.clone().ok_or_else(|| Status::invalid_argument("sandbox config must include metadata"))?;
        let id = {
            let mut model = self.model();
            let taken = model.sandboxes.values().any(|s| s.config.metadata.as_ref() == Some(&metadata));
            if taken {
                let (name, attempt) = (&metadata.name, metadata.attempt);
                return Err(Status::unknown(format!(
                    "failed to reserve sandbox name {name}_{attempt}: name is reserved"
                )));
            }
            if model.sandboxes.values().any(|s| s.ready && s.metadata().uid == metadata.uid) {
                let violation = format!("a second ready sandbox of pod {}", metadata.uid);
                model.violations.push(violation);
            }
            let id = model.new_id("sandbox");
            let (created_at, ip) = (model.now(), model.new_ip());
            let mut sandbox = Sandbox { config, runtime_handler, created_at, ready: true, ip };
            if sandbox.is_host_network() {
                sandbox.ip.clear();
            }
            model.sandboxes.insert(id.clone(), sandbox);
            id
        };
        self.event(&id, &id, CREATED);
        self.event(&id, &id, STARTED);
        Ok(id)
    }

    pub(super) fn stop_sandbox(&self, id: &str) {
        let running: Vec<String> = {
            let model = self.model();
            let running = model.containers.iter().filter(|(_, c)| c.sandbox_id == id && c.is_running());
            running.map(|(id, _)| id.clone()).collect()
        };
        for container in running {
            self.exit(&container, KILLED, None);
        }
        let stopped = {
            let mut model = self.model();
            let sandbox = model.sandboxes.get_mut(id).filter(|sandbox| sandbox.ready);
            sandbox.map(|sandbox| sandbox.ready = false).is_some()
        };
        if stopped {
            self.event(id, id, STOPPED);
        }
    }

    pub(super) fn remove_sandbox(&self, id: &str) {
        self.stop_sandbox(id);
        let containers: Vec<String> = {
            let model = self.model();
            model.containers.iter().filter(|(_, c)| c.sandbox_id == id).map(|(id, _)| id.clone()).collect()
        };
        for container in containers {
            self.remove_container(&container);
        }
        let removed = self.model().sandboxes.remove(id).is_some();
        if removed {
            self.event(id, id, DELETED);
        }
    }

    pub(super) fn create_container(&self, request: cri::CreateContainerRequest) -> Result<String, Status> {
        let config = request.config.ok_or_else(|| Status::invalid_argument("container config must be set"))?;
        let sandbox_id = request.pod_sandbox_id;
        let id = {
            let mut model = self.model();
            if !model.sandbox(&sandbox_id)?.ready {
                return Err(Status::unknown(format!("sandbox container {sandbox_id:?} is not running")));
            }
            let wanted = config.image.as_ref().map(|i| i.image.clone()).unwrap_or_default();
            let missing = || Status::not_found(format!("failed to resolve image {wanted:?}: not found"));
            let image = model.find_image(&wanted).ok_or_else(missing)?;
            let taken = |c: &&Container| c.sandbox_id == sandbox_id && c.config.metadata == config.metadata;
            if model.containers.values().any(|c| taken(&c)) {
                return Err(Status::unknown(format!("failed to reserve container name {:?}", config.metadata)));
            }
            let log_directory = model.sandbox(&sandbox_id)?.config.log_directory.clone();
            let container = Container {
                log_path: format!("{log_directory}/{}", config.log_path),
                image_ref: super::model::image_id(&image),
                created_at: model.now(),
                started_at: 0,
                finished_at: 0,
                state: ContainerCreated,
                exit_code: 0,
                reason: String::new(),
                message: String::new(),
                behaviour: Behaviour::Run,
                sandbox_id: sandbox_id.clone(),
                config,
            };
            let id = model.new_id("container");
            model.containers.insert(id.clone(), container);
            id
        };
        self.event(&sandbox_id, &id, CREATED);
        Ok(id)
    }

    pub(super) fn start_container(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        let (sandbox_id, behaviour) = {
            let mut model = self.model();
            let container = model.container(id)?;
            let (name, state, sandbox_id) = (container.name(), container.state, container.sandbox_id.clone());
            if state != ContainerCreated {
                return Err(Status::unknown(format!("container is in {} state", state.as_str_name())));
            }
            if !model.sandbox(&sandbox_id)?.ready {
                return Err(Status::unknown(format!("sandbox container {sandbox_id:?} is not running")));
            }
            let pod_uid = model.pod_uid_of(&sandbox_id);
            let twin = model
                .containers
                .values()
                .any(|c| c.is_running() && c.name() == name && model.pod_uid_of(&c.sandbox_id) == pod_uid);
            if twin {
                model.violations.push(format!("a second running container {name:?} of pod {pod_uid}"));
            }
            let behaviour = model.next_behaviour(&name);
            let now = model.now();
            let Some(container) = model.containers.get_mut(id) else { return Ok(()) };
            container.behaviour = behaviour.clone();
            if let Behaviour::FailStart { message } = &behaviour {
                (container.state, container.exit_code, container.finished_at) = (ContainerExited, 128, now);
                (container.reason, container.message) = ("StartError".to_owned(), message.clone());
                let message = message.clone();
                drop(model);
                self.event(&sandbox_id, id, STOPPED);
                return Err(Status::unknown(message));
            }
            (container.state, container.started_at) = (ContainerRunning, now);
            (sandbox_id, behaviour)
        };
        self.event(&sandbox_id, id, STARTED);
        if let Behaviour::Exit { after, code } = behaviour {
            let (shared, id) = (self.clone(), id.to_owned());
            self.tasks.spawn(async move {
                tokio::select! {
                    () = tokio::time::sleep(after) => shared.exit(&id, code, None),
                    () = shared.stop.cancelled() => {}
                }
            });
        }
        Ok(())
    }

    /// Stops a container as its behaviour lets it. A caller that goes away leaves it running, as with containerd.
    pub(super) async fn stop_container(&self, id: &str, grace_seconds: i64) {
        let behaviour = {
            let model = self.model();
            match model.containers.get(id).filter(|c| c.is_running()) {
                Some(container) => container.behaviour.clone(),
                None => return,
            }
        };
        let grace = std::time::Duration::from_secs(grace_seconds.max(0).unsigned_abs());
        let (wait, code) = match behaviour {
            _ if grace.is_zero() => (grace, KILLED),
            Behaviour::Run | Behaviour::Exit { .. } | Behaviour::FailStart { .. } => (Default::default(), TERMINATED),
            Behaviour::ExitOnTerm { after, code } if after <= grace => (after, code),
            Behaviour::ExitOnTerm { .. } | Behaviour::IgnoreTerm => (grace, KILLED),
        };
        let end = tokio::time::Instant::now() + wait;
        while tokio::time::Instant::now() < end {
            let tick = std::time::Duration::from_millis(5).min(end - tokio::time::Instant::now());
            tokio::time::sleep(tick).await;
            if !self.model().containers.get(id).is_some_and(Container::is_running) {
                return;
            }
        }
        self.exit(id, code, None);
    }

    /// Ends a container's process.
    pub(super) fn exit(&self, id: &str, code: i32, reason: Option<&str>) {
        let sandbox_id = {
            let mut model = self.model();
            let now = model.now();
            let Some(container) = model.containers.get_mut(id).filter(|c| c.is_running()) else { return };
            (container.state, container.exit_code, container.finished_at) = (ContainerExited, code, now);
            let usual = if code == 0 { "Completed" } else { "Error" };
            container.reason = reason.unwrap_or(usual).to_owned();
            container.sandbox_id.clone()
        };
        self.event(&sandbox_id, id, STOPPED);
    }

    pub(super) fn remove_container(&self, id: &str) {
        self.exit(id, KILLED, None);
        let removed = self.model().containers.remove(id);
        if let Some(container) = removed {
            self.event(&container.sandbox_id, id, DELETED);
        }
    }

    fn event(&self, sandbox_id: &str, id: &str, kind: cri::ContainerEventType) {
        if self.faults().events_muted {
            return;
        }
        let event = {
            let mut model = self.model();
            let created_at = model.now();
            let containers = model.containers.iter().filter(|(_, c)| c.sandbox_id == sandbox_id);
            cri::ContainerEventResponse {
                container_id: id.to_owned(),
                container_event_type: kind.into(),
                created_at,
                pod_sandbox_status: model.sandboxes.get(sandbox_id).map(|s| s.status(sandbox_id)),
                containers_statuses: containers.map(|(id, c)| c.status(id)).collect(),
            }
        };
        // Nobody listens: nothing lost.
        let _ = self.events.send(event);
    }
}
