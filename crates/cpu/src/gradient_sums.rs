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
    /// That of a part of a batch, whose halves are measured or not.
    pub fn new(part: &BatchPart, measure: bool) -> Self {
        let all = part.nodes().max(if measure { 2 } else { 1 });
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

    /// How many of them are in the batch's first half.
    fn in_first_half(&self) -> usize {
        (self.all / 2).clamp(self.own.start, self.own.end) - self.own.start
    }

    /// The groups as leaves of a tree, which are added in groups of their own.
    fn as_leaves(&self, groups: usize) -> Leaves {
        Leaves::new(self.all, self.all, self.own.clone(), groups)
    }

    /// The sum of the groups' numbers.
    pub fn total(&self, groups: &[f64; MOST_GROUPS]) -> f64 {
        let mut sum = LeafSum::default();
        for (group, leaf) in groups.iter().zip(self.as_leaves(1).list().iter()) {
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
}

impl GradientSums {
    pub fn new(numbers: usize) -> Self {
        GradientSums { sums: vec![AlignedBuffer::new(numbers)] }
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
        for sum in rest {
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

    /// Adds the groups of a range of parameters, to one sum or to one for each half of the batch.
    pub fn add_groups(
        &mut self,
        processor: &Processor,
        range: Range<usize>,
        grouping: &Grouping,
        halves: bool,
    ) {
        let groups = grouping.as_leaves(if halves { 2 } else { 1 });
        let [mut sums, _] = self.split(range.clone(), range.len());
        leaves::add(processor, &groups, &mut sums[..grouping.count()]);
    }

    /// The batch's two halves, whose groups are added, in their order.
    pub fn halves(&mut self, grouping: &Grouping) -> [&mut [f32]; 2] {
        let first = grouping.in_first_half();
        // Where one half has no groups of this process, its sum is one of zeros.
        let second = if first == grouping.count() || first == 0 { 1 } else { first };
        self.reserve(2);
        let (before, after) = self.sums.split_at_mut(second);
        let halves = [before[0].as_mut_slice(), after[0].as_mut_slice()];
        if first == 0 {
            let [second, first] = halves;
            return [first, second];
        }
        halves
    }

    /// Adds the halves; gives the squared norms of both, and of the sum.
    pub fn add_halves(&mut self, processor: &Processor, grouping: &Grouping) -> [f64; 3] {
        let only_second = grouping.in_first_half() == 0;
        let [first, second] = self.halves(grouping);
        if only_second {
            let [b, a, whole] = optimizer::add_measured(processor, second, first);
            [a, b, whole]
        } else {
            optimizer::add_measured(processor, first, second)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crescendo_kernels::{Isa, ThreadPool};

    #[test]
    fn halves_are_those_of_the_batch_on_every_process() {
        let processor = Processor { pool: ThreadPool::new(1), isa: Isa::best() };
        for (images, micro_batch) in [(16, 16), (32, 16)] {
            for (rank, ranks) in [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3), (7, 8), (1, 16)] {
                let tree = BatchTree::new(images, micro_batch);
                let mut sums = GradientSums::new(3);
                let mut expected = [0.0f32; 2];
                let mut grouping = None;
                for part in tree.parts(rank, ranks) {
                    let here = Grouping::new(&part, true);
                    sums.reserve(here.count());
                    let [groups, _] = sums.split(0..3, 3);
                    for leaf in here.leaves.list().iter() {
                        groups[leaf.group()][1] += leaf.images().len() as f32;
                    }
                    let middle = part.micro_batch() / 2;
                    let start = part.images().start % micro_batch;
                    for image in start..start + part.images().len() {
                        expected[usize::from(image >= middle)] += 1.0;
                    }
                    grouping = Some(here);
                }
                let grouping = grouping.unwrap();
                sums.add_groups(&processor, 0..3, &grouping, true);
                let halves = sums.halves(&grouping).map(|half| half[1]);
                assert_eq!(halves, expected, "{images} {micro_batch} {rank} {ranks}");
                let norms = sums.add_halves(&processor, &grouping);
                let whole = expected[0] + expected[1];
                let squares = [expected[0], expected[1], whole].map(|x| f64::from(x * x));
                assert_eq!((norms, sums.of_batch()), (squares, &[0.0, whole, 0.0][..]));
                assert!(sums.added().is_none(), "the others are zeros");
            }
        }
    }
}
