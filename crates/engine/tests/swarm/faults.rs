//! Members, links and registries that fail in the middle.

use std::time::Duration;

use shoal_engine::SourceFault;
use shoal_engine::TicketId;
use shoal_engine::engine::alone_spread;
use shoal_engine::io::{Input, Outcome, PullFault};

use crate::PIECE;
use crate::cluster::{BlobNo, Cluster, NodeNo, Pace};
use crate::node::Upstream;
use crate::outside::{Act, DIAL_TIMEOUT};

const SIZE: u64 = 100 * PIECE;

/// A cluster in which everybody asks for one blob, and somebody has begun to fetch it.
fn under_way(count: usize) -> (Cluster, BlobNo, Vec<TicketId>) {
    let mut cluster = Cluster::new(count);
    let blob = cluster.add(SIZE);
    let tickets: Vec<_> = (0..count).map(|node| cluster.open(node, blob)).collect();
    cluster.run_until(|c| c.blobs[0].fetched > SIZE / 3);
    (cluster, blob, tickets)
}

/// Everybody but `gone` has been served.
fn delivered_but(cluster: &Cluster, tickets: &[TicketId], gone: &[NodeNo]) {
    for (node, &ticket) in tickets.iter().enumerate().filter(|(n, _)| !gone.contains(n)) {
        assert_eq!(cluster.outcome(ticket), Some(Outcome::Delivered), "{node}");
    }
}

#[test]
fn the_next_home_takes_over() {
    for count in 3..8 {
        let (mut cluster, blob, tickets) = under_way(count);
        let home = cluster.homes(blob)[0];
        let fetched_by_home = cluster.fetching(blob) == Some(home);
        cluster.kill(home);
        cluster.run();
        delivered_but(&cluster, &tickets, &[home]);
        let fetched = cluster.blobs[blob].fetched;
        // What the home had fetched and nobody else had is fetched again; leases of others are gone on with.
        let bound = if fetched_by_home { SIZE + SIZE / 4 } else { SIZE + SIZE / 20 };
        assert!(fetched <= bound, "{count} nodes, home fetched: {fetched_by_home}: {fetched} of {SIZE}");
    }
}

/// A member that only its home took for gone, or whose connection to it broke: the home goes on with all others.
#[test]
fn one_that_loses_its_home_and_nobody_else_does_costs_no_copy() {
    for count in 3..8 {
        let (mut cluster, blob, tickets) = under_way(count);
        let home = cluster.homes(blob)[0];
        let (fetching, peer) = (cluster.fetching(blob), cluster.nodes[home].peer());
        let alone = (0..count).find(|node| *node != home && Some(*node) != fetching).unwrap();
        cluster.input(alone, shoal_engine::io::Input::PeerLost { peer });
        cluster.run();
        delivered_but(&cluster, &tickets, &[]);
        let fetched = cluster.blobs[blob].fetched;
        assert!(fetched <= SIZE + SIZE / 20, "{count} nodes: {fetched} of {SIZE}");
    }
}

#[test]
fn all_homes_may_die() {
    let (mut cluster, blob, tickets) = under_way(8);
    let homes = cluster.homes(blob);
    for home in &homes {
        cluster.kill(*home);
    }
    cluster.run();
    delivered_but(&cluster, &tickets, &homes);
    // Without any home each of the five is on its own, and has a third of it.
    assert!(cluster.blobs[blob].fetched <= 4 * SIZE, "{}", cluster.blobs[blob].fetched);
}

#[test]
fn a_lease_holder_that_dies_is_replaced() {
    for count in 2..8 {
        let (mut cluster, blob, tickets) = under_way(count);
        let holder = cluster.fetching(blob).expect("somebody fetches");
        cluster.kill(holder);
        cluster.run();
        delivered_but(&cluster, &tickets, &[holder]);
        let fetched = cluster.blobs[blob].fetched;
        assert!(fetched <= SIZE + SIZE / 4, "{count} nodes: {fetched}");
    }
}

#[test]
fn a_lease_holder_that_stalls_is_replaced() {
    for count in 2..8 {
        let (mut cluster, blob, tickets) = under_way(count);
        let holder = cluster.fetching(blob).expect("somebody fetches");
        cluster.act(Act::Upstream(holder, Upstream::Stalls));
        let before = cluster.now;
        cluster.run();
        delivered_but(&cluster, &tickets, &[]);
        assert!(cluster.now - before < Duration::from_secs(15), "{count}: {:?}", cluster.now - before);
        assert!(cluster.blobs[blob].fetched <= SIZE + SIZE / 10, "{}", cluster.blobs[blob].fetched);
    }
}

