//! The command line: commands, options and their help texts.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use crescendo::training::validation::{MAX_EPOCHS, MAX_SHIFT, MAX_THREADS};

use crate::values::{
    DeviceParser, RequestedDevice, Which, bits, bytes, fraction, latency, number_up_to,
    recorded_path, which, whole_number,
};

/// The largest seed that a recipe, a TOML file, can hold.
const MAX_SEED: u64 = i64::MAX as u64;
/// More images than any data set has.
const MAX_IMAGES: usize = 1_000_000_000;
/// More ranks than any machine has.
const MAX_RANKS: usize = 1_000_000;

/// Trains classifiers of CIFAR-size images on your computer, growing the batch size instead of
/// decaying the learning rate.
#[derive(Parser)]
#[command(
    version,
    arg_required_else_help = true,
    // Of an option that is given twice, the last counts: scripts add theirs to a user's.
    args_override_self = true,
    after_help = "\
To get started:  crescendo train          (takes about a minute, needs no download)
For help and examples:  crescendo COMMAND --help"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Train a network
    Train(TrainArgs),
    /// Measure the accuracy of checkpoints on the test set
    Evaluate(EvaluateArgs),
    /// Classify images
    Predict(PredictArgs),
    /// Write a trained network for other programs: as an ONNX model or a PyTorch module
    Export(ExportArgs),
    /// Write an HTML report of one or more runs: curves, decisions, misclassified images
    Report(ReportArgs),
    /// Show what a recipe does: layers, parameters, computation, memory
    Plan(PlanArgs),
    /// Train several recipes with the same seeds and test whether the differences are significant
    Compare(CompareArgs),
    /// Measure how fast a recipe's network trains and predicts on this computer
    Bench(BenchArgs),
    /// List what can compute: the processor, NVIDIA cards, and why one cannot be used
    Devices(DevicesArgs),
    /// List the runs in a folder: how far they are, how good, how long they took
    Runs(RunsArgs),
    /// List the built-in recipes, or print one
    Recipes(RecipesArgs),
    /// Download, inspect or export a data set
    Data(DataArgs),
    /// Print a completion script for your shell
    Completions(CompletionsArgs),
}

#[derive(Args)]
#[command(after_help = "\
Example: train the paper's recipe on CIFAR-10, and resume it after it was stopped
  crescendo data fetch
  crescendo train report --out runs/report
  crescendo train --resume runs/report
Example: train on your own images, in the folders flowers/rose, flowers/tulip, ...
  crescendo train quick --data flowers")]
pub struct TrainArgs {
    /// A built-in recipe, or the path of a TOML file
    #[arg(default_value = "quick", conflicts_with = "resume", value_parser = recorded_path())]
    pub recipe: String,
    #[command(flatten)]
    pub data: DataSetArgs,
    /// The run's folder, which must not exist yet [default: runs/<recipe>-<n>]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub out: Option<PathBuf>,
    /// Number of epochs; 0 only writes the initial weights
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = whole_number(0..=MAX_EPOCHS))]
    pub epochs: Option<u32>,
    /// Seed of the initial weights, the order of the images and the augmentation
    #[arg(long, value_name = "N", conflicts_with = "resume", allow_negative_numbers = true,
          value_parser = whole_number(0..=MAX_SEED))]
    pub seed: Option<u64>,
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Start from the weights of this checkpoint
    #[arg(long, value_name = "FILE.safetensors", conflicts_with = "resume")]
    pub init: Option<PathBuf>,
    /// Resume the run in this folder
    #[arg(long, value_name = "DIR")]
    pub resume: Option<PathBuf>,
    /// Change a key of the recipe; can be given several times
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub changes: Vec<String>,
    /// Write a row to steps.csv for every update
    #[arg(long)]
    pub log_steps: bool,
    /// Print only the result, and errors
    #[arg(long)]
    pub quiet: bool,
    /// Print JSON: one object per line for each step, epoch, evaluation and other event; its key
    /// `event` names the kind
    #[arg(long, conflicts_with = "quiet")]
    pub json: bool,
}

