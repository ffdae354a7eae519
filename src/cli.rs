//! The command line: names, flags and help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use crescendo::training::validation::MAX_SHIFT;

/// Trains CIFAR-size image classifiers on the machine you have, growing the batch instead of
/// decaying the learning rate.
#[derive(Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "\
Begin with:  crescendo train          (a minute, needs no download)
Every command explains itself with an example:  crescendo train --help"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Train a network
    Train(Train),
    /// Measure the accuracy of checkpoints on the test set
    Evaluate(Evaluate),
    /// Classify images
    Predict(Predict),
    /// Draw runs as a page: curves, decisions, mistakes
    Report(Report),
    /// Show what a recipe will do: layers, parameters, arithmetic, memory
    Plan(Plan),
    /// Train several recipes with the same seeds, and say what the differences are worth
    Compare(Compare),
    /// Measure how fast a recipe's network trains and predicts here
    Bench(Bench),
    /// List the built-in recipes, or print one
    Recipes(Recipes),
    /// Download a data set, or look one over
    Data(Data),
    /// Print a script that completes commands in your shell
    Completions(Completions),
}

#[derive(Args)]
#[command(after_help = "\
Example: the report's recipe on CIFAR-10, stopped and resumed at will
  crescendo data fetch
  crescendo train report --out runs/report
  crescendo train --resume runs/report
On images of your own, in the folders flowers/rose, flowers/tulip, ...
  crescendo train quick --data flowers")]
pub struct Train {
    /// A built-in recipe, or the path of a TOML file
    #[arg(default_value = "quick", conflicts_with = "resume")]
    pub recipe: String,
    #[command(flatten)]
    pub data: DataPath,
    /// The run's folder, which must be new [default: runs/<recipe>-<n>]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub out: Option<PathBuf>,
    /// Passes over the training images; 0 writes the initial weights and ends
    #[arg(long, value_name = "N")]
    pub epochs: Option<u32>,
    /// Decides initial weights, order and augmentation
    #[arg(long, value_name = "N", conflicts_with = "resume",
          value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub seed: Option<u64>,
    #[command(flatten)]
    pub processor: Processor,
    /// Begin with the weights of this checkpoint
    #[arg(long, value_name = "FILE.safetensors", conflicts_with = "resume")]
    pub init: Option<PathBuf>,
    /// Go on with the run in this folder
    #[arg(long, value_name = "DIR")]
    pub resume: Option<PathBuf>,
    /// Change a key of the recipe; may be given many times
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub changes: Vec<String>,
    /// Write a line into steps.csv for every update
    #[arg(long)]
    pub log_steps: bool,
    /// Print nothing but the outcome, and errors
    #[arg(long)]
    pub quiet: bool,
    /// Print JSON: an object on a line for each step, epoch, evaluation and whatever else happens;
    /// its `event` says what
    #[arg(long, conflicts_with = "quiet")]
    pub json: bool,
}

#[derive(Args)]
pub struct Processor {
    /// Threads that compute; results do not depend on it [default: one on every processor]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Instructions to use: avx512, avx2 or portable [default: the fastest that there are]
    #[arg(long, value_name = "ISA", value_parser = ["auto", "avx512", "avx2", "portable"])]
    pub isa: Option<String>,
}

#[derive(Args)]
pub struct DataPath {
    /// CIFAR-10's or CIFAR-100's folder or archive, a folder of PNG or JPEG images (in one folder for
    /// each class, or in `train` and `test` with one for each class), or `shapes` for the generated set
    /// [default: what the recipe says; CIFAR-10 is looked for in $CRESCENDO_DATA, then where
    /// `data fetch` puts it]
    #[arg(long = "data", value_name = "PATH|shapes")]
    pub path: Option<String>,
    /// The share of each class to test on, where a folder of images has no `test` [default: 0.2]
    #[arg(long, value_name = "SHARE", requires = "path", value_parser = share)]
    pub test_split: Option<f64>,
}

/// A number between 0 and 1.
fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| *share > 0.0 && *share < 1.0);
    share.ok_or_else(|| "give a number between 0 and 1, such as 0.2".to_owned())
}

#[derive(Args)]
#[command(after_help = "\
Example: the report's checkpoints
  crescendo evaluate runs/report --checkpoints 90,80,70,60,30")]
pub struct Evaluate {
    /// Runs' folders (their last checkpoint) or checkpoints' files
    #[arg(required = true, value_name = "RUN|FILE")]
    pub runs: Vec<PathBuf>,
    /// Which epochs' checkpoints of a run
    #[arg(long, value_name = "EPOCHS", value_delimiter = ',')]
    pub checkpoints: Vec<u32>,
    #[command(flatten)]
    pub data: DataPath,
    /// What network a file from elsewhere holds
    #[arg(long, value_name = "RECIPE")]
    pub recipe: Option<String>,
    /// BatchNorm's statistics: those that training left, or recomputed over training images
    #[arg(long, value_name = "WHICH", default_value = "running")]
    pub bn: Statistics,
    #[command(flatten)]
    pub views: Views,
    /// Training images that they are recomputed over
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub bn_images: u32,
    #[command(flatten)]
    pub processor: Processor,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Views of an image that an answer is the mean of.
#[derive(Args)]
pub struct Views {
    /// Answer by the mean of the answers to an image and its mirror image [default: what the recipe says]
    #[arg(long, value_name = "BOOL")]
    pub flip: Option<bool>,
    /// Answer by half of the answer to an image and half of the mean of those to it shifted by N pixels up
    /// and left, and down and right; 0 for the image alone [default: what the recipe says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=MAX_SHIFT as i64))]
    pub shift: Option<u32>,
}

/// Statistics of BatchNorm.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Statistics {
    Running,
    Precise,
    Both,
}