#[test]
fn a_lease_holder_that_freezes_is_replaced() {
    for count in 2..8 {
        let (mut cluster, blob, tickets) = under_way(count);
        let holder = cluster.fetching(blob).expect("somebody fetches");
        cluster.act(Act::Freeze(holder));
        cluster.plan(Duration::from_secs(40), Act::Thaw(holder));
        let others = move |c: &Cluster| {
            tickets.iter().enumerate().filter(|(n, _)| *n != holder).all(|(_, t)| c.outcome(*t).is_some())
        };
        cluster.run_until(others);
        assert!(cluster.nodes[holder].frozen, "the others did not wait for it");
        cluster.run();
        assert!(cluster.blobs[blob].fetched <= 2 * SIZE, "{}", cluster.blobs[blob].fetched);
    }
}

#[test]
fn a_lease_holder_that_is_denied_is_replaced() {
    for fault in [SourceFault::Denied { status: 403 }, SourceFault::Missing, SourceFault::Transient] {
        for count in 2..8 {
            let mut cluster = Cluster::new(count);
            let blob = cluster.add(SIZE);
            let tickets: Vec<_> = (0..count).map(|node| cluster.open(node, blob)).collect();
            cluster.run_until(|c| c.fetching(0).is_some());
            let holder = cluster.fetching(blob).unwrap();
            cluster.act(Act::Upstream(holder, Upstream::Fails(fault.clone())));
            cluster.run();
            delivered_but(&cluster, &tickets, &[]);
            assert_eq!(cluster.blobs[blob].fetched, SIZE, "{fault:?}, {count} nodes");
        }
    }
}

#[test]
fn what_nobody_may_have_fails_for_everybody_and_soon() {
    for (fault, end) in
        [(SourceFault::Denied { status: 403 }, PullFault::Denied), (SourceFault::Missing, PullFault::Unknown)]
    {
        let mut cluster = Cluster::new(6);
        let blob = cluster.add(SIZE);
        for node in 0..6 {
            cluster.act(Act::Upstream(node, Upstream::Fails(fault.clone())));
        }
        let tickets: Vec<_> = (0..6).map(|node| cluster.open(node, blob)).collect();
        let before = cluster.now;
        cluster.run();
        for ticket in tickets {
            assert_eq!(cluster.outcome(ticket), Some(Outcome::Failed(end)));
        }
        assert!(cluster.now - before < Duration::from_secs(5), "{:?}", cluster.now - before);
        assert!(cluster.blobs[blob].requests.len() <= 6 + 3, "{:?}", cluster.blobs[blob].requests);
    }
}

#[test]
fn an_outage_of_upstream_is_survived() {
    let (mut cluster, blob, tickets) = under_way(6);
    for node in 0..6 {
        cluster.act(Act::Upstream(node, Upstream::Fails(SourceFault::Transient)));
        cluster.plan(Duration::from_secs(5), Act::Upstream(node, Upstream::Works));
    }
    cluster.run();
    delivered_but(&cluster, &tickets, &[]);
    assert!(cluster.blobs[blob].fetched <= SIZE + SIZE / 20, "{}", cluster.blobs[blob].fetched);
    assert!(cluster.blobs[blob].requests.len() <= 30, "{}", cluster.blobs[blob].requests.len());
}

#[test]
fn both_parts_of_a_divided_cluster_go_on() {
    for at in 1..6 {
        for heals in [1, 5, 30] {
            let (mut cluster, blob, tickets) = under_way(6);
            cluster.act(Act::Split(at));
            cluster.plan(Duration::from_secs(heals), Act::Join);
            cluster.run();
            delivered_but(&cluster, &tickets, &[]);
            let fetched = cluster.blobs[blob].fetched;
            // A part without a home has no lease; each of its members may go alone.
            assert!(fetched <= 6 * SIZE, "{at}, {heals} s: {fetched}");
        }
    }
}

