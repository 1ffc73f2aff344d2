use serde_json::json;
use shoal_engine::{Algorithm, Digest};

use super::*;

const MB: u64 = 1_000_000;

fn hex(n: u8) -> String {
    format!("{n:02x}").repeat(32)
}

fn digest(n: u8) -> Digest {
    Digest::new(Algorithm::Sha256, &[n; 32])
}

fn beside() -> Beside {
    let address = |n: u8| (hex(n), format!("10.0.0.{n}"));
    Beside {
        addresses: (1..=5).map(address).collect(),
        me: hex(5),
        limits: vec![LimitStatus {
            key: "swarm.download_rate".into(),
            bytes_per_second: MB,
            waits: true,
            waited_percent: 12,
            waited_seconds: 7.0,
        }],
        full: None,
        now_ms: 100_000,
    }
}

/// A story; what is not given is as of a blob that nobody has.
fn story(given: serde_json::Value) -> BlobStory {
    let mut all = json!({
        "digest": digest(7), "state": "absent", "size": 15 * MB, "received": null, "sources": [], "homes": [], "classes": []
    });
    all.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
    serde_json::from_value(all).unwrap()
}

fn book(have: usize, receive: usize, slow: &[u8]) -> serde_json::Value {
    json!({
        "home": hex(1), "size": 15 * MB, "holders": [], "holder_count": have, "receivers": [], "receiver_count": receive,
        "slow": slow.iter().map(|n| hex(*n)).collect::<Vec<_>>(), "slow_count": slow.len(),
        "leases": [{"holder": hex(5), "start": 2 * MB, "end": 3 * MB}], "leases_granted": 1
    })
}

fn receiving() -> BlobStory {
    story(json!({
        "state": "receiving", "received": 3 * MB,
        "homes": [hex(1), hex(2)],
        "books": [book(4, 1, &[5])],
        "sources": [
            {"source": hex(2), "is_member": true, "bytes": 2 * MB, "seconds": 4.0, "last_at_ms": 99_500},
            {"source": "docker.io", "is_member": false, "bytes": MB, "seconds": 2.0, "last_at_ms": 50_000}
        ],
        "classes": [
            {"class": 0, "missing": 20, "first_missing": 4, "feeds": [hex(2), hex(3)]},
            {"class": 1, "missing": 0, "first_missing": null, "feeds": []}
        ]
    }))
}

#[test]
fn a_blob_that_comes_slowly() {
    insta::assert_snapshot!(text::of(&receiving(), &beside(), None));
    let narrow = text::of(&receiving(), &beside(), Some(80));
    assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
}

#[test]
fn a_blob_or_an_image() {
    assert!(matches!(named("4f2a91"), Ok(Some(Named::Prefix(_)))));
    assert!(matches!(named(&digest(7).to_string()), Ok(Some(Named::Digest(_)))));
    assert!(matches!(named("redis:7"), Ok(None)));
    assert!(matches!(named("sha256:aaf"), Err(Failure::NoDigest { .. })));
    assert!(matches!(named("Redis"), Err(Failure::Image(_))));
}

#[test]
fn what_follows() {
    let source = |is_member: bool, bytes: u64, last_at_ms: u64| {
        json!({"source": if is_member { hex(2) } else { "docker.io".into() }, "is_member": is_member, "bytes": bytes,
            "seconds": 1.0, "last_at_ms": last_at_ms})
    };
    let table = [
        (json!({}), "It is not here; no member has it: a pull here fetches it from upstream."),
        (
            json!({"books": [book(2, 0, &[])]}),
            "It is not here; 2 members have it: a pull here takes it from there.",
        ),
        (
            json!({"books": [book(0, 0, &[]), book(0, 3, &[])]}),
            "It is not here; other members are receiving it: a pull here gets it with them.",
        ),
        (
            json!({"sources": [source(false, MB, 1)]}),
            "What came, named above, went straight to clients, or has been evicted since. It is not here; no member has it: \
             a pull here fetches it from upstream.",
        ),
        (json!({"state": "stored"}), "It is here."),
        (
            json!({"state": "stored", "sources": [source(false, MB, 1)]}),
            "It is here; all of it came from upstream.",
        ),
        (
            json!({"state": "stored", "sources": [source(false, MB, 1)], "on_its_own": "silence"}),
            "It is here; all of it came from upstream, by this node alone: no member said anything.",
        ),
        (
            json!({"state": "stored", "sources": [source(true, 3 * MB, 1), source(false, MB, 1)]}),
            "It is here; 75 % of it came from other members, 25 % from upstream.",
        ),
        (
            json!({"state": "receiving", "received": MB, "sources": [source(false, MB, 70_000)]}),
            "It is on its way. Nothing has come for 30s. Most comes from docker.io, at 1.0 MB/s.",
        ),
        (
            json!({"state": "receiving", "received": 0, "on_its_own": "no-help"}),
            "It is on its way. Nothing has come yet. This node fetches it by itself: other members could not bring it.",
        ),
        (json!({"state": "receiving", "received": 0}), "It is on its way. Nothing has come yet."),
    ];
    for (given, expected) in table {
        assert_eq!(text::conclusion(&story(given.clone()), &beside()), expected, "{given}");
    }
}

#[test]
fn an_image_and_what_to_look_at() {
    let part = |what: &str, n: u8, size: u64| Part { what: what.into(), digest: digest(n), size };
    let stored = || story(json!({"state": "stored", "books": [book(5, 0, &[])]}));
    let blobs = [
        Explained { part: part("manifest", 1, 722), story: stored() },
        Explained { part: part("layer", 7, 15 * MB), story: receiving() },
        Explained { part: part("layer", 8, 40 * MB), story: story(json!({"books": [book(4, 0, &[])]})) },
    ];
    insta::assert_snapshot!(image::text("docker.io/library/redis:7", &blobs, &beside(), None));
    let all = [Explained { part: part("manifest", 1, 722), story: stored() }];
    let narrow = image::text("redis:7", &blobs, &beside(), Some(80));
    assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
    assert!(narrow.contains("\nlayer    080808080808 "), "{narrow}");
    assert!(image::text("redis:7", &all, &beside(), None).ends_with("\nAll of it is here: 1 blob, 722 B.\n"));
}
