//! Logs of services: from the journal those that write there, from the files of their names the others.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tracing::debug;

use super::files::{self, Found};
use super::query::LogQuery;

/// Time of it all.
const LIMIT: Duration = Duration::from_secs(30);
/// Bytes read at once.
const PIECE: usize = 64 * 1024;

type Pieces = BoxStream<'static, Result<Bytes, Infallible>>;

fn words(words: String) -> Pieces {
    stream::once(async move { Ok(Bytes::from(words)) }).boxed()
}

/// The logs one after the other; what fails is told among them, as in the peer.
pub(super) fn logs(
    folder: PathBuf,
    services: Vec<String>,
    query: LogQuery,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    let found = async move {
        let units = units().await;
        let is_native = |service: &String| units.contains(&format!("{service}.service"));
        let (native, others): (Vec<_>, Vec<_>) = services.into_iter().partition(is_native);
        let journal = if native.is_empty() { stream::empty().boxed() } else { journal(&query, &native) };
        let others = if others.is_empty() {
            stream::empty().boxed()
        } else if query.lines.is_empty() {
            stream::iter(others).flat_map(move |service| from_files(&folder, &service)).boxed()
        } else {
            let names = others.join(" ");
            let told = format!("\noptions present and query resolved to log files for [{names}]");
            words(format!("{told}\ntry without specifying options\n"))
        };
        journal.chain(others)
    };
    stream::once(found).flatten().take_until(tokio::time::sleep(LIMIT))
}

/// The units that the journal knows; nothing where there is no journal.
async fn units() -> String {
    let mut command = Command::new("journalctl");
    command.args(["--field", "_SYSTEMD_UNIT"]).stdin(Stdio::null()).kill_on_drop(true);
    match command.output().await {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(_) => String::new(),
        Err(error) => {
            debug!(%error, "journalctl cannot be run");
            String::new()
        }
    }
}

fn journal(query: &LogQuery, services: &[String]) -> Pieces {
    let Ok((child, output)) = start(&query.lines.journal(services)) else {
        return words("\nerror: journal output not available\n".to_owned());
    };
    stream::unfold((child, output), |(child, mut output)| async move {
        let mut piece = vec![0; PIECE];
        let count = output.read(&mut piece).await.unwrap_or(0);
        piece.truncate(count);
        (!piece.is_empty()).then(|| (Ok(piece.into()), (child, output)))
    })
    .boxed()
}

/// Starts `journalctl`, which is killed with the client that asked; what it prints, both streams as one.
fn start(arguments: &[String]) -> std::io::Result<(Child, pipe::Receiver)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut command = Command::new("journalctl");
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command.stdout(Stdio::from(write.try_clone()?)).stderr(Stdio::from(write));
    let child = command.spawn()?;
    Ok((child, pipe::Receiver::from_owned_fd(read)?))
}

/// `<service>`, `<service>.log` or `<service>/<service>.log`, whichever is there.
fn from_files(folder: &Path, service: &str) -> Pieces {
    for name in [service.to_owned(), format!("{service}.log"), format!("{service}/{service}.log")] {
        match files::find(folder, Path::new(&name)) {
            Ok(Found::File(file)) => return files::pieces(file).boxed(),
            Ok(Found::Directory(_)) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return words(format!("\nerror getting log for {service}: {error}\n")),
        }
    }
    words(format!("\nlog not found for {service}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::query::Query;

    #[tokio::test]
    async fn services_without_a_journal_are_found_by_their_files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("deep-service-of-nobody")).unwrap();
        std::fs::write(folder.path().join("deep-service-of-nobody/deep-service-of-nobody.log"), "deep\n").unwrap();
        std::fs::write(folder.path().join("service-of-nobody.log"), "flat\n").unwrap();
        let show = async |query: &str| {
            let decoded = LogQuery::of(&Query::parse(query)).unwrap().unwrap();
            let names = ["service-of-nobody", "deep-service-of-nobody", "absent-service"].map(str::to_owned).to_vec();
            let pieces: Vec<_> = logs(folder.path().to_owned(), names, decoded).collect().await;
            pieces.into_iter().map(|piece| String::from_utf8(piece.unwrap().to_vec()).unwrap()).collect::<String>()
        };
        assert_eq!(show("query=x").await, "flat\ndeep\n\nlog not found for absent-service\n");
        let told = show("query=x&tailLines=1").await;
        assert!(
            told.starts_with("\noptions present and query resolved to log files for [service-of-nobody "),
            "{told}"
        );
    }
}
