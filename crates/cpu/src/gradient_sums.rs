//! The gradients, some of which are kept apart until they are added in the order of the batch's tree.

use std::ops::Range;

use crescendo_kernels::leaves::{self, MOST_GROUPS, MOST_LEAVES};
use crescendo_kernels::{AlignedBuffer, LeafSum, Leaves, Processor, optimizer};
use crescendo_network::{BatchPart, BatchTree};

const _: () = assert!(BatchTree::MOST_LEAVES <= MOST_LEAVES, "kernels know as many leaves");

/// A sum of gradients for each group of leaves.
pub(crate) type Groups<'a> = [&'a mut [f32]; MOST_GROUPS];

/// Which images of a batch's tree a pass has, and which of their sums are kept apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grouping {
    pub leaves: Leaves,
    /// Groups of the whole tree.
    all: usize,
    /// Those that are this process's.
    own: Range<usize>,
    /// That of the leaves' first group among them.
    offset: usize,
}

impl Grouping {
    /// That of a part of a batch.
    pub fn new(part: &BatchPart) -> Self {
        let all = part.nodes();
        let (leaves, own) = (part.tree_leaves(), part.leaves());
        let group = |leaf: usize| (leaf * all / leaves).min(all - 1);
        let groups = group(own.start)..group(own.end.max(own.start + 1) - 1) + 1;
        if part.is_alone() {
            let offset = group(part.leaf()) - groups.start;
            return Grouping { leaves: Leaves::one(part.micro_batch()), all, own: groups, offset };
        }
        let leaves = Leaves::new(part.micro_batch(), leaves, own, all);
        Grouping { leaves, all, own: groups, offset: 0 }
    }

    /// How many groups are this process's.
    pub fn count(&self) -> usize {
        self.own.len()
    }

    /// Which of them the leaves belong to.
    pub fn of_leaves(&self) -> Range<usize> {
        self.offset..self.offset + self.leaves.groups()
    }

    /// The groups as leaves of a tree.
    fn as_leaves(&self) -> Leaves {
        Leaves::new(self.all, self.all, self.own.clone(), 1)
    }

    /// The sum of the groups' numbers.
    pub fn total(&self, groups: &[f64; MOST_GROUPS]) -> f64 {
        let mut sum = LeafSum::default();
        for (group, leaf) in groups.iter().zip(self.as_leaves().list().iter()) {
            sum.add(*group, leaf.joins());
        }
        sum.total()
    }
}

/// The gradients of all parameters, laid out as the parameters.
pub(crate) struct GradientSums {
    /// Those of the batch, or of this process's first group; and those of its other groups, which are zeros between
    /// updates.
    sums: Vec<AlignedBuffer>,
    /// Those of the first half of a batch that is measured, once there was one; zeros between updates.
    first_half: AlignedBuffer,
    is_apart: bool,
}

impl GradientSums {
    pub fn new(numbers: usize) -> Self {
        GradientSums {
            sums: vec![AlignedBuffer::new(numbers)],
            first_half: AlignedBuffer::default(),
            is_apart: false,
        }
    }

    /// Makes room for so many groups.
    pub fn reserve(&mut self, groups: usize) {
        let numbers = self.of_batch().len();
        while self.sums.len() < groups {
            self.sums.push(AlignedBuffer::new(numbers));
        }
    }

    /// Those of the batch, unless they are kept apart.
    pub fn of_batch(&self) -> &[f32] {
        self.sums[0].as_slice()
    }

    /// See [`of_batch`](Self::of_batch).
    pub fn of_batch_mut(&mut self) -> &mut [f32] {
        self.sums[0].as_mut_slice()
    }

    /// Those of the batch so far, if they are kept apart.
    pub fn added(&self) -> Option<Vec<f32>> {
        let (first, rest) = self.sums.split_first()?;
        let mut all = first.as_slice().to_vec();
        let mut apart = false;
        for sum in rest.iter().chain([&self.first_half]) {
            for (all, number) in all.iter_mut().zip(sum.as_slice()) {
                apart |= *number != 0.0;
                *all += number;
            }
        }
        apart.then_some(all)
    }

