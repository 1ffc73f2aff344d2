//! Who uses a blob, and who changes it.
//!
//! Question: may this blob be evicted, and may this file be replaced, right now? Answer: a table of the digests that are
//! in use or in change; all others are free. It prevents eviction under a reader, a commit and a removal of the same
//! digest from crossing on one path, and needs no lock during any I/O.
//!
//! Invariants: at most one [`Hold`] per digest; a digest that is leaving gets no new user; no thread waits for a hold
//! while it has one.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use shoal_engine::Digest;

#[derive(Debug, Default)]
pub(crate) struct Claims {
    table: Mutex<HashMap<Digest, Claim>>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Claim {
    users: u32,
    hold: Option<Purpose>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Something is added or updated; readers may come.
    Change,
    /// It is being removed; to new readers it is gone already.
    Leave,
}

/// Keeps a blob from being evicted.
#[derive(Debug)]
pub(crate) struct UseGuard {
    claims: Arc<Claims>,
    digest: Digest,
}

/// The sole right to change what is on disk for one digest.
#[derive(Debug)]
pub(crate) struct Hold {
    claims: Arc<Claims>,
    digest: Digest,
}

impl Claims {
    /// Begins a use; `None` if the blob is being removed.
    pub(crate) fn begin_use(self: &Arc<Self>, digest: &Digest) -> Option<UseGuard> {
        let mut table = self.table.lock();
        let claim = table.entry(*digest).or_default();
        if claim.hold == Some(Purpose::Leave) {
            return None;
        }
        claim.users += 1;
        Some(UseGuard { claims: Arc::clone(self), digest: *digest })
    }

    /// Waits until nobody else changes this digest, then holds it for a change.
    pub(crate) fn hold(self: &Arc<Self>, digest: &Digest) -> Hold {
        self.wait_and_hold(digest, Purpose::Change)
    }

    /// Waits until nobody else changes this digest, then holds it for its removal. Present users keep what they have.
    pub(crate) fn hold_to_remove(self: &Arc<Self>, digest: &Digest) -> Hold {
        self.wait_and_hold(digest, Purpose::Leave)
    }

    /// Holds it for a change, unless somebody else changes it.
    pub(crate) fn try_hold(self: &Arc<Self>, digest: &Digest) -> Option<Hold> {
        self.hold_if(digest, Purpose::Change, |claim| claim.hold.is_none())
    }

    /// Holds it for its removal, unless somebody uses or changes it.
    pub(crate) fn try_hold_to_evict(self: &Arc<Self>, digest: &Digest) -> Option<Hold> {
        self.hold_if(digest, Purpose::Leave, |claim| claim.hold.is_none() && claim.users == 0)
    }

    /// Whether somebody uses or changes it.
    pub(crate) fn is_busy(&self, digest: &Digest) -> bool {
        self.table.lock().contains_key(digest)
    }

    fn wait_and_hold(self: &Arc<Self>, digest: &Digest, purpose: Purpose) -> Hold {
        let mut table = self.table.lock();
        while table.get(digest).is_some_and(|claim| claim.hold.is_some()) {
            self.freed.wait(&mut table);
        }
        table.entry(*digest).or_default().hold = Some(purpose);
        Hold { claims: Arc::clone(self), digest: *digest }
    }

    fn hold_if(
        self: &Arc<Self>,
        digest: &Digest,
        purpose: Purpose,
        may: impl Fn(&Claim) -> bool,
    ) -> Option<Hold> {
        let mut table = self.table.lock();
        if table.get(digest).is_some_and(|claim| !may(claim)) {
            return None;
        }
        table.entry(*digest).or_default().hold = Some(purpose);
        Some(Hold { claims: Arc::clone(self), digest: *digest })
    }

    fn release(&self, digest: &Digest, change: impl FnOnce(&mut Claim)) {
        let mut table = self.table.lock();
        let claim = table.get_mut(digest).expect("whoever releases has claimed");
        change(claim);
        if claim.users == 0 && claim.hold.is_none() {
            table.remove(digest);
        }
    }
}

impl Drop for UseGuard {
    fn drop(&mut self) {
        self.claims.release(&self.digest, |claim| claim.users -= 1);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.claims.release(&self.digest, |claim| claim.hold = None);
        self.claims.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> Digest {
        format!("sha256:{}", "11".repeat(32)).parse().unwrap()
    }

    #[test]
    fn what_excludes_what() {
        let claims = Arc::new(Claims::default());
        let user = claims.begin_use(&digest()).unwrap();
        assert!(claims.try_hold_to_evict(&digest()).is_none(), "in use");
        let change = claims.try_hold(&digest()).unwrap();
        assert!(claims.try_hold(&digest()).is_none(), "one change at a time");
        let second = claims.begin_use(&digest()).expect("a change does not keep readers out");
        drop((user, change));
        assert!(claims.try_hold_to_evict(&digest()).is_none(), "still in use");
        drop(second);
        let leaving = claims.try_hold_to_evict(&digest()).unwrap();
        assert!(claims.begin_use(&digest()).is_none(), "gone already");
        drop(leaving);
        assert!(!claims.is_busy(&digest()) && claims.table.lock().is_empty(), "nothing is left behind");
    }

    #[test]
    fn a_hold_waits_for_the_one_before_it() {
        let claims = Arc::new(Claims::default());
        let first = claims.hold(&digest());
        let order = Arc::new(Mutex::new(Vec::new()));
        let waiting = std::thread::spawn({
            let (claims, order) = (Arc::clone(&claims), Arc::clone(&order));
            move || {
                let _second = claims.hold_to_remove(&digest());
                order.lock().push("second");
            }
        });
        order.lock().push("first");
        drop(first);
        waiting.join().unwrap();
        assert_eq!(*order.lock(), ["first", "second"]);
    }
}
