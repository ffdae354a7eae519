//! Which keys of a valid recipe have no effect, because of the policy, the schedule or the length of the run.

use crescendo_network::{ActivationKind, DeviceKind, Family, Role};

use crate::Recipe;
use crate::policy::training_plan;
use crate::recipe::{
    BatchPolicyKind, DecayedParameters, Metric, OptimizerKind, PlateauConfig, ScheduleKind,
    WeightAverage,
};

/// Keys that have no effect, and why.
pub(crate) struct Unused {
    pub keys: Vec<String>,
    pub why: String,
    /// Whether only a part of the value has none, such as the last rows of a table.
    pub in_part: bool,
}

/// A warning for the keys among `keys` that have no effect in a run of this recipe over `images` training images.
///
/// # Example
///
/// ```
/// use crescendo_training::Recipe;
/// use crescendo_training::validation::unused_keys;
///
/// let changes = ["schedule.policy=constant", "schedule.last=0.1"];
/// let (recipe, keys) = (Recipe::load("quick", &changes)?, Recipe::changed_keys(&changes)?);
/// let warnings = unused_keys(&recipe, &keys, 1000);
/// assert!(warnings[0].starts_with("schedule.last has no effect"));
/// # Ok::<(), crescendo_training::Error>(())
/// ```
pub fn unused_keys(recipe: &Recipe, keys: &[String], images: usize) -> Vec<String> {
    let set = |mut unused: Unused| {
        unused.keys.retain(|key| keys.contains(key));
        (!unused.keys.is_empty()).then(|| unused.to_string())
    };
    unused(recipe, images).into_iter().filter_map(set).collect()
}

impl std::fmt::Display for Unused {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let (keys, why) = (self.keys.join(", "), &self.why);
        match (self.in_part, self.keys.len()) {
            (true, _) => write!(f, "{keys}: {why}"),
            (false, 1) => write!(f, "{keys} has no effect: {why}"),
            (false, _) => write!(f, "{keys} have no effect: {why}"),
        }
    }
}

/// How long a run is at most.
struct Length {
    epochs: u32,
    /// Updates before `train.max_steps` ends it, and in all epochs but the last.
    updates: u64,
    updates_before_last: u64,
    /// Updates of all epochs.
    unlimited: u64,
    /// Whether it is that long.
    exact: bool,
}

impl Length {
    fn of(recipe: &Recipe, images: usize) -> Self {
        let sum = |recipe: &Recipe| {
            let phases = training_plan(recipe, images);
            let lengths = phases.iter().map(|phase| phase.length.unwrap_or_default());
            lengths.fold((0, 0), |sum, length| (sum.0 + length.epochs, sum.1 + length.updates))
        };
        // Sizes that are measured only grow from the first one.
        let mut bound = recipe.clone();
        let measures = measures(recipe.batch.policy);
        if measures {
            bound.batch.policy = BatchPolicyKind::Fixed;
            // The policy of another program can choose any size.
            let any = recipe.batch.policy == BatchPolicyKind::Custom;
            bound.batch.size = if any { 1 } else { recipe.batch.initial };
        }
        let (mut epochs, updates) = sum(&bound);
        if measures {
            epochs = recipe.train.epochs;
        }
        bound.train.max_steps = 0;
        let unlimited = sum(&bound).1;
        bound.train.epochs = epochs.saturating_sub(1);
        let updates_before_last = sum(&bound).1.min(updates);
        let exact = !measures && recipe.train.stop_after == 0;
        Length { epochs, updates, updates_before_last, unlimited, exact }
    }

    fn end(&self) -> String {
        let at_most = if self.exact { "" } else { " at the latest" };
        format!("the run ends with epoch {}{at_most}", self.epochs)
    }

    fn has_updates(&self, updates: u64) -> String {
        format!("the run has {}{}", if self.exact { "" } else { "at most " }, updates_text(updates))
    }
}

fn updates_text(count: u64) -> String {
    format!("{count} update{}", if count == 1 { "" } else { "s" })
}

/// Whether a policy decides from measurements.
pub(crate) fn measures(policy: BatchPolicyKind) -> bool {
    match policy {
        BatchPolicyKind::Plateau | BatchPolicyKind::NoiseScale | BatchPolicyKind::Custom => true,
        BatchPolicyKind::Fixed | BatchPolicyKind::Steps | BatchPolicyKind::FromLr => false,
    }
}

