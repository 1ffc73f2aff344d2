//! Looking after the feeds: which of them is complained about?
//!
//! Question: a class falls behind; whose fault is it? Answer: the classes are compared with each other over some time, for
//! their feeds have the same to do. Prevents: a slow member that holds up all below it, and a source or a link of one's own
//! that is slow and gets innocent members replaced.

use std::time::Duration;

use super::{Class, Exchange, Source};
use crate::limits::{
    ALL_SILENT_MAX, COMPARE_ROWS_MIN, COMPARE_TIME, COMPLAINT_PAUSE, CRAWL_GAIN_MAX, CRAWL_ROWS_MIN,
    CRAWL_SHARE_MAX, FAR_BEHIND_PIECES, FAR_BEHIND_SILENCE_MAX, FEED_PATIENCE_MAX, FEED_PATIENCE_PIECES,
    FEED_SILENCE_MAX, FEED_TURNS_MAX, GAIN_SHARE_MAX, HELD_SILENCE_MAX, LAG_PIECES_MIN, LAG_STARVED_SHARE,
    RUNS_PER_MESSAGE_MAX, UPLOADS_PER_PEER_MAX,
};
use crate::peer::PeerId;
use crate::swarm::home::Mail;
use crate::time::Time;
use crate::wire::{Complaint, Message, Run};

impl Exchange {
    /// Compares the classes with each other: their feeds have the same to do, so one that falls behind is the feed's
    /// fault, and not that of the source or of this node.
    pub(super) fn check_classes(&mut self, now: Time, mail: &mut Mail) {
        let compares = now >= self.compared + COMPARE_TIME && self.has_moved();
        let shares = median(self.classes.iter().map(|c| f64::from(c.got) / f64::from(c.total.max(1))));
        let gains =
            median(self.classes.iter().filter(|c| c.got < c.total).map(|c| f64::from(c.got - c.got_before)));
        // With most feeds waiting for this node, its own link is what is slow. One feed alone tells nothing.
        let waiting = self.classes.iter().filter(|class| self.behind_feed(class) >= 2).count();
        let receives_slowly = self.classes.len() > 1 && 2 * waiting > self.classes.len();
        // While nothing comes at all it is the source that is slow, unless upstream has sent everything and most classes are there.
        let last = self.classes.iter().map(|c| c.last_piece).max().unwrap_or_default();
        let done = self.classes.iter().filter(|class| class.got == class.total).count();
        let most_are_there = 2 * done >= self.classes.len();
        let moves = now < last + FEED_SILENCE_MAX / 2 || (self.list.is_complete() && most_are_there);
        if compares {
            let round = self.went_round();
            let falls_behind = round.is_none_or(|(gained, new)| gained < GAIN_SHARE_MAX * new);
            // With most classes far behind what goes round it need not be waited for what their feeds say.
            let classes = self.classes.len() as f64;
            let gains_little = round.is_some_and(|(_, new)| {
                new >= CRAWL_ROWS_MIN * classes && gains < CRAWL_GAIN_MAX * new / classes
            });
            // What the last few classes gain is the feeds' doing.
            let crawls = gains_little && !most_are_there;
            self.tell_of_slowness((receives_slowly && falls_behind) || crawls, mail);
        }
        // The time that each class takes for some pieces, at the pace at which they come.
        let turns = if receives_slowly || self.is_slow { FEED_PATIENCE_PIECES } else { FEED_TURNS_MAX };
        let takes = Duration::from_secs_f64(turns * self.pace.gap * self.classes.len() as f64);
        let patience = takes.max(self.in_crowd(FEED_SILENCE_MAX)).min(FEED_PATIENCE_MAX);
        let patience_behind = takes.max(self.in_crowd(FAR_BEHIND_SILENCE_MAX)).min(patience);
        let despair = self.in_crowd(ALL_SILENT_MAX).max(patience);
        // The first time, what is compared is how far away from the source each feed is.
        let judges = compares && self.is_compared;
        let view = View {
            shares,
            gains,
            compares: judges,
            receives_slowly,
            moves,
            patience,
            patience_behind,
            despair,
        };
        for at in 0..self.classes.len() {
            let class = &self.classes[at];
            let paused = class.complained.is_some_and(|since| now < since + COMPLAINT_PAUSE);
            if class.got < class.total && !paused {
                self.check_class(now, at, view, mail);
            }
        }
        if compares {
            (self.compared, self.is_compared) = (now, true);
            self.classes.iter_mut().for_each(|class| class.got_before = class.got);
        }
    }

