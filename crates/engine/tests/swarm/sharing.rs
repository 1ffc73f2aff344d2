//! What members do for each other when nothing fails.

use std::time::Duration;

use shoal_engine::Input;
use shoal_engine::demand::Part;
use shoal_engine::io::Outcome;
use shoal_engine::limits::LISTED_AT_ONCE;
use shoal_engine::wire::Message;

use crate::cluster::{Cluster, Pace};
use crate::{KIB, PIECE};

fn delivered(cluster: &Cluster, tickets: &[shoal_engine::TicketId]) {
    for &ticket in tickets {
        assert_eq!(cluster.outcome(ticket), Some(Outcome::Delivered), "{ticket:?}");
    }
}

#[test]
fn the_second_gets_everything_from_the_first() {
    for size in [1, PIECE - 1, PIECE, PIECE + 1, 7 * PIECE, 8 * PIECE, 64 * PIECE + 5, 130 * PIECE] {
        let mut cluster = Cluster::new(2);
        let blob = cluster.add(size);
        let first = cluster.open(0, blob);
        cluster.run();
        let second = cluster.open(1, blob);
        cluster.run();
        delivered(&cluster, &[first, second]);
        let blob = &cluster.blobs[blob];
        assert_eq!(blob.requests.len(), 1, "{size}: {:?}", blob.requests);
        assert_eq!((blob.fetched, blob.fetched_twice), (size, 0), "{size}");
    }
}

#[test]
fn nodes_that_ask_in_the_same_moment_ask_upstream_once() {
    for count in 2..=12 {
        for size in [1, 3 * PIECE, 20 * PIECE + 7, 100 * PIECE] {
            let mut cluster = Cluster::new(count);
            let blob = cluster.add(size);
            let tickets: Vec<_> = (0..count).map(|node| cluster.open(node, blob)).collect();
            cluster.run();
            delivered(&cluster, &tickets);
            let blob = &cluster.blobs[blob];
            assert_eq!(blob.fetched, size, "{count} nodes: {:?}", blob.requests);
            // Every piece goes to everybody but the one that fetched it, once.
            let copies = size.div_ceil(PIECE) * (count as u64 - 1);
            assert!(
                blob.sent <= copies + copies / 20 + 2,
                "{count} nodes, {size}: {} of {copies}",
                blob.sent
            );
        }
    }
}

#[test]
fn a_node_that_joins_in_the_middle_costs_upstream_nothing() {
    for share in [1, 25, 50, 75, 99] {
        let mut cluster = Cluster::new(4);
        let size = 100 * PIECE;
        let blob = cluster.add(size);
        let early: Vec<_> = (0..3).map(|node| cluster.open(node, blob)).collect();
        cluster.run_until(|c| c.blobs[0].fetched >= size / 100 * share);
        let late = cluster.open(3, blob);
        cluster.run();
        delivered(&cluster, &early);
        delivered(&cluster, &[late]);
        assert_eq!(cluster.blobs[blob].fetched, size, "at {share} %");
    }
}

#[test]
fn a_node_that_restarts_goes_on_with_what_it_has() {
    let mut cluster = Cluster::new(3);
    let size = 200 * PIECE;
    let blob = cluster.add(size);
    let homes = cluster.homes(blob);
    // The one that fetches is not the one that restarts.
    let tickets = [cluster.open(homes[0], blob), cluster.open(homes[1], blob)];
    cluster.run_until(|c| c.nodes.iter().all(|n| n.disk.is_empty()) || c.fetching(0).is_some());
    let holder = cluster.fetching(blob).unwrap();
    let other = homes[1..].iter().copied().find(|n| *n != holder).unwrap();
    let third = cluster.open(other, blob);
    cluster.run_until(|c| c.nodes[other].disk[&0].saved.as_ref().is_some_and(|s| s.1.len() > 10 * PIECE));
    let saved = cluster.nodes[other].disk[&blob].saved.as_ref().unwrap().1.len();
    cluster.kill(other);
    cluster.run_for(Duration::from_secs(1));
    cluster.start(other);
    let sent = cluster.blobs[blob].sent;
    let again = cluster.open(other, blob);
    cluster.run();
    assert_eq!(cluster.outcome(again), Some(Outcome::Delivered));
    assert!(
        tickets.iter().chain([&third]).all(|t| cluster.outcome(*t).is_some() || cluster.clients[t].closed)
    );
    assert!(cluster.blobs[blob].fetched <= size, "{}", cluster.blobs[blob].fetched);
    // It is not sent again what it had saved, but for pieces that were cut in the middle.
    let again = cluster.blobs[blob].sent - sent;
    assert!(
        again <= 2 * 200 - saved / PIECE + 4,
        "{again} pieces after the restart, {saved} bytes were saved"
    );
}

