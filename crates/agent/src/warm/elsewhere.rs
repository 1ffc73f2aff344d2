//! Requests that other agents were asked for: listed, looked at and cancelled from here.
//!
//! Question: an operator sits on some node and has a request's name, or none; which agent was asked? Answer: all members are
//! asked at once, each for a bounded answer, when somebody wants to know. Nothing is told around otherwise: a request is the
//! business of its agent, its heirs and its nodes. Prevents: that a request can only be cancelled by who remembers where it began.
//!
//! Invariant: whoever is asked asks nobody else.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use shoal_engine::peer::Member;

use super::{Cancelled, NodeName, Phase, WarmStatus, Warmer};

/// Members that are asked at the same time.
const ASKED_AT_ONCE: usize = 64;
/// Requests of one member that are listed, and images of all of them.
const LISTED_MAX: usize = 16;
const IMAGES_MAX: usize = 1024;
/// Nodes that are named with their reasons when one request is looked at from elsewhere.
const UNREADY_MAX: usize = 256;

/// What a member wants to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Question {
    /// The requests under way, and the latest ones that are over.
    List,
    /// One request.
    Status(String),
    /// That a request ends.
    Cancel(String),
}

/// What it is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    requests: Vec<WarmStatus>,
    cancelled: Option<Cancelled>,
}

impl Warmer {
    /// Answers another member.
    pub(crate) fn answer(&self, question: &Question) -> Told {
        match question {
            Question::List => Told { requests: brief(self.list()), cancelled: None },
            Question::Status(id) => {
                let requests = self.watch(id).map(|news| one(&news.borrow())).into_iter().collect();
                Told { requests, cancelled: None }
            }
            Question::Cancel(id) => Told { requests: Vec::new(), cancelled: Some(self.cancel(id)) },
        }
    }

    /// The requests of all other members that answer, newest first, each with its agent.
    pub async fn list_elsewhere(&self) -> Vec<Arc<WarmStatus>> {
        let told = self.ask_others(&Question::List).await;
        let mut requests: Vec<_> = told.into_iter().flat_map(asked_of).map(Arc::new).collect();
        requests.sort_by(|one, other| (other.started_at, &other.id).cmp(&(one.started_at, &one.id)));
        requests
    }

    /// A request that another member was asked for.
    pub async fn status_elsewhere(&self, id: &str) -> Option<WarmStatus> {
        let told = self.ask_others(&Question::Status(id.to_owned())).await;
        let found = told.into_iter().flat_map(asked_of).filter(|status| status.id == id);
        // Where another agent has taken it over, it is known twice: what goes on says more.
        found.max_by_key(|status| (status.phase == Phase::Warming, status.started_at))
    }

    /// Cancels a request wherever it is known.
    pub async fn cancel_everywhere(&self, id: &str) -> Cancelled {
        let here = self.cancel(id);
        if here != Cancelled::Unknown {
            return here;
        }
        let told = self.ask_others(&Question::Cancel(id.to_owned())).await;
        let results: Vec<_> = told.into_iter().filter_map(|(_, told)| told.cancelled).collect();
        let any = |result| results.contains(&result).then_some(result);
        any(Cancelled::Now).or(any(Cancelled::Over)).unwrap_or(Cancelled::Unknown)
    }

    async fn ask_others(&self, question: &Question) -> Vec<(Arc<Member>, Told)> {
        let Some(swarm) = &self.0.swarm else { return Vec::new() };
        let me = swarm.me();
        let others: Vec<_> = swarm.roster().iter().filter(|member| member.peer != me).cloned().collect();
        let ask = |member: Arc<Member>| async move {
            Some((swarm.ask_requests(member.peer, question).await?, member))
        };
        let told: Vec<_> = stream::iter(others).map(ask).buffer_unordered(ASKED_AT_ONCE).collect().await;
        told.into_iter().flatten().map(|(told, member)| (member, told)).collect()
    }
}

fn asked_of((member, told): (Arc<Member>, Told)) -> impl Iterator<Item = WarmStatus> {
    told.requests.into_iter().map(move |status| WarmStatus { agent: Some(NodeName::of(&member)), ..status })
}

/// What a list shows: without zones and names of nodes, those under way first where not all fit.
fn brief(mut all: Vec<Arc<WarmStatus>>) -> Vec<WarmStatus> {
    all.sort_by_key(|status| status.phase != Phase::Warming);
    let mut images = 0;
    let fits = |status: &&Arc<WarmStatus>| {
        images += status.images.len();
        images <= IMAGES_MAX
    };
    let brief = |status: &Arc<WarmStatus>| {
        let (zones, waiting, away, unready) = Default::default();
        WarmStatus { zones, waiting, away, unready, ..WarmStatus::clone(status) }
    };
    all.iter().take(LISTED_MAX).take_while(fits).map(brief).collect()
}

fn one(status: &WarmStatus) -> WarmStatus {
    let mut status = status.clone();
    status.unready.truncate(UNREADY_MAX);
    status.away.truncate(UNREADY_MAX);
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warm::{ImageState, ImageStatus};

    #[test]
    fn a_list_is_bounded_and_has_what_goes_on() {
        let image = ImageStatus {
            image: "a".into(),
            digest: None,
            state: ImageState::Done,
            blobs: 1,
            size: 1,
            ready: 1,
            error: None,
            note: None,
        };
        let request = |number: usize, images: usize| {
            let phase = if number == 39 { Phase::Warming } else { Phase::Done };
            let images = vec![image.clone(); images];
            Arc::new(WarmStatus { id: format!("{number:08x}"), phase, images, ..WarmStatus::default() })
        };
        for (images, listed) in [(1, LISTED_MAX), (500, 2), (512, 2)] {
            let told = brief((0..40).map(|number| request(number, images)).collect());
            assert_eq!((told.len(), told[0].phase), (listed, Phase::Warming), "{images}");
        }
    }
}
