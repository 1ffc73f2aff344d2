use ratatui::crossterm::event::KeyEvent;
use shoal_engine::{Algorithm, Digest};

use super::*;
use crate::cli::fixture::{Answer, FakeAgent};
use crate::driver::FlightStatus;
use crate::warm::{Outcome, Phase};
use crate::watch::{
    BlobView, Change, MemberShown, Moment, NodeView, RolloutView, Snapshot, Standing, Traffic,
};

fn member(id: u32, standing: Standing) -> MemberShown {
    MemberShown {
        id,
        name: format!("{id:02}").repeat(6),
        address: format!("10.0.0.{id}:5001"),
        zone: ["eu-1a", "eu-1b"][id as usize % 2].into(),
        version: "0.1.0".into(),
        standing,
    }
}

fn traffic(n: u64) -> Traffic {
    Traffic { registries: 10 * n, members: 90 * n, given: 120 * n, served: 100 * n, ..Traffic::default() }
}

fn snapshot() -> Snapshot {
    let digest = |n: u8| Digest::new(Algorithm::Sha256, &[n; 32]);
    let repository = Some("registry.example.com/team/app".to_owned());
    Snapshot {
        at_ms: 1_700_000_060_000,
        node: NodeView {
            name: "000000000000".into(),
            version: "0.1.0".into(),
            started_at: 1_699_996_400,
            degraded: false,
            store_trouble: None,
            blobs: 312,
            bytes: 41_200_000_000,
            flights: 1,
            waiting: 2,
            unwell: vec!["mirror.example.com".into()],
        },
        traffic: traffic(6_000_000),
        history: (0..=6)
            .map(|n| Moment { at_ms: 1_700_000_000_000 + n * 10_000, traffic: traffic(n * 1_000_000) })
            .collect(),
        members: vec![
            member(0, Standing(1, 2, 4)),
            member(1, Standing(3, 0, 0)),
            member(2, Standing(0, 3, 1)),
        ],
        blobs: vec![BlobView {
            digest: digest(1),
            repository: repository.clone(),
            size: 800_000_000,
            holders: 12,
            receivers: 180,
            slow: 1,
            fetchers: 4,
        }],
        flights: vec![FlightStatus {
            digest: digest(1),
            repository,
            size: Some(800_000_000),
            received: 200_000_000,
            clients: 2,
            transfers: 1,
            phase: "receiving".into(),
        }],
        rollouts: vec![RolloutView {
            id: "0a1b".into(),
            phase: Phase::Warming,
            outcome: Outcome::Warming,
            images: vec!["registry.example.com/team/app:v2".into()],
            image_count: 2,
            missing: Vec::new(),
            nodes: 200,
            ready: 20,
            failed: 1,
            zones: Vec::new(),
            started_at: 1_700_000_000,
            elapsed_ms: 60_000,
            bytes: 50,
            bytes_of: 100,
            upstream_bytes: None,
        }],
    }
}

fn followed() -> Followed {
    let mut followed = Followed::default();
    followed.take(Event::Snapshot(Box::new(snapshot())));
    followed
}