#[derive(Args)]
#[command(after_help = "\
Example:
  crescendo predict runs/quick-1/weights/epoch-0014.safetensors cat.png dog.jpg --out p.npy")]
pub struct Predict {
    /// The checkpoint
    #[arg(value_name = "FILE.safetensors")]
    pub file: PathBuf,
    /// PNG or JPEG images (resized to 32x32 where they are not), or an .npy of (N, 3072) bytes:
    /// 1024 red, 1024 green, 1024 blue
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// Write the probabilities there, float64 (N, classes)
    #[arg(long, value_name = "predictions.npy")]
    pub out: Option<PathBuf>,
    /// What network a file from elsewhere holds
    #[arg(long, value_name = "RECIPE")]
    pub recipe: Option<String>,
    #[command(flatten)]
    pub views: Views,
    /// What a file from elsewhere was trained on: the classes' names are taken from it
    #[arg(long, value_name = "PATH|shapes", requires = "recipe")]
    pub data: Option<String>,
    #[command(flatten)]
    pub processor: Processor,
}

#[derive(Args)]
#[command(after_help = "\
Example: two runs over each other, on one page
  crescendo report runs/report-1 runs/original-1 --out both.html")]
pub struct Report {
    /// Runs' folders; the page of one is drawn again in its folder
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// The page's file; only a page that is there is replaced [default: RUN/report.html]
    #[arg(long, value_name = "FILE.html")]
    pub out: Option<PathBuf>,
}

#[derive(Args)]
#[command(after_help = "\
Example:
  crescendo plan report --set 'batch.steps=[[1, 125], [61, 2000]]'")]
pub struct Plan {
    /// A built-in recipe, or the path of a TOML file
    pub recipe: String,
    /// Change a key of the recipe; may be given many times
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub changes: Vec<String>,
    /// Show the steps as they are computed: what is fused into what, and by which method
    #[arg(long)]
    pub steps: bool,
    /// Images in the training set [default: as many as the recipe's own data has]
    #[arg(long, value_name = "N")]
    pub images: Option<usize>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
#[command(after_help = "\
Example: growing the batch against lowering the learning rate
  crescendo compare grow-or-decay
Stopped at any moment, the same command goes on. Without a name, lists the built-in comparisons.")]
pub struct Compare {
    /// A built-in comparison, or the path of a TOML file
    pub comparison: Option<String>,
    #[command(flatten)]
    pub data: DataPath,
    /// Where runs and results are kept [default: runs/<comparison>]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Seeds to train every arm with [default: what the comparison says]
    #[arg(long, value_name = "SEEDS", value_delimiter = ',',
          value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub seeds: Vec<u64>,
    /// The arm that the others are compared with [default: what the comparison says]
    #[arg(long, value_name = "ARM")]
    pub base: Option<String>,
    #[command(flatten)]
    pub processor: Processor,
    /// Change a key of every arm's recipe; may be given many times
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub changes: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
#[command(after_help = "\
Example: larger batches
  crescendo bench report --batch 1000")]
pub struct Bench {
    /// A built-in recipe, or the path of a TOML file
    #[arg(default_value = "report")]
    pub recipe: String,
    /// Images in a training batch
    #[arg(long, value_name = "N", default_value_t = 125,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub batch: u32,
    /// Seconds to measure training, and inference, for
    #[arg(long, value_name = "SECONDS", default_value_t = 8.0)]
    pub seconds: f64,
    #[command(flatten)]
    pub processor: Processor,
    /// Change a key of the recipe; may be given many times
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub changes: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
#[command(after_help = "\
Example: a recipe of your own
  crescendo recipes quick > mine.toml
  crescendo train mine.toml")]
pub struct Recipes {
    /// Print this recipe's file
    pub recipe: Option<String>,
}

#[derive(Args)]
#[command(after_help = "\
Example: what a data set holds
  crescendo data info data/cifar-10-batches-bin")]
pub struct Data {
    #[command(subcommand)]
    pub command: DataCommand,
}

#[derive(Subcommand)]
pub enum DataCommand {
    /// Download CIFAR-10
    #[command(after_help = "\
Example: from a mirror, into a folder of your own
  crescendo data fetch --url https://example.org/cifar-10-binary.tar.gz --dir data")]
    Fetch {
        /// Where to put it [default: the user's data folder, where it is found by itself]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// A mirror of the official archive
        #[arg(long, value_name = "URL")]
        url: Option<String>,
    },
    /// Show what a data set holds
    #[command(after_help = "\
Example:
  crescendo data info shapes")]
    Info {
        /// A data set's folder or archive, a folder of images, or `shapes`
        #[arg(value_name = "PATH|shapes")]
        path: String,
        /// The share of each class to test on, where a folder of images has no `test` [default: 0.2]
        #[arg(long, value_name = "SHARE", value_parser = share)]
        test_split: Option<f64>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write a data set in the layout of CIFAR-10's binary version
    #[command(after_help = "\
Example: the generated set, for another program
  crescendo data export shapes data/shapes-bin")]
    Export {
        /// A data set's folder or archive, a folder of images, or `shapes`
        #[arg(value_name = "PATH|shapes")]
        path: String,
        /// The new folder
        dir: PathBuf,
        /// The share of each class to test on, where a folder of images has no `test` [default: 0.2]
        #[arg(long, value_name = "SHARE", value_parser = share)]
        test_split: Option<f64>,
    },
}

#[derive(Args)]
#[command(after_help = "\
Example:
  crescendo completions bash > ~/.local/share/bash-completion/completions/crescendo")]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}
