//! Trains classifiers of CIFAR-size images on the CPU, and grows the batch size instead of decaying
//! the learning rate.
//!
//! This is the library behind the program of the same name, which only adds a command line. It
//! re-exports its crates: [`data`] reads data sets and makes batches, [`network`] describes networks
//! and computes with them, [`kernels`] has the arithmetic, [`training`] runs the training loop and
//! saves its state, [`report`] writes logs and reports.
//!
//! # Example
//!
//! ```
//! use crescendo::data::shapes;
//! use crescendo::training::{Recipe, Run, Start};
//!
//! let data = shapes::generate(0, 100, 50);
//! let recipe = Recipe::load("quick", &["train.epochs=1", "network.widths=[4, 4, 4]"])?;
//! # let folder = tempfile::tempdir().unwrap();
//! let folder = folder.path().join("first");
//! let (recipe_name, data_location) = ("quick", "shapes:100,50");
//! let start = Start { recipe: &recipe, recipe_name, data: &data, data_location, init: None };
//! Run::create(&folder, &start)?.train(&data, &mut (), &false.into())?;
//! assert!(folder.join("weights/epoch-0001.safetensors").exists());
//! # Ok::<(), crescendo::training::Error>(())
//! ```

pub use crescendo_data as data;
pub use crescendo_kernels as kernels;
pub use crescendo_network as network;
pub use crescendo_report as report;
pub use crescendo_training as training;
