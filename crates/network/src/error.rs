//! Errors of networks and engines.

/// Why a network is invalid, in a sentence that says what to do.
///
/// See the examples of [`NetworkConfig`](crate::NetworkConfig) and [`Network`](crate::Network).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// Why an engine cannot do what it was asked to.
///
/// # Example
///
/// ```
/// use crescendo_network::EngineError;
///
/// /// Half the micro-batch may fit.
/// fn retry(error: &EngineError, micro_batch: usize) -> Option<usize> {
///     match error {
///         EngineError::OutOfMemory { .. } if micro_batch > 1 => Some(micro_batch / 2),
///         _ => None,
///     }
/// }
/// let error = EngineError::OutOfMemory { what: "the feature maps of a batch", bytes: 3 << 30 };
/// assert_eq!(retry(&error, 64), Some(32));
/// assert!(error.to_string().contains("the feature maps of a batch (3.00 GiB)"));
/// assert_eq!(retry(&EngineError::DeviceLost("the GPU has stopped".into()), 64), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The device cannot do this.
    #[error("{0}")]
    Unsupported(String),
    /// There is no such device on this machine, or it cannot be used now.
    #[error("{0}")]
    NoDevice(String),
    /// Tensors do not fit the network.
    #[error("{0}")]
    WrongTensors(String),
    /// The device has too little memory.
    #[error(
        "there is not enough memory for {what} ({:.2} GiB): use smaller batches or a smaller network",
        *bytes as f64 / f64::from(1 << 30)
    )]
    OutOfMemory {
        /// What the memory was for.
        what: &'static str,
        /// How much was asked for.
        bytes: u64,
    },
    /// The device stopped working.
    #[error("{0}")]
    DeviceLost(String),
    /// Another process of the run is gone.
    #[error("{0}")]
    Communication(String),
}
