//! What has arrived from upstream, on its way to the thread that writes it.
//!
//! The question: when is a chunk passed on? Each batch costs a wake of that thread, of the driver and of every client
//! that waits for the blob, so that chunks passed on one by one cost 20 clients more than their bytes do. The answer:
//! at once when nothing has been passed on for [`PACE`], otherwise together with what arrives until then, and never
//! later than when [`BATCH_BYTES`] have come together. A slow transfer and a first byte are not delayed at all.
//!
//! Invariant: what was pushed reaches the queue, in order, also when the future that pushed it is dropped: a transfer
//! that is cancelled still hands over all it has received.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::due::until;

/// Shortest time between two batches that are not full. Far below what a person or a runtime notices, and several
/// times what 20 wakes take.
const PACE: Duration = Duration::from_millis(2);

/// Bytes in a batch that is passed on without waiting any longer: large enough that system calls and wakes cost
/// nothing beside it, small enough that clients get their bytes in an even flow.
const BATCH_BYTES: usize = 512 << 10;

/// Batches between the network and the disk of one transfer. A batch has at most [`BATCH_BYTES`] and one chunk of a few
/// hundred KiB, so this bounds the memory of a transfer to some 8 MiB while the disk is slower than the network.
const BATCHES_MAX: usize = 8;

/// The disk's side has ended; it says why.
#[derive(Debug)]
pub(super) struct Closed;

/// The network's side.
pub(super) struct Batches {
    queue: mpsc::Sender<Vec<Bytes>>,
    held: Vec<Bytes>,
    held_bytes: usize,
    /// When the last batch was passed on.
    passed_on: Option<Instant>,
}

impl Batches {
    /// Both ends of the way.
    pub fn channel() -> (Self, mpsc::Receiver<Vec<Bytes>>) {
        let (queue, batches) = mpsc::channel(BATCHES_MAX);
        (Batches { queue, held: Vec::new(), held_bytes: 0, passed_on: None }, batches)
    }

    /// Adds a chunk, and passes on what is due. Waits while the disk is behind.
    pub async fn push(&mut self, chunk: Bytes) -> Result<(), Closed> {
        self.held_bytes += chunk.len();
        self.held.push(chunk);
        let is_due = self.due().is_some_and(|due| due <= Instant::now());
        // While the disk is behind, batches grow instead: the fewer, the sooner it catches up.
        if self.held_bytes >= BATCH_BYTES || is_due && self.queue.capacity() > 0 {
            self.pass_on().await
        } else {
            Ok(())
        }
    }

    /// Waits until what is held is due and passes it on; for ever if nothing is held.
    pub async fn pass_on_when_due(&mut self) -> Result<(), Closed> {
        until(self.due()).await;
        self.pass_on().await
    }

    /// Passes on what is still held, and ends the queue.
    pub async fn end(mut self) {
        // An error means that the disk's side has failed, which it reports itself.
        let _ = self.pass_on().await;
    }

    fn due(&self) -> Option<Instant> {
        if self.held.is_empty() {
            return None;
        }
        Some(self.passed_on.map_or_else(Instant::now, |at| at + PACE))
    }

    async fn pass_on(&mut self) -> Result<(), Closed> {
        if self.held.is_empty() {
            return Ok(());
        }
        // Nothing is taken out before there is a place for it.
        let place = self.queue.reserve().await.map_err(|_| Closed)?;
        place.send(std::mem::take(&mut self.held));
        self.held_bytes = 0;
        self.passed_on = Some(Instant::now());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn chunk(bytes: usize) -> Bytes {
        Bytes::from(vec![7; bytes])
    }

    /// Lengths of the chunks of the next batch, if there is one already.
    fn next(batches: &mut mpsc::Receiver<Vec<Bytes>>) -> Option<Vec<usize>> {
        batches.try_recv().ok().map(|batch| batch.iter().map(Bytes::len).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn a_quick_transfer_is_gathered_and_a_slow_one_is_not() {
        let (mut sender, mut batches) = Batches::channel();
        sender.push(chunk(1)).await.expect("it is open");
        assert_eq!(next(&mut batches), Some(vec![1]), "the first byte waits for nothing");

        sender.push(chunk(2)).await.expect("it is open");
        tokio::time::advance(PACE / 2).await;
        sender.push(chunk(3)).await.expect("it is open");
        assert_eq!(next(&mut batches), None);
        let start = Instant::now();
        sender.pass_on_when_due().await.expect("it is open");
        assert_eq!(next(&mut batches), Some(vec![2, 3]));
        assert!(start.elapsed() <= PACE, "{:?}", start.elapsed());
        assert!(sender.pass_on_when_due().now_or_never().is_none(), "nothing is held");

        for len in [4, 5] {
            tokio::time::advance(PACE).await;
            sender.push(chunk(len)).await.expect("it is open");
            assert_eq!(next(&mut batches), Some(vec![len]));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_batch_does_not_wait() {
        let (mut sender, mut batches) = Batches::channel();
        sender.push(chunk(1)).await.expect("it is open");
        let half = BATCH_BYTES / 2;
        sender.push(chunk(half)).await.expect("it is open");
        sender.push(chunk(half)).await.expect("it is open");
        assert_eq!((next(&mut batches), next(&mut batches)), (Some(vec![1]), Some(vec![half, half])));
    }

    /// The disk is behind, the transfer is cancelled in the middle of a push: the bytes come all the same, and the queue
    /// has an end.
    #[tokio::test(start_paused = true)]
    async fn nothing_is_lost_when_a_push_is_dropped() {
        let (mut sender, mut batches) = Batches::channel();
        for _ in 0..BATCHES_MAX {
            sender.push(chunk(BATCH_BYTES)).await.expect("it is open");
        }
        assert!(sender.push(chunk(BATCH_BYTES + 1)).now_or_never().is_none(), "there is no room");
        let end = tokio::spawn(sender.end());
        let mut got = Vec::new();
        while let Some(batch) = batches.recv().await {
            got.extend(batch.iter().map(Bytes::len));
        }
        let expected: Vec<usize> = [vec![BATCH_BYTES; BATCHES_MAX], vec![BATCH_BYTES + 1]].concat();
        assert_eq!(got, expected);
        end.await.expect("it does not panic");
    }

    #[tokio::test(start_paused = true)]
    async fn batches_grow_while_the_disk_is_behind() {
        let (mut sender, mut batches) = Batches::channel();
        for _ in 0..BATCHES_MAX {
            tokio::time::advance(PACE).await;
            sender.push(chunk(1)).await.expect("it is open");
        }
        tokio::time::advance(PACE).await;
        for _ in 0..3 {
            sender.push(chunk(2)).now_or_never().expect("it does not wait").expect("it is open");
        }
        for _ in 0..BATCHES_MAX {
            assert_eq!(next(&mut batches), Some(vec![1]));
        }
        sender.push(chunk(3)).await.expect("it is open");
        assert_eq!(next(&mut batches), Some(vec![2, 2, 2, 3]));
    }

    #[tokio::test]
    async fn a_disk_that_has_failed_is_noticed() {
        let (mut sender, batches) = Batches::channel();
        drop(batches);
        assert!(sender.push(chunk(1)).await.is_err());
    }
}
