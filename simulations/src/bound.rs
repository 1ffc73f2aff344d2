//! The bound: the time below which no system can bring an image to all nodes of a scenario.
//!
//! Every time in a report is a multiple of it. It is the largest of the bounds that apply, each of which follows from one
//! thing that cannot be got around, plus, once, the delays that nobody can avoid.
//!
//! With *M* the bytes of the image, *P* its pieces, *N* the nodes that want it, *H* those that hold it, *B* a node's link
//! and *U* the origin:
//!
//! - **swarm**, T\* = (M/B)(1 + ⌊log₂ N⌋/P) (Mundinger, Weber and Weiss, *Optimal scheduling of peer-to-peer file
//!   dissemination*, 2008). A source whose link is B cannot have sent the last of P pieces before M/B. After that moment
//!   the number of nodes that have this piece at most doubles in the time of one piece, M/(P·B), so ⌊log₂ N⌋ such times
//!   pass until the last node has it. With H holders the doubling begins at H nodes. A source that is faster than B may gain at
//!   most those doublings, which are below 4 % of T\* for every scenario here; T\* is quoted for it all the same.
//! - **origin**, M/U: as long as nobody holds the image, every byte has to leave the origin once, over its link and over
//!   as many connections as it allows.
//! - **upload**, N·M/(U + (N+H)·B_up): every byte that is received has been sent. It counts where links are asymmetric.
//! - **zone**, M/uplink: a zone in which nobody holds the image has to take one copy in.
//! - **reader**, M/speed: a client has everything no sooner than it has read it.
//! - **hash**: the largest layer is one stream of SHA-256, which is computed by one core.

use shoal_engine::pieces::piece_count;

use crate::scenario::Scenario;

/// The bounds of a scenario, seconds. One that does not apply is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bound {
    /// T\*.
    pub swarm_s: f64,
    /// One copy out of the origin.
    pub origin_s: f64,
    /// N copies out of everybody's links.
    pub upload_s: f64,
    /// One copy into the zone with the narrowest uplink.
    pub zone_s: f64,
    /// A client's reading.
    pub reader_s: f64,
    /// The largest layer's digest.
    pub hash_s: f64,
    /// Once: the origin's first byte, one round trip to ask and the propagation of the data.
    pub delays_s: f64,
}

impl Bound {
    /// The bound of a scenario. All zero if nobody asks for anything.
    pub fn of(scenario: &Scenario) -> Bound {
        let bytes = scenario.bytes() as f64;
        if bytes == 0.0 {
            return Bound::default();
        }
        let (wanting, holding) = (scenario.receivers() as f64, scenario.clients.holders as f64);
        let pieces = scenario.layers.iter().map(|size| piece_count(*size)).sum::<u64>() as f64;
        let link = scenario.link;
        let origin = &scenario.origin;
        let connections = origin.connections_max.map_or(f64::INFINITY, |most| most as f64);
        let origin_rate = origin.bandwidth.min(origin.per_connection * connections);
        let is_cold = scenario.clients.holders == 0;
        let doublings = (wanting / holding.max(1.0)).log2().floor().max(0.0);
        let largest = scenario.layers.iter().copied().max().unwrap_or(0) as f64;
        Bound {
            swarm_s: bytes / link.down + doublings * bytes / pieces / link.up.min(link.down),
            origin_s: if is_cold { bytes / origin_rate } else { 0.0 },
            upload_s: wanting * bytes / (origin_rate + (wanting + holding) * link.up),
            zone_s: bytes / narrowest_uplink(scenario),
            reader_s: bytes / scenario.clients.read_speed,
            hash_s: largest / scenario.hash_speed,
            delays_s: delays(scenario, is_cold),
        }
    }

    /// The bound for one node's time from asking to whole.
    pub fn total_s(&self) -> f64 {
        self.largest().1 + self.delays_s
    }

    /// What the largest of the bounds is called.
    pub fn limit(&self) -> &'static str {
        self.largest().0
    }

    fn largest(&self) -> (&'static str, f64) {
        let all = [
            ("swarm", self.swarm_s),
            ("origin", self.origin_s),
            ("upload", self.upload_s),
            ("zone", self.zone_s),
            ("reader", self.reader_s),
            ("hash", self.hash_s),
        ];
        // The first of equals: T* is what is quoted unless something is really narrower.
        all.into_iter().fold(all[0], |largest, each| if each.1 > largest.1 { each } else { largest })
    }
}

/// Of the zones that have to take a copy in; infinite if there is none.
fn narrowest_uplink(scenario: &Scenario) -> f64 {
    // Holders are the first nodes, and zones are blocks of nodes.
    let mut begin = 0;
    let without_holder = scenario.zones.iter().filter(|zone| {
        let has_none = begin >= scenario.clients.holders;
        begin += zone.nodes;
        has_none
    });
    without_holder.map(|zone| zone.uplink).fold(f64::INFINITY, f64::min)
}

