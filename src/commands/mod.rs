//! The commands, one file each, and what they share.

pub mod bench;
pub mod compare;
pub mod completions;
pub mod data;
mod data_set;
pub mod devices;
pub mod evaluate;
pub mod export;
mod measuring;
mod operation_text;
pub mod plan;
pub mod predict;
pub mod recipes;
pub mod report;
pub mod runs;
pub mod train;
mod unused_keys;
mod weights;

use std::io::{ErrorKind, IsTerminal, Write, stderr, stdout};
use std::path::Path;

use crescendo::AllDevices;
use crescendo::network::{DeviceKind, Devices, EngineConfig};
use crescendo::training::loading::BuiltIn;
use crescendo::training::recipe::BatchPolicyKind;
use crescendo::training::{Error, Model, Recipe};

pub use self::data_set::{DataLocation, LoadedData};
pub use self::unused_keys::unused_source;
pub use self::weights::of_run as weights_of_run;
use crate::cli::{ComputeArgs, ViewArgs};

/// Prints a line like `println!`, but returns an error instead of panicking, for example on a full
/// disk.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::commands::print(format_args!("{}\n", format_args!($($text)*)))
    };
}
pub(crate) use say;

/// Prints a text; see [`say`].
pub fn print(text: std::fmt::Arguments) -> Result<(), Error> {
    match stdout().write_fmt(text) {
        // The reader has closed the pipe, as `head` does: not an error of this program.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(|error| Error::io("write to", Path::new("the output"), error)),
    }
}

/// Prints advice below an output, if a person reads it.
pub fn hint(text: &str) -> Result<(), Error> {
    if stdout().is_terminal() { say!("\n{text}") } else { Ok(()) }
}

/// Prints a line for each recipe or comparison: its name, and what it is.
pub fn list(all: &[BuiltIn]) -> Result<(), Error> {
    let width = all.iter().map(|one| one.name.len()).max().unwrap_or_default();
    all.iter().try_for_each(|one| say!("{:width$}  {}", one.name, one.title()))
}

/// Prints a line on the standard error. If it cannot be written, the exit code still tells of an error.
pub fn note(text: std::fmt::Arguments) {
    let _ = writeln!(stderr(), "{text}");
}

/// Refuses a recipe whose policy only the program that made it has.
///
/// # Errors
/// If it is one.
pub fn refuse_custom_policy(recipe: &Recipe) -> Result<(), Error> {
    if recipe.batch.policy != BatchPolicyKind::Custom {
        return Ok(());
    }
    Err(Error::Recipe(
        "batch.policy = custom is for programs that use Crescendo as a library and bring a rule of their own: choose \
         another policy"
            .into(),
    ))
}

impl ViewArgs {
    /// Overrides the views of a model by the options that were given.
    pub fn apply(&self, model: &mut Model) {
        self.flip.into_iter().for_each(|flip| model.set_flip(flip));
        self.shift.into_iter().for_each(|shift| model.set_shift(shift));
    }
}

impl ComputeArgs {
    /// The options as changes of a recipe's section `[engine]`.
    pub fn changes(&self) -> Vec<String> {
        let device = self.device.map(|device| format!("engine.device={}", device.kind.name()));
        let threads = self.threads.map(|threads| format!("engine.threads={threads}"));
        let isa = self.isa.as_ref().map(|isa| format!("engine.isa={isa}"));
        [device, threads, isa].into_iter().flatten().collect()
    }

    /// What opens the device: with the card that was asked for.
    pub fn devices(&self) -> AllDevices {
        AllDevices::new(self.device.and_then(|device| device.card))
    }

    /// The device, threads and instruction set to compute with, for a command without a recipe.
    ///
    /// # Errors
    /// If the device cannot be used.
    pub fn engine(&self) -> Result<EngineConfig, Error> {
        self.engine_of(&self.devices())
    }

    /// The same, of these devices.
    ///
    /// # Errors
    /// If the device cannot be used.
    pub fn engine_of(&self, devices: &dyn Devices) -> Result<EngineConfig, Error> {
        let engine = Recipe::load("report", &self.changes())?.engine;
        let device = devices.open(&engine)?.config().device;
        Ok(EngineConfig { device, ..engine })
    }

    /// Warns of options that have no effect on this device.
    pub fn warn_of_unused(&self, device: DeviceKind) {
        let options = [("--threads", self.threads.is_some()), ("--isa", self.isa.is_some())];
        for (option, _) in options.into_iter().filter(|option| option.1) {
            if device == DeviceKind::Cuda {
                note(format_args!("warning: {option} has no effect: the device is cuda"));
            }
        }
    }
}