/// The list that [`unused`] makes.
struct List(Vec<Unused>);

impl List {
    fn add(&mut self, section: &str, keys: &[&str], why: impl Into<String>) {
        let keys = keys.iter().map(|key| format!("{section}.{key}")).collect();
        self.0.push(Unused { keys, why: why.into(), in_part: false });
    }

    /// A table with rows after the last epoch.
    fn add_late_rows<T>(&mut self, key: &str, rows: &[(u32, T)], length: &Length) {
        let Some(first) = rows.iter().map(|row| row.0).find(|&epoch| epoch > length.epochs) else {
            return;
        };
        let in_part = rows[0].0 <= length.epochs;
        let end = length.end();
        let why = match in_part {
            true => format!("its rows from epoch {first} on have no effect: {end}"),
            false => format!("its first row is for epoch {first}, and {end}"),
        };
        self.0.push(Unused { keys: vec![key.to_owned()], why, in_part });
    }
}

/// All keys that have no effect in a run of this recipe over `images` training images.
pub(crate) fn unused(recipe: &Recipe, images: usize) -> Vec<Unused> {
    let mut list = List(Vec::new());
    // A run that only writes its first weights leaves nearly everything out.
    if recipe.train.epochs == 0 || images == 0 {
        return list.0;
    }
    let length = Length::of(recipe, images);
    network_and_data(recipe, &length, &mut list);
    optimizer(recipe, &length, &mut list);
    schedule(recipe, &length, &mut list);
    batch(recipe, &length, &mut list);
    train(recipe, &length, &mut list);
    engine(recipe, &mut list);
    list.0
}

fn network_and_data(recipe: &Recipe, length: &Length, list: &mut List) {
    let (network, data) = (&recipe.network, &recipe.data);
    if network.family == Family::Custom {
        let why = "network.family is custom";
        let keys = ["blocks", "widths", "activation", "leaky_slope", "whitening", "bias", "init"];
        list.add("network", &keys, why);
        let keys = ["eps", "momentum", "momentum_convention", "scale"];
        list.add("network.norm", &keys, why);
        list.add("network.head", &["pool", "hidden", "activation", "init", "scale"], why);
    } else if network.activation != ActivationKind::LeakyRelu {
        list.add("network", &["leaky_slope"], "network.activation is not leaky_relu");
    }
    if network.family != Family::Custom && network.head.hidden == 0 {
        list.add("network.head", &["activation"], "network.head.hidden is 0");
    }
    if data.augmentation().is_none_or(|augmentation| augmentation.padding == 0) {
        list.add("data", &["border"], "data.augment crops no images");
    }
    list.add_late_rows("data.sides", &data.sides, length);
}

