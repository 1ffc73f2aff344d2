//! A second implementation by the words of `docs/WIRE.md` alone. It is a member beside an agent: joins, answers, is suspected and objects,
//! leaves and comes back; and it has a blob's home tell it who has the blob, and what its pieces have to be. Nothing but TLS and its
//! keys is shared with the agents.

mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use shoal_net::{Identity, Key};
use shoal_tests::agent::{Agent, Setup, shoal};
use shoal_tests::cluster::{Cluster, DATA_PORT, PORT};
use shoal_tests::control::{Control, name_of};
use shoal_tests::origin::Origin;
use shoal_tests::{place, wait};

use super::prewarm::{json as told_by, socket};
use super::{HEARD_MAX, REPOSITORY, one_layer};
use words::{
    ACK, ANNOUNCE, Details, FEED, GONE, GOSSIP, HAIL, HASHES, HAVE, HERE, INQUIRE, JOIN, KNOWN, PING, Packet,
    Rest, SUSPECTED, SWIM, WELCOME, WHOLE, Welcome, YOU_ARE_GONE, digest, hex, mix, number, prefix, sized,
    weight,
};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longer than it takes until one that does not answer is gone: two probes, and the suspicion.
const CALM: Duration = Duration::from_millis(2 * 750 + 4500 + 1000);
/// Times a connection is made until it is let in: where somebody stands still for seconds, the other hangs up.
const CALLS_MAX: usize = 5;
const AGENTS_ZONE: &str = "the-zone-of-the-agent";

// ---- Admission ----

/// What a member shows beside its key.
fn proof(secret: &[u8], key: &Key) -> Vec<u8> {
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let shown = [&b"shoal admission proof 1\0"[..], &key[..]].concat();
    ring::hmac::sign(&secret, &shown).as_ref().to_vec()
}

/// The agent beside it, and what it has told of itself.
struct Other {
    at: SocketAddr,
    key: Key,
    proof: Vec<u8>,
    /// 0 until it has said something.
    generation: u64,
    details: Option<Details>,
    view: u64,
}

/// What is done with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// What the page says.
    Right,
    /// No probe is answered, until it hears that it is suspected.
    Mute,
    /// It has left, and says nothing.
    Away,
}

/// The member.
struct Second {
    identity: Identity,
    proof: Vec<u8>,
    details: Details,
    generation: u64,
    incarnation: u16,
    agent: Other,
    control: Control,
    /// How often the connection had to be made again.
    calls: u32,
    manner: Manner,
    suspicions: u32,
    /// Since when it has not been suspected, nor taken for gone; and how many probes it has answered since.
    calm: Instant,
    answers: u32,
    /// Its own probes: the number of the last, those that are not answered, and how many are.
    probe: u8,
    unanswered: BTreeSet<u8>,
    answered: u32,
    /// Lists of members that it was sent.
    lists: u32,
    /// All other messages, by their numbers.
    heard: Vec<(u8, Vec<u8>)>,
}

/// A connection on which both have shown their proofs.
async fn admitted(agent: &Other, identity: &Identity, proof: &[u8]) -> Control {
    for _ in 0..CALLS_MAX {
        let mut control = Control::reach(agent.at, identity, agent.key).await;
        control.tell(proof).await;
        let shown = tokio::time::timeout(PATIENCE, control.frame()).await.expect("it answers or hangs up");
        if let Some(shown) = shown {
            assert_eq!(shown, agent.proof, "the proof of the agent");
            return control;
        }
    }
    panic!("the agent has hung up {CALLS_MAX} times");
}

