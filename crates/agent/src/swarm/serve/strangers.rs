//! Data connections whose other end has not proved yet that it belongs to the cluster.
//!
//! Question: who has to go when there are too many of them? Answer: the one that has been there the longest. A member proves
//! itself with its first request, which follows its handshake at once; somebody who holds connections does not. Prevents: that
//! whoever reaches the port takes all places, and members none.
//!
//! Invariants: there are never more than the bound; whoever has proved itself is not one of them any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// All of them. Clones are the same.
#[derive(Clone)]
pub struct Strangers {
    max: usize,
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    come: u64,
    /// In the order in which they have come; each is told to go by its token.
    there: BTreeMap<u64, CancellationToken>,
}

/// One of them, as long as its connection is there.
pub struct Stranger {
    number: u64,
    all: Strangers,
    has_to_go: CancellationToken,
    is_member: CancellationToken,
}

impl Strangers {
    /// Nobody yet, and never more than `max`.
    pub fn new(max: usize) -> Self {
        Strangers { max, table: Arc::default() }
    }

    /// Somebody has connected.
    pub fn come(&self) -> Stranger {
        let has_to_go = CancellationToken::new();
        let mut table = self.table.lock();
        table.come += 1;
        let number = table.come;
        table.there.insert(number, has_to_go.clone());
        if table.there.len() > self.max
            && let Some((_, oldest)) = table.there.pop_first()
        {
            oldest.cancel();
        }
        Stranger { number, all: self.clone(), has_to_go, is_member: CancellationToken::new() }
    }
}

impl Stranger {
    /// It has shown a proof that holds.
    pub fn proved(&self) {
        if !self.is_member.is_cancelled() {
            self.is_member.cancel();
            self.leave();
        }
    }

    /// Resolves when it has to go because of others, or has not proved itself for so long; never for a member.
    pub async fn outstays(&self, limit: Duration) {
        tokio::select! {
            biased;
            () = self.is_member.cancelled() => std::future::pending().await,
            () = self.has_to_go.cancelled() => {}
            () = tokio::time::sleep(limit) => {}
        }
    }

    fn leave(&self) {
        self.all.table.lock().there.remove(&self.number);
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room_and_members_need_none() {
        let strangers = Strangers::new(2);
        let [first, second, third] = [(); 3].map(|()| strangers.come());
        let have_to_go = |all: [&Stranger; 3]| all.map(|one| one.has_to_go.is_cancelled());
        assert_eq!(have_to_go([&first, &second, &third]), [true, false, false]);
        second.proved();
        let fourth = strangers.come();
        assert_eq!(have_to_go([&second, &third, &fourth]), [false, false, false]);
        drop((first, second, third, fourth));
        assert!(strangers.table.lock().there.is_empty(), "nothing is left behind");
    }
}
