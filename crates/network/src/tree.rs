//! The tree in which everything is summed over the images of a batch, and who computes which part of it.

use std::ops::Range;

/// How the sums over the images of a batch are cut up and in which order they are added, whatever the number of threads
/// and processes.
///
/// The batch is cut recursively in halves, into a power of two of leaves that follows from the sizes of batch and
/// micro-batches alone. What is summed over the batch (gradients, BatchNorm's sums, the loss) is summed over each leaf by
/// itself, and the sums of leaves are added pairwise. A process has neighbouring leaves: of a power of two of processes
/// whole subtrees, so that it computes exactly the sums of their nodes, and that the sums of the processes, added pairwise,
/// are to the bit those of one process.
///
/// If a batch is computed in several micro-batches, each of them is cut into the leaves, and all processes have their part
/// of each. The gradients of the eight nodes three levels below the root are then summed over the micro-batches before they
/// are added: up to eight processes come to the same bits, and more within rounding. Groups of ghost BatchNorm are such
/// micro-batches where there are fewer than eight; of more, each belongs to a leaf, so that it stays within a process.
///
/// # Example
///
/// ```
/// use crescendo_network::BatchTree;
///
/// // 125 images at once, on two processes.
/// let tree = BatchTree::new(125, 125);
/// assert_eq!(tree.leaves(), 8);
/// let of = |rank| tree.parts(rank, 2).map(|part| part.images()).collect::<Vec<_>>();
/// assert_eq!((of(0), of(1)), (vec![0..62], vec![62..125]));
///
/// // In two micro-batches.
/// let tree = BatchTree::new(125, 64);
/// let of = |rank| tree.parts(rank, 2).map(|part| part.images()).collect::<Vec<_>>();
/// assert_eq!((of(0), of(1)), (vec![0..32, 64..94], vec![32..64, 94..125]));
///
/// // More processes than leaves: some have no images.
/// let images = |rank| tree.parts(rank, 16).map(|part| part.images().len()).sum::<usize>();
/// assert_eq!((0..16).map(images).filter(|&images| images > 0).count(), 8);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchTree {
    images: usize,
    micro_batch: usize,
    /// Whether leaves have whole micro-batches.
    in_leaves: bool,
}

impl BatchTree {
    /// The most leaves.
    pub const MOST_LEAVES: usize = 64;
    /// The fewest.
    const LEAST_LEAVES: usize = 8;
    /// The fewest images of a leaf, but where there are so few leaves.
    const LEAF_IMAGES: usize = 32;
    /// Nodes whose gradients are summed over several micro-batches.
    const NODES: usize = 8;

    /// The tree of a batch of `images` in micro-batches of `micro_batch`, both in all processes together; the last
    /// micro-batch may be smaller.
    ///
    /// # Panics
    /// If one of them is zero.
    pub fn new(images: usize, micro_batch: usize) -> Self {
        assert!(images > 0 && micro_batch > 0, "a batch without images");
        BatchTree { images, micro_batch: micro_batch.min(images), in_leaves: false }
    }

    /// The tree of a batch of `images` in groups of `group` images with BatchNorm statistics of their own (ghost
    /// BatchNorm); the last group may be smaller.
    ///
    /// # Panics
    /// If one of them is zero.
    pub fn ghost(images: usize, group: usize) -> Self {
        let tree = Self::new(images, group);
        BatchTree { in_leaves: tree.micro_batches() >= Self::NODES, ..tree }
    }

    /// Images of the batch.
    pub fn images(self) -> usize {
        self.images
    }

    /// Images of a micro-batch.
    pub fn micro_batch(self) -> usize {
        self.micro_batch
    }

    /// How many leaves there are.
    pub fn leaves(self) -> usize {
        let most = match self.in_leaves {
            true => self.micro_batches(),
            false => (self.micro_batch / Self::LEAF_IMAGES).max(1),
        };
        (1 << most.ilog2()).clamp(Self::LEAST_LEAVES, Self::MOST_LEAVES)
    }

    /// What process `rank` of `ranks` computes, in this order: one part at least, which may be without images. Where parts
    /// share statistics with other processes, all have as many.
    ///
    /// # Panics
    /// If there is no such process.
    pub fn parts(self, rank: usize, ranks: usize) -> impl Iterator<Item = BatchPart> + Clone {
        assert!(rank < ranks, "there is no such process");
        let (leaves, all) = (self.leaves(), self.micro_batches());
        let own = leaves * rank / ranks..leaves * (rank + 1) / ranks;
        let mut micro_batches = 0..all;
        if self.in_leaves {
            micro_batches = all * own.start / leaves..all * own.end / leaves;
        }
        let nothing = micro_batches.is_empty();
        if nothing {
            micro_batches.end += 1;
        }
        let last = micro_batches.end - 1;
        micro_batches.map(move |index| {
            let start = (index * self.micro_batch).min(self.images);
            let size = if nothing { 0 } else { self.micro_batch.min(self.images - start) };
            BatchPart {
                tree: self,
                first: own.start,
                end: own.end,
                index,
                size,
                last: index == last,
            }
        })
    }

