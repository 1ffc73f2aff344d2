//! What happens to a cluster from outside.

use std::sync::Arc;
use std::time::Duration;

use shoal_engine::demand::Part;
use shoal_engine::{Input, Roster};

use crate::cluster::{BlobNo, Cluster, Event, NodeNo};
use crate::node::{Lie, Upstream};

/// Time until both sides of a broken connection know.
pub const BROKEN_AFTER: Duration = Duration::from_millis(500);

/// Time that an attempt to open a stream takes where a firewall drops it.
pub const DIAL_TIMEOUT: Duration = Duration::from_millis(600);

/// Time after which a stream on which nothing moves is given up by its sender.
pub const STREAM_TIMEOUT: Duration = Duration::from_secs(5);

/// Time until all members agree that one has come or gone.
pub const ROSTER_LAG: Duration = Duration::from_secs(2);

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Act {
    Open(NodeNo, BlobNo, Part),
    /// The n-th client leaves.
    Close(usize),
    Kill(NodeNo),
    Start(NodeNo),
    Freeze(NodeNo),
    Thaw(NodeNo),
    /// Nodes below this number and the others cannot talk.
    Split(NodeNo),
    Join,
    Upstream(NodeNo, Upstream),
    Lie(NodeNo, Lie),
    /// A firewall keeps everybody from a node's port for pieces.
    Wall(NodeNo),
    /// A node refuses to send anybody anything.
    Refuse(NodeNo),
    Evict(NodeNo, BlobNo),
    Drain(NodeNo),
    /// Everybody is told who is there.
    Rosters,
}

impl Cluster {
    /// Plans something.
    pub fn plan(&mut self, after: Duration, act: Act) {
        self.schedule(after, Event::Do(act));
    }

    pub fn act(&mut self, act: Act) {
        match act {
            Act::Open(node, blob, part) if self.nodes[node].is_up() && !self.nodes[node].frozen => {
                self.open_part(node, blob, part);
            }
            Act::Open(..) => {}
            Act::Close(index) => {
                let ticket = self.clients.keys().copied().nth(index);
                let ticket = ticket.filter(|t| !self.nodes[self.clients[t].node].frozen);
                ticket.into_iter().for_each(|ticket| self.close(ticket));
            }
            Act::Kill(node) => self.kill(node),
            Act::Start(node) => self.start(node),
            Act::Freeze(node) => {
                self.answer_probes();
                self.nodes[node].frozen = self.nodes[node].is_up();
                self.ledger.unreachable(node);
            }
            Act::Thaw(node) => {
                self.nodes[node].frozen = false;
                for event in self.held.remove(&node).unwrap_or_default() {
                    self.schedule(Duration::ZERO, event);
                }
            }
            Act::Split(at) => {
                self.answer_probes();
                for a in 0..at {
                    self.cut.extend((at..self.nodes.len()).map(|b| (a, b)));
                }
                self.cut_off();
            }
            Act::Join => self.cut.clear(),
            Act::Upstream(node, upstream) => self.nodes[node].upstream = upstream,
            Act::Lie(node, lie) => {
                self.nodes[node].lies.insert(lie);
            }
            Act::Wall(node) => {
                self.nodes[node].walled = true;
                self.ledger.unreachable(node);
            }
            Act::Refuse(node) => {
                self.nodes[node].refuses = true;
                self.ledger.unreachable(node);
            }
            Act::Evict(node, blob) => self.evict(node, blob),
            Act::Drain(node) => {
                self.nodes[node].draining = true;
                self.input(node, Input::Drain);
            }
            Act::Rosters => {
                for node in 0..self.nodes.len() {
                    // Behind what a node that was frozen has still to hear.
                    let (life, roster) = (self.nodes[node].life, self.roster());
                    self.schedule(Duration::ZERO, Event::Tell(node, life, Input::Roster(roster)));
                }
            }
        }
    }

