//! The roll: receivers that a home has not heard of for long are asked whether they still receive.
//!
//! Question: one that receives well has nothing to say to its home; how does the home tell it from one that has left and
//! whose goodbye was lost? Answer: each [`ROLL_PAUSE`] it tells all receivers that nothing has changed. One that receives by
//! this book says nothing; the others say what they are by now, and go. One that cannot be reached breaks its connection.
//! Nobody is struck off for being silent, so nobody has to come back. Prevents: a book that stays open for good, and
//! members that are fed by somebody who has left.

use super::{Book, Mail};
use crate::ids::Digest;
use crate::limits::ROLL_PAUSE;
use crate::time::Time;
use crate::wire::Message;

impl Book {
    pub(super) fn call_roll(&mut self, now: Time, mail: &mut Mail) {
        if now < self.roll_at {
            return;
        }
        self.roll_at = now + ROLL_PAUSE;
        mail.extend(self.forest.receivers().map(|node| (self.forest.peer(node), question(self.digest))));
    }
}

fn question(digest: Digest) -> Message {
    Message::Feeds { digest, feeds: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Algorithm;
    use crate::peer::{PeerId, Roster};
    use crate::swarm::home::{Home, Joining};

    #[test]
    fn a_book_asks_those_who_receive_and_ends_with_the_last_of_them() {
        let (me, seed, receiver) = (PeerId([1; 32]), PeerId([2; 32]), PeerId([3; 32]));
        let (digest, roster) = (Digest::new(Algorithm::Sha256, &[7; 32]), Roster::default());
        let (mut home, mut mail) = (Home::new(me), Mail::new());
        let joining = Joining { again: true, ..Joining::fresh() };
        home.join(Time::ZERO, receiver, digest, joining, &roster, &mut mail);
        home.whole(Time::ZERO, seed, digest, 1 << 20, &roster, &mut mail);
        let mut asked = 0;
        while let Some(at) = home.next_wakeup().filter(|at| *at <= Time::ZERO + 2 * ROLL_PAUSE) {
            mail.clear();
            home.advance(at, &mut mail);
            asked += mail.iter().filter(|m| **m == (receiver, question(digest))).count();
            assert!(!mail.contains(&(seed, question(digest))), "it has said what it is");
        }
        assert_eq!(asked, 2);
        assert!(home.keeps(&digest), "nobody is struck off");
        home.leave(Time::ZERO + 2 * ROLL_PAUSE, receiver, digest, &mut mail);
        assert!(!home.keeps(&digest));
    }
}
