//! Standing orders among agents: looks at the members from time to time, begins what is due, gives copies to heirs and takes
//! those of others in.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt as _, stream};
use shoal_engine::peer::Member;

use super::standing::{Due, Look, Now, Order};
use super::{Begin, RequestError, Warmer};
use crate::swarm::Swarm;

/// Pause between two looks at the list of members; who has been there for one of them is there.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Heirs that are told at the same time.
const TOLD_AT_ONCE: usize = 8;

impl Warmer {
    pub(super) fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            running: self.0.started.elapsed(),
            unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Sees to members that join later, and to orders whose owners are gone; ends when the agent does.
    pub(super) async fn see_to_orders(self, swarm: Swarm) {
        let mut seen = BTreeSet::new();
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            let is_look = tokio::select! {
                () = self.0.stop.cancelled() => return,
                _ = looks.tick() => true,
                () = self.0.has_orders.notified() => false,
            };
            let roster = swarm.roster();
            let mut settled: Vec<Arc<Member>> = Vec::new();
            if is_look {
                settled.extend(roster.iter().filter(|member| seen.contains(&member.peer)).cloned());
                seen = roster.iter().map(|member| member.peer).collect();
            }
            let Look { due, tell } = self.0.standing.look(self.now(), &roster, &settled);
            due.into_iter().for_each(|due| self.begin_due(due));
            self.0.stop.run_until_cancelled(self.tell_heirs(&swarm, tell)).await;
        }
    }

    fn begin_due(&self, due: Due) {
        let Due { id, request, targets } = due;
        tracing::info!(
            id,
            nodes = targets.len(),
            "there are nodes for which images are wanted that were asked for before"
        );
        match self.start(&request, Begin::For { order: id.clone(), targets }) {
            Ok(_) => {}
            Err(error @ RequestError::Busy) => {
                tracing::info!(id, %error, "it is begun later");
                self.0.standing.put_off(&id);
            }
            Err(error) => tracing::warn!(id, %error, "they are not warmed"),
        }
    }

    async fn tell_heirs(&self, swarm: &Swarm, tell: Vec<(Arc<Member>, Order)>) {
        stream::iter(tell)
            .for_each_concurrent(TOLD_AT_ONCE, |(heir, order)| async move {
                let Some(newer) = swarm.tell_order(heir.peer, &order).await else { return };
                self.0.standing.has_heard(&heir, &order, self.now());
                if let Some(newer) = newer {
                    self.hear_order(newer);
                }
            })
            .await;
    }

    /// Takes in what another member says of an order; what is known better here.
    pub(crate) fn hear_order(&self, order: Order) -> Option<Order> {
        let id = order.id().to_owned();
        let (newer, ends) = self.0.standing.hear(order, self.now());
        if ends {
            for job in self.jobs_of(&id) {
                job.cancel();
            }
        }
        newer
    }
}