impl Second {
    /// Joins the cluster's only agent.
    async fn join(cluster: &Cluster, identity: Identity) -> Self {
        let agent = &cluster.agents[0];
        let file = std::fs::read(cluster.secret_file()).expect("it is there");
        let secret = file.strip_suffix(b"\n").unwrap_or(&file);
        let (at, key) = (SocketAddr::new(agent.address().ip(), PORT), name_of(agent));
        let (own, others) = (proof(secret, &identity.peer()), proof(secret, &key));
        let agent = Other { at, key, proof: others, generation: 0, details: None, view: 0 };
        let started = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
        let details = Details {
            // Nobody listens there: the only connection is the one that it makes.
            addresses: vec![SocketAddr::from((place::loopback(), PORT))],
            data_port: 5999,
            zone: "the-zone-of-the-second".to_owned(),
            labels: vec![("kind".to_owned(), "second".to_owned()), ("pool".to_owned(), "gpu".to_owned())],
            version: "second 0.1".to_owned(),
        };
        let control = admitted(&agent, &identity, &own).await;
        let mut second = Second {
            identity,
            proof: own,
            details,
            generation: started.as_millis() as u64,
            incarnation: 0,
            agent,
            control,
            calls: 0,
            manner: Manner::Right,
            suspicions: 0,
            calm: Instant::now(),
            answers: 0,
            probe: 0,
            unanswered: BTreeSet::new(),
            answered: 0,
            lists: 0,
            heard: Vec::new(),
        };
        second.send(ANNOUNCE, 0, &[]).await;
        second
    }

    fn name(&self) -> String {
        hex(&self.identity.peer())
    }

    /// What is lost with it: what was said on the connection, and what others keep of a member's life.
    fn life(&self) -> (u32, u64) {
        (self.calls, self.generation)
    }

    /// The fingerprint of its list of members.
    fn view(&self) -> u64 {
        let agent = (self.agent.generation > 0).then_some((self.agent.key, self.agent.generation));
        let all = agent.into_iter().chain([(self.identity.peer(), self.generation)]);
        all.fold(0, |view, (key, generation)| view ^ mix(prefix(&key) ^ mix(generation)))
    }

    // ---- what it says ----

    async fn say(&mut self, message: u8, fields: &[u8]) {
        self.control.tell(&[&[1, message][..], fields].concat()).await;
    }

    /// Sends the agent a packet.
    async fn send(&mut self, kind: u8, probe: u8, updates: &[Vec<u8>]) {
        let mut packet = vec![1];
        packet.extend(self.view().to_be_bytes());
        packet.extend([kind, probe]);
        packet.extend(self.incarnation.to_be_bytes());
        packet.extend(self.member());
        packet.extend(self.agent.key);
        packet.extend(self.agent.generation.to_be_bytes());
        if ![ANNOUNCE, YOU_ARE_GONE].contains(&kind) {
            packet.extend((updates.len() as u16).to_be_bytes());
            packet.extend(updates.concat());
        }
        self.say(SWIM, &[number(packet.len() as u64), packet].concat()).await;
    }

    fn member(&self) -> Vec<u8> {
        let details = self.details.written();
        let length = (details.len() as u16).to_be_bytes();
        [&self.identity.peer()[..], &self.generation.to_be_bytes()[..], &length[..], &details[..]].concat()
    }

    /// That this life is over.
    fn obituary(&self) -> Vec<u8> {
        [self.incarnation.to_be_bytes().to_vec(), vec![GONE], self.member()].concat()
    }

    async fn leave(&mut self) {
        let obituary = self.obituary();
        self.send(GOSSIP, 0, &[obituary]).await;
        self.manner = Manner::Away;
    }

    /// Begins the life after one that others know of.
    async fn live_on(&mut self, after: u64) {
        let obituary = self.obituary();
        (self.generation, self.incarnation) = (after + 1, 0);
        (self.calm, self.answers) = (Instant::now(), 0);
        self.send(ANNOUNCE, 0, &[]).await;
        self.send(GOSSIP, 0, &[obituary]).await;
    }

    // ---- what it hears ----

