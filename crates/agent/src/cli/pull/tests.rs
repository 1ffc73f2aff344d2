use shoal_engine::{Algorithm, Digest};

use super::*;
use crate::cli::fixture::{Answer, FakeAgent};

fn step(what: What, n: u8, bytes: u64, times: [f64; 3], from: &[(&str, bool, u64)]) -> Sourced {
    let [begun_ms, first_ms, done_ms] = times;
    let digest = Digest::new(Algorithm::Sha256, &[n; 32]);
    let share = |(source, is_member, bytes): &(&str, bool, u64)| Share {
        source: (*source).into(),
        is_member: *is_member,
        bytes: *bytes,
    };
    Sourced {
        step: Step { what, digest, bytes, begun_ms, first_ms, done_ms },
        from: from.iter().map(share).collect(),
    }
}

#[test]
fn a_pull_in_words() {
    let members = [("ab".repeat(32), true), ("cd".repeat(32), true)];
    let [a, b] = &members;
    let report = Report {
        image: "docker.io/library/redis:7".into(),
        mirror: "http://127.0.0.1:5000".into(),
        bytes: 50_001_200,
        seconds: 2.0,
        limits: vec![Held { limit: "swarm.download_rate = 25.0 MB/s".into(), percent: 88 }],
        store: None,
        note: None,
        steps: vec![
            step(What::Tag, 1, 0, [0.0, 20.0, 20.0], &[]),
            step(What::Manifest, 1, 1000, [20.0, 22.0, 23.0], &[]),
            step(What::Config, 2, 200, [23.0, 24.0, 24.0], &[("store", false, 200)]),
            step(
                What::Layer,
                3,
                50_000_000,
                [23.0, 823.0, 2000.0],
                &[(&a.0, a.1, 30_000_000), (&b.0, b.1, 15_000_000), ("docker.io", false, 5_000_000)],
            ),
        ],
    };
    insta::assert_snapshot!(text::of(&report, None));
    let narrow = text::of(&report, Some(80));
    assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
    for word in ["030303030303", "abababababab,", "docker.io"] {
        assert!(narrow.contains(word), "{word}: {narrow}");
    }
}

/// Seven bytes from docker.io.
fn story(last_at_ms: u64) -> serde_json::Value {
    serde_json::json!({
        "digest": Digest::new(Algorithm::Sha256, &[1; 32]),
        "state": "stored", "size": 7, "received": null, "homes": [], "classes": [],
        "sources": [{"source": "docker.io", "is_member": false, "bytes": 7, "seconds": 0.1, "last_at_ms": last_at_ms}],
    })
}

fn share(source: &str) -> Vec<Share> {
    vec![Share { source: source.into(), is_member: false, bytes: 7 }]
}

#[test]
fn what_came_before_the_pull_was_in_the_store() {
    let story = |last_at_ms| -> BlobStory { serde_json::from_value(story(last_at_ms)).unwrap() };
    assert_eq!(shares(&story(1000), 7, 1001), share("store"));
    assert_eq!(shares(&story(1001), 7, 1001), share("docker.io"));
}

/// A pull that has succeeded is told of, whatever the agent can say of its blobs afterwards.
#[tokio::test]
async fn what_the_agent_does_not_say_stays_unknown() {
    let steps = || [2, 3].map(|n| step(What::Layer, n, 7, [0.0; 3], &[]).step).to_vec();
    let refused = steps()[0].digest.to_string();
    let agent = FakeAgent::start(move |asked| match asked.contains(&refused) {
        true => Answer::refusal(503, "cannot open a blob"),
        false => Answer::new(200, story(1).to_string()),
    });
    let sourced = with_sources(steps(), 0, &agent.client()).await;
    let from: Vec<_> = sourced.into_iter().map(|sourced| sourced.from).collect();
    assert_eq!(from, [Vec::new(), share("docker.io")]);

    let broken = FakeAgent::start(|_| Answer::new(200, "no story".into()));
    let sourced = with_sources(steps(), 0, &broken.client()).await;
    assert!(sourced.iter().all(|sourced| sourced.from.is_empty()));
}
