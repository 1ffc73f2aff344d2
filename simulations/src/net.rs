//! Links: how long bytes take from one place to another.
//!
//! Model. A transfer is a run of bytes from one place (a node or the origin) to another, cut in chunks. A place's
//! uplink serves its transfers in turn, one chunk each, so they share it fairly. A chunk then passes the uplink of its
//! zone and that of the other zone, if it leaves the zone, and the receiver's downlink; each of them is a server that
//! works in order of arrival, and bytes flow through without waiting for the chunk's end (cut-through). A transfer has
//! at most [`WINDOW_CHUNKS`] chunks on the way: who reads slowly slows down its own senders and nobody else. A
//! connection may be capped (a registry's limit per connection); its chunks are then spaced out.
//!
//! Not modelled: loss, slow start, header bytes; a figure from here is what a tuned data-centre network allows.

use std::collections::VecDeque;

use crate::queue::{Nanos, nanos};

/// Chunks of one transfer that are on the way at a time: with chunks of 256 KiB about four times what 10 Gbit/s and a
/// round trip of 0.2 ms need.
pub const WINDOW_CHUNKS: u32 = 4;

/// Bytes of a chunk: the grain of sharing. Large pieces are cut in larger chunks, see [`Net::set_chunk`].
pub const CHUNK_BYTES: u64 = 256 << 10;

/// Name of a place: nodes first, then origins.
pub type Place = usize;

/// Name of a running transfer; given out again after its end.
pub type TransferId = usize;

/// What a place's links can do, bytes per second.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    /// Sending.
    pub up: f64,
    /// Receiving.
    pub down: f64,
    /// Index of its zone.
    pub zone: usize,
}

/// What the links between zones can do.
#[derive(Clone, Copy, Debug)]
pub struct ZoneLinks {
    /// Bytes per second out of the zone, and as many into it; infinite for none.
    pub rate: f64,
}

/// What the network asks to be woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetEvent {
    /// A place's uplink is free for the next chunk.
    UplinkFree(Place),
    /// A chunk has arrived in full.
    ChunkArrived {
        /// Of which transfer.
        transfer: TransferId,
        /// Guards against a transfer that has ended and whose name is used again.
        serial: u32,
        /// Its bytes.
        bytes: u32,
    },
    /// A capped connection may send its next chunk.
    Paced {
        /// The transfer.
        transfer: TransferId,
        /// As above.
        serial: u32,
    },
}

/// What the network tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived<T> {
    /// What the transfer carries.
    pub tag: T,
    /// Where it came from.
    pub from: Place,
    /// Where it has arrived.
    pub to: Place,
    /// The transfer.
    pub transfer: TransferId,
    /// Bytes that arrived just now.
    pub bytes: u64,
    /// Bytes that have arrived in all.
    pub total: u64,
    /// Whether that was the last of it.
    pub done: bool,
}

struct Transfer<T> {
    tag: T,
    from: Place,
    to: Place,
    serial: u32,
    /// Bytes in all.
    bytes: u64,
    unsent: u64,
    unacked: u32,
    arrived: u64,
    /// Bytes per second of its connection; infinite if not capped.
    cap: f64,
    /// When a capped connection may send again.
    paced_until: Nanos,
    queued: bool,
    live: bool,
}

struct Port {
    links: Links,
    busy: bool,
    /// When what has been accepted by the downlink has passed it.
    down_until: Nanos,
    ready: VecDeque<TransferId>,
}

struct ZonePort {
    rate: f64,
    out_until: Nanos,
    in_until: Nanos,
}

/// The network.
pub struct Net<T> {
    ports: Vec<Port>,
    zones: Vec<ZonePort>,
    /// One-way delay from zone to zone, nanoseconds.
    delays: Vec<Vec<Nanos>>,
    transfers: Vec<Transfer<T>>,
    free: Vec<TransferId>,
    /// Bytes that came into each zone from outside.
    into_zone: Vec<u64>,
    planned: Vec<(Nanos, NetEvent)>,
    chunk: u64,
}

