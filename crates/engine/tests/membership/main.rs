//! Two hundred nodes in virtual time: how soon they agree, notice a death, and find together again.

mod machine;
mod net;
mod properties;

use std::time::Duration;

use shoal_engine::Member;
use shoal_engine::limits::{ACQUAINTANCE_CALM, ACQUAINTANCE_PAUSE, PROBE_PERIOD, PROBE_UNANSWERED_MAX};
use shoal_engine::membership::{Event, Input};

use net::{DELAY_MIN, Net, member};

const NODES: usize = 200;
const SECOND: Duration = Duration::from_secs(1);

/// A cluster that agrees and has nothing more to say.
fn settled(nodes: usize, seed: u64) -> Net {
    let mut net = Net::new(nodes, seed);
    net.start_all(SECOND);
    net.run(SECOND);
    net.run_until(20 * SECOND, Net::agrees).expect("agreement");
    net.run(8 * SECOND);
    assert!(net.agrees());
    net
}

#[test]
fn nodes_that_start_together_agree_within_five_seconds() {
    for seed in 0..3 {
        let mut net = Net::new(NODES, seed);
        net.start_all(Duration::ZERO);
        let took = net.run_until(5 * SECOND, Net::agrees).expect("agreement within 5 s");
        let (rosters, deaths) = (net.nodes[0].rosters, deaths(&net));
        assert!(deaths == 0, "nobody was called dead, but {deaths} times");
        assert!(rosters as u128 <= took.as_millis() / 50 + 2, "{rosters} lists in {took:?}");
        println!("seed {seed}: {NODES} nodes agree after {took:?}; {rosters} lists at the first");
    }
}

#[test]
fn news_makes_few_connections_and_calm_makes_the_rest() {
    const PAIRS: usize = NODES * (NODES - 1) / 2;
    let mut net = Net::new(NODES, 2);
    net.start_all(5 * SECOND);
    net.run(5 * SECOND);
    net.run_until(5 * SECOND, Net::agrees).expect("agreement");
    let meeting = net.connections.len();
    assert!(meeting < PAIRS / 5, "{meeting} of {PAIRS}, if news goes to members that are connected to");
    println!("{NODES} nodes agree with {meeting} of {PAIRS} connections");
    net.run(ACQUAINTANCE_CALM);
    // Each asks others in its own turn and is asked by as many; its probes come on top of that.
    let asked =
        SECOND.as_secs_f64() * (1.0 / ACQUAINTANCE_PAUSE.as_secs_f64() + 1.0 / PROBE_PERIOD.as_secs_f64());
    let mut all_after = None;
    for second in 0..90 {
        let before = net.connections.len();
        net.run(SECOND);
        let new = (net.connections.len() - before) as f64;
        assert!(new <= 1.2 * asked * NODES as f64, "{new} connections in a second");
        if net.connections.len() == PAIRS {
            all_after.get_or_insert(second);
        }
    }
    println!("all of them are connected {all_after:?} s later");
    assert!(all_after.is_some_and(|seconds| seconds < 75), "{all_after:?}");
    let idle = net.nodes[0].packets_sent;
    net.run(60 * SECOND);
    let rate = (net.nodes[0].packets_sent - idle) as f64 / 60.0;
    assert!(rate < 3.5, "a probe and an answer in each period, and no more: {rate} packets/s");
}

#[test]
fn everybody_is_known_to_be_near() {
    const MEMBERS: usize = 40;
    let mut net = settled(MEMBERS, 15);
    let bytes = net.nodes[0].bytes_sent;
    // Each is asked in its turn, twice within two rounds.
    net.run(PROBE_PERIOD * 2 * MEMBERS as u32);
    let answers = &net.nodes[0].answers;
    assert_eq!(answers.len(), MEMBERS - 1);
    // There and back, each in one to three times the least delay.
    let near = 2 * DELAY_MIN..=6 * DELAY_MIN;
    assert!(answers.values().all(|after| near.contains(after)), "{answers:?}");
    let rate = (net.nodes[0].bytes_sent - bytes) as f64 / (PROBE_PERIOD * 2 * MEMBERS as u32).as_secs_f64();
    println!("the round trip to all of {MEMBERS} is known; one sends {rate:.0} bytes a second");
}

#[test]
fn a_newcomer_knows_everybody_and_is_known_at_once() {
    let mut net = settled(NODES, 1);
    net.nodes.iter_mut().for_each(|node| node.events.clear());
    net.kill(7);
    net.run_until(10 * SECOND, Net::agrees).expect("a death is noticed");
    net.run(10 * SECOND);
    net.start_as(7, 2, &[33]);
    net.run(SECOND / 10);
    assert_eq!(net.nodes[7].roster.len(), NODES, "one list is enough");
    let took = net.run_until(5 * SECOND, Net::agrees).expect("everybody knows");
    println!("a newcomer is known to {NODES} after {took:?}");
}