fn optimizer(recipe: &Recipe, length: &Length, list: &mut List) {
    let optimizer = &recipe.optimizer;
    if optimizer.average == WeightAverage::None {
        let keys = ["average_every", "average_decay"];
        list.add("optimizer", &keys, "optimizer.average is none");
    }
    for group in &optimizer.groups {
        if let Some(epochs) = group.epochs.filter(|&epochs| epochs > recipe.train.epochs) {
            let (name, end) = (&group.parameters, length.end());
            list.0.push(Unused {
                keys: vec!["optimizer.groups".into()],
                why: format!("epochs = {epochs} of {name} has no effect: {end}"),
                in_part: true,
            });
        }
    }
    if optimizer.groups.is_empty() && optimizer.kind == OptimizerKind::Sgd {
        if optimizer.weight_decay == 0.0 {
            list.add("optimizer", &["decay"], "optimizer.weight_decay is 0");
        }
        return;
    }
    let Ok(graph) = crate::graph(recipe) else { return };
    let trained: Vec<_> = graph.parameters.iter().filter(|one| one.requires_grad).collect();
    // Whether a trained parameter takes a setting from the section.
    let used =
        |uses: &dyn Fn(Option<&crate::recipe::ParameterGroup>, OptimizerKind, bool) -> bool| {
            trained.iter().any(|parameter| {
                let group = optimizer.group_of(&parameter.name);
                let kind = optimizer.settings_of(group).kind;
                uses(group, kind, matches!(parameter.role, Role::Weight { .. }))
            })
        };
    let moves = |kind| kind != OptimizerKind::Fixed;
    let decays = |kind, is_weight| {
        kind == OptimizerKind::Sgd && (optimizer.decay == DecayedParameters::All || is_weight)
    };
    let lacks = |has: Option<bool>| !has.unwrap_or(false);
    let own = "every parameter has its own in optimizer.groups, or none by its kind";
    for (key, is_used) in [
        ("kind", used(&|group, _, _| lacks(group.map(|group| group.kind.is_some())))),
        (
            "learning_rate",
            used(&|group, kind, _| {
                moves(kind) && lacks(group.map(|group| group.learning_rate.is_some()))
            }),
        ),
        (
            "momentum",
            used(&|group, kind, _| {
                moves(kind) && lacks(group.map(|group| group.momentum.is_some()))
            }),
        ),
        (
            "nesterov",
            used(&|group, kind, _| {
                moves(kind) && lacks(group.map(|group| group.nesterov.is_some()))
            }),
        ),
        (
            "weight_decay",
            used(&|group, kind, is_weight| {
                decays(kind, is_weight) && lacks(group.map(|group| group.weight_decay.is_some()))
            }),
        ),
    ] {
        if !is_used {
            list.add("optimizer", &[key], own);
        }
    }
    let decay = used(&|group, kind, _| {
        let inherits = lacks(group.map(|group| group.weight_decay.is_some()));
        kind == OptimizerKind::Sgd && inherits && optimizer.weight_decay != 0.0
    });
    if !decay {
        list.add("optimizer", &["decay"], "no parameter takes optimizer.weight_decay");
    }
    if !used(&|_, kind, _| kind == OptimizerKind::Sgd) {
        list.add("optimizer", &["per"], "no parameter is trained by sgd");
    }
}

/// The keys of a plateau policy, in any section.
const PLATEAU: [&str; 6] =
    ["metric", "patience", "threshold", "threshold_mode", "smoothing", "cooldown"];

/// The keys in `all` that are not in `used`.
fn rest<'a>(all: &[&'a str], used: &[&str]) -> Vec<&'a str> {
    all.iter().filter(|key| !used.contains(key)).copied().collect()
}

fn schedule(recipe: &Recipe, length: &Length, list: &mut List) {
    let schedule = &recipe.schedule;
    let of_plateau = [&PLATEAU[..], &["factor", "least"]].concat();
    let (name, used): (_, &[&str]) = match schedule.policy {
        ScheduleKind::Constant => ("constant", &[]),
        ScheduleKind::Step => ("step", &["steps"]),
        ScheduleKind::Cosine => ("cosine", &["last"]),
        ScheduleKind::Linear => ("linear", &["last"]),
        ScheduleKind::OneCycle => ("one_cycle", &["last", "first", "peak"]),
        ScheduleKind::Plateau => ("plateau", &of_plateau),
    };
    let all = [&["steps", "last", "first", "peak"], &of_plateau[..]].concat();
    list.add("schedule", &rest(&all, used), format!("schedule.policy is {name}"));
    if schedule.policy == ScheduleKind::Step {
        list.add_late_rows("schedule.steps", &schedule.steps, length);
    }
    if schedule.policy == ScheduleKind::Plateau
        && let Some(why) = no_plateau(recipe, "schedule", &schedule.plateau, length)
    {
        list.add("schedule", &[&["policy"], &of_plateau[..]].concat(), why);
    }
}

