//! Closing with patience: the answer reaches the client although the client is still sending.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::ReadBuf;
use tokio::time::timeout;

use super::admission::OpenConnection;
use super::io::Io;

/// How long a client may go on sending after the last answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the last bytes may take to be written.
const WRITING: Duration = Duration::from_secs(10);
/// How much of what it sends is discarded.
const DISCARDED: usize = 1 << 20;

/// Writes `rest`, half-closes, and discards what still arrives, until the client closes too (RFC 9112 §9.6).
pub(super) async fn close(mut io: Io, rest: BytesMut, open: Option<OpenConnection>) {
    if let Ok(Ok(())) = timeout(WRITING, finish(&mut io, rest)).await {
        let _ = timeout(PATIENCE, discard(&mut io)).await;
    }
    drop(io);
    drop(open);
}

async fn finish(io: &mut Io, mut rest: BytesMut) -> io::Result<()> {
    while !rest.is_empty() {
        match poll_fn(|cx| io.poll_write(cx, &rest)).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => rest.advance(n),
        }
    }
    poll_fn(|cx| io.poll_flush(cx)).await?;
    poll_fn(|cx| io.poll_shutdown(cx)).await
}

async fn discard(io: &mut Io) {
    let mut buffer = [0; 4096];
    let mut left = DISCARDED;
    while left > 0 {
        let mut read = ReadBuf::new(&mut buffer);
        if poll_fn(|cx| io.poll_discard(cx, &mut read)).await.is_err() || read.filled().is_empty() {
            return;
        }
        left = left.saturating_sub(read.filled().len());
    }
}
