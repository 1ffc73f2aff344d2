//! Who the others are: carries the packets of the membership, and hands the engine what members say.
//!
//! Invariant: this task waits for nothing but events, the membership's next wakeup, a round of discovery and the farewells of
//! those who are gone; what it hands to the driver waits in the driver's inbox, which holds back the network when it is full.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shoal_engine::membership::{Event, Input as Happening, Output as Task};
use shoal_engine::peer::{Member, PeerId, Roster};
use shoal_engine::wire::{self as messages, Message};
use shoal_engine::{Input, Membership, Time};
use shoal_net::discovery::{Discovery, Found, Pace, SystemResolver, Target};
use shoal_net::{Class, NetEvent};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Swarm;
use super::beliefs::{Beliefs, Question};
use super::news::Rejected;
use crate::driver::Handle;
use crate::due::until;

/// Strangers that are called in one round of discovery. Whoever is met knows the rest.
const CONTACTS_PER_ROUND_MAX: usize = 6;
/// Pause between two lines of the log about the same address, and addresses in that time.
const WARN_EVERY: Duration = Duration::from_secs(60);
const WARNED_MAX: usize = 32;
/// Time from a member's end until the connection to it is closed: what it said last has been read by then, and nobody waits for a
/// machine that is not there to acknowledge what was sent to it.
const FAREWELL_MAX: Duration = Duration::from_secs(5);
/// How long the last messages may take to leave when the agent ends.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Addresses of a member that others are told.
const ADDRESSES_MAX: usize = shoal_engine::limits::ADDRESSES_MAX;

/// See the module's head.
pub struct Members {
    swarm: Swarm,
    discovery: Discovery<SystemResolver>,
    secret_file: PathBuf,
    /// What the operator says that others are to be told.
    advertise: Vec<IpAddr>,
    events: mpsc::Receiver<NetEvent>,
    questions: mpsc::Receiver<Question>,
    membership: Membership,
    origin: Instant,
    driver: Handle,
    /// When the log last said that somebody is no member, by address.
    warned: BTreeMap<IpAddr, Instant>,
    /// Members that are gone, and when their connections are closed, the next one first.
    gone: VecDeque<(Instant, PeerId)>,
}

impl Members {
    pub fn new(
        swarm: Swarm,
        (join, secret_file, advertise): (Vec<Target>, PathBuf, Vec<IpAddr>),
        (events, questions): (mpsc::Receiver<NetEvent>, mpsc::Receiver<Question>),
        membership: Membership,
        origin: Instant,
        driver: Handle,
    ) -> Self {
        let own: Vec<SocketAddr> =
            swarm.0.net.listening().iter().chain(&swarm.0.me.addresses).copied().collect();
        let discovery = Discovery::new(join, &own, SystemResolver::new());
        let (warned, gone) = (BTreeMap::new(), VecDeque::new());
        Members {
            swarm,
            discovery,
            secret_file,
            advertise,
            events,
            questions,
            membership,
            origin,
            driver,
            warned,
            gone,
        }
    }

