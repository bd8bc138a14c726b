//! Two connections made one: bytes are copied both ways until both sides have ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::connection::millis;

/// Bytes held of each direction: the memory of a stream, however slow its reader.
const BUFFER: usize = 32 * 1024;

/// How long a relay may be silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    /// While both sides are open.
    pub open: Duration,
    /// Once one side has ended what it sends.
    pub half_closed: Duration,
}

/// Why a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides ended what they send.
    Closed,
    /// A side broke.
    Broken,
    /// Nothing was sent for too long.
    Silent,
}

/// Copies both ways. The end of one side's bytes is told to the other side, which may go on sending.
pub(super) async fn relay<A, B>(near: A, far: B, silence: Silence) -> End
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (mut near_read, mut near_write) = tokio::io::split(near);
    let (mut far_read, mut far_write) = tokio::io::split(far);
    let activity = Activity::new();
    let limit = AtomicU64::new(millis(silence.open));
    let there = async {
        let ended = copy(&mut near_read, &mut far_write, &activity).await;
        limit.store(millis(silence.half_closed), Ordering::Relaxed);
        activity.note();
        ended
    };
    let back = async {
        let ended = copy(&mut far_read, &mut near_write, &activity).await;
        limit.store(millis(silence.half_closed), Ordering::Relaxed);
        activity.note();
        ended
    };
    let copied = async {
        match tokio::try_join!(there, back) {
            Ok(_) => End::Closed,
            Err(_) => End::Broken,
        }
    };
    // Cancel-safe: whichever is first ends the other, and with it both connections.
    tokio::select! {
        end = copied => end,
        () = activity.silence(&limit) => End::Silent,
    }
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    activity: &Activity,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).await?;
        activity.note();
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(buffer.get(..count).unwrap_or_default()).await?;
        to.flush().await?;
        activity.note();
    }
}

/// When something was last sent.
struct Activity {
    start: Instant,
    last: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Activity { start: Instant::now(), last: AtomicU64::new(0) }
    }

    fn note(&self) {
        self.last.store(millis(self.start.elapsed()), Ordering::Relaxed);
    }

    /// Ends when nothing was noted for the limit, which is looked at once a second at least once it is short.
    async fn silence(&self, limit: &AtomicU64) {
        loop {
            let limit_now = limit.load(Ordering::Relaxed);
            let quiet = millis(self.start.elapsed()).saturating_sub(self.last.load(Ordering::Relaxed));
            if quiet >= limit_now {
                return;
            }
            // The limit gets shorter when a side ends: that must not wait for the end of the long one.
            tokio::time::sleep(Duration::from_millis((limit_now - quiet).min(15_000))).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    const SILENCE: Silence = Silence { open: Duration::from_secs(3600), half_closed: Duration::from_secs(30) };

    #[tokio::test]
    async fn bytes_go_both_ways_and_a_half_that_ended_leaves_the_other_open() {
        let (mut client, near) = duplex(64);
        let (far, mut server) = duplex(64);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(relay(near, far, SILENCE));
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut asked = Vec::new();
        server.read_to_end(&mut asked).await.unwrap();
        assert_eq!(asked, b"question");
        let long = vec![7; 300_000];
        let (sent, received) = tokio::join!(
            async {
                server.write_all(&long).await.unwrap();
                server.shutdown().await.unwrap();
            },
            async {
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).await.unwrap();
                answer
            }
        );
        let () = sent;
        assert_eq!(received, long);
        assert_eq!(tasks.join_next().await.unwrap().unwrap(), End::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_and_is_shorter_after_a_half_close() {
        let (mut client, near) = duplex(64);
        let (far, _server) = duplex(64);
        let start = Instant::now();
        let relayed = relay(near, far, SILENCE);
        let sent = async {
            tokio::time::sleep(Duration::from_secs(3000)).await;
            client.write_all(b"x").await.unwrap();
            client
        };
        let (end, _client) = tokio::join!(relayed, sent);
        assert_eq!((end, start.elapsed().as_secs()), (End::Silent, 6600));
        let (mut client, near) = duplex(64);
        let (far, _server) = duplex(64);
        client.shutdown().await.unwrap();
        let start = Instant::now();
        assert_eq!(relay(near, far, SILENCE).await, End::Silent);
        assert!(start.elapsed() <= Duration::from_secs(46), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_side_that_breaks_ends_both() {
        let (client, near) = duplex(64);
        let (far, mut server) = duplex(64);
        drop(client);
        let relayed = relay(near, far, SILENCE);
        let written = async {
            let mut nothing = Vec::new();
            server.read_to_end(&mut nothing).await.unwrap();
            server.write_all(&[0; 64]).await.unwrap();
        };
        let (end, ()) = tokio::join!(relayed, written);
        assert_eq!(end, End::Broken);
    }
}
