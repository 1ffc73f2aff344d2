//! Streams to the feeds of an exchange: opened for what is missing, closed when they are of no use.

use super::{Class, Exchange, Source};
use crate::limits::{ENDGAME_PIECES, FEEDS_PER_CLASS_MAX, RUNS_PER_MESSAGE_MAX};
use crate::peer::PeerId;
use crate::swarm::classes::RELAY;
use crate::swarm::home::Mail;
use crate::wire::{ClassFeeds, Feed, Message, Run};

impl Exchange {
    pub(super) fn set_feeds(&mut self, class: u8, mut feeds: Vec<Feed>, mail: &mut Mail) {
        feeds.truncate(FEEDS_PER_CLASS_MAX);
        let at = usize::from(class);
        let (got, all) = (self.classes[at].got, self.classes[at].total);
        let few_left = got > 0 && all - got <= ENDGAME_PIECES;
        let old = std::mem::take(&mut self.classes[at].sources);
        let mut sources: Vec<Source> = Vec::new();
        let total = self.have.total();
        for Feed { peer, run } in feeds {
            // Whoever counts on from its first piece must not run out of numbers.
            let run = Run { first: run.first.min(total), end: run.end.min(total) };
            match sources.iter_mut().find(|s| s.peer == peer) {
                Some(source) => source.runs.push(run),
                None => {
                    let backlog = old.iter().find(|s| s.peer == peer).map_or(0, |s| s.backlog);
                    sources.push(Source { peer, runs: vec![run], backlog, failed: false });
                }
            }
        }
        for source in &old {
            let stays = sources.iter().any(|s| s.peer == source.peer);
            // The last pieces may come from the old feed or from the new one, whichever is first.
            if !stays && few_left && !sources.is_empty() {
                self.classes[at].former.push(source.peer);
            } else if !stays {
                mail.push_back((source.peer, Message::Unsubscribe { digest: self.digest, class }));
            }
        }
        for source in &sources {
            let before = old.iter().find(|s| s.peer == source.peer);
            if before.is_none_or(|s| s.runs != source.runs || s.failed) {
                self.subscribe(class, source, before.is_some(), mail);
            }
        }
        self.classes[at].former.retain(|peer| sources.iter().all(|s| s.peer != *peer));
        self.classes[at].sources = sources;
    }

    /// Who feeds this node, for a home that has not told it so itself.
    pub(super) fn told_feeds(&self) -> Vec<ClassFeeds> {
        let works = |class: &Class| !class.sources.is_empty() && class.sources.iter().all(|s| !s.failed);
        let feeds = |class: &Class| {
            let runs =
                |s: &Source| s.runs.iter().map(|run| Feed { peer: s.peer, run: *run }).collect::<Vec<_>>();
            class.sources.iter().flat_map(runs).take(FEEDS_PER_CLASS_MAX).collect()
        };
        let classes = (0..).zip(&self.classes).filter(|(_, class)| works(class));
        classes.map(|(class, state)| ClassFeeds { class, feeds: feeds(state) }).collect()
    }

    pub(super) fn subscribe(&self, class: u8, source: &Source, was_open: bool, mail: &mut Mail) {
        let (digest, size, classes) = (self.digest, self.size, self.classes.len() as u8);
        let (runs, unlisted) = (self.missing_runs(class, source), self.list.unlisted());
        // Hashes come down this stream when its pieces are there, too.
        let relays = class == RELAY && !self.list.is_complete();
        if !runs.is_empty() || relays {
            mail.push_back((
                source.peer,
                Message::Subscribe { digest, size, classes, class, runs, unlisted },
            ));
        } else if was_open {
            mail.push_back((source.peer, Message::Unsubscribe { digest, class }));
        }
    }

    /// What a feed shall send: the pieces of the class that are missing and that this node does not fetch itself. Pieces of
    /// other classes may lie in the runs; they are not meant.
    pub(super) fn missing_runs(&self, class: u8, source: &Source) -> Vec<Run> {
        let classes = self.classes.len() as u32;
        let mut runs: Vec<Run> = Vec::new();
        for run in source.runs.iter().flat_map(|run| self.without_own(*run)) {
            let first = run.first + (u32::from(class) + classes - run.first % classes) % classes;
            let mut previous = None;
            for piece in (first..run.end).step_by(classes as usize).filter(|p| !self.have.contains(*p)) {
                let goes_on = piece >= classes && previous == Some(piece - classes);
                let full = runs.len() == RUNS_PER_MESSAGE_MAX;
                match runs.last_mut().filter(|_| goes_on || full) {
                    Some(last) => *last = Run { first: last.first.min(piece), end: last.end.max(piece + 1) },
                    None => runs.push(Run { first: piece, end: piece + 1 }),
                }
                previous = Some(piece);
            }
        }
        runs
    }

    /// A run without what this node fetches itself.
    pub(super) fn without_own(&self, run: Run) -> Vec<Run> {
        let mut rest = vec![run];
        for work in self.leases.values() {
            rest = rest
                .into_iter()
                .flat_map(|r| {
                    let before = Run { first: r.first, end: r.end.min(work.run.first) };
                    let after = Run { first: r.first.max(work.run.end), end: r.end };
                    [before, after]
                })
                .filter(|r| !r.is_empty())
                .collect();
        }
        rest
    }

    /// What this node fetches itself has changed: its feeds send the rest.
    pub fn resubscribe(&mut self, mail: &mut Mail) {
        for (class, state) in (0..).zip(&self.classes) {
            state.sources.iter().for_each(|source| self.subscribe(class, source, true, mail));
        }
    }

    /// If it is the feed again, it is asked again for what is missing.
    pub(super) fn fail_source(&mut self, class: u8, peer: &PeerId) {
        let sources = &mut self.classes[usize::from(class)].sources;
        sources.iter_mut().filter(|s| s.peer == *peer).for_each(|s| s.failed = true);
    }

    pub(super) fn forget_source(&mut self, class: u8, peer: &PeerId, mail: &mut Mail) {
        self.classes[usize::from(class)].sources.retain(|s| s.peer != *peer);
        mail.push_back((*peer, Message::Unsubscribe { digest: self.digest, class }));
    }

    pub(super) fn drop_feeds(&mut self, mail: &mut Mail) {
        for (number, class) in (0..).zip(&mut self.classes) {
            // Also those that have sent everything: what they were asked for may have come from others.
            for peer in class.sources.drain(..).map(|s| s.peer).chain(class.former.drain(..)) {
                mail.push_back((peer, Message::Unsubscribe { digest: self.digest, class: number }));
            }
        }
    }
}