#[test]
fn a_book_moves_with_its_home() {
    // The home of a blob is started after the others, and takes its book over.
    for late in 0..6 {
        let mut cluster = Cluster::new(6);
        (0..64).for_each(|_| _ = cluster.add(SIZE));
        let blob = (0..64).find(|b| cluster.homes(*b)[0] == late).unwrap();
        cluster.kill(late);
        cluster.run_for(Duration::from_secs(5));
        let tickets: Vec<_> =
            (0..6).filter(|n| *n != late).map(|node| (node, cluster.open(node, blob))).collect();
        cluster.run_until(|c| c.blobs[blob].fetched > SIZE / 4);
        cluster.start(late);
        cluster.run_for(Duration::from_millis(250));
        for node in (0..6).filter(|n| *n != late) {
            let home = cluster.nodes[node].engine.as_ref().unwrap().swarm().unwrap().home();
            assert!(!home.keeps(&cluster.blobs[blob].digest), "{node} still keeps the book");
        }
        cluster.run();
        for (node, ticket) in tickets {
            assert_eq!(cluster.outcome(ticket), Some(Outcome::Delivered), "{node}");
        }
        let fetched = cluster.blobs[blob].fetched;
        assert!(fetched <= SIZE + SIZE / 20, "{fetched} of {SIZE}");
    }
}

#[test]
fn members_that_die_one_after_another_leave_the_rest_served() {
    let (mut cluster, blob, tickets) = under_way(8);
    for (nth, node) in [2, 5, 7, 0].into_iter().enumerate() {
        cluster.plan(Duration::from_millis(40 * nth as u64), Act::Kill(node));
    }
    cluster.run();
    delivered_but(&cluster, &tickets, &[0, 2, 5, 7]);
    assert!(cluster.blobs[blob].fetched <= 3 * SIZE, "{}", cluster.blobs[blob].fetched);
}

#[test]
fn a_node_that_is_cut_off_from_the_one_that_has_it_goes_on() {
    for seed in 0..40 {
        let pace = Pace { rate: 4e6, upstream_rate: 20e6, jitter: true, ..Pace::default() };
        let mut cluster = Cluster::with(pace, 4, seed);
        let blob = cluster.add(7 * PIECE);
        let first = cluster.open(2, blob);
        cluster.run_for(Duration::from_millis(845));
        let second = cluster.open(1, blob);
        cluster.run_for(Duration::from_millis(57));
        cluster.act(Act::Split(2));
        cluster.run_for(Duration::from_secs(5));
        cluster.heal();
        cluster.run();
        delivered_but(&cluster, &[first, second], &[]);
    }
}

/// How long a pull of one node takes and what it costs upstream, with ports for pieces of those who have the blob that are closed or not.
fn pull_alone(walled: bool, count: usize, holders: &[NodeNo]) -> (Duration, u64) {
    pull_beside(walled.then_some(Act::Wall), count, holders)
}

fn pull_beside(fault: Option<fn(NodeNo) -> Act>, count: usize, holders: &[NodeNo]) -> (Duration, u64) {
    let mut cluster = Cluster::new(count);
    let blob = cluster.add(SIZE);
    for &holder in holders {
        cluster.give(holder, blob);
        if let Some(fault) = fault {
            cluster.act(fault(holder));
        }
    }
    let time = cluster.time_of_pull(0, blob);
    (time, cluster.blobs[blob].fetched)
}

/// A firewall lets messages through and no pieces: to whoever has the blob, be it the home or not, and then to all.
#[test]
fn ports_for_pieces_that_are_closed_cost_a_moment() {
    let (without, copy) = pull_alone(true, 1, &[]);
    assert_eq!(copy, SIZE);
    for count in 2..9 {
        let others: Vec<_> = (1..count).collect();
        let one_each = others.iter().map(|holder| vec![*holder]);
        for holders in one_each.chain([others.clone()]) {
            let (time, fetched) = pull_alone(true, count, &holders);
            assert_eq!(fetched, SIZE, "{count} nodes, {holders:?} have it");
            assert!(
                time < without + DIAL_TIMEOUT + Duration::from_millis(200),
                "{count} nodes, {holders:?} have it: {time:?}"
            );
            assert_eq!(pull_alone(false, count, &holders).1, 0, "{count} nodes, {holders:?} have it");
        }
    }
}

/// Whoever has the blob is there, and sends nobody anything.
#[test]
fn members_that_refuse_cost_a_moment() {
    let (without, _) = pull_alone(true, 1, &[]);
    for count in 2..9 {
        let others: Vec<_> = (1..count).collect();
        let one_each = others.iter().map(|holder| vec![*holder]);
        for holders in one_each.chain([others.clone()]) {
            let (time, fetched) = pull_beside(Some(Act::Refuse), count, &holders);
            let setting = format!("{count} nodes, {holders:?} have it: {time:?}");
            assert_eq!(fetched, SIZE, "{setting}");
            assert!(time < without + Duration::from_millis(500), "{setting}, {without:?} without");
        }
    }
}