    /// Replaces some of those of the batch.
    pub fn replace(&mut self, range: Range<usize>, values: &[f32]) {
        for (index, sum) in self.sums.iter_mut().enumerate() {
            let sum = &mut sum.as_mut_slice()[range.clone()];
            if index == 0 { sum.copy_from_slice(values) } else { sum.fill(0.0) }
        }
        if self.is_apart {
            self.first_half.as_mut_slice()[range].fill(0.0);
        }
    }

    /// Those of a range of parameters in all groups, cut in two at so many numbers.
    pub fn split(&mut self, range: Range<usize>, at: usize) -> [Groups<'_>; 2] {
        let mut groups = self.sums.iter_mut();
        let mut second: Groups = Default::default();
        let first = std::array::from_fn(|group| match groups.next() {
            Some(sum) => {
                let (before, after) = sum.as_mut_slice()[range.clone()].split_at_mut(at);
                second[group] = after;
                before
            }
            None => &mut [],
        });
        [first, second]
    }

    /// Adds the groups of a range of parameters.
    pub fn add_groups(&mut self, processor: &Processor, range: Range<usize>, grouping: &Grouping) {
        let [mut sums, _] = self.split(range.clone(), range.len());
        leaves::add(processor, &grouping.as_leaves(), &mut sums[..grouping.count()]);
    }

    /// Keeps what there is, the gradients of the first half of a batch, apart from what comes, unless it was done.
    pub fn set_first_half_apart(&mut self, processor: &Processor, grouping: &Grouping) {
        if std::mem::replace(&mut self.is_apart, true) {
            return;
        }
        let all = self.of_batch().len();
        self.add_groups(processor, 0..all, grouping);
        if self.first_half.as_slice().is_empty() {
            self.first_half = AlignedBuffer::new(all);
        }
        std::mem::swap(&mut self.first_half, &mut self.sums[0]);
    }

    /// The gradients of both halves, the first of which was set apart.
    pub fn halves(&mut self) -> [&mut [f32]; 2] {
        [self.first_half.as_mut_slice(), self.sums[0].as_mut_slice()]
    }

    /// Adds the halves; gives the squared norms of both, and of the sum.
    pub fn add_halves(&mut self, processor: &Processor) -> [f64; 3] {
        self.is_apart = false;
        let [first, second] = self.halves();
        let [second, first, whole] = optimizer::add_measured(processor, second, first);
        [first, second, whole]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crescendo_kernels::{Isa, ThreadPool};

    #[test]
    fn halves_are_added_and_measured() {
        let processor = Processor { pool: ThreadPool::new(1), isa: Isa::best() };
        let tree = BatchTree::new(32, 8);
        let mut sums = GradientSums::new(3);
        // Twice: nothing is left for the next update.
        for _ in 0..2 {
            let mut last = None;
            for part in tree.parts(0, 1) {
                let grouping = Grouping::new(&part);
                sums.reserve(grouping.count());
                if part.is_in_second_half() {
                    sums.set_first_half_apart(&processor, &grouping);
                }
                let [groups, _] = sums.split(0..3, 3);
                for group in groups {
                    group[1] += 1.0 + part.index().0 as f32;
                }
                last = Some(grouping);
            }
            assert_eq!(sums.added().unwrap(), [0.0, 80.0, 0.0]);
            sums.add_groups(&processor, 0..3, &last.unwrap());
            assert_eq!(sums.halves().map(|half| half[1]), [24.0, 56.0]);
            assert_eq!(sums.add_halves(&processor), [24.0 * 24.0, 56.0 * 56.0, 80.0 * 80.0]);
            assert!(sums.added().is_none(), "the others are zeros");
            sums.of_batch_mut().fill(0.0);
        }
    }
}
