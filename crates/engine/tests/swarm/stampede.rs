//! A swarm that is of no use to anybody: each of its nodes has to ask upstream, and they do not do so all at once.

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_engine::engine::alone_spread;
use shoal_engine::io::Outcome;

use crate::PIECE;
use crate::cluster::Cluster;
use crate::outside::Act;

const NODES: usize = 200;

/// A hundred in a second are what is meant. Names are random, so some seconds see more; and the homes do not wait.
const IN_A_SECOND_MAX: usize = 140;

/// All links are cut, before the membership knows, and everybody is asked for the same blob in that moment.
#[test]
fn nodes_that_reach_nobody_ask_upstream_one_after_the_other() {
    let mut cluster = Cluster::new(NODES);
    let number = cluster.add(PIECE);
    // Probes were answered until now.
    cluster.act(Act::Freeze(0));
    cluster.act(Act::Thaw(0));
    for one in 0..NODES {
        cluster.ledger.unreachable(one);
        cluster.cut.extend((one + 1..NODES).map(|other| (one, other)));
    }
    let begun = cluster.now;
    let tickets: Vec<_> = (0..NODES).map(|node| cluster.open(node, number)).collect();
    let waited_for = tickets.clone();
    cluster.run_until(move |c| waited_for.iter().all(|ticket| c.outcome(*ticket).is_some()));
    for ticket in tickets {
        assert_eq!(cluster.outcome(ticket), Some(Outcome::Delivered));
    }

    let (blob, mut seen) = (&cluster.blobs[number], BTreeSet::new());
    let requests = blob.requests.iter().zip(&blob.asked_at);
    let first_ones = requests.filter(|((node, _, _), _)| seen.insert(*node));
    let first_ones: Vec<Duration> = first_ones.map(|(_, at)| *at - begun).collect();
    assert_eq!(first_ones.len(), NODES, "nobody gets it from anybody else");
    let within_a_second = |at: usize| {
        let end = first_ones[at] + Duration::from_secs(1);
        first_ones[at..].iter().take_while(|asked| **asked < end).count()
    };
    let most = (0..NODES).map(within_a_second).max().expect("there are some");
    assert!(most <= IN_A_SECOND_MAX, "{most} in a second: {first_ones:?}");
    // The time is made use of, and nobody waits for much longer.
    let (spread, last) = (alone_spread(NODES), first_ones[NODES - 1]);
    assert!((spread * 9 / 10..spread + Duration::from_secs(1)).contains(&last), "{last:?} of {spread:?}");
}
