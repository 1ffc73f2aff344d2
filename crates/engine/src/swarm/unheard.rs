//! Homes that say nothing while others speak.
//!
//! Question: a home does not answer, and others do; when does this node ask the next one? Answer: when it has hailed the home and
//! those that would be home without it, some of those have answered, and the home has said nothing for as long as a silence of
//! everybody has to be (see [`Silence`](super::silence)), which these answers count for as well: where all are busy they come late or
//! only a few come, and then no silence says anything. All of them that were silent are not asked until they say something,
//! so a blob whose homes were all cut off costs one such time and not the patience with each of them. Prevents: pulls that
//! take seconds longer until the membership knows.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::Swarm;
use super::members::tell_all;
use super::parts::living_homes;
use crate::homes::{first_of, homes};
use crate::ids::Digest;
use crate::limits::{
    DEAF_AFTER, FIRST_HOME_WAIT, HAIL_ANSWERS_MAX, HEIRS_HAILED_MAX, HOLDERS_PAUSE, HOME_DOUBT, LATENESS_MAX,
    SILENT_PER_ANSWER_MAX,
};
use crate::peer::PeerId;
use crate::time::Time;
use crate::wire::Message;

/// How long a member has been waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// As home of this blob, since then.
    Asked(Time, Digest),
    /// It was hailed, and has until then.
    Hailed { at: Time, until: Time },
}

impl Stage {
    fn due(&self) -> Time {
        match self {
            Stage::Asked(since, _) => *since + HOME_DOUBT,
            Stage::Hailed { until, .. } => *until,
        }
    }
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// This member may be gone: it is to be hailed, and whoever is or would be home of the blob.
    Doubted(PeerId, Digest),
    /// This member says nothing, and others do.
    Unheard(PeerId),
}

/// See the module's head.
#[derive(Default)]
pub(super) struct Unheard {
    waiting: BTreeMap<PeerId, Stage>,
    /// When those who had been hailed answered, the last of them.
    answers: VecDeque<Time>,
    /// When to look whether those who are to fetch something have begun to.
    look_at: Option<Time>,
}

impl Unheard {
    /// A home has been asked something that it answers at once.
    pub(super) fn begin(&mut self, now: Time, home: PeerId, digest: Digest) {
        self.waiting.entry(home).or_insert(Stage::Asked(now, digest));
    }

    /// A member was told to fetch something. A word that it says about something else says nothing of the time after it.
    pub(super) fn begin_fetching(&mut self, now: Time, holder: PeerId, digest: Digest) {
        self.begin(now, holder, digest);
        self.look_at.get_or_insert(now + HOLDERS_PAUSE);
    }

    /// A member is to be hailed, unless it has been.
    fn hail(&mut self, now: Time, peer: PeerId, until: Time) -> bool {
        let hailed = matches!(self.waiting.get(&peer), Some(Stage::Hailed { .. }));
        if !hailed {
            self.waiting.insert(peer, Stage::Hailed { at: now, until });
        }
        !hailed
    }

    /// A member has said something. How long that took, if it had been hailed.
    pub(super) fn heard(&mut self, now: Time, peer: &PeerId) -> Option<Duration> {
        match self.waiting.remove(peer) {
            Some(Stage::Hailed { at, .. }) => {
                if self.answers.len() == HAIL_ANSWERS_MAX {
                    self.answers.pop_front();
                }
                self.answers.push_back(now);
                Some(now - at)
            }
            Some(Stage::Asked(..)) | None => None,
        }
    }

    fn answers_after(&self, hailed: Time) -> usize {
        self.answers.iter().rev().take_while(|at| **at > hailed).count()
    }

    /// When [`advance`](Self::advance) is wanted.
    pub(super) fn next_wakeup(&self) -> Option<Time> {
        self.waiting.values().map(Stage::due).chain(self.look_at).min()
    }

