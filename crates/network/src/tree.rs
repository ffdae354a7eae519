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
/// are added: up to eight processes come to the same bits, and more within rounding.
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
        BatchTree { images, micro_batch: micro_batch.min(images) }
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
        let most = (self.micro_batch / Self::LEAF_IMAGES).max(1).ilog2();
        (1 << most).clamp(Self::LEAST_LEAVES, Self::MOST_LEAVES)
    }

    /// What process `rank` of `ranks` computes, in this order. All processes have as many parts; some may be without
    /// images.
    ///
    /// # Panics
    /// If there is no such process.
    pub fn parts(self, rank: usize, ranks: usize) -> impl Iterator<Item = BatchPart> + Clone {
        assert!(rank < ranks, "there is no such process");
        let tree = self;
        let leaves = tree.leaves();
        let (first, end) = (leaves * rank / ranks, leaves * (rank + 1) / ranks);
        let first_half = tree.starts().map(|start| tree.size(start) / 2).sum();
        tree.starts().map(move |start| {
            let size = tree.size(start);
            BatchPart {
                tree,
                first,
                end,
                start,
                size,
                last: start + size == tree.images,
                first_half,
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

    /// Where micro-batches start.
    fn starts(self) -> impl Iterator<Item = usize> + Clone {
        (0..self.images).step_by(self.micro_batch)
    }

    /// Images of the micro-batch that starts here.
    fn size(self, start: usize) -> usize {
        self.micro_batch.min(self.images - start)
    }
}

/// A process's part of a micro-batch: the images of its leaves.
///
/// See the example of [`BatchTree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPart {
    tree: BatchTree,
    /// The leaves.
    first: usize,
    end: usize,
    /// Where the micro-batch starts in the batch, and its images.
    start: usize,
    size: usize,
    last: bool,
    first_half: usize,
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
        let leaves = self.tree.leaves();
        let at = |leaf: usize| self.start + self.size * leaf / leaves;
        at(self.first)..at(self.end)
    }

    /// Those of them that are in the batch's first half, counted from the first of them: a range of the process's images.
    pub fn first_half(&self) -> Range<usize> {
        let (images, middle) = (self.images(), self.start + self.size / 2);
        0..middle.clamp(images.start, images.end) - images.start
    }

    /// The tree of its batch.
    pub fn tree(&self) -> BatchTree {
        self.tree
    }

    /// The number of its micro-batch, from 0: where it is in [`BatchTree::parts`].
    pub fn index(&self) -> usize {
        self.start / self.tree.micro_batch
    }

    /// Whether it is the last of its batch.
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

    /// Leaves of the tree.
    pub fn tree_leaves(&self) -> usize {
        self.tree.leaves()
    }

    /// The leaves whose images these are.
    pub fn leaves(&self) -> Range<usize> {
        self.first..self.end
    }

    /// Nodes of the tree whose gradients are summed over all micro-batches before they are added: one, the root, if there
    /// is one micro-batch.
    pub fn nodes(&self) -> usize {
        if self.is_only() { 1 } else { BatchTree::NODES }
    }

    /// Images of the two halves of the batch: of the leaves of the root's two subtrees, in all micro-batches.
    pub fn halves(&self) -> [usize; 2] {
        [self.first_half, self.tree.images - self.first_half]
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
                        assert_eq!((part.tree(), part.index()), (tree, index));
                        assert!(part.images().len() <= tree.most_images(ranks));
                        assert_eq!(part.halves().iter().sum::<usize>(), images);
                    }
                }
                assert_eq!(at, images);
            }
        }
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
