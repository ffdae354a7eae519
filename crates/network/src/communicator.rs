//! The interface to several processes.

use std::ops::Range;

use crate::EngineError;

/// Blocking collective operations on host memory. All processes call the same functions in the same order with
/// slices of the same lengths, and every process receives the same bits.
pub trait Communicator: Send {
    /// Replaces each number by its sum over all processes. BatchNorm's sums go through this, forward and
    /// backward.
    ///
    /// # Errors
    /// [`EngineError::Communication`] if another process failed.
    fn sum(&mut self, values: &mut [f64]) -> Result<(), EngineError>;

    /// Announces that `gradients[range]` is final, so that summing it can begin; `gradients` is the flat buffer of
    /// all gradients. Called in the last micro-batch of a batch, once for each layer (weight and bias) in the
    /// order of the backward pass; the ranges are disjoint and cover all parameters, frozen ones included. The
    /// borrow ends with the call, so the values must be copied.
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

    /// Replaces each gradient by its sum over all processes. Called once in every update, also if no micro-batch was
    /// accumulated.
    ///
    /// # Errors
    /// [`EngineError::Communication`] if another process failed.
    fn sum_gradients(&mut self, gradients: &mut [f32]) -> Result<(), EngineError>;
}

/// The communicator of a run with one process.
pub struct SingleProcess;

impl Communicator for SingleProcess {
    fn sum(&mut self, _: &mut [f64]) -> Result<(), EngineError> {
        Ok(())
    }

    fn sum_gradients(&mut self, _: &mut [f32]) -> Result<(), EngineError> {
        Ok(())
    }
}
