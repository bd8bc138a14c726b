//! The log as it is sent: what the file has, and with `follow` what comes, until the container has ended and all is read.

use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use tokio::time::Instant;
use tracing::debug;

use super::file::{LogFileError, LogReader, Step};
use crate::runtime::{RuntimeClient, cri};
use crate::sys::file_events::{DirectoryEvents, FileEvents};

/// Wait after an event, in which what is written next to each other comes together.
const GATHER: Duration = Duration::from_millis(10);
/// Time in which a file that was rotated may still get what was under way to it.
const ROTATION: Duration = Duration::from_millis(100);
/// Waits before it is asked again whether the container runs: short after its log was closed, then longer.
const FIRST_CHECK: Duration = Duration::from_millis(100);
const LAST_CHECK: Duration = Duration::from_secs(5);
/// Wait when the kernel tells of no changes.
const POLL: Duration = Duration::from_secs(1);

/// What is followed.
pub(super) struct Followed {
    pub runtime: RuntimeClient,
    pub container_id: String,
    pub events: FileEvents,
}

/// A log that is being sent.
pub(super) struct Sending {
    reader: Option<LogReader>,
    follow: Option<Follow>,
}

struct Follow {
    followed: Followed,
    watch: Watch,
    runs: bool,
    check: Duration,
    next_check: Instant,
    successor: Option<std::fs::File>,
}

enum Watch {
    NotYet,
    None,
    Events(DirectoryEvents),
}

/// What is to be done at the end of the file.
enum AtEnd {
    Read,
    Finish,
}

impl Sending {
    pub(super) fn new(reader: LogReader, followed: Option<Followed>) -> Self {
        let follow = followed.map(|followed| Follow {
            followed,
            watch: Watch::NotYet,
            runs: true,
            check: FIRST_CHECK,
            next_check: Instant::now(),
            successor: None,
        });
        Sending { reader: Some(reader), follow }
    }

    /// The pieces. Nothing is read before it is asked for, so a slow client holds no more than one piece.
    pub(super) fn pieces(self) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Send + 'static {
        end_apart(futures::stream::unfold(self, |mut sending| async move {
            let piece = sending.next().await?;
            Some((Ok(piece), sending))
        }))
    }

    /// The next piece; none at the end. What fails after the answer has begun can only be told in it, as in the peer.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let reader = self.reader.take()?;
            let (reader, out, step) = match on_thread(reader, LogReader::step).await? {
                (reader, out, Ok(step)) => (reader, out, step),
                (_, mut out, Err(error)) => {
                    debug!(%error, "a log ended early");
                    out.extend_from_slice(error.to_string().as_bytes());
                    return Some(out.into());
                }
            };
            match step {
                Step::Done => {}
                Step::More => self.reader = Some(reader),
                Step::AtEnd if out.is_empty() => {
                    let (reader, out) = self.at_end(reader).await?;
                    self.reader = reader;
                    if !out.is_empty() {
                        return Some(out.into());
                    }
                    continue;
                }
                Step::AtEnd => self.reader = Some(reader),
            }
            if !out.is_empty() {
                return Some(out.into());
            }
        }
    }

    /// Waits at the end of the file. The reader is none when all was read; bytes are those of an unfinished line.
    async fn at_end(&mut self, mut reader: LogReader) -> Option<(Option<LogReader>, Vec<u8>)> {
        let next = match &mut self.follow {
            Some(follow) => follow.wait(&mut reader).await,
            None => AtEnd::Finish,
        };
        let mut out = Vec::new();
        match next {
            AtEnd::Read => Some((Some(reader), out)),
            AtEnd::Finish => {
                if let Err(error) = reader.finish(&mut out) {
                    out.extend_from_slice(error.to_string().as_bytes());
                }
                let successor = self.follow.as_mut().and_then(|follow| follow.successor.take());
                let goes_on = successor.map(|file| {
                    reader.switch(file);
                    reader
                });
                Some((goes_on, out))
            }
        }
    }
}

/// Lets what was given away be sent before the end is told: of an answer whose last bytes and end arrive together, the API
/// server loses these bytes on their way to a WebSocket (`messageCopy` of wsstream).
fn end_apart<T: Send + 'static>(pieces: impl Stream<Item = T> + Send + 'static) -> impl Stream<Item = T> + Send {
    let pause = tokio::task::yield_now().map(|()| futures::stream::empty());
    pieces.chain(pause.flatten_stream())
}

/// Lets a thread read that may block. A step is short: given up, it only ends unheard.
async fn on_thread(
    mut reader: LogReader,
    step: impl FnOnce(&mut LogReader, &mut Vec<u8>) -> Result<Step, LogFileError> + Send + 'static,
) -> Option<(LogReader, Vec<u8>, Result<Step, LogFileError>)> {
    let read = move || {
        let mut out = Vec::new();
        let result = step(&mut reader, &mut out);
        (reader, out, result)
    };
    tokio::task::spawn_blocking(read).await.ok()
}

impl Follow {
    /// Waits until there may be more to read, or nothing will come.
    async fn wait(&mut self, reader: &mut LogReader) -> AtEnd {
        if matches!(self.watch, Watch::NotYet) {
            let watched = reader.place().directory().and_then(|directory| self.followed.events.watch(&directory));
            self.watch = match watched {
                Ok(events) => Watch::Events(events),
                Err(error) => {
                    debug!(%error, "changes of a log are not heard of; it is looked at every second");
                    Watch::None
                }
            };
            // What was written before the watch began was not told.
            return AtEnd::Read;
        }
        if self.successor.is_some() {
            return AtEnd::Finish;
        }
        if let Some(successor) = reader.successor() {
            self.successor = Some(successor);
            tokio::time::sleep(ROTATION).await;
            return AtEnd::Read;
        }
        if !self.runs {
            return AtEnd::Finish;
        }
        reader.follow_cut();
        if Instant::now() >= self.next_check {
            self.next_check = Instant::now() + self.check;
            self.check = (self.check * 2).min(LAST_CHECK);
            if !self.is_running().await {
                self.runs = false;
                // All that it wrote is in the file by now.
                return AtEnd::Read;
            }
        }
        reader.rest();
        match &self.watch {
            Watch::Events(events) => {
                // Cancel-safe: no change is lost, and a timer.
                tokio::select! {
                    change = events.changed() => {
                        if change.closed {
                            (self.check, self.next_check) = (FIRST_CHECK, Instant::now());
                        }
                        tokio::time::sleep(GATHER).await;
                    }
                    () = tokio::time::sleep_until(self.next_check) => {}
                }
            }
            _ => tokio::time::sleep(POLL.min(self.next_check.saturating_duration_since(Instant::now()))).await,
        }
        AtEnd::Read
    }

    /// A runtime that does not answer ends no container.
    async fn is_running(&self) -> bool {
        match self.followed.runtime.container_status(&self.followed.container_id).await {
            Ok(status) => status.state() == cri::ContainerState::ContainerRunning,
            Err(error) => error.is_unavailable() || error.is_timeout(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn the_end_does_not_come_together_with_the_last_piece() {
        let mut pieces = std::pin::pin!(end_apart(futures::stream::iter(["one", "two"])));
        for piece in ["one", "two"] {
            assert_eq!(futures::poll!(pieces.next()), Poll::Ready(Some(piece)));
        }
        assert_eq!(futures::poll!(pieces.next()), Poll::Pending);
        assert_eq!(pieces.next().await, None);
    }
}
