//! The seam to several processes.

use std::ops::Range;

use crate::EngineError;

/// Sums over processes. All processes call the same functions in the same order.
pub trait Communicator: Send {
    /// Replaces each number by its sum over all processes: BatchNorm's sums go through this, forward and
    /// backward.
    ///
    /// # Errors
    /// If another process is gone.
    fn sum(&mut self, values: &mut [f64]) -> Result<(), EngineError>;

    /// The gradients in `range` of all gradients `gradients` will not change before the update, so that
    /// summing them can begin. In the last micro-batch of a batch this is called once for each range of
    /// parameters, as backward produces them; together the ranges cover all parameters.
    ///
    /// # Errors
    /// If another process is gone.
    fn gradients_final(
        &mut self,
        _range: Range<usize>,
        _gradients: &[f32],
    ) -> Result<(), EngineError> {
        Ok(())
    }

    /// Replaces each gradient by its sum over all processes. Called once an update, after all ranges are
    /// final.
    ///
    /// # Errors
    /// If another process is gone.
    fn sum_gradients(&mut self, gradients: &mut [f32]) -> Result<(), EngineError>;
}

/// The communicator of a single process.
pub struct SingleProcess;

impl Communicator for SingleProcess {
    fn sum(&mut self, _: &mut [f64]) -> Result<(), EngineError> {
        Ok(())
    }

    fn sum_gradients(&mut self, _: &mut [f32]) -> Result<(), EngineError> {
        Ok(())
    }
}
