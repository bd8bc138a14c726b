//! What an agent's HTTPS API and its probes cost: a large log read, a large answer through a port-forward, scrapes with many
//! pods, and many pods that are probed each second.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{Node as ApiNode, Pod};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use crate::agent::{self, Node};
use crate::figures::Figures;

const LIMIT: Duration = Duration::from_secs(300);
/// The port of the probed and the forwarded server.
const PORT: u16 = 8080;
/// How often each path is scraped, and how long after one scrape the next comes: long enough that none is answered with what
/// an earlier one found.
const SCRAPES: usize = 8;
const BETWEEN_SCRAPES: Duration = Duration::from_secs(3);
const SCRAPED: [(&str, &str); 4] = [
    ("summary", "/stats/summary"),
    ("metrics", "/metrics"),
    ("resource", "/metrics/resource"),
    ("cadvisor", "/metrics/cadvisor"),
];

/// What is measured.
pub(crate) struct Load {
    /// Pods that are scraped, and pods that are probed.
    pub(crate) pods: usize,
    /// Of the probed pods, those that are probed by a command; the others by HTTP.
    pub(crate) exec_probes: usize,
    /// The size of the log that is read.
    pub(crate) log_mib: u64,
    /// The size of the answer that is forwarded.
    pub(crate) forward_mib: u64,
    /// How long probes are watched.
    pub(crate) probing: Duration,
    /// An image with a shell and a small HTTP server.
    pub(crate) image: String,
    /// An image that does nothing.
    pub(crate) pause: String,
}

struct Serving<'a> {
    node: &'a Node,
    load: &'a Load,
    pods: Api<Pod>,
    /// Speaks to the agent itself.
    direct: Client,
}

pub(crate) async fn measure(node: &Node, load: &Load) -> Result<Figures> {
    let config = agent::config(&node.kubeconfig).await?;
    let client = Client::try_from(config.clone())?;
    agent::prepare_namespace(&client).await?;
    let direct = direct(&client, config, &node.name).await?;
    let pods = Api::namespaced(client, agent::NAMESPACE);
    let serving = Serving { node, load, pods, direct };
    let mut figures = Figures::default();
    serving.log(&mut figures).await?;
    serving.forward(&mut figures).await?;
    serving.scrapes(&mut figures).await?;
    serving.probes(&mut figures).await?;
    Ok(figures)
}

/// A client with the same credentials for the agent's own port. Its certificate is one that nobody vouches for.
async fn direct(client: &Client, mut config: Config, node: &str) -> Result<Client> {
    let nodes: Api<ApiNode> = Api::all(client.clone());
    let status = nodes.get(node).await?.status.unwrap_or_default();
    let address = status.addresses.unwrap_or_default().into_iter().find(|address| address.type_ == "InternalIP");
    let address = address.context("the node has no address")?.address;
    config.cluster_url = format!("https://{address}:10250").parse()?;
    config.accept_invalid_certs = true;
    config.read_timeout = None;
    Ok(Client::try_from(config)?)
}