    /// Lives until this is so.
    async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            let left = PATIENCE.saturating_sub(start.elapsed());
            let frame = tokio::time::timeout(left, self.control.frame()).await;
            self.hear(frame.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain for {what}"))).await;
        }
    }

    /// Lives while something else is waited for.
    async fn during<T>(&mut self, wait: impl Future<Output = T>) -> T {
        let mut wait = std::pin::pin!(wait);
        loop {
            tokio::select! {
                found = &mut wait => return found,
                frame = self.control.frame() => self.hear(frame).await,
            }
        }
    }

    async fn hear(&mut self, frame: Option<Vec<u8>>) {
        let Some(frame) = frame else {
            println!("the connection broke, and is made again");
            self.control = admitted(&self.agent, &self.identity, &self.proof).await;
            self.calls += 1;
            return self.send(ANNOUNCE, 0, &[]).await;
        };
        let [1, message, fields @ ..] = &frame[..] else { panic!("no message of version 1: {frame:?}") };
        match *message {
            SWIM => {
                let mut rest = Rest(fields);
                let packet = Rest(rest.bytes()).packet();
                rest.end();
                self.hear_packet(packet).await;
            }
            HAIL => self.say(HERE, &[]).await,
            // Nobody has it, nobody receives it, and there is no better home.
            INQUIRE => self.say(KNOWN, &[fields, &[0; 4][..]].concat()).await,
            message => self.heard.push((message, fields.to_vec())),
        }
    }

    async fn hear_packet(&mut self, packet: Packet) {
        let (own, receiver) = (self.identity.peer(), packet.receiver);
        assert_eq!((packet.sender.0, receiver.0), (self.agent.key, own), "of whom and for whom");
        (self.agent.generation, self.agent.view) = (packet.sender.1, packet.view);
        self.agent.details = Some(packet.details);
        if self.manner == Manner::Away {
            return;
        }
        let of_own: Vec<_> = packet.updates.iter().filter(|update| update.name.0 == own).collect();
        let latest = of_own.iter().map(|update| update.name.1).chain([receiver.1]).max().unwrap_or_default();
        if latest > self.generation {
            return self.live_on(latest).await;
        }
        if receiver.1 != self.generation && packet.kind != ANNOUNCE {
            // It is for an earlier life.
            return;
        }
        let says = |state: u8| {
            let of_this_life = of_own.iter().filter(|update| update.name.1 == self.generation);
            of_this_life.filter(move |update| update.state == state).map(|update| update.incarnation).max()
        };
        if packet.kind == YOU_ARE_GONE || says(GONE).is_some() {
            return self.live_on(self.generation).await;
        }
        if let Some(incarnation) = says(SUSPECTED).filter(|incarnation| *incarnation >= self.incarnation) {
            self.incarnation = incarnation + 1;
            self.suspicions += 1;
            (self.calm, self.answers) = (Instant::now(), 0);
            self.manner = Manner::Right;
            self.send(GOSSIP, 0, &[]).await;
        }
        match packet.kind {
            PING if self.manner == Manner::Right => {
                self.send(ACK, packet.probe, &[]).await;
                self.answers += 1;
                self.probe = self.probe.wrapping_add(1);
                self.unanswered.insert(self.probe);
                self.send(PING, self.probe, &[]).await;
            }
            ACK => {
                assert!(self.unanswered.remove(&packet.probe), "nobody has asked by {}", packet.probe);
                self.answered += 1;
            }
            ANNOUNCE => self.send(FEED, 0, &[]).await,
            FEED => {
                assert!(packet.updates.is_empty(), "nobody is there but the two");
                self.lists += 1;
            }
            _ => {}
        }
    }

    fn heard(&self, message: u8) -> impl Iterator<Item = Rest<'_>> {
        self.heard.iter().filter(move |(number, _)| *number == message).map(|(_, fields)| Rest(fields))
    }

    /// Blobs that it was told of as a home, as they are written.
    fn told_of(&self) -> BTreeSet<Vec<u8>> {
        let blob = |rest: &mut Rest<'_>| [&rest.array::<33>()[..], &number(rest.number())[..]].concat();
        self.heard(HAVE).flat_map(|mut rest| rest.list(blob)).collect()
    }
}

