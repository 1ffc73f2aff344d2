//! Members that are away for a while, or for good, while somebody waits for them.

use super::*;

/// Node 0 has asked nodes 1 to 30, of which some are silent for as long as a test wants.
fn patient(silent: &[usize], patience: f64, deadline: f64) -> Cluster {
    let mut cluster = Cluster::new(30, |node| if silent.contains(&node) { Kind::Silent } else { AT_ONCE });
    cluster.patience = seconds(patience);
    cluster.warm(0, deadline);
    cluster
}

#[test]
fn who_is_away_is_waited_for_and_asked_again() {
    // Who is told by the asker, who by somebody below it, and both.
    for silent in [vec![1], vec![30], vec![1, 2, 17, 30]] {
        let mut cluster = patient(&silent, 60.0, 600.0);
        cluster.run_for(30.0);
        assert!(cluster.nodes[0].ends.is_empty(), "{silent:?}: they may come back");
        let told = cluster.nodes[0].told.last().unwrap();
        assert_eq!(
            (told.ready, told.failed),
            (30 - silent.len(), silent.len()),
            "they are told of meanwhile"
        );
        // They have been members all the while, and have forgotten nothing or everything.
        for node in &silent {
            cluster.restart(*node, AT_ONCE);
        }
        cluster.run_for(12.0);
        assert_eq!(cluster.end(0).ready, 30, "{silent:?}");
    }
}

#[test]
fn who_stays_away_fails_after_the_patience_or_at_the_deadline() {
    // Patience, deadline, not before, at the latest.
    for (patience, deadline, before, after) in
        [(60.0, 600.0, 60.0, 75.0), (600.0, 90.0, 89.0, 92.0), (0.0, 600.0, 3.0, 15.0)]
    {
        let mut cluster = patient(&[5, 6], patience, deadline);
        cluster.run_for(before);
        assert!(cluster.nodes[0].ends.is_empty(), "{patience} {deadline}");
        cluster.run_for(after - before);
        assert_eq!((cluster.end(0).ready, cluster.end(0).failed), (28, 2), "{patience} {deadline}");
        assert!(cluster.end(0).failures.iter().all(|(_, why)| *why == WarmFault::Silent));
    }
}

#[test]
fn a_set_that_only_waits_for_those_away_can_be_cancelled() {
    let mut cluster = patient(&[5], 300.0, 600.0);
    cluster.run_for(30.0);
    cluster.input(0, Input::WarmCancel { set: SET });
    cluster.run_for(1.0);
    assert_eq!(cluster.end(0).failures, [(peer(5), WarmFault::Silent)]);
}

#[test]
fn who_drains_is_waited_for() {
    let mut cluster = Cluster::new(8, |node| if node == 3 { Kind::Stuck } else { AT_ONCE });
    cluster.patience = seconds(60.0);
    cluster.warm(0, 600.0);
    cluster.run_for(2.0);
    cluster.input(3, Input::Drain);
    cluster.run_for(5.0);
    assert!(cluster.nodes[0].ends.is_empty());
    let told = cluster.nodes[0].told.last().unwrap();
    assert_eq!(told.failures, [(peer(3), WarmFault::Draining)]);
    cluster.restart(3, AT_ONCE);
    cluster.run_for(12.0);
    assert_eq!(cluster.end(0).ready, 8);
}
