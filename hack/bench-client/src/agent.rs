//! A node agent as a client of the API server sees it: times are those at which the client's watch tells it.
//!
//! Pods are bound by `spec.nodeName`, so that no scheduler is in the figures.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::api::{DeleteParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::Load;
use crate::figures::{Figures, Stopwatch, quantile};

pub(crate) const NAMESPACE: &str = "bench";
/// A pod alone, and a burst, that take longer than this are a failure, not a figure.
const ONE_LIMIT: Duration = Duration::from_secs(60);
const BURST_LIMIT: Duration = Duration::from_secs(600);
/// How long the burst's pods have run when the idle figures begin.
const SETTLE: Duration = Duration::from_secs(15);

/// The agent under test.
pub(crate) struct Node {
    pub(crate) kubeconfig: PathBuf,
    pub(crate) name: String,
    pub(crate) pid: i32,
}

pub(crate) async fn measure(node: &Node, load: &Load, idle: Duration) -> Result<Figures> {
    let client = Client::try_from(config(&node.kubeconfig).await?)?;
    prepare_namespace(&client).await?;
    let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
    let seen = Arc::new(Seen::default());
    // The watch ends when this set is dropped.
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&seen).follow(pods.clone(), newest_version(&pods).await?));
    let bench = Bench { node, load, pods, seen };
    tokio::select! {
        figures = bench.measure(idle) => figures,
        Some(ended) = tasks.join_next() => bail!("the watch ended: {ended:?}"),
    }
}

/// Where a watch begins that is to show whatever comes from now on.
pub(crate) async fn newest_version(pods: &Api<Pod>) -> Result<String> {
    let list = pods.list_metadata(&kube::api::ListParams::default().limit(1)).await?;
    Ok(list.metadata.resource_version.unwrap_or_default())
}

pub(crate) async fn config(kubeconfig: &Path) -> Result<Config> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    Ok(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
}

pub(crate) async fn prepare_namespace(client: &Client) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(NAMESPACE.to_owned());
    match namespaces.create(&PostParams::default(), &namespace).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error.into()),
    }
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    for _ in 0..60 {
        if accounts.get_opt("default").await?.is_some() {
            return Ok(());
        }
        sleep(Duration::from_millis(500)).await;
    }
    bail!("namespace {NAMESPACE} got no service account")
}

/// When the watch told what of a pod.
#[derive(Clone, Copy, Default)]
pub(crate) struct Times {
    bound: Option<Instant>,
    pub(crate) ready: Option<Instant>,
    pub(crate) gone: Option<Instant>,
}

/// What a user's watch has told of the pods.
#[derive(Default)]
pub(crate) struct Seen {
    pods: Mutex<HashMap<String, Times>>,
    changed: watch::Sender<u64>,
}

impl Seen {
    /// Follows the pods from that version on, until dropped.
    pub(crate) async fn follow(self: Arc<Self>, pods: Api<Pod>, mut version: String) -> Result<()> {
        let parameters = WatchParams::default().timeout(290);
        loop {
            let events = pods.watch(&parameters, &version).await?;
            pin_mut!(events);
            while let Some(event) = events.next().await {
                let now = Instant::now();
                match event? {
                    WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                        version = pod.metadata.resource_version.clone().unwrap_or(version);
                        self.note(&pod, false, now);
                    }
                    WatchEvent::Deleted(pod) => {
                        version = pod.metadata.resource_version.clone().unwrap_or(version);
                        self.note(&pod, true, now);
                    }
                    WatchEvent::Bookmark(bookmark) => version = bookmark.metadata.resource_version,
                    WatchEvent::Error(status) => bail!("watch: {}", status.message),
                }
            }
        }
    }

    fn note(&self, pod: &Pod, deleted: bool, now: Instant) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        {
            let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
            let times = pods.entry(name).or_default();
            if deleted {
                times.gone.get_or_insert(now);
            } else {
                if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
                    times.bound.get_or_insert(now);
                }
                if is_ready(pod) {
                    times.ready.get_or_insert(now);
                }
            }
        }
        self.changed.send_modify(|count| *count += 1);
    }

    fn times(&self, name: &str) -> Times {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied().unwrap_or_default()
    }

    /// Waits until the watch has told `what` of every pod.
    pub(crate) async fn wait(
        &self,
        names: &[String],
        what: &str,
        of: fn(&Times) -> Option<Instant>,
        limit: Duration,
    ) -> Result<Vec<Instant>> {
        let deadline = Instant::now() + limit;
        let mut changes = self.changed.subscribe();
        loop {
            changes.mark_unchanged();
            let told: Vec<Instant> = names.iter().filter_map(|name| of(&self.times(name))).collect();
            if told.len() == names.len() {
                return Ok(told);
            }
            if timeout_at(deadline, changes.changed()).await.is_err() {
                bail!("{what}: {} of {} pods within {limit:?}", told.len(), names.len());
            }
        }
    }
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}

struct Bench<'a> {
    node: &'a Node,
    load: &'a Load,
    pods: Api<Pod>,
    seen: Arc<Seen>,
}