    /// Time has passed; a silence has to be so long, if it says anything.
    fn advance(&mut self, now: Time, patience: Option<Duration>) -> Vec<Verdict> {
        let due: Vec<_> =
            self.waiting.iter().filter(|(_, stage)| stage.due() <= now).map(|(p, s)| (*p, *s)).collect();
        let mut verdicts = Vec::new();
        let silent = self.waiting.values().filter(|stage| matches!(stage, Stage::Hailed { .. })).count();
        let silent = silent.min(HAIL_ANSWERS_MAX);
        for (peer, stage) in due {
            self.waiting.remove(&peer);
            // This node did not live itself for a while, and what was said may be waiting.
            let lived = now <= stage.due() + LATENESS_MAX;
            match (stage, patience) {
                (Stage::Asked(_, digest), _) if !lived => self.begin(now, peer, digest),
                (Stage::Asked(_, digest), _) => verdicts.push(Verdict::Doubted(peer, digest)),
                (Stage::Hailed { at, .. }, Some(patience)) if lived => {
                    let until = at + left_of(patience);
                    if now < until {
                        // Answers have come late since.
                        self.waiting.insert(peer, Stage::Hailed { at, until });
                    } else if silent <= SILENT_PER_ANSWER_MAX * self.answers_after(at) {
                        verdicts.push(Verdict::Unheard(peer));
                    }
                    // If hardly anybody has answered, it is the silence of everybody.
                }
                (Stage::Hailed { .. }, _) => {}
            }
        }
        verdicts
    }
}

/// How long one that was hailed may be silent, which it has been for some time before.
fn left_of(patience: Duration) -> Duration {
    patience.saturating_sub(HOME_DOUBT)
}

impl Swarm {
    /// Something is sent of which the receiver is to say something soon.
    pub(super) fn expect_answer(&mut self, now: Time, to: PeerId, message: &Message) {
        match message {
            Message::Join { digest, .. } => {
                self.silence.begin(now);
                self.unheard.begin(now, to, *digest);
                if let Some(exchange) = self.exchanges.get_mut(digest).filter(|_| self.silence.is_deaf()) {
                    exchange.set_deaf(now);
                }
            }
            Message::Lease { digest, .. } => self.unheard.begin_fetching(now, to, *digest),
            _ => {}
        }
    }

    /// The home of a blob is waited for, as a question that the engine does not ask itself has gone there.
    pub(super) fn await_home(&mut self, now: Time, digest: &Digest) {
        let home = living_homes(now, digest, &self.roster, &self.gone).first().copied();
        if let Some(home) = home.filter(|home| *home != self.me) {
            self.unheard.begin(now, home, *digest);
        }
    }

    /// Time has passed.
    pub(super) fn advance_unheard(&mut self, now: Time) {
        if self.unheard.look_at.take_if(|at| *at <= now).is_some() {
            for (digest, holder) in self.home.holders_that_have_not_begun() {
                self.unheard.begin_fetching(now, holder, digest);
            }
        }
        let patience = self.silence.patience(now, DEAF_AFTER);
        let mut unheard = Vec::new();
        for verdict in self.unheard.advance(now, patience) {
            match verdict {
                Verdict::Unheard(peer) => unheard.push(peer),
                Verdict::Doubted(peer, digest) => {
                    if let Some(patience) = patience {
                        self.hail(now, peer, &digest, left_of(patience));
                    }
                }
            }
        }
        if unheard.is_empty() {
            return;
        }
        self.home.unheard(now, &unheard, &mut self.mail);
        // First all of them: who is asked next must not be one of them.
        unheard.iter().for_each(|peer| self.gone.silent(now, *peer));
        let (roster, gone, mail) = (&self.roster, &self.gone, &mut self.mail);
        tell_all(&mut self.exchanges, &mut self.events, |digest, exchange| {
            exchange.handle_unheard(now, &unheard, || living_homes(now, digest, roster, gone), mail);
        });
    }

    /// Whether this node does not ask the first home of a blob because that one says nothing.
    pub(super) fn passes_over(&self, now: Time, digest: &Digest) -> bool {
        let first = homes(digest, &self.roster).first();
        first.is_some_and(|first| self.gone.is_silent(now, &first))
    }

    /// How long this node waits for a home in whose place it is asked.
    pub(super) fn patience_with_first(&self, now: Time, first: &PeerId) -> Duration {
        if self.gone.contains(now, first) || self.silence.is_deaf() {
            // It has been waited for, or everybody.
            return Duration::ZERO;
        }
        FIRST_HOME_WAIT + self.silence.excuse(now)
    }

