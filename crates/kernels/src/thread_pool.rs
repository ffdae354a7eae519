//! A persistent pool of threads.
//!
//! Work comes as a number of tasks, whoever is free takes the next one, and [`Pool::run`] returns
//! when all are done. Results do not depend on how many threads there are: a kernel cuts what is summed up by shape
//! alone, and only the rest by the number of threads.
//!
//! The cores may be shared with other programs, so nobody waits for a thread that is not running: a worker takes
//! part in a job only if it arrives before the last task is taken. Who waits looks for a short time, then sleeps.
//!
//! A process that is forked has the pool, but none of its threads: there the caller does all tasks.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::disjoint_slice::DisjointSlice;
use crate::{JobTimes, TaskTimes};

/// A persistent pool of threads. [`run`](Self::run) calls a task for each of a number of indices on all
/// threads; which thread takes which index is not determined, so tasks must not depend on it.
///
/// # Example
///
/// ```
/// use crescendo_kernels::ThreadPool;
///
/// let pool = ThreadPool::new(2);
/// let mut squares = [0; 1000];
/// // Pieces of 100, each of which computes little: as much as going through memory once.
/// pool.chunks(&mut squares, 100, 1000 * ThreadPool::ELEMENT, |piece, squares| {
///     for (at, square) in squares.iter_mut().enumerate() {
///         *square = (100 * piece + at).pow(2);
///     }
/// });
/// assert_eq!((squares[12], squares[999]), (144, 998_001));
/// ```
pub struct ThreadPool {
    state: Arc<State>,
    workers: Vec<JoinHandle<()>>,
    /// Held during `run`, so that two callers take turns.
    turn: Mutex<()>,
    /// How many threads it stands for, and the times of its tasks: see [`recording`](ThreadPool::recording).
    recording: Option<(usize, TaskTimes)>,
    /// Whether some cores are slower than others.
    unequal: bool,
    /// The process that has the threads: after a fork, only one of the two has them.
    process: u32,
}

/// What `run` is given: called with the task's and the worker's number.
type Task<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// On a cache line of its own, apart from what other threads write.
#[repr(align(64))]
struct Alone<T>(T);

struct State {
    /// The job, which only `run` changes, while the gate is closed and nobody is inside.
    job: UnsafeCell<Job>,
    /// How many workers have come so far, and [`CLOSED`] if those that come now are too late for the job. Workers use
    /// `fetch_add` on it, so that they never make each other try again.
    gate: Alone<AtomicUsize>,
    /// How many of those that came in time have left.
    left: Alone<AtomicUsize>,
    next_task: Alone<AtomicUsize>,
    /// How many jobs there were, for workers to wait for the next one.
    posted: Alone<AtomicUsize>,
    /// Which workers sleep until they are woken for a job.
    asleep: Box<[AtomicBool]>,
    /// Whether the caller of `run` sleeps until the last worker has left, and which thread that is.
    caller_asleep: AtomicBool,
    caller: Mutex<Option<Thread>>,
    /// Tells the workers to end.
    end: AtomicBool,
    /// The message of the first task that panicked.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// How long a thread looks for what it waits for before it sleeps.
    patience: Duration,
}

struct Job {
    task: Task<'static>,
    tasks: usize,
}

// SAFETY: the job is written by one thread, which holds the turn, while no other reads it: readers came through the
// open gate, and have left before the next job is written. Everything else is made to be shared.
unsafe impl Sync for State {}

const CLOSED: usize = 1 << (usize::BITS - 1);

/// The next operation of a training step comes, and the last task of another thread ends, mostly within this time,
/// and waking a sleeping thread costs tens of microseconds.
const PATIENCE: Duration = Duration::from_micros(300);

/// Work that one thread does before another one could begin to help: see [`ThreadPool::run`].
const SMALL_WORK: usize = 1 << 18;

impl ThreadPool {
    /// The work of a number that is read from memory, changed and written: see [`run`](Self::run).
    pub const ELEMENT: usize = 8;

    /// A pool in which `threads` threads work, the caller of [`run`](Self::run) being one of them.
    /// Zero is taken as one.
    pub fn new(threads: usize) -> Self {
        Self::start(threads, || ())
    }

