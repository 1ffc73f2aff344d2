//! Homes that are asked one after the other.
//!
//! Question: whom does a node ask when the home of a tag or of a manifest does not answer? Answer: the next one, which asks upstream for
//! everybody as the first would have. Prevents: a home that has just died and a thousand nodes that resolve `latest` meanwhile, each
//! at the registry.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::lateness::patiently;

/// How long the first home has, which may have to ask the registry: about what that takes on a bad day.
pub const FIRST_TIMEOUT: Duration = Duration::from_secs(3);
/// How long each one after it has. All that were asked before may still answer.
const NEXT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a home's address has before the next home is asked as well: the kernel answers, however busy the member is.
const REACH_TIMEOUT: Duration = Duration::from_millis(200);

/// Whether there is a connection to who was asked.
#[derive(Clone, Debug, Default)]
pub struct Reached(Arc<AtomicBool>);

impl Reached {
    /// There is one now.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Waits as long as it makes sense for a home that was asked: for `time` if there is soon a connection to it, and until it is known to be
/// silent. `silent` is polled only if it has not answered at once.
pub async fn wait_for(reached: &Reached, time: Duration, silent: impl Future<Output = ()>) {
    patiently(REACH_TIMEOUT).await;
    if reached.get() {
        tokio::select! {
            () = patiently(time.saturating_sub(REACH_TIMEOUT)) => {}
            () = silent => {}
        }
    }
}

/// Why a home gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Missed {
    /// It could not be asked.
    #[error("{0}")]
    Away(String),
    /// It says that it cannot tell. Those after it could not either.
    #[error("{0}")]
    Unknown(String),
}

/// Waits for a random part of `time`: nodes that do so do not go on all at once.
pub async fn spread_over(time: Duration) {
    tokio::time::sleep(time.mul_f64(rand::random())).await;
}