fn draw(screen: &mut Screen, width: u16, height: u16) -> String {
    let mut terminal = ratatui::Terminal::new(ratatui::backend::TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    terminal.backend().to_string()
}

/// What an agent of this version says first.
fn first_words(version: &str) -> Answer {
    let mut snapshot = snapshot();
    snapshot.node.version = version.to_owned();
    Answer::new(200, format!("event: snapshot\ndata: {}\n\n", serde_json::to_string(&snapshot).unwrap()))
}

/// Watches an agent until these words are in a picture; fails after `most`.
async fn until_shown(agent: &FakeAgent, events: Events, words: &str, most: Duration) {
    let (ends, wishes) = mpsc::channel(KEYS_MAX);
    let client = agent.client();
    let shown = show(&client, events, wishes, |screen| {
        if draw(screen, 300, 40).contains(words) {
            // A full queue has the wish in it already.
            let _ = ends.try_send(Wish::End);
        }
        Ok(())
    });
    let ended = tokio::time::timeout(most, shown).await;
    ended.unwrap_or_else(|_| panic!("{words:?} is never shown")).unwrap();
}

/// An upgrade of the agent itself is something to watch, too.
#[tokio::test]
async fn an_agent_that_comes_back_is_followed_again() {
    let mut starts = 0;
    let agent = FakeAgent::start(move |_| {
        starts += 1;
        first_words(&format!("0.{starts}.0"))
    });
    let events = agent.client().events().await.unwrap();
    until_shown(&agent, events, "shoal 0.2.0 on", 30 * AGAIN_EVERY).await;
}

#[tokio::test]
async fn an_agent_that_hangs_is_found_out() {
    let agent = FakeAgent::start(|_| Answer { is_open: true, ..first_words("0.1.0") });
    let events = agent.client().events().await.unwrap();
    tokio::time::pause();
    until_shown(&agent, events, "did not answer within 30s; trying again", Duration::from_secs(600)).await;
}

#[test]
fn a_look_as_text() {
    insta::assert_snapshot!(screen::text(&followed(), TEXT_WIDTH));
}

#[test]
fn a_look_fits_where_it_is_printed() {
    for width in [TEXT_WIDTH_MIN, 80, 200] {
        let text = screen::text(&followed(), width);
        let longest = text.lines().map(|line| line.chars().count()).max();
        assert_eq!(longest, Some(usize::from(width)), "the headings' rules: {text}");
    }
}

#[test]
fn an_agent_that_works_alone_has_little_to_show() {
    let mut followed = Followed::default();
    let node = NodeView { version: "0.1.0".into(), ..NodeView::default() };
    let nothing = Snapshot {
        at_ms: 0,
        node,
        traffic: Traffic::default(),
        history: Vec::new(),
        members: Vec::new(),
        blobs: Vec::new(),
        flights: Vec::new(),
        rollouts: Vec::new(),
    };
    followed.take(Event::Snapshot(Box::new(nothing)));
    let text = screen::text(&followed, TEXT_WIDTH);
    assert!(text.starts_with("shoal 0.1.0 on works alone"), "{text}");
}

#[test]
fn changes_are_taken_in() {
    let mut followed = followed();
    followed.take(Event::Change(Box::new(Change {
        at_ms: 1_700_000_061_000,
        traffic: Some(traffic(7_000_000)),
        joined: vec![member(3, Standing::default())],
        left: vec![1],
        standings: vec![(2, Standing(3, 0, 0)), (9, Standing::default())],
        flights: Some(Vec::new()),
        ..Change::default()
    })));
    assert_eq!(followed.members.keys().copied().collect::<Vec<_>>(), [0, 2, 3]);
    assert_eq!(followed.members[&2].standing, Standing(3, 0, 0));
    assert!(followed.flights.is_empty() && followed.blobs.len() == 1);
    // A second in which 1,000,000 x 90 bytes came from members.
    assert_eq!(followed.rate(|traffic| traffic.members, 1000), 90_000_000);
    let rates = followed.rates(|traffic| traffic.registries, 10_000, 3);
    assert_eq!(rates.len(), 3);
    assert!(rates.iter().all(|rate| *rate > 0), "{rates:?}");
}

#[test]
fn a_picture_can_be_held_and_moved() {
    let mut screen = Screen::default();
    screen.take(Event::Snapshot(Box::new(snapshot())));
    screen.hold();
    screen.take(Event::Change(Box::new(Change { left: vec![1], ..Change::default() })));
    assert!(draw(&mut screen, 110, 40).contains("10.0.0.1:5001"));
    screen.hold();
    assert!(!draw(&mut screen, 110, 40).contains("10.0.0.1:5001"));
    // All fit, so there is nothing to move to.
    screen.scroll(1);
    assert!(draw(&mut screen, 110, 40).contains("020202020202"));
    screen.lose(&"no agent answers");
    assert!(draw(&mut screen, 110, 40).contains("no agent answers; trying again"));
    for id in 10..40 {
        let joined = vec![member(id, Standing::default())];
        screen.take(Event::Change(Box::new(Change {
            at_ms: 1_700_000_060_000,
            joined,
            ..Change::default()
        })));
    }
    let small = draw(&mut screen, 80, 24);
    assert!(small.contains("020202020202") && small.contains("members, +"), "{small}");
    assert!(small.contains("10.0.0.2:5001") && small.contains("\u{2026}y.example.com/team/app"), "{small}");
    screen.scroll(1);
    let moved = draw(&mut screen, 80, 24);
    assert!(!moved.contains("020202020202"), "the slow one comes first and is scrolled away: {moved}");
    assert!(moved.contains("members, 2 to "), "{moved}");
    screen.scroll(i32::MAX);
    assert!(draw(&mut screen, 80, 24).contains("393939393939"), "the last page is full");
    screen.scroll(-100);
    // Whatever size it has.
    for (width, height) in [(1, 1), (20, 5), (80, 24), (300, 100)] {
        draw(&mut screen, width, height);
    }
}

#[test]
fn what_is_over_is_not_shown() {
    let mut snapshot = snapshot();
    snapshot.rollouts[0].phase = Phase::Done;
    snapshot.rollouts[0].outcome = Outcome::Partial;
    snapshot.blobs[0].receivers = 0;
    snapshot.blobs[0].fetchers = 0;
    snapshot.flights.clear();
    let mut followed = Followed::default();
    followed.take(Event::Snapshot(Box::new(snapshot)));
    let text = screen::text(&followed, TEXT_WIDTH);
    assert!(text.contains("partial") && !text.contains("moving between"), "{text}");
    followed.at_ms += 60_000;
    let text = screen::text(&followed, TEXT_WIDTH);
    assert!(!text.contains("rollouts") && text.contains("this node"), "{text}");
}

#[test]
fn keys() {
    let key = |code, modifiers| wish(&Typed::Key(KeyEvent::new(code, modifiers)));
    let none = KeyModifiers::NONE;
    assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Wish::End));
    assert_eq!(key(KeyCode::Char('q'), none), Some(Wish::End));
    assert_eq!(key(KeyCode::Char(' '), none), Some(Wish::Hold));
    assert_eq!(key(KeyCode::Down, none), Some(Wish::Move(1)));
    assert_eq!(key(KeyCode::Char('c'), none), None);
    assert_eq!(wish(&Typed::Resize(80, 24)), Some(Wish::Redraw));
}
