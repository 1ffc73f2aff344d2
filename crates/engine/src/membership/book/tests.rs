//! What counts as news, and what is remembered of those who are gone.

use std::time::Duration;

use foca::State::{Alive, Down, Suspect};

use super::*;
use crate::membership::wire;

fn someone(n: u16, generation: u64) -> Arc<Member> {
    let mut key = [0; 32];
    key[..2].copy_from_slice(&n.to_be_bytes());
    Arc::clone(Identity::bare(PeerId(key), generation).member())
}

fn said(member: &Arc<Member>, incarnation: u16, state: State) -> foca::Member<Identity> {
    foca::Member::new(Identity::new(Arc::clone(member)), incarnation, state)
}

/// Whether the book takes it for news, by way of a packet.
fn is_news(book: &Book, said: foca::Member<Identity>) -> bool {
    let mut bytes = Vec::new();
    wire::put_envelope(0, &mut bytes);
    bytes.extend(wire::compose(9, &someone(1, 1), &Identity::bare(PeerId([0; 32]), 1), &[said]).remove(0));
    !book.news(&wire::decode(&bytes).unwrap().updates).unwrap().is_empty()
}

#[test]
fn precedence_is_that_of_swim() {
    // What is believed, what is said, and whether that is news: in life, incarnation and state.
    let table = [
        ((5, 2, Alive), (5, 2, Alive), false),
        ((5, 2, Alive), (5, 3, Alive), true),
        ((5, 2, Alive), (5, 1, Suspect), false),
        ((5, 2, Alive), (5, 2, Suspect), true),
        ((5, 2, Suspect), (5, 2, Alive), false),
        ((5, 2, Suspect), (5, 2, Suspect), false),
        ((5, 2, Suspect), (5, 3, Alive), true),
        ((5, 2, Suspect), (5, 0, Down), true),
        ((5, 2, Alive), (5, 0, Down), true),
        ((5, 2, Down), (5, 9, Alive), false),
        ((5, 2, Down), (6, 0, Alive), true),
        ((5, 2, Alive), (6, 0, Down), true),
        ((5, 2, Alive), (4, 9, Down), false),
    ];
    for (believed, new, expected) in table {
        let mut book = Book::new(someone(0, 1));
        book.note(&said(&someone(2, believed.0), believed.1, believed.2), Time::ZERO);
        let found = is_news(&book, said(&someone(2, new.0), new.1, new.2));
        assert_eq!(found, expected, "{believed:?} {new:?}");
    }
}

#[test]
fn strangers_are_news_until_the_book_is_full() {
    let mut book = Book::new(someone(0, 1));
    for n in 1..=MEMBERS_MAX as u16 {
        assert!(!book.is_full());
        book.note(&said(&someone(n, 1), 0, Alive), Time::ZERO);
    }
    assert!(book.is_full());
    assert!(!is_news(&book, said(&someone(u16::MAX, 1), 0, Alive)));
    assert!(is_news(&book, said(&someone(7, 1), 1, Alive)), "known ones still are");
}

#[test]
fn the_view_follows_the_list_whatever_the_way() {
    let (mut one, mut other) = (Book::new(someone(1, 1)), Book::new(someone(2, 1)));
    one.rise(&someone(2, 1), Time::ZERO);
    one.rise(&someone(3, 1), Time::ZERO);
    one.rise(&someone(3, 1), Time::ZERO);
    one.rise(&someone(4, 1), Time::ZERO);
    one.fall(&someone(4, 1).peer, Time::ZERO);
    one.rename(&someone(3, 2));
    assert_ne!(one.view(), other.view());
    other.rise(&someone(3, 2), Time::ZERO);
    other.rise(&someone(1, 1), Time::ZERO);
    assert_eq!(one.view(), other.view());
    assert_eq!((one.living(), one.lost_count(), one.roster().len()), (2, 1, 3));
    one.set_me(someone(1, 9));
    other.rename(&someone(1, 9));
    assert_eq!(one.view(), other.view());
}

#[test]
fn the_gone_are_forgotten_in_time_and_in_number() {
    let mut book = Book::new(someone(0, 1));
    let second = |n: u64| Time::ZERO + Duration::from_secs(n);
    for n in 1..=LOST_MAX as u16 + 2 {
        book.rise(&someone(n, 1), Time::ZERO);
        book.fall(&someone(n, 1).peer, second(u64::from(n)));
    }
    let overdue: Vec<_> = book.overdue(second(0)).iter().map(|member| member.peer).collect();
    assert_eq!(overdue, [someone(1, 1).peer, someone(2, 1).peer], "the first of too many");
    overdue.iter().for_each(|peer| book.forget(peer));
    assert!(book.overdue(second(0)).is_empty());
    let later = second(3) + LOST_REMEMBERED;
    assert_eq!(book.overdue(later).iter().map(|m| m.peer).collect::<Vec<_>>(), [someone(3, 1).peer]);
}