    /// Pieces of a class that wait at its feeds for this node. One that has everything always has more than it can send, and that says
    /// nothing of this node: it does not count.
    fn behind_feed(&self, class: &Class) -> u32 {
        let left = class.total - class.got;
        let has_all =
            |s: &&Source| self.list.is_complete() && s.backlog + UPLOADS_PER_PEER_MAX as u32 >= left;
        class.sources.iter().filter(|s| !has_all(s)).map(|s| s.backlog).max().unwrap_or(0)
    }

    /// Where somebody holds back on purpose the classes tell nothing of each other: only a feed that sends nothing at all for
    /// long is complained about.
    pub(super) fn check_held(&mut self, now: Time, mail: &mut Mail) {
        self.compared = now;
        // When nobody holds back any more, what came until then is not to be compared with what comes from then on.
        self.went_round();
        for at in 0..self.classes.len() {
            let class = &mut self.classes[at];
            class.got_before = class.got;
            let idle = now - class.last_piece.max(class.complained.unwrap_or_default());
            if class.got == class.total || idle < HELD_SILENCE_MAX || !self.leases.is_empty() {
                continue;
            }
            let about = class.sources.first().map_or(PeerId([0; 32]), |source| source.peer);
            self.complain(now, at as u8, about, Complaint::Silent, mail);
        }
    }

    fn check_class(&mut self, now: Time, at: usize, view: View, mail: &mut Mail) {
        let class = &self.classes[at];
        let total = f64::from(class.total);
        let lag = view.shares * total - f64::from(class.got);
        let ending = view.shares >= 1.0;
        let idle = now - class.last_piece.max(class.complained.unwrap_or_default());
        let patience = if lag >= FAR_BEHIND_PIECES { view.patience_behind } else { view.patience };
        let (quiet, silent) = (idle >= patience, idle >= view.despair);
        // The one that was to send what is missing first. What this node fetches itself no feed is asked for.
        let fetches = |piece: u32| self.leases.values().any(|work| work.run.contains(piece));
        let mut missing = (at as u32..self.have.total()).step_by(self.classes.len());
        let Some(first) = missing.find(|p| !self.have.contains(*p) && !fetches(*p)) else { return };
        let due = |s: &&Source| s.runs.iter().any(|run| run.contains(first));
        let Some(source) = class.sources.iter().find(due).or(class.sources.last()) else {
            if quiet && (view.moves || silent) && self.leases.is_empty() {
                self.complain(now, at as u8, PeerId([0; 32]), Complaint::Silent, mail);
            }
            return;
        };
        let (peer, backlog) = (source.peer, source.backlog);
        let gained = f64::from(class.got - class.got_before);
        let crawls = view.compares && gained < CRAWL_SHARE_MAX * view.gains && lag >= LAG_PIECES_MIN;
        let delayed = (crawls && backlog >= 2) || (ending && lag >= 0.5 && backlog >= 1);
        // A feed that has nothing to send either gets more time: those above it are to be mended first.
        let starved = crawls && lag >= LAG_PIECES_MIN.max(LAG_STARVED_SHARE * total);
        // What a feed has said of its backlog says nothing when it sends nothing any more.
        let dead = now - class.last_piece >= ALL_SILENT_MAX;
        if (delayed || starved) && !view.receives_slowly && !dead {
            self.complain(now, at as u8, peer, Complaint::Slow, mail);
        } else if quiet && ((view.moves && (lag >= 1.0 || ending)) || silent) {
            self.complain(now, at as u8, peer, Complaint::Silent, mail);
        }
    }

