//! What it means for a node's blobs that members come, go, or cannot be reached.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

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
        self.gone.clear();
        self.former.changed(&before, &self.roster);
        self.announcements.roster_changed(now, &self.roster);
        let gone: Vec<_> =
            before.iter().map(|m| m.peer).filter(|p| *p != self.me && !self.roster.contains(p)).collect();
        for peer in gone {
            self.lost(now, &peer);
        }
        self.with_warming(now, |warming, desk| warming.handle_members(desk, &before));
        self.home.roster_changed(now, &self.roster, &mut self.mail);
        for digest in self.home.receiving() {
            if let Some(first) = homes(&digest, &self.roster).first().filter(|home| *home != self.me) {
                self.home.hand_over(&digest, first, &mut self.mail);
            }
        }
    }

    /// A member cannot be reached.
    pub fn lost(&mut self, now: Time, peer: &PeerId) {
        self.gone.lost(now, *peer);
        self.uploads.forget(peer);
        self.inspecting.values_mut().for_each(|waiting| waiting.retain(|(reader, _)| reader != peer));
        self.home.lost(now, peer, &mut self.mail);
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
