//! Ranks that are threads of one process.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crescendo_network::EngineError;

use crate::{Channel, Exchange, Ticket, Transport};

/// A [`Transport`] between threads of one process: for tests, and to try several ranks without MPI.
///
/// # Example
///
/// ```
/// use crescendo_distributed::{Channel, Exchange, Threads, Transport};
///
/// let ranks = Threads::new(2);
/// let received = std::thread::scope(|scope| {
///     let threads = ranks.map(|mut rank| {
///         scope.spawn(move || {
///             let own = rank.rank() as u32;
///             // Rank 0 sends itself one word and rank 1 two; rank 1 sends nothing.
///             let (send, to) = if own == 0 { (vec![7, 8, 9], vec![1, 2]) } else { (vec![], vec![0, 0]) };
///             let from = vec![1 + own as usize, 0];
///             let exchange = Exchange::AllToAll { send, to, from };
///             let ticket = rank.start(Channel::Scatter, exchange)?;
///             while !rank.is_done(ticket)? {
///                 std::thread::yield_now();
///             }
///             let mut word = if own == 0 { b"stop".to_vec() } else { Vec::new() };
///             rank.broadcast(&mut word)?;
///             assert_eq!((word, rank.ranks(), rank.host().is_empty()), (b"stop".to_vec(), 2, false));
///             rank.finish(ticket)
///         })
///     });
///     threads.collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect::<Result<Vec<_>, _>>()
/// })?;
/// assert_eq!(received, [vec![7], vec![8, 9]]);
/// # Ok::<(), crescendo_network::EngineError>(())
/// ```
pub struct Threads {
    rank: usize,
    ranks: usize,
    meeting: Arc<Meeting>,
    /// How many broadcasts and exchanges of each channel this rank has begun.
    broadcasts: u64,
    begun: HashMap<Channel, u64>,
    open: HashMap<Ticket, (Key, Exchange)>,
    next: u64,
}

type Key = (Channel, u64);

/// Where the ranks meet.
#[derive(Default)]
struct Meeting {
    board: Mutex<Board>,
    changed: Condvar,
}

#[derive(Default)]
struct Board {
    /// What each rank has sent in an exchange, and how many ranks have read it.
    exchanges: HashMap<Key, (Vec<Option<Exchange>>, usize)>,
    /// The same of rank 0's broadcasts.
    broadcasts: HashMap<u64, (Vec<u8>, usize)>,
    /// The rank that has ended before the others, if one has.
    gone: Option<usize>,
}

/// How long a rank waits for the others.
const PATIENCE: Duration = Duration::from_secs(60);

impl Threads {
    /// So many ranks, in order.
    pub fn new(ranks: usize) -> impl Iterator<Item = Threads> {
        let meeting = Arc::new(Meeting::default());
        (0..ranks).map(move |rank| Threads {
            rank,
            ranks,
            meeting: meeting.clone(),
            broadcasts: 0,
            begun: HashMap::new(),
            open: HashMap::new(),
            next: 0,
        })
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.meeting.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `is_there` is true of the board.
    fn wait(
        &self,
        is_there: impl Fn(&Board) -> bool,
    ) -> Result<MutexGuard<'_, Board>, EngineError> {
        let waiting = |board: &mut Board| !is_there(board) && board.gone.is_none();
        let waited = self.meeting.changed.wait_timeout_while(self.board(), PATIENCE, waiting);
        let (board, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if is_there(&board) {
            return Ok(board);
        }
        Err(EngineError::Communication(match board.gone {
            Some(rank) => format!("rank {rank} has ended"),
            None => "another rank does not come".into(),
        }))
    }
}

impl Board {
    fn is_complete(&self, key: &Key) -> bool {
        let exchange = self.exchanges.get(key);
        exchange.is_some_and(|(sent, _)| sent.iter().all(Option::is_some))
    }
}

impl Transport for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn host(&self) -> String {
        "this machine".into()
    }

    fn broadcast(&mut self, bytes: &mut Vec<u8>) -> Result<(), EngineError> {
        let number = self.broadcasts;
        self.broadcasts += 1;
        if self.rank == 0 {
            if self.ranks > 1 {
                self.board().broadcasts.insert(number, (bytes.clone(), 1));
                self.meeting.changed.notify_all();
            }
            return Ok(());
        }
        let ranks = self.ranks;
        let mut board = self.wait(|board| board.broadcasts.contains_key(&number))?;
        let (sent, readers) = board.broadcasts.get_mut(&number).expect("it has come");
        bytes.clone_from(sent);
        *readers += 1;
        if *readers == ranks {
            board.broadcasts.remove(&number);
        }
        Ok(())
    }

    fn start(&mut self, channel: Channel, exchange: Exchange) -> Result<Ticket, EngineError> {
        exchange.check(self.rank, self.ranks);
        let number = self.begun.entry(channel).or_default();
        let key = (channel, *number);
        *number += 1;
        let (rank, ranks) = (self.rank, self.ranks);
        let mut board = self.board();
        let (sent, _) = board.exchanges.entry(key).or_insert_with(|| (vec![None; ranks], 0));
        sent[rank] = Some(exchange.clone());
        drop(board);
        self.meeting.changed.notify_all();
        let ticket = Ticket(self.next);
        self.next += 1;
        self.open.insert(ticket, (key, exchange));
        Ok(ticket)
    }

    fn is_done(&mut self, ticket: Ticket) -> Result<bool, EngineError> {
        let (key, _) = &self.open[&ticket];
        Ok(self.board().is_complete(key))
    }

    fn finish(&mut self, ticket: Ticket) -> Result<Vec<u32>, EngineError> {
        let (key, own) = self.open.remove(&ticket).expect("the exchange was not finished before");
        let mut board = self.wait(|board| board.is_complete(&key))?;
        let (sent, readers) = board.exchanges.get_mut(&key).expect("it is complete");
        let (Exchange::AllToAll { from, .. } | Exchange::AllGather { from, .. }) = own;
        let mut received = Vec::new();
        for (exchange, expected) in sent.iter().flatten().zip(from) {
            let words = match exchange {
                Exchange::AllToAll { send, to, .. } => {
                    let start = to[..self.rank].iter().sum();
                    &send[start..start + to[self.rank]]
                }
                Exchange::AllGather { send, .. } => send,
            };
            assert_eq!(words.len(), expected, "as many words as are expected");
            received.extend_from_slice(words);
        }
        *readers += 1;
        if *readers == self.ranks {
            board.exchanges.remove(&key);
        }
        Ok(received)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.board().gone.get_or_insert(self.rank);
        self.meeting.changed.notify_all();
    }
}
