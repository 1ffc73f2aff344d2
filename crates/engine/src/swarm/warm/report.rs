//! What has become of an order: a bit for each member that is ready, and the number and the reason of each that failed.

use super::blobs::Standing;
use crate::wire::WarmFault;

/// See [`Message::WarmProgress`](crate::wire::Message::WarmProgress).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// A bit for each member.
    pub ready: Vec<u8>,
    /// Who failed, ascending.
    pub failed: Vec<(u32, WarmFault)>,
}

impl Report {
    /// A report about members in the order's succession.
    pub fn new(standings: impl ExactSizeIterator<Item = Standing>) -> Self {
        let mut report = Report { ready: vec![0; standings.len().div_ceil(8)], failed: Vec::new() };
        for (at, standing) in (0..).zip(standings) {
            match standing {
                Standing::Waiting => {}
                Standing::Ready => report.ready[at / 8] |= 1 << (at % 8),
                Standing::Failed(why) => report.failed.push((at as u32, why)),
            }
        }
        report
    }

    /// How it says that each of `len` members stands; `None` if it is not about so many.
    pub fn standings(&self, len: usize) -> Option<Vec<Standing>> {
        if self.ready.len() != len.div_ceil(8) {
            return None;
        }
        let bit = |at: usize| self.ready[at / 8] & 1 << (at % 8) != 0;
        let ready = |at| if bit(at) { Standing::Ready } else { Standing::Waiting };
        let mut standings: Vec<_> = (0..len).map(ready).collect();
        for (at, why) in &self.failed {
            *standings.get_mut(usize::try_from(*at).ok()?)? = Standing::Failed(*why);
        }
        Some(standings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_is_heard() {
        let (waiting, ready) = (Standing::Waiting, Standing::Ready);
        let failed = Standing::Failed(WarmFault::Denied);
        let table: [&[Standing]; 5] =
            [&[], &[ready], &[failed], &[waiting, ready, failed], &[ready, ready, failed, waiting].repeat(5)];
        for standings in table {
            let report = Report::new(standings.iter().copied());
            assert_eq!(report.standings(standings.len()).as_deref(), Some(standings));
        }
    }

    #[test]
    fn a_report_about_others_is_not_believed() {
        let report = Report { ready: vec![0xff], failed: vec![(3, WarmFault::Store)] };
        assert_eq!(report.standings(9), None);
        assert_eq!(report.standings(3), None);
        assert!(report.standings(4).is_some());
    }
}
