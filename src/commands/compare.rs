//! `crescendo compare`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crescendo::report::Folder;
use crescendo::report::page::{self, RunData};
use crescendo::training::comparison::{
    Arm, BUILT_IN, Comparison, Difference, Measure, Results, Row, Spread, Verdict, epochs_alike,
};
use crescendo::training::{
    Error, Machine, Model, Outcome, Progress, Recipe, Run, Start, check, checkpoint,
    write_atomically,
};
use serde_json::{Value, json};

use super::train::stop_on_signals;
use super::{Found, Location, engine_keys, machine, say};
use crate::cli::Compare;

pub fn run(args: &Compare) -> Result<(), Error> {
    let Some(name) = &args.comparison else { return list() };
    let mut changes = args.changes.clone();
    changes.extend(engine_keys(&args.processor));
    let mut comparison = Comparison::load(name, &changes)?;
    if !args.seeds.is_empty() {
        comparison.seeds.clone_from(&args.seeds);
    }
    if let Some(base) = &args.base {
        comparison.set_base(base).map_err(Error::Recipe)?;
    }
    let machine = machine(&args.processor)?;
    let source = comparison.arms[0].recipe.data.source;
    let data = Location::new(args.data.named()?.as_deref(), source).load()?;
    let folder = args.out.clone().unwrap_or_else(|| Path::new("runs").join(&comparison.name));
    std::fs::create_dir_all(&folder).map_err(|error| Error::io("create", &folder, error))?;
    let mut results = Results::open(&folder.join("results.csv"))?;
    let trials = missing(&comparison, &results, &data)?;

    let stop = stop_on_signals();
    let all = comparison.arms.len() * comparison.seeds.len();
    let before = all - trials.len();
    if !args.json {
        say!(
            "{}: {} arms, {} seeds",
            comparison.name,
            comparison.arms.len(),
            all / comparison.arms.len()
        )?;
    }
    for (index, trial) in trials.iter().enumerate() {
        if !args.json {
            say!(
                "{} of {all}: {}, seed {}",
                before + index + 1,
                trial.arm,
                trial.recipe.train.seed
            )?;
        }
        let branches = branches(&trials, index);
        let Some(row) = trial.run(&folder, &comparison, &data, machine, &branches, &stop)? else {
            say!("Stopped, and everything is saved. Go on with the same command.")?;
            return Ok(());
        };
        if !args.json {
            say!("  test accuracy {:.4}, with precise statistics {:.4}", row.running, row.precise)?;
        }
        results.add(row)?;
        write_report(&folder, &comparison, &results, &data)?;
    }
    write_report(&folder, &comparison, &results, &data)?;
    if args.json {
        say!("{}", to_json(&comparison, &results))
    } else {
        say!("\n{}", table(&comparison, &results))?;
        say!("Results: {}", folder.display())
    }
}

fn list() -> Result<(), Error> {
    for comparison in BUILT_IN {
        say!("{}\n    {}", comparison.name, comparison.summary())?;
    }
    Ok(())
}

/// An arm with a seed, to be trained.
struct Trial {
    arm: String,
    recipe: Recipe,
    fingerprint: String,
}

/// What there is no result of yet, seed after seed, so that an early end leaves whole pairs.
fn missing(comparison: &Comparison, results: &Results, data: &Found) -> Result<Vec<Trial>, Error> {
    let fingerprint_of_data = data.set.fingerprint();
    let mut trials = Vec::new();
    for seed in &comparison.seeds {
        for Arm { name, recipe } in &comparison.arms {
            let recipe = recipe.with(&format!("train.seed={seed}"))?;
            let fingerprint =
                Results::fingerprint(&recipe, &fingerprint_of_data, comparison.bn_images);
            if results.find(name, *seed, &fingerprint)?.is_none() {
                // All of them before the first is trained.
                check(&recipe, &data.set)?;
                trials.push(Trial { arm: name.clone(), recipe, fingerprint });
            }
        }
    }
    Ok(trials)
}