fn batch(recipe: &Recipe, length: &Length, list: &mut List) {
    let batch = &recipe.batch;
    let grows = ["initial", "max", "factor", "coupling", "after_max"];
    let of_plateau = [&grows[..], &PLATEAU].concat();
    let of_noise_scale =
        [&grows[..], &["cooldown", "noise_multiple", "hysteresis", "noise_every"]].concat();
    let (name, used): (_, &[&str]) = match batch.policy {
        BatchPolicyKind::Fixed => ("fixed", &["size"]),
        BatchPolicyKind::Steps => ("steps", &["steps", "coupling"]),
        BatchPolicyKind::Plateau => ("plateau", &of_plateau),
        BatchPolicyKind::NoiseScale => ("noise_scale", &of_noise_scale),
        BatchPolicyKind::FromLr => ("from_lr", &["initial", "max", "after_max"]),
        BatchPolicyKind::Custom => ("custom", &["initial"]),
    };
    let all = [&["size", "steps", "noise_multiple", "hysteresis"], &of_plateau[..]].concat();
    list.add("batch", &rest(&all, used), format!("batch.policy is {name}"));
    let every = batch.noise_every;
    match batch.policy {
        BatchPolicyKind::Steps => list.add_late_rows("batch.steps", &batch.steps, length),
        BatchPolicyKind::Plateau => {
            if let Some(why) = no_plateau(recipe, "batch", &batch.plateau, length) {
                let keys = rest(&[&["policy"], &of_plateau[..]].concat(), &["initial"]);
                list.add("batch", &keys, why);
            }
        }
        BatchPolicyKind::NoiseScale if every > length.updates_before_last => {
            let updates = updates_text(length.updates_before_last);
            let why = format!(
                "the noise scale is first measured after {}, by batch.noise_every, and the last epoch begins \
                 after {updates}",
                updates_text(every)
            );
            // A measurement in the last epoch is still recorded.
            let keys =
                rest(&[&["policy"], &of_noise_scale[..]].concat(), &["initial", "noise_every"]);
            list.add("batch", &keys, why);
        }
        _ => {}
    }
    if every > length.updates {
        list.add("batch", &["noise_every"], length.has_updates(length.updates));
    }
}

/// Why the metric of a section cannot have come to a plateau before the last epoch begins, if it cannot.
fn no_plateau(
    recipe: &Recipe,
    section: &str,
    plateau: &PlateauConfig,
    length: &Length,
) -> Option<String> {
    let every = match plateau.metric {
        Metric::TrainLoss => 1,
        Metric::ValidationLoss | Metric::ValidationAccuracy => recipe.train.evaluate_every.max(1),
    };
    let measured = length.epochs.saturating_sub(1) / every;
    // The first value is the best so far; a plateau is more than `patience` values that are no better.
    let needed = plateau.patience.saturating_add(2);
    (measured < needed).then(|| {
        format!(
            "with {section}.patience = {} a plateau takes {needed} values of {}, and there are {measured} before \
             the last epoch",
            plateau.patience,
            plateau.metric.name()
        )
    })
}

fn train(recipe: &Recipe, length: &Length, list: &mut List) {
    let train = &recipe.train;
    if train.max_steps > length.unlimited {
        list.add("train", &["max_steps"], length.has_updates(length.unlimited));
    }
    if train.evaluate_every > length.epochs {
        list.add("train", &["evaluate_every"], length.end());
    }
    let evaluations =
        length.epochs.saturating_sub(1).checked_div(train.evaluate_every).unwrap_or(0);
    if train.stop_after > 0 && evaluations <= train.stop_after {
        let needed = train.stop_after.saturating_add(1);
        let why = format!(
            "that takes {needed} evaluations, and there are {evaluations} before the last epoch"
        );
        list.add("train", &["stop_after"], why);
    }
    if train.checkpoint_every > length.epochs {
        list.add("train", &["checkpoint_every"], length.end());
    }
}

