//! What it means for a node's blobs that members come, go, or cannot be reached.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::exchange::{Exchange, Standing};
use super::parts::living_homes;
use super::{Event, Swarm};
use crate::homes::homes;
use crate::ids::Digest;
use crate::peer::{PeerId, Roster};
use crate::time::Time;

impl Swarm {
    /// The list of members has changed.
    pub fn set_roster(&mut self, now: Time, roster: Arc<Roster>) {
        let before = std::mem::replace(&mut self.roster, roster);
        self.gone.retain(|peer| lives_on(peer, &before, &self.roster));
        self.former.changed(&before, &self.roster);
        self.announcements.roster_changed(now, &self.roster);
        if let Some(me) = self.roster.get(&self.me) {
            self.home.begin_life(now, me.generation, &mut self.mail);
        }
        let gone: Vec<_> =
            before.iter().map(|m| m.peer).filter(|p| *p != self.me && !self.roster.contains(p)).collect();
        for peer in gone {
            self.lost(now, &peer);
        }
        self.with_warming(now, |warming, desk| warming.handle_members(desk, &before));
        self.home.roster_changed(now, &self.roster, &mut self.mail);
        for digest in self.home.receiving() {
            self.look_after_book(now, &digest, &before);
        }
    }

    /// A book of this node goes to the home that has become the first, or has begun another life. In the place of one that was first
    /// before, and did not answer, this node goes on until that one says itself that it is back; and nobody is sent to one that
    /// cannot be reached.
    fn look_after_book(&mut self, now: Time, digest: &Digest, before: &Roster) {
        let may_keep = |home: &PeerId| *home != self.me && !self.gone.contains(now, home);
        let Some(first) = homes(digest, &self.roster).first().filter(may_keep) else { return };
        let was_first = homes(digest, before).first() == Some(first);
        match was_first && lives_on(&first, before, &self.roster) {
            true => self.home.ask_first(now, digest, (first, Duration::ZERO), &self.roster, &mut self.mail),
            false => self.home.hand_over(digest, first, &mut self.mail),
        }
    }

    /// A member cannot be reached.
    pub fn lost(&mut self, now: Time, peer: &PeerId) {
        self.gone.lost(now, *peer);
        self.uploads.forget(peer);
        self.inspecting.values_mut().for_each(|waiting| waiting.retain(|(reader, _)| reader != peer));
        self.home.lost(now, peer, &mut self.mail);
        if self.roster.contains(peer) {
            self.announcements.lost(now, *peer);
        }
        let (roster, gone, mail) = (&self.roster, &self.gone, &mut self.mail);
        tell_all(&mut self.exchanges, &mut self.events, |digest, exchange| {
            exchange.handle_lost(now, peer, || living_homes(now, digest, roster, gone), mail);
        });
        self.with_warming(now, |warming, desk| warming.handle_lost(desk, peer));
    }

    /// A member's port for pieces cannot be reached. What it says still counts.
    pub fn port_closed(&mut self, now: Time, peer: &PeerId) {
        let mail = &mut self.mail;
        tell_all(&mut self.exchanges, &mut self.events, |_, exchange| {
            exchange.handle_port_closed(now, peer, mail);
        });
    }
}

/// Whether a member is on both lists in the same life.
fn lives_on(peer: &PeerId, before: &Roster, now: &Roster) -> bool {
    let life = |roster: &Roster| roster.get(peer).map(|member| member.generation);
    life(before).is_some() && life(before) == life(now)
}

/// Tells all exchanges of something that may leave them alone.
pub(super) fn tell_all(
    exchanges: &mut BTreeMap<Digest, Exchange>,
    events: &mut VecDeque<Event>,
    mut tell: impl FnMut(&Digest, &mut Exchange),
) {
    for (digest, exchange) in exchanges {
        let was_alone = matches!(exchange.standing(), Standing::Alone(_));
        tell(digest, exchange);
        if let Standing::Alone(end) = exchange.standing()
            && !was_alone
        {
            events.push_back(Event::Alone(*digest, end));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Algorithm;
    use crate::peer::Member;
    use crate::wire::Message;

    const JOINER: usize = 3;
    const OTHER: usize = 4;

    /// Members by rank as homes of a blob, the first three of them in order.
    fn ranked() -> (Digest, Vec<PeerId>) {
        let digest = Digest::new(Algorithm::Sha256, &[7; 32]);
        let everybody: Vec<_> = (1..7).map(|number| PeerId([number; 32])).collect();
        let mut ranked: Vec<_> = homes(&digest, &roster(&everybody, 0, 1)).iter().collect();
        let others: Vec<_> = everybody.into_iter().filter(|peer| !ranked.contains(peer)).collect();
        ranked.extend(others);
        (digest, ranked)
    }

    /// All in their first life but this one, which is not there in its life 0.
    fn roster(peers: &[PeerId], changed: usize, life: u64) -> Roster {
        let member = |(rank, peer): (usize, &PeerId)| Member {
            peer: *peer,
            generation: if rank == changed { life } else { 1 },
            addresses: Box::default(),
            data_port: 1,
            zone: "".into(),
            labels: Box::default(),
            version: "".into(),
        };
        let members = peers.iter().enumerate().map(member).filter(|member| member.generation > 0);
        Roster::new(members.map(Arc::new))
    }

    #[test]
    fn a_book_goes_to_a_new_home_and_not_back_to_one_that_does_not_answer() {
        let (digest, ranked) = ranked();
        // Rank of the keeper, who cannot be reached, who changes to which life, and who is named as home.
        let table: [(usize, &[usize], usize, u64, Option<usize>, &str); 7] = [
            (1, &[0], OTHER, 0, None, "somebody else leaves"),
            (1, &[], OTHER, 0, None, "the first one says nothing, and somebody else leaves"),
            (1, &[0], 0, 2, Some(0), "the first one was started again"),
            (1, &[0], 0, 0, None, "the first one leaves, and this node is the next"),
            (2, &[0], 0, 0, Some(1), "the first one leaves, and another is the next"),
            (2, &[0, 1], 0, 0, None, "the next does not answer either"),
            (2, &[0, 1], 1, 2, None, "the second one was started again"),
        ];
        for (me, gone, changed, life, home, why) in table {
            let (mut swarm, now) = (Swarm::new(ranked[me]), Time::ZERO);
            swarm.set_roster(now, Arc::new(roster(&ranked, 0, 1)));
            gone.iter().for_each(|rank| swarm.lost(now, &ranked[*rank]));
            let (have, leases, feeds) = (Vec::new(), Vec::new(), Vec::new());
            let join =
                Message::Join { digest, size: 1 << 20, have, leases, again: false, insists: true, feeds };
            swarm.hear(now, ranked[JOINER], join);
            assert!(swarm.home.keeps(&digest), "{why}");
            swarm.mail.clear();
            swarm.set_roster(now, Arc::new(roster(&ranked, changed, life)));
            assert_eq!(swarm.home.keeps(&digest), home.is_none(), "{why}: {:?}", swarm.mail);
            let named = swarm.mail.iter().find_map(|(to, message)| match message {
                Message::NotHome { home, .. } if *to == ranked[JOINER] => Some(*home),
                _ => None,
            });
            assert_eq!(named, home.map(|rank| ranked[rank]), "{why}: {:?}", swarm.mail);
        }
    }
}