fn delays(scenario: &Scenario, is_cold: bool) -> f64 {
    let one_way = match scenario.zones.as_slice() {
        [only] => only.delay,
        _ => scenario.delay_between,
    };
    let first_byte = if is_cold { scenario.origin.first_byte } else { 0.0 };
    first_byte + 3.0 * one_way
}

#[cfg(test)]
mod tests {
    use super::Bound;
    use crate::scenario::{Override, Scenario};

    fn bound(text: &str, overrides: &[&str]) -> Bound {
        let overrides: Vec<Override> = overrides.iter().map(|each| each.parse().unwrap()).collect();
        let runs = Scenario::parse("test", &format!("name = \"test\"\n{text}"), &overrides).unwrap();
        Bound::of(&runs[0])
    }

    /// Equal to a tenth of a per mille.
    fn is(found: f64, expected: f64) -> bool {
        (found - expected).abs() <= expected * 1e-4
    }

    #[test]
    fn by_hand() {
        // Overrides of 1,000 nodes, 10 Gbit/s and an origin of 10 Gbit/s; what limits; seconds without and with delays.
        let table: &[(&[&str], &str, f64, f64)] = &[
            // 104,857,600 B / 1.25e9 B/s = 83.886 ms; 400 pieces, 9 doublings: x 1.0225. 20 ms + 3 x 0.1 ms.
            (&["image=100MiB"], "swarm", 0.085_773_5, 0.106_073_5),
            // 858.993 ms x (1 + 9/1024).
            (&["image=1GiB"], "swarm", 0.866_543, 0.886_843),
            // 8.589935 s x (1 + 9/2560).
            (&["image=10GiB"], "swarm", 8.620_134, 8.640_434),
            // One node needs nobody: M/B.
            (&["image=1GiB", "nodes=1"], "swarm", 0.858_993, 0.879_293),
            // 3e9 B / 3e8 B/s = 10 s; 2 x 716 pieces of 2 MiB (the last ones shorter), 11 doublings: x 1.00768.
            (
                &["image=[\"1.5GB\", \"1.5GB\"]", "nodes=2600", "link.up=300MB/s", "link.down=300MB/s"],
                "swarm",
                10.076_8,
                10.097_1,
            ),
            // An eighth of the links: 1 GiB / 125e6 B/s.
            (&["image=1GiB", "origin.bandwidth=1Gbit/s"], "origin", 8.589_935, 8.610_235),
            // Three connections of 40 MB/s.
            (
                &["image=1GiB", "origin.per_connection=40MB/s", "origin.connections_max=3"],
                "origin",
                8.947_849,
                8.968_149,
            ),
            // Without a limit of connections their speed does not bound anything.
            (&["image=1GiB", "origin.per_connection=40MB/s"], "swarm", 0.866_543, 0.886_843),
            // 1,000 hold it: no origin, no doubling.
            (&["image=1GiB", "nodes=1001", "clients.holders=1000"], "swarm", 0.858_993, 0.859_293),
            // Links of 10 down and 1 up: 1,000 GiB through 10 + 1,000 x 1 Gbit/s.
            (&["image=1GiB", "link.up=1Gbit/s"], "upload", 8.504_886, 8.525_186),
            (&["image=1GiB", "clients.read_speed=100MB/s"], "reader", 10.737_418, 10.757_718),
            (&["image=1GiB", "hash_speed=500MB/s"], "hash", 2.147_484, 2.167_784),
        ];
        for (overrides, limit, without, with) in table {
            let bound = bound("", overrides);
            assert_eq!(bound.limit(), *limit, "{overrides:?}");
            assert!(is(bound.total_s() - bound.delays_s, *without), "{overrides:?}: {bound:?}");
            assert!(is(bound.total_s(), *with), "{overrides:?}: {bound:?}");
        }
    }

    #[test]
    fn zones_bound_where_a_copy_has_to_come_in() {
        let text =
            "image = \"1GiB\"\n[[zones]]\nname = \"a\"\n[[zones]]\nname = \"b\"\nuplink = \"1Gbit/s\"\n";
        let cold = bound(text, &[]);
        // 1 GiB / 125e6 B/s; 20 ms + 3 x 0.5 ms.
        assert!(cold.limit() == "zone" && is(cold.total_s(), 8.611_435), "{cold:?}");
        // Nodes 0 to 499 are zone a; node 500 is in b, so b has it already.
        assert!(is(bound(text, &["clients.holders=500"]).zone_s, 8.589_935));
        assert_eq!(bound(text, &["clients.holders=501"]).zone_s, 0.0);
        // 500 nodes at 10:1 still share 500 Gbit/s.
        assert_eq!(bound(text, &["zones.1.uplink=10:1"]).limit(), "swarm");
    }

    #[test]
    fn nobody_asks() {
        assert_eq!(bound("image = []", &[]).total_s(), 0.0);
    }
}
