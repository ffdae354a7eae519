//! Whether two arms of a comparison would train alike, and why.

use toml::{Table, Value};

use super::{Arm, Comparison};
use crate::policy::{fit_batches, planned_epoch, training_plan};
use crate::recipe::{BatchPolicyKind, Coupling, Metric, ScheduleKind};
use crate::validation::{Unused, measures, unused};
use crate::{Error, Recipe};

/// Keys that change what a run writes, shows or how fast it is, but not what it comes to.
const NO_RESULT: [&str; 8] = [
    "train.seed",
    "train.final_evaluation",
    "train.checkpoint_every",
    "train.keep",
    "train.log_steps",
    "train.save_every_minutes",
    "engine.threads",
    "engine.tiles",
];

impl Comparison {
    /// Whether all arms differ in something that has an effect, with so many training images.
    ///
    /// # Errors
    /// Names arms that would train alike, and says why.
    pub fn check_arms(&self, images: usize) -> Result<(), Error> {
        let canonical: Vec<Table> =
            self.arms.iter().map(|arm| canonical(&arm.recipe, images)).collect();
        for (index, first) in canonical.iter().enumerate() {
            let later = index + 1..canonical.len();
            let same: Vec<&Arm> =
                later.filter(|&at| canonical[at] == *first).map(|at| &self.arms[at]).collect();
            if same.is_empty() {
                continue;
            }
            let arm = &self.arms[index];
            let mut names: Vec<&str> = same.iter().map(|arm| arm.name.as_str()).collect();
            let last = names.pop().unwrap_or_default();
            names.insert(0, &arm.name);
            let mut reasons: Vec<String> = Vec::new();
            for reason in same.iter().flat_map(|other| reasons_of(arm, other, images)) {
                if !reasons.contains(&reason) {
                    reasons.push(reason);
                }
            }
            return Err(Error::Recipe(format!(
                "{}: arms {} and {last} would train alike: {}; leave all but one of them out, or change what \
                 makes them alike",
                self.name,
                names.join(", "),
                reasons.join("; ")
            )));
        }
        Ok(())
    }
}

/// Why two arms train alike: what of each key that they differ in has no effect.
fn reasons_of(a: &Arm, b: &Arm, images: usize) -> Vec<String> {
    let (mut one, mut other) = (a.recipe.clone(), b.recipe.clone());
    let differing = differing(&one, &other);
    if differing.is_empty() {
        return vec!["their recipes are the same".into()];
    }
    if without_effects(&one, images) != without_effects(&other, images) {
        let lowered = [fit_batches(&mut one, images), fit_batches(&mut other, images)];
        // The fact, without the advice.
        let fact = |note: String| {
            note.split(": ").next().unwrap_or(&note).trim_end_matches('.').to_owned()
        };
        return lowered.into_iter().flatten().map(fact).collect();
    }
    let mut reasons = Vec::new();
    let all: Vec<Unused> =
        [&one, &other].into_iter().flat_map(|recipe| unused(recipe, images)).collect();
    for key in &differing {
        if NO_RESULT.contains(&key.as_str()) || key == "train.evaluate_every" {
            reasons.push(format!("{key} does not change results"));
        }
        // That each of two policies leaves out the other's keys does not make them alike.
        let policy = format!("{}.policy", key.split('.').next().unwrap_or_default());
        let by_policy = |why: &str| differing.contains(&policy) && why.starts_with(&policy);
        for unused in all.iter().filter(|one| one.keys.contains(key) && !by_policy(&one.why)) {
            let unused = Unused { keys: vec![key.clone()], why: unused.why.clone(), ..*unused };
            reasons.push(unused.to_string());
        }
    }
    for (section, what) in
        [("batch.", "batch size"), ("schedule.", "learning rate"), ("data.", "image size")]
    {
        let about = |text: &String| text.starts_with(section);
        if differing.iter().any(about) && !reasons.iter().any(about) {
            reasons.push(format!("every epoch has the same {what}"));
        }
    }
    reasons
}

/// The keys in which two recipes differ.
fn differing(a: &Recipe, b: &Recipe) -> Vec<String> {
    fn collect(a: &Table, b: &Table, section: &str, keys: &mut Vec<String>) {
        for (key, value) in a {
            match (value, b.get(key)) {
                (Value::Table(a), Some(Value::Table(b))) => {
                    collect(a, b, &format!("{section}{key}."), keys);
                }
                (value, other) if other == Some(value) => {}
                _ => keys.push(format!("{section}{key}")),
            }
        }
        keys.extend(
            b.keys().filter(|key| !a.contains_key(*key)).map(|key| format!("{section}{key}")),
        );
    }
    let mut keys = Vec::new();
    collect(&a.table(), &b.table(), "", &mut keys);
    keys
}