/// All ask at once, and nobody can send anybody anything: each has to fetch it. They learn of that at the same time, and do not ask
/// upstream at the same time.
#[test]
fn a_cluster_of_closed_ports_is_no_swarm() {
    let (alone, _) = pull_alone(true, 1, &[]);
    let mut on_their_own = 0;
    for count in 2..25 {
        let mut cluster = Cluster::new(count);
        let blob = cluster.add(SIZE);
        (0..count).for_each(|node| cluster.act(Act::Wall(node)));
        let tickets: Vec<_> = (0..count).map(|node| cluster.open(node, blob)).collect();
        let begun = cluster.now;
        let waited_for = tickets.clone();
        cluster.run_until(move |c| waited_for.iter().all(|ticket| c.outcome(*ticket).is_some()));
        delivered_but(&cluster, &tickets, &[]);
        let (time, fetched) = (cluster.now - begun, cluster.blobs[blob].fetched);
        assert_eq!(fetched, count as u64 * SIZE, "{count} nodes");
        // Some learn of it at their second feed.
        assert!(time < alone + 2 * DIAL_TIMEOUT + Duration::from_millis(300), "{count} nodes: {time:?}");
        let (waits, spread) = (cluster.waits_alone(blob), alone_spread(count));
        assert!(waits.iter().all(|wait| *wait <= spread), "{count} nodes, {spread:?}: {waits:?}");
        let quarter = |at: usize| {
            let end = waits[at] + spread / 4;
            waits[at..].iter().take_while(|wait| **wait < end).count()
        };
        let most = (0..waits.len()).map(quarter).max().unwrap_or(0);
        assert!(most <= count / 2 + 1, "{count} nodes, {most} in a quarter of {spread:?}: {waits:?}");
        on_their_own += waits.len();
    }
    assert!(on_their_own > 100, "{on_their_own} of 299 were on their own");
}

/// All others stand still, and the membership does not know yet. Some of the blobs have this node among their homes.
#[test]
fn a_node_that_nobody_answers_is_on_its_own_at_once() {
    let (alone, _) = pull_alone(false, 1, &[]);
    for (count, number) in (2..9).flat_map(|count| (0..4).map(move |number| (count, number))) {
        let mut cluster = Cluster::new(count);
        let blobs: Vec<_> = (0..=number).map(|_| cluster.add(SIZE)).collect();
        let blob = blobs[number];
        (1..count).for_each(|node| cluster.act(Act::Freeze(node)));
        let begun = cluster.now;
        let ticket = cluster.open(0, blob);
        cluster.run_until(|c| c.outcome(ticket).is_some());
        let time = cluster.now - begun;
        assert_eq!(cluster.outcome(ticket), Some(Outcome::Delivered));
        assert_eq!(cluster.blobs[blob].fetched, SIZE);
        let homes = cluster.homes(blob);
        assert!(time < alone + Duration::from_millis(600), "{count} nodes, homes {homes:?}: {time:?}");
    }
}

/// All homes of a blob stand still, the others do not, and the membership does not know yet: the next ones take their places.
#[test]
fn a_blob_whose_homes_say_nothing_gets_others() {
    let (alone, _) = pull_alone(false, 1, &[]);
    for (count, homes) in (5..12).flat_map(|count| (1..=3).map(move |homes| (count, homes))) {
        for number in 0..4 {
            let mut cluster = Cluster::new(count);
            (0..64).for_each(|_| _ = cluster.add(SIZE));
            let not_mine = (0..64).filter(|blob| !cluster.homes(*blob).contains(&0)).nth(number);
            let blob = not_mine.unwrap();
            let frozen = cluster.homes(blob)[..homes].to_vec();
            frozen.iter().for_each(|home| cluster.act(Act::Freeze(*home)));
            let begun = cluster.now;
            let tickets: Vec<_> = (0..count)
                .filter(|node| !frozen.contains(node))
                .map(|node| cluster.open(node, blob))
                .collect();
            let first = tickets[0];
            cluster.run_until(|c| c.outcome(first).is_some());
            let time = cluster.now - begun;
            let setting = format!("{count} nodes, {frozen:?} of {:?} frozen", cluster.homes(blob));
            assert!(time < alone + Duration::from_millis(800), "{setting}: {time:?}");
            assert_eq!(cluster.blobs[blob].fetched, SIZE, "{setting}");
            frozen.iter().for_each(|home| cluster.act(Act::Thaw(*home)));
            cluster.run();
            delivered_but(&cluster, &tickets, &[]);
            assert_eq!(cluster.blobs[blob].fetched, SIZE, "{setting}");
        }
    }
}

