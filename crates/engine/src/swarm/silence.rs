//! Silence: does anybody speak at all?
//!
//! Question: all others were cut off a moment ago, or stand still; the membership says so in some seconds, and clients wait for
//! homes to answer. When may this node conclude that it is on its own? Answer: when it has hailed some members and has heard
//! nothing from anybody, about whatever, for several times as long as the slowest of the last answers to the membership's
//! probes took. Prevents: pulls that take seconds longer than without a swarm; and taking a cluster whose nodes are busy, or
//! whose links are long or full, for one that is gone: one word from anybody is enough, and a node that has not been
//! answered lately concludes nothing.

use std::collections::VecDeque;
use std::time::Duration;

use crate::homes::mix;
use crate::ids::Digest;
use crate::limits::{
    ANSWERS_REMEMBERED_FOR, ANSWERS_REMEMBERED_MAX, DEAF_AFTER, DEAF_AFTER_ANSWERS, DEAF_AFTER_MAX,
    DEAF_DOUBT, HAILED_MAX, LATENESS_MAX,
};
use crate::peer::PeerId;
use crate::time::Time;
use crate::wire::Message;

use super::{Event, Swarm};

/// What this node makes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Somebody has spoken, or nobody is waited for.
    #[default]
    Over,
    /// An answer is waited for since then.
    Waiting(Time),
    /// Others have been hailed as well; at this time it is enough.
    Hailed(Time),
    /// Nobody is there.
    Deaf,
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ask others whether they are there.
    Hail,
    /// Nobody is.
    Deaf,
}

/// See the module's head.
#[derive(Default)]
pub struct Silence {
    stage: Stage,
    /// When members answered, and after how long; the oldest first.
    answers: VecDeque<(Time, Duration)>,
}

impl Silence {
    /// An answer is waited for from now on.
    pub fn begin(&mut self, now: Time) {
        if self.stage == Stage::Over {
            self.stage = Stage::Waiting(now);
        }
    }

    /// Another member has said something. Whether this node had taken itself for the only one.
    pub fn end(&mut self) -> bool {
        std::mem::take(&mut self.stage) == Stage::Deaf
    }

    /// A member has answered a probe after this long.
    pub fn answered(&mut self, now: Time, after: Duration) {
        if self.answers.len() == ANSWERS_REMEMBERED_MAX {
            self.answers.pop_front();
        }
        self.answers.push_back((now, after));
    }

    /// Whether nobody is there, as far as this node can tell.
    pub fn is_deaf(&self) -> bool {
        self.stage == Stage::Deaf
    }

    /// When [`advance`](Self::advance) is wanted.
    pub fn next_wakeup(&self) -> Option<Time> {
        match self.stage {
            Stage::Waiting(since) => Some(since + DEAF_DOUBT),
            Stage::Hailed(until) => Some(until),
            Stage::Over | Stage::Deaf => None,
        }
    }

    /// Time has passed.
    pub fn advance(&mut self, now: Time) -> Option<Verdict> {
        let due = self.next_wakeup().filter(|due| *due <= now)?;
        if now > due + LATENESS_MAX {
            // This node did not live itself for a while, and what was said may be waiting.
            self.stage = Stage::Waiting(now);
            return None;
        }
        match self.stage {
            Stage::Waiting(since) => match self.patience(now, DEAF_AFTER) {
                Some(patience) => {
                    self.stage = Stage::Hailed(since + patience);
                    Some(Verdict::Hail)
                }
                None => {
                    self.stage = Stage::Over;
                    None
                }
            },
            Stage::Hailed(_) => {
                self.stage = Stage::Deaf;
                Some(Verdict::Deaf)
            }
            Stage::Over | Stage::Deaf => None,
        }
    }

    /// How long a silence has to be that says something, at least; `None` if none does.
    pub(super) fn patience(&self, now: Time, least: Duration) -> Option<Duration> {
        let lately = self.answers.iter().filter(|(at, _)| now < *at + ANSWERS_REMEMBERED_FOR);
        let slowest = lately.map(|(_, after)| *after).max()?;
        let patience = slowest.saturating_mul(DEAF_AFTER_ANSWERS).max(least);
        (patience <= DEAF_AFTER_MAX).then_some(patience)
    }
}

impl Swarm {
    /// A member has answered the membership's probe after this long.
    pub fn answered(&mut self, now: Time, peer: &PeerId, after: Duration) {
        // What was asked of a member while it said nothing took as long as it was cut off.
        if !self.gone.was_away(peer, now, after) {
            self.silence.answered(now, after);
        }
        self.gone.heard(now, peer);
        self.hear_anybody(now, peer);
    }

