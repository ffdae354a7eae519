//! Data sets of 32x32 colour images: readers, a generated set, augmentation and batches.

mod error;
mod set;

pub use error::Error;
pub use set::{CHANNELS, DataSet, IMAGE_BYTES, SIDE, Split};
