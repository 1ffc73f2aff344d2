use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use shoal_engine::{Algorithm, Digest};

use super::view::{BLOBS_MAX, FLIGHTS_MAX, ROLLOUTS_MAX};
use super::*;
use crate::driver::FlightStatus;
use crate::warm::{Outcome, Phase, ZoneStatus};

/// Members of the cluster that the figure is for.
const MEMBERS: u64 = 1000;
/// What one listener may cost in its first minute, bytes.
const FIRST_MINUTE_MAX: usize = 1_000_000;

/// A cluster in which, from look to look, everything changes that can: the most that one listener can cost.
#[derive(Default)]
struct Restless {
    looks: Arc<AtomicU64>,
    /// Whether nothing changes after all.
    calm: bool,
}

#[async_trait]
impl Look for Restless {
    async fn look(&self) -> View {
        let look = self.looks.fetch_add(1, Ordering::Relaxed);
        view(if self.calm { 0 } else { look })
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
}

fn digest(n: u64) -> Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    Digest::new(Algorithm::Sha256, &bytes)
}

fn member(n: u64, look: u64) -> (String, MemberView) {
    let member = MemberView {
        address: format!("10.{}.{}.{}", n % 7, n / 250, n % 250),
        zone: format!("eu-west-1{}", char::from(b'a' + (n % 5) as u8)),
        version: "0.1.0".into(),
        have: (look % 13) as u16,
        receiving: 12 - (look % 13) as u16,
        is_slow: (look + n).is_multiple_of(31),
        ..MemberView::default()
    };
    (format!("{:012x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16), member)
}

fn view(look: u64) -> View {
    let repository = Some("registry.example.com/a-team-with-a-name/an-application".to_owned());
    let flight = |n: usize| FlightStatus {
        digest: digest(n as u64),
        repository: repository.clone(),
        size: Some(1_378_000_000),
        received: 1_000_000_000 + look,
        clients: 1,
        transfers: 1,
        phase: "receiving".into(),
    };
    let blob = |n: usize| BlobView {
        digest: digest(n as u64),
        repository: repository.clone(),
        size: 1_378_000_000,
        holders: 500,
        receivers: 400 + look as usize,
        slow: 10,
        fetchers: 12,
    };
    let zone =
        |n: usize| ZoneStatus { zone: format!("eu-west-1{n}"), nodes: 333, ready: look as usize, failed: 1 };
    let rollout = |n: usize| RolloutView {
        id: format!("{n:08x}"),
        phase: Phase::Warming,
        outcome: Outcome::Warming,
        images: vec!["registry.example.com/a-team-with-a-name/an-application:v1".into(); 3],
        image_count: 20,
        missing: Vec::new(),
        nodes: MEMBERS as usize,
        ready: look as usize,
        failed: 1,
        zones: (0..5).map(zone).collect(),
        started_at: 1_800_000_000,
        elapsed_ms: 1000 * look,
        bytes: 1_000_000_000 * look,
        bytes_of: 1_378_000_000_000,
        upstream_bytes: None,
    };
    View {
        node: NodeView { flights: FLIGHTS_MAX, bytes: look, ..NodeView::default() },
        traffic: Traffic {
            registries: look << 30,
            members: look << 33,
            served: look << 34,
            ..Traffic::default()
        },
        members: (0..MEMBERS).map(|n| member(n, look)).collect(),
        blobs: (0..BLOBS_MAX).map(blob).collect(),
        flights: (0..FLIGHTS_MAX).map(flight).collect(),
        rollouts: (0..ROLLOUTS_MAX).map(rollout).collect(),
    }
}

/// A feed of such a cluster, and the number of looks at it.
fn feed(calm: bool) -> (Feed, Arc<AtomicU64>) {
    let looks = Arc::new(AtomicU64::new(0));
    let look = Restless { looks: Arc::clone(&looks), calm };
    (Feed::new(look, &TaskTracker::new(), &CancellationToken::new()), looks)
}

fn parts(event: &Bytes) -> (String, serde_json::Value) {
    let text = std::str::from_utf8(event).unwrap();
    let (name, data) = text.strip_prefix("event: ").and_then(|text| text.split_once("\ndata: ")).unwrap();
    (name.to_owned(), serde_json::from_str(data).unwrap())
}

/// What a page does: keeps what it was told.
#[derive(Default)]
struct Reader {
    members: BTreeMap<u32, (String, Standing)>,
}

impl Reader {
    fn read(&mut self, event: &Bytes) {
        let (name, data) = parts(event);
        if name == "snapshot" {
            let told: Snapshot = serde_json::from_value(data).unwrap();
            return self.join(told.members);
        }
        let told: Change = serde_json::from_value(data).unwrap();
        for id in told.left {
            self.members.remove(&id).expect("only who was there can leave");
        }
        self.join(told.joined);
        for (id, standing) in told.standings {
            self.members.get_mut(&id).expect("only who is there can change").1 = standing;
        }
    }

    fn join(&mut self, members: Vec<MemberShown>) {
        for member in members {
            let other = self.members.insert(member.id, (member.name, member.standing));
            assert_eq!(other, None, "a number is never given twice");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_members_cost_less_than_a_megabyte_in_the_first_minute() {
    let (feed, _) = feed(false);
    let mut listener = feed.listen().unwrap();
    let (begun, mut events, mut bytes) = (tokio::time::Instant::now(), 0, 0);
    let mut reader = Reader::default();
    while begun.elapsed() < Duration::from_secs(60) {
        let event = listener.next().await.expect("it keeps up");
        (events, bytes) = (events + 1, bytes + event.len());
        reader.read(&event);
    }
    println!("{events} events, {bytes} bytes");
    assert_eq!(reader.members.len() as u64, MEMBERS);
    assert!((55..=61).contains(&events), "{events} events are more than one a second, or too few");
    assert!(bytes < FIRST_MINUTE_MAX, "{bytes} bytes");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_looked_for_when_nobody_listens() {
    let (feed, looks) = feed(false);
    let wait = async || tokio::time::sleep(Duration::from_secs(60)).await;
    wait().await;
    assert_eq!(looks.load(Ordering::Relaxed), 0);
    let mut listener = feed.listen().unwrap();
    listener.next().await.unwrap();
    drop(listener);
    wait().await;
    let after = looks.load(Ordering::Relaxed);
    assert!(after <= 2, "{after} looks for one event");
    wait().await;
    assert_eq!((looks.load(Ordering::Relaxed), feed.listeners()), (after, 0));
    // Whoever comes later finds a task that looks.
    assert_eq!(parts(&feed.listen().unwrap().next().await.unwrap()).0, "snapshot");
}

#[tokio::test(start_paused = true)]
async fn many_listeners_share_the_looks_and_one_that_does_not_keep_up_is_dropped() {
    let (feed, looks) = feed(false);
    let mut slow = feed.listen().unwrap();
    let mut quick = feed.listen().unwrap();
    let mut reader = Reader::default();
    for _ in 0..2 * EVENTS_WAITING_MAX {
        reader.read(&quick.next().await.unwrap());
    }
    assert_eq!(looks.load(Ordering::Relaxed), 2 * EVENTS_WAITING_MAX as u64);
    assert_eq!(feed.listeners(), 1, "the slow one is dropped");
    let mut taken = 0;
    while slow.next().await.is_some() {
        taken += 1;
    }
    assert_eq!(taken, EVENTS_WAITING_MAX, "it gets what waited for it, and then the end");
    // One who comes later is shown what the others have been shown.
    let mut late = Reader::default();
    late.read(&feed.listen().unwrap().next().await.unwrap());
    assert_eq!(late.members, reader.members);
}

#[tokio::test(start_paused = true)]
async fn there_is_a_sign_of_life_when_nothing_changes() {
    let (feed, _) = feed(true);
    let mut listener = feed.listen().unwrap();
    let begun = tokio::time::Instant::now();
    assert_eq!(parts(&listener.next().await.unwrap()).0, "snapshot");
    assert!(listener.next().await.unwrap().starts_with(b":"));
    assert_eq!(begun.elapsed().as_secs(), BEAT_EVERY.as_secs());
}

#[tokio::test(start_paused = true)]
async fn there_is_a_bound_for_listeners_and_an_end_with_the_agent() {
    let stop = CancellationToken::new();
    let feed = Feed::new(Restless::default(), &TaskTracker::new(), &stop);
    let mut all: Vec<Listener> = (0..LISTENERS_MAX).map(|_| feed.listen().unwrap()).collect();
    assert_eq!(feed.listen().err(), Some(Busy));
    all.pop();
    feed.listen().expect("there is a place again");
    stop.cancel();
    for listener in &mut all {
        while listener.next().await.is_some() {}
    }
}

#[test]
fn changes_add_up_to_what_there_is() {
    let some = |range: std::ops::Range<u64>, look: u64| View {
        members: range.map(|n| member(n, look)).collect(),
        ..View::default()
    };
    let mut moved = some(0..400, 3);
    moved.members.values_mut().next().unwrap().address = "10.9.9.9".into();
    // Views that come one after the other; each is looked at until nothing more is told.
    let views = [some(0..1, 0), some(0..400, 0), some(0..400, 3), moved, some(100..500, 3), View::default()];
    let mut shown = Shown::new(View::default());
    let mut reader = Reader::default();
    for view in views {
        let mut changes = 0;
        while let Some(change) = shown.advance(view.clone()) {
            reader.read(&event("change", &change));
            changes += 1;
            assert!(changes < 20, "it does not come to an end");
        }
        let told: Vec<&String> = reader.members.values().map(|(name, _)| name).collect();
        let mut told: Vec<String> = told.into_iter().cloned().collect();
        told.sort();
        assert_eq!(told, view.members.keys().cloned().collect::<Vec<_>>());
        for (name, standing) in reader.members.values() {
            let member = &view.members[name];
            assert_eq!((standing.0, standing.1), (member.have, member.receiving));
        }
    }
}

#[test]
fn ten_minutes_are_kept() {
    let mut history = History::default();
    for n in 0..100 {
        history.write(n * 10_000, Traffic { store: n, ..Traffic::default() });
    }
    let moments = history.moments();
    assert_eq!((moments.len(), moments[0].traffic.store), (61, 39));
    assert_eq!(moments[60].at_ms - moments[0].at_ms, 600_000);
}
