//! The order in which images are summed: a tree, whose leaves are runs of images.
//!
//! What is summed over the images of a batch is summed over each leaf by itself, and the sums of leaves are added
//! pairwise. Who has some subtrees of the batch computes exactly their sums, so that several processes come to the same
//! bits as one.
//!
//! # Example
//!
//! ```
//! use crescendo_kernels::{LeafSum, Leaves};
//!
//! // Ten images in four leaves, all of them in this call.
//! let leaves = Leaves::new(10, 4, 0..4, 1);
//! let images: Vec<_> = leaves.list().iter().map(|leaf| leaf.images()).collect();
//! assert_eq!(images, [0..2, 2..5, 5..7, 7..10]);
//! let of = |leaves: Leaves, numbers: &[f64]| {
//!     let mut sum = LeafSum::default();
//!     for leaf in leaves.list().iter() {
//!         sum.add(numbers[leaf.images()].iter().sum::<f64>(), leaf.joins());
//!     }
//!     sum.total()
//! };
//! let numbers = [0.1, 0.7, 0.3, 0.9, 0.2, 0.6, 0.8, 0.4, 0.5, 1.1];
//!
//! // Two that have two leaves each come to the same sum.
//! let halves = [Leaves::new(10, 4, 0..2, 1), Leaves::new(10, 4, 2..4, 1)];
//! let sum = of(halves[0], &numbers[..5]) + of(halves[1], &numbers[5..]);
//! assert_eq!(of(leaves, &numbers), sum);
//! ```

use std::ops::{Add, Range};

use crate::disjoint_slice::DisjointSlice;
use crate::elementwise::PIECE;
use crate::partition::split_range;
use crate::{Processor, ThreadPool};

/// The most leaves of a tree.
pub const MOST_LEAVES: usize = 64;

/// Trees of fewer leaves are one leaf, so that the memory for a tree does not fall with its leaves.
const LEAST_LEAVES: usize = 8;

/// The most partial sums of a kernel.
pub(crate) const MOST_PARTS: usize = MOST_LEAVES;

/// Which images of a kernel's call belong to which leaves of a tree.
///
/// See the example of [the module `leaves`](crate::leaves).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaves {
    /// Images of the whole tree.
    whole: usize,
    /// Its leaves.
    leaves: usize,
    /// Those whose images are in the call.
    first: usize,
    end: usize,
    /// Subtrees of the whole tree whose sums are kept apart.
    groups: usize,
}

impl Leaves {
    /// All images are one leaf.
    pub fn one(images: usize) -> Self {
        Leaves { whole: images, leaves: 1, first: 0, end: 1, groups: 1 }
    }

    /// A tree over `images` images with so many leaves, of which those in `own` are in the call; the sums of so many
    /// subtrees are kept apart.
    ///
    /// # Panics
    /// If `leaves` and `groups` are no powers of two, there are more leaves than [`MOST_LEAVES`] or more groups than
    /// leaves or [`MOST_GROUPS`], or `own` is no range of them.
    pub fn new(images: usize, leaves: usize, own: Range<usize>, groups: usize) -> Self {
        assert!(leaves.is_power_of_two() && leaves <= MOST_LEAVES, "not a number of leaves");
        assert!(
            groups.is_power_of_two() && groups <= leaves.min(MOST_GROUPS),
            "not a number of groups"
        );
        assert!(own.start <= own.end && own.end <= leaves, "not a range of leaves");
        Leaves { whole: images, leaves, first: own.start, end: own.end, groups }
    }

    /// The same with the sums of so many subtrees kept apart.
    ///
    /// # Panics
    /// If `groups` is no power of two, or there are more than leaves.
    #[must_use]
    pub fn in_groups(self, groups: usize) -> Self {
        Leaves::new(self.whole, self.leaves, self.first..self.end, groups)
    }

    /// Images of the call.
    pub fn images(&self) -> usize {
        self.before(self.end) - self.before(self.first)
    }