fn engine(recipe: &Recipe, list: &mut List) {
    if recipe.engine.device == DeviceKind::Cuda {
        let of_the_cpu = ["threads", "isa", "tiles", "conv", "activations"];
        list.add("engine", &of_the_cpu, "engine.device is cuda");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The warnings about all keys of changes to `quick`, over 300 images.
    fn warnings(changes: &[&str]) -> Vec<String> {
        let recipe = Recipe::load("quick", changes).unwrap();
        unused_keys(&recipe, &Recipe::changed_keys(changes).unwrap(), 300)
    }

    #[test]
    fn keys_that_cannot_act_are_named_with_the_reason() {
        let step = "schedule.policy=step";
        for (changes, expected) in [
            (&["batch.size=64"][..], "batch.size has no effect: batch.policy is steps"),
            (
                &[
                    "engine.device=cuda",
                    "engine.threads=2",
                    "engine.conv=direct",
                    "engine.precision=f32",
                ],
                "engine.threads, engine.conv have no effect: engine.device is cuda",
            ),
            (
                &["batch.policy=fixed", "batch.max=64", "batch.steps=[[1,5]]"],
                "batch.steps, batch.max have no effect: batch.policy is fixed",
            ),
            (
                &["batch.policy=plateau", "batch.size=9"],
                "batch.size has no effect: batch.policy is plateau",
            ),
            (
                &["batch.policy=noise_scale", "batch.noise_every=5", "batch.patience=2"],
                "batch.patience has no effect: batch.policy is noise_scale",
            ),
            (
                &["batch.policy=from_lr", "schedule.policy=cosine", "batch.factor=3.0"],
                "batch.factor has no effect: batch.policy is from_lr",
            ),
            (
                &["schedule.steps=[[2,0.5]]"],
                "schedule.steps has no effect: schedule.policy is constant",
            ),
            (
                &["schedule.policy=linear", "schedule.peak=0.5"],
                "schedule.peak has no effect: schedule.policy is linear",
            ),
            (
                &[step, "train.epochs=4", "schedule.steps=[[5,0.5]]"],
                "schedule.steps has no effect: its first row is for epoch 5, and the run ends with epoch 4",
            ),
            (
                &["train.epochs=4", "batch.steps=[[1,20],[5,40],[7,60]]"],
                "batch.steps: its rows from epoch 5 on have no effect: the run ends with epoch 4",
            ),
            (
                &["train.epochs=4", "data.sides=[[1,16],[6,32]]"],
                "data.sides: its rows from epoch 6 on have no effect: the run ends with epoch 4",
            ),
            // 9 + 9 updates; the second epoch is cut short.
            (
                &["train.max_steps=12", "batch.steps=[[1,32],[3,64]]"],
                "batch.steps: its rows from epoch 3 on have no effect: the run ends with epoch 2",
            ),
            (
                &["train.epochs=2", "batch.noise_every=19"],
                "batch.noise_every has no effect: the run has 18 updates",
            ),
            (
                &[
                    "train.epochs=3",
                    "batch.policy=plateau",
                    "batch.patience=0",
                    "batch.initial=100",
                    "batch.noise_every=10",
                ],
                "batch.noise_every has no effect: the run has at most 9 updates",
            ),
            (
                &["train.epochs=2", "batch.policy=noise_scale", "batch.noise_every=3"],
                "batch.policy has no effect: the noise scale is first measured after 3 \
                 updates, by batch.noise_every, and the last epoch begins after 2 updates",
            ),
            (
                &["train.epochs=7", "batch.policy=plateau"],
                "batch.policy has no effect: with batch.patience = 5 a plateau takes 7 values of train_loss, \
                 and there are 6 before the last epoch",
            ),
            (
                &["schedule.policy=plateau", "schedule.patience=13"],
                "schedule.policy, schedule.patience have no effect: with schedule.patience = 13 a plateau takes \
                 15 values of train_loss, and there are 13 before the last epoch",
            ),
            (&["train.max_steps=999"], "train.max_steps has no effect: the run has 73 updates"),
            (
                &["train.stop_after=6", "train.evaluate_every=2", "data.validation=50"],
                "train.stop_after has no effect: that takes 7 evaluations, and there are 6 before the last epoch",
            ),
            (
                &["train.evaluate_every=15"],
                "train.evaluate_every has no effect: the run ends with epoch 14",
            ),
            (
                &["train.checkpoint_every=15"],
                "train.checkpoint_every has no effect: the run ends with epoch 14",
            ),
            (
                &["optimizer.average_decay=0.5"],
                "optimizer.average_decay has no effect: optimizer.average is none",
            ),
            (
                &["optimizer.groups=[{ parameters = \"*.bias\", epochs = 15 }]"],
                "optimizer.groups: epochs = 15 of *.bias has no effect: the run ends with epoch 14",
            ),
            (
                &["network.activation=elu", "network.leaky_slope=0.1"],
                "network.leaky_slope has no effect: network.activation is not leaky_relu",
            ),
            (
                &["network.head.activation=same"],
                "network.head.activation has no effect: network.head.hidden is 0",
            ),
            (
                &["data.augment=false", "data.border=0"],
                "data.border has no effect: data.augment crops no images",
            ),
        ] {
            assert_eq!(warnings(changes), [expected], "{changes:?}");
        }
    }

    #[test]
    fn keys_that_act_are_not_named() {
        for changes in [
            &["batch.steps=[[1,32],[14,64]]", "batch.coupling=sqrt", "batch.least_updates=9"][..],
            &[
                "batch.policy=fixed",
                "batch.size=20",
                "batch.noise_every=210",
                "train.max_steps=209",
            ],
            &[
                "batch.policy=plateau",
                "batch.initial=10",
                "batch.max=20",
                "batch.factor=2.0",
                "batch.patience=11",
            ],
            &[
                "batch.policy=noise_scale",
                "batch.cooldown=2",
                "batch.hysteresis=2.0",
                "batch.noise_every=26",
            ],
            &[
                "batch.policy=from_lr",
                "schedule.policy=cosine",
                "schedule.last=0.1",
                "batch.after_max=decay",
            ],
            &[
                "schedule.policy=one_cycle",
                "schedule.first=0.1",
                "schedule.peak=0.4",
                "schedule.warmup=1.0",
            ],
            &["schedule.policy=plateau", "schedule.least=0.1", "schedule.patience=11"],
            &["schedule.policy=step", "schedule.steps=[[14,0.5]]"],
            &["train.stop_after=5", "train.evaluate_every=2", "data.validation=50"],
            &["optimizer.average=ema", "optimizer.average_every=2", "optimizer.learning_rate=0.2"],
            &["optimizer.weight_decay=0.1", "optimizer.decay=weights", "optimizer.momentum=0.5"],
            &[
                "train.evaluate_every=14",
                "train.checkpoint_every=14",
                "train.epochs=14",
                "train.seed=1",
            ],
            &["network.head.hidden=8", "network.head.activation=same", "network.leaky_slope=0.1"],
        ] {
            let said = warnings(changes);
            let said: Vec<_> =
                said.iter().filter(|one| !one.starts_with("batch.noise_every")).collect();
            assert!(said.is_empty(), "{changes:?}: {said:?}");
        }
        // A run without epochs only writes its weights.
        assert!(warnings(&["train.epochs=0", "batch.size=9"]).is_empty());
    }

    #[test]
    fn a_network_of_operations_leaves_the_keys_of_families_without_effect() {
        let operations = r#"network.operations=[
            { name = "flatten", operation = "flatten", inputs = [0] },
            { name = "fc", operation = "linear", outputs = 10, bias = true, init = "uniform", inputs = [1] },
        ]"#;
        let changes =
            ["network.family=custom", operations, "network.widths=[4]", "network.head.hidden=9"];
        assert_eq!(
            warnings(&changes),
            [
                "network.widths has no effect: network.family is custom",
                "network.head.hidden has no effect: network.family is custom",
            ]
        );
    }

    #[test]
    fn settings_that_every_parameter_has_of_its_own_have_no_effect() {
        let changes = [
            "optimizer.weight_decay=0.1",
            "optimizer.learning_rate=0.1",
            "optimizer.decay=weights",
        ];
        let recipe = Recipe::load("fast94", &changes).unwrap();
        let said = unused_keys(&recipe, &Recipe::changed_keys(&changes).unwrap(), 50_000);
        assert_eq!(
            said,
            [
                "optimizer.weight_decay has no effect: every parameter has its own in optimizer.groups, or none \
                 by its kind",
                "optimizer.decay has no effect: no parameter takes optimizer.weight_decay",
            ]
        );
        let all = ["optimizer.kind=fixed", "optimizer.per=image", "optimizer.momentum=0.5"];
        let group = "optimizer.groups=[{ parameters = \"*conv*.weight\", kind = \"muon\", momentum = 0.6 }]";
        let changes = [&all[..], &[group]].concat();
        let said = warnings(&changes).join("\n");
        assert!(said.contains("optimizer.momentum has no effect"), "{said}");
        assert!(
            said.contains("optimizer.per has no effect: no parameter is trained by sgd"),
            "{said}"
        );
        assert!(!said.contains("optimizer.kind"), "{said}");
    }

    #[test]
    fn no_built_in_recipe_warns_of_what_the_user_did_not_set() {
        for built_in in &crate::loading::BUILT_IN {
            let changes = ["train.epochs=1"];
            let recipe = Recipe::load(built_in.name, &changes).unwrap();
            let keys = Recipe::set_keys(built_in.name, &changes).unwrap();
            assert!(unused_keys(&recipe, &keys, 50_000).is_empty(), "{}", built_in.name);
        }
    }
}
