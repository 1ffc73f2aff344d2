//! Pulls that never stop, as on a cluster that does not wait for the upgrade of its mirror.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use shoal_tests::cri::Cri;
use shoal_tests::wait;
use tokio::task::JoinHandle;

/// Longest wait for a few pulls.
const PULLS_MAX: Duration = Duration::from_secs(60);

/// A loop for each node in which an image is removed and pulled.
pub struct Load {
    stop: Arc<AtomicBool>,
    nodes: Vec<Pulling>,
}

struct Pulling {
    done: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Load {
    /// Begins the loops.
    pub fn start(runtimes: impl Iterator<Item = Cri>, image: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let nodes = runtimes.map(|runtime| Pulling::start(runtime, image.to_owned(), Arc::clone(&stop)));
        Load { nodes: nodes.collect(), stop }
    }

    /// Waits until each node has begun and ended at least one pull from now on.
    pub async fn next_pulls(&self) {
        // The one that is under way was begun before.
        let wanted: Vec<usize> = self.nodes.iter().map(|node| node.done() + 2).collect();
        wait::until_true("every node to pull once more", PULLS_MAX, || {
            assert!(self.nodes.iter().all(|node| !node.task.is_finished()), "a pull has failed");
            self.nodes.iter().zip(&wanted).all(|(node, wanted)| node.done() >= *wanted)
        })
        .await;
    }

    /// Ends the loops, and tells how many pulls there were. Panics if one of them failed.
    pub async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let mut pulls = 0;
        for node in self.nodes {
            node.task.await.expect("every pull has worked");
            pulls += node.done.load(Ordering::Relaxed);
        }
        pulls
    }
}

impl Pulling {
    fn start(runtime: Cri, image: String, stop: Arc<AtomicBool>) -> Self {
        let done = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&done);
        let task = tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                runtime.remove(&image).await.expect("an image can be removed");
                runtime.pull(&image).await.expect("the pull works");
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Pulling { done, task }
    }

    fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }
}