    /// How many sums of gradients an engine keeps apart for a process: one, or several for a batch in several
    /// micro-batches. See [`Device::required_memory`](crate::Device::required_memory).
    pub fn sums(self, ranks: usize) -> usize {
        let sums = |part: BatchPart| {
            let nodes = part.nodes();
            (part.end.max(part.first + 1) - 1) * nodes / self.leaves()
                - part.first * nodes / self.leaves()
                + 1
        };
        self.first_parts(ranks).map(sums).max().unwrap_or(1)
    }

    /// The most images of a part of one of so many processes.
    pub fn most_images(self, ranks: usize) -> usize {
        self.first_parts(ranks).map(|part| part.images().len()).max().unwrap_or(0)
    }

    /// The first part of each process: no other is larger.
    fn first_parts(self, ranks: usize) -> impl Iterator<Item = BatchPart> {
        (0..ranks).filter_map(move |rank| self.parts(rank, ranks).next())
    }

    fn micro_batches(self) -> usize {
        self.images.div_ceil(self.micro_batch)
    }

    /// Images of the batch's first half.
    fn first_half(self) -> usize {
        match self.micro_batches() {
            1 => self.images / 2,
            several => several / 2 * self.micro_batch,
        }
    }
}

/// A process's part of a micro-batch: the images of its leaves.
///
/// See the example of [`BatchTree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPart {
    tree: BatchTree,
    /// The process's leaves.
    first: usize,
    end: usize,
    /// The micro-batch, and its images.
    index: usize,
    size: usize,
    last: bool,
}

impl BatchPart {
    /// All of a batch of so many images.
    ///
    /// # Panics
    /// If there are none.
    pub fn whole(images: usize) -> Self {
        let mut parts = BatchTree::new(images, images).parts(0, 1);
        parts.next().expect("a batch has a part")
    }

    /// Its images: a range of those of the whole batch.
    pub fn images(&self) -> Range<usize> {
        let start = (self.index * self.tree.micro_batch).min(self.tree.images);
        if self.tree.in_leaves {
            return start..start + self.size;
        }
        let leaves = self.tree.leaves();
        let at = |leaf: usize| start + self.size * leaf / leaves;
        at(self.first)..at(self.end)
    }

    /// Those of them that are in the batch's first half, all or none if there are several micro-batches: a range of the
    /// process's images of this part.
    pub fn first_half(&self) -> Range<usize> {
        let images = self.images();
        0..self.tree.first_half().clamp(images.start, images.end) - images.start
    }

    /// Whether its micro-batch is in the batch's second half, or its batch has only one.
    pub fn is_in_second_half(&self) -> bool {
        self.index >= self.tree.micro_batches() / 2
    }

    /// The tree of its batch.
    pub fn tree(&self) -> BatchTree {
        self.tree
    }

    /// Whether its BatchNorm statistics are those of this process's images alone: they are all of the micro-batch.
    pub fn is_alone(&self) -> bool {
        self.tree.in_leaves
    }

    /// The micro-batch, counted from the batch's first one, and how many there are in all processes.
    pub fn index(&self) -> (usize, usize) {
        (self.index, self.tree.micro_batches())
    }

    /// Whether it is the process's last of its batch.
    pub fn is_last(&self) -> bool {
        self.last
    }

    /// Whether it is the only one of its batch.
    pub fn is_only(&self) -> bool {
        self.size == self.tree.images
    }

    /// Images of the whole batch.
    pub fn batch(&self) -> usize {
        self.tree.images
    }

    /// Images of the micro-batch, in all processes.
    pub fn micro_batch(&self) -> usize {
        self.size
    }

    /// Images of the micro-batch of this index.
    pub fn size_of(&self, index: usize) -> usize {
        self.tree.micro_batch.min(self.tree.images - index * self.tree.micro_batch)
    }

    /// Leaves of the tree.
    pub fn tree_leaves(&self) -> usize {
        self.tree.leaves()
    }

    /// The leaves of the process.
    pub fn leaves(&self) -> Range<usize> {
        self.first..self.end
    }

    /// The leaf that the micro-batch [`is_alone`](Self::is_alone) in; the process's first one if it has no images.
    pub fn leaf(&self) -> usize {
        let (leaves, all) = (self.tree.leaves(), self.tree.micro_batches());
        (self.first..self.end)
            .rev()
            .find(|leaf| all * leaf / leaves <= self.index)
            .unwrap_or(self.first)
    }

