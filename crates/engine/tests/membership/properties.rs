//! Whatever comes, goes, leaves, breaks and is said in whatever order: those who are left find together.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use shoal_engine::Membership;
use shoal_engine::Time;
use shoal_engine::membership::{Input, Output};

use crate::net::{Net, member};

/// Something that happens to a node.
#[derive(Clone, Debug)]
enum Act {
    Start { node: Index, contact: Index },
    Kill(Index),
    Leave(Index),
    Move { node: Index, side: u8 },
    Update(Index),
    Unreachable { at: Index, peer: Index },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => any::<(Index, Index)>().prop_map(|(node, contact)| Act::Start { node, contact }),
        2 => any::<Index>().prop_map(Act::Kill),
        1 => any::<Index>().prop_map(Act::Leave),
        2 => (any::<Index>(), 0..2u8).prop_map(|(node, side)| Act::Move { node, side }),
        1 => any::<Index>().prop_map(Act::Update),
        1 => any::<(Index, Index)>().prop_map(|(at, peer)| Act::Unreachable { at, peer }),
    ]
}

fn perform(net: &mut Net, act: &Act, generation: u64) {
    let all = net.nodes.len();
    let is_running = |net: &Net, node: usize| net.nodes[node].machine.is_some();
    match act {
        Act::Start { node, contact } => {
            let (node, contact) = (node.index(all), contact.index(all));
            if !is_running(net, node) {
                // Discovery names somebody who runs, as far as it can.
                let running = net.running();
                let contact = if is_running(net, contact) { Some(contact) } else { running.first().copied() };
                net.start_as(node, generation, contact.as_slice());
            }
        }
        // The last one stays: with it the cluster itself would end, and another begin.
        Act::Kill(node) if net.running().len() > 1 => net.kill(node.index(all)),
        Act::Leave(node) if net.running().len() > 1 => net.leave(node.index(all)),
        Act::Kill(_) | Act::Leave(_) => {}
        Act::Move { node, side } => net.put(node.index(all), *side),
        Act::Update(node) => {
            let node = node.index(all);
            net.tell(node, Input::Update(member(node, generation)));
        }
        Act::Unreachable { at, peer } => {
            let peer = net.peer(peer.index(all));
            net.tell(at.index(all), Input::Unreachable { peer });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn those_who_are_left_find_together(
        seed: u64, tells: bool, loss in prop_oneof![Just(0u64), Just(20)],
        acts in prop::collection::vec((0u64..4000, act()), 1..60),
    ) {
        let mut net = Net::new(12, seed);
        (net.tells, net.loss) = (tells, loss);
        net.start_as(0, 1, &[]);
        for (at, (pause, act)) in acts.iter().enumerate() {
            net.run(Duration::from_millis(*pause));
            perform(&mut net, act, 2 + at as u64);
        }
        // The world becomes quiet, and discovery goes on naming everybody to everybody who is alone.
        net.loss = 0;
        (0..12).for_each(|node| net.put(node, 0));
        let running = net.running();
        let first = net.peer(running[0]);
        for node in &running {
            net.tell(*node, Input::Contact { peer: first });
        }
        let took = net.run_until(Duration::from_secs(60), Net::agrees);
        prop_assert!(took.is_some(), "no agreement: {:?}", net.nodes.iter().map(|n| n.roster.len()).collect::<Vec<_>>());
        net.run(Duration::from_secs(30));
        prop_assert!(net.agrees(), "agreement lasts");
        let views: Vec<_> = running.iter().filter_map(|n| net.nodes[*n].machine.as_ref()).map(Membership::view).collect();
        prop_assert!(views.windows(2).all(|pair| pair[0] == pair[1]), "equal lists have equal views");
    }

    /// A member may say what it likes: real packets, damaged or sent to somebody else, in any order and any number.
    #[test]
    fn what_members_say_does_no_harm(
        seed: u64, says in prop::collection::vec((any::<Index>(), any::<Index>(), any::<u8>(), 0u64..3000), 1..80),
    ) {
        let mut machine = Membership::new(Time::ZERO, member(0, 5), seed).unwrap();
        let mut other = Membership::new(Time::ZERO, member(1, 5), seed ^ 1).unwrap();
        let mut now = Time::ZERO;
        let mut heard: Vec<Vec<u8>> = Vec::new();
        let peers = [member(0, 5).peer, member(1, 5).peer];
        other.handle(now, Input::Contact { peer: peers[0] });
        for (which, place, byte, pause) in says {
            now = now + Duration::from_millis(pause);
            while let Some(output) = other.poll_output() {
                if let Output::Packet { bytes, .. } = output {
                    machine.handle(now, Input::Packet { from: peers[1], bytes: bytes.clone() });
                    heard.push(bytes);
                }
            }
            let mut bytes = which.get(&heard).clone();
            let at = place.index(bytes.len());
            bytes[at] = byte;
            machine.handle(now, Input::Packet { from: peers[1], bytes });
            while let Some(output) = machine.poll_output() {
                match output {
                    Output::Packet { to, bytes } if to.peer == peers[1] => {
                        other.handle(now, Input::Packet { from: peers[0], bytes });
                    }
                    Output::Roster(roster) => prop_assert!(roster.contains(&peers[0])),
                    Output::Packet { .. }
                    | Output::Answered { .. }
                    | Output::Reconnect { .. }
                    | Output::Event(_) => {}
                }
            }
        }
    }
}