/// The first answer of `homes`, each of which is asked when the one before it is away or `silent`; `None` if none of them tells. One that
/// cannot tell speaks for all after it, and not for those before it that may still answer: they may have what upstream refuses by now.
/// Those who wait for the last one in vain are spread over `spread`.
pub async fn first_answer<H, T, F, S>(
    homes: impl IntoIterator<Item = H>,
    ask: impl Fn(H, Reached) -> F,
    silent: impl Fn(H) -> S,
    spread: Duration,
) -> Option<T>
where
    H: Copy + Eq + fmt::Debug,
    F: Future<Output = Result<T, Missed>>,
    S: Future<Output = ()>,
{
    let mut homes = homes.into_iter().zip(0..).peekable();
    let mut asked = FuturesUnordered::new();
    // By rank: those that may still answer, and the first one that cannot tell.
    let (mut waiting, mut cannot_tell) = (BTreeSet::new(), u32::MAX);
    homes.peek()?;
    let mut time = FIRST_TIMEOUT;
    while let Some((home, rank)) = homes.next().filter(|(_, rank)| *rank < cannot_tell) {
        let is_last = homes.peek().is_none();
        let reached = Reached::default();
        let question = ask(home, reached.clone());
        asked.push(async move { (home, rank, question.await) });
        waiting.insert(rank);
        if is_last {
            // Nobody is left to be asked instead; connecting has a limit of its own.
            reached.set();
        }
        let time = std::mem::replace(&mut time, NEXT_TIMEOUT);
        let mut waited = pin!(async {
            wait_for(&reached, time, silent(home)).await;
            if is_last {
                spread_over(spread).await;
            }
        });
        loop {
            tokio::select! {
                biased;
                Some((from, from_rank, answer)) = asked.next() => {
                    waiting.remove(&from_rank);
                    match answer {
                        Ok(answer) => return Some(answer),
                        Err(why @ Missed::Unknown(_)) => {
                            tracing::debug!(home = ?from, %why, "the home of a manifest or blob cannot tell");
                            cannot_tell = cannot_tell.min(from_rank);
                        }
                        Err(why) => {
                            tracing::debug!(home = ?from, %why, "a home is away");
                            if from == home && from_rank < cannot_tell {
                                break;
                            }
                        }
                    }
                    if cannot_tell < u32::MAX && waiting.range(..cannot_tell).next().is_none() {
                        return None;
                    }
                }
                () = &mut waited => {
                    tracing::debug!(?home, "a home does not answer");
                    break;
                }
            }
        }
    }
    tracing::info!("no home of a manifest or blob answers; upstream is asked");
    None
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::{Instant, sleep};

    use super::*;

    const PROMPT: Duration = Duration::from_millis(50);
    /// How long it takes to notice that one does not live.
    const NOTICED: Duration = Duration::from_millis(400);

    /// What a home does.
    #[derive(Clone, Copy, Debug)]
    enum Home {
        /// It answers after this long.
        Answers(Duration),
        /// Nobody listens there.
        Refuses,
        /// Its address does not answer, until connecting to it is given up.
        Drops,
        /// It takes the question and says nothing, and lives.
        Hangs,
        /// The same, and it does not live.
        Freezes,
        /// It answers that it cannot tell, after this long.
        CannotTell(Duration),
    }
    use Home::*;

    /// Who answers, who is asked, and how long it takes.
    async fn ask_all(homes: &[Home]) -> (Option<usize>, usize, Duration) {
        let asked = RefCell::new(Vec::new());
        let ask = |home: usize, reached: Reached| {
            asked.borrow_mut().push(home);
            async move {
                match homes[home] {
                    Refuses => return Err(Missed::Away("refused".into())),
                    Drops => {
                        sleep(3 * REACH_TIMEOUT).await;
                        return Err(Missed::Away("timed out".into()));
                    }
                    _ => {}
                }
                reached.set();
                match homes[home] {
                    Answers(after) => sleep(after).await,
                    CannotTell(after) => {
                        sleep(after).await;
                        return Err(Missed::Unknown("404".into()));
                    }
                    Hangs | Freezes => std::future::pending().await,
                    Refuses | Drops => unreachable!("nothing is asked there"),
                }
                Ok(home)
            }
        };
        let begun = Instant::now();
        let silent = async |home: usize| match homes[home] {
            Freezes => sleep(NOTICED).await,
            _ => std::future::pending().await,
        };
        let answer = first_answer(0..homes.len(), ask, silent, Duration::ZERO).await;
        let asked = asked.borrow().len();
        (answer, asked, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_asked_when() {
        let slow = FIRST_TIMEOUT - PROMPT;
        let late = FIRST_TIMEOUT + PROMPT;
        for (homes, answer, asked, time) in [
            (vec![], None, 0, Duration::ZERO),
            (vec![Answers(PROMPT), Hangs], Some(0), 1, PROMPT),
            (vec![Answers(slow), Answers(PROMPT)], Some(0), 1, slow),
            // Whoever says that it cannot tell speaks for all after it, and not for those before it.
            (vec![CannotTell(PROMPT), Answers(PROMPT)], None, 1, PROMPT),
            (vec![CannotTell(late), Answers(3 * PROMPT)], None, 2, late),
            (vec![Answers(late), CannotTell(Duration::ZERO), Hangs], Some(0), 2, late),
            (vec![Hangs, CannotTell(PROMPT), Answers(PROMPT)], None, 2, FIRST_TIMEOUT + NEXT_TIMEOUT),
            (vec![Refuses, Answers(PROMPT), Hangs], Some(1), 2, PROMPT),
            (vec![Refuses, Refuses, Refuses], None, 3, Duration::ZERO),
            (vec![Drops, Answers(PROMPT)], Some(1), 2, REACH_TIMEOUT + PROMPT),
            (vec![Drops, Drops, Answers(PROMPT)], Some(2), 3, 2 * REACH_TIMEOUT + PROMPT),
            (vec![Drops], None, 1, 3 * REACH_TIMEOUT),
            (vec![Drops, Drops, Drops], None, 3, 5 * REACH_TIMEOUT),
            (vec![Hangs, Answers(PROMPT)], Some(1), 2, FIRST_TIMEOUT + PROMPT),
            (vec![Freezes, Answers(PROMPT)], Some(1), 2, REACH_TIMEOUT + NOTICED + PROMPT),
            (vec![Freezes, Freezes, Freezes], None, 3, 3 * (REACH_TIMEOUT + NOTICED)),
            // One that was given up may still be the first to answer.
            (vec![Answers(late), Hangs], Some(0), 2, late),
            (vec![Hangs, Hangs, Hangs], None, 3, FIRST_TIMEOUT + 2 * NEXT_TIMEOUT),
        ] {
            let (told, were_asked, took) = ask_all(&homes).await;
            assert_eq!((told, were_asked), (answer, asked), "{homes:?}");
            // The clock of the tests moves by whole milliseconds, and what is late by one is excused by as many as that is worth.
            assert!(took >= time && took < time + PROMPT, "{homes:?}: {took:?} instead of {time:?}");
        }
    }
}
