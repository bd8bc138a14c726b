//! The floor: the CRI calls that a pod costs at least, with nobody else at work.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ferrolet::runtime::cri;
use ferrolet::runtime::cri::runtime_service_client::RuntimeServiceClient;
use ferrolet::runtime::translate::{MASKED_PATHS, READONLY_PATHS};
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::Load;
use crate::figures::{Figures, Stopwatch, Taken};

/// How many pods are handled at a time in a burst; the best of these is the floor.
const PARALLEL: [usize; 4] = [4, 8, 16, 50];

/// Where the pods' cgroups go, in every hierarchy.
const CGROUP: &str = "floor";

pub(crate) async fn measure(endpoint: &str, load: &Load) -> Result<Figures> {
    let floor = Floor::connect(endpoint, load).await?;
    let measured = floor.measure(load).await;
    floor.clear();
    measured
}

/// Starts and ends pods by the fewest CRI calls.
pub(crate) struct Floor {
    runtime: RuntimeServiceClient<Channel>,
    image: String,
    /// Log directories and the sources of the mounts.
    scratch: PathBuf,
}

/// A pod that was started.
pub(crate) struct Running {
    sandbox: String,
    container: String,
}

impl Floor {
    pub(crate) async fn connect(endpoint: &str, load: &Load) -> Result<Self> {
        let channel = Endpoint::from_shared(endpoint.to_owned())?
            .connect()
            .await
            .with_context(|| format!("connect to {endpoint}"))?;
        let scratch = std::env::temp_dir().join(format!("ferrolet-bench-{}", std::process::id()));
        Ok(Floor { runtime: RuntimeServiceClient::new(channel), image: load.image.clone(), scratch })
    }

    /// Best effort: what stays behind is in a namespace that ends with the bench.
    pub(crate) fn clear(&self) {
        let _ = std::fs::remove_dir_all(&self.scratch);
        remove_cgroups();
    }

    async fn measure(&self, load: &Load) -> Result<Figures> {
        let mut figures = Figures::default();
        // The first pod pays for what the runtime loads once.
        self.down(&self.up("first").await?).await?;
        let (mut ready, mut gone) = (Vec::new(), Vec::new());
        for index in 0..load.serial {
            let began = Instant::now();
            let running = self.up(&format!("serial-{index}")).await?;
            ready.push(began.elapsed());
            let began = Instant::now();
            self.down(&running).await?;
            gone.push(began.elapsed());
        }
        figures.set_samples("serial_ready", &ready);
        figures.set_samples("serial_gone", &gone);

        for parallel in PARALLEL {
            let (up, down) = self.burst(parallel, load.burst).await?;
            figures.set_burst(&format!("burst_ready_by_{parallel}"), &up);
            figures.set_burst(&format!("burst_gone_by_{parallel}"), &down);
        }
        Ok(figures)
    }

    async fn burst(&self, parallel: usize, count: usize) -> Result<(Taken, Taken)> {
        let stopwatch = Stopwatch::start()?;
        let pods: Vec<Running> = stream::iter(0..count)
            .map(|index| async move { self.up(&format!("burst-{parallel}-{index}")).await })
            .buffer_unordered(parallel)
            .try_collect()
            .await?;
        let up = stopwatch.stop(Instant::now())?;
        let stopwatch = Stopwatch::start()?;
        stream::iter(&pods)
            .map(|running| self.down(running))
            .buffer_unordered(parallel)
            .try_collect::<Vec<()>>()
            .await?;
        Ok((up, stopwatch.stop(Instant::now())?))
    }

    /// Boxed, since it holds the messages of three calls.
    pub(crate) fn up<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Running>> {
        Box::pin(async move {
            let mut runtime = self.runtime.clone();
            let sandbox_config = self.sandbox(name)?;
            let request =
                cri::RunPodSandboxRequest { config: Some(sandbox_config.clone()), runtime_handler: String::new() };
            let sandbox = runtime.run_pod_sandbox(request).await.context("RunPodSandbox")?.into_inner().pod_sandbox_id;
            let request = cri::CreateContainerRequest {
                pod_sandbox_id: sandbox.clone(),
                config: Some(self.container(name)?),
                sandbox_config: Some(sandbox_config),
            };
            let container =
                runtime.create_container(request).await.context("CreateContainer")?.into_inner().container_id;
            let request = cri::StartContainerRequest { container_id: container.clone() };
            runtime.start_container(request).await.context("StartContainer")?;
            Ok(Running { sandbox, container })
        })
    }

