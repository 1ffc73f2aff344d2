use shoal_engine::{Algorithm, Digest};

use super::*;

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
    insta::assert_snapshot!(text::of(&report));
}

#[test]
fn what_came_before_the_pull_was_in_the_store() {
    let story = |last_at_ms: u64| -> BlobStory {
        serde_json::from_value(serde_json::json!({
            "digest": Digest::new(Algorithm::Sha256, &[1; 32]),
            "state": "stored", "size": 7, "received": null, "homes": [], "classes": [],
            "sources": [{"source": "docker.io", "is_member": false, "bytes": 7, "seconds": 0.1, "last_at_ms": last_at_ms}],
        }))
        .unwrap()
    };
    let share = |source: &str| vec![Share { source: source.into(), is_member: false, bytes: 7 }];
    assert_eq!(shares(&story(1000), 7, 1001), share("store"));
    assert_eq!(shares(&story(1001), 7, 1001), share("docker.io"));
}
