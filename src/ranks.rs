//! One run over the processes of an MPI job.

use std::path::Path;

use crescendo::AllDevices;
use crescendo::network::Devices;
use crescendo::training::Error;

/// What says how many processes were started together: Open MPI, MPICH and Slurm's `srun`.
const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// The variable that says that several processes were started together, and how many; `None` if this one is alone.
fn started_together() -> Option<(&'static str, usize)> {
    let size = |name| Some((name, std::env::var(name).ok()?.parse().ok()?));
    SIZES.into_iter().filter_map(size).find(|&(_, ranks)| ranks > 1)
}

/// Whether this process says what all of several that were started together would say.
pub fn is_first() -> bool {
    const RANKS: [&str; 3] = ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"];
    let rank = RANKS.into_iter().find_map(|name| std::env::var(name).ok());
    started_together().is_none() || rank.is_none_or(|rank| rank == "0")
}

/// A command that trains.
pub struct Training<'a> {
    /// The folder that was asked for: processes that cannot join each train a run of their own then.
    #[cfg_attr(feature = "mpi", expect(dead_code))]
    pub out: Option<&'a Path>,
    /// Whether a line about communication is printed at the end.
    #[cfg_attr(not(feature = "mpi"), expect(dead_code))]
    pub says_times: bool,
}

impl Training<'_> {
    /// Runs a command that trains: alone, or on rank 0 of an MPI job, whose other ranks take part. `run` is given what
    /// opens its devices, and returns the exit code.
    ///
    /// # Errors
    /// As `run`; and if it is one of several processes, which this program cannot join.
    pub fn run(
        self,
        devices: AllDevices,
        run: impl FnOnce(&dyn Devices) -> Result<u8, Error>,
    ) -> Result<u8, Error> {
        match started_together() {
            None => run(&devices),
            Some(together) => self.run_together(together, devices, run),
        }
    }

    #[cfg(not(feature = "mpi"))]
    fn run_together(
        self,
        (name, ranks): (&str, usize),
        devices: AllDevices,
        run: impl FnOnce(&dyn Devices) -> Result<u8, Error>,
    ) -> Result<u8, Error> {
        if self.out.is_some() {
            // Runs that have nothing to do with each other.
            return run(&devices);
        }
        Err(Error::Refused(format!(
            "this is one of {ranks} processes that were started together ({name}), and each would train a run of its own: \
             to train one run on all of them, build the program with `cargo install --path . --features mpi`; to train \
             several, give each a folder with --out"
        )))
    }

    #[cfg(feature = "mpi")]
    fn run_together(
        self,
        _: (&str, usize),
        devices: AllDevices,
        run: impl FnOnce(&dyn Devices) -> Result<u8, Error>,
    ) -> Result<u8, Error> {
        use crescendo::distributed::{DistributedDevices, serve};

        use crate::commands::note;
        use crate::program::exit_code;

        let (job, transport) = crescendo_mpi::join()?;
        end_all_on_panic(&job);
        let (rank, host) = (job.rank, job.host.clone());
        let said = move |error: &dyn std::fmt::Display| {
            note(format_args!("error: rank {rank} on {host}: {error}"));
        };
        let own = OwnPart { devices: devices.of_rank(job.local_rank), sharing: job.sharing };
        if job.rank > 0 {
            crate::signals::ignore_signals();
            return match serve(transport, &own) {
                Ok(()) => {
                    job.finish();
                    Ok(0)
                }
                Err(error) => {
                    said(&error);
                    job.abort(1)
                }
            };
        }
        let devices = DistributedDevices::new(transport, &own);
        let code = run(&devices).unwrap_or_else(|error| {
            said(&error);
            if devices.is_lost() {
                job.abort(1);
            }
            exit_code(&error)
        });
        let times = devices.times();
        if self.says_times && times.gradients > 0.0 {
            note(format_args!(
                "Communication: {:.1} s of gradients, {:.0} % of it hidden behind computation; {:.1} s of BatchNorm's sums",
                times.gradients,
                100.0 * times.hidden(),
                times.norms
            ));
        }
        if let Err(error) = devices.stop() {
            said(&error);
            job.abort(1);
        }
        job.finish();
        Ok(code)
    }
}

/// Has a panic on this rank end all ranks.
#[cfg(feature = "mpi")]
fn end_all_on_panic(job: &crescendo_mpi::Job) {
    let (job, usual) = (job.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        crate::commands::note(format_args!("error: rank {} on {} has failed", job.rank, job.host));
        job.abort(101);
    }));
}

/// A rank's part of its machine.
#[cfg(feature = "mpi")]
struct OwnPart {
    devices: AllDevices,
    /// How many ranks share its processors.
    sharing: usize,
}

#[cfg(feature = "mpi")]
impl Devices for OwnPart {
    fn open(
        &self,
        config: &crescendo::network::EngineConfig,
    ) -> Result<Box<dyn crescendo::network::Device>, crescendo::network::EngineError> {
        let mut config = config.clone();
        if config.threads == 0 {
            config.threads = (crescendo::cpu::host::threads(0) / self.sharing).max(1);
        }
        self.devices.open(&config)
    }
}