#[test]
fn those_who_have_it_feed_a_late_joiner_all_together() {
    let mut cluster = Cluster::new(8);
    let blob = cluster.add(64 * PIECE);
    for node in 0..7 {
        cluster.give(node, blob);
    }
    cluster.run();
    let late = cluster.open(7, blob);
    cluster.run();
    delivered(&cluster, &[late]);
    assert_eq!(cluster.blobs[blob].fetched, 0);
    assert_eq!(cluster.blobs[blob].sent, 64);
}

/// Those that have a large blob were started again, and one of them takes all its hashes anew, which takes longer than a home is believed
/// that tells none.
#[test]
fn a_list_that_takes_long_is_passed_on_as_it_comes() {
    for listing in [400, 1500] {
        let pace = Pace { listing: Duration::from_millis(listing), rate: 1e9, ..Pace::default() };
        let mut cluster = Cluster::with(pace, 6, 1);
        let blob = cluster.add(900 * PIECE);
        (1..4).for_each(|node| cluster.give(node, blob));
        cluster.run();
        let begun = cluster.now;
        let first = cluster.open(0, blob);
        cluster.run_for(Duration::from_secs(3));
        // It hears of what the first one has heard of already.
        let second = cluster.open(4, blob);
        cluster.run_until(|c| [first, second].iter().all(|ticket| c.outcome(*ticket).is_some()));
        let time = cluster.now - begun;
        cluster.run();
        delivered(&cluster, &[first, second]);
        assert_eq!(cluster.blobs[blob].fetched, 0, "{listing} ms");
        let all = Duration::from_millis(listing * 900u64.div_ceil(LISTED_AT_ONCE as u64));
        assert!(time < all + Duration::from_secs(1), "{time:?}, and the list takes {all:?}");
    }
}

#[test]
fn an_evicted_blob_is_not_asked_for_where_it_was() {
    let mut cluster = Cluster::new(4);
    let blob = cluster.add(20 * PIECE);
    cluster.give(0, blob);
    cluster.run();
    cluster.evict(0, blob);
    cluster.run();
    for node in 0..4 {
        let known = cluster.nodes[node].engine.as_ref().unwrap().swarm().unwrap().home().known_count();
        assert_eq!(known, 0, "{node} believes in it");
    }
    let late = cluster.open(3, blob);
    cluster.run();
    delivered(&cluster, &[late]);
    assert_eq!(cluster.blobs[blob].fetched, 20 * PIECE);
    assert!(cluster.ledger.complaints.is_empty());
}

#[test]
fn a_feed_that_evicts_the_blob_is_replaced() {
    let mut cluster = Cluster::new(5);
    let blob = cluster.add(120 * PIECE);
    let (a, b) = (0, 1);
    cluster.give(a, blob);
    cluster.give(b, blob);
    cluster.run();
    let late = cluster.open(4, blob);
    cluster.run_until(|c| c.received(4, 0) > 20 * PIECE);
    cluster.evict(a, blob);
    cluster.run();
    delivered(&cluster, &[late]);
    assert_eq!(cluster.blobs[blob].fetched, 0, "the other one has it all");
    let late = cluster.open(3, blob);
    cluster.run_until(|c| c.received(3, 0) > 20 * PIECE);
    cluster.evict(b, blob);
    cluster.evict(4, blob);
    cluster.run();
    delivered(&cluster, &[late]);
    assert!(cluster.blobs[blob].fetched < 120 * PIECE, "what it had is not fetched");
}

#[test]
fn a_client_that_leaves_takes_nothing_from_those_who_are_fed_by_its_node() {
    for leaver in 0..4 {
        let mut cluster = Cluster::new(4);
        let size = 100 * PIECE;
        let blob = cluster.add(size);
        let tickets: Vec<_> = (0..4).map(|node| cluster.open(node, blob)).collect();
        cluster.run_until(|c| c.received(leaver, 0) > 30 * PIECE);
        cluster.close(tickets[leaver]);
        cluster.run();
        for (node, &ticket) in tickets.iter().enumerate().filter(|(n, _)| *n != leaver) {
            assert_eq!(cluster.outcome(ticket), Some(Outcome::Delivered), "{node} while {leaver} leaves");
        }
        // What was wanted whole is completed for the next, as without a swarm.
        assert!(cluster.has_stored(leaver, blob));
        assert_eq!(cluster.blobs[blob].fetched, size);
    }
}

