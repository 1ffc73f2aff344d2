//! Whose word moves a book.

use std::sync::Arc;

use super::*;
use crate::ids::Algorithm;
use crate::limits::FIRST_HOME_WAIT;
use crate::peer::Member;

fn member(number: u8) -> Arc<Member> {
    Arc::new(Member {
        peer: PeerId([number; 32]),
        generation: 1,
        addresses: Box::default(),
        data_port: 1,
        zone: "".into(),
        labels: Box::default(),
        version: "".into(),
    })
}

/// A digest, five members, and its homes.
fn ranked() -> (Digest, Roster, Vec<PeerId>) {
    let digest = Digest::new(Algorithm::Sha256, &[7; 32]);
    let roster = Roster::new((1..6).map(member));
    let ranked: Vec<_> = homes(&digest, &roster).iter().collect();
    (digest, roster, ranked)
}

/// A home that has opened a book and asked, a rival, and a member that outranks the home and that its list lacks.
fn asked() -> (Home, Digest, Roster, [PeerId; 3]) {
    let digest = Digest::new(Algorithm::Sha256, &[7; 32]);
    let everybody = Roster::new((1..6).map(member));
    let unlisted = homes(&digest, &everybody).first().unwrap();
    let roster = Roster::new(everybody.iter().filter(|m| m.peer != unlisted).cloned());
    let ranked: Vec<_> = homes(&digest, &roster).iter().collect();
    let mut home = Home::new(ranked[0]);
    let mut mail = Mail::new();
    home.join(Time::ZERO, ranked[2], digest, Joining::fresh(), &roster, &mut mail);
    let asks =
        |(to, message): &(PeerId, Message)| *to == ranked[1] && matches!(message, Message::Inquire { .. });
    assert!(mail.iter().any(asks), "{mail:?}");
    (home, digest, roster, [ranked[0], ranked[1], unlisted])
}

fn told(better: PeerId) -> Told {
    Told { size: 0, holders: vec![], receiving: false, better: Some(better) }
}

#[test]
fn a_better_home_that_another_names_has_to_say_so_itself() {
    let (mut home, digest, roster, [me, rival, better]) = asked();
    let mut mail = Mail::new();
    home.told(Time::ZERO, rival, digest, told(better), &roster, &mut mail);
    assert!(home.keeps(&digest));
    assert_eq!(home.first(Time::ZERO, &digest, &roster), Some(me));
    assert_eq!(mail, [(better, Message::Inquire { digest })]);
    mail.clear();
    home.told(Time::ZERO, better, digest, told(better), &roster, &mut mail);
    assert!(!home.keeps(&digest));
    assert_eq!(home.first(Time::ZERO, &digest, &roster), Some(better));
    assert!(
        mail.iter().all(|(_, m)| matches!(m, Message::NotHome { home, .. } if *home == better)),
        "{mail:?}"
    );
}

#[test]
fn homes_that_are_made_up_cost_a_bounded_number_of_questions() {
    let (mut home, digest, roster, [me, rival, _]) = asked();
    let mut mail = Mail::new();
    let made_up = (0..=255).map(|n| PeerId([n; 32])).filter(|peer| outranks(&digest, peer, &me));
    made_up.for_each(|peer| home.told(Time::ZERO, rival, digest, told(peer), &roster, &mut mail));
    assert_eq!(mail.len(), RIVALS_NAMED_MAX);
    assert!(home.keeps(&digest));
    // Those that wait are let in all the same.
    home.advance(Time::ZERO + HOME_RECOVERY, &mut mail);
    assert!(mail.iter().any(|(_, m)| matches!(m, Message::Welcome { .. })), "{mail:?}");
}