/// How to compute.
#[derive(Args)]
pub struct ComputeArgs {
    /// Device: cpu, cuda (an NVIDIA card; cuda:1 for the one with this number), or auto (the first card that can be
    /// used, otherwise the CPU). A resumed run stays on its device unless another one is named [default: auto]
    #[arg(long, value_name = "DEVICE", value_parser = DeviceParser)]
    pub device: Option<RequestedDevice>,
    /// Number of threads of the CPU; results do not depend on it [default: one per core]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = whole_number(0..=MAX_THREADS))]
    pub threads: Option<usize>,
    /// Instruction set of the CPU: avx512, avx2 or portable [default: the fastest that this processor has]
    #[arg(long, value_name = "ISA", value_parser = ["auto", "avx512", "avx2", "portable"])]
    pub isa: Option<String>,
}

/// Which data set to use, and how to split it.
#[derive(Args)]
pub struct DataSetArgs {
    /// A folder or archive of CIFAR-10 or CIFAR-100; a folder, .zip or .tar of images with one folder
    /// for each class, or with the folders `train`, `test` and possibly `val` that have one for each
    /// class; a folder of MNIST's files; an .npz file of arrays, such as MedMNIST's; or `shapes`, a
    /// generated data set [default: the recipe's data set; CIFAR-10 is looked for in
    /// $CRESCENDO_DATA, then in the folder that `data fetch` downloads to]
    #[arg(long = "data", value_name = "PATH|shapes", value_parser = recorded_path())]
    pub path: Option<String>,
    #[command(flatten)]
    pub split: SplitArgs,
}

/// How a folder of images is split into training and test images.
#[derive(Args)]
pub struct SplitArgs {
    /// Fraction of each class to test on, for a folder of images without `test` [default: 0.2]
    #[arg(long, value_name = "FRACTION", requires = "path", allow_negative_numbers = true,
          value_parser = fraction)]
    pub test_split: Option<f64>,
}

#[derive(Args)]
#[command(after_help = "\
Example: evaluate the checkpoints that the paper reports
  crescendo evaluate runs/report --checkpoints '90,80,70,60,30'")]
pub struct EvaluateArgs {
    /// Run folders (their latest weights are evaluated) or checkpoint files
    #[arg(required = true, value_name = "RUN|FILE")]
    pub runs: Vec<PathBuf>,
    /// The checkpoints to evaluate, separated by commas: epochs, `best` (by validation accuracy) or `last`
    #[arg(long, value_name = "EPOCHS", value_delimiter = ',', allow_negative_numbers = true,
          value_parser = which(MAX_EPOCHS), default_value = "last")]
    pub checkpoints: Vec<Which>,
    #[command(flatten)]
    pub data: DataSetArgs,
    /// The recipe of the network, for a file that was not written by this program
    #[arg(long, value_name = "RECIPE", value_parser = recorded_path())]
    pub recipe: Option<String>,
    /// BatchNorm statistics: the running ones of the checkpoint, or precise ones, recomputed over
    /// training images
    #[arg(long, value_name = "WHICH", default_value = "running")]
    pub bn: BnStatistics,
    #[command(flatten)]
    pub views: ViewArgs,
    /// Number of training images to recompute the BatchNorm statistics over
    #[arg(long, value_name = "N", default_value_t = 10_000, allow_negative_numbers = true,
          value_parser = whole_number(1..=MAX_IMAGES))]
    pub bn_images: usize,
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Test-time augmentation: the views of an image whose outputs are averaged.
#[derive(Args)]
pub struct ViewArgs {
    /// Average the outputs for each image and its mirror image [default: the recipe's
    /// data.test_flip]
    #[arg(long, value_name = "BOOL")]
    pub flip: Option<bool>,
    /// Average the outputs for each image (weight 1/2) and for the image shifted by N pixels up and
    /// left, and down and right (weight 1/4 each); 0 for no shifts [default: the recipe's
    /// data.test_shift]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = whole_number(0..=MAX_SHIFT))]
    pub shift: Option<usize>,
}

