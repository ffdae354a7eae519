//! `crescendo data`.

use std::path::Path;

use crescendo::data::{FetchOutcome, RemoteArchive, default_folder, export, fetch, summarize};
use crescendo::logging::progress_bar;
use crescendo::training::Error;

use super::{DataLocation, say};
use crate::cli::{DataArgs, DataCommand};

pub fn run(args: &DataArgs) -> Result<(), Error> {
    match &args.command {
        DataCommand::Fetch { dir, url } => download(dir.as_deref(), url.as_deref()),
        DataCommand::Info { path, split, json } => {
            let summary = summarize(&DataLocation::load_named(&split.name(path)?)?.set);
            if *json {
                say!("{}", serde_json::to_string(&summary).expect("only names and finite numbers"))
            } else {
                say!("{summary}")
            }
        }
        DataCommand::Export { path, dir, split } => {
            export(&DataLocation::load_named(&split.name(path)?)?.set, dir)?;
            say!("Wrote {} to {}", path, dir.display())
        }
    }
}

fn download(dir: Option<&Path>, url: Option<&str>) -> Result<(), Error> {
    let folder = match dir {
        Some(dir) => dir.to_owned(),
        None => default_folder().ok_or_else(|| {
            Error::Refused(
                "this system has no folder for a user's data: choose a folder with --dir".into(),
            )
        })?,
    };
    let archive = match url {
        Some(url) => RemoteArchive { url, ..RemoteArchive::CIFAR10 },
        None => RemoteArchive::CIFAR10,
    };
    let bar = progress_bar(archive.bytes);
    let fetched = fetch(&folder, &archive, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
        bar.set_message(format!("{} of {} MB", done / 1_000_000, total / 1_000_000));
    });
    bar.finish_and_clear();
    match fetched? {
        FetchOutcome::Downloaded(path) => say!("CIFAR-10 is in {}", path.display()),
        FetchOutcome::AlreadyPresent(path) => say!("CIFAR-10 is already in {}", path.display()),
    }
}