    /// Sums that the call has: of those subtrees that have leaves of the call.
    pub fn groups(&self) -> usize {
        self.group_of(self.end.max(self.first + 1) - 1) + 1
    }

    /// The leaves of the call that have images, in order.
    pub fn list(&self) -> LeafList {
        let mut list = LeafList { leaves: [Leaf::default(); MOST_LEAVES], count: 0 };
        let start = self.before(self.first);
        for leaf in self.first..self.end {
            let (from, to) = (self.before(leaf) - start, self.before(leaf + 1) - start);
            if from < to {
                let (group, joins) = (self.group_of(leaf), self.joins(leaf));
                list.leaves[list.count] = Leaf { start: from, end: to, group, joins };
                list.count += 1;
            }
        }
        list
    }

    /// At least as many as its [`list`](Self::list) has.
    pub(crate) fn most(&self) -> usize {
        (self.end - self.first).min(self.images())
    }

    /// Images of the whole tree.
    pub(crate) fn whole(&self) -> usize {
        self.whole
    }

    /// Leaves of the whole tree.
    pub(crate) fn count(&self) -> usize {
        self.leaves
    }

    /// Images of the tree before a leaf.
    fn before(&self, leaf: usize) -> usize {
        self.whole * leaf / self.leaves
    }

    /// The group of a leaf, counted from that of the call's first leaf.
    fn group_of(&self, leaf: usize) -> usize {
        leaf * self.groups / self.leaves - self.first * self.groups / self.leaves
    }

    /// Images of the call in these leaves.
    fn within(&self, leaves: Range<usize>) -> usize {
        let (first, end) = (leaves.start.max(self.first), leaves.end.min(self.end));
        if first < end { self.before(end) - self.before(first) } else { 0 }
    }

    /// How many subtrees of its group are complete with this leaf, and have images on both sides.
    fn joins(&self, leaf: usize) -> usize {
        let (mut joins, mut size) = (0, 1);
        while 2 * size <= self.leaves / self.groups {
            let start = leaf / (2 * size) * (2 * size);
            if self.within(leaf + 1..start + 2 * size) > 0 {
                break;
            }
            let is_right = leaf >= start + size;
            joins += usize::from(is_right && self.within(start..start + size) > 0);
            size *= 2;
        }
        joins
    }
}

/// A leaf, or what it is called with: a run of images.
///
/// See the example of [the module `leaves`](crate::leaves).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    start: usize,
    end: usize,
    group: usize,
    joins: usize,
}

impl Leaf {
    /// Its images in the call.
    pub fn images(&self) -> Range<usize> {
        self.start..self.end
    }

    /// The sum that it belongs to.
    pub fn group(&self) -> usize {
        self.group
    }

    /// How often the last two sums are added after its own: see [`LeafSum::add`].
    pub fn joins(&self) -> usize {
        self.joins
    }
}

/// Leaves, in order.
///
/// See the example of [the module `leaves`](crate::leaves).
#[derive(Clone, Copy, Debug)]
pub struct LeafList {
    leaves: [Leaf; MOST_LEAVES],
    count: usize,
}

impl std::ops::Deref for LeafList {
    type Target = [Leaf];
    fn deref(&self) -> &[Leaf] {
        &self.leaves[..self.count]
    }
}

/// Sums that wait for their neighbour, at most.
pub(crate) const DEPTH: usize = MOST_LEAVES.ilog2() as usize + 2;

/// A sum over leaves.
///
/// See the example of [the module `leaves`](crate::leaves).
#[derive(Clone, Copy, Debug, Default)]
pub struct LeafSum<T> {
    waiting: [T; DEPTH],
    count: usize,
}

impl<T: Copy + Default + Add<Output = T>> LeafSum<T> {
    /// Adds the sum of a leaf; then the last two sums become one, so often.
    pub fn add(&mut self, leaf: T, joins: usize) {
        self.waiting[self.count] = leaf;
        self.count += 1;
        for _ in 0..joins {
            self.count -= 1;
            self.waiting[self.count - 1] = self.waiting[self.count - 1] + self.waiting[self.count];
        }
    }

