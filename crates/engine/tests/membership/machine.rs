//! One machine by itself: whom it listens to, how often it asks, and how it ends.

use std::time::Duration;

use shoal_engine::limits::{
    ALONE_PAUSE, CONTACT_TRIES_MAX, LIST_PAUSE, PROBE_ANSWER_MAX, ROSTER_PAUSE, SUSPICION, SUSPICION_REPEAT,
};
use shoal_engine::membership::{Event, Input, MemberFault, Output, PacketFault};
use shoal_engine::{Member, Membership, PeerId, Time};

use crate::net::member;

fn machine(n: usize) -> Membership {
    let mut machine = Membership::new(Time::ZERO, member(n, 5), n as u64).unwrap();
    let first = drain(&mut machine);
    assert!(matches!(&first[..], [Output::Roster(roster)] if roster.len() == 1), "at first it knows itself");
    machine
}

fn drain(machine: &mut Membership) -> Vec<Output> {
    std::iter::from_fn(|| machine.poll_output()).collect()
}

/// The packets a machine wants to send.
fn packets(machine: &mut Membership) -> Vec<(PeerId, Vec<u8>)> {
    let packet = |output| match output {
        Output::Packet { to, bytes } => Some((to.peer, bytes)),
        Output::Roster(_) | Output::Answered { .. } | Output::Reconnect { .. } | Output::Event(_) => None,
    };
    drain(machine).into_iter().filter_map(packet).collect()
}

/// Lets two machines talk until neither has anything to say.
fn talk(now: Time, a: &mut Membership, b: &mut Membership) {
    loop {
        let (from_a, from_b) = (packets(a), packets(b));
        if from_a.is_empty() && from_b.is_empty() {
            return;
        }
        let (name_a, name_b) = (a.me().peer, b.me().peer);
        from_a.into_iter().for_each(|(_, bytes)| b.handle(now, Input::Packet { from: name_a, bytes }));
        from_b.into_iter().for_each(|(_, bytes)| a.handle(now, Input::Packet { from: name_b, bytes }));
    }
}

fn joined() -> (Membership, Membership) {
    let (mut a, mut b) = (machine(0), machine(1));
    a.handle(Time::ZERO, Input::Contact { peer: member(1, 0).peer });
    talk(Time::ZERO, &mut a, &mut b);
    assert_eq!((a.members(), b.members()), (2, 2));
    assert_eq!(a.view(), b.view());
    (a, b)
}