impl<T: Copy> Net<T> {
    /// A network of places, zones and one-way delays between zones in seconds.
    pub fn new(places: &[Links], zones: &[ZoneLinks], delays: &[Vec<f64>]) -> Self {
        let port = |links: &Links| Port { links: *links, busy: false, down_until: 0, ready: VecDeque::new() };
        Net {
            ports: places.iter().map(port).collect(),
            zones: zones.iter().map(|z| ZonePort { rate: z.rate, out_until: 0, in_until: 0 }).collect(),
            delays: delays.iter().map(|row| row.iter().map(|d| nanos(*d)).collect()).collect(),
            transfers: Vec::new(),
            free: Vec::new(),
            into_zone: vec![0; zones.len()],
            planned: Vec::new(),
            chunk: CHUNK_BYTES,
        }
    }

    /// Changes the grain of sharing: a quarter of what is usually sent at a time is fine enough.
    pub fn set_chunk(&mut self, bytes: u64) {
        self.chunk = bytes.max(CHUNK_BYTES);
    }

    /// One-way delay between two places.
    pub fn delay(&self, from: Place, to: Place) -> Nanos {
        self.delays[self.ports[from].links.zone][self.ports[to].links.zone]
    }

    /// Zone of a place.
    pub fn zone(&self, place: Place) -> usize {
        self.ports[place].links.zone
    }

    /// Changes what a place's links can do.
    pub fn set_links(&mut self, place: Place, links: Links) {
        self.ports[place].links = links;
    }

    /// Bytes that came into each zone from other zones.
    pub fn into_zone(&self) -> &[u64] {
        &self.into_zone
    }