// ---- Tests ----

/// Waits until an agent knows a member as alive and how far away it is, and shows all that it has told of itself.
async fn until_shown(agent: &Agent, name: &str, details: &Details) {
    let labels: BTreeMap<_, _> = details.labels.iter().cloned().collect();
    let expected = json!([details.addresses, details.data_port, details.zone, labels, details.version]);
    let socket = socket(agent);
    wait::until(format!("{name} to be alive"), HEARD_MAX, || async {
        let told = told_by(&shoal(&["peers", "--json", "--socket", &socket]).await.expect_ok("shoal peers"));
        let mut members = told["members"].as_array().into_iter().flatten();
        let Some(member) = members.find(|member| member["peer"] == name) else { return false };
        let shown = ["addresses", "data_port", "zone", "labels", "version"].map(|key| member[key].clone());
        assert_eq!(Value::from(shown.to_vec()), expected);
        member["state"] == "alive" && member["latency_ms"].is_number()
    })
    .await;
}

/// The examples on the page are what is written here.
#[test]
fn the_examples_of_the_page_are_right() {
    assert_eq!(mix(1), 0x5692_161d_100b_05e5);
    let addresses = ["10.0.0.7:5001", "[fd00::7]:5001"];
    let details = Details {
        addresses: addresses.map(|address| address.parse::<SocketAddr>().expect("an address")).to_vec(),
        data_port: 5002,
        zone: "zone-a".to_owned(),
        labels: vec![("pool".to_owned(), "gpu".to_owned())],
        version: "1.2.3".to_owned(),
    };
    let written = concat!(
        "02000a000007fb891301fd000000000000000000000000000007fb8913fb8a13067a6f6e652d61",
        "0104706f6f6c0367707505312e322e33"
    );
    assert_eq!(hex(&details.written()), written);
    assert_eq!(Details::read(&details.written()), details);
    assert_eq!(number(251), [0xfb, 0xfb, 0]);
}

/// It joins, and each knows all of the other; it is suspected while it is mute, objects, and is not suspected any more; it leaves, and
/// comes back in another life.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_knows_the_page_can_be_a_member() {
    let origin = Origin::start().await;
    let zoned = |_, setup: Setup| setup.set("swarm.zone", AGENTS_ZONE);
    let cluster = Cluster::start_with(&origin.url(), 1, zoned).await;
    let (agent, admins) = (&cluster.agents[0], cluster.admins());
    let mut second = Second::join(&cluster, Identity::ephemeral().expect("a key")).await;
    let (name, details) = (second.name(), second.details.clone());

    second.say(HAIL, &[]).await;
    second.until("an answer to Hail", |second| second.heard(HERE).next().is_some()).await;
    second.until("a list of members", |second| second.lists > 0).await;
    let told = second.agent.details.clone().expect("it has said something");
    let expected = Details {
        addresses: vec![SocketAddr::new(agent.address().ip(), PORT)],
        data_port: DATA_PORT,
        zone: AGENTS_ZONE.to_owned(),
        labels: Vec::new(),
        version: second.during(admins[0].status()).await.expect("the agent runs").version,
    };
    assert_eq!(told, expected);
    second.during(cluster.until_met(2)).await;
    second.until("both lists to be the same", |second| second.agent.view == second.view()).await;

    let before = second.suspicions;
    second.manner = Manner::Mute;
    second.until("it to be suspected", |second| second.suspicions > before).await;
    let is_left_alone = |second: &Second| {
        // Who does not answer, or whose objection does not count, does not come that far.
        second.calm.elapsed() > CALM && second.answers > 3 && second.answered > 3
    };
    second.until("it to be left alone", is_left_alone).await;
    second.during(until_shown(agent, &name, &details)).await;

    let life = second.generation;
    second.leave().await;
    second.during(cluster.until_met(1)).await;
    second.manner = Manner::Right;
    second.send(GOSSIP, 0, &[]).await;
    second.until("it to hear that it is gone", |second| second.generation > life).await;
    second.during(cluster.until_met(2)).await;
    second.during(until_shown(agent, &name, &details)).await;
    second.until("both lists to be the same", |second| second.agent.view == second.view()).await;
}