    /// The sum, of which nothing is left; zero where there was no leaf.
    pub fn total(&mut self) -> T {
        debug_assert!(self.count <= 1, "a group is complete with its last leaf");
        if std::mem::take(&mut self.count) == 0 { T::default() } else { self.waiting[0] }
    }
}

/// The most groups whose sums are kept apart.
pub const MOST_GROUPS: usize = 8;

/// The sums of all groups, which several threads add to, each to numbers of its own.
pub(crate) struct GroupSlices<'a>([DisjointSlice<'a, f32>; MOST_GROUPS]);

impl<'a> GroupSlices<'a> {
    /// # Panics
    /// If there is not a sum of so many numbers for each group.
    pub fn new(leaves: &Leaves, sums: &'a mut [&mut [f32]], len: usize) -> Self {
        assert_eq!(sums.len(), leaves.groups(), "one sum for each group");
        assert!(sums.iter().all(|sum| sum.len() == len), "a sum has the wrong length");
        let mut sums = sums.iter_mut();
        GroupSlices(std::array::from_fn(|_| match sums.next() {
            Some(sum) => DisjointSlice::new(sum),
            None => DisjointSlice::new(&mut []),
        }))
    }

    /// Some numbers of a group's sum.
    ///
    /// # Safety
    /// That of [`DisjointSlice::part`].
    #[allow(clippy::mut_from_ref)] // as there
    pub unsafe fn part(&self, group: usize, offset: usize, len: usize) -> &mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { self.0[group].part(offset, len) }
    }
}

/// Adds sums, one for each of the leaves, in the order of the tree: a group's sum takes the place of its first leaf's, and
/// the others become zeros.
///
/// # Panics
/// If there is not one sum for each leaf, or their lengths differ.
pub fn add(processor: &Processor, leaves: &Leaves, sums: &mut [&mut [f32]]) {
    let list = &leaves.list();
    let len = sums.first().map_or(0, |sum| sum.len());
    assert!(sums.iter().all(|sum| sum.len() == len), "lengths differ");
    assert!(sums.len() == list.len() && sums.len() <= MOST_GROUPS, "one sum for each leaf");
    if sums.len() < 2 {
        return;
    }
    let work = ThreadPool::ELEMENT * len * sums.len();
    let mut slices = sums.iter_mut();
    let sums: [DisjointSlice<f32>; MOST_GROUPS] = std::array::from_fn(|_| match slices.next() {
        Some(sum) => DisjointSlice::new(sum),
        None => DisjointSlice::new(&mut []),
    });
    processor.pool.run(len.div_ceil(PIECE), work, |piece, _| {
        let (start, len) = (piece * PIECE, PIECE.min(len - piece * PIECE));
        let (mut waiting, mut count) = ([0; DEPTH], 0);
        for (index, leaf) in list.iter().enumerate() {
            if index > 0 && leaf.group() != list[index - 1].group() {
                count = 0;
            }
            waiting[count] = index;
            count += 1;
            for _ in 0..leaf.joins() {
                count -= 1;
                // SAFETY: each task has a piece of each sum, and these two differ.
                let (to, from) = unsafe {
                    (
                        sums[waiting[count - 1]].part(start, len),
                        sums[waiting[count]].part(start, len),
                    )
                };
                for (to, from) in to.iter_mut().zip(from) {
                    *to += std::mem::take(from);
                }
            }
        }
    });
}

/// A part of a leaf, of which a kernel has a partial sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Part {
    start: usize,
    end: usize,
    /// The sum that its leaf belongs to.
    pub group: usize,
    /// Whether its leaf begins with it.
    pub begins: bool,
    /// If its leaf ends with it, the leaf's joins.
    pub ends: Option<usize>,
}

