use bytes::Bytes;
use shoal_engine::{Algorithm, Digest};
use shoal_store::{Options, Store};

use super::*;
use crate::warm::NodeName;

fn report(blobs: u64, missing: u64, shared: u64) -> StockReport {
    StockReport {
        name: "docker.io/library/redis:7".into(),
        digest: (blobs > 0).then(|| shoal_engine::Digest::new(shoal_engine::Algorithm::Sha256, &[1; 32])),
        blobs,
        bytes: blobs * 1_000_000,
        missing,
        shared,
        runtime: 0,
        pinned: 0,
    }
}

fn node(n: u8, report: Result<StockReport, &str>) -> NodeStock {
    let node = NodeName {
        peer: format!("{n:02x}").repeat(32),
        address: Some([10, 0, 0, n].into()),
        zone: "a".into(),
    };
    match report {
        Ok(report) => NodeStock { node, reports: vec![report], error: None },
        Err(why) => NodeStock { node, reports: Vec::new(), error: Some(why.into()) },
    }
}

#[test]
fn what_is_said() {
    let one = |report| StockAnswer { nodes: vec![node(1, Ok(report))] };
    let three = StockAnswer {
        nodes: vec![node(1, Ok(report(4, 0, 1))), node(2, Ok(report(0, 0, 0))), node(3, Err("it is gone"))],
    };
    let table = [
        (Deed::Evict, one(report(0, 0, 0)), "docker.io/library/redis:7: not in the store\n", 0),
        (
            Deed::Evict,
            one(report(4, 0, 2)),
            "docker.io/library/redis:7: 4 blobs removed, 4.0 MB; 2 blobs stayed: another image has them\n",
            0,
        ),
        (
            Deed::Evict,
            one(StockReport { pinned: 1, ..report(4, 0, 0) }),
            "docker.io/library/redis:7: 4 blobs removed, 4.0 MB; 1 blob of it had been pinned\n",
            0,
        ),
        (
            Deed::Pin,
            one(report(4, 1, 0)),
            "docker.io/library/redis:7: 4 blobs pinned, 4.0 MB\n  1 blob of it missing: shoal prewarm --pin fetches them\n",
            5,
        ),
        (
            Deed::Unpin,
            three,
            "docker.io/library/redis:7: 4 blobs unpinned on 1 of 2 nodes (1 had none), 4.0 MB; 1 blob stayed: another image has them\n\
             not done: 030303030303 at 10.0.0.3 in a: it is gone\n",
            1,
        ),
    ];
    for (deed, answer, said, code) in table {
        assert_eq!(text(deed, &answer, &Ends::default()), said);
        assert_eq!(exit_code(deed, &answer), ExitCode::from(code), "{said}");
    }
}

#[test]
fn a_pin_is_told_with_its_end() {
    let answer = StockAnswer { nodes: vec![node(1, Ok(report(4, 0, 0)))] };
    let until = Some(1_767_225_600);
    let line = "docker.io/library/redis:7: 4 blobs pinned until 2026-01-01T00:00:00Z, 4.0 MB\n";
    let stays =
        |end: &str| format!("{line}  it was pinned {end} already, which stays: shoal unpin ends it\n");
    let table = [
        (BTreeMap::new(), line.to_owned()),
        (BTreeMap::from([(0, Some(1_798_761_600))]), stays("until 2027-01-01T00:00:00Z")),
        (BTreeMap::from([(0, None)]), stays("without an end")),
    ];
    for (longer, said) in table {
        assert_eq!(text(Deed::Pin, &answer, &Ends { until, longer }), said);
    }
}

/// What is pinned for longer is found before the new pin is put on it.
#[tokio::test]
async fn a_pin_that_stays_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { disk_free_min: 0, ..Options::new(folder.path().join("data")) };
    let store = Store::open(options).unwrap().store;
    let digest = Digest::new(Algorithm::Sha256, ring::digest::digest(&ring::digest::SHA256, b"one").as_ref());
    store.put(&digest, None, &Bytes::from("one"), SystemTime::now()).unwrap();
    let place = Place::Store(store.clone());
    let (deed, names) = (Deed::Pin, vec![digest.to_string()]);
    let request = StockRequest { deed, names, also: Vec::new(), until: Some(100), cluster: false };

    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    assert!(pinned_longer(&place, &request).await.unwrap().is_empty(), "it is not pinned");
    store.pin_until(&digest, at(99)).unwrap();
    assert!(pinned_longer(&place, &request).await.unwrap().is_empty(), "it is pinned for less");
    store.pin_until(&digest, at(101)).unwrap();
    assert_eq!(pinned_longer(&place, &request).await.unwrap(), BTreeMap::from([(0, Some(101))]));
    store.unpin(&digest).unwrap();
    store.pin(&digest).unwrap();
    assert_eq!(pinned_longer(&place, &request).await.unwrap(), BTreeMap::from([(0, None)]));
    let endless = StockRequest { until: None, ..request };
    assert!(pinned_longer(&place, &endless).await.unwrap().is_empty(), "nothing outlives that");
}

#[test]
fn cleaning_up_tells_what_it_freed() {
    assert_eq!(
        of_gc(&GcReport::default()),
        "nothing to remove: what is left is in use, pinned, or not due\n"
    );
    let report = GcReport { expired: Removed { count: 2, bytes: 3_000_000 }, ..GcReport::default() };
    assert_eq!(of_gc(&report), "2 blobs not used for long: 3.0 MB freed\n");
}
