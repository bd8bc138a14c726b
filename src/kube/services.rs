//! Services as a container's environment needs them: name, cluster IP and ports, of all namespaces.
//!
//! Headless services and those of type ExternalName yield no variables and are not kept. An entry is some dozens of bytes, since
//! a cluster may have thousands.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use ::kube::{Api, Client};
use k8s_openapi::api::core::v1::Service;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::watch::{ObjectWatch, WatchEvent, WatchOptions};
use crate::model::service::{ServiceInfo, ServicePortInfo};

/// All services of the cluster, in memory. A cheap handle; [`Self::run`] fills it.
#[derive(Clone)]
pub struct ServiceCache {
    client: Client,
    services: Arc<RwLock<Namespaces>>,
    synced: Arc<watch::Sender<bool>>,
}

type Namespaces = HashMap<Box<str>, BTreeMap<Box<str>, Entry>>;

struct Entry {
    cluster_ip: Box<str>,
    ports: Box<[Port]>,
}

struct Port {
    name: Option<Box<str>>,
    port: i32,
    protocol: Option<Box<str>>,
}

impl ServiceCache {
    /// An empty cache.
    pub fn new(client: Client) -> Self {
        ServiceCache { client, services: Arc::default(), synced: Arc::new(watch::Sender::new(false)) }
    }

    /// Whether the first list is in. Before, a container's environment would lack services.
    pub fn synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits for the first list.
    pub async fn wait_synced(&self) {
        // The sender is this handle's own, so that it cannot be gone.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// The namespace's services with a cluster IP, by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<ServiceInfo> {
        let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
        let entries = services.get(namespace).into_iter().flatten();
        entries.map(|(name, entry)| entry.info(namespace, name)).collect()
    }

    /// Watches until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let mut options = WatchOptions::new("services");
        // A page of services is parsed in full before it is cut down: smaller pages keep that peak low.
        options.page_size = 200;
        options.prune = |service: &mut Service| {
            service.metadata.managed_fields = None;
            service.metadata.annotations = None;
            service.metadata.labels = None;
            service.status = None;
        };
        let mut watch = ObjectWatch::<Service>::new(Api::all(self.client.clone()), options);
        loop {
            // Both arms are cancel-safe.
            let event = tokio::select! {
                () = cancel.cancelled() => return,
                event = watch.next() => event,
            };
            // The watch logs its failures and goes on by itself.
            if let Ok(event) = event {
                self.apply(event);
            }
        }
    }

    fn apply(&self, event: WatchEvent<Service>) {
        let mut services = self.services.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            WatchEvent::Replaced(all) => {
                let mut namespaces = Namespaces::new();
                for service in &all {
                    put(&mut namespaces, service);
                }
                *services = namespaces;
                self.synced.send_replace(true);
            }
            WatchEvent::Applied(service) => {
                remove(&mut services, &service);
                put(&mut services, &service);
            }
            WatchEvent::Deleted(service) => remove(&mut services, &service),
        }
    }
}

fn put(namespaces: &mut Namespaces, service: &Service) {
    let Some(entry) = Entry::of(service) else { return };
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    namespaces.entry(namespace.into()).or_default().insert(name.into(), entry);
}

fn remove(namespaces: &mut Namespaces, service: &Service) {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let Some(entries) = namespaces.get_mut(namespace) else { return };
    entries.remove(service.metadata.name.as_deref().unwrap_or_default());
    if entries.is_empty() {
        namespaces.remove(namespace);
    }
}

impl Entry {
    fn of(service: &Service) -> Option<Entry> {
        let spec = service.spec.as_ref()?;
        let cluster_ip = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None")?;
        let ports = spec.ports.iter().flatten().map(|p| Port {
            name: p.name.as_deref().map(Into::into),
            port: p.port,
            protocol: p.protocol.as_deref().map(Into::into),
        });
        Some(Entry { cluster_ip: cluster_ip.into(), ports: ports.collect() })
    }

    fn info(&self, namespace: &str, name: &str) -> ServiceInfo {
        let ports = self.ports.iter().map(|p| ServicePortInfo {
            name: p.name.as_deref().unwrap_or_default().to_owned(),
            port: p.port,
            protocol: p.protocol.as_deref().unwrap_or_default().to_owned(),
        });
        ServiceInfo {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            cluster_ip: self.cluster_ip.as_ref().to_owned(),
            ports: ports.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::task::JoinSet;

    use super::super::testing::{FakeApi, list, object};
    use super::*;

    fn service(namespace: &str, name: &str, ip: &str) -> Value {
        let spec = json!({"clusterIP": ip, "selector": {"app": "x"}, "ports": [{"name": "web", "port": 80, "targetPort": 8080}]});
        object("v1", "Service", namespace, name, 1, json!({"spec": spec}))
    }

    fn names(cache: &ServiceCache, namespace: &str) -> Vec<String> {
        cache.in_namespace(namespace).into_iter().map(|s| s.name).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn keeps_what_an_environment_needs() {
        let mut fake = FakeApi::new();
        let cache = ServiceCache::new(fake.client());
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(cache.clone().run(cancel.clone()));
        let request = fake.next().await;
        assert!(!cache.synced());
        let items = [
            service("a", "two", "10.0.0.2"),
            service("a", "one", "10.0.0.1"),
            service("b", "other", "10.0.0.3"),
            service("a", "headless", "None"),
        ];
        request.json(list("ServiceList", 4, None, &items));
        cache.wait_synced().await;
        assert!(cache.synced());
        assert_eq!(names(&cache, "a"), ["one", "two"]);
        assert_eq!(names(&cache, "c"), [""; 0]);
        let one = cache.in_namespace("a").remove(0);
        let port = ServicePortInfo { name: "web".into(), port: 80, protocol: String::new() };
        let expected =
            ServiceInfo { namespace: "a".into(), name: "one".into(), cluster_ip: "10.0.0.1".into(), ports: vec![port] };
        assert_eq!(one, expected);

        let feed = fake.next().await.watch();
        feed.send("DELETED", service("a", "one", "10.0.0.1"));
        feed.send("MODIFIED", service("b", "other", "None"));
        feed.send("ADDED", service("c", "new", "10.0.0.9"));
        while names(&cache, "c").is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(names(&cache, "a"), ["two"]);
        assert_eq!(names(&cache, "b"), [""; 0], "a service that lost its address is dropped");
        cancel.cancel();
        tasks.join_all().await;
    }
}