#[test]
fn a_death_is_noticed_by_all_within_ten_seconds() {
    for seed in 0..3 {
        for tells in [false, true] {
            let mut net = settled(NODES, seed);
            net.tells = tells;
            net.kill(42);
            let took = net.run_until(10 * SECOND, |net| net.is_gone(42)).expect("a death is noticed");
            assert!(net.agrees());
            println!("seed {seed}, broken connections told: {tells}: a death is noticed after {took:?}");
        }
    }
}

#[test]
fn many_deaths_at_once_are_noticed() {
    let mut net = settled(NODES, 4);
    (0..NODES / 4).for_each(|node| net.kill(node * 4));
    let took = net.run_until(15 * SECOND, Net::agrees).expect("the deaths are noticed");
    println!("{} deaths of {NODES} are noticed after {took:?}", NODES / 4);
}

#[test]
fn whoever_leaves_is_gone_within_two_seconds() {
    let mut net = settled(NODES, 5);
    net.leave(9);
    let took = net.run_until(2 * SECOND, |net| net.is_gone(9)).expect("it is gone");
    assert!(net.agrees());
    println!("who leaves is gone after {took:?}");
}

#[test]
fn halves_find_together_again() {
    for lasting in [30 * SECOND, 300 * SECOND] {
        let mut net = settled(NODES / 2, 6);
        (0..NODES / 2).for_each(|node| net.put(node, (node % 2) as u8));
        net.run_until(60 * SECOND, Net::agrees).expect("each half agrees");
        net.run(lasting);
        (0..NODES / 2).for_each(|node| net.put(node, 0));
        let took = net.run_until(30 * SECOND, Net::agrees).expect("the partition heals");
        net.run(20 * SECOND);
        assert!(net.agrees());
        println!("a partition of {lasting:?} heals after {took:?}");
    }
}

#[test]
fn a_node_that_was_cut_off_returns() {
    let mut net = settled(NODES, 7);
    net.put(3, 1);
    let took = net.run_until(15 * SECOND, Net::agrees).expect("the lonely one knows that it is alone");
    println!("a node that is cut off knows it after {took:?}");
    assert_eq!(net.nodes[3].events.last(), Some(&Event::Alone));
    net.put(3, 0);
    let took = net.run_until(10 * SECOND, Net::agrees).expect("it returns");
    println!("a node that was cut off is back after {took:?}");
}

#[test]
fn nodes_that_stop_together_stay_together() {
    let mut net = settled(NODES, 14);
    net.nodes.iter_mut().for_each(|node| node.events.clear());
    // As a hypervisor that moves its machines does; they go on within half a second.
    for node in 0..NODES {
        let more = SECOND * net.random(512) as u32 / 1024;
        net.stop(node, 30 * SECOND + more);
    }
    net.run(60 * SECOND);
    assert_eq!(deaths(&net), 0);
    assert!(net.agrees());
}

#[test]
fn a_restart_too_quick_to_be_noticed_is_no_death() {
    let mut net = settled(NODES, 8);
    net.nodes.iter_mut().for_each(|node| node.events.clear());
    net.kill(11);
    net.run(SECOND / 2);
    net.start_as(11, 2, &[12]);
    let is_known = |net: &Net| {
        let peer = net.peer(11);
        net.agrees() && net.nodes.iter().all(|n| n.roster.get(&peer).is_some_and(|m| m.generation >= 2))
    };
    let took = net.run_until(5 * SECOND, is_known).expect("the new life is known");
    assert_eq!(deaths(&net), 0);
    println!("a quick restart is known after {took:?}");
}

#[test]
fn a_clock_that_went_backwards_keeps_nobody_out() {
    let mut net = settled(20, 9);
    net.kill(5);
    net.start_as(5, 1_000_000, &[1]);
    net.run(20 * SECOND);
    net.kill(5);
    net.run(20 * SECOND);
    net.start_as(5, 10, &[2]);
    net.run_until(5 * SECOND, Net::agrees).expect("it is let in");
    let peer = net.peer(5);
    assert!(net.nodes[0].roster.get(&peer).unwrap().generation > 1_000_000);
}

#[test]
fn new_details_reach_everybody() {
    let mut net = settled(NODES, 10);
    net.nodes.iter_mut().for_each(|node| node.events.clear());
    net.tell(17, Input::Update(Member { zone: "elsewhere".into(), ..member(17, 0) }));
    let peer = net.peer(17);
    let is_known = |net: &Net| net.nodes.iter().all(|node| node.roster.zone(&peer) == "elsewhere");
    let took = net.run_until(3 * SECOND, is_known).expect("everybody knows");
    net.run(20 * SECOND);
    assert!(net.agrees() && deaths(&net) == 0);
    println!("new details are known after {took:?}");
}

#[test]
fn connections_that_break_alone_kill_nobody() {
    let mut net = settled(50, 11);
    net.nodes.iter_mut().for_each(|node| node.events.clear());
    for _ in 0..200 {
        let (at, lost) = (net.random(50) as usize, net.random(50) as usize);
        let peer = net.peer(lost);
        net.tell(at, Input::Unreachable { peer });
        net.run(SECOND / 10);
    }
    assert!(net.agrees() && deaths(&net) == 0);
}

