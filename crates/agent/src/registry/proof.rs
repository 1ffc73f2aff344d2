//! Whether the listener on a port is this very agent: whoever writes that port into a runtime's configuration asks first.
//!
//! The admin socket, which only the agent's user and root reach, hands out a challenge and the answer to it; the registry port
//! gives the answer to whoever shows the challenge. A stranger on the port cannot know the answer, and so cannot pass for the
//! agent; one that passes requests on to the agent is as good as the agent.
//!
//! Invariants: the port answers nothing that the socket has not handed out; each challenge is answered once, within
//! [`PROOF_TTL`]; at most [`PROOFS_MAX`] are kept.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// How long a challenge is answered: whoever has asked for it goes on at once.
pub const PROOF_TTL: Duration = Duration::from_secs(10);
/// Most challenges that are open at the same time; the oldest makes way.
pub const PROOFS_MAX: usize = 16;
/// Where the registry port answers, before the challenge.
pub const PROOF_PATH: &str = "/shoal/proof/";

/// A challenge and its answer: 128 random bits each, in hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Proof {
    /// What the port is asked.
    pub challenge: String,
    /// What it says then.
    pub answer: String,
}

/// The challenges that are open. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Proofs(Arc<Mutex<VecDeque<(Instant, Proof)>>>);

impl Proofs {
    /// Hands out a challenge.
    pub fn hand_out(&self, now: Instant) -> Proof {
        let random = || format!("{:032x}", rand::random::<u128>());
        let proof = Proof { challenge: random(), answer: random() };
        let mut open = self.0.lock();
        if open.len() == PROOFS_MAX {
            open.pop_front();
        }
        open.push_back((now + PROOF_TTL, proof.clone()));
        proof
    }

    /// The answer to a challenge that was handed out.
    pub fn answer(&self, challenge: &str, now: Instant) -> Option<String> {
        let mut open = self.0.lock();
        open.retain(|(until, _)| *until > now);
        let at = open.iter().position(|(_, proof)| proof.challenge == challenge)?;
        open.remove(at).map(|(_, proof)| proof.answer)
    }
}

/// What a registry port answers besides the registry.
pub fn proof_router(proofs: Proofs) -> Router {
    Router::new().route(&format!("{PROOF_PATH}{{challenge}}"), get(answer)).with_state(proofs)
}

async fn answer(
    State(proofs): State<Proofs>,
    Path(challenge): Path<String>,
) -> Result<String, (StatusCode, &'static str)> {
    let unknown = (StatusCode::NOT_FOUND, "no such challenge is open\n");
    proofs.answer(&challenge, Instant::now()).ok_or(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_answered_once_and_in_time() {
        let (proofs, now) = (Proofs::default(), Instant::now());
        let proof = proofs.hand_out(now);
        assert_eq!(proofs.answer("", now), None);
        assert_eq!(proofs.answer(&proof.answer, now), None, "the answer is no challenge");
        assert_eq!(proofs.answer(&proof.challenge, now), Some(proof.answer));
        assert_eq!(proofs.answer(&proof.challenge, now), None, "again");
        let late = proofs.hand_out(now);
        assert_eq!(proofs.answer(&late.challenge, now + PROOF_TTL), None, "too late");
    }

    #[test]
    fn only_so_many_are_open() {
        let (proofs, now) = (Proofs::default(), Instant::now());
        let all: Vec<Proof> = (0..=PROOFS_MAX).map(|_| proofs.hand_out(now)).collect();
        assert_eq!(proofs.answer(&all[0].challenge, now), None);
        assert!(proofs.answer(&all[1].challenge, now).is_some());
    }
}
