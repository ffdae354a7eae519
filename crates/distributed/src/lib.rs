//! One training run over several processes, its *ranks*.
//!
//! Rank 0 trains as a single process does, on a device of [`DistributedDevices`]; all others [`serve`]. A call of the
//! engine on rank 0 is a message to all ranks, each of which makes it on an engine of its own with its share of the batch.
//! Sums over images go over all ranks. So all that decides about a run, its folder and the terminal are rank 0's alone.
//!
//! A [`Transport`] carries the messages: `crescendo-mpi` has one over MPI, and [`Threads`] are ranks within a process.
//!
//! See the example of [`DistributedDevices`].

mod all_reduce;
mod command;
mod device;
mod engine;
mod host;
mod local;
mod message;
mod prediction;
mod progress;
mod serve;
mod session;
mod threads;
mod times;
mod transport;

pub use device::DistributedDevices;
pub use prediction::Interconnect;
pub use serve::serve;
pub use threads::Threads;
pub use times::Times;
pub use transport::{Channel, Exchange, Ticket, Transport};
