//! Beginning and ending MPI.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

use crescendo_distributed::Transport;
use crescendo_network::EngineError;
use mpi_sys as mpi;

use crate::transport::MpiTransport;

/// The job that this process is a rank of.
///
/// See the example of [`join`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Job {
    /// The number of this rank, from 0.
    pub rank: usize,
    /// How many ranks there are.
    pub ranks: usize,
    /// The number of this rank among those on the same machine, from 0.
    pub local_rank: usize,
    /// How many ranks, this one included, may run on the same processors of the machine: MPI may give each its own.
    pub sharing: usize,
    /// The name of the machine.
    pub host: String,
}

/// Whether this process has called `MPI_Finalize`.
static HAS_ENDED: AtomicBool = AtomicBool::new(false);

/// Makes this process one of the ranks of the MPI job that it was started in. It can be done once.
///
/// # Example
///
/// ```no_run
/// use crescendo_mpi::join;
///
/// let (job, mut transport) = join()?;
/// let mut message = format!("from {}", job.host).into_bytes();
/// transport.broadcast(&mut message)?;
/// println!("rank {} of {}: {}", job.rank, job.ranks, String::from_utf8_lossy(&message));
/// drop(transport);
/// job.finish();
/// # Ok::<(), crescendo_network::EngineError>(())
/// ```
///
/// # Errors
/// If MPI cannot be initialised, or was before.
pub fn join() -> Result<(Job, Box<dyn Transport>), EngineError> {
    let problem = |text: &str| Err(EngineError::Communication(text.into()));
    let (mut is_initialized, mut provided) = (0, 0);
    // SAFETY: the one is for any time, and the other is called once, for the first has said that it was not; both write to
    // the numbers that they are given.
    let code = unsafe {
        mpi::MPI_Initialized(&mut is_initialized);
        if is_initialized != 0 {
            return problem("MPI was initialised before");
        }
        mpi::MPI_Init_thread(null_mut(), null_mut(), mpi::RSMPI_THREAD_SERIALIZED, &mut provided)
    };
    check(code)?;
    // SAFETY: a constant of the library.
    if provided < unsafe { mpi::RSMPI_THREAD_SERIALIZED } {
        return problem(
            "this MPI cannot be called by several threads: build it with thread support",
        );
    }
    // SAFETY: MPI is initialised, and the communicator exists until it is finalised. Errors are returned from here on.
    unsafe { mpi::MPI_Comm_set_errhandler(mpi::RSMPI_COMM_WORLD, mpi::RSMPI_ERRORS_RETURN) };
    // SAFETY: as above.
    let world = unsafe { mpi::RSMPI_COMM_WORLD };
    let (rank, ranks) = place(world)?;
    let mut near = world;
    // SAFETY: all ranks call it; the communicator is written to `near`, and freed below.
    check(unsafe {
        mpi::MPI_Comm_split_type(
            world,
            mpi::RSMPI_COMM_TYPE_SHARED,
            rank as c_int,
            mpi::RSMPI_INFO_NULL,
            &mut near,
        )
    })?;
    let (local_rank, local_ranks) = place(near)?;
    let (own, mut all) = (processors(), vec![0_u64; local_ranks]);
    // SAFETY: `own` is one number, and `all` has room for one of each rank.
    check(unsafe {
        mpi::MPI_Allgather(
            (&raw const own).cast(),
            1,
            mpi::RSMPI_UINT64_T,
            all.as_mut_ptr().cast(),
            1,
            mpi::RSMPI_UINT64_T,
            near,
        )
    })?;
    let sharing = all.iter().filter(|&&other| other == own).count();
    // SAFETY: it was made above and is not used any more.
    check(unsafe { mpi::MPI_Comm_free(&mut near) })?;
    let job = Job { rank, ranks, local_rank, sharing, host: processor_name()? };
    let transport = MpiTransport::new(&job, world)?;
    Ok((job, Box::new(transport)))
}

impl Job {
    /// Leaves the job, in which all ranks take part. A transport is of no use after that.
    pub fn finish(self) {
        HAS_ENDED.store(true, Ordering::SeqCst);
        // SAFETY: `join` has initialised MPI, and as it can be done once, there is one job, which is taken here.
        unsafe { mpi::MPI_Finalize() };
    }

    /// Ends the processes of all ranks, this one with the exit code `code`.
    pub fn abort(&self, code: u8) -> ! {
        if !has_ended() {
            // SAFETY: MPI is initialised and not finalised.
            unsafe { mpi::MPI_Abort(mpi::RSMPI_COMM_WORLD, code.into()) };
        }
        std::process::exit(code.into())
    }
}

/// Whether MPI must not be called any more.
pub(crate) fn has_ended() -> bool {
    HAS_ENDED.load(Ordering::SeqCst)
}

/// The error of this code of MPI's.
pub(crate) fn check(code: c_int) -> Result<(), EngineError> {
    if code == mpi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let mut text = [0; mpi::MPI_MAX_ERROR_STRING as usize];
    let mut length = 0;
    // SAFETY: there is room for the longest text.
    unsafe { mpi::MPI_Error_string(code, text.as_mut_ptr(), &mut length) };
    Err(EngineError::Communication(format!("MPI failed: {}", written(&text))))
}

/// The number of this process in a communicator, and how many there are.
fn place(communicator: mpi::MPI_Comm) -> Result<(usize, usize), EngineError> {
    let (mut rank, mut size) = (0, 0);
    // SAFETY: the communicator exists; both write to the numbers that they are given.
    unsafe {
        check(mpi::MPI_Comm_rank(communicator, &mut rank))?;
        check(mpi::MPI_Comm_size(communicator, &mut size))?;
    }
    Ok((rank as usize, size as usize))
}

/// A number for the set of processors that this process may run on, where the system tells it.
fn processors() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let mut hasher = DefaultHasher::new();
    allowed.hash(&mut hasher);
    hasher.finish()
}

fn processor_name() -> Result<String, EngineError> {
    let mut text = [0; mpi::MPI_MAX_PROCESSOR_NAME as usize];
    let mut length = 0;
    // SAFETY: there is room for the longest name.
    check(unsafe { mpi::MPI_Get_processor_name(text.as_mut_ptr(), &mut length) })?;
    Ok(written(&text))
}

/// The text that a function of MPI has written.
fn written(text: &[std::ffi::c_char]) -> String {
    // SAFETY: MPI ends texts with a zero, within the room that it was given.
    unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned()
}
