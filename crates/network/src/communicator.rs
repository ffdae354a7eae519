//! The interface to several processes.

use std::ops::Range;

use crate::EngineError;

/// Blocking collective operations on host memory. All processes call the same functions in the same order with
/// slices of the same lengths, and every process receives the same bits.
///
/// Sums are added pairwise in the order of the processes' ranks: those of four as `(0 + 1) + (2 + 3)`, of any number as
/// the sum over the first half of them (rounded down) and that over the rest. So they are to the bit those of one process:
/// see [`BatchTree`](crate::BatchTree).
///
/// # Example
///
/// ```
/// use std::sync::{Arc, Barrier, Mutex};
/// use crescendo_network::{Communicator, EngineError, SingleProcess};
///
/// /// Two threads as two processes.
/// #[derive(Clone)]
/// struct Pair(Arc<(Mutex<Vec<f64>>, Barrier)>);
///
/// impl Communicator for Pair {
///     fn sum(&mut self, values: &mut [f64]) -> Result<(), EngineError> {
///         let Pair(shared) = self;
///         let (sums, barrier) = &**shared;
///         sums.lock().unwrap().resize(values.len(), 0.0);
///         sums.lock().unwrap().iter_mut().zip(&*values).for_each(|(sum, value)| *sum += value);
///         barrier.wait();
///         values.copy_from_slice(&sums.lock().unwrap());
///         if barrier.wait().is_leader() {
///             sums.lock().unwrap().clear();
///         }
///         barrier.wait();
///         Ok(())
///     }
///
///     fn sum_gradients(&mut self, gradients: &mut [f32]) -> Result<(), EngineError> {
///         let mut values: Vec<f64> = gradients.iter().map(|&value| value.into()).collect();
///         self.sum(&mut values)?;
///         gradients.iter_mut().zip(values).for_each(|(gradient, sum)| *gradient = sum as f32);
///         Ok(())
///     }
/// }
///
/// let mut first = Pair(Arc::new((Mutex::default(), Barrier::new(2))));
/// let mut second = first.clone();
/// let other = std::thread::spawn(move || second.sum_gradients(&mut [0.5, 1.0]));
/// let mut gradients = [2.0, 3.0];
/// first.sum_gradients(&mut gradients)?;
/// other.join().unwrap()?;
/// assert_eq!(gradients, [2.5, 4.0]);
///
/// // A process on its own has the sums already.
/// SingleProcess.sum_gradients(&mut gradients)?;
/// assert_eq!(gradients, [2.5, 4.0]);
/// # Ok::<(), EngineError>(())
/// ```
pub trait Communicator: Send {
    /// Replaces each number by its sum over all processes. BatchNorm's sums go through this, forward and
    /// backward, and once in every update its loss and counts.
    ///
    /// # Errors
    /// [`EngineError::Communication`] if another process failed.
    fn sum(&mut self, values: &mut [f64]) -> Result<(), EngineError>;

    /// Announces that `gradients[range]` is final, so that summing it can begin; `gradients` is the flat buffer of
    /// all gradients. Called in the last micro-batch of a batch, once for each layer (weight and bias) in the
    /// order of the backward pass, which is the same in all processes; the ranges are disjoint and cover all parameters,
    /// frozen ones included. Of an update that is measured nothing is announced. The borrow ends with the call, so the
    /// values must be copied.
    ///
    /// # Errors
    /// [`EngineError::Communication`] if another process failed.
    fn gradients_final(
        &mut self,
        _range: Range<usize>,
        _gradients: &[f32],
    ) -> Result<(), EngineError> {
        Ok(())
    }

    /// Replaces each gradient by its sum over all processes. Called once in every update that is not measured, also if no
    /// micro-batch was accumulated.
    ///
    /// # Errors
    /// [`EngineError::Communication`] if another process failed.
    fn sum_gradients(&mut self, gradients: &mut [f32]) -> Result<(), EngineError>;

    /// Replaces the gradients of both halves of the batch by their sums over all processes. Called in an update that is
    /// measured, in the place of [`sum_gradients`](Self::sum_gradients).
    ///
    /// # Errors
    /// [`EngineError::Communication`] if another process failed.
    fn sum_halves(&mut self, halves: [&mut [f32]; 2]) -> Result<(), EngineError> {
        halves.into_iter().try_for_each(|half| self.sum_gradients(half))
    }
}

/// The communicator of a run with one process.
///
/// See the example of [`Communicator`].
pub struct SingleProcess;

impl Communicator for SingleProcess {
    fn sum(&mut self, _: &mut [f64]) -> Result<(), EngineError> {
        Ok(())
    }

    fn sum_gradients(&mut self, _: &mut [f32]) -> Result<(), EngineError> {
        Ok(())
    }
}