impl Part {
    pub fn images(&self) -> Range<usize> {
        self.start..self.end
    }
}

/// The parts of a call's leaves, in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    parts: [Part; MOST_PARTS],
    count: usize,
}

impl Parts {
    /// About `wanted` parts of the whole tree, at least four and at most [`MOST_PARTS`]: whole leaves, or as many parts of
    /// each. They depend on the tree alone, not on which of its leaves are in the call.
    pub fn new(leaves: &Leaves, wanted: usize) -> Self {
        let each = (wanted.clamp(4, MOST_PARTS) / leaves.count()).max(1);
        let mut parts = Parts { parts: [Part::default(); MOST_PARTS], count: 0 };
        for leaf in leaves.list().iter() {
            let (images, group) = (leaf.images(), leaf.group());
            let each = each.min(images.len());
            for index in 0..each {
                let part = split_range(images.len(), each, index);
                parts.parts[parts.count] = Part {
                    start: images.start + part.start,
                    end: images.start + part.end,
                    group,
                    begins: index == 0,
                    ends: (index == each - 1).then_some(leaf.joins()),
                };
                parts.count += 1;
            }
        }
        parts
    }

    /// At least as many as there are parts; of a whole tree it does not fall with the number of images.
    pub fn most(leaves: &Leaves, wanted: usize) -> usize {
        let all = wanted.clamp(4, MOST_PARTS).max(leaves.count());
        (all * (leaves.end - leaves.first)).div_ceil(leaves.count()).min(leaves.images())
    }

    /// At least as many as a leaf has.
    pub fn most_of_leaf(leaves: &Leaves, wanted: usize) -> usize {
        (wanted.clamp(4, MOST_PARTS) / leaves.count().min(LEAST_LEAVES)).max(1)
    }

    /// The parts of each leaf, as a range of them.
    pub fn by_leaf(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let ends = (0..self.count).filter(|&part| self[part].ends.is_some());
        ends.scan(0, |start, end| Some(std::mem::replace(start, end + 1)..end + 1))
    }

    /// Chunks of at most `most` images, one after the other. A chunk that has all of a leaf ends with one, so that no sum is
    /// begun in it that is not complete; one that has all of a part ends with one.
    pub fn chunks(&self, most: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        let all = self.last().map_or(0, |part| part.end);
        let mut start = 0;
        std::iter::from_fn(move || {
            let within = self.iter().filter(|part| part.end > start && part.end <= start + most);
            let end = within
                .max_by_key(|part| (part.ends.is_some(), part.end))
                .map_or(all.min(start + most), |part| part.end);
            let chunk = start..end;
            start = end;
            (!chunk.is_empty()).then_some(chunk)
        })
    }

    /// The parts that some images belong to.
    pub fn of(&self, images: &Range<usize>) -> Range<usize> {
        let ended = |at: usize| self.iter().take_while(|part| part.end <= at).count();
        ended(images.start)..ended(images.end - 1) + 1
    }
}