    /// Nodes of the tree whose gradients are summed over all micro-batches before they are added: one, the root, if there
    /// is one micro-batch.
    pub fn nodes(&self) -> usize {
        if self.is_only() { 1 } else { BatchTree::NODES }
    }

    /// Images of the two halves of the batch: of the root's two subtrees, or, if there are several micro-batches, of the
    /// first half of these and of the others.
    pub fn halves(&self) -> [usize; 2] {
        let first = self.tree.first_half();
        [first, self.tree.images - first]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_have_all_images_once_and_in_order() {
        for (images, micro_batch) in [(125, 125), (1000, 1000), (5000, 700), (7, 7), (1, 1), (9, 2)]
        {
            let tree = BatchTree::new(images, micro_batch);
            for ranks in [1, 2, 3, 4, 5, 8, 16, 100] {
                let micro_batches = images.div_ceil(micro_batch);
                let mut at = 0;
                for index in 0..micro_batches {
                    for rank in 0..ranks {
                        let part = tree.parts(rank, ranks).nth(index).unwrap();
                        assert_eq!(part.images().start, at, "{images} {micro_batch} {ranks}");
                        at = part.images().end;
                        assert_eq!(part.is_last(), index + 1 == micro_batches);
                        assert_eq!((part.tree(), part.index().0), (tree, index));
                        assert!(part.images().len() <= tree.most_images(ranks));
                        assert_eq!(part.halves().iter().sum::<usize>(), images);
                    }
                }
                assert_eq!(at, images);
            }
        }
    }

    #[test]
    fn ghost_groups_stay_within_a_process() {
        for (images, group) in [(1000, 32), (128, 16), (100, 10), (65, 8)] {
            let tree = BatchTree::ghost(images, group);
            for ranks in [1, 2, 3, 8, 16, 100] {
                let (mut at, mut first_half) = (0, 0);
                for rank in 0..ranks {
                    let parts: Vec<BatchPart> = tree.parts(rank, ranks).collect();
                    assert!(parts.iter().rposition(|part| part.is_last()) == Some(parts.len() - 1));
                    for part in parts {
                        let images = part.images();
                        assert!(part.is_alone() && (images.is_empty() || images.start == at));
                        assert!(images.is_empty() || part.leaves().contains(&part.leaf()));
                        // Halves end with a group.
                        let half = part.first_half().len();
                        assert!([0, images.len()].contains(&half));
                        assert!(
                            images.is_empty() || (half > 0) == (part.leaf() < tree.leaves() / 2)
                        );
                        (at, first_half) = (images.end.max(at), first_half + half);
                        assert!(images.len() <= tree.most_images(ranks));
                        assert_eq!(part.halves().iter().sum::<usize>(), tree.images);
                    }
                }
                let part = tree.parts(0, ranks).next().unwrap();
                assert_eq!((at, first_half), (images, part.halves()[0]));
            }
        }
        // Few groups have images of all processes.
        let tree = BatchTree::ghost(125, 20);
        assert_eq!(tree.parts(1, 2).next().unwrap().images(), 10..20);
    }

    #[test]
    fn a_power_of_two_of_processes_has_subtrees() {
        let tree = BatchTree::new(1000, 1000);
        assert_eq!(tree.leaves(), 16);
        for ranks in [2, 4, 8, 16, 32] {
            for rank in 0..ranks {
                let leaves = tree.parts(rank, ranks).next().unwrap().leaves();
                let each = leaves.len();
                assert!(each <= 1 || (each == 16 / ranks && leaves.start.is_multiple_of(each)));
                // The first half of the processes has the first half of the batch.
                assert!(leaves.is_empty() || (leaves.start < 8) == (rank < ranks / 2));
            }
        }
    }

    #[test]
    fn leaves_follow_from_the_sizes() {
        let leaves = |images, micro_batch| BatchTree::new(images, micro_batch).leaves();
        assert_eq!(
            [1, 250, 511, 512, 1023, 1024, 1_000_000].map(|n| leaves(n, n)),
            [8, 8, 8, 16, 16, 32, 64]
        );
        assert_eq!(leaves(5000, 600), 16);
        let sums = |micro_batch, ranks| BatchTree::new(1000, micro_batch).sums(ranks);
        assert_eq!([1, 2, 3, 8, 16].map(|ranks| sums(500, ranks)), [8, 4, 3, 1, 1]);
        assert_eq!([1, 2, 3, 8, 16].map(|ranks| sums(1000, ranks)), [1; 5]);
    }
}
