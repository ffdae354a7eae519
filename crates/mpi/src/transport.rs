//! Messages over MPI.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::c_int;

use crescendo_distributed::{Channel, Exchange, Ticket, Transport};
use crescendo_network::EngineError;
use mpi_sys as mpi;

use crate::Job;
use crate::library::{check, has_ended};

/// Bytes that are broadcast at once: MPI counts with 31 bits.
const CHUNK: usize = 1 << 30;

/// Numbers of a buffer that is kept, at least, and how many are.
const LEAST_SPARE: usize = 1 << 16;
const MOST_SPARE: usize = 16;

/// Pauses of the processor between two looks at an exchange that is waited for: about a microsecond.
const PAUSES: usize = 32;
/// After so many looks other processes may have the core.
const POLLS: usize = 1000;

/// A rank's connection to the others.
pub(crate) struct MpiTransport {
    rank: usize,
    ranks: usize,
    host: String,
    world: mpi::MPI_Comm,
    /// A communicator for each of [`Channel::ALL`], so that their exchanges do not wait for each other.
    channels: Vec<mpi::MPI_Comm>,
    open: HashMap<Ticket, Open>,
    next: u64,
    /// Buffers of exchanges that are done: fresh memory of megabytes costs as much as what is written to it.
    spare: Vec<Vec<u32>>,
}

// SAFETY: handles of communicators and requests may be used by any thread. MPI was asked to allow calls of different
// threads one after the other, and every call takes the transport by `&mut`.
unsafe impl Send for MpiTransport {}

/// An exchange under way. MPI reads and writes all of it but `request` until it is done.
struct Open {
    request: mpi::MPI_Request,
    is_done: bool,
    send: Vec<u32>,
    /// Empty until MPI has written so many numbers behind its start.
    received: Vec<u32>,
    numbers: usize,
    counts: [Vec<c_int>; 4],
}

impl MpiTransport {
    /// Over this communicator, of which all ranks make one at once.
    pub fn new(job: &Job, world: mpi::MPI_Comm) -> Result<Self, EngineError> {
        let channel = |_| {
            let mut channel = world;
            // SAFETY: all ranks call it; the new communicator is written to `channel` and kept until MPI ends.
            unsafe {
                check(mpi::MPI_Comm_dup(world, &mut channel))?;
                check(mpi::MPI_Comm_set_errhandler(channel, mpi::RSMPI_ERRORS_RETURN))?;
            }
            Ok(channel)
        };
        let channels = Channel::ALL.into_iter().map(channel).collect::<Result<_, EngineError>>()?;
        let Job { rank, ranks, host, .. } = job.clone();
        Ok(MpiTransport {
            rank,
            ranks,
            host,
            world,
            channels,
            open: HashMap::new(),
            next: 0,
            spare: vec![],
        })
    }

    /// An empty buffer for so many numbers: the smallest spare one that is not much too large, or a new one.
    fn room(&mut self, numbers: usize) -> Vec<u32> {
        let fits = |capacity: usize| (numbers..=2 * numbers.max(LEAST_SPARE)).contains(&capacity);
        let spare = self.spare.iter().enumerate().filter(|(_, buffer)| fits(buffer.capacity()));
        match spare.min_by_key(|(_, buffer)| buffer.capacity()) {
            Some((index, _)) => self.spare.swap_remove(index),
            None => Vec::with_capacity(numbers),
        }
    }

