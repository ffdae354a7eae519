//! Data sets of 32x32 colour images: readers, a generated set, augmentation and batches.
//!
//! [`open`] reads CIFAR-10 and CIFAR-100 in every form they are published in, and folders of PNG and
//! JPEG images; [`fetch()`] downloads CIFAR-10, and [`shapes`] draws a set that needs no download. A
//! [`Sampling`] turns the images into batches; what an image looks like in an epoch is a function of the
//! seed, the epoch and the image's index, whatever order or thread it is made in.
//!
//! This crate knows nothing of networks, and prints nothing.
//!
//! # Example
//!
//! ```
//! use crescendo_data::{LastBatch, Normalization, Sampling, Shuffle, shapes};
//!
//! let set = shapes::generate(0, 50, 10);
//! let sampling = Sampling {
//!     seed: 0,
//!     shuffle: Shuffle::Epoch,
//!     last_batch: LastBatch::Keep,
//!     augmentation: None,
//!     normalization: Normalization::PerImage,
//!     side: 32,
//! };
//! let mut sizes = Vec::new();
//! sampling.epoch(&set.train, 1, 20, 0..3, |batch| {
//!     sizes.push(batch.labels.len());
//!     Ok::<(), ()>(())
//! })?;
//! assert_eq!(sizes, [20, 20, 10]);
//! # Ok::<(), ()>(())
//! ```

mod augment;
mod batches;
mod error;
mod export;
mod fetch;
mod find;
mod info;
mod picture;
mod random;
mod readers;
mod set;
pub mod shapes;

pub use augment::{Augmentation, Border, Flip, Normalization, shift};
pub use batches::{Batch, LastBatch, Sampling, Shuffle, hold_out, without_held_out};
pub use error::Error;
pub use export::export;
pub use fetch::{Archive, Fetched, fetch};
pub use find::{default_folder, find};
pub use info::{ClassCount, Info, channel_statistics, info};
pub use picture::{Picture, read_image};
pub use readers::{CIFAR10_NAME, ImageFolder, open};
pub use set::{CHANNELS, DataSet, IMAGE_BYTES, SIDE, Split};