    /// A pool that stands for one of `threads` threads: work is divided as for that one, but the caller does all of it,
    /// and the times of the tasks go to `times`.
    pub fn recording(threads: usize, times: TaskTimes) -> Self {
        let mut pool = Self::new(1);
        pool.recording = Some((threads.max(1), times));
        pool
    }

    /// Says whether some of the cores are slower than others. Where they are, many threads get smaller tasks, so that the
    /// fast cores do not wait long for the slow ones.
    pub fn set_unequal_cores(&mut self, unequal: bool) {
        self.unequal = unequal;
    }

    pub(crate) fn has_unequal_cores(&self) -> bool {
        self.unequal
    }

    /// Says that all tasks since this was last called were of a step, forward or backward: see
    /// [`recording`](Self::recording).
    pub fn end_step(&self, step: usize, backward: bool) {
        if let Some((_, times)) = &self.recording {
            times.end_step(step, backward);
        }
    }

    /// The same, where each worker calls `begin` first.
    fn start(threads: usize, begin: impl Fn() + Clone + Send + 'static) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let state = Arc::new(State {
            job: UnsafeCell::new(Job { task: &|_, _| (), tasks: 0 }),
            gate: Alone(AtomicUsize::new(CLOSED)),
            left: Alone(AtomicUsize::new(0)),
            next_task: Alone(AtomicUsize::new(0)),
            posted: Alone(AtomicUsize::new(0)),
            asleep: (1..threads).map(|_| AtomicBool::new(false)).collect(),
            caller_asleep: AtomicBool::new(false),
            caller: Mutex::default(),
            end: AtomicBool::new(false),
            panic: Mutex::default(),
            // Where threads share a core, one that looks keeps off it the one that it waits for.
            patience: if threads <= cores { PATIENCE } else { Duration::ZERO },
        });
        let workers = (1..threads)
            .map(|worker| {
                let (state, begin) = (Arc::clone(&state), begin.clone());
                thread::spawn(move || {
                    begin();
                    work(&state, worker);
                })
            })
            .collect();
        let (turn, process) = (Mutex::default(), process::id());
        ThreadPool { state, workers, turn, recording: None, unequal: false, process }
    }

    /// Whether this process was forked from the one that has the threads.
    fn is_forked(&self) -> bool {
        self.process != process::id()
    }

    /// How many threads work.
    pub fn threads(&self) -> usize {
        self.recording.as_ref().map_or(self.workers.len() + 1, |(threads, _)| *threads)
    }

    /// Calls `task(index, worker)` once for every index below `tasks`, on all threads, and returns
    /// when all calls have returned. `worker` is below [`threads`](Self::threads), and no two calls
    /// that run at the same time have the same one.
    ///
    /// `work` is about how much all tasks compute together, in multiplications and additions as a GEMM does them,
    /// tens in a nanosecond; what only goes through memory is counted in [`ELEMENT`](Self::ELEMENT)s. If it is so
    /// little that another thread would come too late, the caller does it alone.
    ///
    /// # Panics
    /// If a task panics, with the same message, after all other tasks have ended.
    ///
    /// A task must not call `run` of the same pool: it would wait for itself for ever.
    pub fn run(&self, tasks: usize, work: usize, task: impl Fn(usize, usize) + Sync) {
        let _turn = lock(&self.turn);
        if let Some((_, times)) = &self.recording {
            let mut tasks_seconds = Vec::with_capacity(tasks);
            for index in 0..tasks {
                let begin = Instant::now();
                task(index, 0);
                tasks_seconds.push(begin.elapsed().as_secs_f64());
            }
            times.add(JobTimes { tasks: tasks_seconds, alone: work < SMALL_WORK, step: None });
            return;
        }
        if self.workers.is_empty() || tasks <= 1 || work < SMALL_WORK || self.is_forked() {
            (0..tasks).for_each(|index| task(index, 0));
            return;
        }
        let state = &*self.state;
        let task: Task = &task;
        // SAFETY: only the lifetime changes. The reference is used inside the gate only, and this function does
        // not return before the gate is closed and all have left.
        let task: Task<'static> = unsafe { std::mem::transmute(task) };
        // SAFETY: the gate is closed, all that came in while it was open have left, and this thread holds the turn.
        unsafe { *state.job.get() = Job { task, tasks } };
        state.next_task.0.store(0, Relaxed);
        let left = state.left.0.load(Relaxed);
        let came = state.gate.0.fetch_and(!CLOSED, Release) & !CLOSED;
        self.call(tasks - 1);
        state.take_tasks(task, tasks, 0);
        let in_time = state.gate.0.fetch_or(CLOSED, AcqRel) - came;
        state.wait_for_workers(left + in_time);
        let panic = lock(&state.panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Cuts `data` into pieces of `len` (the last may be shorter) and calls `task(index, piece)`
    /// for each, on all threads. `work` is as for [`run`](Self::run).
    pub fn chunks<T: Send>(
        &self,
        data: &mut [T],
        len: usize,
        work: usize,
        task: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let total = data.len();
        let data = DisjointSlice::new(data);
        self.run(total.div_ceil(len), work, |index, _| {
            let start = index * len;
            // SAFETY: pieces of different indices do not overlap, and each index is run once.
            task(index, unsafe { data.part(start, len.min(total - start)) });
        });
    }

    /// Tells the workers of a new job, and wakes up to `most` of those that sleep.
    fn call(&self, most: usize) {
        // In one order with the flags: either the worker sees the job, or this thread sees it asleep.
        self.state.posted.0.fetch_add(1, SeqCst);
        let asleep = self.workers.iter().zip(&self.state.asleep);
        asleep.filter(|(_, asleep)| asleep.load(SeqCst)).take(most).for_each(|(worker, asleep)| {
            asleep.store(false, Relaxed);
            worker.thread().unpark();
        });
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        if self.is_forked() {
            // There is nobody to wait for.
            std::mem::forget(std::mem::take(&mut self.workers));
            return;
        }
        self.state.end.store(true, Release);
        self.call(self.workers.len());
        for worker in self.workers.drain(..) {
            // A worker's panics were caught and passed on by `run`.
            let _ = worker.join();
        }
    }
}

fn work(state: &State, worker: usize) {
    let mut seen = 0;
    loop {
        seen = state.wait_for_job(seen, worker);
        if state.end.load(Acquire) {
            return;
        }
        if state.gate.0.fetch_add(1, Acquire) & CLOSED != 0 {
            // The job is done already.
            continue;
        }
        // SAFETY: the job is not changed before this worker has left.
        let Job { task, tasks } = unsafe { &*state.job.get() };
        state.take_tasks(task, *tasks, worker);
        // In one order with the flag: either the caller sees that this worker has left, or it is seen asleep.
        state.left.0.fetch_add(1, SeqCst);
        if state.caller_asleep.load(SeqCst)
            && let Some(caller) = &*lock(&state.caller)
        {
            caller.unpark();
        }
    }
}

impl State {
    fn take_tasks(&self, task: Task, tasks: usize, worker: usize) {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let index = self.next_task.0.fetch_add(1, Relaxed);
                if index >= tasks {
                    break;
                }
                task(index, worker);
            }
        }));
        if let Err(panic) = outcome {
            // Nothing of it may be dropped here: that could unwind while others are still at work.
            let mut first = lock(&self.panic);
            match *first {
                None => *first = Some(panic),
                Some(_) => std::mem::forget(panic),
            }
        }
    }

    /// Waits until there were more jobs than `seen`, and returns how many there were.
    fn wait_for_job(&self, seen: usize, worker: usize) -> usize {
        self.look(|| self.posted.0.load(Acquire) != seen);
        let asleep = &self.asleep[worker - 1];
        loop {
            asleep.store(true, SeqCst);
            let posted = self.posted.0.load(SeqCst);
            if posted != seen {
                asleep.store(false, Relaxed);
                return posted;
            }
            thread::park();
        }
    }

    /// Waits until so many workers have left. The gate is closed.
    fn wait_for_workers(&self, leaving: usize) {
        if self.look(|| self.left.0.load(Acquire) == leaving) {
            return;
        }
        *lock(&self.caller) = Some(thread::current());
        self.caller_asleep.store(true, SeqCst);
        while self.left.0.load(SeqCst) != leaving {
            thread::park();
        }
        self.caller_asleep.store(false, Relaxed);
    }

    /// Looks for a short time whether something has happened, and says whether it has.
    fn look(&self, happened: impl Fn() -> bool) -> bool {
        let begin = Instant::now();
        loop {
            for _ in 0..32 {
                if happened() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if begin.elapsed() >= self.patience {
                return false;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Enough that all threads are called.
    const MUCH: usize = SMALL_WORK;

    #[test]
    fn every_task_runs_once_on_any_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            let pool = ThreadPool::new(threads);
            for tasks in [0, 1, 2, 7, 100] {
                let mut hits = vec![0; tasks];
                pool.chunks(&mut hits, 1, MUCH, |index, hit| hit[0] += index + 1);
                assert_eq!(hits, (1..=tasks).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn jobs_follow_each_other_at_once_and_after_a_sleep() {
        for threads in [2, 5] {
            let pool = ThreadPool::new(threads);
            let count = AtomicUsize::new(0);
            for job in 0..3_000 {
                if job % 1_000 == 999 {
                    thread::sleep(2 * PATIENCE);
                }
                let before = count.load(Relaxed);
                pool.run(job % 7, MUCH, |_, _| {
                    count.fetch_add(1, Relaxed);
                });
                assert_eq!(count.load(Relaxed), before + job % 7, "job {job}");
            }
        }
    }

    #[test]
    fn workers_that_run_together_have_different_numbers() {
        let pool = ThreadPool::new(3);
        let taken: Vec<AtomicBool> = (0..3).map(|_| AtomicBool::new(false)).collect();
        pool.run(200, MUCH, |_, worker| {
            assert!(!taken[worker].swap(true, SeqCst));
            thread::yield_now();
            taken[worker].store(false, SeqCst);
        });
    }

    #[test]
    fn a_job_waits_for_tasks_that_other_threads_have_begun_and_they_are_woken() {
        let pool = ThreadPool::new(2);
        // The worker sleeps by now.
        thread::sleep(5 * PATIENCE);
        // Neither task ends before both have begun, so two threads take them.
        let begun = AtomicUsize::new(0);
        let ended = AtomicUsize::new(0);
        pool.run(2, MUCH, |_, worker| {
            begun.fetch_add(1, SeqCst);
            while begun.load(SeqCst) < 2 {
                thread::yield_now();
            }
            if worker > 0 {
                // Long enough for the caller to fall asleep.
                thread::sleep(5 * PATIENCE);
            }
            ended.fetch_add(1, SeqCst);
        });
        assert_eq!(ended.into_inner(), 2);
    }

    #[test]
    fn nobody_waits_for_a_thread_that_is_not_running() {
        // The workers do not come before they are told to.
        let (tell, told) = mpsc::channel::<()>();
        let told = Arc::new(Mutex::new(told));
        let pool = ThreadPool::start(3, move || {
            let _ = lock(&told).recv();
        });
        let mut done = [0; 10];
        pool.chunks(&mut done, 1, MUCH, |_, done| done[0] += 1);
        assert_eq!(done, [1; 10]);
        drop(tell);
    }

    #[test]
    fn little_work_is_done_by_the_caller_alone() {
        let pool = ThreadPool::new(4);
        let caller = thread::current().id();
        pool.run(1_000, SMALL_WORK - 1, |_, worker| {
            assert_eq!((worker, thread::current().id()), (0, caller));
            thread::yield_now();
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = ThreadPool::new(2);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pool.run(10, MUCH, |index, _| assert!(index != 5, "task 5"));
        }));
        assert_eq!(*outcome.unwrap_err().downcast::<&str>().unwrap(), "task 5");
        let count = AtomicUsize::new(0);
        pool.run(10, MUCH, |_, _| {
            count.fetch_add(1, Relaxed);
        });
        assert_eq!(count.into_inner(), 10);
    }
}
