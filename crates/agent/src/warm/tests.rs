use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_engine::peer::{Member, PeerId};

use super::select::{SelectError, Selection};
use super::*;
use crate::manifest::Platform;

/// Number, zone and labels of each.
const MEMBERS: [(u8, &str, &[(&str, &str)]); 6] = [
    (0x10, "a", &[("pool", "gpu")]),
    (0x20, "a", &[("pool", "cpu")]),
    (0x30, "a", &[]),
    (0x40, "b", &[("pool", "gpu"), ("disk", "ssd")]),
    (0x50, "b", &[("pool", "cpu")]),
    (0x60, "", &[]),
];

pub(super) fn members() -> Vec<Arc<Member>> {
    let member = |(number, zone, labels): (u8, &str, &[(&str, &str)])| {
        Arc::new(Member {
            peer: PeerId([number; 32]),
            generation: 1,
            addresses: Box::new([format!("10.0.0.{number}:5001").parse().unwrap()]),
            data_port: 5002,
            zone: zone.into(),
            labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            version: "1".into(),
        })
    };
    MEMBERS.into_iter().map(member).collect()
}

/// `zone=a pool=gpu names=... count=... percent=...`
fn selection(text: &str) -> Selection {
    let mut selection = Selection::default();
    for (key, value) in text.split_whitespace().map(|term| term.split_once('=').unwrap()) {
        match key {
            "names" => selection.names.push(value.into()),
            "count" => selection.count = Some(value.parse().unwrap()),
            "percent" => selection.percent = Some(value.parse().unwrap()),
            _ => drop(selection.labels.entry(key.into()).or_default().insert(value.into())),
        }
    }
    selection
}

pub(super) fn request(nodes: &str) -> WarmRequest {
    WarmRequest {
        images: vec!["redis:7".into()],
        platforms: Vec::new(),
        nodes: selection(nodes),
        pin_seconds: Some(1000),
        deadline_seconds: None,
        grace_seconds: None,
        max_upstream_bytes_per_second: None,
        max_per_node_bytes_per_second: None,
        dry_run: false,
    }
}

#[test]
fn nodes_are_chosen() {
    let table: [(&str, &[u8]); 15] = [
        ("", &[0x10, 0x20, 0x30, 0x40, 0x50, 0x60]),
        ("zone=a", &[0x10, 0x20, 0x30]),
        ("zone=a zone=b", &[0x10, 0x20, 0x30, 0x40, 0x50]),
        ("pool=gpu", &[0x10, 0x40]),
        ("zone=b pool=gpu", &[0x40]),
        ("pool=gpu pool=cpu zone=b", &[0x40, 0x50]),
        ("names=202020 names=606060", &[0x20, 0x60]),
        ("names=10.0.0.32 names=606060", &[0x20, 0x60]),
        ("names=202020 zone=a", &[0x20]),
        ("count=1", &[0x60]),
        ("count=4", &[0x60, 0x10, 0x40, 0x20]),
        ("count=100", &[0x60, 0x10, 0x40, 0x20, 0x50, 0x30]),
        ("percent=50", &[0x60, 0x10, 0x40]),
        ("percent=1", &[0x60]),
        ("zone=a percent=34", &[0x10, 0x20]),
    ];
    for (text, expected) in table {
        let chosen = selection(text).choose(&members()).unwrap();
        assert_eq!(chosen.iter().map(|member| member.peer.0[0]).collect::<Vec<_>>(), expected, "{text:?}");
    }
}

#[test]
fn why_no_node_can_be_chosen() {
    let table = [
        ("zone=c", "no member has zone=c; there is zone=a, b"),
        ("pool=tpu", "no member has pool=tpu; there is pool=cpu, gpu"),
        ("rack=7", "no member has rack=7; there is no rack; the keys are disk, pool, zone"),
        ("disk=ssd zone=a", "no member has all of disk=ssd,zone=a"),
        (
            "names=77",
            "77 is too short for a node's name: give at least 6 digits, as `shoal peers` shows them",
        ),
        (
            "names=gpu-7",
            "\"gpu-7\" is no node's name; give an IP address, or at least 6 digits of a name as `shoal peers` shows them, or \"all\"",
        ),
        ("names=10.0.0.9", "no member is at 10.0.0.9; `shoal peers` lists their addresses"),
        (
            "names=7777",
            "7777 is too short for a node's name: give at least 6 digits, as `shoal peers` shows them",
        ),
        ("names=777777", "no member's name begins with 777777; `shoal peers` lists them"),
        ("count=0", "0 is no number of nodes; it must be 1 or more, and a percentage 100 or less"),
        ("percent=101", "101 is no number of nodes; it must be 1 or more, and a percentage 100 or less"),
    ];
    for (text, expected) in table {
        assert_eq!(selection(text).choose(&members()).unwrap_err().to_string(), expected, "{text}");
    }
    assert_eq!(selection("count=1 percent=1").choose(&members()), Err(SelectError::Both));
    let bare: Vec<_> = members().into_iter().skip(5).collect();
    let error = selection("zone=a").choose(&bare).unwrap_err().to_string();
    assert_eq!(
        error,
        "no member has zone=a; there is no label at all (swarm.zone and swarm.labels give them)"
    );
}