#[test]
fn two_that_cannot_talk_connect_anew_and_nobody_is_taken_for_gone() {
    let mut net = settled(20, 13);
    assert!(net.nodes.iter().all(|node| node.reconnects.is_empty()), "all answer");
    net.nodes.iter_mut().for_each(|node| node.events.clear());
    net.cut = Some((3, 7));
    // Each is probed by each once in as many periods as there are members.
    net.run(2 * 20 * PROBE_PERIOD + PROBE_UNANSWERED_MAX);
    assert!(net.agrees() && deaths(&net) == 0);
    for (at, node) in net.nodes.iter().enumerate() {
        let other =
            [(3, 7), (7, 3)].into_iter().find(|(end, _)| *end == at).map(|(_, other)| net.peer(other));
        assert_eq!(node.reconnects.first().copied(), other, "node {at}");
        assert!(node.reconnects.iter().all(|peer| Some(*peer) == other), "node {at}");
    }
}

#[test]
fn lost_packets_are_made_up_for() {
    let mut net = Net::new(50, 12);
    net.loss = 50;
    net.start_all(SECOND);
    net.run(SECOND);
    let took = net.run_until(20 * SECOND, Net::agrees).expect("agreement in spite of 5 % loss");
    println!("50 nodes that lose every 20th packet agree after {took:?}");
}

#[test]
fn the_same_seed_gives_the_same_packets() {
    let run = |seed| {
        let net = settled(20, seed);
        (net.transcript, net.sent())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

/// Figures for the documents: `cargo test -p shoal-engine --test membership -- --ignored --nocapture figures`.
#[test]
#[ignore = "takes a minute"]
fn figures() {
    for nodes in [200, 1000] {
        let mut net = Net::new(nodes, 1);
        net.start_all(10 * SECOND);
        net.run(10 * SECOND);
        let agree = net.run_until(10 * SECOND, Net::agrees).expect("agreement");
        let (packets, bytes) = net.sent();
        let joining = (packets / nodes as u64, bytes / nodes as u64);
        let connections = 2 * net.connections.len() / nodes;
        net.run(120 * SECOND);
        let before = net.sent();
        net.run(60 * SECOND);
        let after = net.sent();
        let idle = |a: u64, b: u64| (b - a) as f64 / 60.0 / nodes as f64;
        let (packets, bytes) = (idle(before.0, after.0), idle(before.1, after.1));
        let mut deaths = Vec::new();
        for dead in 1..=25 {
            net.kill(dead * 7);
            deaths.push(net.run_until(15 * SECOND, |net| net.is_gone(dead * 7)).expect("a death"));
            net.run(10 * SECOND);
        }
        println!(
            "{nodes} nodes: agree {agree:?} after the last; joining cost {joining:?} packets, bytes each, {connections} connections"
        );
        deaths.sort_unstable();
        let (half, last) = (deaths[deaths.len() / 2], deaths[deaths.len() - 1]);
        println!("  idle: {packets:.2} packets/s, {bytes:.0} bytes/s sent per node");
        println!("  deaths: half of them are known to all after {half:?}, each after {last:?}");
        println!("  largest packet {} bytes", net.nodes.iter().map(|n| n.largest).max().unwrap());
        assert!(agree <= 5 * SECOND && deaths.iter().all(|took| *took <= 10 * SECOND));
    }
}

/// More of them, of worse days; the same command with `troubles`.
#[test]
#[ignore = "takes two minutes"]
fn troubles() {
    const MANY: usize = 1000;
    let mut net = Net::new(MANY, 3);
    net.start_all(Duration::ZERO);
    let agree = net.run_until(5 * SECOND, Net::agrees).expect("agreement");
    println!("{MANY} at once agree after {agree:?}; the first sends {} bytes", net.nodes[0].bytes_sent);

    let mut net = settled(MANY, 7);
    net.put(3, 1);
    let alone = net.run_until(15 * SECOND, |net| net.nodes[3].roster.len() == 1).expect("it is alone");
    net.run_until(10 * SECOND, Net::agrees).expect("the others know");
    net.put(3, 0);
    let back = net.run_until(10 * SECOND, Net::agrees).expect("it returns");
    println!("cut off: known to itself after {alone:?}, back after {back:?}");

    (0..MANY).for_each(|node| net.put(node, (node % 2) as u8));
    net.run_until(60 * SECOND, Net::agrees).expect("each half agrees");
    net.run(30 * SECOND);
    let before = net.sent().1;
    (0..MANY).for_each(|node| net.put(node, 0));
    let healed = net.run_until(30 * SECOND, Net::agrees).expect("the partition heals");
    net.run(20 * SECOND);
    assert!(net.agrees());
    println!(
        "halves: together after {healed:?}; {} bytes sent by each",
        (net.sent().1 - before) / MANY as u64
    );
}

fn deaths(net: &Net) -> usize {
    net.nodes.iter().flat_map(|node| &node.events).filter(|e| matches!(e, Event::Down(_))).count()
}