/// It joins a blob's home, is told who feeds it and what the pieces are, and says that it has all of it, which the home counts. As a home
/// itself it is told what the agent has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_knows_the_page_is_told_of_a_blob() {
    const PIECE_BYTES: usize = 256 << 10;
    const PIECES: u32 = 23;
    const CLASSES: u8 = 4;
    let (origin, image) = one_layer(1630, 6_000_000).await;
    let cluster = Cluster::start(&origin.url(), 1).await;
    cluster.pull([0], REPOSITORY, &image).await;
    let (agent, layer) = (&cluster.agents[0], &image.layers[0]);
    agent.until_idle().await;

    // The agent is the home that is asked first.
    let home = name_of(agent);
    let identity = loop {
        let identity = Identity::ephemeral().expect("a key");
        if weight(layer, &identity.peer()) < weight(layer, &home) {
            break identity;
        }
    };
    let mut second = Second::join(&cluster, identity).await;
    second.during(cluster.until_met(2)).await;

    // It has nothing, works on nothing, was in no book, does not insist and is fed by nobody.
    let join = [sized(layer), vec![0; 5]].concat();
    let has_all = |second: &Second| {
        let entries = second.heard(HASHES).flat_map(|rest| rest.hashes().entries);
        entries.map(|(piece, _)| piece).collect::<BTreeSet<_>>().len() == PIECES as usize
    };
    loop {
        // What a home has said is lost with the connection, and what it knows of a member with its life: one of the two stood still.
        let life = second.life();
        second.heard.retain(|(message, _)| *message == HAVE);
        second.say(JOIN, &join).await;
        second.until("all hashes", |second| second.life() != life || has_all(second)).await;
        if second.life() == life {
            break;
        }
    }
    let welcome = second.heard(WELCOME).last().expect("hashes come behind it").welcome();
    let list = welcome.list;
    let feeds = (0..CLASSES).map(|class| (class, vec![(home, 0, u64::from(PIECES))])).collect();
    assert_eq!(welcome, Welcome { digest: digest(layer), classes: CLASSES, list, feeds });
    let mut listed = BTreeMap::new();
    for hashes in second.heard(HASHES).map(Rest::hashes) {
        assert_eq!((&hashes.digest, hashes.home, hashes.list), (&welcome.digest, home, list));
        assert!(hashes.is_signed(), "of {} entries", hashes.entries.len());
        listed.extend(hashes.entries);
    }
    let pieces = layer.bytes.chunks(PIECE_BYTES).map(|piece| *blake3::hash(piece).as_bytes());
    assert_eq!(listed, (0..PIECES).zip(pieces).collect::<BTreeMap<_, _>>());

    let socket = socket(agent);
    let explain = ["explain", layer.digest.as_str(), "--json", "--socket", socket.as_str()];
    let homes = json!([hex(&home), second.name()]);
    let start = Instant::now();
    let holders = loop {
        // Said again in case that it was taken for gone meanwhile.
        second.say(WHOLE, &sized(layer)).await;
        let told = told_by(&second.during(shoal(&explain)).await.expect_ok("shoal explain"));
        // Of the two homes only the agent answers.
        let book = &told["books"][0];
        if told["homes"] == homes && book["holder_count"] == 2 {
            break book["holders"].clone();
        }
        assert!(start.elapsed() < HEARD_MAX, "{told}");
    };
    let holders: BTreeSet<_> = holders.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert_eq!(holders, BTreeSet::from([&*hex(&home), &*second.name()]));

    let all: BTreeSet<_> = image.blobs().map(sized).collect();
    second.until("it to be told what the agent has", |second| second.told_of().is_superset(&all)).await;
}
