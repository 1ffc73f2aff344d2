//! Agents with their standing orders in virtual time: members come and go, copies are told without a network.

use super::*;
use crate::warm::tests::{members, request};

/// When everything begins, Unix milliseconds.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// Between two looks.
const LOOK: u64 = 5;
/// When the orders end, seconds from the beginning.
const UNTIL: u64 = 3600;

fn at(second: u64) -> Now {
    Now { running: Duration::from_secs(second), unix_ms: EPOCH_MS + second * 1000 }
}

fn unix(second: u64) -> u64 {
    EPOCH_MS / 1000 + second
}

/// Members of numbers, of which the test's list has six.
fn some(numbers: &[usize]) -> Vec<Arc<Member>> {
    numbers.iter().map(|number| Arc::clone(&members()[*number])).collect()
}

fn names(due: &Due) -> Vec<String> {
    due.targets.iter().map(|member| name(&member.peer)).collect()
}

/// All six agents, of which some live.
struct Cluster {
    agents: Vec<Standing>,
    folder: tempfile::TempDir,
    alive: BTreeSet<usize>,
    second: u64,
    /// Who began what for how many members, and when.
    begun: Vec<(usize, String, usize, u64)>,
    told: usize,
}

impl Cluster {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Cluster {
            agents: Vec::new(),
            folder,
            alive: (0..members().len()).collect(),
            second: 0,
            begun: Vec::new(),
            told: 0,
        };
        cluster.agents = (0..members().len()).map(|agent| cluster.open(agent)).collect();
        cluster
    }

    fn open(&self, agent: usize) -> Standing {
        let file = self.folder.path().join(format!("{agent}.json"));
        Standing::open(Some(members()[agent].peer), Some(file))
    }

    fn restart(&mut self, agent: usize) {
        self.agents[agent] = self.open(agent);
        self.alive.insert(agent);
    }

    /// An agent is asked for what all members of a choice shall have.
    fn ask(&mut self, agent: usize, id: &str, request: &WarmRequest) {
        let targets: Vec<_> = members().into_iter().filter(|member| request.nodes.fits(member)).collect();
        self.agents[agent].remember(id, request, unix(UNTIL), &targets, at(self.second));
    }

    fn roster(&self) -> Roster {
        Roster::new(self.alive.iter().map(|agent| Arc::clone(&members()[*agent])))
    }

    fn run_until(&mut self, second: u64) {
        let agent_of = |member: &Member| members().iter().position(|m| m.peer == member.peer).unwrap();
        while self.second < second {
            self.second += LOOK;
            let (now, roster) = (at(self.second), self.roster());
            let settled: Vec<_> = roster.iter().cloned().collect();
            for agent in self.alive.clone() {
                let look = self.agents[agent].look(now, &roster, &settled);
                for due in look.due {
                    self.begun.push((agent, due.id, due.targets.len(), self.second));
                }
                for (heir, order) in look.tell {
                    self.told += 1;
                    let (newer, _) = self.agents[agent_of(&heir)].hear(order.clone(), now);
                    self.agents[agent].has_heard(&heir, &order, now);
                    if let Some(newer) = newer {
                        self.agents[agent].hear(newer, now);
                    }
                }
            }
        }
    }

    fn owners(&self, id: &str) -> Vec<usize> {
        let owns = |agent: &usize| {
            let standing = &self.agents[*agent];
            let orders = standing.orders.lock();
            orders.iter().any(|order| order.id == id && order.owner == standing.me && !order.is_over)
        };
        self.alive.iter().copied().filter(owns).collect()
    }

    fn heirs(&self, id: &str) -> Vec<usize> {
        let of = |peer: PeerId| members().iter().position(|member| member.peer == peer).unwrap();
        tag_homes(id, &self.roster()).iter().map(of).collect()
    }
}

