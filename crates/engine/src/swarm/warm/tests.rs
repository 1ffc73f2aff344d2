//! A cluster of engines in virtual time that warms a set. Stores answer as they are told to; links carry messages with
//! a delay, and count them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Engine, Settings};
use crate::ids::{Algorithm, Digest, WarmSetId};
use crate::io::{FetchFault, Found, Input, Output, WarmTally};
use crate::limits::{WARM_ANSWER_MAX, WARM_FANOUT, WARM_GRACE, WARM_REMEMBERED, WARM_REPORT_PAUSE};
use crate::name::Scope;
use crate::peer::{Member, PeerId, Roster};
use crate::time::Time;
use crate::wire::{Message, Pace, WarmFault};
use crate::{LocalFault, TicketId};

mod orders;

const SET: WarmSetId = WarmSetId(7);
const LINK_DELAY: Duration = Duration::from_millis(1);

/// How a node behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Its store has each blob this long after it was asked.
    Well(Duration),
    /// The same, and each of its messages takes this long.
    Slow(Duration),
    /// Its store fails.
    Broken,
    /// Nothing of its flights ever comes.
    Stuck,
    /// It takes everything and says nothing.
    Silent,
    /// Nobody listens: whoever speaks to it is told.
    Dead,
}

enum Happening {
    Input(Input),
    Message(PeerId, Message),
}

struct Node {
    engine: Engine,
    kind: Kind,
    life: u32,
    wake_at: Option<Time>,
    looks: BTreeMap<Digest, u32>,
    sent: u64,
    received: u64,
    /// Bytes of the frames it sent.
    bytes: u64,
    /// Most reports that it heard within one second.
    reports: BTreeMap<u64, u64>,
    told: Vec<WarmTally>,
    ends: Vec<WarmTally>,
    kept: Vec<(Digest, u64)>,
}

struct Cluster {
    now: Time,
    nodes: Vec<Node>,
    queue: BTreeMap<(Time, u64), (usize, u32, Happening)>,
    planned: u64,
    told_about_sets: u64,
    wakes: BTreeSet<(Time, usize)>,
    /// One in so many messages about sets is lost.
    loses_one_in: Option<u64>,
    blobs: Vec<(Digest, u64)>,
    /// What each order says.
    keep_until: u64,
    pace: Pace,
}

