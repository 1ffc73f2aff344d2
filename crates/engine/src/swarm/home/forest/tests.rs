//! Forests that grow, change and lose members keep their shape.

use proptest::prelude::*;

use super::*;

fn peer(number: u32) -> PeerId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&(u64::from(number) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    id[28..].copy_from_slice(&number.to_be_bytes());
    PeerId(id)
}

/// The edges form trees, and the books agree with them.
fn check(forest: &Forest) {
    assert_eq!(forest.receiver_count(), forest.receivers().count());
    for (n, entry) in forest.nodes.iter().enumerate() {
        let edges: usize = entry.children.iter().map(Vec::len).sum();
        assert_eq!(entry.used as usize, edges, "{n}: used");
        for class in 0..forest.classes {
            let by_source = forest.by_source.contains(&(n as Node, class));
            assert_eq!(by_source, forest.parent(n as Node, class) == Parent::Source, "{n} in {class}");
            let mut at = n as Node;
            let by_source = forest.parent(at, class) == Parent::Source;
            assert_eq!(forest.fed_by_source().any(|f| f == (at, class)), by_source, "{n}: fed by the source");
            for step in 0.. {
                assert!(step < FOREST_DEPTH_MAX, "{n} is in a circle of class {class}");
                match forest.parent(at, class) {
                    Parent::Member(parent) => {
                        let siblings = &forest.nodes[parent as usize].children[usize::from(class)];
                        assert!(siblings.contains(&at), "{parent} does not know its child {at}");
                        at = parent;
                    }
                    Parent::None | Parent::Source => break,
                }
            }
        }
    }
}

fn grown(members: u32, classes: u8, zones: u32) -> Forest {
    let mut forest = Forest::new(classes);
    let holder = forest.add(peer(0), "zone-0");
    forest.set_source(holder);
    for number in 1..members {
        let node = forest.add(peer(number), &format!("zone-{}", number % zones));
        forest.attach_all(node);
    }
    forest
}

#[test]
fn trees_are_shallow_and_nobody_feeds_much_more_than_it_receives() {
    for (members, classes, depth_max) in
        [(1000, 16, 7), (1000, 8, 7), (10_000, 16, 9), (50, 4, 5), (30, 1, 5)]
    {
        let forest = grown(members, classes, 1);
        check(&forest);
        for node in 1..members {
            for class in 0..classes {
                assert_ne!(forest.parent(node, class), Parent::None, "{node} in {class}");
                let depth = forest.depth(node, class);
                assert!(depth <= depth_max, "{members} members, {classes} classes: depth {depth}");
            }
        }
        let most = forest.nodes.iter().map(|n| n.used).max().unwrap();
        assert!(most <= nominal_slots(classes) + 1, "{members} members, {classes} classes: one feeds {most}");
    }
}

#[test]
fn one_copy_enters_each_zone() {
    let forest = grown(900, 16, 3);
    check(&forest);
    let crossing = |zone: u16| {
        let inside = forest.nodes.iter().filter(|n| n.zone == zone);
        let edges = inside.flat_map(|n| n.parents.iter());
        edges
            .filter(|p| match p {
                Parent::Member(parent) => forest.nodes[*parent as usize].zone != zone,
                Parent::Source => zone != 0,
                Parent::None => false,
            })
            .count()
    };
    assert_eq!([0, 1, 2].map(crossing), [0, 16, 16]);
    assert_eq!(forest.fed_by_source().count(), 16);
}

#[test]
fn a_late_joiner_is_fed_by_many() {
    let mut forest = Forest::new(16);
    for number in 0..100 {
        let node = forest.add(peer(number), "");
        forest.set_whole(node);
    }
    let late = forest.add(peer(100), "");
    forest.attach_all(late);
    let feeds: BTreeSet<_> = (0..16).map(|class| format!("{:?}", forest.parent(late, class))).collect();
    assert_eq!(feeds.len(), 16);
}

/// One member of the first zone has everything, and all others come at once, those of `first_zone` before the rest.
fn crowd(members: u32, classes: u8, zones: u32, first_zone: u32) -> Forest {
    let mut forest = Forest::new(classes);
    let seed = forest.add(peer(0), "zone-0");
    forest.set_whole(seed);
    let (early, late): (Vec<u32>, Vec<u32>) = (1..members).partition(|n| n % zones == first_zone);
    for number in early.into_iter().chain(late) {
        let node = forest.add(peer(number), &format!("zone-{}", number % zones));
        forest.attach_all(node);
    }
    forest
}

#[test]
fn a_crowd_below_one_that_has_everything_grows_trees_and_no_chains() {
    for (members, classes, zones, first_zone, depth_max) in [
        (1000, 16, 1, 0, 9),
        (1000, 8, 1, 0, 9),
        (200, 4, 1, 0, 7),
        (200, 1, 1, 0, 5),
        (900, 16, 3, 0, 9),
        (900, 16, 3, 2, 9),
        (200, 1, 3, 1, 6),
    ] {
        let what = format!("{members} members of {zones} zones, {first_zone} first, {classes} classes");
        let forest = crowd(members, classes, zones, first_zone);
        check(&forest);
        for node in 1..members {
            for class in 0..classes {
                assert!(matches!(forest.parent(node, class), Parent::Member(_)), "{what}: {node} in {class}");
                let depth = forest.depth(node, class);
                assert!(depth <= depth_max, "{what}: depth {depth}");
            }
        }
        let slots = nominal_slots(classes);
        assert!(forest.nodes[0].used <= slots + slots / 8, "{what}: the seed feeds {}", forest.nodes[0].used);
        let crossing = |zone: u16| {
            let inside = forest.nodes.iter().filter(|n| n.zone == zone);
            let parents = inside.flat_map(|n| n.parents.iter());
            parents
                .filter(|p| matches!(p, Parent::Member(n) if forest.nodes[*n as usize].zone != zone))
                .count()
        };
        let entering: Vec<_> = (0..zones as u16).map(crossing).collect();
        let once = |zone: usize| if zone == 0 { 0 } else { usize::from(classes) };
        assert!((0..zones as usize).all(|zone| entering[zone] <= once(zone)), "{what}: {entering:?}");
    }
}

