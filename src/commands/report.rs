//! `crescendo report`.

use std::path::{Path, PathBuf};

use crescendo::logging::report::{self, ComparisonData, RunData};
use crescendo::training::Error;
use crescendo::training::comparison::ComparisonRecord;

use super::say;
use crate::cli::ReportArgs;

pub fn run(args: &ReportArgs) -> Result<(), Error> {
    let out = match (&args.out, &args.runs[..]) {
        (Some(out), _) => out.clone(),
        (None, [run]) => run.join(report::FILE_NAME),
        (None, _) => {
            let problem = "a report of several runs needs a file name: give one with --out";
            return Err(Error::Recipe(problem.to_owned()));
        }
    };
    if let [folder] = &args.runs[..]
        && folder.join(ComparisonRecord::FILE_NAME).is_file()
    {
        let mut comparison = ComparisonData::read(folder)?;
        comparison.link_from(&out);
        if args.out.is_none() {
            report::write_forest_plot(&comparison)?;
        }
        report::write(&out, &report::render_comparison(&comparison))?;
        return say!("{}", out.display());
    }
    let mut runs = Vec::new();
    for (group, folder) in args.runs.iter().enumerate() {
        let mut run = RunData::read(folder)?;
        run.link_from(&out);
        (run.label, run.group) = (label(folder, &args.runs), group);
        runs.push(run);
    }
    if let (None, [run]) = (&args.out, &runs[..]) {
        report::write_picture(run)?;
    }
    report::write(&out, &report::render(&runs))?;
    say!("{}", out.display())
}

/// A run's name in the legend: the name of its folder, or the whole path if the name is not unique.
fn label(folder: &Path, all: &[PathBuf]) -> String {
    let name = folder.file_name();
    let unique = all.iter().filter(|other| other.file_name() == name).count() == 1;
    let label = if unique { name.map(Path::new) } else { None };
    label.unwrap_or(folder).display().to_string()
}
