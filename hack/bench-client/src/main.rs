//! The client of hack/bench: what a user of the cluster sees of a node agent's speed, what the agent costs, and the floor
//! under both, which is the container runtime doing the same by CRI calls alone, and the same with the API server's part.
//!
//! ```text
//! bench floor  --endpoint SOCKET --out FILE [--burst N] [--serial N]
//! bench api-floor --endpoint SOCKET --kubeconfig FILE --out FILE [--burst N]
//! bench agent  --kubeconfig FILE --node NAME --pid PID --out FILE [--burst N] [--serial N] [--idle SECONDS]
//! bench serving --kubeconfig FILE --node NAME --pid PID --out FILE [--pods N] [--exec-probes N] [--log-mib N]
//!               [--forward-mib N] [--probing SECONDS]
//! bench report --rounds DIR [--json FILE]
//! ```
//!
//! All pods are one pause container whose image is present, with a grace period of one second. `report` reads the files
//! ROUND-SUBJECT.json of a directory: floor, api-floor, kubelet and ferrolet.

mod agent;
mod api_floor;
mod figures;
mod floor;
mod report;
mod serving;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

/// What every run measures: so many pods one after the other, so many at once.
struct Load {
    serial: usize,
    burst: usize,
    image: String,
}

/// The `--name value` pairs of the command line.
struct Options(BTreeMap<String, String>);

impl Options {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = BTreeMap::new();
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let Some(name) = argument.strip_prefix("--") else {
                bail!("unexpected argument {argument:?}");
            };
            let value = arguments.next().with_context(|| format!("--{name} wants a value"))?;
            options.insert(name.to_owned(), value);
        }
        Ok(Self(options))
    }

    fn text(&self, name: &str) -> Result<&str> {
        self.0.get(name).map(String::as_str).with_context(|| format!("--{name} is missing"))
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    fn number<T: FromStr>(&self, name: &str, default: T) -> Result<T> {
        match self.0.get(name) {
            None => Ok(default),
            Some(text) => text.parse().ok().with_context(|| format!("--{name}: {text:?} is not a number")),
        }
    }

    fn node(&self) -> Result<agent::Node> {
        Ok(agent::Node {
            kubeconfig: self.path("kubeconfig")?,
            name: self.text("node")?.to_owned(),
            pid: self.text("pid")?.parse().context("--pid")?,
        })
    }

    fn load(&self) -> Result<Load> {
        Ok(Load {
            serial: self.number("serial", 10)?,
            burst: self.number("burst", 50)?,
            image: self.0.get("image").cloned().unwrap_or_else(|| "registry.k8s.io/pause:3.10.2".to_owned()),
        })
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().context("usage: bench floor|api-floor|agent|serving|report OPTIONS")?;
    let options = Options::parse(arguments)?;
    match command.as_str() {
        "floor" => {
            let figures = floor::measure(options.text("endpoint")?, &options.load()?).await?;
            figures.write(&options.path("out")?)
        }
        "api-floor" => {
            let config = agent::config(&options.path("kubeconfig")?).await?;
            let client = kube::Client::try_from(config)?;
            let figures = api_floor::measure(options.text("endpoint")?, client, &options.load()?).await?;
            figures.write(&options.path("out")?)
        }
        "agent" => {
            let idle = std::time::Duration::from_secs(options.number("idle", 60)?);
            let figures = agent::measure(&options.node()?, &options.load()?, idle).await?;
            figures.write(&options.path("out")?)
        }
        "serving" => {
            let load = serving::Load {
                pods: options.number("pods", 100)?,
                exec_probes: options.number("exec-probes", 20)?,
                log_mib: options.number("log-mib", 1024)?,
                forward_mib: options.number("forward-mib", 256)?,
                probing: std::time::Duration::from_secs(options.number("probing", 60)?),
                image: "docker.io/library/busybox:1.35".to_owned(),
                pause: options.load()?.image,
            };
            let figures = serving::measure(&options.node()?, &load).await?;
            figures.write(&options.path("out")?)
        }
        "report" => {
            let json = options.0.get("json").map(PathBuf::from);
            report::report(&options.path("rounds")?, json.as_deref())
        }
        other => bail!("no such command: {other:?}"),
    }
}
