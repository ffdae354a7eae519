//! What the parts of a rank share: its transport, and exchanges that are waited for.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crescendo_network::EngineError;

use crate::times::Times;
use crate::transport::{Channel, Exchange, Transport};

/// A rank's part in a run.
pub(crate) struct Session {
    pub rank: usize,
    pub ranks: usize,
    transport: Mutex<Box<dyn Transport>>,
    /// The number of the next device or engine.
    next: AtomicU32,
    /// Whether a command has failed on this rank, so that the ranks are no longer at the same place.
    is_lost: AtomicBool,
    times: Mutex<Times>,
}

impl Session {
    pub fn new(transport: Box<dyn Transport>) -> Self {
        Session {
            rank: transport.rank(),
            ranks: transport.ranks(),
            transport: Mutex::new(transport),
            next: AtomicU32::new(0),
            is_lost: AtomicBool::new(false),
            times: Mutex::default(),
        }
    }

    pub fn transport(&self) -> MutexGuard<'_, Box<dyn Transport>> {
        self.transport.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a new device or engine.
    pub fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    /// Notes that a command has failed.
    pub fn set_lost(&self) {
        self.is_lost.store(true, Ordering::Relaxed);
    }

    /// Rank 0's bytes, on every rank.
    pub fn broadcast(&self, bytes: &mut Vec<u8>) -> Result<(), EngineError> {
        self.transport().broadcast(bytes).inspect_err(|_| self.set_lost())
    }

    /// Exchanges words, and waits for them.
    pub fn exchange(&self, exchange: Exchange) -> Result<Vec<u32>, EngineError> {
        let mut transport = self.transport();
        let ticket = transport.start(Channel::Blocking, exchange);
        let words = ticket.and_then(|ticket| transport.finish(ticket));
        words.inspect_err(|_| self.set_lost())
    }

    /// The words of all ranks, on every rank; each gives as many.
    pub fn gather(&self, words: Vec<u32>) -> Result<Vec<u32>, EngineError> {
        let from = vec![words.len(); self.ranks];
        self.exchange(Exchange::AllGather { send: words, from })
    }

    /// The bytes of each rank, on every rank.
    pub fn gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, EngineError> {
        let lengths = self.gather(vec![bytes.len() as u32])?;
        let lengths: Vec<usize> = lengths.into_iter().map(|length| length as usize).collect();
        let mut send = vec![0; bytes.len().div_ceil(4)];
        bytemuck::cast_slice_mut(&mut send)[..bytes.len()].copy_from_slice(bytes);
        let from: Vec<usize> = lengths.iter().map(|length| length.div_ceil(4)).collect();
        let words = self.exchange(Exchange::AllGather { send, from })?;
        let mut rest = &words[..];
        let take = |length: usize| {
            let (own, other) = rest.split_at(length.div_ceil(4));
            rest = other;
            bytemuck::cast_slice(own)[..length].to_vec()
        };
        Ok(lengths.into_iter().map(take).collect())
    }

    /// Tells all ranks how something went on each. Returns the error of this rank, or the first one of another, with its
    /// number and its machine.
    pub fn agree<T>(&self, outcome: Result<T, EngineError>) -> Result<T, EngineError> {
        let own = match &outcome {
            Ok(_) => String::new(),
            Err(error) => format!("rank {} on {}: {error}", self.rank, self.transport().host()),
        };
        let all = self.gather_bytes(own.as_bytes())?;
        let value = outcome?;
        match all.into_iter().find(|problem| !problem.is_empty()) {
            Some(problem) => {
                Err(EngineError::Communication(String::from_utf8_lossy(&problem).into_owned()))
            }
            None => Ok(value),
        }
    }
}
