//! Data sets of 32x32 colour images: readers, a generated set, augmentation and batches.

mod augment;
mod batches;
mod error;
mod fetch;
mod find;
mod info;
mod random;
mod readers;
mod set;
pub mod shapes;

pub use augment::{Augmentation, Normalization};
pub use batches::{Batch, LastBatch, Sampling, Shuffle, hold_out};
pub use error::Error;
pub use fetch::{Archive, Fetched, fetch};
pub use find::{default_folder, find};
pub use info::{ClassCount, Info, channel_statistics, info};
pub use readers::open;
pub use set::{CHANNELS, DataSet, IMAGE_BYTES, SIDE, Split};
