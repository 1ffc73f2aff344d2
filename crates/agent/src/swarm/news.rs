//! What has happened between this node and others lately, for a person who looks: who was sent away or did not answer, and
//! how many were taken for gone.
//!
//! Invariant: what is kept is bounded, by number and by age.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use parking_lot::Mutex;
use shoal_net::Refusal;
use tokio::time::Instant;

/// How long something is news. Longer than a rolling restart of a few nodes, so that one can still see what it did.
const LATELY: Duration = Duration::from_secs(10 * 60);
/// Addresses that are kept: enough to see whether it is one node or all of them.
const ADDRESSES_MAX: usize = 32;
/// Times that are kept of members going away.
const GONE_MAX: usize = 10_000;

/// Somebody who is at an address where a member was expected, or nobody.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Rejection {
    /// Where.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// What was wrong.
    pub why: String,
    /// The kind of it.
    pub kind: Rejected,
    /// When that was seen last, seconds ago.
    pub seconds_ago: u64,
}

/// Why an address is not a member's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rejected {
    /// Whoever is there has another secret.
    OtherSecret,
    /// Whoever is there is no agent, or did not prove to be one.
    Stranger,
    /// Nobody answers.
    Silent,
}

impl From<&Refusal> for Rejected {
    fn from(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::WrongProof => Rejected::OtherSecret,
            _ => Rejected::Stranger,
        }
    }
}

/// The news, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Lately {
    /// Who was sent away, and which addresses did not answer, in the last ten minutes.
    pub rejected: Vec<Rejection>,
    /// Members taken for gone in the last ten minutes.
    pub gone: usize,
    /// How often this node was taken for gone by others in the last ten minutes.
    pub renewed: usize,
}

impl Lately {
    /// Where agents with another secret are. By IP: whoever calls does so from a new port each time.
    pub fn other_secrets(&self) -> Vec<IpAddr> {
        let refused = self.rejected.iter().filter(|rejection| rejection.kind == Rejected::OtherSecret);
        refused.map(|rejection| rejection.address.ip()).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct News(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    rejected: BTreeMap<SocketAddr, (Instant, Rejected, String)>,
    gone: VecDeque<Instant>,
    renewed: VecDeque<Instant>,
}

impl News {
    /// Somebody who does not belong here, or nobody, is at an address.
    pub fn rejected(&self, address: SocketAddr, kind: Rejected, why: String) {
        let now = Instant::now();
        let rejected = &mut self.0.lock().rejected;
        // Whoever calls again does so from a new port.
        let is_same = |other: &SocketAddr, of: Rejected| {
            of == Rejected::OtherSecret && of == kind && other.ip() == address.ip()
        };
        rejected.retain(|other, (at, of, _)| now - *at < LATELY && !is_same(other, *of));
        if rejected.len() < ADDRESSES_MAX || rejected.contains_key(&address) {
            rejected.insert(address, (now, kind, why));
        }
    }

    /// Somebody at an address has proved to be a member.
    pub fn met(&self, address: &SocketAddr) {
        self.0.lock().rejected.remove(address);
    }

    /// A member was taken for gone.
    pub fn gone(&self) {
        note(&mut self.0.lock().gone);
    }

    /// This node was taken for gone.
    pub fn renewed(&self) {
        note(&mut self.0.lock().renewed);
    }

    /// What is still news.
    pub fn lately(&self) -> Lately {
        let now = Instant::now();
        let kept = self.0.lock();
        let count = |times: &VecDeque<Instant>| times.iter().filter(|at| now - **at < LATELY).count();
        let rejection = |(address, (at, kind, why)): (&SocketAddr, &(Instant, Rejected, String))| {
            let seconds_ago = (now - *at).as_secs();
            Rejection { address: *address, kind: *kind, why: why.clone(), seconds_ago }
        };
        let recent = kept.rejected.iter().filter(|(_, (at, ..))| now - *at < LATELY);
        Lately {
            rejected: recent.map(rejection).collect(),
            gone: count(&kept.gone),
            renewed: count(&kept.renewed),
        }
    }
}

fn note(times: &mut VecDeque<Instant>) {
    let now = Instant::now();
    while times.len() >= GONE_MAX || times.front().is_some_and(|at| now - *at >= LATELY) {
        times.pop_front();
    }
    times.push_back(now);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], 5001))
    }

    #[tokio::test(start_paused = true)]
    async fn news_grow_old() {
        let news = News::default();
        news.rejected(at(1), Rejected::OtherSecret, "another secret".into());
        news.rejected(at(2), Rejected::Silent, "nobody".into());
        news.gone();
        tokio::time::advance(LATELY / 2).await;
        news.met(&at(2));
        news.renewed();
        let lately = news.lately();
        assert_eq!((lately.rejected.len(), lately.gone, lately.renewed), (1, 1, 1));
        assert!(lately.rejected[0].kind == Rejected::OtherSecret);
        assert_eq!(lately.rejected[0].seconds_ago, LATELY.as_secs() / 2);
        tokio::time::advance(LATELY / 2).await;
        let lately = news.lately();
        assert_eq!((lately.rejected.len(), lately.gone, lately.renewed), (0, 0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn one_agent_that_calls_from_many_ports_is_one() {
        let news = News::default();
        for port in 49_000..49_040 {
            news.rejected(SocketAddr::from(([10, 0, 0, 9], port)), Rejected::OtherSecret, String::new());
        }
        news.rejected(at(1), Rejected::OtherSecret, String::new());
        let lately = news.lately();
        assert_eq!(lately.rejected.len(), 2);
        assert_eq!(lately.other_secrets(), [at(1).ip(), at(9).ip()]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_bounded() {
        let news = News::default();
        for host in 0..=u8::MAX {
            news.rejected(at(host), Rejected::Stranger, String::new());
        }
        (0..GONE_MAX + 5).for_each(|_| news.gone());
        let lately = news.lately();
        assert_eq!((lately.rejected.len(), lately.gone), (ADDRESSES_MAX, GONE_MAX));
    }
}