    /// Until `stop` is cancelled; then the others are told.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            self.carry_out().await;
            let wakeup = self.membership.next_wakeup().map(|at| self.origin + at.since_origin());
            let forgetting = self.gone.front().map(|(at, _)| *at);
            let pace = if self.membership.members() > 1 { Pace::Settled } else { Pace::Alone };
            tokio::select! {
                () = stop.cancelled() => break,
                event = self.events.recv() => match event {
                    Some(event) => self.handle_event(event).await,
                    None => return,
                },
                Some(question) = self.questions.recv() => {
                    // Whoever asked may not wait any more.
                    let _ = question.send(Beliefs::of(&self.membership, self.now()));
                }
                found = self.discovery.next(pace) => self.handle_found(&found),
                () = until(wakeup) => self.happens(Happening::Wakeup),
                () = until(forgetting) => self.forget_one().await,
            }
        }
        self.happens(Happening::Leave);
        self.carry_out().await;
        self.swarm.0.net.close(CLOSE_TIMEOUT).await;
    }

    async fn handle_event(&mut self, event: NetEvent) {
        match event {
            NetEvent::Met { peer, address, .. } => {
                let peer = PeerId(peer);
                tracing::debug!(?peer, %address, "met");
                self.swarm.0.news.met(&address);
                if !self.swarm.roster().contains(&peer) {
                    self.happens(Happening::Contact { peer });
                }
            }
            NetEvent::Frame { from, bytes } => self.handle_frame(PeerId(from), &bytes).await,
            NetEvent::Lost { peer, why } => {
                let peer = PeerId(peer);
                tracing::debug!(?peer, %why, "the connection to a member broke");
                self.happens(Happening::Unreachable { peer });
                self.driver.input(Input::PeerLost { peer }).await;
            }
            NetEvent::Listening(listening) => self.handle_addresses(&listening),
            NetEvent::Stranger { address, why } => {
                let ip = address.ip();
                if self.is_worth_a_line(ip) {
                    tracing::warn!(%ip, %why, "somebody who does not belong to this cluster was sent away");
                }
                self.swarm.0.news.rejected(address, (&why).into(), why.to_string());
            }
            NetEvent::Missed { address, refused, why } => {
                if refused && self.is_worth_a_line(address.ip()) {
                    let secret_file = self.secret_file.display();
                    tracing::warn!(%address, %secret_file, "a member refuses this agent: it has another secret");
                } else {
                    tracing::debug!(%address, why, "no member was met there");
                }
                self.swarm.0.news.rejected(
                    address,
                    if refused { Rejected::OtherSecret } else { Rejected::Silent },
                    why,
                );
            }
        }
    }

    /// The addresses of this machine have changed. Others are told of it if they know one at which nobody listens any more, for it makes
    /// this node another one to them.
    fn handle_addresses(&mut self, listening: &[SocketAddr]) {
        let me = self.membership.me();
        let addresses = advertised(&self.advertise, listening);
        let is_far = |address: &SocketAddr| !address.ip().is_loopback();
        let is_right = me.addresses.iter().all(|address| listening.contains(address) && is_far(address));
        // Without a far one nobody can be told anything.
        if self.advertise.is_empty() && !is_right && addresses.iter().any(is_far) {
            tracing::info!(?addresses, "the addresses of this node have changed: the others are told");
            let update = Member { addresses: addresses.into(), ..Member::clone(me) };
            self.happens(Happening::Update(update));
        }
    }

    /// Whether the log has not said for a while that whoever is there is no member.
    fn is_worth_a_line(&mut self, ip: IpAddr) -> bool {
        let now = Instant::now();
        self.warned.retain(|_, at| now - *at < WARN_EVERY);
        let is_new = !self.warned.contains_key(&ip) && self.warned.len() < WARNED_MAX;
        if is_new {
            self.warned.insert(ip, now);
        }
        is_new
    }

    async fn handle_frame(&mut self, from: PeerId, bytes: &[u8]) {
        match Message::decode(bytes) {
            Ok(Message::Swim(packet)) => self.happens(Happening::Packet { from, bytes: packet }),
            Ok(message) => {
                let verify = |home: &PeerId, bytes: &[u8], signature: &[u8; 64]| {
                    shoal_net::verify(&home.0, bytes, signature)
                };
                match messages::check(&message, verify) {
                    Ok(()) => self.driver.input(Input::Heard { from, message }).await,
                    Err(forged) => tracing::warn!(?from, %forged, "a member passed on something false"),
                }
            }
            Err(error) => tracing::warn!(?from, %error, "a member said something that is no message"),
        }
    }

    fn handle_found(&mut self, found: &Found) {
        for (target, error) in &found.problems {
            tracing::debug!(?target, %error, "a place where members may be could not be looked up");
        }
        let roster = self.swarm.roster();
        let is_known = |address: &SocketAddr| roster.iter().any(|member| member.addresses.contains(address));
        let strangers = found.addresses.iter().filter(|address| !is_known(address));
        strangers.take(CONTACTS_PER_ROUND_MAX).for_each(|address| self.swarm.0.net.contact(*address));
    }

    /// Closes the connection to the member that has been gone for longest, unless it has come back.
    async fn forget_one(&mut self) {
        if let Some((_, peer)) = self.gone.pop_front()
            && !self.swarm.roster().contains(&peer)
        {
            self.swarm.0.net.forget(peer.0).await;
        }
    }

    fn now(&self) -> Time {
        Time::from_origin(self.origin.elapsed())
    }

    fn happens(&mut self, happening: Happening) {
        let now = self.now();
        self.membership.handle(now, happening);
    }

    async fn carry_out(&mut self) {
        while let Some(task) = self.membership.poll_output() {
            match task {
                Task::Packet { to, bytes } => self.send(&to, bytes),
                Task::Roster(roster) => self.handle_roster(roster).await,
                Task::Answered { peer, after } => {
                    self.swarm.0.round_trips.add(peer, after);
                    self.driver.input(Input::Answered { peer, after }).await;
                }
                Task::Reconnect { peer } => {
                    tracing::debug!(?peer, "a member answers others, but not on its connection");
                    self.swarm.0.net.forget(peer.0).await;
                    self.driver.input(Input::PeerLost { peer }).await;
                }
                Task::Event(event) => {
                    match &event {
                        Event::Down(member) => {
                            self.swarm.0.news.gone();
                            self.gone.push_back((Instant::now() + FAREWELL_MAX, member.peer));
                        }
                        Event::Renewed { .. } => self.swarm.0.news.renewed(),
                        _ => {}
                    }
                    log(&event);
                }
            }
        }
    }

    fn send(&self, to: &Member, packet: Vec<u8>) {
        let frame = Message::Swim(packet).encode();
        if let Err(error) = self.swarm.0.net.send(to.peer.0, &to.addresses, Class::Lossy, frame) {
            tracing::debug!(to = ?to.peer, %error, "a packet of the membership was not sent");
        }
    }

    async fn handle_roster(&mut self, roster: Arc<Roster>) {
        self.swarm.set_roster(Arc::clone(&roster));
        self.driver.input(Input::Roster(roster)).await;
    }
}