/// The trials that begin as `trials[of]` does, each with the epoch after which it goes its own way, in
/// rising order. A trial is a branch of the one before it that it is like for longest.
fn branches(trials: &[Trial], of: usize) -> Vec<(u32, &Trial)> {
    let alike = |one: &Trial, other: &Trial| epochs_alike(&one.recipe, &other.recipe);
    let is_trunk = |index: usize, epochs: u32| {
        let others = trials[..index].iter().enumerate();
        let mut others = others.map(|(at, other)| (alike(other, &trials[index]), at));
        others.all(|(like, at)| like < epochs || like == epochs && at >= of)
    };
    let mut branches: Vec<_> = (of + 1..trials.len())
        .map(|index| (alike(&trials[of], &trials[index]), index))
        .filter(|&(epochs, index)| epochs > 0 && is_trunk(index, epochs))
        .map(|(epochs, index)| (epochs, &trials[index]))
        .collect();
    branches.sort_by_key(|branch| branch.0);
    branches
}

impl Trial {
    /// Its run's folder.
    fn folder(&self, comparison: &Path) -> PathBuf {
        comparison.join(&self.arm).join(format!("seed-{}", self.recipe.train.seed))
    }

    fn start<'a>(&'a self, data: &'a Found) -> Start<'a> {
        Start {
            recipe: &self.recipe,
            recipe_name: &self.arm,
            data: &data.set,
            data_location: &data.location,
            init: None,
        }
    }

    /// Trains to the end, from wherever an earlier call came to, and on the way makes the runs that begin
    /// as this one does; `None` if it was asked to stop.
    fn run(
        &self,
        folder: &Path,
        comparison: &Comparison,
        data: &Found,
        machine: Machine,
        branches: &[(u32, &Trial)],
        stop: &AtomicBool,
    ) -> Result<Option<Row>, Error> {
        let (all, folder) = (folder, self.folder(folder));
        let mut run = if folder.exists() {
            self.open(&folder, comparison)?
        } else {
            Run::create(&folder, &self.start(data))?
        };
        for &(epochs, branch) in branches {
            let to = branch.folder(all);
            // One that has begun already goes on by itself.
            if to.exists() {
                continue;
            }
            if run.progress().epoch <= epochs {
                run.train_until(epochs, &data.set, &mut Folder::default(), stop)?;
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let Progress { epoch, batch, ended, .. } = *run.progress();
            if (epoch, batch, ended) == (epochs + 1, 0, false) {
                let parent = to.parent().unwrap_or(all);
                std::fs::create_dir_all(parent)
                    .map_err(|error| Error::io("create", parent, error))?;
                run.branch(&to, &branch.start(data))?;
            }
        }
        if run.train(&data.set, &mut Folder::default(), stop)? == Outcome::Interrupted {
            return Ok(None);
        }
        let last = checkpoint::list(&folder)?.last().copied().unwrap_or_default();
        let mut model = Model::open(&checkpoint::path(&folder, last), None, machine)?;
        // Training ended with this evaluation, unless the recipe leaves it out.
        let running = match run.progress().test_accuracy {
            Some(accuracy) => accuracy,
            None => model.evaluate(&data.set.test, |_| ()).accuracy(),
        };
        model.recompute_statistics(&data.set.train, comparison.bn_images);
        let precise = model.evaluate(&data.set.test, |_| ()).accuracy();
        Ok(Some(Row {
            arm: self.arm.clone(),
            seed: self.recipe.train.seed,
            fingerprint: self.fingerprint.clone(),
            running,
            precise,
            train_loss: model.loss.unwrap_or_default(),
            updates: run.progress().updates,
            seconds: run.progress().total_seconds(),
        }))
    }

    fn open(&self, folder: &Path, comparison: &Comparison) -> Result<Run, Error> {
        let run = Run::open(folder)?;
        let record = run.record();
        let data = &record.run.data_fingerprint;
        if Results::fingerprint(&record.recipe, data, comparison.bn_images) != self.fingerprint {
            let problem = format!(
                "is a run of another recipe or other data than arm {} is now: give the changed arm \
                 another name, or compare in another folder with --out",
                self.arm
            );
            return Err(Error::bad(folder, problem));
        }
        Ok(run)
    }
}

/// `table.md` in the comparison's folder, and a page with the curves of its runs.
fn write_report(
    folder: &Path,
    comparison: &Comparison,
    results: &Results,
    data: &Found,
) -> Result<(), Error> {
    let path: PathBuf = folder.join("table.md");
    let text = format!(
        "# {}\n\n{} on {}\n\n{}",
        comparison.name,
        seeds(comparison),
        data.set.name,
        table(comparison, results)
    );
    write_atomically(&path, |file| file.write_all(text.as_bytes()))?;

    let mut runs = Vec::new();
    for (group, arm) in comparison.arms.iter().enumerate() {
        for row in results.of(comparison, arm) {
            let run = folder.join(&arm.name).join(format!("seed-{}", row.seed));
            // Of a finished arm only the table may be left.
            if run.exists() {
                let mut run = RunData::read(&run)?;
                (run.label, run.group) = (arm.name.clone(), group);
                runs.push(run);
            }
        }
    }
    if runs.is_empty() {
        return Ok(());
    }
    page::write(&folder.join(page::NAME), &page::render(&runs))
}

fn seeds(comparison: &Comparison) -> String {
    let seeds: Vec<String> = comparison.seeds.iter().map(u64::to_string).collect();
    format!("Seeds {}", seeds.join(", "))
}

/// The outcome as a table that is valid Markdown and readable as it is.
fn table(comparison: &Comparison, results: &Results) -> String {
    let base = &comparison.arms[0].name;
    let mut rows = vec![vec![
        "arm".to_owned(),
        "seeds".into(),
        "accuracy, %".into(),
        format!("against {base}"),
        "precise BN, %".into(),
        format!("against {base}"),
        "train loss".into(),
        "updates".into(),
        "minutes".into(),
    ]];
    for arm in &comparison.arms {
        let found = results.of(comparison, arm);
        let mut row = vec![arm.name.clone(), found.len().to_string()];
        for measure in [Measure::Running, Measure::Precise] {
            let spread = results.spread(comparison, arm, measure);
            row.push(spread.map_or("-".into(), accuracy));
            let difference = results.difference(comparison, arm, measure);
            row.push(match difference.filter(|_| arm.name != *base) {
                Some(difference) => against(&difference),
                None => "-".into(),
            });
        }
        let mean = |of: fn(&Row) -> f64| {
            let sum: f64 = found.iter().map(|row| of(row)).sum();
            sum / found.len().max(1) as f64
        };
        row.push(format!("{:.4}", mean(|row| row.train_loss)));
        row.push(format!("{:.0}", mean(|row| row.updates as f64)));
        row.push(format!("{:.1}", mean(|row| row.seconds / 60.0)));
        rows.push(row);
    }
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(&widths).map(|(cell, &width)| format!(" {cell:<width$} "));
        format!("|{}|\n", cells.collect::<Vec<_>>().join("|"))
    };
    let rule: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
    line(&rows[0]) + &line(&rule) + &rows[1..].iter().map(|row| line(row)).collect::<String>()
}

