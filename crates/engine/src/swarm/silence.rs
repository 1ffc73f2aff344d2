//! Silence: does anybody speak at all?
//!
//! Question: all others were cut off a moment ago, or stand still; the membership says so in some seconds, and clients wait for
//! homes to answer. When may this node conclude that it is on its own? Answer: when it has hailed some members and has heard
//! nothing from anybody, about whatever, for several times as long as the slowest of the last answers to the membership's
//! probes took. Prevents: pulls that take seconds longer than without a swarm; and taking a cluster whose nodes are busy, or
//! whose links are long or full, for one that is gone: one word from anybody is enough, and a node that has not been
//! answered lately concludes nothing. Nor does one that comes late to its own work: the answers may lie there unread, and
//! where it has to wait for a processor the others on its machine do, too.

use std::collections::VecDeque;
use std::time::Duration;

use crate::homes::mix;
use crate::ids::Digest;
use crate::limits::{
    ANSWERS_REMEMBERED_FOR, ANSWERS_REMEMBERED_MAX, DEAF_AFTER, DEAF_AFTER_ANSWERS, DEAF_AFTER_MAX,
    DEAF_DOUBT, EXCUSE_MAX, HAILED_MAX, HEALING, LATENESS_MAX, LATENESS_MIN, LATENESS_REMEMBERED,
    LATENESSES_MAX,
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
    /// An answer is waited for since then, and others have been hailed as well; at this time it is enough.
    Hailed { since: Time, until: Time },
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
    /// When this node was late itself, and how much; each less than the one before.
    late: VecDeque<(Time, Duration)>,
    /// What was asked before does not tell how long answers take: nobody was there for a time.
    healed: Option<Time>,
}

impl Silence {
    /// An answer is waited for from now on.
    pub fn begin(&mut self, now: Time) {
        if self.stage == Stage::Over {
            self.stage = Stage::Waiting(now);
        }
    }

    /// Another member has said something. Whether this node had taken itself for the only one.
    pub fn end(&mut self, now: Time) -> bool {
        let was_deaf = std::mem::take(&mut self.stage) == Stage::Deaf;
        if was_deaf {
            self.healed = Some(now + HEALING);
        }
        was_deaf
    }

    /// A member has answered a probe after this long.
    pub fn answered(&mut self, now: Time, after: Duration) {
        if self.healed.is_some_and(|healed| now < healed + after) {
            return;
        }
        if self.answers.len() == ANSWERS_REMEMBERED_MAX {
            self.answers.pop_front();
        }
        self.answers.push_back((now, after));
    }

    /// This node was late by so much.
    pub fn was_late(&mut self, now: Time, by: Duration) {
        if by < LATENESS_MIN {
            return;
        }
        self.late.retain(|(at, before)| now < *at + LATENESS_REMEMBERED && *before > by);
        self.late.truncate(LATENESSES_MAX - 1);
        self.late.push_back((now, by));
    }

    fn lateness(&self, now: Time) -> Duration {
        let lately = self.late.iter().find(|(at, _)| now < *at + LATENESS_REMEMBERED);
        lately.map_or(Duration::ZERO, |(_, by)| *by)
    }

    /// Whether nobody is there, as far as this node can tell.
    pub fn is_deaf(&self) -> bool {
        self.stage == Stage::Deaf
    }

