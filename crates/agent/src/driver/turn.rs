//! Whose turn it is: that of what waits in the inbox, or of time.
//!
//! Question: the engine's wakeup is due, and commands wait; which comes first? Answer: what waits at that moment, and then the
//! wakeup, whatever has come meanwhile. Prevents: a node that got no processor for two seconds and takes others for silent whose
//! words lie in its inbox; and one that is told so much that it never looks at the time.

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::due::until;

/// What is to be done next.
pub(super) enum Turn<T> {
    /// This has come.
    Command(T),
    /// Time has passed, and before that was noticed all this had come.
    Wakeup { waiting: Vec<T> },
}

/// Waits for the next turn; `None` when nobody can say anything any more.
pub(super) async fn next<T>(inbox: &mut mpsc::Receiver<T>, wakeup: Option<Instant>) -> Option<Turn<T>> {
    tokio::select! {
        command = inbox.recv() => command.map(Turn::Command),
        () = until(wakeup) => {
            let waiting = (0..inbox.len()).map_while(|_| inbox.try_recv().ok()).collect();
            Some(Turn::Wakeup { waiting })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of two things that are due is looked at first is left to chance: with so many rounds both are.
    const ROUNDS: usize = 64;

    #[tokio::test(start_paused = true)]
    async fn what_waits_when_a_wakeup_is_due_comes_before_it() {
        for _ in 0..ROUNDS {
            let (sender, mut inbox) = mpsc::channel(8);
            (0..5).for_each(|number| sender.try_send(number).unwrap());
            let mut before = Vec::new();
            loop {
                match next(&mut inbox, Some(Instant::now())).await.unwrap() {
                    Turn::Command(number) => before.push(number),
                    Turn::Wakeup { waiting } => break before.extend(waiting),
                }
            }
            assert_eq!(before, [0, 1, 2, 3, 4]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_says_more_and_more_does_not_put_off_the_wakeup() {
        let (sender, mut inbox) = mpsc::channel(8);
        sender.try_send(0).unwrap();
        for turn in 0.. {
            assert!(turn < ROUNDS, "no wakeup");
            match next(&mut inbox, Some(Instant::now())).await.unwrap() {
                Turn::Command(_) => sender.try_send(0).unwrap(),
                Turn::Wakeup { waiting } => {
                    assert!(waiting.len() <= 1);
                    break;
                }
            }
        }
        drop(sender);
        inbox.close();
        while inbox.try_recv().is_ok() {}
        assert!(next(&mut inbox, None).await.is_none());
    }
}