    /// A member, and those who are and would be home of a blob, are asked for a word, within `patience`.
    fn hail(&mut self, now: Time, peer: PeerId, digest: &Digest, patience: Duration) {
        let others = self.roster.iter().map(|member| member.peer).filter(|peer| *peer != self.me);
        let heirs = first_of(digest, others, HEIRS_HAILED_MAX).into_iter();
        // With zones some of the homes are not among the heaviest.
        let homes = living_homes(now, digest, &self.roster, &self.gone);
        for hailed in [peer].into_iter().chain(heirs).chain(homes) {
            if hailed != self.me && self.unheard.hail(now, hailed, now + patience) {
                self.mail.push_back((hailed, Message::Hail));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Algorithm;

    const HOME: PeerId = PeerId([1; 32]);
    const OTHER: PeerId = PeerId([2; 32]);
    const SOON: Option<Duration> = Some(Duration::from_millis(400));

    fn at(ms: u64) -> Time {
        Time::from_origin(Duration::from_millis(ms))
    }

    fn digest() -> Digest {
        Digest::new(Algorithm::Sha256, &[7; 32])
    }

    /// A home that was asked at 0, doubted in time and hailed, and somebody else beside it.
    fn hailed() -> Unheard {
        let mut unheard = Unheard::default();
        unheard.begin(at(0), HOME, digest());
        let doubted = unheard.next_wakeup().unwrap();
        assert_eq!(doubted, at(0) + HOME_DOUBT);
        assert_eq!(unheard.advance(doubted, SOON), [Verdict::Doubted(HOME, digest())]);
        assert!(unheard.hail(doubted, HOME, at(400)) && unheard.hail(doubted, OTHER, at(400)));
        assert!(!unheard.hail(at(300), HOME, at(700)), "once");
        unheard
    }

    #[test]
    fn who_is_silent_while_others_speak_is_not_asked() {
        let mut unheard = hailed();
        assert_eq!(unheard.heard(at(250), &OTHER), Some(Duration::from_millis(50)));
        assert_eq!(unheard.next_wakeup(), Some(at(400)));
        assert_eq!(unheard.advance(at(399), SOON), []);
        assert_eq!(unheard.advance(at(400), SOON), [Verdict::Unheard(HOME)]);
        assert_eq!(unheard.next_wakeup(), None);
    }

    #[test]
    fn the_silence_of_all_is_nobodys() {
        assert_eq!(hailed().advance(at(400), SOON), []);
        // What was said before the question says nothing.
        let mut unheard = Unheard::default();
        unheard.heard(at(0), &OTHER);
        unheard.hail(at(0), HOME, at(400));
        assert_eq!(unheard.advance(at(400), SOON), []);
    }

    #[test]
    fn the_silence_of_most_is_nobodys_either() {
        let others = |count: usize| (0..count).map(|n| PeerId([3 + n as u8; 32]));
        for (more, verdicts) in
            [(SILENT_PER_ANSWER_MAX - 1, SILENT_PER_ANSWER_MAX), (SILENT_PER_ANSWER_MAX, 0)]
        {
            let mut unheard = hailed();
            others(more).for_each(|peer| assert!(unheard.hail(at(200), peer, at(400))));
            unheard.heard(at(250), &OTHER);
            assert_eq!(unheard.advance(at(400), SOON).len(), verdicts, "{more} more than the home");
        }
        let mut unheard = hailed();
        (0..2 * HAIL_ANSWERS_MAX as u64).for_each(|n| {
            unheard.hail(at(n), OTHER, at(n + 200));
            unheard.heard(at(n), &OTHER);
        });
        assert_eq!(unheard.answers.len(), HAIL_ANSWERS_MAX);
    }

    #[test]
    fn where_answers_are_late_a_silence_has_to_be_longer() {
        let mut unheard = hailed();
        unheard.heard(at(250), &OTHER);
        let late = Some(Duration::from_millis(900));
        assert_eq!(unheard.advance(at(400), late), []);
        assert_eq!(unheard.next_wakeup(), Some(at(900)));
        assert_eq!(unheard.advance(at(900), late), [Verdict::Unheard(HOME)]);
        let mut unheard = hailed();
        unheard.heard(at(250), &OTHER);
        assert_eq!(unheard.advance(at(400), None), [], "or says nothing");
    }

    #[test]
    fn a_word_is_enough() {
        let mut unheard = hailed();
        assert!(unheard.heard(at(399), &HOME).is_some());
        assert_eq!(unheard.advance(at(400), SOON), [Verdict::Unheard(OTHER)]);
    }

    #[test]
    fn a_node_that_did_not_live_concludes_nothing() {
        let mut unheard = hailed();
        unheard.heard(at(250), &OTHER);
        assert_eq!(unheard.advance(at(401) + LATENESS_MAX, SOON), []);
        let mut unheard = Unheard::default();
        unheard.begin(at(0), HOME, digest());
        let late = at(1) + HOME_DOUBT + LATENESS_MAX;
        assert_eq!(unheard.advance(late, SOON), []);
        assert_eq!(unheard.next_wakeup(), Some(late + HOME_DOUBT), "it begins anew");
    }
}