    /// When [`advance`](Self::advance) is wanted.
    pub fn next_wakeup(&self) -> Option<Time> {
        match self.stage {
            Stage::Waiting(since) => Some(since + DEAF_DOUBT),
            Stage::Hailed { until, .. } => Some(until),
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
        let (since, verdict) = match self.stage {
            Stage::Waiting(since) => (since, Some(Verdict::Hail)),
            Stage::Hailed { since, .. } => (since, None),
            Stage::Over | Stage::Deaf => return None,
        };
        let Some(patience) = self.patience(now, DEAF_AFTER) else {
            self.stage = Stage::Over;
            return None;
        };
        let until = since + patience;
        if verdict.is_none() && until <= now {
            self.stage = Stage::Deaf;
            return Some(Verdict::Deaf);
        }
        // It may be longer than it was when the others were hailed.
        self.stage = Stage::Hailed { since, until };
        verdict
    }

    /// How much longer a home may take to answer because this node is late itself.
    pub(super) fn excuse(&self, now: Time) -> Duration {
        excused(self.lateness(now))
    }

    /// How much longer one that fetches may take for the next piece: it waits for a processor as this node does, or as those do that
    /// answer late. Clients do not wait for it as they do for a home.
    pub(super) fn excuse_of_holders(&self, now: Time) -> Duration {
        self.excuse(now).max(self.slowest_answer(now).map_or(Duration::ZERO, excused))
    }

    fn slowest_answer(&self, now: Time) -> Option<Duration> {
        let lately = self.answers.iter().filter(|(at, _)| now < *at + ANSWERS_REMEMBERED_FOR);
        lately.map(|(_, after)| *after).max()
    }

    /// How long a silence has to be that says something, at least; `None` if none does.
    pub(super) fn patience(&self, now: Time, least: Duration) -> Option<Duration> {
        let slowest = self.slowest_answer(now)?.max(self.lateness(now));
        let patience = slowest.saturating_mul(DEAF_AFTER_ANSWERS).max(least);
        (patience <= DEAF_AFTER_MAX).then_some(patience)
    }
}

/// How much longer others may take where something takes that long that should take no time.
fn excused(late: Duration) -> Duration {
    late.saturating_mul(DEAF_AFTER_ANSWERS).min(EXCUSE_MAX)
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

    /// This node was late by so much.
    pub fn was_late(&mut self, now: Time, by: Duration) {
        self.silence.was_late(now, by);
    }

    /// The answer of a blob's home is waited for, to a question that the engine does not ask itself.
    pub fn await_answer(&mut self, now: Time, digest: &Digest) {
        if self.has_members() {
            self.silence.begin(now);
            self.await_home(now, digest);
        }
    }

    /// The answer of a member is waited for, to a question that the engine does not ask: to one about `about`, which is to say that whoever
    /// is home of that would be asked next.
    pub fn await_member(&mut self, now: Time, peer: PeerId, about: Digest) {
        if self.roster.contains(&peer) && peer != self.me {
            self.silence.begin(now);
            self.unheard.begin(now, peer, about);
        }
    }

    /// Whether a member is not worth waiting for: it says nothing, or cannot be reached, or nobody can.
    pub fn says_nothing(&self, now: Time, peer: &PeerId) -> bool {
        self.silence.is_deaf() || self.gone.contains(now, peer)
    }

    /// Another member is there: nothing is fetched because nobody is.
    pub(super) fn hear_anybody(&mut self, now: Time, peer: &PeerId) {
        if let Some(took) = self.unheard.heard(now, peer) {
            self.silence.answered(now, took);
        }
        if self.silence.end(now) {
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
    fn what_a_network_that_heals_delivers_late_says_nothing() {
        let (mut deaf, _) = silence(&[1], at(0));
        let (back, slow) = (at(5_000), Duration::from_millis(900));
        assert!(deaf.end(back));
        // Asked while nobody was there, and just after that.
        for asked in [at(4_500), back + HEALING / 2] {
            deaf.answered(asked + slow, slow);
            assert_eq!(deaf.patience(asked + slow, DEAF_AFTER), Some(DEAF_AFTER), "{asked:?}");
        }
        deaf.answered(back + HEALING + slow, slow);
        assert_eq!(deaf.patience(back + HEALING + slow, DEAF_AFTER), None, "later it does");
    }

    #[test]
    fn a_node_that_is_late_itself_gives_others_as_long() {
        let mut silence = Silence::default();
        silence.answered(at(0), Duration::from_millis(1));
        let late = Duration::from_millis(80);
        silence.was_late(at(0), late);
        // Less than before says less.
        silence.was_late(at(1), late / 2);
        assert_eq!(silence.patience(at(1), DEAF_AFTER), Some(late * DEAF_AFTER_ANSWERS));
        assert_eq!(silence.excuse(at(1)), late * DEAF_AFTER_ANSWERS);
        silence.was_late(at(2), 2 * late);
        assert_eq!(silence.patience(at(2), DEAF_AFTER), None);
        silence.was_late(at(3), Duration::MAX);
        assert_eq!(silence.excuse(at(3)), EXCUSE_MAX);
        // What comes after it counts when it is forgotten.
        silence.was_late(at(1000), late);
        let forgotten = at(3) + LATENESS_REMEMBERED;
        assert_eq!(silence.excuse(forgotten), late * DEAF_AFTER_ANSWERS);
        let later = at(1000) + LATENESS_REMEMBERED;
        assert_eq!(silence.patience(later, DEAF_AFTER), Some(DEAF_AFTER));
        assert_eq!(silence.excuse(later), Duration::ZERO);
    }

    #[test]
    fn those_who_fetch_get_longer_where_answers_take_long() {
        let mut silence = Silence::default();
        assert_eq!(silence.excuse_of_holders(at(0)), Duration::ZERO);
        let ms = Duration::from_millis;
        for (answer, late, excuse) in [(1, 0, 8), (100, 0, 800), (100, 200, 1600), (100, 10_000, 4000)] {
            silence.answered(at(0), ms(answer));
            silence.was_late(at(0), ms(late));
            assert_eq!(silence.excuse_of_holders(at(0)), ms(excuse), "{answer} and {late} ms");
        }
        assert_eq!(silence.excuse_of_holders(at(0) + ANSWERS_REMEMBERED_FOR), Duration::ZERO);
    }

    #[test]
    fn who_comes_late_after_it_has_hailed_waits_longer() {
        let hailed = || {
            let mut silence = Silence::default();
            silence.answered(at(0), Duration::from_millis(1));
            silence.begin(at(0));
            assert_eq!(silence.advance(at(0) + DEAF_DOUBT), Some(Verdict::Hail));
            silence
        };
        let (mut little, mut much) = (hailed(), hailed());
        let now = at(0) + DEAF_AFTER;
        little.was_late(now, DEAF_AFTER_MAX / DEAF_AFTER_ANSWERS);
        assert_eq!((little.advance(now), little.next_wakeup()), (None, Some(at(0) + DEAF_AFTER_MAX)));
        assert_eq!(little.advance(at(0) + DEAF_AFTER_MAX), Some(Verdict::Deaf));
        much.was_late(now, DEAF_AFTER_MAX);
        assert_eq!((much.advance(now), much.next_wakeup()), (None, None));
    }

    #[test]
    fn a_word_ends_it() {
        let (mut deaf, _) = silence(&[1], at(0));
        assert!(deaf.end(at(0)) && !deaf.is_deaf() && !deaf.end(at(0)));
        let mut silence = Silence::default();
        silence.answered(at(0), Duration::from_millis(1));
        silence.begin(at(0));
        silence.begin(at(100));
        assert_eq!(silence.next_wakeup(), Some(at(0) + DEAF_DOUBT), "it has begun before");
        assert_eq!(silence.advance(at(0) + DEAF_DOUBT), Some(Verdict::Hail));
        assert!(!silence.end(at(0)));
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
