//! How work is cut into tasks, for as many threads as there are.

use std::ops::Range;

use crate::ThreadPool;

/// Tasks for each thread that make it unlikely that many wait for the last one.
pub(crate) const TASKS_PER_THREAD: usize = 4;

/// Whether the parts of a batch may be too few tasks for so many threads.
pub(crate) fn are_many(threads: usize) -> bool {
    threads > 4
}

impl ThreadPool {
    /// Whether so few tasks of the same size leave threads without work for more than a fifth of the time.
    pub(crate) fn are_too_few(&self, tasks: usize) -> bool {
        let threads = self.threads();
        let few = if self.has_unequal_cores() {
            tasks < TASKS_PER_THREAD * threads
        } else {
            5 * tasks < 4 * tasks.div_ceil(threads) * threads
        };
        are_many(threads) && few
    }

    /// How many tasks `count` things are cut into: `usual` things each, or fewer where threads would be without work.
    pub(crate) fn tasks_of(&self, count: usize, usual: usize) -> usize {
        self.enough_tasks(count.div_ceil(usual), count)
    }

    /// How many tasks there are: `usual`, or if these are too few, as many as threads want, at most `most`.
    pub(crate) fn enough_tasks(&self, usual: usize, most: usize) -> usize {
        if self.are_too_few(usual) { most.min(TASKS_PER_THREAD * self.threads()) } else { usual }
    }

    /// How long the threads take for so many tasks of the same size, in tasks.
    pub(crate) fn rounds(&self, tasks: usize) -> f64 {
        if self.has_unequal_cores() {
            // The last ones to end wait for each other for half a task.
            tasks as f64 / self.threads() as f64 + 0.5
        } else {
            tasks.div_ceil(self.threads()) as f64
        }
    }
}

/// A task, or a piece of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub task: usize,
    /// Which piece, of how many.
    index: usize,
    count: usize,
}

impl Piece {
    /// The piece's part of what belongs to the task.
    pub fn of(self, things: Range<usize>) -> Range<usize> {
        let part = split_range(things.len(), self.count, self.index);
        things.start + part.start..things.start + part.end
    }
}

/// The pieces of some tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pieces {
    /// Tasks that are not cut.
    whole: usize,
    /// Pieces of each of the others.
    each: usize,
}

impl Pieces {
    fn get(self, index: usize) -> Piece {
        match index.checked_sub(self.whole) {
            None => Piece { task: index, index: 0, count: 1 },
            Some(index) => {
                let (task, index) = (self.whole + index / self.each, index % self.each);
                Piece { task, index, count: self.each }
            }
        }
    }
}

impl ThreadPool {
    /// [Runs](Self::run) tasks of about the same size, the last of which are cut into pieces if threads would be without
    /// work otherwise. A task has `most` parts of the same size that can be computed apart.
    pub(crate) fn run_in_pieces(
        &self,
        tasks: usize,
        most: usize,
        work: usize,
        task: impl Fn(Piece, usize) + Sync,
    ) {
        let pieces = self.pieces(tasks, most);
        let count = pieces.whole + (tasks - pieces.whole) * pieces.each;
        self.run(count, work, |index, worker| task(pieces.get(index), worker));
    }

    fn pieces(&self, tasks: usize, most: usize) -> Pieces {
        let threads = self.threads();
        let rest = tasks % threads;
        // A slow core takes long for a whole task, and the others would wait for it.
        let last = TASKS_PER_THREAD * threads;
        let cut = if self.has_unequal_cores() { tasks.min(last) } else { rest };
        let time = |&each: &usize| self.rounds(cut * each) / each as f64;
        // More pieces than these gain nothing.
        let most_pieces = (2 * last / cut.max(1)).clamp(1, most);
        let divisors = (1..=most_pieces).filter(|each| most.is_multiple_of(*each));
        let each = divisors.min_by(|a, b| time(a).total_cmp(&time(b))).unwrap_or(1);
        Pieces { whole: tasks - cut, each }
    }
}

/// Numbers of shared memory that stay in the last-level cache, about: 1 MiB for each thread.
const NUMBERS_PER_THREAD: usize = 1 << 18;

/// How many images are worked on together: as many as fit in the last-level cache, where each holds so many numbers in
/// shared memory, but at least one. Where there are enough, they are a multiple of the threads.
pub(crate) fn images_in_cache(numbers: usize, threads: usize) -> usize {
    let images = NUMBERS_PER_THREAD * threads / numbers;
    if images < threads { images.max(1) } else { images - images % threads }
}

/// Chunks of `len` images, and the rest.
pub(crate) fn chunks(images: usize, len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..images).step_by(len).map(move |start| start..images.min(start + len))
}

/// The range `index` of the range `0..count`, cut into `parts` as equal as can be.
pub(crate) fn split_range(count: usize, parts: usize, index: usize) -> Range<usize> {
    count * index / parts..count * (index + 1) / parts
}

/// What two ranges have in common.
pub(crate) fn intersection(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    a.start.max(b.start)..a.end.min(b.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TaskTimes;
    use std::sync::Mutex;

    #[test]
    fn the_last_tasks_are_cut_until_no_thread_is_idle() {
        let mut pool = ThreadPool::recording(64, TaskTimes::default());
        let pieces = |pool: &ThreadPool, tasks| {
            let Pieces { whole, each } = pool.pieces(tasks, 4);
            (whole, each)
        };
        assert_eq!(pieces(&pool, 144), (128, 4));
        assert_eq!(pieces(&pool, 160), (128, 2));
        // Three rounds of quarters are shorter than two of halves, or one of whole tasks.
        assert_eq!(pieces(&pool, 64 + 48), (64, 4));
        assert_eq!(pieces(&pool, 128), (128, 1));
        assert_eq!(pieces(&pool, 127), (64, 1));
        pool.set_unequal_cores(true);
        assert_eq!(pieces(&pool, 144), (0, 2));
        assert_eq!(pieces(&pool, 300), (44, 2));
        assert_eq!(pieces(&pool, 10), (0, 4));
    }

    #[test]
    fn pieces_are_all_of_their_tasks() {
        for threads in [1, 2, 3, 7] {
            let pool = ThreadPool::new(threads);
            for (tasks, things) in [(0, 4), (1, 4), (5, 4), (9, 3), (20, 1)] {
                let seen = Mutex::new(vec![0; tasks * things]);
                pool.run_in_pieces(tasks, 4, usize::MAX, |piece, _| {
                    let mut seen = seen.lock().unwrap();
                    let first = piece.task * things;
                    seen[piece.of(first..first + things)].iter_mut().for_each(|seen| *seen += 1);
                });
                assert!(seen.into_inner().unwrap().iter().all(|&seen| seen == 1));
            }
        }
    }
}
