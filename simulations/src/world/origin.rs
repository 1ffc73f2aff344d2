//! The registry: bandwidth, connections, first bytes, limits, outages.

use std::collections::VecDeque;

use shoal_engine::fault::SourceFault;
use shoal_engine::io::FetchFault;
use shoal_engine::{Digest, FetchId, Input};

use super::{Cargo, Happening, NodeId, World, piece_hash};
use crate::net::TransferId;
use crate::queue::{Nanos, SECOND, nanos};
use crate::scenario::Scenario;

/// One request for a body.
pub struct Request {
    node: NodeId,
    life: u32,
    fetch: FetchId,
    layer: usize,
    /// First byte that is sent: 0 where the registry knows no ranges.
    sent_from: u64,
    end: u64,
    transfer: Option<TransferId>,
    /// The node has been told of bytes up to here.
    told: u64,
    over: bool,
}

/// What happens at the registry.
pub enum OriginEvent {
    /// The first byte of an answer leaves.
    Answer(usize),
    /// An outage begins.
    Down,
}

/// State of the registry.
pub struct Origin {
    requests: Vec<Request>,
    /// Requests that wait for a free connection.
    waiting: VecDeque<usize>,
    connections: usize,
    /// When the next request may come without a 429.
    allowance_at: f64,
    /// Bytes sent.
    pub bytes: u64,
    /// Requests for bodies seen.
    pub count: u64,
    /// First and last byte sent, nanoseconds.
    pub busy: Option<(Nanos, Nanos)>,
}

impl Origin {
    /// A registry that has seen nobody.
    pub fn new(_: &Scenario) -> Self {
        Origin {
            requests: Vec::new(),
            waiting: VecDeque::new(),
            connections: 0,
            allowance_at: 0.0,
            bytes: 0,
            count: 0,
            busy: None,
        }
    }
}

