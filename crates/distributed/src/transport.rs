//! What carries numbers between the ranks.

use crescendo_network::EngineError;

/// The processes of a run, its *ranks*, numbered from 0, as one of them sees them.
///
/// All ranks call the same functions in the same order, but for exchanges of different [`Channel`]s, whose order among
/// each other does not matter.
///
/// See the example of [`Threads`](crate::Threads).
pub trait Transport: Send {
    /// The number of this rank.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn ranks(&self) -> usize;

    /// The name of the machine that this rank runs on.
    fn host(&self) -> String;

    /// Brings the bytes of rank 0 to all ranks. What the others give is replaced.
    ///
    /// # Errors
    /// [`EngineError::Communication`] if another rank is gone.
    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<(), EngineError>;

    /// Begins an exchange, and returns without waiting for it.
    ///
    /// # Errors
    /// [`EngineError::Communication`] if another rank is gone.
    ///
    /// # Panics
    /// If counts are not those of the ranks and of what is sent.
    fn start(&mut self, channel: Channel, exchange: Exchange) -> Result<Ticket, EngineError>;

    /// Whether an exchange has ended, without waiting for it. Exchanges may only get on during such calls.
    ///
    /// # Errors
    /// [`EngineError::Communication`] if another rank is gone.
    fn is_done(&mut self, ticket: Ticket) -> Result<bool, EngineError>;

    /// Waits for an exchange and returns what this rank receives, in the order of the ranks that sent it.
    ///
    /// # Errors
    /// [`EngineError::Communication`] if another rank is gone.
    ///
    /// # Panics
    /// If the exchange was finished before.
    fn finish(&mut self, ticket: Ticket) -> Result<Vec<u32>, EngineError>;
}

/// Exchanges of one channel begin in the same order on all ranks.
///
/// See the example of [`Threads`](crate::Threads).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Images, results, and sums that are waited for at once.
    Blocking,
    /// Gradients on the way to the rank that adds them.
    Scatter,
    /// Summed gradients on the way back.
    Gather,
}

impl Channel {
    /// All of them.
    pub const ALL: [Channel; 3] = [Channel::Blocking, Channel::Scatter, Channel::Gather];
}

/// What is exchanged, in words of 32 bits.
///
/// See the example of [`Threads`](crate::Threads).
#[derive(Clone, Debug)]
pub enum Exchange {
    /// Every rank sends every rank something else.
    AllToAll {
        /// What this rank sends, in the order of the receivers.
        send: Vec<u32>,
        /// How many of these words are for each rank.
        to: Vec<usize>,
        /// How many words come from each rank.
        from: Vec<usize>,
    },
    /// Every rank sends all ranks the same.
    AllGather {
        /// What this rank sends.
        send: Vec<u32>,
        /// How many words come from each rank.
        from: Vec<usize>,
    },
}

impl Exchange {
    /// Checks the counts.
    ///
    /// # Panics
    /// As [`Transport::start`].
    pub fn check(&self, rank: usize, ranks: usize) {
        let (send, from, own) = match self {
            Exchange::AllToAll { send, to, from } => {
                assert_eq!(to.len(), ranks, "one count for each rank");
                (send, from, to.iter().sum())
            }
            Exchange::AllGather { send, from } => (send, from, from[rank]),
        };
        assert_eq!(from.len(), ranks, "one count for each rank");
        assert_eq!(send.len(), own, "as many words as are sent");
    }
}

/// An exchange that has begun.
///
/// See the example of [`Threads`](crate::Threads).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);
