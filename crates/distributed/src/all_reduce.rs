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

use crate::progress::{Progress, Work};
use crate::session::Session;
use crate::{Channel, Exchange, Ticket};

/// How many gradients are exchanged at once. Fewer would make messages shorter than 64 KiB, which take more time for
/// themselves than for their bytes; but BatchNorm's sums wait for the bytes before them, at 1 Gbit/s two milliseconds for a
/// bucket of 256 KiB.
pub(crate) fn bucket_len(ranks: usize) -> usize {
    (ranks << 14).max(1 << 16)
}

/// Buckets that are on the way at once: while one arrives, another is added and sent back.
pub(crate) const WINDOW: usize = 2;

/// The sums of an engine.
pub(crate) struct AllReduce {
    session: Arc<Session>,
    /// Gradients that are final, which a thread helps on while the engine computes.
    buckets: Progress<Buckets>,
    /// Since when gradients are on the way.
    since: Option<Instant>,
}

/// Ranges of the flat buffer of gradients, and their values one after the other.
#[derive(Default)]
struct Piece {
    ranges: Vec<Range<usize>>,
    values: Vec<u32>,
}

/// Pieces in the order in which they are sent, on all ranks alike.
struct Buckets {
    session: Arc<Session>,
    /// What is not a bucket yet.
    filling: Piece,
    waiting: VecDeque<Piece>,
    sent: Vec<Bucket>,
    /// How many of those that were sent have come back.
    done: usize,
    /// Memory of buckets of the update before: fresh memory costs as much as what is written to it.
    spare: Vec<Vec<u32>>,
}

/// A piece that was sent.
struct Bucket {
    ranges: Vec<Range<usize>>,
    /// How many of its numbers each rank adds.
    owned: Vec<usize>,
    stage: Stage,
}

enum Stage {
    /// On the way to the ranks that add it.
    Scatter(Ticket),
    /// The sums are on the way back.
    Gather(Ticket),
    /// The sums.
    Done(Vec<u32>),
}

impl Buckets {
    /// Takes gradients, and sends each bucket of them.
    fn push(&mut self, range: Range<usize>, gradients: &[f32]) -> Result<(), EngineError> {
        let len = bucket_len(self.session.ranks);
        let mut start = range.start;
        while start < range.end {
            let Piece { ranges, values } = &mut self.filling;
            let end = range.end.min(start + len - values.len());
            values.extend_from_slice(bytemuck::cast_slice(&gradients[start..end]));
            ranges.push(start..end);
            if values.len() == len {
                self.end_bucket();
            }
            start = end;
        }
        self.advance(false)
    }

    /// What has been taken is a bucket.
    fn end_bucket(&mut self) {
        let next = Piece { ranges: Vec::new(), values: self.spare.pop().unwrap_or_default() };
        let piece = std::mem::replace(&mut self.filling, next);
        if !piece.values.is_empty() {
            self.waiting.push_back(piece);
        }
    }

    /// Sends the next pieces, adds what has arrived and sends it back, with `wait` until all have come back.
    fn advance(&mut self, wait: bool) -> Result<(), EngineError> {
        loop {
            while self.sent.len() < self.done + WINDOW
                && let Some(piece) = self.waiting.pop_front()
            {
                self.send(piece)?;
            }
            let Some(bucket) = self.sent.get_mut(self.done) else { return Ok(()) };
            let mut moved = bucket.advance(&self.session, wait)?;
            if let Stage::Done(_) = bucket.stage {
                self.done += 1;
            }
            // One after the other arrives: the sums of all are sent back in one order.
            for bucket in self.sent.iter_mut().skip(self.done) {
                if let Stage::Scatter(_) = bucket.stage {
                    moved |= bucket.advance(&self.session, false)?;
                }
                if let Stage::Scatter(_) = bucket.stage {
                    break;
                }
            }
            if !moved {
                return Ok(());
            }
        }
    }

    fn send(&mut self, Piece { ranges, values }: Piece) -> Result<(), EngineError> {
        let Session { rank, ranks, .. } = *self.session;
        let bound = |rank: usize| values.len() * rank / ranks;
        let owned: Vec<usize> = (0..ranks).map(|rank| bound(rank + 1) - bound(rank)).collect();
        let from = vec![owned[rank]; ranks];
        let exchange = Exchange::AllToAll { send: values, to: owned.clone(), from };
        let ticket = self.session.transport().start(Channel::Scatter, exchange)?;
        self.sent.push(Bucket { ranges, owned, stage: Stage::Scatter(ticket) });
        Ok(())
    }

    /// Sends what is left, waits for all buckets, and writes the sums to their ranges.
    fn finish(&mut self, gradients: &mut [f32]) -> Result<(), EngineError> {
        self.end_bucket();
        self.advance(true)?;
        self.done = 0;
        for bucket in self.sent.drain(..) {
            let Stage::Done(mut sums) = bucket.stage else { unreachable!("all have come back") };
            let mut rest: &[f32] = bytemuck::cast_slice(&sums);
            for range in bucket.ranges {
                let (own, other) = rest.split_at(range.len());
                gradients[range].copy_from_slice(own);
                rest = other;
            }
            sums.clear();
            self.spare.push(sums);
        }
        Ok(())
    }
}

