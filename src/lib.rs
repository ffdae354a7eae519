//! Trains classifiers of CIFAR-size images on the CPU or an NVIDIA GPU, and grows the batch size instead of decaying
//! the learning rate.
//!
//! This is the library behind the program of the same name, which only adds a command line.
//!
//! # First steps
//!
//! A [`Recipe`](training::Recipe) says what a run does, a [`Run`](training::Run) is a folder with everything it leaves,
//! and a [`Model`](training::Model) is a network with the weights of a run. Train on the built-in data set `shapes`,
//! then use the weights:
//!
//! ```
//! use crescendo::data::shapes;
//! use crescendo::devices;
//! use crescendo::training::{Model, Recipe, Run, Start, checkpoint};
//!
//! // 100 images for training and 50 for testing; so small a network learns nothing in an epoch, but is fast.
//! let data = shapes::generate(0, 100, 50);
//! let recipe = Recipe::load("quick", &["train.epochs=1", "network.widths=[4, 4, 4]"])?;
//! # let folder = tempfile::tempdir().unwrap();
//! let folder = folder.path().join("first");
//! let start = Start::new(&recipe, &data, devices());
//! let mut run = Run::create(&folder, &start)?;
//! run.train(devices(), &data, &mut (), &false.into())?;
//!
//! let weights = checkpoint::path(&folder, 1);
//! let mut model = Model::open(&weights, None, devices(), &recipe.engine)?;
//! let probabilities = model.predict(data.test.image(0))?;
//! assert_eq!(probabilities.len(), data.classes.len());
//! println!("{:.1} % are right", 100.0 * model.evaluate(&data.test, |_| ())?.accuracy());
//! # Ok::<(), crescendo::training::Error>(())
//! ```
//!
//! # From there
//!
//! - **Another recipe.** `fast94` trains to 94 % on CIFAR-10; [`training::loading::BUILT_IN`] has all recipes.
//!   [`Recipe::builder`](training::Recipe::builder) changes a recipe's sections as values, and
//!   [`Recipe::load`](training::Recipe::load) as text, as `--set` does.
//! - **Other data.** [`data::open`] reads CIFAR-10, CIFAR-100 and folders or archives of images; [`data::fetch()`]
//!   downloads CIFAR-10. [`DataSet::from_arrays`](data::DataSet::from_arrays) takes images in memory: the example
//!   `own_data`.
//! - **See it train.** In place of `&mut ()`, [`logging::usual_observers`] prints progress and writes tables and a report
//!   into the folder. An [`Observer`](training::events::Observer) of your own gets every event, and can stop the run: the
//!   example `early_stopping`.
//! - **Stop and go on.** Training also stops when the last argument of [`Run::train`](training::Run::train) becomes true.
//!   [`Run::open`](training::Run::open) and `train` continue it, to the same bits.
//! - **A network of your own.** A [`network::NetworkBuilder`] describes it, and the recipe's builder takes it: the example
//!   `own_network`. Its checkpoints have the description, so that the program evaluates and predicts with them.
//! - **A rule of your own** for the batch size and the learning rate is a [`Policy`](training::policy::Policy): the example
//!   `own_policy`.
//! - **Elsewhere.** [`export::to_onnx`] makes an ONNX model of a trained network, with its preprocessing inside, and
//!   [`export::write_pytorch`] a PyTorch module.
//! - **One image at a time**, without allocating: [`Model::predict_into`](training::Model::predict_into), and the example
//!   `inference`.
//!
//! # The crates
//!
//! Each module is a crate. Data flows one way: [`data`] reads data sets and makes batches, an engine of a device
//! ([`devices()`]) computes a network ([`network`]) on them, [`training`] runs the loop and saves the state, and
//! [`logging`] writes and shows what happened; [`export`] writes trained networks for other programs. [`cpu`] is the engine for processors, [`cuda`] that for NVIDIA's cards.

// The program's files name the library as other programs do.
extern crate self as crescendo;

mod cli;
mod commands;
mod devices;
mod new_run;
mod npy;
#[doc(hidden)]
pub mod program;
mod ranks;
mod signals;
mod usage;
mod values;

pub use crescendo_cpu as cpu;
pub use crescendo_cuda as cuda;
pub use crescendo_data as data;
pub use crescendo_distributed as distributed;
pub use crescendo_export as export;
pub use crescendo_logging as logging;
pub use crescendo_network as network;
pub use crescendo_training as training;

pub use devices::AllDevices;

/// The devices of this machine: NVIDIA's cards and the processor.
pub fn devices() -> &'static dyn network::Devices {
    static ALL: AllDevices = AllDevices::new(None);
    &ALL
}
