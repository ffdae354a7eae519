//! `crescendo data`.

use std::path::Path;

use crescendo::data::{
    self, FetchOutcome, RemoteArchive, default_folder, export, fetch, summarize,
};
use crescendo::logging::progress_bar;
use crescendo::training::{Error, write_atomically};

use super::{DataLocation, say};
use crate::cli::{DataArgs, DataCommand};

pub fn run(args: &DataArgs) -> Result<(), Error> {
    match &args.command {
        DataCommand::Fetch { dir, url } => download(dir.as_deref(), url.as_deref()),
        DataCommand::Info { path, split, json, damaged } => {
            let data = DataLocation::load_named(&split.name(path)?);
            if let (Some(file), Err(Error::Data(data::Error::Damaged { files, .. }))) =
                (damaged, &data)
            {
                write_damaged(file, files)?;
            }
            let summary = summarize(&data?.set);
            if *json {
                say!("{}", serde_json::to_string(&summary).expect("only names and finite numbers"))
            } else {
                say!("{summary}")
            }
        }
        DataCommand::Export { path, dir, split } => {
            let set = DataLocation::load_named(&split.name(path)?)?.set;
            export(&set, dir)?;
            if !set.validation.is_empty() {
                eprintln!(
                    "warning: the {} validation images are not written: the format has no place for them",
                    set.validation.len()
                );
            }
            say!("Wrote {} to {}", path, dir.display())
        }
    }
}

/// Writes a line for each image that cannot be read: its path and the reason.
fn write_damaged(path: &Path, files: &[data::DamagedFile]) -> Result<(), Error> {
    if path.exists() {
        return Err(Error::bad(
            path,
            "already exists, and nothing is overwritten: choose another file",
        ));
    }
    let lines = files.iter().map(|file| format!("{}\t{}\n", file.path.display(), file.error));
    write_atomically(path, |out| out.write_all(lines.collect::<String>().as_bytes()))
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
        _ => say!("CIFAR-10 is in {}", folder.display()),
    }
}