impl Bench<'_> {
    async fn measure(&self, idle: Duration) -> Result<Figures> {
        let mut figures = Figures::default();
        figures.set("rss_start_mib", self.usage()?.rss_mib);
        self.serial(&mut figures).await?;
        let names: Vec<String> = (0..self.load.burst).map(|index| format!("burst-{index}")).collect();
        if names.is_empty() {
            return Ok(figures);
        }
        self.burst_up(&names, &mut figures).await?;
        sleep(SETTLE).await;
        self.idle(idle, &mut figures).await?;
        self.burst_down(&names, &mut figures).await?;
        Ok(figures)
    }

    async fn serial(&self, figures: &mut Figures) -> Result<()> {
        let (mut ready, mut gone) = (Vec::new(), Vec::new());
        for index in 0..self.load.serial {
            let name = [format!("serial-{index}")];
            self.create(&name[0]).await?;
            self.seen.wait(&name, "Ready", |times| times.ready, ONE_LIMIT).await?;
            let asked = Instant::now();
            self.delete(&name[0]).await?;
            let ended = self.seen.wait(&name, "gone", |times| times.gone, ONE_LIMIT).await?;
            ready.extend(self.bound_to_ready(&name[0]));
            gone.extend(ended.first().map(|at| at.duration_since(asked)));
        }
        figures.set_samples("serial_ready", &ready);
        figures.set_samples("serial_gone", &gone);
        Ok(())
    }

    async fn burst_up(&self, names: &[String], figures: &mut Figures) -> Result<()> {
        let before = self.usage()?.cpu_seconds;
        let stopwatch = Stopwatch::start()?;
        for name in names {
            self.create(name).await?;
        }
        let ready = self.seen.wait(names, "Ready", |times| times.ready, BURST_LIMIT).await?;
        let last = ready.into_iter().max().context("no pod in the burst")?;
        figures.set_burst("burst_ready", &stopwatch.stop(last)?);
        let each: Vec<f64> =
            names.iter().filter_map(|name| self.bound_to_ready(name)).map(|time| time.as_secs_f64()).collect();
        for (name, share) in [("burst_ready_p50", 0.5), ("burst_ready_p99", 0.99)] {
            if let Some(value) = quantile(&each, share) {
                figures.set(name, value);
            }
        }
        figures.set("burst_ready_cpu_seconds", self.usage()?.cpu_seconds - before);
        Ok(())
    }

    async fn idle(&self, length: Duration, figures: &mut Figures) -> Result<()> {
        let before = self.usage()?.cpu_seconds;
        let began = Instant::now();
        sleep(length).await;
        let after = self.usage()?;
        figures.set("idle_cpu_seconds_per_minute", (after.cpu_seconds - before) * 60.0 / began.elapsed().as_secs_f64());
        figures.set("rss_mib", after.rss_mib);
        figures.set("rss_peak_mib", after.rss_peak_mib);
        Ok(())
    }

    async fn burst_down(&self, names: &[String], figures: &mut Figures) -> Result<()> {
        let before = self.usage()?.cpu_seconds;
        let stopwatch = Stopwatch::start()?;
        for name in names {
            self.delete(name).await?;
        }
        let gone = self.seen.wait(names, "gone", |times| times.gone, BURST_LIMIT).await?;
        let last = gone.into_iter().max().context("no pod in the burst")?;
        figures.set_burst("burst_gone", &stopwatch.stop(last)?);
        figures.set("burst_gone_cpu_seconds", self.usage()?.cpu_seconds - before);
        Ok(())
    }

    fn bound_to_ready(&self, name: &str) -> Option<Duration> {
        let times = self.seen.times(name);
        Some(times.ready?.duration_since(times.bound?))
    }

    async fn create(&self, name: &str) -> Result<()> {
        create_pod(&self.pods, &self.node.name, &self.load.image, name).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        delete_pod(&self.pods, name).await
    }

    fn usage(&self) -> Result<Usage> {
        self.node.usage()
    }
}

/// Creates a pod that is bound to the node from its beginning.
pub(crate) async fn create_pod(pods: &Api<Pod>, node: &str, image: &str, name: &str) -> Result<()> {
    let pod: Pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "c",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
            }],
        },
    }))?;
    pods.create(&PostParams::default(), &pod).await.with_context(|| format!("create pod {name}"))?;
    Ok(())
}

pub(crate) async fn delete_pod(pods: &Api<Pod>, name: &str) -> Result<()> {
    pods.delete(name, &DeleteParams::default()).await.with_context(|| format!("delete pod {name}"))?;
    Ok(())
}

impl Node {
    /// What the agent has used up to now.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let process = procfs::process::Process::new(self.pid).context("the agent is not running")?;
        let (stat, status) = (process.stat()?, process.status()?);
        let mib = |kib: Option<u64>| kib.unwrap_or_default() as f64 / 1024.0;
        Ok(Usage {
            cpu_seconds: (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64,
            rss_mib: mib(status.vmrss),
            rss_peak_mib: mib(status.vmhwm),
        })
    }
}

pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_mib: f64,
    pub(crate) rss_peak_mib: f64,
}