/// The BatchNorm statistics to evaluate with.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BnStatistics {
    Running,
    Precise,
    Both,
}

#[derive(Args)]
#[command(after_help = "\
Example: classify two images, and write the probabilities of all classes to a file
  crescendo predict runs/quick-1 cat.png dog.jpg --out p.npy")]
pub struct PredictArgs {
    /// A run folder (its best weights by validation accuracy, or else its latest ones are used) or a checkpoint
    /// file
    #[arg(value_name = "RUN|FILE")]
    pub file: PathBuf,
    /// PNG, JPEG, WebP, BMP or GIF images (resized to 32x32 if they have another size), folders of them, .npy files of uint8
    /// and shape (N, 3072): for each image 1024 bytes of red, 1024 of green and 1024 of blue; `-` for the
    /// paths on the lines of the standard input
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// Write the probabilities to this file: .npy (float64 of shape (N, classes)) or .csv (a row for each image:
    /// its file, its class, the probability of each class)
    #[arg(long, value_name = "FILE.npy|FILE.csv")]
    pub out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The recipe of the network, for a file that was not written by this program
    #[arg(long, value_name = "RECIPE", value_parser = recorded_path())]
    pub recipe: Option<String>,
    #[command(flatten)]
    pub views: ViewArgs,
    /// The data set that the network was trained on, for a file that was not written by this program;
    /// class names and normalization are taken from it
    #[arg(long, value_name = "PATH|shapes", requires = "recipe", value_parser = recorded_path())]
    pub data: Option<String>,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

#[derive(Args)]
#[command(
    group(ArgGroup::new("format").required(true)),
    after_help = "\
Example: write a model that ONNX Runtime, a browser or a phone computes
  crescendo export runs/quick-1 --onnx model.onnx
Example: write a PyTorch module
  crescendo export runs/quick-1 --pytorch quick"
)]
pub struct ExportArgs {
    /// A run folder (its best weights by validation accuracy, or else its latest ones are used) or a checkpoint
    /// file
    #[arg(value_name = "RUN|FILE")]
    pub file: PathBuf,
    /// Write an ONNX model to this file, which takes the bytes of images and gives probabilities
    #[arg(long, value_name = "FILE.onnx", group = "format")]
    pub onnx: Option<PathBuf>,
    /// Write a PyTorch module to this folder, which must not exist yet: model.py, model.safetensors, README.md
    #[arg(long, value_name = "DIR", group = "format")]
    pub pytorch: Option<PathBuf>,
    /// Which of a run's checkpoints: an epoch, `best` (by validation accuracy) or `last` [default: best, where there
    /// are validation images, or else last]
    #[arg(long, value_name = "EPOCH", allow_negative_numbers = true, value_parser = which(MAX_EPOCHS))]
    pub checkpoint: Option<Which>,
    #[command(flatten)]
    pub views: ViewArgs,
    /// Take only images of 32x32 pixels, for programs that cannot resize in the model
    #[arg(long, conflicts_with = "pytorch")]
    pub fixed: bool,
    /// The recipe of the network, for a file that was not written by this program
    #[arg(long, value_name = "RECIPE", value_parser = recorded_path())]
    pub recipe: Option<String>,
    /// The data set that the network was trained on, for a file that was not written by this program;
    /// class names and normalization are taken from it
    #[arg(long, value_name = "PATH|shapes", requires = "recipe", value_parser = recorded_path())]
    pub data: Option<String>,
}

#[derive(Args)]
#[command(after_help = "\
Example: draw the curves of two runs in the same figures
  crescendo report runs/report-1 runs/original-1 --out both.html")]