/// All nodes share a machine that is busy from one moment on: all messages take long, and everybody is woken late. Who is woken in time and
/// waits as long for answers takes homes for gone.
#[test]
fn on_a_busy_machine_nobody_is_taken_for_gone() {
    let copies = |count: usize, late| {
        let mut cluster = Cluster::new(count);
        let blob = cluster.add(SIZE);
        // Probes were answered at once until now.
        cluster.act(Act::Freeze(0));
        cluster.act(Act::Thaw(0));
        (cluster.pace.delay, cluster.late) = (Duration::from_millis(700), late);
        let tickets: Vec<_> = (0..count).map(|node| cluster.open(node, blob)).collect();
        cluster.run();
        delivered_but(&cluster, &tickets, &[]);
        cluster.blobs[blob].fetched as f64 / SIZE as f64
    };
    let (late, in_time): (Vec<_>, Vec<_>) = (3..9)
        .map(|count| (copies(count, Duration::from_millis(150)), copies(count, Duration::ZERO)))
        .unzip();
    assert!(late.iter().all(|copies| *copies == 1.0), "{late:?}");
    assert!(in_time.iter().any(|copies| *copies > 1.0), "{in_time:?}");
}

/// A member that was asked something beside the engine: whether it lives is known as soon as of one that was asked for a blob.
#[test]
fn a_member_that_is_waited_for_is_known_to_say_nothing() {
    for (count, frozen) in
        (3..9).flat_map(|count| [vec![], vec![1], (1..count).collect()].map(|f| (count, f)))
    {
        let mut cluster = Cluster::new(count);
        let about = cluster.add(SIZE);
        let about = cluster.blobs[about].digest;
        frozen.iter().for_each(|node| cluster.act(Act::Freeze(*node)));
        let peers: Vec<_> = cluster.nodes.iter().map(|node| node.peer()).collect();
        let silent = |c: &Cluster, node: NodeNo| {
            let engine = c.nodes[0].engine.as_ref().expect("it is up");
            engine.swarm().expect("it has one").says_nothing(c.now, &peers[node])
        };
        let begun = cluster.now;
        cluster.input(0, Input::Awaited { peer: peers[1], about });
        if frozen.is_empty() {
            cluster.run();
            assert!(!silent(&cluster, 1), "{count} nodes: it lives");
            continue;
        }
        cluster.run_until(|c| silent(c, 1));
        let time = cluster.now - begun;
        assert!(time < Duration::from_millis(450), "{count} nodes, {frozen:?} frozen: {time:?}");
        // The others as well, if nobody is there.
        assert_eq!(silent(&cluster, 2), frozen.contains(&2), "{count} nodes, {frozen:?} frozen");
        frozen.iter().for_each(|node| cluster.act(Act::Thaw(*node)));
        cluster.run();
        assert!(!silent(&cluster, 1), "{count} nodes: it is back");
    }
}

/// The same where all others have it: whoever stands in for the homes asks a few for it.
#[test]
fn what_others_have_is_found_without_its_homes() {
    for count in 5..12 {
        let mut cluster = Cluster::new(count);
        (0..64).for_each(|_| _ = cluster.add(SIZE));
        let blob = (0..64).find(|blob| !cluster.homes(*blob).contains(&0)).unwrap();
        (1..count).for_each(|node| cluster.give(node, blob));
        cluster.run_for(Duration::from_secs(2));
        cluster.homes(blob).iter().for_each(|home| cluster.act(Act::Freeze(*home)));
        let begun = cluster.now;
        let ticket = cluster.open(0, blob);
        cluster.run_until(|c| c.outcome(ticket).is_some());
        let time = cluster.now - begun;
        assert_eq!(cluster.outcome(ticket), Some(Outcome::Delivered), "{count} nodes");
        assert_eq!(cluster.blobs[blob].fetched, 0, "{count} nodes");
        assert!(time < Duration::from_secs(2), "{count} nodes: {time:?}");
    }
}