impl Bucket {
    /// Goes on to the next stage if this one has ended, or with `wait` when it has. Returns whether it has.
    fn advance(&mut self, session: &Session, wait: bool) -> Result<bool, EngineError> {
        let mut transport = session.transport();
        let (Stage::Scatter(ticket) | Stage::Gather(ticket)) = self.stage else { return Ok(false) };
        if !wait && !transport.is_done(ticket)? {
            return Ok(false);
        }
        let mut numbers = transport.finish(ticket)?;
        if let Stage::Gather(_) = self.stage {
            self.stage = Stage::Done(numbers);
            return Ok(true);
        }
        drop(transport);
        let own = self.owned[session.rank];
        add_as_tree::<f32>(bytemuck::cast_slice_mut(&mut numbers), own);
        numbers.truncate(own);
        let exchange = Exchange::AllGather { send: numbers, from: self.owned.clone() };
        self.stage = Stage::Gather(session.transport().start(Channel::Gather, exchange)?);
        Ok(true)
    }
}

impl Work for Buckets {
    fn is_open(&self) -> bool {
        !self.waiting.is_empty() || self.done < self.sent.len()
    }

    fn advance(&mut self) -> Result<(), EngineError> {
        self.advance(false)
    }
}

impl AllReduce {
    pub fn new(session: Arc<Session>) -> Self {
        let buckets = Progress::new(Buckets {
            session: session.clone(),
            filling: Piece::default(),
            waiting: VecDeque::new(),
            sent: Vec::new(),
            done: 0,
            spare: Vec::new(),
        });
        AllReduce { session, buckets, since: None }
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
        Ok(())
    }

    fn gradients_final(
        &mut self,
        range: Range<usize>,
        gradients: &[f32],
    ) -> Result<(), EngineError> {
        self.since.get_or_insert_with(Instant::now);
        self.buckets.with(|buckets| buckets.push(range, gradients))
    }

    fn sum_gradients(&mut self, gradients: &mut [f32]) -> Result<(), EngineError> {
        if self.session.ranks == 1 {
            return Ok(());
        }
        let begin = Instant::now();
        let since = self.since.take();
        self.buckets.with(|buckets| {
            if since.is_none() {
                // No micro-batch has said that they are final.
                buckets.push(0..gradients.len(), gradients)?;
            }
            buckets.finish(gradients)
        })?;
        let mut times = self.session.times();
        times.waited += begin.elapsed().as_secs_f64();
        times.gradients += since.unwrap_or(begin).elapsed().as_secs_f64();
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
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::{Threads, Transport};

    #[test]
    fn buckets_bring_every_gradient_to_its_place() {
        // More than two buckets on the way, ranges that end within one, and a last one that is not full.
        let count = 5 * bucket_len(2) + 123;
        let ends = [count, count - 1000, count / 2, count / 2 - bucket_len(2), 7, 0];
        let outcomes: Vec<_> = thread::scope(|scope| {
            let ranks = Threads::new(2).map(|rank| {
                scope.spawn(move || {
                    let own = rank.rank() as f32;
                    let mut sums = AllReduce::new(Arc::new(Session::new(Box::new(rank))));
                    for update in 0..3 {
                        let of = |i: usize| (i % 1000) as f32 + own * (update + i % 7) as f32;
                        let mut gradients: Vec<f32> = (0..count).map(of).collect();
                        // The last update is one that has announced nothing.
                        for range in ends.windows(2).filter(|_| update < 2) {
                            sums.gradients_final(range[1]..range[0], &gradients)?;
                            thread::sleep(Duration::from_millis(2));
                            let mut norm = [own as f64, 1.0];
                            sums.sum(&mut norm)?;
                            assert_eq!(norm, [1.0, 2.0]);
                        }
                        sums.sum_gradients(&mut gradients)?;
                        let expected = |i: usize| 2.0 * (i % 1000) as f32 + (update + i % 7) as f32;
                        assert!((0..count).all(|i| gradients[i] == expected(i)), "{update}");
                    }
                    Ok::<(), EngineError>(())
                })
            });
            ranks.collect::<Vec<_>>().into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    }

    #[test]
    fn a_rank_that_ends_is_an_error_for_the_other() {
        let [first, second] = Threads::new(2).collect::<Vec<_>>().try_into().ok().unwrap();
        drop(second);
        let mut sums = AllReduce::new(Arc::new(Session::new(Box::new(first))));
        let mut gradients = vec![1.0; 3 * bucket_len(2)];
        assert!(sums.gradients_final(0..gradients.len(), &gradients).is_ok());
        thread::sleep(Duration::from_millis(5));
        let error = sums.sum_gradients(&mut gradients).unwrap_err();
        assert!(error.to_string().contains("rank 1 has ended"), "{error}");
    }

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