fn peer(node: usize) -> PeerId {
    // Scattered, so that the order of names is not that of the numbers.
    let mut name = [0; 32];
    name[..8].copy_from_slice(&(node as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    name[28..].copy_from_slice(&(node as u32).to_be_bytes());
    PeerId(name)
}

fn node_of(peer: &PeerId) -> usize {
    u32::from_be_bytes(peer.0[28..].try_into().unwrap()) as usize
}

fn roster(nodes: impl Iterator<Item = usize>) -> Arc<Roster> {
    let member = |node| Member {
        peer: peer(node),
        generation: 1,
        addresses: Box::default(),
        data_port: 5002,
        zone: "".into(),
        labels: Box::default(),
        version: "1".into(),
    };
    Arc::new(Roster::new(nodes.map(|node| Arc::new(member(node)))))
}

fn scope() -> Scope {
    Scope { registry: "registry.test:5000".parse().unwrap(), repository: "team/app".parse().unwrap() }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

const AT_ONCE: Kind = Kind::Well(Duration::ZERO);

impl Cluster {
    /// Node 0 asks, nodes from 1 on are the targets.
    fn new(targets: usize, kind: impl Fn(usize) -> Kind) -> Self {
        let blobs = (1..=3u8).map(|n| (Digest::new(Algorithm::Sha256, &[n; 32]), 1000 * u64::from(n)));
        let mut cluster = Cluster {
            now: Time::from_origin(Duration::from_secs(1000)),
            nodes: Vec::new(),
            queue: BTreeMap::new(),
            planned: 0,
            told_about_sets: 0,
            wakes: BTreeSet::new(),
            loses_one_in: None,
            blobs: blobs.collect(),
            keep_until: 0,
            pace: Pace::FREE,
        };
        let members = roster(0..=targets);
        for node in 0..=targets {
            let kind = if node == 0 { AT_ONCE } else { kind(node) };
            cluster.nodes.push(Node {
                engine: Engine::new(Settings { peer: Some(peer(node)), ..Settings::default() }),
                kind,
                life: 0,
                wake_at: None,
                looks: BTreeMap::new(),
                sent: 0,
                received: 0,
                bytes: 0,
                reports: BTreeMap::new(),
                told: Vec::new(),
                ends: Vec::new(),
                kept: Vec::new(),
            });
            cluster.input(node, Input::Roster(Arc::clone(&members)));
        }
        cluster
    }

    fn targets(&self) -> Vec<PeerId> {
        (1..self.nodes.len()).map(peer).collect()
    }

    fn warm(&mut self, at: usize, deadline: f64) {
        let targets = self.targets();
        self.warm_these(at, targets, deadline);
    }

    fn warm_these(&mut self, at: usize, targets: Vec<PeerId>, deadline: f64) {
        let (blobs, deadline) = (self.blobs.clone(), seconds(deadline));
        self.input(
            at,
            Input::Warm {
                set: SET,
                blobs,
                scope: scope(),
                targets,
                deadline,
                keep_until: self.keep_until,
                pace: self.pace,
            },
        );
    }

    fn restart(&mut self, node: usize, kind: Kind) {
        let members = roster(0..self.nodes.len());
        let n = &mut self.nodes[node];
        n.engine = Engine::new(Settings { peer: Some(peer(node)), ..Settings::default() });
        (n.kind, n.life) = (kind, n.life + 1);
        self.input(node, Input::Roster(members));
    }

    fn plan(&mut self, after: Duration, node: usize, happening: Happening) {
        self.planned += 1;
        let life = self.nodes[node].life;
        self.queue.insert((self.now + after, self.planned), (node, life, happening));
    }

    fn input(&mut self, node: usize, input: Input) {
        if let Some(at) = self.nodes[node].wake_at.take() {
            self.wakes.remove(&(at, node));
        }
        if matches!(self.nodes[node].kind, Kind::Silent | Kind::Dead) {
            return;
        }
        self.nodes[node].engine.handle(self.now, input);
        while let Some(output) = self.nodes[node].engine.poll_output() {
            self.carry_out(node, output);
        }
        self.nodes[node].wake_at = self.nodes[node].engine.next_wakeup();
        self.wakes.extend(self.nodes[node].wake_at.map(|at| (at, node)));
    }

    fn carry_out(&mut self, node: usize, output: Output) {
        let kind = self.nodes[node].kind;
        match output {
            Output::Look { digest } => {
                *self.nodes[node].looks.entry(digest).or_default() += 1;
                let (pause, found) = match kind {
                    Kind::Well(pause) | Kind::Slow(pause) => (pause, Found::Whole),
                    Kind::Broken => (Duration::ZERO, Found::Broken(LocalFault::StoreBroken)),
                    _ => (Duration::ZERO, Found::Absent),
                };
                self.plan(pause, node, Happening::Input(Input::Looked { digest, found }));
            }
            Output::Prepare { digest, .. } => {
                self.plan(Duration::ZERO, node, Happening::Input(Input::Prepared { digest, result: Ok(()) }));
            }
            Output::Cancel { fetch } => {
                let result = Err(FetchFault::Cancelled);
                self.plan(Duration::ZERO, node, Happening::Input(Input::FetchEnded { fetch, result }));
            }
            Output::Shut { digest, .. } => {
                self.plan(Duration::ZERO, node, Happening::Input(Input::Shut { digest }));
            }
            Output::Tell { to, message } => self.tell(node, to, message),
            Output::Keep { digest, until } => self.nodes[node].kept.push((digest, until)),
            Output::Warming { set, tally } => {
                assert_eq!(set, SET);
                self.nodes[node].told.push(tally);
            }
            Output::Warmed { set, tally } => {
                assert_eq!(set, SET);
                self.nodes[node].ends.push(tally);
            }
            _ => {}
        }
    }

    fn tell(&mut self, node: usize, to: PeerId, message: Message) {
        let about_sets = matches!(
            message,
            Message::Warm(_)
                | Message::WarmProgress { .. }
                | Message::WarmRefuse { .. }
                | Message::WarmCancel { .. }
        );
        if about_sets {
            self.nodes[node].sent += 1;
            self.nodes[node].bytes += message.encoded_len() as u64;
            assert_eq!(Message::decode(&message.encode()).unwrap(), message);
            self.told_about_sets += 1;
            if self.loses_one_in.is_some_and(|share| self.told_about_sets.is_multiple_of(share)) {
                return;
            }
        }
        let receiver = node_of(&to);
        if self.nodes[receiver].kind == Kind::Dead {
            return self.plan(LINK_DELAY * 2, node, Happening::Input(Input::PeerLost { peer: to }));
        }
        let delay = match self.nodes[node].kind {
            Kind::Slow(pause) => pause,
            _ => LINK_DELAY,
        };
        self.plan(delay, receiver, Happening::Message(peer(node), message));
    }

    fn run_for(&mut self, time: f64) {
        let end = self.now + seconds(time);
        let mut steps = (self.now, 0);
        loop {
            steps = if steps.0 == self.now { (self.now, steps.1 + 1) } else { (self.now, 0) };
            assert!(steps.1 < 100_000, "time stands still at {:?}", self.now);
            let next = self.queue.keys().next().map(|(at, _)| *at);
            let wake = self.wakes.first().copied();
            match (next, wake) {
                (Some(at), _) if at <= end && wake.is_none_or(|(w, _)| at <= w) => {
                    self.now = at;
                    self.happen();
                }
                (_, Some((at, node))) if at <= end => {
                    self.now = self.now.max(at);
                    self.input(node, Input::Wakeup);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    fn happen(&mut self) {
        let Some((_, (node, life, happening))) = self.queue.pop_first() else { return };
        if self.nodes[node].life != life {
            return;
        }
        let input = match happening {
            Happening::Input(input) => input,
            Happening::Message(from, message) => {
                if let Message::WarmProgress { .. } = message {
                    let second = self.now.since_origin().as_secs();
                    *self.nodes[node].reports.entry(second).or_default() += 1;
                }
                self.nodes[node].received += 1;
                Input::Heard { from, message }
            }
        };
        self.input(node, input);
    }

    fn end(&self, node: usize) -> &WarmTally {
        assert_eq!(self.nodes[node].ends.len(), 1, "the asker is told the end once");
        &self.nodes[node].ends[0]
    }

    fn reports_per_second_max(&self, node: usize) -> u64 {
        self.nodes[node].reports.values().copied().max().unwrap_or(0)
    }

    /// Every blob was looked for once on the nodes that can.
    fn all_begun_once(&self, targets: impl Iterator<Item = usize>) {
        for node in targets {
            let looks: Vec<_> = self.nodes[node].looks.values().copied().collect();
            assert_eq!(looks, [1, 1, 1], "node {node}");
        }
    }
}

#[test]
fn all_members_are_warmed_and_the_asker_is_told_once() {
    for targets in [1, 2, 50, 1000] {
        let mut cluster = Cluster::new(targets, |_| Kind::Well(seconds(2.5)));
        cluster.warm(0, 60.0);
        cluster.run_for(10.0);
        let end = cluster.end(0);
        assert_eq!((end.ready, end.of, end.failed), (targets, targets, 0));
        assert_eq!((end.bytes, end.bytes_of), (6000 * targets as u64, 6000 * targets as u64));
        cluster.all_begun_once(1..=targets);
        assert!(cluster.nodes[0].looks.is_empty(), "who is not a target fetches nothing");
        let sent = cluster.nodes.iter().map(|n| n.sent).max().unwrap();
        let heard = cluster.nodes.iter().map(|n| n.received).max().unwrap();
        let reports = (0..=targets).map(|node| cluster.reports_per_second_max(node)).max().unwrap();
        let bytes: u64 = cluster.nodes.iter().map(|n| n.bytes).sum();
        let all: u64 = cluster.nodes.iter().map(|n| n.sent).sum();
        println!(
            "{targets}: {all} messages, {bytes} bytes; of one node {sent} sent at most, {heard} heard, \
             {reports} reports in a second; {} bytes sent by the asker",
            cluster.nodes[0].bytes
        );
        assert!(sent <= 16 && heard <= 4 * WARM_FANOUT as u64 + 4, "{sent} sent, {heard} heard");
        assert!(reports <= 2 * WARM_FANOUT as u64);
    }
}

#[test]
fn members_that_have_the_blobs_are_ready_at_once() {
    let mut cluster = Cluster::new(1000, |_| AT_ONCE);
    cluster.warm(0, 60.0);
    cluster.run_for(0.1);
    assert_eq!(cluster.end(0).ready, 1000);
}

#[test]
fn the_asker_may_be_a_target_itself() {
    let mut cluster = Cluster::new(3, |_| AT_ONCE);
    let targets = vec![peer(0), peer(2), peer(0)];
    cluster.warm_these(0, targets, 60.0);
    cluster.run_for(1.0);
    assert_eq!((cluster.end(0).ready, cluster.end(0).of), (2, 2));
    cluster.all_begun_once([0, 2].into_iter());
}

#[test]
fn nobody_to_warm_is_an_end_too() {
    let mut cluster = Cluster::new(1, |_| AT_ONCE);
    cluster.warm_these(0, Vec::new(), 60.0);
    assert_eq!(*cluster.end(0), WarmTally::default());
    cluster.warm_these(1, vec![peer(77)], 60.0);
    assert_eq!(cluster.end(1).failures, [(peer(77), WarmFault::Unreachable)]);
}

/// Dead, silent and broken ones among the others: who is well is warmed, who is not is named.
#[test]
fn the_rest_of_a_part_goes_to_the_next_when_its_first_is_lost() {
    for targets in [1, 2, 50, 1000] {
        let kind = |node: usize| match node % 10 {
            1 => Kind::Silent,
            2 => Kind::Dead,
            3 => Kind::Broken,
            _ => Kind::Well(seconds(1.0)),
        };
        let mut cluster = Cluster::new(targets, kind);
        cluster.warm(0, 120.0);
        cluster.run_for(60.0);
        let well = (1..=targets).filter(|n| matches!(kind(*n), Kind::Well(_)));
        let end = cluster.end(0).clone();
        assert_eq!((end.ready, end.of), (well.clone().count(), targets));
        assert_eq!(end.failed, targets - end.ready);
        for (peer, fault) in &end.failures {
            let expected = match kind(node_of(peer)) {
                Kind::Silent => WarmFault::Silent,
                Kind::Dead => WarmFault::Unreachable,
                _ => WarmFault::Store,
            };
            assert_eq!(*fault, expected, "node {}", node_of(peer));
        }
        cluster.all_begun_once(well);
        let sent = cluster.nodes.iter().map(|n| n.sent).max().unwrap();
        println!("{targets} with a fifth lost: {sent} messages sent by one node at most");
        assert!(sent <= 150, "{sent}");
    }
}

#[test]
fn messages_that_are_lost_are_made_up_for() {
    for share in [3, 7, 10] {
        let mut cluster = Cluster::new(300, |_| Kind::Well(seconds(5.0)));
        cluster.loses_one_in = Some(share);
        cluster.warm(0, 300.0);
        cluster.run_for(120.0);
        let end = cluster.end(0);
        assert_eq!(end.ready + end.failed, 300);
        // Whoever was not reached at all is named; nobody is begun twice.
        assert!(end.failures.iter().all(|(_, why)| *why == WarmFault::Silent));
        let begun = |node: &Node| node.looks.values().all(|looks| *looks == 1);
        assert!(cluster.nodes.iter().all(begun));
        println!("one message of {share} lost: {} of 300 ready", end.ready);
        assert!(end.ready >= if share == 3 { 200 } else { 270 }, "{} of 300", end.ready);
    }
}

#[test]
fn many_silent_ones_in_a_row_cost_few_waits() {
    let mut cluster = Cluster::new(1000, |node| if node < 1000 { Kind::Silent } else { AT_ONCE });
    cluster.warm(0, 300.0);
    cluster.run_for(30.0);
    assert_eq!(
        cluster.nodes[0].told.last().map(|t| t.ready),
        Some(1),
        "who is well does not wait for them all"
    );
    cluster.run_for(60.0);
    assert_eq!((cluster.end(0).ready, cluster.end(0).failed), (1, 999));
}

#[test]
fn a_slow_member_counts_when_it_answers_at_last() {
    let slow = WARM_ANSWER_MAX * 2;
    let kind = |node: usize| if node == 1 { Kind::Slow(slow) } else { Kind::Well(seconds(10.0)) };
    let mut cluster = Cluster::new(50, kind);
    cluster.warm(0, 60.0);
    cluster.run_for(5.5);
    assert!(cluster.nodes[0].told.iter().any(|t| t.failures == [(peer(1), WarmFault::Silent)]));
    cluster.run_for(55.0);
    assert_eq!(cluster.end(0).ready, 50);
    cluster.all_begun_once(1..=50);
}

#[test]
fn a_member_that_restarts_is_asked_again() {
    let mut cluster = Cluster::new(100, |_| Kind::Well(seconds(20.0)));
    cluster.warm(0, 120.0);
    cluster.run_for(5.0);
    cluster.restart(1, AT_ONCE);
    cluster.run_for(60.0);
    assert_eq!(cluster.end(0).ready, 100);
}

#[test]
fn a_member_that_comes_back_gets_another_chance() {
    let kind = |node: usize| if node == 1 { Kind::Dead } else { Kind::Well(seconds(20.0)) };
    let mut cluster = Cluster::new(100, kind);
    cluster.warm(0, 120.0);
    cluster.run_for(1.0);
    for node in 0..=100 {
        cluster.input(node, Input::Roster(roster((0..=100).filter(|n| *n != 1))));
    }
    cluster.run_for(1.0);
    cluster.restart(1, AT_ONCE);
    for node in 0..=100 {
        cluster.input(node, Input::Roster(roster(0..=100)));
    }
    cluster.run_for(60.0);
    assert_eq!(cluster.end(0).ready, 100);
}

#[test]
fn the_work_goes_on_without_the_asker_and_another_takes_over() {
    let mut cluster = Cluster::new(1000, |_| Kind::Well(seconds(8.0)));
    cluster.warm(0, 120.0);
    cluster.run_for(2.0);
    cluster.restart(0, Kind::Dead);
    cluster.run_for(1.0);
    // One of the targets is asked to go on, and is somewhere in the middle of the tree itself.
    cluster.warm(1, 120.0);
    cluster.run_for(20.0);
    assert_eq!((cluster.end(1).ready, cluster.end(1).of), (1000, 1000));
    cluster.all_begun_once(1..=1000);
}

#[test]
fn the_asker_restarts_and_goes_on_with_the_same_name() {
    let mut cluster = Cluster::new(300, |_| Kind::Well(seconds(8.0)));
    cluster.warm(0, 120.0);
    cluster.run_for(3.0);
    cluster.restart(0, AT_ONCE);
    cluster.warm(0, 120.0);
    cluster.run_for(20.0);
    assert_eq!(cluster.end(0).ready, 300);
    cluster.all_begun_once(1..=300);
}

#[test]
fn two_askers_share_the_work() {
    let mut cluster = Cluster::new(300, |_| Kind::Well(seconds(3.0)));
    cluster.warm(0, 60.0);
    cluster.warm(9, 60.0);
    cluster.run_for(20.0);
    assert_eq!((cluster.end(0).ready, cluster.end(9).ready), (300, 300));
    cluster.all_begun_once(1..=300);
}

#[test]
fn a_second_asking_tries_again_what_has_failed_and_only_that() {
    let kind = |node: usize| if node % 7 == 1 { Kind::Broken } else { AT_ONCE };
    let mut cluster = Cluster::new(50, kind);
    cluster.warm(0, 60.0);
    cluster.run_for(5.0);
    assert_eq!(cluster.end(0).failed, 8);
    for node in (1..=50).filter(|n| n % 7 == 1) {
        cluster.nodes[node].kind = AT_ONCE;
    }
    cluster.nodes[0].ends.clear();
    cluster.warm(0, 60.0);
    cluster.run_for(5.0);
    assert_eq!(cluster.end(0).ready, 50);
    cluster.all_begun_once((1..=50).filter(|n| n % 7 != 1));
    assert!((1..=50).filter(|n| n % 7 == 1).all(|n| cluster.nodes[n].looks.values().all(|l| *l == 2)));
}

#[test]
fn whoever_is_not_ready_at_the_deadline_has_failed() {
    let kind = |node: usize| if node.is_multiple_of(5) { Kind::Stuck } else { AT_ONCE };
    let mut cluster = Cluster::new(200, kind);
    cluster.warm(0, 30.0);
    cluster.run_for(29.0);
    assert!(cluster.nodes[0].ends.is_empty());
    cluster.run_for(1.0 + WARM_GRACE.as_secs_f64());
    assert_eq!((cluster.end(0).ready, cluster.end(0).failed), (160, 40));
    assert!(cluster.end(0).failures.iter().all(|(_, why)| *why == WarmFault::Deadline));
    assert!(cluster.nodes.iter().all(|n| n.engine.is_idle()), "what was on its way is put down");
}

#[test]
fn cancelling_stops_the_flights_everywhere() {
    let mut cluster = Cluster::new(200, |node| if node == 1 { AT_ONCE } else { Kind::Stuck });
    cluster.warm(0, 600.0);
    cluster.run_for(5.0);
    assert!((2..=200).all(|node| !cluster.nodes[node].engine.is_idle()));
    cluster.input(0, Input::WarmCancel { set: SET });
    assert_eq!((cluster.end(0).ready, cluster.end(0).failed), (1, 199));
    assert!(cluster.end(0).failures.iter().all(|(_, why)| *why == WarmFault::Cancelled));
    cluster.run_for(1.0);
    assert!(cluster.nodes.iter().all(|n| n.engine.is_idle()));
    let sent: u64 = cluster.nodes.iter().map(|n| n.sent).sum();
    cluster.run_for(100.0);
    assert_eq!(sent, cluster.nodes.iter().map(|n| n.sent).sum(), "nobody speaks of it any more");
    cluster.end(0);
}

#[test]
fn cancelling_takes_nothing_from_a_client() {
    let mut cluster = Cluster::new(1, |_| Kind::Stuck);
    cluster.warm(0, 600.0);
    cluster.run_for(1.0);
    let digest = cluster.blobs[0].0;
    let part = crate::demand::Part::Whole;
    cluster.input(1, Input::Open { ticket: TicketId(1), digest, scope: scope(), part });
    cluster.input(0, Input::WarmCancel { set: SET });
    cluster.run_for(1.0);
    assert_eq!(cluster.nodes[1].engine.flights().count(), 1);
    assert_eq!(cluster.nodes[1].engine.flight(&digest).map(|f| f.ticket_count()), Some(1));
}

#[test]
fn a_node_that_drains_takes_nothing_on() {
    let mut cluster = Cluster::new(20, |_| AT_ONCE);
    cluster.input(1, Input::Drain);
    cluster.warm(0, 60.0);
    cluster.run_for(5.0);
    assert_eq!(cluster.end(0).ready, 19);
    assert_eq!(cluster.end(0).failures, [(peer(1), WarmFault::Draining)]);
    cluster.input(
        1,
        Input::Warm {
            set: SET,
            blobs: Vec::new(),
            scope: scope(),
            targets: vec![peer(2)],
            deadline: seconds(1.0),
            keep_until: 0,
            pace: Pace::FREE,
        },
    );
    assert_eq!(cluster.end(1).failures, [(peer(2), WarmFault::Draining)]);
}

#[test]
fn sets_are_bounded_and_forgotten() {
    let mut cluster = Cluster::new(1, |_| AT_ONCE);
    cluster.warm(0, 60.0);
    cluster.run_for(1.0);
    let count =
        |cluster: &Cluster, node: usize| cluster.nodes[node].engine.swarm().unwrap().warming().set_count();
    assert_eq!((count(&cluster, 0), count(&cluster, 1)), (1, 1));
    cluster.run_for(WARM_REMEMBERED.as_secs_f64() + 1.0);
    assert_eq!((count(&cluster, 0), count(&cluster, 1)), (0, 0));
}

#[test]
fn news_are_told_at_a_bounded_rate() {
    let mut cluster = Cluster::new(1000, |node| Kind::Well(seconds(node as f64 / 100.0)));
    cluster.warm(0, 60.0);
    cluster.run_for(30.0);
    assert_eq!(cluster.end(0).ready, 1000);
    let told = &cluster.nodes[0].told;
    assert!(told.is_sorted_by_key(|t| t.ready), "what is ready stays so");
    assert!(told.len() as f64 <= 15.0 / WARM_REPORT_PAUSE.as_secs_f64(), "{}", told.len());
    assert!(cluster.reports_per_second_max(0) <= 2 * WARM_FANOUT as u64);
}

#[test]
fn every_target_is_told_what_to_keep() {
    let mut cluster = Cluster::new(30, |_| AT_ONCE);
    cluster.warm(0, 60.0);
    cluster.run_for(5.0);
    assert!(cluster.nodes.iter().all(|node| node.kept.is_empty()), "nobody asked for that");
    let kept = |cluster: &Cluster, until: u64| {
        let all: Vec<_> = cluster.blobs.iter().map(|(digest, _)| (*digest, until)).collect();
        assert!(cluster.nodes[0].kept.is_empty(), "it is no target");
        cluster.nodes[1..].iter().all(|node| node.kept.ends_with(&all))
    };
    // What is there already is told of as well, and a shorter time is no news.
    for (until, known) in [(100, 100), (50, 100), (200, 200)] {
        cluster.keep_until = until;
        cluster.warm(0, 60.0);
        cluster.run_for(5.0);
        assert!(kept(&cluster, known), "{until}: {:?}", cluster.nodes[7].kept);
    }
    assert!(cluster.nodes[1..].iter().all(|node| node.kept.len() == 2 * cluster.blobs.len()));
}

#[test]
fn who_asks_again_after_the_end_asks_for_others() {
    let mut cluster = Cluster::new(3, |_| AT_ONCE);
    cluster.warm_these(0, vec![peer(1), peer(2)], 60.0);
    cluster.run_for(3.0);
    cluster.warm_these(0, vec![peer(3)], 60.0);
    cluster.run_for(3.0);
    let set = cluster.nodes[0].engine.swarm().unwrap().warming().set(SET).unwrap();
    assert_eq!(set.asked().collect::<Vec<_>>(), [(peer(3), super::blobs::Standing::Ready)]);
    assert_eq!(cluster.nodes[0].ends.iter().map(|end| end.of).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn what_was_evicted_after_the_end_is_fetched_when_the_set_is_asked_for_again() {
    let mut cluster = Cluster::new(30, |_| AT_ONCE);
    cluster.warm(0, 60.0);
    cluster.run_for(5.0);
    let digest = cluster.blobs[1].0;
    let looks = |cluster: &Cluster, node: usize| cluster.nodes[node].looks[&digest];
    let before: Vec<_> = (1..=30).map(|node| looks(&cluster, node)).collect();
    cluster.input(17, Input::Evicted { digest });
    cluster.run_for(5.0);
    assert_eq!(looks(&cluster, 17), before[16], "nobody wants it before somebody asks again");
    cluster.warm(0, 60.0);
    cluster.run_for(5.0);
    assert_eq!(cluster.nodes[0].ends.iter().map(|end| end.ready).collect::<Vec<_>>(), [30, 30]);
    for node in 1..=30 {
        let again = u32::from(node == 17);
        assert_eq!(looks(&cluster, node), before[node - 1] + again, "node {node}");
    }
}

#[test]
fn what_is_asked_for_after_the_end_is_nobody_elses_business() {
    let mut cluster = Cluster::new(30, |_| AT_ONCE);
    cluster.warm(0, 60.0);
    cluster.run_for(5.0);
    let digest = cluster.blobs[1].0;
    cluster.input(17, Input::Evicted { digest });
    let before = cluster.nodes[17].looks[&digest];
    cluster.warm_these(0, vec![peer(4)], 60.0);
    cluster.run_for(5.0);
    assert_eq!(cluster.nodes[0].ends.iter().map(|end| end.ready).collect::<Vec<_>>(), [30, 1]);
    assert_eq!(cluster.nodes[17].looks[&digest], before, "what was evicted there stays so");
}
