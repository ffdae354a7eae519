//! How long tasks take, and how long they would take on other numbers of threads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The tasks of one call of [`ThreadPool::run`](crate::ThreadPool::run).
///
/// See the example of [`TaskTimes`].
#[derive(Clone, Debug, PartialEq)]
pub struct JobTimes {
    /// Seconds of each task, in the order in which threads would take them.
    pub tasks: Vec<f64>,
    /// Whether it is so little work that the caller does it alone.
    pub alone: bool,
    /// Which step the tasks were of, forward or backward, if that was said:
    /// see [`ThreadPool::end_step`](crate::ThreadPool::end_step).
    pub step: Option<(usize, bool)>,
}

impl JobTimes {
    /// Seconds of all tasks, one after the other.
    pub fn sum(&self) -> f64 {
        self.tasks.iter().sum()
    }

    /// The median time of each task over several repetitions of the same jobs: a task that the system interrupted once does
    /// not look longer than it is.
    ///
    /// # Panics
    /// If there are no repetitions, or not the same jobs in each.
    pub fn medians(repetitions: &[&[JobTimes]]) -> Vec<JobTimes> {
        let jobs = repetitions[0].iter().enumerate().map(|(index, job)| {
            let median = |task: usize| {
                let mut times: Vec<f64> =
                    repetitions.iter().map(|jobs| jobs[index].tasks[task]).collect();
                times.sort_by(f64::total_cmp);
                times[times.len() / 2]
            };
            JobTimes { tasks: (0..job.tasks.len()).map(median).collect(), ..job.clone() }
        });
        jobs.collect()
    }

    /// Seconds on so many threads, each of which takes the next task when it is free, and `barrier` seconds for
    /// beginning and ending together.
    ///
    /// # Example
    ///
    /// ```
    /// use crescendo_kernels::JobTimes;
    ///
    /// let job = JobTimes { tasks: vec![3.0, 1.0, 1.0, 1.0, 2.0], alone: false, step: None };
    /// assert_eq!(job.on(1, 0.5), 8.0);
    /// assert_eq!(job.on(2, 0.5), 5.5);
    /// assert_eq!(job.on(8, 0.5), 3.5);
    /// ```
    pub fn on(&self, threads: usize, barrier: f64) -> f64 {
        if self.alone || threads <= 1 || self.tasks.len() < 2 {
            return self.sum();
        }
        let mut free = vec![0.0_f64; threads];
        for task in &self.tasks {
            let next = free.iter_mut().min_by(|a, b| a.total_cmp(b)).expect("there are threads");
            *next += task;
        }
        free.into_iter().fold(0.0, f64::max) + barrier
    }
}

/// What a [recording](crate::ThreadPool::recording) pool has recorded.
///
/// # Example
///
/// ```
/// use crescendo_kernels::{JobTimes, TaskTimes, ThreadPool};
///
/// let times = TaskTimes::default();
/// let pool = ThreadPool::recording(4, times.clone());
/// pool.run(6, usize::MAX, |_, _| std::thread::sleep(std::time::Duration::from_millis(2)));
/// let jobs: Vec<JobTimes> = times.take();
/// assert_eq!((jobs.len(), jobs[0].tasks.len()), (1, 6));
/// assert!(jobs[0].sum() >= 12e-3);
/// // Six tasks on four threads take as long as two.
/// assert!(jobs[0].on(4, 0.0) >= 4e-3 && jobs[0].on(4, 0.0) < jobs[0].sum());
/// ```
#[derive(Clone, Debug, Default)]
pub struct TaskTimes(Arc<Mutex<Vec<JobTimes>>>);

impl TaskTimes {
    /// What was recorded since this was last called.
    pub fn take(&self) -> Vec<JobTimes> {
        std::mem::take(&mut *self.lock())
    }

    pub(crate) fn add(&self, job: JobTimes) {
        self.lock().push(job);
    }

    pub(crate) fn end_step(&self, step: usize, backward: bool) {
        let mut jobs = self.lock();
        let unnamed = jobs.iter_mut().rev().take_while(|job| job.step.is_none());
        unnamed.for_each(|job| job.step = Some((step, backward)));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<JobTimes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
