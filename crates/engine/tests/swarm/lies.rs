//! One member that deceives the others.

use shoal_engine::TicketId;
use shoal_engine::demand::Part;
use shoal_engine::io::{Outcome, PullFault};
use shoal_engine::wire::Complaint;

use crate::PIECE;
use crate::cluster::{BlobNo, Cluster, NodeNo};
use crate::node::{Lie, Upstream};
use crate::outside::Act;

const SIZE: u64 = 100 * PIECE;

fn pull(cluster: &mut Cluster, blob: BlobNo) -> Vec<TicketId> {
    let tickets = (0..cluster.nodes.len()).map(|node| cluster.open(node, blob)).collect();
    cluster.run();
    tickets
}

fn delivered_but(cluster: &Cluster, tickets: &[TicketId], liar: NodeNo) {
    for (node, &ticket) in tickets.iter().enumerate().filter(|(n, _)| *n != liar) {
        assert_eq!(cluster.outcome(ticket), Some(Outcome::Delivered), "{node}, {liar} deceives");
    }
}

#[test]
fn wrong_bytes_are_never_kept_and_their_sender_is_found_out() {
    for liar in 0..6 {
        let mut cluster = Cluster::new(6);
        let blob = cluster.add(SIZE);
        cluster.act(Act::Lie(liar, Lie::Bytes));
        // The cluster checks each piece that is kept.
        let tickets = pull(&mut cluster, blob);
        delivered_but(&cluster, &tickets, liar);
        let wrong = cluster.ledger.complaints.iter().filter(|(_, why)| *why == Complaint::Wrong).count();
        assert!(wrong <= 40, "{liar}: {wrong} complaints");
        let fetched = cluster.blobs[blob].fetched;
        assert!(fetched <= 2 * SIZE, "{liar} deceives: {fetched} of {SIZE}");
    }
}

#[test]
fn one_that_has_it_and_sends_wrong_bytes_is_replaced() {
    let mut cluster = Cluster::new(5);
    let blob = cluster.add(SIZE);
    cluster.give(0, blob);
    cluster.give(1, blob);
    cluster.act(Act::Lie(0, Lie::Bytes));
    cluster.run();
    let tickets: Vec<_> = (2..5).map(|node| cluster.open(node, blob)).collect();
    cluster.run();
    for ticket in tickets {
        assert_eq!(cluster.outcome(ticket), Some(Outcome::Delivered));
    }
    assert_eq!(cluster.blobs[blob].fetched, 0, "the other one has it all");
}

#[test]
fn wrong_hashes_that_are_relayed_cost_nobody_a_piece() {
    for liar in 0..6 {
        let mut cluster = Cluster::new(6);
        let blob = cluster.add(SIZE);
        if cluster.homes(blob).contains(&liar) {
            continue;
        }
        cluster.act(Act::Lie(liar, Lie::Relay));
        let tickets = pull(&mut cluster, blob);
        delivered_but(&cluster, &tickets, cluster.nodes.len());
        assert_eq!(cluster.blobs[blob].fetched, SIZE);
        assert!(
            cluster.ledger.complaints.iter().all(|(_, why)| *why != Complaint::Wrong),
            "nobody is to blame"
        );
    }
}

#[test]
fn wrong_bytes_with_relayed_hashes_that_fit_are_not_kept() {
    for liar in 0..6 {
        let mut cluster = Cluster::new(6);
        let blob = cluster.add(SIZE);
        if cluster.homes(blob).contains(&liar) {
            continue;
        }
        cluster.act(Act::Lie(liar, Lie::Relay));
        cluster.act(Act::Lie(liar, Lie::Bytes));
        let tickets = pull(&mut cluster, blob);
        delivered_but(&cluster, &tickets, liar);
    }
}

#[test]
fn a_lease_holder_whose_mirror_lies_spoils_one_attempt_and_no_store() {
    let mut cluster = Cluster::new(6);
    let blob = cluster.add(SIZE);
    let tickets: Vec<_> = (0..6).map(|node| cluster.open(node, blob)).collect();
    cluster.run_until(|c| c.fetching(0).is_some());
    let holder = cluster.fetching(blob).unwrap();
    cluster.act(Act::Upstream(holder, Upstream::Wrong));
    cluster.run();
    // Those who were given bytes are cut short of the last piece; nobody has anything wrong in the store.
    for ticket in tickets {
        let outcome = cluster.outcome(ticket).unwrap();
        assert!(
            matches!(outcome, Outcome::Delivered | Outcome::Failed(PullFault::WrongContent)),
            "{outcome:?}"
        );
    }
    let late: Vec<_> = (0..6).filter(|n| *n != holder).map(|node| cluster.open(node, blob)).collect();
    cluster.run();
    for ticket in late {
        let outcome = cluster.outcome(ticket).unwrap();
        assert!(matches!(outcome, Outcome::Delivered | Outcome::Stored), "never two pulls: {outcome:?}");
    }
}

