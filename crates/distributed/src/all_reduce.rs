//! Sums over the ranks whose bits do not depend on how many there are.
//!
//! The numbers of all ranks are added pairwise, as in a binary tree: `((0 + 1) + (2 + 3)) + ...`. Collective operations
//! that add on the way promise no order, so numbers are only moved: every rank owns a part of them, which all ranks send
//! to it and which it adds, and the sums are sent back.

use std::collections::VecDeque;
use std::ops::{AddAssign, Range};
use std::sync::Arc;
use std::time::Instant;

use crescendo_network::{Communicator, EngineError};

use crate::session::Session;
use crate::{Channel, Exchange, Ticket};

/// Gradients that are exchanged at once, at least: long enough that their bytes and not their number take the time.
pub(crate) const BUCKET: usize = 1 << 20;

/// The sums of an engine.
pub(crate) struct AllReduce {
    session: Arc<Session>,
    /// Gradients that are final but have not been sent.
    filling: Piece,
    /// What was sent, in this order.
    buckets: VecDeque<Bucket>,
    /// Since when gradients are on the way.
    since: Option<Instant>,
}

/// Ranges of the flat buffer of gradients, and their values one after the other.
#[derive(Default)]
struct Piece {
    ranges: Vec<Range<usize>>,
    values: Vec<u32>,
}

/// A piece on its way.
struct Bucket {
    ranges: Vec<Range<usize>>,
    /// How many of its numbers each rank adds.
    owned: Vec<usize>,
    way: Way,
}

enum Way {
    /// To the ranks that add it.
    There(Ticket),
    /// Back from them.
    Back(Ticket),
}

impl AllReduce {
    pub fn new(session: Arc<Session>) -> Self {
        AllReduce { session, filling: Piece::default(), buckets: VecDeque::new(), since: None }
    }

    /// Sends what has been collected.
    fn send(&mut self) -> Result<(), EngineError> {
        let Piece { ranges, values } = std::mem::take(&mut self.filling);
        if values.is_empty() {
            return Ok(());
        }
        self.since.get_or_insert_with(Instant::now);
        let Session { rank, ranks, .. } = *self.session;
        let bound = |rank: usize| values.len() * rank / ranks;
        let owned: Vec<usize> = (0..ranks).map(|rank| bound(rank + 1) - bound(rank)).collect();
        let from = vec![owned[rank]; ranks];
        let exchange = Exchange::AllToAll { send: values, to: owned.clone(), from };
        let ticket = self.session.transport().start(Channel::Scatter, exchange)?;
        self.buckets.push_back(Bucket { ranges, owned, way: Way::There(ticket) });
        Ok(())
    }

    /// Adds what has arrived and sends it back. With `wait` it waits for all buckets, otherwise for none.
    fn add_arrived(&mut self, wait: bool) -> Result<(), EngineError> {
        let Session { rank, .. } = *self.session;
        for bucket in &mut self.buckets {
            let mut transport = self.session.transport();
            let ticket = match bucket.way {
                Way::There(ticket) => ticket,
                Way::Back(ticket) => {
                    transport.is_done(ticket)?;
                    continue;
                }
            };
            if !wait && !transport.is_done(ticket)? {
                // The sums of all buckets are sent back in one order.
                return Ok(());
            }
            let mut parts = transport.finish(ticket)?;
            let own = bucket.owned[rank];
            let numbers: &mut [f32] = bytemuck::cast_slice_mut(&mut parts);
            add_as_tree(numbers, own);
            parts.truncate(own);
            let exchange = Exchange::AllGather { send: parts, from: bucket.owned.clone() };
            bucket.way = Way::Back(transport.start(Channel::Gather, exchange)?);
        }
        Ok(())
    }
}

impl Communicator for AllReduce {
    fn sum(&mut self, values: &mut [f64]) -> Result<(), EngineError> {
        if self.session.ranks == 1 {
            return Ok(());
        }
        let begin = Instant::now();
        let words = self.session.gather(bytemuck::cast_slice(values).to_vec())?;
        let mut all: Vec<f64> = bytemuck::pod_collect_to_vec(&words);
        add_as_tree(&mut all, values.len());
        values.copy_from_slice(&all[..values.len()]);
        self.session.times().norms += begin.elapsed().as_secs_f64();
        self.add_arrived(false)
    }

    fn gradients_final(
        &mut self,
        range: Range<usize>,
        gradients: &[f32],
    ) -> Result<(), EngineError> {
        self.filling.values.extend_from_slice(bytemuck::cast_slice(&gradients[range.clone()]));
        self.filling.ranges.push(range);
        if self.filling.values.len() >= BUCKET {
            self.send()?;
        }
        self.add_arrived(false)
    }

    fn sum_gradients(&mut self, gradients: &mut [f32]) -> Result<(), EngineError> {
        if self.session.ranks == 1 {
            return Ok(());
        }
        let begin = Instant::now();
        self.send()?;
        if self.buckets.is_empty() {
            // No micro-batch has said that they are final.
            for start in (0..gradients.len()).step_by(BUCKET) {
                let range = start..gradients.len().min(start + BUCKET);
                self.gradients_final(range, gradients)?;
            }
            self.send()?;
        }
        self.add_arrived(true)?;
        while let Some(bucket) = self.buckets.pop_front() {
            let Way::Back(ticket) = bucket.way else { unreachable!("all have been added") };
            let sums = self.session.transport().finish(ticket)?;
            let mut sums: &[f32] = bytemuck::cast_slice(&sums);
            for range in bucket.ranges {
                let (own, rest) = sums.split_at(range.len());
                gradients[range].copy_from_slice(own);
                sums = rest;
            }
        }
        let mut times = self.session.times();
        times.waited += begin.elapsed().as_secs_f64();
        times.gradients += self.since.take().map_or(0.0, |since| since.elapsed().as_secs_f64());
        Ok(())
    }
}

/// Adds equally long parts of `numbers`: the sum of the first half of the parts, and that of the rest. The sum of all is in
/// the first `part` numbers then.
fn add_as_tree<T: Copy + AddAssign>(numbers: &mut [T], part: usize) {
    let parts = numbers.len().checked_div(part).unwrap_or(0);
    if parts < 2 {
        return;
    }
    let (first, rest) = numbers.split_at_mut(parts / 2 * part);
    add_as_tree(first, part);
    add_as_tree(rest, part);
    for (sum, value) in first[..part].iter_mut().zip(&rest[..part]) {
        *sum += *value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_added_pairwise() {
        // In floating point the order shows: 1 is lost beside 2^24.
        let big = (1 << 24) as f32;
        let mut numbers = [big, 1.0, -big, 1.0];
        add_as_tree(&mut numbers, 1);
        assert_eq!(numbers[0], (big + 1.0) + (-big + 1.0));
        let mut parts = [1, 10, 2, 20, 3, 30, 4, 40, 5, 50];
        add_as_tree(&mut parts, 2);
        assert_eq!(parts[..2], [15, 150]);
        let mut three = [1e8f32, 1.0, -1e8];
        add_as_tree(&mut three, 1);
        assert_eq!(three[0], 1e8 + (1.0 + -1e8));
    }
}