#[test]
fn only_the_sender_may_speak_for_itself_and_only_to_us() {
    let (mut a, mut b) = joined();
    b.handle(Time::ZERO, Input::Unreachable { peer: member(0, 0).peer });
    let [(_, ping)] = &packets(&mut b)[..] else { panic!("a broken connection makes it ask") };
    let mut refused = |from: usize, bytes: &[u8]| {
        a.handle(Time::ZERO, Input::Packet { from: member(from, 0).peer, bytes: bytes.to_vec() });
        match &drain(&mut a)[..] {
            [Output::Event(Event::Refused { fault, .. })] => Some(*fault),
            [Output::Packet { .. }] => None,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(1, ping), None);
    assert_eq!(refused(2, ping), Some(PacketFault::Misdirected));
    assert_eq!(refused(1, &[]), Some(PacketFault::Malformed));
    let mut c = machine(2);
    c.handle(Time::ZERO, Input::Packet { from: member(1, 0).peer, bytes: ping.clone() });
    assert!(matches!(
        &drain(&mut c)[..],
        [Output::Event(Event::Refused { fault: PacketFault::Misdirected, .. })]
    ));
}

#[test]
fn details_out_of_bounds_neither_start_nor_replace() {
    let endless = || Member { zone: "z".repeat(100).into(), ..member(0, 5) };
    assert!(matches!(Membership::new(Time::ZERO, endless(), 0), Err(MemberFault::Zone)));
    let mut machine = machine(0);
    machine.handle(Time::ZERO, Input::Update(endless()));
    assert!(matches!(&drain(&mut machine)[..], [Output::Event(Event::UpdateRefused(MemberFault::Zone))]));
    assert_eq!(**machine.me(), member(0, 5));
}

#[test]
fn a_contact_is_asked_again_until_it_is_given_up() {
    let mut machine = machine(0);
    let peer = member(1, 0).peer;
    machine.handle(Time::ZERO, Input::Contact { peer });
    let mut asked = packets(&mut machine).len();
    while let Some(at) = machine.next_wakeup() {
        assert!(at <= Time::ZERO + ALONE_PAUSE * CONTACT_TRIES_MAX);
        machine.handle(at, Input::Wakeup);
        let packets = packets(&mut machine);
        assert!(packets.iter().all(|(to, _)| *to == peer));
        asked += packets.len();
    }
    // Three draws a second among one contact: it is asked once a second, and counted three times.
    assert!(asked > 1 && asked <= CONTACT_TRIES_MAX as usize, "{asked}");
}

#[test]
fn whoever_has_left_is_deaf() {
    let (mut a, mut b) = joined();
    a.handle(Time::ZERO, Input::Leave);
    let farewell = packets(&mut a);
    assert_eq!(farewell.len(), 1);
    assert_eq!(a.next_wakeup(), None);
    for (_, bytes) in farewell {
        b.handle(Time::ZERO, Input::Packet { from: member(0, 0).peer, bytes });
    }
    assert_eq!(b.members(), 1);
    talk(Time::ZERO, &mut b, &mut a);
    a.handle(Time::ZERO, Input::Contact { peer: member(1, 0).peer });
    assert!(drain(&mut a).is_empty());
}

#[test]
fn a_list_is_not_sent_as_often_as_it_is_asked_for() {
    let (mut a, mut b) = (machine(0), machine(1));
    a.handle(Time::ZERO, Input::Contact { peer: member(1, 0).peer });
    let [(_, announce)] = &packets(&mut a)[..] else { panic!("one question") };
    let mut answers = |after: Duration| {
        while let Some(wakeup) = b.next_wakeup()
            && wakeup < Time::ZERO + after
        {
            b.handle(wakeup, Input::Wakeup);
        }
        drain(&mut b);
        let packet = Input::Packet { from: member(0, 0).peer, bytes: announce.clone() };
        b.handle(Time::ZERO + after, packet);
        // Behind version and view stands the kind; 8 is a list.
        packets(&mut b).iter().filter(|(_, bytes)| bytes[9] == 8).count()
    };
    assert_eq!(answers(Duration::ZERO), 1);
    assert_eq!(answers(Duration::from_millis(1)), 0);
    assert_eq!(answers(LIST_PAUSE), 1);
}

#[test]
fn lists_of_members_are_handed_out_at_a_bounded_rate() {
    let mut seed = machine(0);
    let mut lists = Vec::new();
    for n in 1..=90 {
        let now = Time::ZERO + Duration::from_millis(2 * n as u64);
        let mut other = machine(n);
        other.handle(now, Input::Contact { peer: member(0, 0).peer });
        for (_, bytes) in packets(&mut other) {
            seed.handle(now, Input::Packet { from: member(n, 0).peer, bytes });
        }
        for output in drain(&mut seed) {
            if let Output::Roster(roster) = output {
                lists.push((now, roster.len()));
            }
        }
    }
    assert!(lists.windows(2).all(|pair| pair[1].0 - pair[0].0 >= ROSTER_PAUSE), "{lists:?}");
    assert!((3..=5).contains(&lists.len()), "{lists:?}");
    assert!(lists.last().unwrap().1 < 91, "the last of them are on the next list");
    let end = Time::ZERO + Duration::from_millis(180) + ROSTER_PAUSE;
    seed.handle(end, Input::Wakeup);
    let last = drain(&mut seed).into_iter().find_map(|output| match output {
        Output::Roster(roster) => Some(roster.len()),
        Output::Packet { .. } | Output::Answered { .. } | Output::Reconnect { .. } | Output::Event(_) => None,
    });
    assert_eq!(last, Some(91));
}

/// All but one of its packets are lost: gossip has ended before, and no probe is due while the link is there.
#[test]
fn a_suspected_member_is_told_until_the_verdict() {
    let (mut a, mut b) = joined();
    let (name_a, name_b) = (a.me().peer, b.me().peer);
    a.handle(Time::ZERO, Input::Unreachable { peer: name_b });
    let suspected = Time::ZERO + PROBE_ANSWER_MAX;
    let heals = suspected + (SUSPICION - 2 * SUSPICION_REPEAT);
    let breaks = heals + SUSPICION_REPEAT;
    let end = suspected + 2 * SUSPICION;
    while let Some(at) = a.next_wakeup().filter(|at| *at < end) {
        a.handle(at, Input::Wakeup);
        for (_, bytes) in packets(&mut a).into_iter().filter(|_| at >= heals && at < breaks) {
            b.handle(at, Input::Packet { from: name_a, bytes });
            for (_, bytes) in packets(&mut b) {
                a.handle(at, Input::Packet { from: name_b, bytes });
            }
        }
        assert_eq!(a.members(), 2, "at {at:?}");
    }
}

/// What it was suspected of is over: it does not begin another life, which would break off all that it sends and receives.
#[test]
fn whoever_has_objected_stays_who_it_is() {
    let (mut a, mut b) = joined();
    let life = b.me().generation;
    a.handle(Time::ZERO, Input::Unreachable { peer: b.me().peer });
    drain(&mut a);
    let suspected = Time::ZERO + PROBE_ANSWER_MAX;
    let next = |machine: &Membership| machine.next_wakeup().unwrap_or(Time::ZERO + 3 * SUSPICION);
    loop {
        let now = next(&a).min(next(&b));
        if now >= suspected + 2 * SUSPICION {
            break;
        }
        a.handle(now, Input::Wakeup);
        b.handle(now, Input::Wakeup);
        if now >= suspected {
            talk(now, &mut a, &mut b);
        } else {
            drain(&mut a);
            drain(&mut b);
        }
        assert_eq!((a.members(), b.me().generation), (2, life), "at {now:?}");
    }
}