#[test]
fn who_joins_is_asked_for_once() {
    let folder = tempfile::tempdir().unwrap();
    let me = members()[5].peer;
    let open = || Standing::open(Some(me), Some(folder.path().join("prewarm.json")));
    let standing = open();
    let (all, roster) = (members(), Roster::new(members()));
    let in_a = request("zone=a");
    standing.remember("0a", &in_a, unix(1000), &all[..2], at(0));
    standing.remember("0b", &request("count=2"), unix(1000), &all[..2], at(0));
    assert!(standing.look(at(10), &roster, &all[..2]).due.is_empty(), "they have been asked for");
    let due = standing.look(at(400), &roster, &all).due;
    assert_eq!(due.len(), 1, "the third of zone a has come; two of all nodes are two");
    assert_eq!(names(&due[0]), [name(&all[2].peer)]);
    assert_eq!((due[0].request.pin_seconds, &due[0].request.images), (Some(600), &in_a.images));
    assert!(standing.look(at(410), &roster, &all).due.is_empty());
    standing.ended("0a", at(411));
    standing.ended("0b", at(411));

    let again = open();
    let due = again.look(at(500), &roster, &all).due;
    assert_eq!(
        due.iter().map(|due| names(due).len()).collect::<Vec<_>>(),
        [3],
        "all of them, after a restart"
    );
    again.forget("0a", at(501));
    assert!(open().look(at(502), &roster, &all).due.is_empty());
    again.remember("0c", &in_a, unix(1000), &[], at(503));
    assert!(again.look(at(1000), &roster, &all).due.is_empty(), "its pins have ended");
}

#[test]
fn what_an_older_version_has_kept_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prewarm.json");
    let request = serde_json::to_value(request("zone=a")).unwrap();
    let kept = serde_json::json!([{"request": request, "until": unix(1000)}]);
    std::fs::write(&file, kept.to_string()).unwrap();
    let standing = Standing::open(Some(members()[0].peer), Some(file));
    let due = standing.look(at(0), &Roster::new(members()), &members()).due;
    assert_eq!(due.iter().map(|due| names(due).len()).collect::<Vec<_>>(), [3]);
}

/// Requests begin and end on several threads at a time; what is on the disk in the end is what there is.
#[test]
fn the_last_word_on_the_disk_is_the_latest() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prewarm.json");
    let standing = Standing::open(Some(members()[0].peer), Some(file.clone()));
    let (request, targets) = (request("count=1"), some(&[0]));
    let round = |round: u64, each: &(dyn Fn(&str) + Sync)| {
        std::thread::scope(|scope| {
            for thread in 0..6 {
                scope.spawn(move || each(&format!("{round}-{thread}")));
            }
        });
        let kept: Vec<Order> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        kept.len()
    };
    for number in 0..8 {
        let begun = |id: &str| standing.remember(id, &request, unix(UNTIL), &targets, at(number));
        assert_eq!(round(number, &begun), 6, "begun in round {number}");
        let over = |id: &str| assert!(standing.forget(id, at(number)), "{id} was known");
        assert_eq!(round(number, &over), 0, "ended in round {number}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left behind");
}

#[test]
fn an_order_has_one_owner_whoever_dies() {
    let mut cluster = Cluster::new();
    cluster.ask(0, "0rder", &request(""));
    cluster.run_until(10);
    let told = cluster.told;
    assert!((2..=3).contains(&told), "as many as are heirs: {told}");
    cluster.run_until(60);
    assert_eq!((cluster.told, cluster.begun.len()), (told, 0), "once a minute is enough");
    // One owner after the other goes for good, with less than a minute between.
    for _ in 0..4 {
        let [owner] = cluster.owners("0rder")[..] else { panic!("{:?}", cluster.owners("0rder")) };
        cluster.alive.remove(&owner);
        let (left, before, died) = (cluster.alive.len(), cluster.begun.len(), cluster.second);
        cluster.run_until(died + 70);
        let [(agent, _, nodes, second)] = &cluster.begun[before..] else { panic!("{:?}", cluster.begun) };
        assert_eq!(cluster.owners("0rder"), [*agent], "of {:?}", cluster.alive);
        assert_eq!(*nodes, left, "it asks for all that are left, once");
        let took = Duration::from_secs(second - died);
        assert!((TAKEOVER_AFTER..TAKEOVER_AFTER + 4 * TAKEOVER_STEP).contains(&took), "{took:?}");
    }
    cluster.run_until(UNTIL + LOOK);
    assert!(
        cluster.agents.iter().enumerate().all(|(agent, standing)| {
            !cluster.alive.contains(&agent) || standing.orders.lock().is_empty()
        })
    );
}

