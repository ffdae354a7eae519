//! How long communication took, and how much of it was hidden.

/// The seconds that a rank spent on communication.
///
/// See the example of [`DistributedDevices`](crate::DistributedDevices).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Times {
    /// From the moment that the first gradients of an update were sent to that when all had come back, of all updates.
    pub gradients: f64,
    /// How much of it the rank spent waiting, with nothing left to compute.
    pub waited: f64,
    /// In BatchNorm's sums, which are always waited for.
    pub norms: f64,
}

impl Times {
    /// The share of the communication of gradients that was hidden behind computation, from 0 to 1; 0 if there was none.
    pub fn hidden(&self) -> f64 {
        if self.gradients > 0.0 { (1.0 - self.waited / self.gradients).max(0.0) } else { 0.0 }
    }
}
