//! Training: recipes, the training loop, batch policies, checkpoints, and resuming with bit-identical results.
//!
//! A [`Recipe`] has everything that decides what a run computes. A [`Run`] is a folder with the recipe, the
//! saved state and checkpoints; [`Run::train`] trains from the saved state to the end and reports events to
//! an [`Observer`](events::Observer). A [`Model`] is a checkpoint, loaded for evaluation and prediction.
//!
//! This crate leaves output to observers, and computation to engines.
//!
//! # Example
//!
//! ```
//! use std::sync::atomic::AtomicBool;
//! use crescendo_cpu::CpuDevices;
//! use crescendo_training::{Model, Outcome, Recipe, Run, Start, checkpoint};
//!
//! let data = crescendo_data::shapes::generate(0, 200, 100);
//! let recipe = Recipe::load("quick", &["train.epochs=1", "network.widths=[4, 4, 4]"])?;
//! # let folder = tempfile::tempdir().unwrap();
//! # let folder = folder.path().join("run");
//! let start = Start::new(&recipe, &data, &CpuDevices);
//! let mut run = Run::create(&folder, &start)?;
//! assert_eq!(run.train(&CpuDevices, &data, &mut (), &AtomicBool::new(false))?, Outcome::Finished);
//!
//! let mut model = Model::open(&checkpoint::path(&folder, 1), None, &CpuDevices, &recipe.engine)?;
//! let accuracy = model.evaluate(&data.test, |_| ())?.accuracy();
//! assert_eq!(Some(accuracy), run.progress().test_accuracy);
//! # Ok::<(), crescendo_training::Error>(())
//! ```

mod atomic_file;
mod best;
mod calibration;
pub mod checkpoint;
mod checksum;
pub mod comparison;
mod error;
mod evaluation;
pub mod events;
mod first_filters;
#[cfg(test)]
mod fuzz;
mod graph;
mod held_out;
mod inference;
// For the crates of this project, which read such files; it is no part of what the library promises.
#[doc(hidden)]
pub mod json_file;
pub mod loading;
mod memory;
mod model;
pub mod policy;
// For the crates of this project, which write such files; it is no part of what the library promises.
#[doc(hidden)]
pub mod protobuf;
pub mod recipe;
mod record;
mod run;
mod run_facts;
mod tensors;
mod text_file;
mod trained;
mod trainer;
pub mod validation;
mod version;

pub use atomic_file::write_atomically;
pub use best::BestEpoch;
pub use calibration::CalibrationBin;
pub use error::Error;
pub use evaluation::{ClassScore, Evaluation, Misclassified, class_scores};
pub use first_filters::FirstFilters;
pub use graph::{graph, graph_for};
pub use held_out::HeldOut;
pub use loading::RecipeBuilder;
pub use memory::{default_limit, micro_batch_size, required_memory};
pub use model::{External, Model};
pub use recipe::Recipe;
pub use record::{About, Record, TrainedOn, read_record};
pub use run::{Overview, Progress, Run, Start, check, check_metrics, resolved};
pub use run_facts::{RunFacts, TrainingSample, TrainingSamples, utc};
pub use trained::TrainedNetwork;
pub use trainer::Outcome;