pub struct ReportArgs {
    /// Run folders, or the folder of a comparison; of a single one, its report.html is written again
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// The file to write; an existing file is replaced only if it is a report
    /// [default: RUN/report.html]
    #[arg(long, value_name = "FILE.html")]
    pub out: Option<PathBuf>,
}

#[derive(Args)]
#[command(after_help = "\
Example: the runs that you have, the best one first
  crescendo runs --sort accuracy")]
pub struct RunsArgs {
    /// The folder with the run folders; those of a comparison are listed under its name
    /// [default: runs]
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// What comes first: the newest, the most accurate, the quickest, or the first by name
    #[arg(long, value_name = "KEY", default_value = "date")]
    pub sort: RunOrder,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// How runs are sorted.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RunOrder {
    Date,
    Accuracy,
    Time,
    Name,
}

#[derive(Args)]
#[command(after_help = "\
Example: what changes if the batch size grows to 2000 in one step
  crescendo plan report --set \"batch.steps=[[1, 125], [61, 2000]]\"")]
pub struct PlanArgs {
    /// A built-in recipe, or the path of a TOML file
    #[arg(value_parser = recorded_path())]
    pub recipe: String,
    /// Change a key of the recipe; can be given several times
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub changes: Vec<String>,
    #[command(flatten)]
    pub data: DataSetArgs,
    /// Measure for about three seconds how long training would take on this machine; with --ranks, for about twenty
    #[arg(long, conflicts_with = "steps")]
    pub measure: bool,
    /// Show every layer, not only blocks of them
    #[arg(long, conflicts_with = "steps")]
    pub layers: bool,
    /// Show the steps as they are computed: fused operations and convolution algorithms
    #[arg(long)]
    pub steps: bool,
    /// Device to plan for: cpu, cuda (an NVIDIA card, which need not be there), or auto [default: auto]
    #[arg(long, value_name = "DEVICE", value_parser = DeviceParser)]
    pub device: Option<RequestedDevice>,
    /// Memory of the device, or of each rank, such as 80GiB; batches that do not fit are divided [default: what this
    /// machine has]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub memory: Option<u64>,
    /// Number of images in the training set [default: that of the recipe's data set]
    #[arg(long, value_name = "N", allow_negative_numbers = true, conflicts_with = "path",
          value_parser = whole_number(0..=MAX_IMAGES))]
    pub images: Option<usize>,
    /// Show what a run over so many ranks of an MPI job would send, and how efficient it would be
    #[arg(long, value_name = "N", allow_negative_numbers = true, conflicts_with = "steps",
          value_parser = whole_number(1..=MAX_RANKS))]
    pub ranks: Option<usize>,
    /// Bits a second of the network between the ranks, such as 10G or 100Mbit/s
    #[arg(long, value_name = "RATE", default_value = "10G", requires = "ranks", allow_hyphen_values = true,
          value_parser = bits)]
    pub network: f64,
    /// What a message on this network takes, such as 20us
    #[arg(long, value_name = "TIME", default_value = "20us", requires = "ranks", allow_hyphen_values = true,
          value_parser = latency)]
    pub latency: f64,
    /// How many images a second one rank, or this machine, trains on
    #[arg(long, value_name = "N", conflicts_with = "measure", allow_negative_numbers = true,
          value_parser = number_up_to(1e9))]
    pub images_per_second: Option<f64>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
#[command(after_help = "\
Example: compare growing the batch size with decaying the learning rate
  crescendo compare grow-or-decay
After an interruption, run the same command again to continue. Without a name, the built-in
comparisons are listed.")]
pub struct CompareArgs {
    /// A built-in comparison, or the path of a TOML file
    #[arg(value_parser = recorded_path())]
    pub comparison: Option<String>,
    #[command(flatten)]
    pub data: DataSetArgs,
    /// The folder of the runs and results [default: runs/<comparison>]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Seeds to train every arm with, separated by commas [default: those of the comparison]
    #[arg(long, value_name = "SEEDS", value_delimiter = ',', allow_negative_numbers = true,
          value_parser = whole_number(0..=MAX_SEED))]
    pub seeds: Vec<u64>,
    /// The arm that the others are compared with [default: that of the comparison]
    #[arg(long, value_name = "ARM")]
    pub base: Option<String>,
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Change a key of every arm's recipe; can be given several times
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub changes: Vec<String>,
    /// Print the comparison's file instead of training
    #[arg(long, requires = "comparison")]
    pub show: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
