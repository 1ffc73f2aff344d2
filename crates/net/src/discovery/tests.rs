use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use super::*;

/// Of the clock of the tests.
const GRAIN: Duration = Duration::from_millis(1);

/// Answers from tables that a test changes. A name that is in none is never answered.
#[derive(Debug, Default)]
struct Tables {
    names: Mutex<BTreeMap<String, Result<Vec<IpAddr>, ()>>>,
    services: Mutex<BTreeMap<String, Vec<(String, u16)>>>,
}

impl Resolver for Arc<Tables> {
    fn addresses<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>> {
        match self.names.lock().get(name).cloned() {
            Some(Ok(ips)) => std::future::ready(Ok(ips)).boxed(),
            Some(Err(())) => std::future::ready(Err(LookupError::Failed("broken".into()))).boxed(),
            None => std::future::pending().boxed(),
        }
    }

    fn service<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<(String, u16)>, LookupError>> {
        std::future::ready(self.services.lock().get(name).cloned().ok_or(LookupError::Nobody)).boxed()
    }
}

/// Takes its time for every name, however soon nobody waits any more, and writes down what it is asked.
#[derive(Debug)]
struct Slow {
    takes: Duration,
    asked: Mutex<Vec<String>>,
}

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

impl Slow {
    fn new(takes: Duration) -> Arc<Self> {
        Arc::new(Slow { takes, asked: Mutex::default() })
    }

    fn discovery(self: &Arc<Self>, targets: &[&str]) -> Discovery<Arc<Slow>> {
        let targets = targets.iter().map(|text| Target::parse(text, 5002).unwrap()).collect();
        Discovery::new(targets, &[], Arc::clone(self))
    }

    fn asked(&self) -> usize {
        self.asked.lock().len()
    }
}

impl Resolver for Arc<Slow> {
    fn addresses<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>> {
        self.asked.lock().push(name.to_owned());
        async move {
            sleep(self.takes).await;
            Ok(vec![IpAddr::from([10, 0, 0, 1])])
        }
        .boxed()
    }

    fn service<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, Result<Vec<(String, u16)>, LookupError>> {
        std::future::ready(Err(LookupError::Nobody)).boxed()
    }
}

fn ips(texts: &[&str]) -> Result<Vec<IpAddr>, ()> {
    Ok(texts.iter().map(|text| text.parse().unwrap()).collect())
}

fn discovery(tables: &Arc<Tables>, targets: &[&str], own: &[&str]) -> Discovery<Arc<Tables>> {
    let targets = targets.iter().map(|text| Target::parse(text, 5002).unwrap()).collect();
    let own: Vec<_> = own.iter().map(|text| text.parse().unwrap()).collect();
    Discovery::new(targets, &own, Arc::clone(tables))
}

fn sorted(found: &Found) -> Vec<String> {
    let mut texts: Vec<_> = found.addresses.iter().map(ToString::to_string).collect();
    texts.sort();
    texts
}