#[test]
fn a_node_that_drains_leaves_its_work_to_the_others() {
    for leaver in 0..4 {
        for stops in [false, true] {
            let mut cluster = Cluster::new(4);
            let size = 100 * PIECE;
            let blob = cluster.add(size);
            let tickets: Vec<_> = (0..4).map(|node| cluster.open(node, blob)).collect();
            cluster.run_until(|c| c.received(leaver, 0) > 30 * PIECE);
            cluster.act(crate::outside::Act::Drain(leaver));
            match stops {
                true => cluster.input(leaver, Input::Stop),
                false => cluster.close(tickets[leaver]),
            }
            cluster.run();
            for (node, &ticket) in tickets.iter().enumerate().filter(|(n, _)| *n != leaver) {
                assert_eq!(cluster.outcome(ticket), Some(Outcome::Delivered), "{node} while {leaver} drains");
            }
            assert!(!cluster.has_stored(leaver, blob));
            let fetched = cluster.blobs[blob].fetched;
            assert!(fetched <= size + size / 2, "{leaver} drains: {fetched} of {size}");
        }
    }
}

#[test]
fn a_node_that_drains_with_a_client_finishes_for_it() {
    let mut cluster = Cluster::new(3);
    let blob = cluster.add(100 * PIECE);
    let tickets: Vec<_> = (0..3).map(|node| cluster.open(node, blob)).collect();
    cluster.run_until(|c| c.received(1, 0) > 30 * PIECE);
    cluster.act(crate::outside::Act::Drain(1));
    cluster.run();
    delivered(&cluster, &tickets);
    assert_eq!(cluster.blobs[blob].fetched, 100 * PIECE);
}

#[test]
fn many_blobs_at_once_are_each_fetched_once() {
    let mut cluster = Cluster::new(6);
    let blobs: Vec<_> =
        [1, 40 * KIB, PIECE, 9 * PIECE, 17 * PIECE, 70 * PIECE].into_iter().map(|s| cluster.add(s)).collect();
    let mut tickets = Vec::new();
    for node in 0..6 {
        tickets.extend(blobs.iter().map(|blob| cluster.open(node, *blob)).collect::<Vec<_>>());
    }
    cluster.run();
    delivered(&cluster, &tickets);
    for blob in &cluster.blobs {
        assert_eq!(blob.fetched, blob.size);
    }
}

#[test]
fn a_reader_of_a_footer_asks_upstream_and_nobody_waits_for_it() {
    let mut cluster = Cluster::new(3);
    let blob = cluster.add(100 * PIECE);
    let footer = cluster.open_part(0, blob, Part::Suffix(100));
    cluster.run();
    delivered(&cluster, &[footer]);
    assert_eq!(cluster.blobs[blob].fetched, PIECE);
    assert_eq!(cluster.blobs[blob].sent, 0);
}

#[test]
fn slow_hashing_costs_no_byte_and_no_pull() {
    let pace = Pace { hashing: Duration::from_millis(30), jitter: true, ..Pace::default() };
    for seed in 0..20 {
        let mut cluster = Cluster::with(pace, 5, seed);
        let blob = cluster.add(40 * PIECE);
        let tickets: Vec<_> = (0..5).map(|node| cluster.open(node, blob)).collect();
        cluster.run();
        delivered(&cluster, &tickets);
        assert_eq!(cluster.blobs[blob].fetched, 40 * PIECE);
    }
}

#[test]
fn a_member_that_does_not_receive_says_so_when_a_home_asks() {
    let mut cluster = Cluster::new(3);
    let blob = cluster.add(4 * PIECE);
    cluster.give(1, blob);
    cluster.run();
    let (home, digest) = (cluster.nodes[2].peer(), cluster.blobs[blob].digest);
    for (node, answer) in [(0, "Leave"), (1, "Whole")] {
        cluster.input(node, Input::Heard { from: home, message: Message::Feeds { digest, feeds: vec![] } });
        let told = cluster.trace.back().expect("something was said");
        assert!(told.contains("Tell") && told.contains(answer), "{told}");
    }
}