#[test]
fn a_slow_feed_keeps_fewer_children_each_time() {
    let mut forest = grown(200, 16, 1);
    let (slow, class, child) = (1..200)
        .find_map(|n| {
            (0..16).find_map(|c| match forest.parent(n, c) {
                Parent::Member(p) if forest.nodes[p as usize].used == 16 => Some((p, c, n)),
                _ => None,
            })
        })
        .unwrap();
    forest.replace(child, class, true);
    check(&forest);
    assert_eq!(forest.nodes[slow as usize].used, 15);
    assert_ne!(forest.parent(child, class), Parent::Member(slow));
    let late = forest.add(peer(500), "");
    forest.attach_all(late);
    assert!(forest.nodes[slow as usize].used <= 15, "nobody new");
}

/// What the members of a forest tell its next keeper, without those that died with the one before.
fn taken_over(before: &Forest, dead: &[Node], zones: u32) -> Forest {
    let mut forest = Forest::new(before.classes);
    forest.hold();
    let living = |n: &Node| !dead.contains(n) && !before.is_gone(*n);
    for n in (0..before.len() as Node).filter(living) {
        let number = u32::from_be_bytes(before.peer(n).0[28..].try_into().unwrap());
        let node = forest.add(before.peer(n), &format!("zone-{}", number % zones));
        forest.attach_all(node);
        if before.is_whole(n) {
            forest.set_whole(node);
        }
    }
    let mut told = Vec::new();
    for n in (0..before.len() as Node).filter(living) {
        for class in 0..before.classes {
            let parent = match before.parent(n, class) {
                Parent::Member(parent) => forest.find(&before.peer(parent)).map(Parent::Member),
                Parent::Source => Some(Parent::Source),
                Parent::None => None,
            };
            let node = forest.find(&before.peer(n)).unwrap();
            told.extend(parent.map(|parent| (node, class, parent)));
        }
    }
    forest.settle(&told, |_, _| true);
    forest
}

#[test]
fn a_forest_is_taken_over_as_it_stands() {
    let before = grown(300, 16, 1);
    let dead = 7;
    let after = taken_over(&before, &[dead], 1);
    check(&after);
    let mut moved = 0;
    for n in (1..300).filter(|n| *n != dead) {
        let node = after.find(&before.peer(n)).unwrap();
        for class in 0..16 {
            let (was, is) = (before.parent(n, class), after.parent(node, class));
            assert_ne!(is, Parent::None, "{n} in {class}");
            let stays = match was {
                Parent::Member(parent) => after.find(&before.peer(parent)).map(Parent::Member),
                other => Some(other),
            };
            moved += usize::from(stays != Some(is));
        }
    }
    // Those that hung on the dead, and a leaf here and there that made room for one of them.
    assert!((1..=2 * 16).contains(&moved), "{moved} edges have changed");
    let most = after.nodes.iter().map(|n| n.used).max().unwrap();
    assert!(most <= nominal_slots(16) + 1, "one feeds {most}");
}

#[test]
fn who_feeds_too_many_hands_on_to_who_has_room_again() {
    let (mut forest, first, second) = (grown(50, 8, 1), 0, 49);
    let most = |forest: &Forest| forest.nodes.iter().map(|n| n.used).max().unwrap();
    // With the second lease holder out, 49 receivers are more than the others have places for.
    forest.set_source(second);
    forest.unset_source(first);
    forest.relieve(second);
    forest.attach_all(first);
    forest.level();
    check(&forest);
    assert!(most(&forest) > nominal_slots(8), "one feeds {}", most(&forest));
    forest.unset_source(second);
    forest.level();
    check(&forest);
    assert_eq!(most(&forest), nominal_slots(8));
}

proptest! {
    #[test]
    fn whatever_happens_the_edges_are_trees(
        steps in prop::collection::vec((0u8..13, any::<prop::sample::Index>(), 0u8..16), 1..200),
        classes in prop::sample::select(vec![1u8, 4, 8, 16]), zones in 1u32..4,
    ) {
        let mut forest = grown(12, classes, zones);
        let mut next = 12;
        for (what, who, class) in steps {
            let node = who.index(forest.len()) as Node;
            match what {
                0..=3 => {
                    let node = forest.add(peer(next), &format!("zone-{}", next % zones));
                    forest.attach_all(node);
                    next += 1;
                }
                4 | 5 => forest.set_whole(node),
                6 => forest.remove(node),
                7 if forest.parent(node, class % classes) != Parent::None => {
                    forest.replace(node, class % classes, true);
                }
                8 if forest.parent(node, class % classes) != Parent::None => {
                    forest.replace(node, class % classes, false);
                }
                9 => forest.demote(node),
                10 => forest.relieve(node),
                11 => forest = taken_over(&forest, &[node], zones),
                12 => forest.level(),
                _ => {}
            }
            check(&forest);
        }
    }
}
