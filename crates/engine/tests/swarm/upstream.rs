//! Upstream: one registry, and how each node finds it. Transfers are checked to stay inside the leases.

use std::time::Duration;

use shoal_engine::io::FetchFault;
use shoal_engine::pieces::{piece_count, piece_len};
use shoal_engine::swarm::exchange::Standing;
use shoal_engine::swarm::pieces::piece_bytes;
use shoal_engine::{Digest, FetchId, Input, Scope, SourceFault};

use crate::cluster::{BlobNo, Cluster, Event, NodeNo, check, hash};
use crate::node::{Transfer, Upstream};

/// Time without a byte after which the client of upstream gives a transfer up.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of one step of a transfer: pieces and steps do not end together.
const STEP_BYTES: u64 = 100 << 10;

pub fn scope() -> Scope {
    Scope {
        registry: "registry.test".parse().expect("a registry"),
        repository: "library/image".parse().expect("a repository"),
    }
}

impl Cluster {
    pub fn begin_fetch(
        &mut self,
        node: NodeNo,
        fetch: FetchId,
        digest: Digest,
        start: u64,
        end: Option<u64>,
    ) {
        let blob = self.number(digest);
        self.blobs[blob].requests.push((node, start, end));
        self.blobs[blob].asked_at.push(self.now);
        let alone = self.nodes[node].members <= 1;
        let transfer = Transfer { blob, at: start, end, cancelled: false, alone, ending: false };
        let before = self.nodes[node].transfers.insert(fetch, transfer);
        check!(self, before.is_none(), "I4: {fetch:?} is asked for twice");
        let open = self.nodes[node].disk[&blob].place.is_some();
        check!(self, open, "{node} fetches {blob} without a place for it");
        let (time, life) = (self.pace.upstream, self.nodes[node].life);
        self.schedule_about(time, Event::Arrive(node, life, fetch));
    }

    pub fn trim(&mut self, node: NodeNo, fetch: FetchId, end: u64) {
        let Some(transfer) = self.nodes[node].transfers.get_mut(&fetch) else { return };
        transfer.end = Some(transfer.end.map_or(end, |e| e.min(end)));
    }

    pub fn cancel(&mut self, node: NodeNo, fetch: FetchId) {
        let Some(transfer) = self.nodes[node].transfers.get_mut(&fetch) else {
            self.fail(&format!("{node} cancels {fetch:?}, which is not under way"));
        };
        transfer.cancelled = true;
        self.finish(node, fetch, Some(FetchFault::Cancelled));
    }

    /// Decides how a transfer ends; the engine hears of it in a moment.
    fn finish(&mut self, node: NodeNo, fetch: FetchId, fault: Option<FetchFault>) {
        let transfer = self.nodes[node].transfers.get_mut(&fetch).expect("under way");
        if std::mem::replace(&mut transfer.ending, true) {
            return;
        }
        let life = self.nodes[node].life;
        self.schedule(Duration::from_micros(100), Event::End(node, life, fetch, fault));
    }

    pub fn end_transfer(&mut self, node: NodeNo, fetch: FetchId, fault: Option<FetchFault>) {
        let Some(transfer) = self.nodes[node].transfers.remove(&fetch) else { return };
        if let Some(FetchFault::Source(fault)) = &fault {
            self.ledger.upstream_failed(transfer.blob, fault.clone());
        }
        self.input(node, Input::FetchEnded { fetch, result: fault.map_or(Ok(()), Err) });
    }

    pub fn arrive(&mut self, node: NodeNo, fetch: FetchId) {
        if self.nodes[node].transfers.get(&fetch).is_none_or(|t| t.ending) {
            return;
        }
        if let Upstream::Fails(fault) = self.nodes[node].upstream.clone() {
            return self.finish(node, fetch, Some(FetchFault::Source(fault)));
        }
        let transfer = &self.nodes[node].transfers[&fetch];
        let total = self.blobs[transfer.blob].size;
        let life = self.nodes[node].life;
        self.schedule(Duration::ZERO, Event::Step(node, life, fetch));
        self.input(node, Input::FetchOpened { fetch, total: Some(total) });
    }

    pub fn step_transfer(&mut self, node: NodeNo, fetch: FetchId) {
        let Some(transfer) = self.nodes[node].transfers.get(&fetch).filter(|t| !t.ending).cloned() else {
            return;
        };
        let size = self.blobs[transfer.blob].size;
        let stop = transfer.end.unwrap_or(size).min(size);
        let wrong = match self.nodes[node].upstream.clone() {
            Upstream::Works => false,
            Upstream::Wrong => true,
            Upstream::Fails(_) => {
                return self.finish(node, fetch, Some(FetchFault::Source(SourceFault::Interrupted)));
            }
            Upstream::Stalls => {
                let fault = FetchFault::Source(SourceFault::Interrupted);
                // A transfer that upstream goes on with in time goes on; else it is given up.
                let life = self.nodes[node].life;
                return self.schedule(IDLE_TIMEOUT, Event::End(node, life, fetch, Some(fault)));
            }
        };
        let to = (transfer.at + STEP_BYTES).min(stop).max(transfer.at);
        if to > transfer.at {
            self.write(node, fetch, to, wrong);
        }
        // The engine may have ended it in the meantime.
        let Some(transfer) = self.nodes[node].transfers.get(&fetch).filter(|t| !t.ending) else { return };
        if to >= transfer.end.unwrap_or(size).min(size) {
            let short = transfer.end.is_some_and(|end| end > size);
            let fault = short.then_some(FetchFault::Source(SourceFault::Interrupted));
            self.finish(node, fetch, fault);
        } else {
            let pace = self.nodes[node].paces.get(&transfer.blob).filter(|pace| pace.upstream > 0);
            let rate = pace.map_or(self.pace.upstream_rate, |pace| pace.upstream as f64);
            let time = Duration::from_secs_f64(STEP_BYTES as f64 / rate);
            let life = self.nodes[node].life;
            self.schedule_about(time, Event::Step(node, life, fetch));
        }
    }