impl std::ops::Deref for Parts {
    type Target = [Part];
    fn deref(&self) -> &[Part] {
        &self.parts[..self.count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(leaves: Leaves, numbers: &[f32]) -> f32 {
        let mut sum = LeafSum::default();
        for leaf in leaves.list().iter() {
            sum.add(numbers[leaf.images()].iter().sum::<f32>(), leaf.joins());
        }
        sum.total()
    }

    #[test]
    fn chunks_end_with_leaves_or_parts() {
        let chunks = |leaves, wanted, most| -> Vec<_> {
            let parts = Parts::new(&Leaves::new(100, leaves, 0..leaves, 1), wanted);
            parts.chunks(most).map(|chunk| chunk.end).collect()
        };
        assert_eq!(chunks(8, 4, 26), [25, 50, 75, 100]);
        assert_eq!(chunks(8, 4, 200), [100]);
        // Two parts of each leaf, of which two and a half fit.
        assert_eq!(chunks(8, 16, 16), [12, 25, 37, 50, 62, 75, 87, 100]);
        // Leaves of 25 images in parts of six.
        assert_eq!(chunks(4, 16, 14), [12, 25, 37, 50, 62, 75, 87, 100]);
        assert_eq!(chunks(4, 4, 10), [10, 20, 25, 35, 45, 50, 60, 70, 75, 85, 95, 100]);
    }

    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 37 + 11) % 101) as f32 / 7.0).collect()
    }

    #[test]
    fn subtrees_add_up_to_the_same_bits() {
        for (images, leaves) in [(125, 8), (1000, 16), (3, 8), (1, 8), (13, 8), (64, 64), (70, 64)]
        {
            let numbers = numbers(images);
            let whole = sum(Leaves::new(images, leaves, 0..leaves, 1), &numbers);
            for processes in [2, 4, 8] {
                let each = leaves / processes;
                let mut sums: Vec<f32> = (0..processes)
                    .map(|process| {
                        let own = each * process..each * (process + 1);
                        let own_images = images * own.start / leaves..images * own.end / leaves;
                        sum(Leaves::new(images, leaves, own, 1), &numbers[own_images])
                    })
                    .collect();
                while sums.len() > 1 {
                    sums = sums.chunks(2).map(|pair| pair[0] + pair[1]).collect();
                }
                assert_eq!(sums[0].to_bits(), whole.to_bits(), "{images} images, {leaves} leaves");
            }
        }
    }

    #[test]
    fn any_range_of_leaves_is_one_sum() {
        for images in [1, 2, 5, 8, 9, 100] {
            for first in 0..8 {
                for end in first..=8 {
                    let leaves = Leaves::new(images, 8, first..end, 1);
                    let numbers = numbers(leaves.images());
                    let expected: f32 = numbers.iter().sum();
                    assert!((sum(leaves, &numbers) - expected).abs() <= 1e-5 * expected);
                }
            }
        }
    }

    #[test]
    fn groups_are_subtrees() {
        let leaves = Leaves::new(16, 8, 2..8, 2);
        let groups: Vec<_> = leaves.list().iter().map(Leaf::group).collect();
        assert_eq!((groups, leaves.groups()), (vec![0, 0, 1, 1, 1, 1], 2));
        assert_eq!(Leaves::new(16, 8, 5..8, 2).groups(), 1);
        assert_eq!(Leaves::new(16, 8, 8..8, 2).groups(), 1);
        assert_eq!(Leaves::new(16, 8, 3..3, 2).list().len(), 0);
    }

    #[test]
    fn parts_of_a_leaf_are_the_same_in_every_call() {
        let of = |own: Range<usize>, wanted| Parts::new(&Leaves::new(125, 8, own, 1), wanted);
        for wanted in [1, 16, 24, 64, 1000] {
            for own in [0..8, 3..5] {
                let leaves = Leaves::new(125, 8, own, 1);
                let parts = Parts::new(&leaves, wanted);
                assert!(Parts::most(&leaves, wanted) >= parts.len());
                let most = parts.by_leaf().map(|parts| parts.len()).max();
                assert!(Some(Parts::most_of_leaf(&leaves, wanted)) >= most);
            }
            let (all, some) = (of(0..8, wanted), of(4..6, wanted));
            let start = 125 * 4 / 8;
            let at = all.of(&(start..125 * 6 / 8));
            assert_eq!(at.len(), some.len());
            for (all, some) in all[at].iter().zip(some.iter()) {
                assert_eq!(all.images(), start + some.start..start + some.end);
            }
        }
        // One leaf is cut, too, and a part has an image at least.
        assert_eq!(Parts::new(&Leaves::one(10), 0).len(), 4);
        assert_eq!(Parts::new(&Leaves::one(3), 0).len(), 3);
        assert_eq!(Parts::new(&Leaves::new(5, 8, 0..8, 1), 64).len(), 5);
    }
}