    /// What is to be planned after a call; empty afterwards.
    pub fn drain_planned(&mut self) -> std::vec::Drain<'_, (Nanos, NetEvent)> {
        self.planned.drain(..)
    }

    /// Starts a transfer of at least one byte. `cap` limits its connection, bytes per second.
    pub fn start(&mut self, now: Nanos, from: Place, to: Place, bytes: u64, cap: f64, tag: T) -> TransferId {
        debug_assert!(bytes > 0, "an empty transfer");
        let mut transfer = Transfer {
            tag,
            from,
            to,
            serial: 0,
            bytes,
            unsent: bytes,
            unacked: 0,
            arrived: 0,
            cap,
            paced_until: 0,
            queued: false,
            live: true,
        };
        let id = match self.free.pop() {
            Some(id) => {
                transfer.serial = self.transfers[id].serial + 1;
                self.transfers[id] = transfer;
                id
            }
            None => {
                self.transfers.push(transfer);
                self.transfers.len() - 1
            }
        };
        self.queue(now, id);
        id
    }

    /// Sends nothing of a transfer beyond `bytes` that has not been sent yet. True if nothing more of it will arrive:
    /// the transfer has ended.
    pub fn trim(&mut self, id: TransferId, bytes: u64) -> bool {
        let t = &mut self.transfers[id];
        let sent = t.bytes - t.unsent;
        t.bytes = t.bytes.min(bytes.max(sent));
        t.unsent = t.bytes - sent;
        let over = t.live && t.unsent == 0 && t.unacked == 0;
        if over {
            self.stop(id);
        }
        over
    }

    /// Ends a transfer: nothing of it arrives any more.
    pub fn stop(&mut self, id: TransferId) {
        let t = &mut self.transfers[id];
        if t.live {
            t.live = false;
            t.serial += 1;
            self.release(id);
        }
    }

    /// Ends all transfers from and to a place, and answers what they carried.
    pub fn stop_all(&mut self, place: Place) -> Vec<(T, Place, Place)> {
        self.stop_where(|_, from, to| from == place || to == place)
    }

    /// Ends all transfers between places of which `which` is true, and answers what they carried.
    pub fn stop_where(&mut self, which: impl Fn(&Self, Place, Place) -> bool) -> Vec<(T, Place, Place)> {
        let mut stopped = Vec::new();
        for id in 0..self.transfers.len() {
            let t = &self.transfers[id];
            let (tag, from, to) = (t.tag, t.from, t.to);
            if t.live && which(self, from, to) {
                stopped.push((tag, from, to));
                self.stop(id);
            }
        }
        stopped
    }

    /// Bytes of a transfer that have arrived.
    pub fn arrived(&self, id: TransferId) -> u64 {
        self.transfers[id].arrived
    }

    /// Something that was planned happens.
    pub fn handle(&mut self, now: Nanos, event: NetEvent) -> Option<Arrived<T>> {
        match event {
            NetEvent::UplinkFree(place) => {
                self.ports[place].busy = false;
                self.serve(now, place);
                None
            }
            NetEvent::Paced { transfer, serial } => {
                if self.is(transfer, serial) {
                    self.queue(now, transfer);
                }
                None
            }
            NetEvent::ChunkArrived { transfer, serial, bytes } => {
                if !self.is(transfer, serial) {
                    return None;
                }
                let t = &mut self.transfers[transfer];
                t.unacked -= 1;
                t.arrived += u64::from(bytes);
                let done = t.unsent == 0 && t.unacked == 0;
                let arrived = Arrived {
                    tag: t.tag,
                    from: t.from,
                    to: t.to,
                    transfer,
                    bytes: u64::from(bytes),
                    total: t.arrived,
                    done,
                };
                if self.ports[t.from].links.zone != self.ports[t.to].links.zone {
                    self.into_zone[self.ports[t.to].links.zone] += u64::from(bytes);
                }
                if done {
                    t.live = false;
                    t.serial += 1;
                    self.release(transfer);
                } else {
                    self.queue(now, transfer);
                }
                Some(arrived)
            }
        }
    }

    fn is(&self, id: TransferId, serial: u32) -> bool {
        self.transfers[id].live && self.transfers[id].serial == serial
    }

    fn release(&mut self, id: TransferId) {
        // One that still stands in the uplink's queue is released when its turn comes.
        if !self.transfers[id].queued {
            self.free.push(id);
        }
    }

    /// Puts a transfer into its sender's queue if it may send.
    fn queue(&mut self, now: Nanos, id: TransferId) {
        let t = &mut self.transfers[id];
        if t.queued || t.unsent == 0 || t.unacked >= WINDOW_CHUNKS || t.paced_until > now {
            return;
        }
        t.queued = true;
        let from = t.from;
        self.ports[from].ready.push_back(id);
        self.serve(now, from);
    }

    fn serve(&mut self, now: Nanos, place: Place) {
        while !self.ports[place].busy {
            let Some(id) = self.ports[place].ready.pop_front() else { return };
            self.transfers[id].queued = false;
            if !self.transfers[id].live {
                self.free.push(id);
            } else if self.transfers[id].unsent > 0 {
                self.send_chunk(now, id);
            }
        }
    }

    fn send_chunk(&mut self, now: Nanos, id: TransferId) {
        let t = &mut self.transfers[id];
        let bytes = t.unsent.min(self.chunk);
        t.unsent -= bytes;
        t.unacked += 1;
        let (from, to, serial) = (t.from, t.to, t.serial);
        let takes = |rate: f64| nanos(bytes as f64 / rate);
        let delay = self.delay(from, to);
        let uplink = self.ports[from].links;
        let up_end = now + takes(uplink.up.min(1e15));
        self.ports[from].busy = true;
        self.planned.push((up_end, NetEvent::UplinkFree(from)));
        // Each server works in order; bytes flow through it while they arrive.
        let (mut first, mut last) = (now, up_end);
        let pass = |until: &mut Nanos, rate: f64, first: &mut Nanos, last: &mut Nanos| {
            let begins = (*until).max(*first);
            let ends = (*last).max(begins + takes(rate));
            (*first, *last) = (begins, ends);
            *until = ends;
        };
        let (zone_from, zone_to) = (uplink.zone, self.ports[to].links.zone);
        if zone_from != zone_to {
            let out = &mut self.zones[zone_from];
            pass(&mut out.out_until, out.rate, &mut first, &mut last);
            let into = &mut self.zones[zone_to];
            pass(&mut into.in_until, into.rate, &mut first, &mut last);
        }
        (first, last) = (first + delay, last + delay);
        let port = &mut self.ports[to];
        pass(&mut port.down_until, port.links.down, &mut first, &mut last);
        let bytes = bytes as u32;
        self.planned.push((last, NetEvent::ChunkArrived { transfer: id, serial, bytes }));

        let t = &mut self.transfers[id];
        if t.cap.is_finite() {
            t.paced_until = t.paced_until.max(now) + nanos(f64::from(bytes) / t.cap);
            if t.unsent > 0 {
                self.planned.push((t.paced_until, NetEvent::Paced { transfer: id, serial }));
            }
        } else if t.unsent > 0 && t.unacked < WINDOW_CHUNKS {
            t.queued = true;
            self.ports[from].ready.push_back(id);
        }
    }
}