    fn write(&mut self, node: NodeNo, fetch: FetchId, to: u64, wrong: bool) {
        let transfer = self.nodes[node].transfers.get_mut(&fetch).expect("under way");
        let (from, blob) = (std::mem::replace(&mut transfer.at, to), transfer.blob);
        let size = self.blobs[blob].size;
        self.blobs[blob].fetched += to - from;
        let disk = self.nodes[node].disk.get_mut(&blob).expect("seen when it began");
        let Some(place) = &mut disk.place else { self.fail("bytes for a closed place") };
        let before = place.written.len();
        place.written.insert(from..to);
        self.blobs[blob].fetched_twice += (to - from) - (place.written.len() - before);
        let len = piece_len(size);
        let touched = (from / len) as u32..=((to - 1) / len) as u32;
        if wrong {
            place.wrong.extend(touched.clone());
            self.ledger.wrong_upstream(node, blob);
        }
        let mut hashed = Vec::new();
        for piece in touched.filter(|p| *p < piece_count(size) as u32) {
            if place.written.contains(piece_bytes(size, piece)) && place.hashed.insert(piece) {
                hashed.push(piece);
            }
        }
        self.input(node, Input::Progress { fetch, to });
        let (time, life) = (self.pace.hashing, self.nodes[node].life);
        for piece in hashed {
            match time.is_zero() {
                true => self.hashed(node, blob, piece),
                false => self.schedule_about(time, Event::Hash(node, life, blob, piece)),
            }
        }
    }

    /// The hash of a piece is known; of no interest any more if its place has been closed.
    pub fn hashed(&mut self, node: NodeNo, blob: BlobNo, piece: u32) {
        let Some(place) = self.nodes[node].disk.get(&blob).and_then(|d| d.place.as_ref()) else { return };
        if place.hashed.contains(&piece) {
            let (digest, hash) = (self.blobs[blob].digest, hash(blob, piece, place.wrong.contains(&piece)));
            self.input(node, Input::Hashed { digest, piece, hash });
        }
    }

    pub fn answer_size(&mut self, node: NodeNo, blob: BlobNo) {
        let digest = self.blobs[blob].digest;
        self.nodes[node].disk.get_mut(&blob).expect("it was asked").busy = None;
        let result = match self.nodes[node].upstream.clone() {
            Upstream::Fails(fault) => {
                self.ledger.upstream_failed(blob, fault.clone());
                Err(fault)
            }
            _ => Ok(Some(self.blobs[blob].size)),
        };
        self.input(node, Input::Sized { digest, result });
    }

    /// Nothing is asked of upstream outside a lease, unless the node works alone.
    pub fn check_transfers(&self, number: NodeNo) {
        let node = &self.nodes[number];
        let Some(engine) = &node.engine else { return };
        for (fetch, transfer) in node.transfers.iter().filter(|(_, t)| !t.cancelled && !t.ending) {
            let digest = self.blobs[transfer.blob].digest;
            let swarm = engine.swarm().expect("it has a name");
            let size = self.blobs[transfer.blob].size;
            let rest = transfer.at..transfer.end.unwrap_or(size);
            let Some(exchange) = swarm.exchange(&digest) else {
                let asks_first =
                    node.members > 1 && self.wants_whole(number, transfer.blob) && !node.draining;
                let excused = transfer.alone || self.ledger.was_alone(number, transfer.blob);
                check!(self, !asks_first || excused, "{number}: {fetch:?} asks upstream before the members");
                continue;
            };
            if matches!(exchange.standing(), Standing::Alone(_)) || rest.is_empty() {
                continue;
            }
            // A transfer that has begun passes over what a member has brought in the meantime.
            let mut leased: shoal_engine::ByteRanges = swarm.fetchable(&digest).into_iter().collect();
            let place = node.disk[&transfer.blob].place.as_ref();
            place.into_iter().flat_map(|p| p.written.iter()).for_each(|range| leased.insert(range));
            check!(
                self,
                leased.contains(rest.clone()),
                "{number}: {fetch:?} asks upstream for {rest:?}, and may for {leased:?}"
            );
        }
    }

    fn wants_whole(&self, node: NodeNo, blob: BlobNo) -> bool {
        let mine = |c: &&crate::node::Client| c.node == node && c.blob == blob && c.is_open();
        self.clients.values().filter(mine).any(|c| c.part.wants_whole(self.blobs[blob].size))
    }
}
