//! Where the content of one repository was found last, for everybody who asks for more of it.
//!
//! Invariant: only a walk changes it, and there is one walk at a time; whoever wants to know where to begin waits for
//! the walk that is under way (F7).

use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

/// How long a discovered source stays the first one that is asked: longer than most pulls, and short enough that a
/// mirror which lacked one image is asked for the next.
pub(super) const MEMORY: Duration = Duration::from_secs(5 * 60);

/// See the module's head.
#[derive(Default)]
pub(super) struct Image(Mutex<State>);

#[derive(Default)]
struct State {
    at: usize,
    walks: u64,
    found: Option<Instant>,
}

/// Where to begin, and how many walks have told so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Active {
    pub at: usize,
    pub walks: u64,
}

/// The right to walk.
pub(super) struct Walking<'i>(MutexGuard<'i, State>);

impl Image {
    /// Where to begin; waits for a walk that is under way.
    pub async fn active(&self) -> Active {
        self.walk().await.now()
    }

    /// Waits for the right to walk.
    pub async fn walk(&self) -> Walking<'_> {
        Walking(self.0.lock().await)
    }
}

impl Walking<'_> {
    /// Where to begin now.
    pub fn now(&self) -> Active {
        let is_known = self.0.found.is_some_and(|found| found.elapsed() < MEMORY);
        Active { at: if is_known { self.0.at } else { 0 }, walks: self.0.walks }
    }

    /// Walks that have found a source so far.
    pub fn walks(&self) -> u64 {
        self.0.walks
    }

    /// The walk has found the source at this place.
    pub fn found(&mut self, at: usize) {
        // A source that answered when asked again is found like any other: those who wait need no pause of their own.
        *self.0 = State { at, walks: self.0.walks + 1, found: Some(Instant::now()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_found_is_forgotten_in_time() {
        let image = Image::default();
        assert_eq!(image.active().await, Active { at: 0, walks: 0 });
        image.walk().await.found(2);
        assert_eq!(image.active().await, Active { at: 2, walks: 1 });
        tokio::time::advance(MEMORY).await;
        assert_eq!(image.active().await, Active { at: 0, walks: 1 });
    }

    #[tokio::test]
    async fn who_asks_waits_for_the_walk() {
        let image = std::sync::Arc::new(Image::default());
        let mut walking = image.walk().await;
        let other = tokio::spawn({
            let image = std::sync::Arc::clone(&image);
            async move { image.active().await }
        });
        tokio::task::yield_now().await;
        assert!(!other.is_finished());
        walking.found(1);
        drop(walking);
        assert_eq!(other.await.unwrap().at, 1);
    }
}