#[test]
fn rivals_have_longer_where_answers_take_long() {
    let is_let_in = |mail: &Mail| mail.iter().any(|(_, m)| matches!(m, Message::Welcome { .. }));
    let (most, recovery) = (BEHIND_WAIT - HOME_RECOVERY, HOME_RECOVERY);
    for (excuse, wait) in [(recovery, 2 * recovery), (4 * BEHIND_WAIT, recovery + most)] {
        let (mut home, ..) = asked();
        let mut mail = Mail::new();
        home.excuse(excuse);
        assert_eq!(home.next_wakeup(), Some(Time::ZERO + wait));
        home.advance(Time::ZERO + (wait - Duration::from_millis(1)), &mut mail);
        assert!(!is_let_in(&mail), "{excuse:?}: {mail:?}");
        home.advance(Time::ZERO + wait, &mut mail);
        assert!(is_let_in(&mail), "{excuse:?}: {mail:?}");
    }
}

#[test]
fn a_home_that_knows_nobody_yet_waits_for_its_list() {
    let (digest, roster, ranked) = ranked();
    let (me, second, joiner) = (ranked[0], ranked[1], ranked[2]);
    let mut home = Home::new(me);
    let mut mail = Mail::new();
    home.join(Time::ZERO, joiner, digest, Joining::fresh(), &Roster::default(), &mut mail);
    assert_eq!(mail, [], "nobody is let in");
    let soon = Time::ZERO + BEHIND_WAIT / 2;
    home.roster_changed(soon, &roster, &mut mail);
    assert!(mail.contains(&(second, Message::Inquire { digest })), "{mail:?}");
    mail.clear();
    home.advance(soon + HOME_RECOVERY, &mut mail);
    assert!(mail.iter().any(|(to, m)| *to == joiner && matches!(m, Message::Welcome { .. })), "{mail:?}");
    // Nor for ever: a list that never comes ends the wait.
    let mut home = Home::new(me);
    mail.clear();
    home.join(Time::ZERO, joiner, digest, Joining::fresh(), &Roster::default(), &mut mail);
    home.advance(Time::ZERO + BEHIND_WAIT, &mut mail);
    assert!(mail.iter().any(|(to, m)| *to == joiner && matches!(m, Message::Welcome { .. })), "{mail:?}");
}

#[test]
fn a_home_that_is_asked_in_the_place_of_another_lets_that_one_answer_first() {
    let (digest, roster, ranked) = ranked();
    let (first, me, joiner) = (ranked[0], ranked[1], ranked[2]);
    let opened = |home: &mut Home| {
        let mut mail = Mail::new();
        let joining = Joining { insists: true, ..Joining::fresh() };
        home.join(Time::ZERO, joiner, digest, joining, &roster, &mut mail);
        home.ask_first(Time::ZERO, &digest, (first, FIRST_HOME_WAIT), &roster, &mut mail);
        mail
    };
    let asks = |mail: &Mail| mail.contains(&(first, Message::Inquire { digest }));
    let granted_at = |home: &mut Home| {
        let mut mail = Mail::new();
        while let Some(at) = home.next_wakeup() {
            home.advance(at, &mut mail);
            if mail.iter().any(|(_, m)| matches!(m, Message::Lease { .. })) {
                return at;
            }
        }
        unreachable!("nobody fetches")
    };
    let mut home = Home::new(me);
    let mail = opened(&mut home);
    assert!(asks(&mail), "{mail:?}");
    assert!(mail.iter().any(|(to, m)| *to == joiner && matches!(m, Message::Welcome { .. })), "it is let in");
    assert_eq!(
        granted_at(&mut home),
        Time::ZERO + FIRST_HOME_WAIT,
        "one that is gone is not waited for longer"
    );

    // One that answers gets them back, but not for ever: they come because it does not answer them, or because they do not
    // believe it.
    let mut home = Home::new(me);
    for time in 0..GIVES_WAY_MAX {
        assert!(asks(&opened(&mut home)), "time {time}");
        let mut mail = Mail::new();
        home.told(Time::ZERO, first, digest, told(first), &roster, &mut mail);
        assert_eq!(mail, [(joiner, Message::NotHome { digest, home: first })]);
        assert!(!home.keeps(&digest));
    }
    assert!(!asks(&opened(&mut home)));
    assert_eq!(granted_at(&mut home), Time::ZERO + HOME_RECOVERY);
}