    pub(crate) async fn down(&self, pod: &Running) -> Result<()> {
        let mut runtime = self.runtime.clone();
        let request = cri::StopContainerRequest { container_id: pod.container.clone(), timeout: 1 };
        runtime.stop_container(request).await.context("StopContainer")?;
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: pod.sandbox.clone() };
        runtime.stop_pod_sandbox(request).await.context("StopPodSandbox")?;
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: pod.sandbox.clone() };
        runtime.remove_pod_sandbox(request).await.context("RemovePodSandbox")?;
        Ok(())
    }

    /// The sandbox as an agent asks for it: Burstable, its own network, everything else at its default.
    fn sandbox(&self, name: &str) -> Result<cri::PodSandboxConfig> {
        let logs = self.scratch.join(name);
        std::fs::create_dir_all(&logs)?;
        Ok(cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "floor".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: logs.display().to_string(),
            dns_config: Some(cri::DnsConfig {
                servers: vec!["10.96.0.10".to_owned()],
                searches: Vec::new(),
                options: Vec::new(),
            }),
            labels: labels(name),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: format!("/{CGROUP}/pod-{name}"),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces()),
                    seccomp: Some(seccomp(cri::security_profile::ProfileType::RuntimeDefault)),
                    ..Default::default()
                }),
                resources: Some(cri::LinuxContainerResources {
                    cpu_shares: 2,
                    cpu_period: 100_000,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    /// The container with the mounts that every pod gets: hosts file, termination log, service account token.
    fn container(&self, name: &str) -> Result<cri::ContainerConfig> {
        let sources = self.scratch.join(name);
        let hosts = file(&sources.join("hosts"))?;
        let termination_log = file(&sources.join("termination-log"))?;
        let token = sources.join("token");
        std::fs::create_dir_all(&token)?;
        let mount = |path: &str, source: String, readonly| cri::Mount {
            container_path: path.to_owned(),
            host_path: source,
            readonly,
            ..Default::default()
        };
        Ok(cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: "c".to_owned(), attempt: 0 }),
            image: Some(cri::ImageSpec { image: self.image.clone(), ..Default::default() }),
            mounts: vec![
                mount("/var/run/secrets/kubernetes.io/serviceaccount", token.display().to_string(), true),
                mount("/etc/hosts", hosts, false),
                mount("/dev/termination-log", termination_log, false),
            ],
            labels: labels(name),
            log_path: "c.log".to_owned(),
            linux: Some(cri::LinuxContainerConfig {
                resources: Some(cri::LinuxContainerResources {
                    cpu_shares: 2,
                    cpu_period: 100_000,
                    oom_score_adj: 999,
                    ..Default::default()
                }),
                security_context: Some(cri::LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces()),
                    seccomp: Some(seccomp(cri::security_profile::ProfileType::Unconfined)),
                    masked_paths: MASKED_PATHS.map(str::to_owned).to_vec(),
                    readonly_paths: READONLY_PATHS.map(str::to_owned).to_vec(),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        })
    }
}

fn labels(name: &str) -> HashMap<String, String> {
    [
        ("io.kubernetes.pod.name", name),
        ("io.kubernetes.pod.namespace", "floor"),
        ("io.kubernetes.pod.uid", name),
        ("io.kubernetes.container.name", "c"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn namespaces() -> cri::NamespaceOption {
    cri::NamespaceOption {
        network: cri::NamespaceMode::Pod.into(),
        pid: cri::NamespaceMode::Container.into(),
        ipc: cri::NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

fn seccomp(kind: cri::security_profile::ProfileType) -> cri::SecurityProfile {
    cri::SecurityProfile { profile_type: kind.into(), ..Default::default() }
}

fn file(path: &Path) -> Result<String> {
    std::fs::write(path, "127.0.0.1\tlocalhost\n")?;
    Ok(path.display().to_string())
}

/// Removes the pods' empty cgroups, which an agent owns and the runtime therefore leaves.
fn remove_cgroups() {
    let base = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(base).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([base.to_owned()]) {
        let parent = hierarchy.join(CGROUP);
        for child in std::fs::read_dir(&parent).into_iter().flatten().flatten() {
            // Files refuse, and so does what is still in use.
            let _ = std::fs::remove_dir(child.path());
        }
        let _ = std::fs::remove_dir(parent);
    }
}