    /// The answer of a blob's home is waited for, to a question that the engine does not ask itself.
    pub fn await_answer(&mut self, now: Time, digest: &Digest) {
        if self.has_members() {
            self.silence.begin(now);
            self.await_home(now, digest);
        }
    }

    /// Another member is there: nothing is fetched because nobody is.
    pub(super) fn hear_anybody(&mut self, now: Time, peer: &PeerId) {
        if let Some(took) = self.unheard.heard(now, peer) {
            self.silence.answered(now, took);
        }
        if self.silence.end() {
            for (digest, exchange) in &mut self.exchanges {
                if exchange.hear_again() {
                    self.events.push_back(Event::Leases(*digest));
                }
            }
        }
    }

    /// Time has passed.
    pub(super) fn advance_silence(&mut self, now: Time) {
        match self.silence.advance(now) {
            Some(Verdict::Hail) => {
                let others: Vec<_> =
                    self.roster.iter().map(|member| member.peer).filter(|peer| *peer != self.me).collect();
                // Any will do, far from each other on the list and not always the same ones.
                let first = mix(self.me.prefix() ^ now.since_origin().as_nanos() as u64) as usize;
                let hailed = others.iter().cycle().skip(first % others.len().max(1));
                let step = others.len().div_ceil(HAILED_MAX).max(1);
                let hailed = hailed.step_by(step).take(others.len().div_ceil(step));
                self.mail.extend(hailed.map(|peer| (*peer, Message::Hail)));
            }
            Some(Verdict::Deaf) => self.exchanges.values_mut().for_each(|exchange| exchange.set_deaf(now)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_origin(Duration::from_millis(ms))
    }

    /// What follows, and after how many milliseconds, if nobody speaks. The answers have come after so many.
    fn silence(answers: &[u64], begun: Time) -> (Silence, Vec<(Verdict, Duration)>) {
        let mut silence = Silence::default();
        answers.iter().for_each(|ms| silence.answered(Time::ZERO, Duration::from_millis(*ms)));
        silence.begin(begun);
        let mut verdicts = Vec::new();
        while let Some(due) = silence.next_wakeup() {
            verdicts.extend(silence.advance(due).map(|verdict| (verdict, due - begun)));
        }
        (silence, verdicts)
    }

    #[test]
    fn a_silence_says_as_much_as_the_slowest_answer_lets_it() {
        let most = DEAF_AFTER_MAX.as_millis() as u64;
        let after = |patience| vec![(Verdict::Hail, DEAF_DOUBT), (Verdict::Deaf, patience)];
        for (answers, verdicts) in [
            (vec![], vec![]),
            (vec![1], after(DEAF_AFTER)),
            (vec![80, 1], after(80 * Duration::from_millis(1) * DEAF_AFTER_ANSWERS)),
            (vec![1, most], vec![]),
            ([vec![most], vec![1; ANSWERS_REMEMBERED_MAX]].concat(), after(DEAF_AFTER)),
        ] {
            let (deaf, seen) = silence(&answers, at(1));
            assert_eq!((deaf.is_deaf(), &seen), (!verdicts.is_empty(), &verdicts), "{answers:?}");
            assert_eq!(silence(&answers, Time::ZERO + ANSWERS_REMEMBERED_FOR).1, [], "{answers:?}, long ago");
        }
    }

    #[test]
    fn a_word_ends_it() {
        let (mut deaf, _) = silence(&[1], at(0));
        assert!(deaf.end() && !deaf.is_deaf() && !deaf.end());
        let mut silence = Silence::default();
        silence.answered(at(0), Duration::from_millis(1));
        silence.begin(at(0));
        silence.begin(at(100));
        assert_eq!(silence.next_wakeup(), Some(at(0) + DEAF_DOUBT), "it has begun before");
        assert_eq!(silence.advance(at(0) + DEAF_DOUBT), Some(Verdict::Hail));
        assert!(!silence.end());
        assert_eq!(silence.next_wakeup(), None);
    }

    #[test]
    fn a_node_that_did_not_live_begins_anew() {
        let mut silence = Silence::default();
        silence.answered(at(0), Duration::from_millis(1));
        silence.begin(at(0));
        let late = at(1) + DEAF_DOUBT + LATENESS_MAX;
        assert_eq!(silence.advance(late), None);
        assert_eq!(silence.next_wakeup(), Some(late + DEAF_DOUBT));
    }
}
