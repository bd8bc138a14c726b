//! What other parts of the agent say about the node's status, as the newest value.

use std::sync::Arc;

use tokio::sync::watch;

use super::conditions::{NotReadyCause, Pressures};
use super::resources::DeviceResources;
use super::status::Contributions;

/// Where other parts put what they know; a change is reported at once.
#[derive(Clone, Debug)]
pub struct ContributionsHandle {
    sender: Arc<watch::Sender<Contributions>>,
    receiver: watch::Receiver<Contributions>,
}

impl Default for ContributionsHandle {
    fn default() -> Self {
        let (sender, receiver) = watch::channel(Contributions::default());
        ContributionsHandle { sender: Arc::new(sender), receiver }
    }
}

impl ContributionsHandle {
    /// What eviction says.
    pub fn set_pressures(&self, pressures: Pressures) {
        self.change(|contributions| contributions.pressures = pressures);
    }

    /// What keeps storage from being ready; none if nothing does.
    pub fn set_storage(&self, cause: Option<NotReadyCause>) {
        self.change(|contributions| contributions.storage = cause);
    }

    /// Why the node is on its way down; none if it is not.
    pub fn set_shutdown(&self, cause: Option<String>) {
        self.change(|contributions| contributions.shutdown = cause);
    }

    /// What device plugins provide.
    pub fn set_devices(&self, devices: DeviceResources) {
        self.change(|contributions| contributions.devices = devices);
    }

    /// Everything said so far.
    pub fn current(&self) -> Contributions {
        self.receiver.borrow().clone()
    }

    /// Waits until something else is said than when this handle last waited.
    pub async fn changed(&mut self) {
        // This handle keeps the sender: it cannot be gone.
        if self.receiver.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn change(&self, change: impl FnOnce(&mut Contributions)) {
        self.sender.send_if_modified(|contributions| {
            let before = contributions.clone();
            change(contributions);
            *contributions != before
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_changes_wake() {
        let handle = ContributionsHandle::default();
        let mut waiting = handle.clone();
        handle.set_pressures(Pressures::default());
        handle.set_storage(None);
        assert!(!waiting.receiver.has_changed().unwrap());
        handle.set_shutdown(Some("node is shutting down".into()));
        waiting.changed().await;
        assert_eq!(waiting.current().shutdown.as_deref(), Some("node is shutting down"));
    }
}
