//! What this node believes of the others, for a person who looks: who is there, who is suspected to be gone, and who went.
//!
//! The membership belongs to one task, which is asked; an agent that is ending answers no more, and then only the list counts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoal_engine::Time;
use shoal_engine::membership::Membership;
use shoal_engine::peer::{Member, PeerId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{MemberStatus, Swarm, name};

/// Questions that may wait for the membership's task.
const QUESTIONS_MAX: usize = 16;
/// How long an answer is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// What this agent believes of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// It is there.
    #[default]
    Alive,
    /// It is there by all that others say, but this agent could not connect to its port for pieces when it last tried.
    Unreachable,
    /// It has not answered, and is gone if it does not object within seconds.
    Suspected,
    /// It has left or died, and is remembered for an hour.
    Gone,
}

/// The part that only the membership knows.
#[derive(Default)]
pub(super) struct Beliefs {
    suspected: BTreeSet<PeerId>,
    /// With the time that has passed since.
    gone: Vec<(Arc<Member>, Duration)>,
}

impl Beliefs {
    pub fn of(membership: &Membership, now: Time) -> Self {
        Beliefs {
            suspected: membership.suspected().collect(),
            gone: membership.lost().map(|(member, since)| (Arc::clone(member), now - since)).collect(),
        }
    }
}

pub(super) type Question = oneshot::Sender<Beliefs>;

pub(super) fn questions() -> (mpsc::Sender<Question>, mpsc::Receiver<Question>) {
    mpsc::channel(QUESTIONS_MAX)
}

impl Swarm {
    /// All members, and those that went within the last hour, the last one first.
    pub async fn members(&self) -> (Vec<MemberStatus>, Vec<MemberStatus>) {
        let Beliefs { suspected, gone } = self.beliefs().await;
        let state = |peer: &PeerId| match () {
            () if suspected.contains(peer) => MemberState::Suspected,
            () if self.0.dialer.has_failed(peer) => MemberState::Unreachable,
            () => MemberState::Alive,
        };
        let roster = self.roster();
        let members = roster.iter().map(|member| self.status(member, state(&member.peer))).collect();
        let mut gone: Vec<_> =
            gone.into_iter().filter(|(member, _)| !roster.contains(&member.peer)).collect();
        gone.sort_by_key(|(_, ago)| *ago);
        let gone = gone.into_iter().map(|(member, ago)| MemberStatus {
            latency_ms: None,
            gone_seconds: Some(ago.as_secs()),
            ..self.status(&member, MemberState::Gone)
        });
        (members, gone.collect())
    }

    async fn beliefs(&self) -> Beliefs {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.0.questions.send(answer).await.ok()?;
            answered.await.ok()
        };
        timeout(ANSWER_MAX, asked).await.ok().flatten().unwrap_or_default()
    }

    fn status(&self, member: &Member, state: MemberState) -> MemberStatus {
        let text = |(key, value): &(Box<str>, Box<str>)| (key.to_string(), value.to_string());
        MemberStatus {
            peer: name(&member.peer),
            addresses: member.addresses.to_vec(),
            data_port: member.data_port,
            zone: member.zone.to_string(),
            labels: member.labels.iter().map(text).collect(),
            version: member.version.to_string(),
            state,
            gone_seconds: None,
            latency_ms: self.round_trip(&member.peer).map(|time| time.as_secs_f64() * 1e3),
            is_self: member.peer == self.me(),
        }
    }
}
