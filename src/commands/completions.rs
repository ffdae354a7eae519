//! `crescendo completions`.

use clap::CommandFactory;
use crescendo::training::Error;

use crate::cli::{Cli, CompletionsArgs};

pub fn run(args: &CompletionsArgs) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "crescendo", &mut script);
    super::print(format_args!("{}", String::from_utf8_lossy(&script)))
}
