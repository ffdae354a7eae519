//! Training: recipes, the loop, batch policies, checkpoints, and resume to the bit.
//!
//! A [`Recipe`] says everything that decides a run. A [`Run`] is a folder that holds the recipe,
//! the state, and checkpoints; [`Run::train`] goes from the saved state to the end, telling an
//! [`Observer`](events::Observer) what happens. A [`Model`] is a checkpoint in use.
//!
//! This crate prints nothing and draws nothing: observers do. It computes nothing either: that is
//! the engine's work.
//!
//! # Example
//!
//! ```
//! use std::sync::atomic::AtomicBool;
//! use crescendo_training::{Model, Outcome, Recipe, Run, Start, checkpoint};
//!
//! let data = crescendo_data::shapes::generate(0, 200, 100);
//! let recipe = Recipe::load("quick", &["train.epochs=1", "network.widths=[4, 4, 4]"])?;
//! # let folder = tempfile::tempdir().unwrap();
//! # let folder = folder.path().join("run");
//! let start = Start {
//!     recipe: &recipe,
//!     recipe_name: "quick",
//!     data: &data,
//!     data_location: "shapes:200,100",
//!     init: None,
//! };
//! let mut run = Run::create(&folder, &start)?;
//! assert_eq!(run.train(&data, &mut (), &AtomicBool::new(false))?, Outcome::Finished);
//!
//! let mut model = Model::open(&checkpoint::path(&folder, 1), None, recipe.machine()?)?;
//! let accuracy = model.evaluate(&data.test, |_| ()).accuracy();
//! assert_eq!(Some(accuracy), run.progress().test_accuracy);
//! # Ok::<(), crescendo_training::Error>(())
//! ```

pub mod checkpoint;
pub mod comparison;
mod error;
pub mod events;
mod files;
mod machine;
mod memory;
mod model;
pub mod policy;
pub mod recipe;
mod run;
mod tensors;
mod trainer;
mod update;

pub use error::Error;
pub use files::write_atomically;
pub use machine::{IsaChoice, Machine, peak_memory, threads};
pub use memory::{memory, part_size};
pub use model::{Elsewhere, Evaluation, Mistake, Model};
pub use recipe::Recipe;
pub use run::{About, Progress, Record, Run, Start, check, plan, plan_for, read_record, resolved};
pub use trainer::Outcome;