fn accuracy(spread: Spread) -> String {
    format!("{:.2} ± {:.2}", 100.0 * spread.mean, 100.0 * spread.deviation)
}

fn against(difference: &Difference) -> String {
    let mean = 100.0 * difference.mean;
    let interval = match difference.margin {
        Some(margin) => format!("{mean:+.2} ± {:.2}", 100.0 * margin),
        None => format!("{mean:+.2}"),
    };
    format!("{interval}, {}", verdict(difference))
}

fn verdict(difference: &Difference) -> &'static str {
    match difference.verdict() {
        Verdict::Above => "better",
        Verdict::Below => "worse",
        Verdict::Undecided => "undecided",
    }
}

fn to_json(comparison: &Comparison, results: &Results) -> Value {
    let arms = comparison.arms.iter().map(|arm| {
        let measured = |measure: Measure| {
            let spread = results.spread(comparison, arm, measure);
            let difference = results.difference(comparison, arm, measure);
            json!({
                "mean": spread.map(|spread| spread.mean),
                "deviation": spread.map(|spread| spread.deviation),
                "difference": difference.map(|difference| difference.mean),
                "margin": difference.and_then(|difference| difference.margin),
                "verdict": difference.as_ref().map(verdict),
            })
        };
        let rows = results.of(comparison, arm).into_iter().map(|row| {
            json!({
                "seed": row.seed,
                "test_accuracy": row.running,
                "precise_test_accuracy": row.precise,
                "train_loss": row.train_loss,
                "updates": row.updates,
                "seconds": row.seconds,
            })
        });
        json!({
            "arm": arm.name,
            "running": measured(Measure::Running),
            "precise": measured(Measure::Precise),
            "results": rows.collect::<Vec<_>>(),
        })
    });
    json!({
        "comparison": comparison.name,
        "base": comparison.arms[0].name,
        "arms": arms.collect::<Vec<_>>(),
    })
}