    /// Keeps a buffer for another exchange.
    fn keep(&mut self, mut buffer: Vec<u32>) {
        if buffer.capacity() >= LEAST_SPARE && self.spare.len() < MOST_SPARE {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    fn broadcast_chunk(&mut self, bytes: &mut [u8]) -> Result<(), EngineError> {
        // SAFETY: the bytes are borrowed for the call, which returns when they are there.
        check(unsafe {
            mpi::MPI_Bcast(
                bytes.as_mut_ptr().cast(),
                bytes.len() as c_int,
                mpi::RSMPI_UINT8_T,
                0,
                self.world,
            )
        })
    }
}

/// Whether MPI can still be used.
fn check_use() -> Result<(), EngineError> {
    match has_ended() {
        true => Err(EngineError::Communication("this rank has left the MPI job".into())),
        false => Ok(()),
    }
}

/// Numbers of words as MPI takes them, and where each part begins.
fn as_counts(counts: &[usize]) -> Result<[Vec<c_int>; 2], EngineError> {
    let too_many = |_| {
        EngineError::Communication(
            "more is to be sent than MPI can count: use smaller batches".into(),
        )
    };
    let mut start = 0;
    let (mut numbers, mut starts) = (Vec::new(), Vec::new());
    for &count in counts {
        numbers.push(c_int::try_from(count).map_err(too_many)?);
        starts.push(c_int::try_from(start).map_err(too_many)?);
        start += count;
    }
    Ok([numbers, starts])
}

impl Transport for MpiTransport {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn host(&self) -> String {
        self.host.clone()
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<(), EngineError> {
        check_use()?;
        let mut length = (bytes.len() as u64).to_ne_bytes();
        self.broadcast_chunk(&mut length)?;
        bytes.resize(u64::from_ne_bytes(length) as usize, 0);
        bytes.chunks_mut(CHUNK).try_for_each(|chunk| self.broadcast_chunk(chunk))
    }

    fn start(&mut self, channel: Channel, exchange: Exchange) -> Result<Ticket, EngineError> {
        check_use()?;
        exchange.check(self.rank, self.ranks);
        let at = Channel::ALL.iter().position(|other| *other == channel);
        let communicator = self.channels[at.expect("all have a communicator")];
        // SAFETY: a constant of the library.
        let (mut request, words) = unsafe { (mpi::RSMPI_REQUEST_NULL, mpi::RSMPI_UINT32_T) };
        let (send, from, to) = match exchange {
            Exchange::AllToAll { send, to, from } => (send, from, Some(to)),
            Exchange::AllGather { send, from } => (send, from, None),
        };
        // Open MPI 4.1 waits for ever if a rank sends nothing from an address such as that of an empty vector.
        let send = if send.is_empty() { Vec::with_capacity(1) } else { send };
        let numbers = from.iter().sum();
        let mut received = self.room(numbers + 1);
        let [receive_counts, receive_starts] = as_counts(&from)?;
        let [send_counts, send_starts] = as_counts(to.as_deref().unwrap_or(&[send.len()]))?;
        // SAFETY: the counts and starts lie within both vectors, as was checked; MPI only writes to `received`. All vectors
        // are kept in `open` until MPI says that the exchange is done; moving a vector does not move what it holds. They
        // are not touched meanwhile.
        let code = unsafe {
            match to {
                Some(_) => mpi::MPI_Ialltoallv(
                    send.as_ptr().cast(),
                    send_counts.as_ptr(),
                    send_starts.as_ptr(),
                    words,
                    received.as_mut_ptr().cast(),
                    receive_counts.as_ptr(),
                    receive_starts.as_ptr(),
                    words,
                    communicator,
                    &mut request,
                ),
                None => mpi::MPI_Iallgatherv(
                    send.as_ptr().cast(),
                    send_counts[0],
                    words,
                    received.as_mut_ptr().cast(),
                    receive_counts.as_ptr(),
                    receive_starts.as_ptr(),
                    words,
                    communicator,
                    &mut request,
                ),
            }
        };
        check(code)?;
        let ticket = Ticket(self.next);
        self.next += 1;
        let counts = [send_counts, send_starts, receive_counts, receive_starts];
        let open = Open { request, is_done: false, send, received, numbers, counts };
        self.open.insert(ticket, open);
        Ok(ticket)
    }

    fn is_done(&mut self, ticket: Ticket) -> Result<bool, EngineError> {
        check_use()?;
        let open = self.open.get_mut(&ticket).expect("the exchange was not finished before");
        if !open.is_done {
            let mut is_done = 0;
            // SAFETY: the request is that of this exchange and has not ended; its status is not asked for.
            check(unsafe {
                mpi::MPI_Test(&mut open.request, &mut is_done, mpi::RSMPI_STATUS_IGNORE)
            })?;
            open.is_done = is_done != 0;
        }
        Ok(open.is_done)
    }

    fn finish(&mut self, ticket: Ticket) -> Result<Vec<u32>, EngineError> {
        check_use()?;
        let mut polls = 0;
        while !self.is_done(ticket)? {
            // `MPI_Wait` polls all the time, which takes half of a core from its other hardware thread, where another rank may
            // compute what this one waits for.
            (0..PAUSES).for_each(|_| std::hint::spin_loop());
            polls += 1;
            if polls > POLLS {
                std::thread::yield_now();
            }
        }
        let mut open = self.open.remove(&ticket).expect("it is there");
        let mut received = std::mem::take(&mut open.received);
        // SAFETY: it has room for them, and the exchange has written all of them.
        unsafe { received.set_len(open.numbers) };
        self.keep(std::mem::take(&mut open.send));
        Ok(received)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.is_done {
            // MPI may still read and write them.
            std::mem::forget(std::mem::take(&mut self.send));
            std::mem::forget(std::mem::take(&mut self.received));
            self.counts.iter_mut().for_each(|counts| std::mem::forget(std::mem::take(counts)));
        }
    }
}