/// A recipe's keys and values as a run over so many images has them, without what has no effect on its results.
fn canonical(recipe: &Recipe, images: usize) -> Table {
    let mut recipe = recipe.clone();
    fit_batches(&mut recipe, images);
    without_effects(&recipe, images)
}

/// The same, with batches of the sizes that the recipe has.
fn without_effects(recipe: &Recipe, images: usize) -> Table {
    let mut recipe = recipe.clone();
    let has = |all: &[Unused], key: &str| {
        all.iter().any(|unused| !unused.in_part && unused.keys.iter().any(|name| name == key))
    };
    // Policies that never get to decide.
    let first = unused(&recipe, images);
    if has(&first, "batch.policy") {
        recipe.batch.policy = BatchPolicyKind::Fixed;
        recipe.batch.size = recipe.batch.initial;
    }
    if has(&first, "schedule.policy") {
        recipe.schedule.policy = ScheduleKind::Constant;
    }
    tables(&mut recipe, images);
    let follows_validation = [
        (recipe.batch.policy == BatchPolicyKind::Plateau, recipe.batch.plateau.metric),
        (recipe.schedule.policy == ScheduleKind::Plateau, recipe.schedule.plateau.metric),
    ];
    let followed =
        follows_validation.iter().any(|(used, metric)| *used && *metric != Metric::TrainLoss);
    if !followed && recipe.train.stop_after == 0 {
        recipe.train.evaluate_every = 0;
    }
    let mut table = recipe.table();
    for key in unused(&recipe, images).into_iter().filter(|unused| !unused.in_part) {
        key.keys.iter().for_each(|key| remove(&mut table, key));
    }
    NO_RESULT.iter().for_each(|key| remove(&mut table, key));
    table
}

/// Tables of epochs, and the policies that need none, in the one form that has the same effect: no rows that change
/// nothing or come after the end.
fn tables(recipe: &mut Recipe, images: usize) {
    let constant = matches!(recipe.schedule.policy, ScheduleKind::Constant | ScheduleKind::Step);
    let sized = matches!(recipe.batch.policy, BatchPolicyKind::Fixed | BatchPolicyKind::Steps);
    let epochs = match measures(recipe.batch.policy) {
        true => recipe.train.epochs,
        false => {
            let phases = training_plan(recipe, images);
            phases.iter().filter_map(|phase| phase.length).map(|length| length.epochs).sum()
        }
    };
    // During a warm-up the table of learning rates has no effect.
    let warm = recipe.schedule.warmup.min(f64::from(epochs)) as u32;
    let (mut sizes, mut factors, mut sides) = (Vec::new(), Vec::new(), Vec::new());
    for epoch in 1..=epochs {
        let (size, factor, side) = planned_epoch(recipe, epoch);
        add(&mut sizes, epoch, size.unwrap_or_default());
        if epoch > warm {
            add(&mut factors, epoch, factor);
        }
        add(&mut sides, epoch, side);
    }
    if sized && epochs > 0 {
        recipe.batch.policy = BatchPolicyKind::Steps;
        if sizes.len() == 1 {
            recipe.batch.coupling = Coupling::Constant;
        }
        recipe.batch.steps = sizes;
    }
    if constant && epochs > 0 {
        recipe.schedule.policy = ScheduleKind::Step;
        // The first row says what holds from the beginning.
        if let Some(first) = factors.first_mut() {
            first.0 = 1;
        }
        recipe.schedule.steps = factors;
    }
    if epochs > 0 {
        recipe.data.sides = sides;
    }
}

/// Adds a row, if its value is another than that of the last one.
fn add<T: PartialEq>(rows: &mut Vec<(u32, T)>, epoch: u32, value: T) {
    if rows.last().is_none_or(|row| row.1 != value) {
        rows.push((epoch, value));
    }
}