    /// Whether so much has gone round since the classes were last compared that their gains tell something: with one or two
    /// pieces of each, which of two feeds is ahead is only a matter of whose turn it was.
    fn has_moved(&self) -> bool {
        let (have, listed) = self.compared_at;
        let new = self.list.known().count().saturating_sub(listed);
        let gained = self.have.count().saturating_sub(have).max(new);
        f64::from(gained) >= COMPARE_ROWS_MIN * self.classes.len() as f64
    }

    /// The pieces that this node has gained since it last looked, and those that were new to everybody: a node that catches
    /// up has its feeds wait for it as well. Where all is listed already nobody knows how far others are; then what this node's feeds
    /// have gained counts.
    fn went_round(&mut self) -> Option<(f64, f64)> {
        // Not the last one that is known: with several leases that one jumps.
        let now = (self.have.count(), self.list.known().count());
        let before = std::mem::replace(&mut self.compared_at, now);
        let behind: u32 = self.classes.iter().map(|class| self.behind_feed(class)).sum();
        let behind_before = std::mem::replace(&mut self.behind_at, behind);
        // That one or two pieces wait is nothing to begin with.
        let behind_before = behind_before.max(2 * self.classes.len() as u32);
        let gained = f64::from(now.0.saturating_sub(before.0));
        let new = match self.list.is_complete() {
            false => f64::from(now.1.saturating_sub(before.1)),
            true => gained + f64::from(behind.saturating_sub(behind_before)),
        };
        // What had not reached this node when it last looked may have been on its way here from the start.
        (before.0 > 0 || self.list.is_complete()).then_some((gained, new))
    }

    pub(super) fn tell_of_slowness(&mut self, receives_slowly: bool, mail: &mut Mail) {
        let known = self.is_slow;
        self.is_slow |= receives_slowly;
        if let (true, false, Some(home)) = (receives_slowly, known, self.home()) {
            let (digest, about) = (self.digest, self.me);
            let complaint =
                Message::Complain { digest, class: 0, about, why: Complaint::Slow, missing: Vec::new() };
            mail.push_back((home, complaint));
        }
    }

    pub(super) fn complain(&mut self, now: Time, class: u8, about: PeerId, why: Complaint, mail: &mut Mail) {
        let Some(home) = self.home() else { return };
        let at = usize::from(class);
        self.classes[at].complained = Some(now);
        let classes = self.classes.len() as u8;
        self.fail_source(class, &about);
        let sources = &self.classes[at].sources;
        let sends = |s: &Source, piece: u32| s.runs.iter().any(|run| run.contains(piece));
        // What nobody was to send is missing as well.
        let due = |piece: &u32| {
            let by_it = sources.iter().any(|s| s.peer == about && sends(s, *piece));
            by_it || !sources.iter().any(|s| sends(s, *piece))
        };
        let missing = (u32::from(class)..self.have.total())
            .step_by(usize::from(classes))
            .filter(|piece| !self.have.contains(*piece) && due(piece))
            .take(RUNS_PER_MESSAGE_MAX)
            .map(|piece| Run { first: piece, end: piece + 1 })
            .collect();
        mail.push_back((home, Message::Complain { digest: self.digest, class, about, why, missing }));
    }
}

/// What a class is compared with.
#[derive(Clone, Copy)]
struct View {
    /// Median of the shares that the classes have.
    shares: f64,
    /// Median of the pieces that unfinished classes gained since they were last compared.
    gains: f64,
    /// Whether enough time has passed to compare what they gained.
    compares: bool,
    receives_slowly: bool,
    /// Whether a silent feed can be told from a source that sends nothing.
    moves: bool,
    /// Time for which a feed may be silent because it has to wait for its turn.
    patience: Duration,
    /// The same for one that is far behind the others.
    patience_behind: Duration,
    /// The same while nothing of the blob comes at all.
    despair: Duration,
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