/// One of those who pull stands still before anything has come, perhaps the one that was told to fetch.
#[test]
fn a_lease_of_somebody_who_says_nothing_goes_to_another() {
    let (alone, _) = pull_alone(false, 1, &[]);
    for (count, stands_still) in (4..9).flat_map(|count| (0..count).map(move |node| (count, node))) {
        let mut cluster = Cluster::new(count);
        let blob = cluster.add(SIZE);
        let others: Vec<_> = (0..count).filter(|node| *node != stands_still).collect();
        cluster.open(stands_still, blob);
        cluster.run_for(Duration::from_millis(5));
        let tickets: Vec<_> = others.iter().map(|node| cluster.open(*node, blob)).collect();
        let begun = cluster.now;
        cluster.act(Act::Freeze(stands_still));
        let waited_for = tickets.clone();
        cluster.run_until(move |c| waited_for.iter().all(|ticket| c.outcome(*ticket).is_some()));
        let time = cluster.now - begun;
        delivered_but(&cluster, &tickets, &[]);
        assert!(
            time < 2 * alone + Duration::from_secs(1),
            "{count} nodes, {stands_still} stands still: {time:?}"
        );
    }
}

/// They go on in the middle of it: then it is a swarm again, and what has come counts.
#[test]
fn a_node_that_is_answered_late_goes_on_with_the_others() {
    for count in 2..9 {
        let mut cluster = Cluster::with(Pace { upstream_rate: 10e6, ..Pace::default() }, count, 1);
        let blob = cluster.add(SIZE);
        (1..count).for_each(|node| cluster.act(Act::Freeze(node)));
        let mut tickets = vec![cluster.open(0, blob)];
        cluster.run_until(|c| c.blobs[blob].fetched > SIZE / 4);
        (1..count).for_each(|node| cluster.act(Act::Thaw(node)));
        tickets.extend((1..count).map(|node| cluster.open(node, blob)));
        cluster.run();
        delivered_but(&cluster, &tickets, &[]);
        let fetched = cluster.blobs[blob].fetched;
        assert!(fetched <= SIZE + SIZE / 20, "{count} nodes: {fetched} of {SIZE}");
    }
}

/// Two that fetch, of which one sends nobody anything: it is not granted what it fetches again as fast as the other complains.
#[test]
fn one_that_refuses_is_not_granted_the_same_without_end() {
    let pace = Pace {
        delay: Duration::from_millis(11),
        hashing: Duration::from_millis(3),
        rate: 200e6,
        upstream_rate: 4e6,
        ..Pace::default()
    };
    let mut cluster = Cluster::with(pace, 6, 1);
    let blob = cluster.add(125 * PIECE);
    let [first, second] = [2, 4].map(|node| cluster.open(node, blob));
    cluster.plan(Duration::from_millis(361), Act::Refuse(2));
    cluster.run();
    for ticket in [first, second] {
        assert_eq!(cluster.outcome(ticket), Some(Outcome::Delivered));
    }
    assert!(cluster.ledger.granted.len() <= 30, "{} leases", cluster.ledger.granted.len());
}

/// It answers, and takes streams, of which nothing comes. Nobody else has the blob.
#[test]
fn the_only_one_that_has_it_sends_nothing() {
    for readers in [1, 2, 8] {
        let mut cluster = Cluster::new(1 + readers);
        let blob = cluster.add(20 * PIECE + 7);
        cluster.open(0, blob);
        cluster.run();
        cluster.nodes[0].mute = true;
        let tickets: Vec<_> = (1..=readers).map(|node| cluster.open(node, blob)).collect();
        cluster.run_within(Duration::from_secs(40));
        for ticket in tickets {
            assert_eq!(cluster.outcome(ticket), Some(Outcome::Delivered), "{readers} wait");
        }
        let size = cluster.blobs[blob].size;
        assert_eq!(cluster.blobs[blob].fetched, 2 * size, "{readers}: {:?}", cluster.blobs[blob].requests);
    }
}

/// Those that have a blob were started again, so that one of them has to take the hashes of its pieces anew; and one of them stands still.
#[test]
fn one_that_is_asked_for_a_list_and_stands_still() {
    for still in 1..5 {
        for size in [SIZE, 300 * PIECE] {
            let mut cluster = Cluster::new(6);
            let blob = cluster.add(size);
            (1..5).for_each(|node| cluster.give(node, blob));
            cluster.run_for(Duration::from_secs(20));
            cluster.act(Act::Freeze(still));
            let begun = cluster.now;
            let ticket = cluster.open(0, blob);
            cluster.run_until(|c| c.outcome(ticket).is_some());
            let time = cluster.now - begun;
            assert_eq!(cluster.blobs[blob].fetched, 0, "{still} stands still, {size} bytes");
            assert!(time < Duration::from_secs(1), "{still} stands still, {size} bytes: {time:?}");
        }
    }
}