#[test]
fn platforms() {
    let parse = |texts: &[&str]| Platforms::parse(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
    assert_eq!(parse(&["all"]), Ok(Platforms::All));
    let Ok(Platforms::These(these)) = parse(&["linux/amd64", "linux/arm/v7"]) else {
        panic!("two platforms")
    };
    assert_eq!(these.iter().map(ToString::to_string).collect::<Vec<_>>(), ["linux/amd64", "linux/arm/v7"]);
    let Ok(Platforms::These(own)) = parse(&[]) else { panic!("the agent's own") };
    assert_eq!((own.len(), &*own[0].os), (1, std::env::consts::OS));
    for bad in ["linux", "linux/", "/amd64", "linux/arm/v7/x", "linux amd64", ""] {
        assert_eq!(parse(&[bad]), Err(bad.to_owned()));
    }
}

/// Another asker, another order: the same set; anything else is another one.
#[test]
fn a_set_is_named_by_what_is_in_it() {
    let scope = |registry: &str, repository: &str| Scope {
        registry: registry.parse().unwrap(),
        repository: repository.parse().unwrap(),
    };
    let blob = |n: u8| (Digest::new(shoal_engine::Algorithm::Sha256, &[n; 32]), u64::from(n));
    let app = scope("r.test", "team/app");
    let id = set_id(&app, &[blob(1), blob(2)]);
    assert_eq!(id, set_id(&app, &[blob(2), blob(1)]));
    // All agents of a cluster have to agree, those of other versions too.
    assert_eq!(id, WarmSetId(GOLDEN));
    for other in [
        set_id(&app, &[blob(1)]),
        set_id(&app, &[blob(1), blob(3)]),
        set_id(&scope("r.test", "team/app2"), &[blob(1), blob(2)]),
        set_id(&scope("r2.test", "team/app"), &[blob(1), blob(2)]),
    ] {
        assert_ne!(id, other);
    }
}

const GOLDEN: u64 = 0x586b_a873_bb13_1c07;

#[test]
fn a_request_is_read_strictly() {
    let read = |text: &str| serde_json::from_str::<WarmRequest>(text);
    let request =
        read(r#"{"images": ["redis:7"], "nodes": {"labels": {"zone": ["a"]}, "count": 2}}"#).unwrap();
    assert_eq!(request.nodes.labels, BTreeMap::from([("zone".to_owned(), ["a".to_owned()].into())]));
    assert_eq!((request.pin_seconds, request.dry_run), (None, false));
    for bad in ["{}", r#"{"images": [], "platform": []}"#, r#"{"images": [], "nodes": {"zone": "a"}}"#] {
        assert!(read(bad).is_err(), "{bad}");
    }
    assert!(matches!(period("a pin", 0, KEEP_MAX), Err(RequestError::Time { .. })));
    let error = period("a deadline", 90_000, WARM_DEADLINE_MAX).unwrap_err().to_string();
    assert_eq!(error, "a deadline of 90000 s is not between 1 s and 86400s");
}

#[test]
fn how_long_nodes_are_waited_for() {
    let minute = Duration::from_secs(60);
    // Deadline and grace as asked for, and what follows.
    let table = [
        (None, None, minute),
        (Some(600), None, WARM_DEADLINE_MAX),
        (None, Some(5), Duration::from_secs(5)),
        (Some(600), Some(0), Duration::ZERO),
    ];
    for (deadline_seconds, grace_seconds, expected) in table {
        let request = WarmRequest { deadline_seconds, grace_seconds, ..request("") };
        assert_eq!(request.grace(), expected, "{deadline_seconds:?} {grace_seconds:?}");
    }
}

#[test]
fn what_is_said_of_another_platform() {
    let there = |variant: Option<&str>| Platform {
        os: "linux".into(),
        architecture: "arm".into(),
        variant: variant.map(str::to_owned),
    };
    let table: [(&[&str], Option<&str>, Option<&str>); 5] = [
        (&["all"], Some("v7"), None),
        (&["linux/arm"], Some("v7"), None),
        (&["linux/arm/v7"], Some("v7"), None),
        (&["linux/arm/v6"], Some("v7"), Some("it is for linux/arm/v7 only, and not for linux/arm/v6")),
        (
            &["linux/s390x", "linux/amd64"],
            None,
            Some("it is for linux/arm only, and not for linux/amd64, linux/s390x"),
        ),
    ];
    for (wanted, variant, expected) in table {
        let wanted: Vec<String> = wanted.iter().map(|text| (*text).to_owned()).collect();
        let said = Platforms::parse(&wanted).unwrap().miss(&there(variant));
        assert_eq!(said.as_deref(), expected, "{wanted:?}");
    }
}
