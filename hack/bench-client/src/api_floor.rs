//! The floor with the API server's part: the floor's CRI calls by a program that does for each pod what no agent can leave
//! out. It learns of the pod by a watch, asks for its token, tells once that it is Ready, and at the end that it has ended,
//! and deletes it. No events, no probes, no volumes, nothing looked at twice.
//!
//! On a machine on which the control plane runs as well, an agent is between the bare floor and this one at best.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures::{StreamExt, TryStreamExt, pin_mut, stream};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use crate::Load;
use crate::agent::{self, Seen};
use crate::figures::{Figures, Stopwatch, Taken};
use crate::floor::{Floor, Running};

/// How many pods are handled at a time; the best of these counts.
const PARALLEL: [usize; 3] = [4, 8, 16];
const LIMIT: Duration = Duration::from_secs(120);

/// What the agent's part of this program does for pods.
struct Stub {
    floor: Floor,
    client: Client,
    pods: Api<Pod>,
    running: Mutex<HashMap<String, Running>>,
}

/// Times of bursts.
pub(crate) async fn measure(endpoint: &str, client: Client, load: &Load) -> Result<Figures> {
    agent::prepare_namespace(&client).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), agent::NAMESPACE);
    let floor = Floor::connect(endpoint, load).await?;
    let stub = Arc::new(Stub { floor, client, pods: pods.clone(), running: Mutex::default() });
    let measured = bursts(&stub, &pods, load).await;
    stub.floor.clear();
    measured
}

async fn bursts(stub: &Arc<Stub>, pods: &Api<Pod>, load: &Load) -> Result<Figures> {
    let mut figures = Figures::default();
    for parallel in PARALLEL {
        let (ready, gone) = burst(stub, pods, load, parallel).await?;
        figures.set_burst(&format!("burst_ready_by_{parallel}"), &ready);
        figures.set_burst(&format!("burst_gone_by_{parallel}"), &gone);
    }
    Ok(figures)
}

async fn burst(stub: &Arc<Stub>, pods: &Api<Pod>, load: &Load, parallel: usize) -> Result<(Taken, Taken)> {
    let seen = Arc::new(Seen::default());
    // No agent serves it, and the pods are gone before the controllers find that there is no such node.
    let node = format!("no-agent-{parallel}");
    // Both tasks end when this set is dropped.
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&seen).follow(pods.clone(), agent::newest_version(pods).await?));
    tasks.spawn(Arc::clone(stub).serve(agent::newest_version(pods).await?, parallel));
    let names: Vec<String> = (0..load.burst).map(|index| format!("floor-{parallel}-{index}")).collect();
    let measured = async {
        let stopwatch = Stopwatch::start()?;
        for name in &names {
            agent::create_pod(pods, &node, &load.image, name).await?;
        }
        let ready = seen.wait(&names, "Ready", |times| times.ready, LIMIT).await?;
        let ready = stopwatch.stop(ready.into_iter().max().context("no pod in the burst")?)?;
        let stopwatch = Stopwatch::start()?;
        for name in &names {
            agent::delete_pod(pods, name).await?;
        }
        let gone = seen.wait(&names, "gone", |times| times.gone, LIMIT).await?;
        let gone = stopwatch.stop(gone.into_iter().max().context("no pod in the burst")?)?;
        Ok((ready, gone))
    };
    tokio::select! {
        measured = measured => measured,
        Some(ended) = tasks.join_next() => Err(anyhow!("a task ended early: {ended:?}")),
    }
}

impl Stub {
    /// Starts and ends pods as the watch tells, so many at a time.
    async fn serve(self: Arc<Self>, version: String, parallel: usize) -> Result<()> {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let watch = async {
            let events = self.pods.watch(&WatchParams::default().timeout(290), &version).await?;
            pin_mut!(events);
            let mut ending = HashSet::new();
            while let Some(event) = events.next().await {
                match event? {
                    WatchEvent::Added(pod) => sender.send(pod)?,
                    WatchEvent::Modified(pod)
                        if pod.metadata.deletion_timestamp.is_some() && ending.insert(pod.name_any()) =>
                    {
                        sender.send(pod)?;
                    }
                    _ => {}
                }
            }
            Err(anyhow!("the watch ended"))
        };
        let work = stream::poll_fn(move |context| receiver.poll_recv(context))
            .map(|pod| Ok(self.handle(pod)))
            .try_buffer_unordered(parallel)
            .try_for_each(|()| async { Ok(()) });
        tokio::try_join!(watch, work).map(|((), ())| ())
    }

    async fn handle(&self, pod: Pod) -> Result<()> {
        let name = pod.name_any();
        if pod.metadata.deletion_timestamp.is_none() {
            let (running, _) = tokio::try_join!(self.floor.up(&name), self.token(&pod))?;
            self.running.lock().await.insert(name.clone(), running);
            return self.patch_status(&name, ready()).await;
        }
        let running = self.running.lock().await.remove(&name).context("a pod that was never started")?;
        self.floor.down(&running).await?;
        self.patch_status(&name, json!({"phase": "Succeeded"})).await?;
        let parameters = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
        self.pods.delete(&name, &parameters).await.context("delete")?;
        Ok(())
    }

    async fn token(&self, pod: &Pod) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), agent::NAMESPACE);
        let reference = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        };
        let spec = TokenRequestSpec {
            bound_object_ref: Some(reference),
            expiration_seconds: Some(3607),
            ..Default::default()
        };
        let request = TokenRequest { spec: Some(spec), ..Default::default() };
        accounts.create_token_request("default", &PostParams::default(), &request).await.context("token")?;
        Ok(())
    }

    async fn patch_status(&self, name: &str, status: Value) -> Result<()> {
        let patch = Patch::Strategic(json!({"status": status}));
        self.pods.patch_status(name, &PatchParams::default(), &patch).await.context("status")?;
        Ok(())
    }
}

/// A status as long as an agent's.
fn ready() -> Value {
    let now = "2026-01-01T00:00:00Z";
    let condition = |kind| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": now, "observedGeneration": 1});
    let conditions =
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
    let id = "0".repeat(64);
    json!({
        "phase": "Running",
        "observedGeneration": 1,
        "startTime": now,
        "hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.1"}],
        "podIP": "10.244.0.9", "podIPs": [{"ip": "10.244.0.9"}],
        "conditions": conditions,
        "containerStatuses": [{
            "name": "c",
            "image": "registry.k8s.io/pause:3.10.2",
            "imageID": format!("registry.k8s.io/pause@sha256:{id}"),
            "containerID": format!("containerd://{id}"),
            "ready": true, "started": true, "restartCount": 0,
            "state": {"running": {"startedAt": now}},
            "lastState": {},
            "allocatedResources": {"cpu": "1m", "memory": "1Mi"},
            "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
            "volumeMounts": [{
                "name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                "readOnly": true, "recursiveReadOnly": "Disabled",
            }],
        }],
    })
}
