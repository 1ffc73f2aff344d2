use serde_json::json;

use super::*;

fn status(more: serde_json::Value) -> WarmStatus {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let mut value = json!({
        "id": "0a1b2c3d", "phase": "warming", "started_at": 1_790_000_000, "elapsed_ms": 12_300,
        "deadline_at": 1_790_003_600, "pinned_until": null,
        "images": [{
            "image": "docker.io/library/redis:7", "digest": digest, "state": "warming", "blobs": 9,
            "size": 45_000_000, "ready": 14, "error": null, "note": null
        }],
        "nodes": 40, "ready": 14, "failed": 0,
        "zones": [
            {"zone": "eu-1a", "nodes": 20, "ready": 14, "failed": 0}, {"zone": "b", "nodes": 20, "ready": 0, "failed": 0}
        ],
        "waiting": [], "unready": [], "bytes": 900_000_000, "bytes_of": 1_800_000_000, "upstream_bytes": 45_000_000
    });
    for (key, changed) in more.as_object().unwrap() {
        value[key] = changed.clone();
    }
    serde_json::from_value(value).unwrap()
}

fn node(name: &str, zone: &str) -> serde_json::Value {
    json!({"peer": name.repeat(8), "address": "10.0.0.7", "zone": zone})
}

#[test]
fn one_line() {
    let table = [
        (
            json!({}),
            100_000_000,
            "14 of 40 nodes ready; 900.0 MB of 1.8 GB (50 %), 100.0 MB/s, 45.0 MB from upstream, 9s left",
        ),
        (json!({"upstream_bytes": null}), 0, "14 of 40 nodes ready; 900.0 MB of 1.8 GB (50 %)"),
        (
            json!({"nodes": 1, "ready": 0, "failed": 1, "bytes_of": 0}),
            0,
            "0 of 1 node ready, 1 failed, 45.0 MB from upstream",
        ),
        (
            json!({"bytes": 0, "bytes_of": 0, "ready": 0, "upstream_bytes": 0, "images": [
                {"image": "a", "digest": null, "state": "resolving", "blobs": 0, "size": 0, "ready": 0, "error": null, "note": null},
                {"image": "b", "digest": null, "state": "failed", "blobs": 0, "size": 0, "ready": 0, "error": "no", "note": null}
            ]}),
            0,
            "0 of 40 nodes ready, 1 image to be looked up, 1 image failed",
        ),
    ];
    for (more, rate, expected) in table {
        assert_eq!(line(&status(more), rate), expected);
    }
    assert_eq!(beginning(&status(json!({}))), "0a1b2c3d: docker.io/library/redis:7 for 40 nodes");
}

#[test]
fn zones_and_the_last_nodes() {
    assert_eq!(details(&status(json!({})), 8), ["eu-1a  14 of 20 ready", "b      0 of 20 ready"]);
    let last = status(json!({
        "ready": 38, "failed": 1, "waiting": [node("0123456789abcdef", "b")],
        "zones": [{"zone": "eu-1a", "nodes": 20, "ready": 20, "failed": 0}, {"zone": "b", "nodes": 20, "ready": 18, "failed": 1}]
    }));
    let lines = details(&last, 8);
    assert_eq!(lines, ["b      18 of 20 ready, 1 failed", "waiting for 0123456789ab at 10.0.0.7 in b"]);
    assert_eq!(details(&last, 1).len(), 1);
    let away = json!([node("0123456789abcdef", "b")]);
    let away = status(json!({"nodes": 15, "ready": 14, "waiting": away, "away": away, "zones": []}));
    assert_eq!(details(&away, 8), ["waiting for 0123456789ab at 10.0.0.7 in b, which is away"]);
    assert_eq!(counts(&away), "14 of 15 nodes ready, 1 away");
}

