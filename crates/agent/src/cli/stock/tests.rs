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
        assert_eq!(text(deed, &answer), said);
        assert_eq!(exit_code(deed, &answer), ExitCode::from(code), "{said}");
    }
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
