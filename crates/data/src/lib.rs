//! Data sets of small colour images: readers, a generated data set, augmentation and batches.
//!
//! [`open`] reads CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) in every published form, folders and archives of
//! images, idx files and arrays; [`fetch()`] downloads CIFAR-10, and [`shapes`] generates a data set that needs no download.
//! All images have the shape [`ImageShape::CIFAR`]. A [`Sampling`] turns them into batches; how an image is
//! augmented is a function of the seed, the epoch and the image's index, and does not depend on the order or
//! the thread in which images are prepared.
//!
//! This crate knows nothing of networks and engines, and prints nothing.
//!
//! # Example
//!
//! ```
//! use crescendo_data::{ImageShape, LastBatch, Normalization, Sampling, Shuffle, shapes};
//!
//! let set = shapes::generate(0, 50, 10);
//! let sampling = Sampling {
//!     seed: 0,
//!     shuffle: Shuffle::Epoch,
//!     last_batch: LastBatch::Keep,
//!     augmentation: None,
//!     normalization: Normalization::PerImage,
//!     image_size: set.image_shape().width,
//! };
//! let mut sizes = Vec::new();
//! sampling.epoch(&set.train, 1, 20, 0..3, |batch| {
//!     assert_eq!(batch.images.len(), batch.labels.len() * ImageShape::CIFAR.elements());
//!     sizes.push(batch.labels.len());
//!     Ok::<(), ()>(())
//! })?;
//! assert_eq!(sizes, [20, 20, 10]);
//! # Ok::<(), ()>(())
//! ```

mod arrays;
mod augmentation;
mod dataset;
mod error;
mod export;
mod fetch;
pub mod file_system;
mod image_file;
mod image_shape;
mod locate;
mod normalization;
mod preparation;
mod readers;
mod rng;
mod sampling;
pub mod shapes;
mod summary;
mod validation;

pub use augmentation::{Augmentation, AugmentedSample, Border, Flip, shift};
pub use dataset::{DataSet, Split};
pub use error::{DamagedFile, Error};
pub use export::export;
pub use fetch::{FetchOutcome, RemoteArchive, fetch};
pub use image_file::{DecodedImage, Sizing, read_image, read_image_as};
pub use image_shape::ImageShape;
pub use locate::{default_folder, locate};
pub use normalization::Normalization;
pub use preparation::ImagePreparation;
pub use readers::{
    CIFAR10_NAME, DamagedImages, ImageFolder, Purpose, ReadOptions, open, open_with,
};
pub use sampling::{ImageBatch, LastBatch, Sampling, Shuffle};
pub use summary::{ClassCount, Summary, channel_statistics, summarize};
pub use validation::{ValidationChoice, split_validation, without_validation};