    /// The membership has had its answers until now, on every node that can hear them.
    fn answer_probes(&mut self) {
        let after = 2 * self.pace.delay;
        let lives = |node: &crate::node::Node| node.is_up() && !node.frozen;
        for node in (0..self.nodes.len()).filter(|node| lives(&self.nodes[*node])).collect::<Vec<_>>() {
            let answers = |other: &NodeNo| {
                *other != node && lives(&self.nodes[*other]) && self.are_connected(node, *other)
            };
            if let Some(other) = (0..self.nodes.len()).find(answers) {
                let peer = self.nodes[other].peer();
                self.input(node, Input::Answered { peer, after });
            }
        }
    }

    /// Those that are there.
    fn roster(&self) -> Arc<Roster> {
        let there = |n: &&crate::node::Node| n.is_up();
        Arc::new(Roster::new(self.nodes.iter().filter(there).map(|n| n.member.clone())))
    }

    /// A node hears who is there, at once.
    pub fn tell_roster(&mut self, node: NodeNo) {
        let roster = self.roster();
        self.input(node, Input::Roster(roster));
    }

    /// A node's agent is killed. Those that talk with it notice soon, the members agree later.
    pub fn kill(&mut self, node: NodeNo) {
        if !self.nodes[node].is_up() {
            return;
        }
        self.ledger.unreachable(node);
        self.held.remove(&node);
        self.nodes[node].kill();
        self.clients.values_mut().filter(|c| c.node == node && c.is_open()).for_each(|c| c.closed = true);
        let peer = self.nodes[node].peer();
        for other in (0..self.nodes.len()).filter(|n| *n != node) {
            let (life, time) = (self.nodes[other].life, 2 * self.pace.delay);
            self.schedule_about(time, Event::Tell(other, life, Input::PeerLost { peer }));
        }
        self.plan(ROSTER_LAG, Act::Rosters);
    }

    /// It starts again, with what was saved.
    pub fn start(&mut self, node: NodeNo) {
        if self.nodes[node].is_up() {
            return;
        }
        self.nodes[node].start();
        let stored: Vec<_> =
            self.nodes[node].disk.iter().filter(|(_, d)| d.stored).map(|(b, _)| *b).collect();
        for blob in stored {
            let (digest, size) = (self.blobs[blob].digest, self.blobs[blob].size);
            self.input(node, Input::Stored { digest, size });
        }
        self.tell_roster(node);
        self.plan(Duration::from_millis(200), Act::Rosters);
    }

    /// The blob leaves the store of a node, if it is there and not being read.
    pub fn evict(&mut self, node: NodeNo, blob: BlobNo) {
        let node_is_there = self.nodes[node].is_up() && !self.nodes[node].frozen;
        let disk = self.nodes[node].disk.get_mut(&blob);
        let Some(disk) = disk.filter(|d| node_is_there && d.stored && d.busy.is_none()) else { return };
        disk.stored = false;
        let digest = self.blobs[blob].digest;
        self.input(node, Input::Evicted { digest });
    }

    /// Everybody notices which connections are broken.
    fn cut_off(&mut self) {
        for (a, b) in self.cut.clone() {
            self.ledger.unreachable(a);
            self.ledger.unreachable(b);
            for (node, other) in [(a, b), (b, a)] {
                let (peer, life) = (self.nodes[other].peer(), self.nodes[node].life);
                self.schedule(BROKEN_AFTER, Event::Tell(node, life, Input::PeerLost { peer }));
            }
        }
    }

    /// The blob is in the store of a node, as if it had been pulled before.
    pub fn give(&mut self, node: NodeNo, blob: BlobNo) {
        let disk = self.nodes[node].disk.entry(blob).or_default();
        (disk.stored, disk.commits) = (true, 1);
        let (digest, size) = (self.blobs[blob].digest, self.blobs[blob].size);
        self.input(node, Input::Stored { digest, size });
    }

    /// All faults end.
    pub fn heal(&mut self) {
        self.cut.clear();
        for node in 0..self.nodes.len() {
            self.act(Act::Thaw(node));
            self.nodes[node].upstream = Upstream::Works;
            self.nodes[node].lies.clear();
            (self.nodes[node].walled, self.nodes[node].refuses) = (false, false);
            self.start(node);
        }
        self.act(Act::Rosters);
    }
}