#[command(after_help = "\
Example: measure with a larger batch
  crescendo bench report --batch 1000")]
pub struct BenchArgs {
    /// A built-in recipe, or the path of a TOML file
    #[arg(default_value = "report", value_parser = recorded_path())]
    pub recipe: String,
    /// Batch size to train with; the recipe's is not used
    #[arg(long, value_name = "N", default_value_t = 125, allow_negative_numbers = true,
          value_parser = whole_number(1..=65_536_usize))]
    pub batch: usize,
    /// Predict the speed on these numbers of threads, separated by commas, from the times of all tasks on one thread;
    /// each number, and one thread twice, is measured for as long as --seconds says
    #[arg(long, value_name = "N", value_delimiter = ',', allow_negative_numbers = true,
          value_parser = whole_number(1..=1024_usize))]
    pub model_threads: Vec<usize>,
    /// Seconds to measure training for, and then inference
    #[arg(long, value_name = "SECONDS", default_value_t = 8.0, allow_negative_numbers = true,
          value_parser = number_up_to(3_600.0))]
    pub seconds: f64,
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Change a key of the recipe; can be given several times
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub changes: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
#[command(after_help = "\
Example: show the processor and the cards that --device can name
  crescendo devices")]
pub struct DevicesArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
#[command(after_help = "\
Example: write your own recipe, beginning with a copy of a built-in one
  crescendo recipes quick > mine.toml
  crescendo train mine.toml")]
pub struct RecipesArgs {
    /// Print this recipe's file
    pub recipe: Option<String>,
}

#[derive(Args)]
#[command(after_help = "\
Example: show what a data set contains
  crescendo data info data/cifar-10-batches-bin")]
pub struct DataArgs {
    #[command(subcommand)]
    pub command: DataCommand,
}

#[derive(Subcommand)]
pub enum DataCommand {
    /// Download CIFAR-10
    #[command(after_help = "\
Example: download from a mirror, into a folder of your choice
  crescendo data fetch --url https://example.org/cifar-10-binary.tar.gz --dir data
Behind a proxy that inspects connections, set the environment variable SSL_CERT_FILE to a PEM file with
its certificate.")]
    Fetch {
        /// The folder to download to [default: the user's data folder, where other commands find it]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// The address of a mirror of the official archive
        #[arg(long, value_name = "URL")]
        url: Option<String>,
    },
    /// Show what a data set contains
    #[command(after_help = "\
Example: inspect the generated data set
  crescendo data info shapes")]
    Info {
        /// A folder or archive of a data set, a folder of images, or `shapes`
        #[arg(value_name = "PATH|shapes", value_parser = recorded_path())]
        path: String,
        #[command(flatten)]
        split: SplitArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// If images cannot be read, write the paths of all of them to this file, with the reasons
        #[arg(long, value_name = "FILE")]
        damaged: Option<PathBuf>,
    },
    /// Write a data set in the binary format of CIFAR-10
    #[command(after_help = "\
Example: write the generated data set to files that other programs can read
  crescendo data export shapes data/shapes-bin")]
    Export {
        /// A folder or archive of a data set, a folder of images, or `shapes`
        #[arg(value_name = "PATH|shapes", value_parser = recorded_path())]
        path: String,
        /// The folder to write, which must not exist yet
        dir: PathBuf,
        #[command(flatten)]
        split: SplitArgs,
    },
}

#[derive(Args)]
#[command(after_help = "\
Example: install completions for bash
  crescendo completions bash > ~/.local/share/bash-completion/completions/crescendo")]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
