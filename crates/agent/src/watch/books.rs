//! Blobs on their way over the members: which are followed, and what their homes say of them.
//!
//! Question: no node knows what all others receive; what can be shown of a rollout? Answer: the books that this node keeps,
//! and those of the blobs that it receives itself, which are a rollout's as soon as this node takes part in it. A blob that
//! has come everywhere is shown a little longer, so that a rollout does not vanish at its end.
//!
//! Invariant: at most [`BLOBS_MAX`] blobs are followed, and one look asks the homes of at most [`ASKED_PER_LOOK_MAX`].

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use shoal_engine::Digest;
use tokio::time::Instant;

use super::view::{BLOBS_MAX, BlobView};
use crate::driver::{Book, FlightStatus, Handle, Naming};
use crate::swarm::Swarm;

/// How old a book of another home may be.
const BOOK_AGE_MAX: Duration = Duration::from_secs(3);
/// Blobs whose homes are asked in one look; each asks three members.
const ASKED_PER_LOOK_MAX: usize = 4;
/// How long a blob is shown after nobody has received it any more.
const LINGER: Duration = Duration::from_secs(60);

/// The followed blobs.
#[derive(Default)]
pub(super) struct Books(BTreeMap<Digest, Followed>);

struct Followed {
    repository: Option<String>,
    book: Option<Book>,
    asked: Option<Instant>,
    /// When this node or a book last said that somebody receives it.
    moved: Instant,
}

impl Books {
    /// Looks at the own books and, where they are old, at those of other homes.
    pub async fn look(&mut self, flights: &[FlightStatus], swarm: &Swarm, driver: &Handle) {
        let now = Instant::now();
        let own = driver.busiest(BLOBS_MAX).await;
        for digest in &own {
            self.follow(*digest, now);
        }
        for flight in flights.iter().take(BLOBS_MAX) {
            let followed = self.follow(flight.digest, now);
            if flight.repository.is_some() {
                followed.repository.clone_from(&flight.repository);
            }
        }
        self.forget(now);
        for digest in own {
            let book = driver.book(digest, Naming::Brief).await;
            self.read(digest, book, now);
        }
        let asked = self.due(now).into_iter().map(|digest| async move {
            let books = swarm.books(digest, Naming::Brief, driver).await;
            (digest, books.into_iter().max_by_key(|book| (book.receiver_count, book.holder_count)))
        });
        for (digest, book) in futures_util::future::join_all(asked).await {
            self.read(digest, book, now);
        }
    }

    /// The books, by the digests of their blobs.
    pub fn iter(&self) -> impl Iterator<Item = &Book> {
        self.0.values().filter_map(|followed| followed.book.as_ref())
    }

    /// The blobs for a person who looks, those that move most first.
    pub fn shown(&self) -> Vec<BlobView> {
        let shown = |(digest, followed): (&Digest, &Followed)| {
            let book = followed.book.as_ref()?;
            let mut fetchers: Vec<&str> = book.leases.iter().map(|lease| &*lease.holder).collect();
            fetchers.sort_unstable();
            fetchers.dedup();
            Some(BlobView {
                digest: *digest,
                repository: followed.repository.clone(),
                size: book.size,
                holders: book.holder_count,
                receivers: book.receiver_count,
                slow: book.slow_count,
                fetchers: fetchers.len(),
            })
        };
        let mut all: Vec<BlobView> = self.0.iter().filter_map(shown).collect();
        all.sort_by_key(|blob| (Reverse(blob.receivers > 0), Reverse(blob.size), blob.digest));
        all
    }

    fn follow(&mut self, digest: Digest, now: Instant) -> &mut Followed {
        let fresh = Followed { repository: None, book: None, asked: None, moved: now };
        let followed = self.0.entry(digest).or_insert(fresh);
        followed.moved = now;
        followed
    }

    /// Those that have not moved for long, and beyond the bound those that have not moved for longest.
    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, followed| now.duration_since(followed.moved) < LINGER);
        while self.0.len() > BLOBS_MAX {
            let oldest = self.0.iter().min_by_key(|(digest, followed)| (followed.moved, **digest));
            let Some(digest) = oldest.map(|(digest, _)| *digest) else { return };
            self.0.remove(&digest);
        }
    }

    /// Those whose homes are to be asked, longest unasked first.
    fn due(&self, now: Instant) -> Vec<Digest> {
        let is_old = |asked: Option<Instant>| asked.is_none_or(|at| now.duration_since(at) >= BOOK_AGE_MAX);
        let mut due: Vec<_> =
            self.0.iter().filter(|(_, f)| is_old(f.asked)).map(|(digest, f)| (f.asked, *digest)).collect();
        due.sort_unstable();
        due.into_iter().take(ASKED_PER_LOOK_MAX).map(|(_, digest)| digest).collect()
    }

    fn read(&mut self, digest: Digest, book: Option<Book>, now: Instant) {
        let Some(followed) = self.0.get_mut(&digest) else { return };
        followed.asked = Some(now);
        if let Some(book) = book {
            if book.receiver_count > 0 {
                followed.moved = now;
            }
            followed.book = Some(book);
        }
    }
}
