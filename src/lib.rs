//! Trains classifiers of CIFAR-size images on the machine at hand, and grows the batch instead of
//! decaying the learning rate.
//!
//! This is the library behind the program of the same name: the crates it is made of, under one
//! roof. The program adds a command line and nothing else. Data flows one way:
//! [`data`] makes batches, [`network`] computes on them, [`training`] runs the loop and keeps the
//! state, [`logging`] records and shows what happened. [`devices`] says what computes; [`cpu`] is the CPU engine.
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
//! let (init, devices) = (None, crescendo::devices());
//! let start = Start { recipe: &recipe, recipe_name, data: &data, data_location, init, devices };
//! Run::create(&folder, &start)?.train(devices, &data, &mut (), &false.into())?;
//! assert!(folder.join("weights/epoch-0001.safetensors").exists());
//! # Ok::<(), crescendo::training::Error>(())
//! ```

pub use crescendo_cpu as cpu;
pub use crescendo_data as data;
pub use crescendo_logging as logging;
pub use crescendo_network as network;
pub use crescendo_training as training;

/// The devices that this build can train on.
pub fn devices() -> &'static dyn network::Devices {
    &cpu::CpuDevices
}