#[test]
fn a_lease_holder_that_reports_wrong_hashes_does_not_stop_the_others() {
    let mut cluster = Cluster::new(6);
    let blob = cluster.add(SIZE);
    // What a home tells itself is no lie.
    let home = cluster.homes(blob)[0];
    let tickets: Vec<_> = (0..6).filter(|node| *node != home).map(|node| cluster.open(node, blob)).collect();
    cluster.run_until(|c| c.fetching(0).is_some());
    let holder = cluster.fetching(blob).unwrap();
    cluster.act(Act::Lie(holder, Lie::Report));
    cluster.run();
    delivered_but(&cluster, &tickets, cluster.nodes.len());
    assert!(cluster.blobs[blob].fetched <= 2 * SIZE, "{} of {SIZE}", cluster.blobs[blob].fetched);
    assert!(cluster.ledger.granted.len() <= 8, "{:?}", cluster.ledger.granted);
    // It is remembered when everybody has forgotten the blob and wants it again.
    (0..6).for_each(|node| cluster.act(Act::Evict(node, blob)));
    cluster.run();
    let before = cluster.ledger.granted.len();
    let again = cluster.open(holder, blob);
    cluster.run();
    assert_eq!(cluster.outcome(again), Some(Outcome::Delivered), "it sees for itself");
    assert_eq!(cluster.ledger.granted.len(), before, "and gets no lease");
}

#[test]
fn a_relay_that_lies_deceives_nobody_over_two_hops_either() {
    // More than the home tells itself, so that hashes go down a tree.
    let mut cluster = Cluster::new(80);
    let blob = cluster.add(20 * PIECE);
    let homes = cluster.homes(blob);
    let liar = (0..80).find(|node| !homes.contains(node)).unwrap();
    cluster.act(Act::Lie(liar, Lie::Relay));
    cluster.act(Act::Lie(liar, Lie::Bytes));
    // The cluster checks each piece that is kept.
    let tickets = pull(&mut cluster, blob);
    delivered_but(&cluster, &tickets, liar);
    let fetched = cluster.blobs[blob].fetched;
    assert!(fetched <= 2 * 20 * PIECE, "{fetched}");
}

#[test]
fn a_home_that_tells_wrong_hashes_blocks_nobody() {
    let mut cluster = Cluster::new(6);
    let blob = cluster.add(SIZE);
    let home = cluster.homes(blob)[0];
    cluster.act(Act::Lie(home, Lie::Relay));
    let before = cluster.now;
    let tickets = pull(&mut cluster, blob);
    delivered_but(&cluster, &tickets, cluster.nodes.len());
    assert!(cluster.now - before < std::time::Duration::from_secs(30), "{:?}", cluster.now - before);
    let fetched = cluster.blobs[blob].fetched;
    // It shuts everybody out, and each sees for itself.
    assert!(fetched <= 6 * SIZE, "{fetched} of {SIZE}");
}

#[test]
fn two_sizes_of_one_digest_do_not_meet() {
    let mut cluster = Cluster::new(4);
    let blob = cluster.add(SIZE);
    let homes = cluster.homes(blob);
    let (honest, misled) = (homes[1], homes[2]);
    let first = cluster.open(honest, blob);
    cluster.run_until(|c| c.blobs[0].fetched > SIZE / 4);
    // A manifest that lies about the size.
    let second = cluster.open_told(misled, blob, Part::Whole, SIZE / 2);
    cluster.run();
    assert_eq!(cluster.outcome(first), Some(Outcome::Delivered));
    let outcome = cluster.outcome(second).unwrap();
    assert!(matches!(outcome, Outcome::Delivered | Outcome::Failed(PullFault::WrongContent)), "{outcome:?}");
    assert!(!cluster.has_stored(misled, blob) || outcome == Outcome::Delivered);
    let again = cluster.open(misled, blob);
    cluster.run();
    assert!(matches!(cluster.outcome(again), Some(Outcome::Delivered | Outcome::Stored)));
}