#[test]
fn an_owner_that_comes_back_hears_who_has_taken_over() {
    let mut cluster = Cluster::new();
    cluster.ask(0, "0rder", &request(""));
    cluster.run_until(10);
    // Back before anybody has noticed: it is still its.
    cluster.alive.remove(&0);
    cluster.run_until(20);
    cluster.restart(0);
    cluster.run_until(100);
    assert_eq!(cluster.owners("0rder"), [0]);
    cluster.alive.remove(&0);
    cluster.run_until(200);
    let owners = cluster.owners("0rder");
    assert!(owners.len() == 1 && owners != [0], "{owners:?}");
    cluster.restart(0);
    cluster.run_until(300);
    assert_eq!(cluster.owners("0rder"), owners);
    // What is cancelled while somebody is away stays cancelled.
    let away = owners[0];
    cluster.alive.remove(&away);
    cluster.run_until(400);
    let owner = cluster.owners("0rder")[0];
    cluster.agents[owner].forget("0rder", at(400));
    cluster.run_until(410);
    cluster.restart(away);
    cluster.run_until(500);
    assert_eq!(cluster.owners("0rder"), [0; 0]);
}

#[test]
fn only_heirs_have_copies() {
    let mut cluster = Cluster::new();
    cluster.alive = [0, 1, 2, 3].into();
    cluster.ask(0, "0rder", &request(""));
    cluster.run_until(10);
    cluster.alive = (0..members().len()).collect();
    cluster.run_until(30);
    let has = |agent: &usize| !cluster.agents[*agent].orders.lock().is_empty();
    let having: BTreeSet<usize> = (0..members().len()).filter(has).collect();
    let expected: BTreeSet<usize> = cluster.heirs("0rder").into_iter().chain([0]).collect();
    assert_eq!(having, expected);
    // So each that could take it over hears that it is over.
    cluster.agents[cluster.heirs("0rder")[1]].forget("0rder", at(30));
    cluster.run_until(40);
    cluster.alive.remove(&0);
    cluster.run_until(200);
    assert_eq!(cluster.owners("0rder"), [0; 0]);
}

#[test]
fn what_is_for_certain_nodes_is_gone_on_with_until_it_is_over() {
    let unpinned = |nodes| WarmRequest { pin_seconds: None, ..request(nodes) };
    for (asked, ends) in
        [(unpinned(""), true), (unpinned("zone=a"), true), (request("count=2"), true), (request(""), false)]
    {
        let mut cluster = Cluster::new();
        cluster.ask(0, "0rder", &asked);
        cluster.run_until(10);
        cluster.agents[0].ended("0rder", at(10));
        cluster.run_until(20);
        cluster.alive.remove(&0);
        cluster.run_until(100);
        assert_eq!(cluster.owners("0rder").is_empty(), ends, "{asked:?}");

        let mut cluster = Cluster::new();
        cluster.ask(0, "0rder", &asked);
        cluster.run_until(10);
        cluster.alive.remove(&0);
        cluster.run_until(100);
        assert_eq!(cluster.owners("0rder").len(), 1, "it was under way: {asked:?}");
    }
}

#[test]
fn copies_are_bounded_and_those_of_another_time_are_not_taken() {
    let mut cluster = Cluster::new();
    let heir = cluster.heirs("0")[0];
    let owner = (heir + 1) % members().len();
    cluster.ask(owner, "0", &request(""));
    let order = cluster.agents[owner].orders.lock()[0].clone();
    for number in 0..2 * COPIES_MAX as u64 {
        let copy = Order { id: format!("{number}"), until: order.until + number, ..order.clone() };
        cluster.agents[heir].hear(copy, at(0));
    }
    assert_eq!(cluster.agents[heir].orders.lock().len(), COPIES_MAX);
    let far = Order { id: "far".into(), until: unix(KEEP_MAX.as_secs() + 10), ..order.clone() };
    let past = Order { id: "past".into(), until: unix(0), ..order };
    for wrong in [far, past] {
        cluster.agents[heir].hear(wrong.clone(), at(0));
        assert!(!cluster.agents[heir].orders.lock().iter().any(|order| order.id == wrong.id), "{}", wrong.id);
    }
    for number in 0..2 * OWNED_MAX {
        cluster.agents[owner].remember(
            &format!("own{number}"),
            &request("count=1"),
            unix(UNTIL),
            &some(&[0]),
            at(0),
        );
    }
    assert!(
        cluster.owners("own0").is_empty() && !cluster.owners(&format!("own{}", 2 * OWNED_MAX - 1)).is_empty()
    );
}