#[test]
fn the_end() {
    let done = status(json!({
        "phase": "done", "ready": 38, "failed": 2, "bytes": 1_710_000_000, "pinned_until": 1_790_086_400,
        "unready": [
            {"node": node("0123456789abcdef", "b"), "image": "docker.io/library/redis:7", "why": "it does not answer"},
            {"node": node("fedcba9876543210", ""), "image": "docker.io/library/redis:7", "why": "it was cancelled"}
        ]
    }));
    let expected = "\
IMAGE                      DIGEST               BLOBS     SIZE  READY
docker.io/library/redis:7  sha256:abababababab      9  45.0 MB  14/40

NOT READY     ADDRESS   ZONE  IMAGE                      WHY
0123456789ab  10.0.0.7  b     docker.io/library/redis:7  it does not answer
fedcba987654  10.0.0.7  -     docker.io/library/redis:7  it was cancelled

38 of 40 nodes ready in 12.3 s; 45.0 MB from upstream for 1.7 GB on the nodes; kept until 2026-09-22T14:13:20Z
";
    assert_eq!(report(&done), expected);
    let image = |name: &str, state: &str, ready: usize, error: Option<&str>| {
        json!({
            "image": name, "digest": null, "state": state, "blobs": 0, "size": 0, "ready": ready, "error": error, "note": null
        })
    };
    let images = json!([image("a", "done", 40, None), image("b", "failed", 0, Some("no source has it"))]);
    let lacking = report(&status(json!({"phase": "done", "ready": 0, "failed": 40, "images": images})));
    let expected = "\
IMAGE  DIGEST  BLOBS  SIZE  READY
a      -           0   0 B  40/40
b      -           0   0 B   0/40
not warmed: b: no source has it

0 of 40 nodes ready in 12.3 s, 1 image not warmed, so no node is ready; 45.0 MB from upstream for 900.0 MB on the nodes
";
    assert_eq!(lacking, expected);
    let cancelled = report(&status(json!({"phase": "cancelled"})));
    assert!(cancelled.contains("the same command goes on from there"), "{cancelled}");
}

#[test]
fn what_would_be_done() {
    let plan: WarmPlan = serde_json::from_value(json!({
        "images": [
            {
                "image": "docker.io/library/redis:7", "digest": format!("sha256:{}", "ab".repeat(32)), "blobs": 9,
                "size": 45_000_000, "upstream_blobs": 2, "upstream_bytes": 5_000_000, "nodes_ready": 1, "error": null,
                "note": null
            },
            {
                "image": "docker.io/library/nginx:1", "digest": null, "blobs": 0, "size": 0, "upstream_blobs": 0,
                "upstream_bytes": 0, "nodes_ready": 0, "error": "no source has it", "note": null
            }
        ],
        "nodes": [
            {"node": node("0123456789abcdef", "b"), "answers": true, "here_bytes": 45_000_000, "missing_bytes": 0},
            {"node": node("fedcba9876543210", "a"), "answers": true, "here_bytes": 40_000_000, "missing_bytes": 5_000_000},
            {"node": node("00000000aaaaaaaa", ""), "answers": false, "here_bytes": 0, "missing_bytes": 45_000_000}
        ],
        "upstream_bytes": 5_000_000, "missing_bytes": 50_000_000
    }))
    .unwrap();
    let expected = "\
IMAGE                      DIGEST               BLOBS     SIZE  FROM UPSTREAM  NODES READY
docker.io/library/redis:7  sha256:abababababab      9  45.0 MB         5.0 MB          1/3

cannot be warmed: docker.io/library/nginx:1: no source has it
NODE          ADDRESS   ZONE              HAS  WOULD RECEIVE
fedcba987654  10.0.0.7  a             40.0 MB         5.0 MB
00000000aaaa  10.0.0.7  -     does not answer        45.0 MB

2 nodes would receive 50.0 MB in all, of which 5.0 MB would come from upstream; 1 has everything
";
    assert_eq!(super::plan(&plan), expected);
}

fn planned(error: Option<&str>, missing: [u64; 2], room: Option<u64>) -> WarmPlan {
    let node = |name: &str, missing: u64, room: Option<u64>| json!({"node": node(name, "a"), "answers": true, "here_bytes": 0, "missing_bytes": missing, "room_bytes": room});
    serde_json::from_value(json!({
        "images": [{
            "image": "docker.io/library/redis:7", "digest": null, "blobs": 9, "size": 45_000_000, "upstream_blobs": 2,
            "upstream_bytes": 5_000_000, "nodes_ready": 0, "error": error, "note": null
        }],
        "nodes": [node("0123456789abcdef", missing[0], room), node("fedcba9876543210", missing[1], None)],
        "upstream_bytes": 0, "missing_bytes": missing[0] + missing[1]
    }))
    .unwrap()
}

