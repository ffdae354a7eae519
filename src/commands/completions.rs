//! `crescendo completions`.

use clap::CommandFactory;
use crescendo::training::Error;

use crate::cli::{Cli, Completions};

pub fn run(args: &Completions) -> Result<(), Error> {
    clap_complete::generate(args.shell, &mut Cli::command(), "crescendo", &mut std::io::stdout());
    Ok(())
}
