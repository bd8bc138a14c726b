//! Start-up, wiring, the table of long tasks and the two-stage shutdown.
//!
//! The long tasks and what each reads and writes are listed in [`start`]; every one but the pods' workers is critical: if one
//! ends before it is told to, the process ends with its cause and is started again by whoever started it.
//!
//! Shutdown has two stages: SIGTERM or SIGINT cancels the token that every task holds, and whatever has not ended by then is
//! dropped after [`SHUTDOWN_LIMIT`]. Pods go on.

mod adapters;
mod admission;
mod allocatable;
mod certificates;
mod health;
mod introspection;
mod kernel_settings;
mod logging;
mod node_settings;
mod process;
mod start;
mod static_pods;
mod stats;
mod supervisor;
mod system_cgroups;
mod warnings;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::cgroup::Hierarchy;
use crate::config::{self, Invocation, Settings};
use crate::kube::error::chain;
use crate::model::release;

use supervisor::Supervisor;

/// How long tasks may take to end after they were told to.
const SHUTDOWN_LIMIT: Duration = Duration::from_millis(600);

/// Threads for work that may block: those for calls that may hang, each kind in its bounded place, and those for all the rest,
/// which the others so cannot take. They are made when they are needed.
const BLOCKING_THREADS: usize = 32
    + crate::cgroup::BLOCKING_PLACES
    + crate::volume::BLOCKING_PLACES
    + crate::stats::BLOCKING_PLACES
    + crate::image::BLOCKING_PLACES
    + crate::probe::BLOCKING_PLACES;

/// Runs the agent with the arguments after the program's name. Returns when it was told to end or cannot go on.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let settings = match config::load(arguments) {
        Ok(Invocation::Help(text)) => return print(&text),
        Ok(Invocation::Version) => return print(&format!("Kubernetes {}\n", release::VERSION)),
        Ok(Invocation::Run(settings)) => settings,
        Err(error) => return fail(&error.to_string()),
    };
    let verbosity = logging::init(&settings);
    crate::sys::memory::use_few_arenas();
    // Before the threads, the clients and the caches are there, so that their memory counts to the agent's own cgroup.
    let hierarchy = match process::settle(&settings.configuration) {
        Ok(hierarchy) => hierarchy,
        Err(error) => return fail(&chain(&*error)),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("ferrolet")
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(Duration::from_secs(3))
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("starting the async runtime: {error}")),
    };
    let result = runtime.block_on(run(*settings, hierarchy, verbosity));
    // What blocks now is a call that cannot be taken back; the process's end takes it along.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&chain(&*error)),
    }
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Ends with one line that says why.
fn fail(message: &str) -> ExitCode {
    let line = message.split('\n').map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
    // Nobody is left to tell if this fails.
    let _ = writeln!(std::io::stderr(), "ferrolet: {line}");
    ExitCode::FAILURE
}

async fn run(settings: Settings, hierarchy: Hierarchy, verbosity: Option<logging::Verbosity>) -> anyhow::Result<()> {
    for warning in &settings.warnings {
        warn!("{warning}");
    }
    info!(version = release::VERSION, "starting");
    info!(configuration = config::effective_yaml(&settings), "effective configuration");
    if !settings.not_acted_on.is_empty() {
        warn!(settings = settings.not_acted_on.join(", "), "these settings are understood and not acted on yet");
    }
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let supervisor = Supervisor::find(|name| std::env::var_os(name))?;
    let cancel = CancellationToken::new();
    // Cancel-safe: start holds nothing that must be undone, and the signals are only noticed.
    let mut tasks = tokio::select! {
        started = start::start(&settings, hierarchy, &supervisor, verbosity, &cancel) => started?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    supervisor.ready();
    // Cancel-safe: a signal is only noticed, and a task's end is taken when its arm wins.
    let result = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = tasks.join_next() => Err(start::cause(ended)),
    };
    supervisor.stopping();
    match &result {
        Ok(()) => info!("told to end; the pods go on"),
        Err(error) => error!("a task that must not end has ended: {}", chain(&**error)),
    }
    cancel.cancel();
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_LIMIT, all).await.is_err() {
        warn!("some tasks did not end in time and are dropped");
    }
    result
}
