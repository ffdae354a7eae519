//! Trains classifiers of CIFAR-size images on the CPU or an NVIDIA GPU, and grows the batch size instead of decaying
//! the learning rate.
//!
//! This is the library behind the program of the same name, which only adds a command line. It re-exports its
//! crates. Data flows one way: [`data`] reads data sets and makes batches, an engine of a device ([`devices`])
//! computes a network ([`network`]) on them, [`training`] runs the loop and saves the state, and [`logging`]
//! writes and shows what happened. [`cpu`] is the CPU engine, [`cuda`] that of NVIDIA's cards.
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

mod devices;

pub use crescendo_cpu as cpu;
pub use crescendo_cuda as cuda;
pub use crescendo_data as data;
pub use crescendo_logging as logging;
pub use crescendo_network as network;
pub use crescendo_training as training;

pub use devices::AllDevices;

/// The devices of this machine: NVIDIA's cards and the processor.
pub fn devices() -> &'static dyn network::Devices {
    static ALL: AllDevices = AllDevices::new(None);
    &ALL
}