#[test]
fn targets_are_read_in_every_spelling() {
    let address = |text: &str| Ok(Target::Address(text.parse().unwrap()));
    let name = |name: &str, port| Ok(Target::Name { name: name.into(), port });
    let port = |text: &str| Err(TargetError::Port(text.into()));
    let table = [
        ("10.0.0.1", address("10.0.0.1:5002")),
        (" 10.0.0.1:1 ", address("10.0.0.1:1")),
        ("fd00::1", address("[fd00::1]:5002")),
        ("[fd00::1]", address("[fd00::1]:5002")),
        ("[fd00::1]:7", address("[fd00::1]:7")),
        ("shoal", name("shoal", 5002)),
        ("shoal.kube-system.svc.cluster.local.:9", name("shoal.kube-system.svc.cluster.local.", 9)),
        ("_shoal._tcp.example.org", Ok(Target::Service("_shoal._tcp.example.org".into()))),
        ("", Err(TargetError::Empty)),
        ("shoal:", port("")),
        ("shoal:0", port("0")),
        ("10.0.0.1:0", port("0")),
        ("shoal:70000", port("70000")),
        ("10.0.0.300", Err(TargetError::Name("10.0.0.300".into()))),
        ("a..b", Err(TargetError::Name("a..b".into()))),
        ("https://shoal", port("//shoal")),
        ("_shoal._tcp.a:1", Err(TargetError::ServicePort("_shoal._tcp.a".into(), 1))),
    ];
    for (text, expected) in table {
        assert_eq!(Target::parse(text, 5002), expected, "{text}");
        if let Ok(target) = expected {
            assert_eq!(Target::parse(&target.to_string(), 1), Ok(target), "{text}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn all_places_are_looked_at_and_our_own_addresses_left_out() {
    let tables = Arc::new(Tables::default());
    tables.names.lock().insert("nodes".into(), ips(&["10.0.0.1", "10.0.0.2", "::ffff:10.0.0.3"]));
    tables.names.lock().insert("a.example".into(), ips(&["fd00::a"]));
    tables.services.lock().insert(
        "_shoal._tcp.example".into(),
        vec![("a.example".into(), 7), ("gone.example".into(), 7), ("10.0.0.9".into(), 8)],
    );
    let targets = ["nodes", "_shoal._tcp.example", "10.0.0.1", "10.0.0.4:1"];
    let mut discovery = discovery(&tables, &targets, &["10.0.0.2:5002"]);
    let found = discovery.next(Pace::Alone).await;
    assert_eq!(sorted(&found), ["10.0.0.1:5002", "10.0.0.3:5002", "10.0.0.4:1", "10.0.0.9:8", "[fd00::a]:7"]);
    assert!(found.problems.is_empty(), "{:?}", found.problems);
}

#[tokio::test(start_paused = true)]
async fn addresses_change_and_a_broken_server_changes_nothing() {
    let tables = Arc::new(Tables::default());
    tables.names.lock().insert("nodes".into(), ips(&["10.0.0.1"]));
    let mut discovery = discovery(&tables, &["nodes"], &[]);
    assert_eq!(sorted(&discovery.next(Pace::Alone).await), ["10.0.0.1:5002"]);

    tables.names.lock().insert("nodes".into(), ips(&["10.0.0.2"]));
    assert_eq!(sorted(&discovery.next(Pace::Alone).await), ["10.0.0.2:5002"]);

    for broken in [Some(Err(())), Some(ips(&[])), None] {
        match broken {
            Some(answer) => tables.names.lock().insert("nodes".into(), answer),
            None => tables.names.lock().remove("nodes"),
        };
        let found = discovery.next(Pace::Alone).await;
        assert_eq!(sorted(&found), ["10.0.0.2:5002"]);
        assert_eq!(found.problems.len(), 1);
    }
}

/// One that was missed is called again soon although somebody else was met.
#[tokio::test(start_paused = true)]
async fn rounds_are_frequent_while_alone_and_rarer_and_rarer_later() {
    use Pace::{Alone, Settled};
    let mut discovery = discovery(&Arc::new(Tables::default()), &["10.0.0.1"], &[]);
    // The pause before each round, seconds, of which chance takes or adds a quarter.
    let table = [
        (Alone, 0),
        (Alone, 2),
        (Alone, 2),
        (Settled, 2),
        (Settled, 4),
        (Settled, 8),
        (Alone, 2),
        (Settled, 2),
        (Settled, 4),
        (Settled, 8),
        (Settled, 16),
        (Settled, 32),
        (Settled, 60),
        (Settled, 60),
    ];
    for (round, (pace, pause)) in table.into_iter().enumerate() {
        let start = Instant::now();
        discovery.next(pace).await;
        let (pause, took) = (Duration::from_secs(pause), start.elapsed());
        assert!(took >= pause * 3 / 4 && took <= pause * 5 / 4 + GRAIN, "round {round}: {took:?}");
    }

    // Whoever finds that it is alone does not wait out the long pause.
    let start = Instant::now();
    assert!(timeout(Duration::from_secs(10), discovery.next(Settled)).await.is_err());
    discovery.next(Alone).await;
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn the_first_round_is_at_once_and_counts_as_no_pause() {
    let mut discovery = discovery(&Arc::new(Tables::default()), &["10.0.0.1"], &[]);
    let start = Instant::now();
    discovery.next(Pace::Settled).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    discovery.next(Pace::Settled).await;
    assert!((1500..2501).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_a_name_brings_is_bounded() {
    let tables = Arc::new(Tables::default());
    let many = (0..5000u32).map(|n| IpAddr::from(n.to_be_bytes())).collect();
    tables.names.lock().insert("nodes".into(), Ok(many));
    let found = discovery(&tables, &["nodes"], &[]).next(Pace::Alone).await;
    assert_eq!(found.addresses.len(), ANSWERS_MAX);
}

/// A member is spoken to several times a second, and looks for others in between.
#[tokio::test(start_paused = true)]
async fn a_round_goes_on_although_nobody_waits_for_its_end() {
    let resolver = Slow::new(Duration::from_secs(1));
    let mut discovery = resolver.discovery(&["nodes"]);
    let mut rounds = 0;
    for _ in 0..50 {
        if let Ok(found) = timeout(Duration::from_millis(100), discovery.next(Pace::Alone)).await {
            assert_eq!(sorted(&found), ["10.0.0.1:5002"]);
            rounds += 1;
        }
    }
    // Five seconds: a round takes one, and the pause after it about two.
    assert!((1..=2).contains(&rounds), "{rounds}");
    assert!((rounds..=rounds + 1).contains(&resolver.asked()), "{} in {rounds} rounds", resolver.asked());
}

/// The pause is that after the end of a round, and grows once for each, however often nobody waits for it.
#[tokio::test(start_paused = true)]
async fn a_round_that_is_left_alone_counts_once_for_the_pace() {
    let mut discovery = Slow::new(Duration::from_secs(1)).discovery(&["nodes"]);
    for (round, pause) in [0, 2, 4, 8].into_iter().enumerate() {
        let start = Instant::now();
        while timeout(Duration::from_millis(100), discovery.next(Pace::Settled)).await.is_err() {}
        let (pause, took) = (Duration::from_secs(pause), start.elapsed() - Duration::from_secs(1));
        assert!(took >= pause * 3 / 4 && took <= pause * 5 / 4 + 2 * GRAIN, "round {round}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_not_answered_is_not_asked_for_again() {
    let resolver = Slow::new(FOR_EVER);
    let mut discovery = resolver.discovery(&["nodes", "nodes:1", "10.0.0.9"]);
    for _ in 0..3 {
        let start = Instant::now();
        let found = discovery.next(Pace::Alone).await;
        assert!(start.elapsed() <= LOOKUP_TIMEOUT + PAUSE_ALONE * 5 / 4 + 2 * GRAIN, "{:?}", start.elapsed());
        assert_eq!(sorted(&found), ["10.0.0.9:5002"]);
        assert!(found.problems.iter().all(|(_, error)| matches!(error, LookupError::Late)));
        assert_eq!(found.problems.len(), 2);
    }
    assert_eq!(*resolver.asked.lock(), ["nodes"]);
}

/// An answer that is late for one round is that of the next one.
#[tokio::test(start_paused = true)]
async fn a_late_answer_counts_and_then_the_name_is_asked_for_again() {
    let resolver = Slow::new(LOOKUP_TIMEOUT + Duration::from_secs(5));
    let mut discovery = resolver.discovery(&["nodes"]);
    assert_eq!(discovery.next(Pace::Alone).await.problems.len(), 1);
    let found = discovery.next(Pace::Alone).await;
    assert_eq!((sorted(&found), found.problems.len()), (vec!["10.0.0.1:5002".to_owned()], 0));
    assert_eq!(resolver.asked(), 1);
    assert_eq!(discovery.next(Pace::Alone).await.problems.len(), 1);
    assert_eq!(resolver.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn names_that_are_not_answered_take_a_bounded_number_of_threads() {
    let resolver = Slow::new(FOR_EVER);
    let names: Vec<_> = (0..LOOKUPS_MAX + 4).map(|n| format!("node-{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut discovery = resolver.discovery(&names);
    for _ in 0..2 {
        assert_eq!(discovery.next(Pace::Alone).await.problems.len(), names.len());
    }
    assert_eq!(resolver.asked(), LOOKUPS_MAX);
}