impl Serving<'_> {
    async fn log(&self, figures: &mut Figures) -> Result<()> {
        self.up("log", 1, |_| self.shell("sleep 100000")).await?;
        let uid = self.pods.get("log-0").await?.metadata.uid.unwrap_or_default();
        let log = PathBuf::from(format!("/var/log/pods/{}_log-0_{uid}/c/0.log", agent::NAMESPACE));
        let size = self.load.log_mib << 20;
        tokio::task::spawn_blocking(move || write_log(&log, size)).await??;
        let before = self.node.usage()?;
        let began = Instant::now();
        let path = format!("/containerLogs/{}/log-0/c", agent::NAMESPACE);
        let (first, bytes) = self.read(&path).await?;
        let seconds = began.elapsed().as_secs_f64();
        let after = self.node.usage()?;
        if bytes < size / 2 {
            bail!("only {bytes} bytes of the log came");
        }
        figures.set("log_seconds", seconds);
        figures.set("log_first_byte", first.as_secs_f64());
        figures.set("log_cpu_seconds", after.cpu_seconds - before.cpu_seconds);
        figures.set("log_rss_grown_mib", after.rss_peak_mib - before.rss_peak_mib);
        self.down("log", 1).await
    }

    /// Reads an answer to its end. Returns when its first byte came, and how many there were.
    async fn read(&self, path: &str) -> Result<(Duration, u64)> {
        let began = Instant::now();
        let request = http::Request::get(path).body(kube::client::Body::empty())?;
        let answer = self.direct.send(request).await?;
        if !answer.status().is_success() {
            let status = answer.status();
            let text = answer.into_body().collect().await?.to_bytes();
            bail!("{path}: {status} {}", String::from_utf8_lossy(&text));
        }
        let (mut first, mut bytes) = (None, 0u64);
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                first.get_or_insert_with(|| began.elapsed());
                bytes += data.len() as u64;
            }
        }
        Ok((first.unwrap_or_default(), bytes))
    }

    async fn forward(&self, figures: &mut Figures) -> Result<()> {
        let size = self.load.forward_mib;
        let serve = format!(
            "mkdir /w && dd if=/dev/zero of=/w/big bs=1M count={size} && echo ok > /w/ready && httpd -f -p {PORT} -h /w"
        );
        self.up("forward", 1, |_| ready_by_http(self.shell(&serve))).await?;
        let mut kubectl = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(&self.node.kubeconfig)
            .args(["--namespace", agent::NAMESPACE, "port-forward", "pod/forward-0", &format!(":{PORT}")])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("kubectl")?;
        let output = kubectl.stdout.take().context("kubectl has no output")?;
        let mut line = String::new();
        // Read from to the end: kubectl dies of its next line if nobody would read that.
        let mut output = BufReader::new(output);
        timeout(LIMIT, output.read_line(&mut line)).await??;
        // Forwarding from 127.0.0.1:PORT -> PORT
        let port = line.split(':').nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u16>().ok());
        let port = port.with_context(|| format!("kubectl says {line:?}"))?;
        let before = self.node.usage()?;
        let began = Instant::now();
        let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
        stream.write_all(b"GET /big HTTP/1.0\r\n\r\n").await?;
        let (mut buffer, mut bytes) = (vec![0; 1 << 16], 0u64);
        // The end of the connection is the server's business, which takes its time.
        while bytes < size << 20 {
            match timeout(LIMIT, stream.read(&mut buffer)).await?? {
                0 => bail!("only {bytes} bytes came through the port-forward"),
                read => bytes += read as u64,
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        let after = self.node.usage()?;
        figures.set("forward_seconds", seconds);
        figures.set("forward_cpu_seconds", after.cpu_seconds - before.cpu_seconds);
        figures.set("forward_rss_grown_mib", after.rss_peak_mib - before.rss_peak_mib);
        kubectl.kill().await?;
        self.down("forward", 1).await
    }

    async fn scrapes(&self, figures: &mut Figures) -> Result<()> {
        let pause = json!({"image": self.load.pause});
        self.up("scraped", self.load.pods, |_| pause.clone()).await?;
        sleep(Duration::from_secs(15)).await;
        for (name, path) in SCRAPED {
            self.read(path).await?; // The first one may have more to do.
            let before = self.node.usage()?;
            let mut times = Vec::new();
            let mut size = 0;
            for _ in 0..SCRAPES {
                sleep(BETWEEN_SCRAPES).await;
                let began = Instant::now();
                size = self.read(path).await?.1;
                times.push(began.elapsed());
            }
            let cpu = self.node.usage()?.cpu_seconds - before.cpu_seconds;
            figures.set_samples(&format!("scrape_{name}"), &times);
            figures.set(format!("scrape_{name}_cpu_seconds"), cpu / SCRAPES as f64);
            figures.set(format!("scrape_{name}_kib"), size as f64 / 1024.0);
        }
        figures.set("scraped_rss_mib", self.node.usage()?.rss_mib);
        self.down("scraped", self.load.pods).await
    }

    async fn probes(&self, figures: &mut Figures) -> Result<()> {
        let serve = self.shell(&format!("mkdir /w && echo ok > /w/ready && httpd -f -p {PORT} -h /w"));
        self.up("probed", self.load.pods, |index| {
            let mut container = serve.clone();
            container["readinessProbe"] = if index < self.load.exec_probes {
                json!({"exec": {"command": ["true"]}, "periodSeconds": 1, "timeoutSeconds": 5})
            } else {
                json!({"httpGet": {"path": "/ready", "port": PORT}, "periodSeconds": 1})
            };
            container
        })
        .await?;
        sleep(Duration::from_secs(15)).await;
        let before = self.node.usage()?;
        let began = Instant::now();
        sleep(self.load.probing).await;
        let after = self.node.usage()?;
        let minutes = began.elapsed().as_secs_f64() / 60.0;
        figures.set("probing_cpu_seconds_per_minute", (after.cpu_seconds - before.cpu_seconds) / minutes);
        figures.set("probing_rss_mib", after.rss_mib);
        let list = self.pods.list(&ListParams::default()).await?;
        let ready = list.items.iter().filter(|pod| agent::is_ready(pod)).count();
        figures.set("probing_ready_pods", ready as f64);
        self.down("probed", self.load.pods).await
    }

    fn shell(&self, command: &str) -> Value {
        json!({"image": self.load.image, "command": ["sh", "-c", command]})
    }

    /// Makes pods of one container each and waits until they are Ready.
    async fn up(&self, name: &str, count: usize, container: impl Fn(usize) -> Value) -> Result<()> {
        for index in 0..count {
            let mut container = container(index);
            container["name"] = json!("c");
            container["imagePullPolicy"] = json!("IfNotPresent");
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": format!("{name}-{index}"), "labels": {"bench": name}},
                "spec": {
                    "nodeName": self.node.name,
                    "terminationGracePeriodSeconds": 1,
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [container],
                },
            }))?;
            self.pods.create(&PostParams::default(), &pod).await.with_context(|| format!("create {name}-{index}"))?;
        }
        self.until(name, |pods| pods.iter().filter(|pod| agent::is_ready(pod)).count() == count).await
    }

    async fn down(&self, name: &str, count: usize) -> Result<()> {
        for index in 0..count {
            self.pods.delete(&format!("{name}-{index}"), &DeleteParams::default()).await?;
        }
        self.until(name, <[Pod]>::is_empty).await
    }

    async fn until(&self, name: &str, done: impl Fn(&[Pod]) -> bool) -> Result<()> {
        let selected = ListParams::default().labels(&format!("bench={name}"));
        let deadline = Instant::now() + LIMIT;
        loop {
            if done(&self.pods.list(&selected).await?.items) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{name}: the pods did not get there within {LIMIT:?}");
            }
            sleep(Duration::from_millis(500)).await;
        }
    }
}

fn ready_by_http(mut container: Value) -> Value {
    container["readinessProbe"] = json!({"httpGet": {"path": "/ready", "port": PORT}, "periodSeconds": 1});
    container
}

/// Lines as the runtime writes them, of 100 bytes of text each.
fn write_log(path: &Path, size: u64) -> Result<()> {
    use std::io::Write;
    let text = "0123456789".repeat(10);
    let line = format!("2026-01-01T00:00:00.123456789Z stdout F {text}\n");
    let block = line.repeat(4096);
    let mut file = std::fs::OpenOptions::new().append(true).open(path).with_context(|| path.display().to_string())?;
    let mut written = 0;
    while written < size {
        file.write_all(block.as_bytes())?;
        written += block.len() as u64;
    }
    Ok(())
}
