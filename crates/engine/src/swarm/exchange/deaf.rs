//! A node whose join nobody answers, and that hears nothing from anybody else either.
//!
//! Question: all others were cut off a moment ago, or stand still; the membership says so in some seconds, and a client waits.
//! What does the node do meanwhile? Answer: it asks the other homes whether they live. If within some time nobody has said a
//! word, about whatever, it begins to fetch by itself, and goes on to ask the homes; as soon as one of them welcomes it, only
//! what it is granted counts. Prevents: pulls that take seconds longer than without a swarm, and, since one word from anybody is
//! enough to wait, that nodes fetch for themselves because so many ask the homes at once. What all nodes of a cluster would do at the same
//! moment is spread as everywhere.

use std::ops::Range;
use std::time::Duration;

use super::{Exchange, Standing};
use crate::limits::{DEAF_AFTER, DEAF_DOUBT, LATENESS_MAX};
use crate::swarm::home::Mail;
use crate::time::Time;
use crate::wire::Message;

/// What the node makes of the silence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Silence {
    /// It has just asked.
    #[default]
    Short,
    /// It has asked the other homes as well.
    Doubted,
    /// Somebody has spoken, or the node has done what there is to do.
    Over,
}

/// How long nobody has said anything, and what follows.
#[derive(Default)]
pub(super) struct Deaf {
    silence: Silence,
    since: Time,
    /// This node's part of the time over which a cluster spreads what it asks upstream.
    spread: Duration,
    fetches: bool,
}

impl Deaf {
    /// A home is asked.
    pub fn asked(&mut self, now: Time) {
        (self.silence, self.since) = (Silence::Short, now);
    }

    fn due(&self) -> Option<Time> {
        match self.silence {
            Silence::Short => Some(self.since + DEAF_DOUBT),
            Silence::Doubted => Some(self.since + DEAF_AFTER + self.spread),
            Silence::Over => None,
        }
    }
}

impl Exchange {
    /// Says how much later than others this node begins to fetch by itself.
    pub fn set_spread(&mut self, spread: Duration) {
        self.deaf.spread = spread;
    }

    /// Whether the node fetches by itself because nobody speaks.
    pub fn is_deaf(&self) -> bool {
        self.deaf.fetches
    }

    pub(super) fn deaf_wakeup(&self) -> Option<Time> {
        self.deaf.due().filter(|_| !self.deaf.fetches)
    }

    /// While it joins. `heard` is when anybody has last said anything.
    pub(super) fn listen(&mut self, now: Time, heard: Option<Time>, mail: &mut Mail) {
        let Some(due) = self.deaf_wakeup().filter(|due| *due <= now) else { return };
        if heard.is_some_and(|heard| heard >= self.deaf.since) {
            self.deaf.silence = Silence::Over;
        } else if now > due + LATENESS_MAX {
            // It did not live itself for a while, and what was said may be waiting.
            self.deaf.asked(now);
        } else if self.deaf.silence == Silence::Short {
            self.deaf.silence = Silence::Doubted;
            let asked = self.home();
            let others = self.homes.iter().filter(|home| Some(**home) != asked && **home != self.me);
            mail.extend(others.map(|home| (*home, Message::Inquire { digest: self.digest })));
        } else {
            (self.deaf.silence, self.deaf.fetches) = (Silence::Over, true);
        }
    }

    /// A home has welcomed this node. If it has fetched meanwhile, the home is told what is here.
    pub(super) fn hear_again(&mut self, now: Time, mail: &mut Mail) {
        self.deaf.silence = Silence::Over;
        if std::mem::take(&mut self.deaf.fetches) {
            self.join(now, 0, mail);
        }
    }

    /// All of the blob, if the node is on its own for the moment.
    pub(super) fn fetchable_while_deaf(&self) -> Option<Range<u64>> {
        (self.deaf.fetches && matches!(self.standing, Standing::Joining(_))).then_some(0..self.size)
    }
}
