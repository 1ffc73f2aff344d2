//! What goes wrong, and when.

use rand::Rng;
use rand::seq::SliceRandom;
use shoal_engine::Input;
use shoal_engine::homes::homes;

use super::{DETECTION, Happening, NodeId, World, node_of};
use crate::net::Links;
use crate::queue::{Nanos, SECOND, nanos};

/// One thing that goes wrong, or is mended.
#[derive(Clone, Debug)]
pub enum Fault {
    /// An agent is killed.
    Kill(NodeId),
    /// An agent starts again.
    Restart(NodeId),
    /// The first home of the first layer is killed, or all of them.
    KillHomes {
        /// How many.
        count: usize,
    },
    /// A node that fetches from the origin receives nothing any more.
    StallLease,
    /// Zones are cut off.
    Cut,
    /// They are back.
    Heal,
    /// The membership has noticed.
    Noticed,
}

impl World<'_> {
    pub(super) fn plan_faults(&mut self) {
        self.plan_outages();
        self.plan_bad_nodes();
        self.plan_deaths();
        let faults = &self.scenario.faults;
        let mut plan = vec![];
        plan.extend(faults.home_dies_at.map(|at| (at, Fault::KillHomes { count: 1 })));
        plan.extend(faults.all_homes_die_at.map(|at| (at, Fault::KillHomes { count: 3 })));
        plan.extend(faults.lease_holder_stalls_at.map(|at| (at, Fault::StallLease)));
        if let Some(partition) = &faults.partition {
            plan.push((partition.span.from, Fault::Cut));
            plan.push((partition.span.until, Fault::Heal));
        }
        if let Some(update) = faults.rolling_update {
            for node in 0..self.nodes.len() {
                let at = update.from + update.gap * node as f64;
                plan.push((at, Fault::Kill(node)));
                plan.push((at + update.down, Fault::Restart(node)));
            }
        }
        for (at, fault) in plan {
            self.queue.plan(nanos(at), Happening::Fault(fault));
        }
    }

    /// Slow, lying and silent nodes, all different.
    fn plan_bad_nodes(&mut self) {
        let faults = self.scenario.faults.clone();
        let mut nodes: Vec<NodeId> = (0..self.nodes.len()).collect();
        nodes.shuffle(&mut self.rng);
        let slow = (faults.slow_share * self.nodes.len() as f64).round() as usize;
        let mut nodes = nodes.into_iter();
        for node in nodes.by_ref().take(slow) {
            let Links { up, down, zone } = self.nodes[node].links;
            let links = Links { up: up / faults.slow_factor, down: down / faults.slow_factor, zone };
            self.nodes[node].links = links;
            self.net.set_links(node, links);
            self.nodes[node].outcome.faulty = true;
        }
        for node in nodes.by_ref().take(faults.liars) {
            self.nodes[node].lies = true;
            self.nodes[node].outcome.faulty = true;
        }
        for node in nodes.take(faults.silent) {
            self.nodes[node].silent = true;
            self.nodes[node].outcome.faulty = true;
        }
    }

    /// Deaths come at random, as often as the scenario says.
    fn plan_deaths(&mut self) {
        let faults = self.scenario.faults.clone();
        let rate = faults.deaths_per_minute * self.nodes.len() as f64 / 60.0;
        let mut at = 0.0;
        if rate <= 0.0 {
            return;
        }
        loop {
            at += -(1.0 - self.rng.random::<f64>()).ln() / rate;
            if at > faults.deaths_until.min(self.scenario.deadline) {
                return;
            }
            let node = self.rng.random_range(0..self.nodes.len());
            self.queue.plan(nanos(at), Happening::Fault(Fault::Kill(node)));
            if let Some(after) = faults.restart_after {
                self.queue.plan(nanos(at + after), Happening::Fault(Fault::Restart(node)));
            }
        }
    }

    pub(super) fn happen_fault(&mut self, now: Nanos, fault: Fault) {
        self.trace(&[8, now]);
        match fault {
            Fault::Kill(node) => self.kill(now, node),
            Fault::Restart(node) => self.restart(now, node),
            Fault::KillHomes { count } => {
                let digest = self.layers[0].digest;
                let doomed: Vec<_> = homes(&digest, &self.roster).iter().take(count).collect();
                for peer in doomed {
                    self.kill(now, node_of(&peer));
                    if let Some(after) = self.scenario.faults.restart_after {
                        let restart = Fault::Restart(node_of(&peer));
                        self.queue.plan(now + nanos(after), Happening::Fault(restart));
                    }
                }
            }
            Fault::StallLease => self.stall_lease(now),
            Fault::Cut => self.set_cut(now, true),
            Fault::Heal => self.set_cut(now, false),
            Fault::Noticed => self.notice(now),
        }
    }

    fn kill(&mut self, now: Nanos, node: NodeId) {
        if !self.nodes[node].is_up() {
            return;
        }
        let will_return =
            self.scenario.faults.restart_after.is_some() || self.scenario.faults.rolling_update.is_some();
        let n = &mut self.nodes[node];
        if self.scenario.faults.rolling_update.is_none() {
            n.outcome.faulty = true;
        }
        if !will_return && n.outcome.whole_s.is_none() && std::mem::take(&mut n.outcome.expected) {
            self.unfinished -= 1;
        }
        let peers = std::mem::take(&mut self.nodes[node].peers);
        self.stop_requests_of(now, node);
        self.nodes[node].kill();
        for (cargo, from, to) in self.net.stop_all(node) {
            if let super::Cargo::Piece { upload, from_life, .. } = cargo
                && to == node
                && self.nodes[from].is_up()
                && self.nodes[from].life == from_life
            {
                let at = now + self.net.delay(node, from);
                self.answer(at, from, Input::Uploaded { upload });
            }
        }
        let lost = self.nodes[node].peer();
        for peer in peers {
            self.nodes[peer].peers.remove(&node);
            if self.nodes[peer].is_up() && !self.is_cut(node, peer) {
                let at = now + self.net.delay(node, peer);
                self.answer(at, peer, Input::PeerLost { peer: lost });
                if self.scenario.swim {
                    self.lose_member(now, peer, lost);
                }
            }
        }
        self.queue.plan(now + DETECTION.as_nanos() as Nanos, Happening::Fault(Fault::Noticed));
    }

    fn restart(&mut self, now: Nanos, node: NodeId) {
        if self.nodes[node].is_up() {
            return;
        }
        self.begin(now, node);
        self.notice(now);
        if self.nodes[node].asked && !self.nodes[node].holds {
            // The runtime finds its mirror again at its next try.
            self.queue.plan(now + nanos(super::clients::RETRY_S), Happening::Ask { node });
        }
    }

    fn notice(&mut self, now: Nanos) {
        let cut = self.cut.clone();
        let zones: Vec<_> = self.nodes.iter().map(|n| n.links.zone).collect();
        self.give_roster(now, |a, b| !cut[zones[a]][zones[b]]);
    }

    fn stall_lease(&mut self, now: Nanos) {
        let holder = (0..self.nodes.len()).find(|n| self.fetches_now(*n));
        let Some(node) = holder else { return };
        let zone = self.nodes[node].links.zone;
        // As good as nothing, and not nothing: connections stay open.
        let links = Links { up: self.nodes[node].links.up, down: 1000.0, zone };
        self.net.set_links(node, links);
        let outcome = &mut self.nodes[node].outcome;
        outcome.faulty = true;
        if std::mem::take(&mut outcome.expected) {
            self.unfinished -= 1;
        }
        let _ = now;
    }

    fn set_cut(&mut self, now: Nanos, cut: bool) {
        let Some(partition) = self.scenario.faults.partition.clone() else { return };
        let zones = self.scenario.zones.len();
        let inside = |zone: usize| partition.zones.contains(&zone);
        for a in 0..zones {
            for b in 0..zones {
                self.cut[a][b] = cut && inside(a) != inside(b);
            }
            if partition.origin && inside(a) {
                self.origin_cut[a] = cut;
                if cut {
                    self.break_requests_of_zone(now, a);
                }
            }
        }
        if cut {
            self.stop_across(now);
        }
        let noticed = if cut { DETECTION.as_nanos() as Nanos } else { nanos(1.0) };
        self.queue.plan(now + noticed, Happening::Fault(Fault::Noticed));
        debug_assert!(now as f64 / SECOND <= self.scenario.deadline);
    }

    /// What is on its way between two sides never arrives, and the senders' streams time out.
    fn stop_across(&mut self, now: Nanos) {
        let cut = self.cut.clone();
        let zone = |net: &crate::net::Net<super::Cargo>, place| net.zone(place);
        let stopped = self.net.stop_where(|net, from, to| {
            let (a, b) = (zone(net, from), zone(net, to));
            a < cut.len() && b < cut.len() && cut[a][b]
        });
        for (cargo, from, _) in stopped {
            if let super::Cargo::Piece { upload, .. } = cargo {
                self.answer(
                    now + super::STREAM_TIMEOUT.as_nanos() as Nanos,
                    from,
                    Input::Uploaded { upload },
                );
            }
        }
    }
}