#[test]
fn who_has_no_room_is_marked() {
    let text = super::plan(&planned(None, [45_000_000, 45_000_000], Some(30_000_000)));
    let expected = "\
NODE          ADDRESS   ZONE  HAS  WOULD RECEIVE  NO ROOM
0123456789ab  10.0.0.7  a     0 B        45.0 MB  30.0 MB at most
fedcba987654  10.0.0.7  a     0 B        45.0 MB

1 node has too little room in the store: raise store.capacity there, or unpin what need not stay (shoal status there tells)
";
    assert!(text.contains(expected), "{text}");
    let text = super::plan(&planned(None, [45_000_000, 45_000_000], Some(45_000_000)));
    assert!(!text.contains("ROOM") && !text.contains("room"), "{text}");
}

#[test]
fn the_last_line_of_a_dry_run() {
    let table = [
        (Some("no source has it"), [0, 0], "nothing can be warmed: no image is known by its name"),
        (None, [0, 0], "nothing to do: all 2 nodes have everything"),
        (
            None,
            [1000, 0],
            "1 node would receive 1.0 kB in all, of which 0 B would come from upstream; 1 has everything",
        ),
        (
            None,
            [1000, 1000],
            "2 nodes would receive 2.0 kB in all, of which 0 B would come from upstream; 0 have everything",
        ),
    ];
    for (error, missing, expected) in table {
        let text = super::plan(&planned(error, missing, None));
        assert_eq!(text.lines().last(), Some(expected), "{text}");
    }
}

#[test]
fn requests_in_a_list() {
    let image = |state: &str, ready: usize| {
        json!({
            "image": "docker.io/library/redis:7", "digest": null, "state": state, "blobs": 0, "size": 0, "ready": ready,
            "error": null, "note": null
        })
    };
    let request = |phase: &str, ready: usize, failed: usize, images: serde_json::Value| {
        status(json!({"phase": phase, "nodes": 2, "ready": ready, "failed": failed, "images": images}))
    };
    let mut elsewhere = request("cancelled", 0, 2, json!([image("done", 0)]));
    elsewhere.agent = serde_json::from_value(node("0123456789abcdef", "b")).unwrap();
    let requests = [
        Box::new(request("warming", 0, 0, json!([image("warming", 0)]))),
        Box::new(request("done", 2, 0, json!([image("done", 2)]))),
        Box::new(request("done", 1, 1, json!([image("done", 1)]))),
        Box::new(request("done", 0, 2, json!([image("done", 2), image("failed", 0)]))),
        Box::new(request("done", 0, 2, json!([image("failed", 0)]))),
        Box::new(elsewhere),
    ];
    let expected = "\
ID        STATE      READY  FAILED  BEGUN                 PINNED UNTIL  IMAGES
0a1b2c3d  warming      0/2       0  2026-09-21T14:13:20Z  -             docker.io/library/redis:7
0a1b2c3d  done         2/2       0  2026-09-21T14:13:20Z  -             docker.io/library/redis:7
0a1b2c3d  partial      1/2       1  2026-09-21T14:13:20Z  -             docker.io/library/redis:7
0a1b2c3d  partial      0/2       2  2026-09-21T14:13:20Z  -             docker.io/library/redis:7 and 1 more (1 not warmed)
0a1b2c3d  failed       0/2       2  2026-09-21T14:13:20Z  -             docker.io/library/redis:7 (1 not warmed)
0a1b2c3d  cancelled    0/2       2  2026-09-21T14:13:20Z  -             docker.io/library/redis:7
";
    assert_eq!(list(&requests, false).to_string(), expected);
    let cluster = list(&requests, true).to_string();
    let asked: Vec<_> = cluster.lines().map(|line| line[10..41].trim_end()).collect();
    assert_eq!(asked[..2], ["ASKED", "this node"]);
    assert_eq!(asked[6], "0123456789ab at 10.0.0.7 in b");
}