impl World<'_> {
    pub(super) fn plan_outages(&mut self) {
        for outage in &self.scenario.origin.outages {
            self.queue.plan(nanos(outage.from), Happening::Origin(OriginEvent::Down));
        }
    }

    fn origin_is_down(&self, now: Nanos, node: NodeId) -> bool {
        let now = now as f64 / SECOND;
        let zone = self.nodes[node].links.zone;
        self.scenario.origin.outages.iter().any(|o| o.from <= now && now < o.until) || self.origin_cut[zone]
    }

    pub(super) fn request_size(&mut self, now: Nanos, node: NodeId, digest: Digest) {
        let at = now + nanos(self.scenario.origin.first_byte);
        let result = match self.origin_is_down(now, node) {
            true => Err(SourceFault::Transient),
            false => Ok(Some(self.layers[self.by_digest[&digest]].size)),
        };
        self.answer(at, node, Input::Sized { digest, result });
    }

    pub(super) fn request(
        &mut self,
        now: Nanos,
        node: NodeId,
        fetch: FetchId,
        digest: Digest,
        start: u64,
        end: Option<u64>,
    ) {
        let origin = &self.scenario.origin;
        let layer = self.by_digest[&digest];
        self.origin.count += 1;
        self.trace(&[4, now, node as u64, start]);
        self.log(now, node, || format!("requests of the origin {} {start}..{end:?}", digest.short()));
        let at = now + nanos(origin.first_byte);
        if self.origin_is_down(now, node) {
            return self.fail(at, node, fetch, SourceFault::Transient);
        }
        if origin.requests_per_s.is_finite() {
            let now_s = now as f64 / SECOND;
            let allowance = self.origin.allowance_at.max(now_s - 1.0);
            if allowance > now_s {
                let retry_after = Some(std::time::Duration::from_secs(1));
                return self.fail(at, node, fetch, SourceFault::RateLimited { retry_after });
            }
            self.origin.allowance_at = allowance + 1.0 / origin.requests_per_s;
        }
        let size = self.layers[layer].size;
        let sent_from = if origin.ranges { start } else { 0 };
        self.origin.requests.push(Request {
            node,
            life: self.nodes[node].life,
            fetch,
            layer,
            sent_from,
            end: end.unwrap_or(size),
            transfer: None,
            told: start,
            over: false,
        });
        let request = self.origin.requests.len() - 1;
        if origin.connections_max.is_some_and(|most| self.origin.connections >= most) {
            self.origin.waiting.push_back(request);
        } else {
            self.origin.connections += 1;
            self.queue.plan(at, Happening::Origin(OriginEvent::Answer(request)));
        }
    }

    fn fail(&mut self, at: Nanos, node: NodeId, fetch: FetchId, fault: SourceFault) {
        self.log(at, node, || format!("is failed by the origin: {fetch:?} {fault:?}"));
        self.answer(at, node, Input::FetchEnded { fetch, result: Err(FetchFault::Source(fault)) });
    }

    pub(super) fn happen_at_origin(&mut self, now: Nanos, event: OriginEvent) {
        match event {
            OriginEvent::Answer(request) => self.answer_request(now, request),
            OriginEvent::Down => {
                for request in 0..self.origin.requests.len() {
                    self.break_request(now, request);
                }
            }
        }
    }

    fn answer_request(&mut self, now: Nanos, request: usize) {
        let r = &self.origin.requests[request];
        let (node, fetch, layer) = (r.node, r.fetch, r.layer);
        let alive = self.nodes[node].is_up() && self.nodes[node].life == r.life && !r.over;
        if !alive {
            return self.close(now, request);
        }
        if self.origin_is_down(now, node) {
            self.close(now, request);
            return self.fail(now, node, fetch, SourceFault::Transient);
        }
        let total = Some(self.layers[layer].size);
        self.input(now, node, Input::FetchOpened { fetch, total });
        let r = &self.origin.requests[request];
        if r.over {
            return;
        }
        let bytes = r.end - r.sent_from;
        let cap = self.scenario.origin.per_connection;
        let place = self.origin_place();
        let transfer = self.net.start(now, place, node, bytes, cap, Cargo::Body { request });
        self.origin.requests[request].transfer = Some(transfer);
        self.origin.busy.get_or_insert((now, now));
    }

    /// Bytes of a body have arrived.
    pub(super) fn arrive_from_origin(&mut self, now: Nanos, request: usize, total: u64, done: bool) {
        let r = &mut self.origin.requests[request];
        let (node, layer, fetch) = (r.node, r.layer, r.fetch);
        let position = (r.sent_from + total).min(r.end);
        if let Some(busy) = &mut self.origin.busy {
            busy.1 = now;
        }
        let len = self.layers[layer].piece_len;
        // Told piece by piece, as a driver would that hashes whole pieces.
        let whole = if position == self.layers[layer].size { position } else { position / len * len };
        let to = if done { position } else { whole };
        let r = &mut self.origin.requests[request];
        if to > r.told {
            let from = r.told;
            r.told = to;
            self.write(now, node, layer, from..to);
            self.input(now, node, Input::Progress { fetch, to });
            self.hashed_pieces(now, node, layer, from, to);
        }
        if done {
            self.count_upstream(request, total);
            self.close(now, request);
            self.input(now, node, Input::FetchEnded { fetch, result: Ok(()) });
        }
    }

    fn hashed_pieces(&mut self, now: Nanos, node: NodeId, layer: usize, from: u64, to: u64) {
        let (len, size, digest) =
            (self.layers[layer].piece_len, self.layers[layer].size, self.layers[layer].digest);
        let first = from / len;
        let end = if to == size { to.div_ceil(len) } else { to / len };
        for piece in first..end {
            let bytes = piece * len..((piece + 1) * len).min(size);
            if self.nodes[node].blobs[layer].written.contains(bytes) {
                let piece = piece as u32;
                let hash = piece_hash(&digest, piece, true);
                self.input(now, node, Input::Hashed { digest, piece, hash });
            }
        }
    }

    pub(super) fn trim_request(&mut self, now: Nanos, node: NodeId, fetch: FetchId, end: u64) {
        let Some(request) = self.find_request(node, fetch) else { return };
        let r = &mut self.origin.requests[request];
        r.end = r.end.min(end.max(r.told));
        let bytes = r.end - r.sent_from;
        if let Some(transfer) = r.transfer
            && self.net.trim(transfer, bytes)
        {
            let total = self.net.arrived(transfer);
            self.count_upstream(request, total);
            self.close(now, request);
            self.inbox.push_back((node, Input::FetchEnded { fetch, result: Ok(()) }));
        }
    }

    pub(super) fn cancel_request(&mut self, now: Nanos, node: NodeId, fetch: FetchId) {
        if let Some(request) = self.find_request(node, fetch) {
            self.stop_request(now, request);
        }
        self.inbox.push_back((node, Input::FetchEnded { fetch, result: Err(FetchFault::Cancelled) }));
    }

    fn find_request(&self, node: NodeId, fetch: FetchId) -> Option<usize> {
        let mine =
            |r: &Request| !r.over && r.node == node && r.fetch == fetch && r.life == self.nodes[node].life;
        self.origin.requests.iter().rposition(mine)
    }

    fn stop_request(&mut self, now: Nanos, request: usize) {
        if let Some(transfer) = self.origin.requests[request].transfer {
            let total = self.net.arrived(transfer);
            self.net.stop(transfer);
            self.count_upstream(request, total);
        }
        self.close(now, request);
    }

    fn break_request(&mut self, now: Nanos, request: usize) {
        let r = &self.origin.requests[request];
        if r.over || r.transfer.is_none() {
            return;
        }
        let (node, fetch) = (r.node, r.fetch);
        self.stop_request(now, request);
        self.fail(now, node, fetch, SourceFault::Interrupted);
    }

    /// A node's process is gone, and its connections with it.
    pub(super) fn stop_requests_of(&mut self, now: Nanos, node: NodeId) {
        for request in 0..self.origin.requests.len() {
            if self.origin.requests[request].node == node && !self.origin.requests[request].over {
                self.stop_request(now, request);
            }
        }
    }

    /// The connections of zones that lose the origin break.
    pub(super) fn break_requests_of_zone(&mut self, now: Nanos, zone: usize) {
        for request in 0..self.origin.requests.len() {
            if self.nodes[self.origin.requests[request].node].links.zone == zone {
                self.break_request(now, request);
            }
        }
    }

    fn count_upstream(&mut self, request: usize, bytes: u64) {
        if self.origin.requests[request].over {
            return;
        }
        let node = self.origin.requests[request].node;
        self.origin.bytes += bytes;
        self.nodes[node].outcome.from_origin += bytes;
    }

    fn close(&mut self, now: Nanos, request: usize) {
        if std::mem::replace(&mut self.origin.requests[request].over, true) {
            return;
        }
        match self.origin.waiting.pop_front() {
            Some(next) => {
                let at = now + nanos(self.scenario.origin.first_byte);
                self.queue.plan(at, Happening::Origin(OriginEvent::Answer(next)));
            }
            None => self.origin.connections -= 1,
        }
    }
}
