//! A persistent pool of threads.
//!
//! Work comes as a number of tasks, whoever is free takes the next one, and [`Pool::run`] returns
//! when all are done. A kernel cuts its work into tasks by shape alone, never by the number of
//! threads, so results do not depend on how many there are.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::disjoint_slice::DisjointSlice;

/// A persistent pool of threads. [`run`](Self::run) calls a task for each of a number of indices on all
/// threads; which thread takes which index is not determined, so tasks must not depend on it.
pub struct ThreadPool {
    state: Arc<State>,
    workers: Vec<JoinHandle<()>>,
    /// Held during `run`, so that two callers take turns.
    turn: Mutex<()>,
}

/// What `run` is given: called with the task's and the worker's number.
type Task<'a> = &'a (dyn Fn(usize, usize) + Sync);

struct State {
    job: Mutex<Job>,
    posted: Condvar,
    finished: Condvar,
    /// The same number as in `job`, for workers to watch without taking the lock.
    generation: AtomicUsize,
    next_task: AtomicUsize,
    /// Workers that have not ended the job: the same number as in `job`, to be watched without the
    /// lock.
    busy: AtomicUsize,
    /// The message of the first task that panicked.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

#[derive(Default)]
struct Job {
    generation: usize,
    /// `None` tells the workers to end.
    task: Option<Task<'static>>,
    tasks: usize,
    busy: usize,
}

/// How often a thread looks for new work, or for the end of the others' work, before it goes to sleep:
/// the next operation of a training step usually comes within microseconds, and waking a sleeping thread
/// costs tens of them.
const SPINS: usize = 20_000;

impl ThreadPool {
    /// A pool in which `threads` threads work, the caller of [`run`](Self::run) being one of them.
    /// Zero is taken as one.
    pub fn new(threads: usize) -> Self {
        let state = Arc::new(State {
            job: Mutex::default(),
            posted: Condvar::new(),
            finished: Condvar::new(),
            generation: AtomicUsize::new(0),
            next_task: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            panic: Mutex::default(),
        });
        let workers = (1..threads)
            .map(|worker| {
                let state = Arc::clone(&state);
                std::thread::spawn(move || work(&state, worker))
            })
            .collect();
        ThreadPool { state, workers, turn: Mutex::default() }
    }

    /// How many threads work.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(index, worker)` once for every index below `tasks`, on all threads, and returns
    /// when all calls have returned. `worker` is below [`threads`](Self::threads), and no two calls
    /// that run at the same time have the same one.
    ///
    /// # Panics
    /// If a task panics, with the same message, after all other tasks have ended.
    ///
    /// A task must not call `run` of the same pool: it would wait for itself for ever.
    pub fn run(&self, tasks: usize, task: impl Fn(usize, usize) + Sync) {
        let _turn = lock(&self.turn);
        if self.workers.is_empty() || tasks <= 1 {
            (0..tasks).for_each(|index| task(index, 0));
            return;
        }
        let task: Task = &task;
        // SAFETY: only the lifetime changes. The reference is used by the workers until `busy` is
        // zero again, which this function waits for before it returns.
        let task: Task<'static> = unsafe { std::mem::transmute(task) };
        self.state.next_task.store(0, Ordering::Relaxed);
        self.post(Some(task), tasks);
        take_tasks(&self.state, task, tasks, 0);
        // The others mostly end within microseconds of each other.
        let mut spins = 0;
        while self.state.busy.load(Ordering::Acquire) > 0 && spins < SPINS {
            std::hint::spin_loop();
            spins += 1;
        }
        let mut job = lock(&self.state.job);
        while job.busy > 0 {
            job = self.state.finished.wait(job).unwrap_or_else(PoisonError::into_inner);
        }
        job.task = None;
        drop(job);
        let panic = lock(&self.state.panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Cuts `data` into pieces of `len` (the last may be shorter) and calls `task(index, piece)`
    /// for each, on all threads.
    pub fn chunks<T: Send>(
        &self,
        data: &mut [T],
        len: usize,
        task: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let total = data.len();
        let data = DisjointSlice::new(data);
        self.run(total.div_ceil(len), |index, _| {
            let start = index * len;
            // SAFETY: pieces of different indices do not overlap, and each index is run once.
            task(index, unsafe { data.part(start, len.min(total - start)) });
        });
    }

    fn post(&self, task: Option<Task<'static>>, tasks: usize) {
        let mut job = lock(&self.state.job);
        *job = Job { generation: job.generation + 1, task, tasks, busy: self.workers.len() };
        self.state.busy.store(job.busy, Ordering::Relaxed);
        self.state.generation.store(job.generation, Ordering::Release);
        drop(job);
        self.state.posted.notify_all();
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.post(None, 0);
        for worker in self.workers.drain(..) {
            // A worker's panics were caught and passed on by `run`.
            let _ = worker.join();
        }
    }
}

/// The range `index` of the range `0..count`, cut into `parts` as equal as can be.
pub(crate) fn split_range(count: usize, parts: usize, index: usize) -> std::ops::Range<usize> {
    count * index / parts..count * (index + 1) / parts
}

fn work(state: &State, worker: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while state.generation.load(Ordering::Acquire) == seen && spins < SPINS {
            std::hint::spin_loop();
            spins += 1;
        }
        let mut job = lock(&state.job);
        while job.generation == seen {
            job = state.posted.wait(job).unwrap_or_else(PoisonError::into_inner);
        }
        seen = job.generation;
        let (Some(task), tasks) = (job.task, job.tasks) else { return };
        drop(job);
        take_tasks(state, task, tasks, worker);
        let mut job = lock(&state.job);
        job.busy -= 1;
        state.busy.store(job.busy, Ordering::Release);
        if job.busy == 0 {
            state.finished.notify_one();
        }
    }
}

fn take_tasks(state: &State, task: Task, tasks: usize, worker: usize) {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        loop {
            let index = state.next_task.fetch_add(1, Ordering::Relaxed);
            if index >= tasks {
                break;
            }
            task(index, worker);
        }
    }));
    if let Err(panic) = outcome {
        // Nothing of it may be dropped here: that could unwind while others are still at work.
        let mut first = lock(&state.panic);
        match *first {
            None => *first = Some(panic),
            Some(_) => std::mem::forget(panic),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn every_task_runs_once_on_any_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            let pool = ThreadPool::new(threads);
            for tasks in [0, 1, 2, 7, 100] {
                let mut hits = vec![0; tasks];
                pool.chunks(&mut hits, 1, |index, hit| hit[0] += index + 1);
                assert_eq!(hits, (1..=tasks).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn workers_that_run_together_have_different_numbers() {
        let pool = ThreadPool::new(3);
        let taken: Vec<AtomicBool> = (0..3).map(|_| AtomicBool::new(false)).collect();
        pool.run(200, |_, worker| {
            assert!(!taken[worker].swap(true, Ordering::SeqCst));
            std::thread::yield_now();
            taken[worker].store(false, Ordering::SeqCst);
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = ThreadPool::new(2);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pool.run(10, |index, _| assert!(index != 5, "task 5"));
        }));
        assert_eq!(*outcome.unwrap_err().downcast::<&str>().unwrap(), "task 5");
        let count = AtomicUsize::new(0);
        pool.run(10, |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 10);
    }
}
