//! A bounded queue of lines and the thread that writes them.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Lines that wait to be written: a few MiB at worst, and the lines of a second on a busy node.
const LINES_MAX: usize = 8192;

/// How long the end waits for a log that nobody takes away.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// Takes lines. One `write` is one line, as `tracing-subscriber` hands them over.
#[derive(Clone)]
pub(super) struct Lines {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Line(Vec<u8>),
    End,
}

/// Writes out what was logged when it is dropped, if somebody takes it away.
#[must_use = "what was logged is lost without it"]
pub struct Flush {
    queue: SyncSender<Message>,
    done: Receiver<()>,
}

/// Starts the thread that writes to `out`. `notice` words how many lines were lost.
pub(super) fn start(
    out: impl Write + Send + 'static,
    notice: fn(u64) -> String,
) -> io::Result<(Lines, Flush)> {
    let (queue, waiting) = sync_channel(LINES_MAX);
    let (tell, done) = sync_channel(1);
    let dropped = Arc::new(AtomicU64::new(0));
    let lines = Lines { queue: queue.clone(), dropped: Arc::clone(&dropped) };
    std::thread::Builder::new().name("log".into()).spawn(move || {
        write_all(&waiting, &dropped, out, notice);
        let _ = tell.send(());
    })?;
    Ok((lines, Flush { queue, done }))
}

fn write_all(
    waiting: &Receiver<Message>,
    dropped: &AtomicU64,
    mut out: impl Write,
    notice: fn(u64) -> String,
) {
    while let Ok(Message::Line(line)) = waiting.recv() {
        // A log that cannot be written cannot be complained about either.
        let _ = out.write_all(&line);
        match dropped.swap(0, Ordering::Relaxed) {
            0 => {}
            lost => drop(writeln!(out, "{}", notice(lost))),
        }
    }
    let _ = out.flush();
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let deadline = Instant::now() + FLUSH_MAX;
        while self.queue.try_send(Message::End).is_err() {
            if Instant::now() > deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = self.done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Arc, Mutex};

    use super::{LINES_MAX, start};

    /// Writes only as often as it is allowed to.
    struct Gate {
        allowed: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.allowed.recv();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gate() -> (Gate, Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (allow, allowed) = channel();
        let written = Arc::default();
        (Gate { allowed, written: Arc::clone(&written) }, allow, written)
    }

    #[test]
    fn a_log_that_nobody_takes_away_holds_nobody_up() {
        let (gate, allow, written) = gate();
        let (mut lines, flush) = start(gate, |lost| format!("lost {lost}")).unwrap();
        // The first one is taken by the thread at some time; all others but the queue's are lost.
        for _ in 0..LINES_MAX + 100 {
            lines.write_all(b"x\n").unwrap();
        }
        drop(allow);
        drop(flush);
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let kept = text.lines().filter(|line| *line == "x").count();
        assert!((LINES_MAX..=LINES_MAX + 1).contains(&kept), "{kept}");
        let lost = LINES_MAX + 100 - kept;
        assert!(text.contains(&format!("lost {lost}")), "{lost}");
    }

    #[test]
    fn the_end_writes_out_what_is_left() {
        let (gate, allow, written) = gate();
        drop(allow);
        let (mut lines, flush) = start(gate, |lost| format!("lost {lost}")).unwrap();
        lines.write_all(b"one\n").unwrap();
        lines.write_all(b"two\n").unwrap();
        drop(flush);
        assert_eq!(*written.lock().unwrap(), b"one\ntwo\n");
    }
}