fn remove(table: &mut Table, key: &str) {
    match key.split_once('.') {
        None => drop(table.remove(key)),
        Some((section, key)) => {
            if let Some(section) = table.get_mut(section).and_then(Value::as_table_mut) {
                remove(section, key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of two arms with these changes to `quick`, or nothing.
    fn check(a: &[&str], b: &[&str]) -> String {
        let arm = |name: &str, changes: &[&str]| {
            let all = [&["train.epochs=8", "batch.steps=[[1, 32], [5, 64]]"], changes].concat();
            Arm::new(name, Recipe::load("quick", &all).unwrap())
        };
        let arms = vec![arm("a", a), arm("b", b)];
        let comparison = Comparison {
            name: "mine".into(),
            arms,
            ..Comparison::load::<&str>("head", &[]).unwrap()
        };
        comparison.check_arms(300).err().map_or(String::new(), |error| error.to_string())
    }

    #[test]
    fn arms_that_train_alike_are_named_with_the_reason() {
        for (a, b, reason) in [
            (&[][..], &[][..], "their recipes are the same"),
            (
                &["batch.steps=[[1, 32], [9, 64]]"],
                &["batch.steps=[[1, 32]]"],
                "batch.steps: its rows from epoch 9 on have no effect: the run ends with epoch 8",
            ),
            (&["batch.size=7"], &[], "batch.size has no effect: batch.policy is steps"),
            (
                &["batch.policy=fixed", "batch.size=32"],
                &["batch.steps=[[1, 32]]"],
                "every epoch has the same batch size",
            ),
            (&["batch.steps=[[1, 400]]"], &["batch.steps=[[1, 500]]"], "there are 300 to train on"),
            (
                &["schedule.policy=step", "schedule.steps=[[3, 0.5]]", "schedule.warmup=4.0"],
                &["schedule.policy=step", "schedule.steps=[[4, 0.5]]", "schedule.warmup=4.0"],
                "every epoch has the same learning rate",
            ),
            (
                &["batch.policy=plateau", "batch.patience=7"],
                &["batch.policy=plateau", "batch.patience=8"],
                "with batch.patience = 7 a plateau takes 9 values of train_loss, and there are 7",
            ),
            (
                &["train.max_steps=3", "batch.steps=[[1, 32], [2, 64]]"],
                &["train.max_steps=3", "batch.steps=[[1, 32], [3, 64]]"],
                "batch.steps: its rows from epoch 2 on",
            ),
            (&["train.keep=3"], &[], "train.keep does not change results"),
            (&["train.evaluate_every=3"], &[], "train.evaluate_every does not change results"),
            (&["optimizer.average_decay=0.5"], &[], "optimizer.average is none"),
            (
                &["engine.device=cuda", "engine.isa=portable"],
                &["engine.device=cuda"],
                "engine.isa has no effect: engine.device is cuda",
            ),
        ] {
            let said = check(a, b);
            assert!(
                said.starts_with("mine: arms a and b would train alike: "),
                "{a:?} {b:?}: {said}"
            );
            assert!(said.contains(reason) && !said.contains('\n'), "{a:?} {b:?}: {said}");
        }
    }

    #[test]
    fn arms_that_differ_in_anything_used_are_accepted() {
        for (a, b) in [
            (&["optimizer.momentum=0.5"][..], &[][..]),
            (&["batch.policy=fixed"], &[]),
            (&["batch.steps=[[1, 32], [8, 64]]"], &["batch.steps=[[1, 32]]"]),
            (&["batch.coupling=sqrt"], &[]),
            (&["schedule.policy=step", "schedule.steps=[[8, 0.5]]"], &[]),
            (&["schedule.policy=cosine"], &["schedule.policy=linear"]),
            (&["batch.policy=plateau", "batch.patience=5"], &["batch.policy=plateau"][..]),
            (&["data.sides=[[1, 16], [3, 32]]"], &["data.sides=[[1, 16], [4, 32]]"]),
            (&["batch.policy=noise_scale", "batch.noise_every=2"], &["batch.policy=plateau"]),
            (&["train.label_smoothing=0.1"], &[]),
            (&["network.norm.momentum=0.5"], &[]),
            (&["data.test_flip=true"], &[]),
            (&["engine.isa=portable"], &[]),
            (&["engine.device=cuda"], &["engine.device=cpu"]),
            (
                &["engine.device=cuda", "engine.precision=f32"],
                &["engine.device=cuda", "engine.precision=bf16"],
            ),
        ] {
            let patient = ["batch.patience=2"];
            let b = [b, if b.is_empty() { &[] } else { &patient }].concat();
            assert_eq!(check(a, &b), "", "{a:?} {b:?}");
        }
    }

    #[test]
    fn the_arms_of_every_built_in_comparison_differ() {
        for built_in in super::super::BUILT_IN {
            let comparison = Comparison::load::<&str>(built_in.name, &[]).unwrap();
            comparison.check_arms(50_000).unwrap();
        }
        let cut = Comparison::load("grow-or-decay", &["train.epochs=4"]).unwrap();
        let error = cut.check_arms(50_000).unwrap_err().to_string();
        let names = "arms neither, grow, decay and both would train alike: ";
        assert!(error.starts_with(&format!("grow-or-decay: {names}")), "{error}");
        assert!(!error.contains("schedule.policy is") && !error.contains("Batches"), "{error}");
        assert!(error.contains("batch.steps: its rows from epoch 11 on have no effect"), "{error}");
        assert!(
            error.contains("schedule.steps has no effect: its first row is for epoch 11"),
            "{error}"
        );
    }
}