fn log(event: &Event) {
    match event {
        Event::Up(member) => {
            tracing::info!(peer = ?member.peer, addresses = ?member.addresses, zone = %member.zone, "a member is there");
        }
        Event::Suspected(peer) => tracing::debug!(?peer, "a member is suspected to be gone"),
        Event::Down(member) => tracing::info!(peer = ?member.peer, "a member is gone"),
        Event::Changed(member) => tracing::debug!(peer = ?member.peer, "a member has changed"),
        Event::Renewed { generation } => {
            tracing::info!(generation, "this node was taken for gone, and came back");
        }
        Event::Alone => tracing::info!("no other member is there"),
        Event::Refused { from, fault } => {
            tracing::warn!(?from, %fault, "a packet of the membership was refused");
        }
        Event::UpdateRefused(fault) => tracing::warn!(%fault, "new details of this node were refused"),
    }
}

/// What others are told: what the operator says, or where the agent listens, best first. Loopback only where there is
/// nothing else.
pub fn advertised(told: &[IpAddr], listening: &[SocketAddr]) -> Vec<SocketAddr> {
    let port = listening.first().map_or(0, SocketAddr::port);
    if !told.is_empty() {
        return told.iter().map(|ip| SocketAddr::new(*ip, port)).take(ADDRESSES_MAX).collect();
    }
    let is_far = |address: &SocketAddr| match address.ip() {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let mut addresses: Vec<SocketAddr> = listening.iter().copied().filter(is_far).collect();
    if addresses.is_empty() {
        addresses = listening.to_vec();
    }
    if let Some(first) = outward() {
        addresses.sort_by_key(|address| address.ip() != first);
    }
    addresses.truncate(ADDRESSES_MAX);
    addresses
}

/// The address from which this machine would talk to another network; nothing is sent.
fn outward() -> Option<IpAddr> {
    // An address of the documentation's (RFC 5737): nobody is there, but it is routed like any other.
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
