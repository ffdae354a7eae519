use super::*;

/// The decisions for an epoch after another with these metrics.
fn enter(
    state: &mut PolicyState,
    recipe: &Recipe,
    epoch: u32,
    updates: u64,
    last: &EpochMetrics,
) -> Vec<Decision> {
    // Through the form in which it is saved.
    *state = serde_json::from_str(&serde_json::to_string(state).unwrap()).unwrap();
    let so_far = SoFar { updates, images: 50_000, history: &[*last] };
    state.enter(recipe, None, epoch, so_far).unwrap()
}

/// Batch sizes and learning rates of the epochs from 1 on, at their beginnings.
fn run(changes: &[&str], metrics: &[EpochMetrics]) -> Vec<(usize, f64)> {
    let recipe = Recipe::load("report", changes).unwrap();
    let mut state = PolicyState::new(&recipe);
    let mut epochs = vec![(state.batch_size, state.learning_rate(&recipe, 0.0))];
    for (done, last) in metrics.iter().enumerate() {
        enter(&mut state, &recipe, done as u32 + 2, 0, last);
        let rate = state.learning_rate(&recipe, done as f64 + 1.0);
        epochs.push((state.batch_size, (rate * 1e9).round() / 1e9));
    }
    epochs
}

fn losses<const N: usize>(losses: [f64; N]) -> [EpochMetrics; N] {
    losses.map(|train_loss| EpochMetrics { train_loss, ..EpochMetrics::default() })
}

/// What is measured of a batch of so many images, where a gradient of so many has such a squared norm.
fn sample(whole: f64, square: impl Fn(f64) -> f64) -> NoiseSample {
    let half = whole / 2.0;
    NoiseSample { half, half_square: square(half), whole, whole_square: square(whole) }
}

#[test]
fn the_schedule_of_the_paper() {
    let recipe = Recipe::load::<&str>("report", &[]).unwrap();
    let phase = |batch_size, epochs, updates| TrainingPhase {
        batch_size,
        image_size: 32,
        length: Some(PhaseLength { epochs, updates, images: 50_000 * u64::from(epochs) }),
    };
    let expected = [
        phase(125, 60, 24_000),
        phase(250, 10, 2_000),
        phase(500, 10, 1_000),
        phase(1000, 10, 500),
    ];
    assert_eq!(training_plan(&recipe, 50_000), expected);
    let mut state = PolicyState::new(&recipe);
    let decisions = enter(&mut state, &recipe, 61, 24_000, &EpochMetrics::default());
    assert_eq!(
        (decisions.len(), decisions[0].what, decisions[0].to),
        (1, DecisionKind::BatchSize, 250.0)
    );
    assert!(
        enter(&mut state, &recipe, 61, 24_000, &EpochMetrics::default()).is_empty(),
        "asked again"
    );
}

#[test]
fn an_image_size_begins_a_phase_of_its_own() {
    let changes =
        ["data.sides=[[1, 16], [3, 32]]", "batch.steps=[[1, 30], [4, 50]]", "train.epochs=5"];
    let phases = training_plan(&Recipe::load("report", &changes).unwrap(), 100);
    let sizes: Vec<_> = phases
        .iter()
        .map(|phase| (phase.batch_size, phase.image_size, phase.length.unwrap().epochs))
        .collect();
    assert_eq!(sizes, [(30, 16, 2), (30, 32, 1), (50, 32, 2)]);
    let measured = ["batch.policy=noise_scale", "batch.initial=30", "batch.max=60"];
    let changes = [&changes[..], &measured].concat();
    let phases = training_plan(&Recipe::load("report", &changes).unwrap(), 100);
    let sizes: Vec<_> = phases.iter().map(|phase| (phase.batch_size, phase.image_size)).collect();
    assert_eq!(sizes, [(30, 16), (30, 32), (60, 16), (60, 32)]);
}

#[test]
fn a_new_image_size_resets_plateaus_and_the_noise_scale() {
    let changes = ["batch.policy=plateau", "batch.patience=0", "batch.max=500"];
    // The loss rises when the images become larger, and then falls.
    let seen = losses([1.0, 0.5, 0.9, 0.8, 0.8]);
    let sizes = |changes: &[&str]| -> Vec<usize> {
        run(changes, &seen).into_iter().map(|epoch| epoch.0).collect()
    };
    assert_eq!(sizes(&changes), [125, 125, 125, 250, 500, 500]);
    let smaller = [&changes[..], &["data.sides=[[1, 16], [3, 32]]"]].concat();
    assert_eq!(sizes(&smaller), [125, 125, 125, 125, 125, 250]);

    let recipe = Recipe::load("report", &smaller).unwrap();
    let mut state = PolicyState::new(&recipe);
    state.noise.observe(&sample(120.0, |images| if images < 100.0 { 2.0 } else { 1.5 }));
    assert!(
        enter(&mut state, &recipe, 2, 10, &seen[0]).is_empty() && state.noise.value().is_some()
    );
    let decisions = enter(&mut state, &recipe, 3, 20, &seen[1]);
    assert_eq!(decisions.len(), 1);
    assert_eq!(
        (decisions[0].what, decisions[0].from, decisions[0].to),
        (DecisionKind::ImageSize, 16.0, 32.0)
    );
    assert_eq!(state.noise.value(), None);
}

#[test]
fn updates_can_end_a_schedule() {
    let changes = ["train.max_steps=7", "batch.steps=[[1, 30], [2, 50], [3, 90]]"];
    let phases = training_plan(&Recipe::load("report", &changes).unwrap(), 100);
    let sizes: Vec<_> = phases
        .iter()
        .map(|phase| (phase.batch_size, phase.length.unwrap()))
        .map(|(size, length)| (size, length.epochs, length.updates, length.images))
        .collect();
    assert_eq!(sizes, [(30, 1, 3, 90), (50, 1, 2, 100), (90, 2, 2, 180)]);
}

#[test]
fn sizes_shrink_until_an_epoch_has_least_updates() {
    let recipe = Recipe::load("report", &["batch.least_updates=25"]).unwrap();
    let sizes = |images| {
        training_plan(&recipe, images).iter().map(|phase| phase.batch_size).collect::<Vec<_>>()
    };
    assert_eq!(sizes(50_000), [125, 250, 500, 1000]);
    assert_eq!(sizes(10_000), [125, 250, 400]);
    assert_eq!(sizes(7), [1]);
}

#[test]
fn batches_larger_than_the_data_shrink_to_it_under_every_policy() {
    let fitted = |changes: &[&str], images: usize| {
        let mut recipe = Recipe::load("report", changes).unwrap();
        let note = fit_batches(&mut recipe, images);
        assert_eq!(fit_batches(&mut recipe.clone(), images), None, "once is enough");
        assert_eq!(
            training_plan(&recipe, images),
            training_plan(&Recipe::load("report", changes).unwrap(), images)
        );
        (recipe.batch, note.unwrap_or_default())
    };
    let (steps, note) = fitted(&["batch.steps=[[1, 30], [2, 400], [3, 500]]"], 300);
    assert_eq!(steps.steps, [(1, 30), (2, 300), (3, 300)]);
    assert_eq!(
        note,
        "Batches have at most 300 images, because there are 300 to train on and batch.steps asks for 500: an \
         epoch can have a single update. For more, set batch.least_updates=20."
    );
    let (fixed, note) = fitted(&["batch.policy=fixed", "batch.size=301"], 300);
    assert!(fixed.size == 300 && note.contains("batch.size asks for 301"), "{note}");
    for policy in ["plateau", "noise_scale"] {
        let policy = format!("batch.policy={policy}");
        let (grown, note) = fitted(&[&policy, "batch.initial=400", "batch.max=900"], 300);
        assert!(
            (grown.initial, grown.max) == (300, 300) && note.contains("batch.max asks for 900")
        );
        assert_eq!(fitted(&[&policy, "batch.initial=40"], 300).0.reachable(), [40, 80, 160, 300]);
    }
    let from_lr = ["batch.policy=from_lr", "schedule.policy=cosine", "batch.initial=200"];
    assert_eq!(fitted(&from_lr, 300).0.max, 300);
    // Ghost batches still divide all sizes.
    let ghost = ["network.norm.ghost=32", "batch.policy=fixed", "batch.size=320"];
    assert_eq!(fitted(&ghost, 300).0.size, 288);
    let ghost = [&ghost[..], &["batch.least_updates=2"]].concat();
    assert_eq!(fitted(&ghost, 300).0.size, 128);
}

#[test]
fn a_recipe_whose_batches_fit_stays_as_it_is() {
    for changes in [
        // Rows after the end, and sizes that the policy does not use or come to.
        &["batch.steps=[[1, 30], [5, 400]]", "train.epochs=4"][..],
        &["batch.steps=[[1, 100], [3, 400]]", "train.max_steps=6"],
        &["batch.policy=fixed", "batch.size=300"],
        &["batch.policy=from_lr", "schedule.policy=step", "schedule.steps=[[2, 0.5]]"],
    ] {
        let recipe = Recipe::load("report", changes).unwrap();
        let mut fitted = recipe.clone();
        assert_eq!(fit_batches(&mut fitted, 300), None, "{changes:?}");
        assert_eq!(fitted, recipe);
    }
}

#[test]
fn a_plateau_grows_the_batch_and_then_lowers_the_learning_rate() {
    let changes = [
        "batch.policy=plateau",
        "batch.initial=100",
        "batch.max=300",
        "batch.patience=0",
        "batch.after_max=decay",
        "batch.coupling=sqrt",
    ];
    let epochs = run(&changes, &losses([1.0, 1.0, 1.0, 1.0, 0.5]));
    let rate = |factor: f64| (0.1 * factor * 1e9).round() / 1e9;
    let (twice, thrice) = (2f64.sqrt(), 3f64.sqrt());
    let expected = [
        (100, rate(1.0)),
        (100, rate(1.0)),
        (200, rate(twice)),
        (300, rate(thrice)),
        (300, rate(thrice / 2.0)),
        (300, rate(thrice / 2.0)),
    ];
    assert_eq!(epochs, expected);
    assert!(run(&changes[..4], &losses([1.0; 6])).iter().all(|&(_, rate)| rate == 0.1), "hold");
    let recipe = Recipe::load("report", &changes).unwrap();
    assert_eq!(training_plan(&recipe, 50_000).len(), 3);
}

#[test]
fn the_noise_scale_is_followed_with_hysteresis() {
    let changes = ["batch.policy=noise_scale", "batch.initial=100", "batch.max=1000"];
    let recipe = Recipe::load("report", &changes).unwrap();
    let mut state = PolicyState::new(&recipe);
    let mut at = |scale: Option<f64>| {
        state.noise = NoiseScaleEstimate::default();
        if let Some(scale) = scale {
            state.noise.observe(&sample(100.0, |images| 1.0 + scale / images));
        }
        let epoch = state.epoch + 1;
        enter(&mut state, &recipe, epoch, 0, &EpochMetrics::default());
        state.batch_size
    };
    assert_eq!([at(None), at(Some(140.0)), at(Some(160.0))], [100, 100, 200]);
    // Within the hysteresis of 1.5 both ways nothing changes.
    assert_eq!([at(Some(290.0)), at(Some(140.0)), at(Some(5000.0))], [200, 200, 1000]);
    assert_eq!([at(Some(700.0)), at(Some(300.0)), at(Some(1.0))], [1000, 400, 100]);
}

#[test]
fn from_lr_grows_the_batch_where_the_learning_rate_would_fall() {
    let metrics = [EpochMetrics::default(); 9];
    let base = [
        "train.epochs=10",
        "batch.policy=from_lr",
        "batch.initial=100",
        "batch.max=500",
        "schedule.policy=step",
        "schedule.steps=[[3, 0.5], [5, 0.25], [7, 0.1]]",
    ];
    let sizes: Vec<usize> = run(&base, &metrics).into_iter().map(|epoch| epoch.0).collect();
    assert_eq!(sizes, [100, 100, 200, 200, 400, 400, 500, 500, 500, 500]);
    // hold: the learning rate stays. decay: it falls by what the batch cannot take.
    assert!(run(&base, &metrics).iter().all(|epoch| epoch.1 == 0.1));
    let decay = [&base[..], &["batch.after_max=decay"]].concat();
    for (done, (size, rate)) in run(&decay, &metrics).into_iter().enumerate() {
        let factor = [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.1, 0.1, 0.1, 0.1][done];
        assert!((rate / size as f64 - 0.1 * factor / 100.0).abs() < 1e-8, "{done}");
    }
    // With a cosine the batch grows in whole multiples of the first size.
    let cosine = ["train.epochs=10", base[1], base[2], base[3], "schedule.policy=cosine"];
    let epochs = run(&cosine, &metrics);
    assert!(epochs.is_sorted_by_key(|epoch| epoch.0) && epochs[9].0 == 500);
    // During warm-up the batch does not grow.
    let warm = [&cosine[..], &["schedule.warmup=2.0"]].concat();
    assert_eq!(run(&warm, &metrics)[1], (100, 0.05));
}

#[test]
fn learning_rates_fall_by_table_and_at_plateaus() {
    let step = ["schedule.policy=step", "schedule.steps=[[3, 0.1]]", "batch.policy=fixed"];
    let recipe = Recipe::load("report", &step).unwrap();
    let mut state = PolicyState::new(&recipe);
    assert!(enter(&mut state, &recipe, 2, 0, &EpochMetrics::default()).is_empty());
    let decisions = enter(&mut state, &recipe, 3, 0, &EpochMetrics::default());
    assert_eq!((decisions[0].what, decisions[0].from), (DecisionKind::LearningRate, 0.1));
    assert!(
        (decisions[0].to - 0.01).abs() < 1e-12
            && decisions[0].reason == "table schedule.steps: 0.01 from epoch 3"
    );

    let plateau = [
        "schedule.policy=plateau",
        "schedule.patience=0",
        "schedule.factor=10.0",
        "schedule.least=0.01",
        "batch.policy=fixed",
    ];
    let rates: Vec<f64> =
        run(&plateau, &losses([1.0; 5])).into_iter().map(|epoch| epoch.1).collect();
    assert_eq!(rates, [0.1, 0.1, 0.01, 0.001, 0.001, 0.001]);
}

#[test]
fn at_the_largest_batch_the_learning_rate_follows_the_noise_scale() {
    let changes = [
        "batch.policy=noise_scale",
        "batch.initial=100",
        "batch.max=200",
        "batch.after_max=decay",
        "batch.cooldown=1",
    ];
    let recipe = Recipe::load("report", &changes).unwrap();
    let mut state = PolicyState::new(&recipe);
    let mut at = |scale: f64| {
        state.noise = NoiseScaleEstimate::default();
        state.noise.observe(&sample(100.0, |images| 1.0 + scale / images));
        let epoch = state.epoch + 1;
        enter(&mut state, &recipe, epoch, 0, &EpochMetrics::default());
        (state.batch_size, state.rate_factor)
    };
    // 400 images correspond to 200 at half the learning rate, reached after the cooldown and not exceeded.
    let expected = [(200, 1.0), (200, 1.0), (200, 0.5), (200, 0.5), (200, 0.5)];
    assert_eq!([400.0; 5].map(&mut at), expected);
    // On the way back the learning rate changes first, then the batch.
    assert_eq!([100.0; 5].map(&mut at).last(), Some(&(100, 1.0)));
}

#[test]
fn decisions_say_what_changes_and_why() {
    let decisions = |changes: &[&str]| {
        let recipe = Recipe::load("report", changes).unwrap();
        let mut state = PolicyState::new(&recipe);
        let mut at = |epoch| enter(&mut state, &recipe, epoch, 0, &EpochMetrics::default());
        let all = (2..=8).flat_map(&mut at);
        all.map(|one| (one.epoch, one.what, one.from, one.to, one.reason)).collect::<Vec<_>>()
    };
    assert_eq!(
        decisions(&["batch.steps=[[1, 10], [3, 40]]", "batch.coupling=sqrt"]),
        [
            (3, DecisionKind::BatchSize, 10.0, 40.0, "table batch.steps: 40 from epoch 3".into()),
            (3, DecisionKind::LearningRate, 0.1, 0.2, "table batch.steps: 40 from epoch 3".into())
        ]
    );
    // A warm-up is not a decision, nor is a step that takes effect during it.
    let steps = ["schedule.policy=step", "schedule.steps=[[2, 0.5], [6, 0.25]]"];
    assert_eq!(
        decisions(&[&steps[..], &["schedule.warmup=3.0"]].concat()),
        [(
            6,
            DecisionKind::LearningRate,
            0.05,
            0.025,
            "table schedule.steps: 0.025 from epoch 6".into()
        )]
    );
    // The batch grows as far as it can; the learning rate falls by the rest.
    let from_lr = ["batch.policy=from_lr", "batch.initial=10", "batch.max=20"];
    let all = decisions(&[&steps[..], &from_lr, &["batch.after_max=decay"]].concat());
    let numbers: Vec<_> = all.iter().map(|one| (one.0, one.1, one.2, one.3)).collect();
    assert_eq!(
        numbers,
        [(2, DecisionKind::BatchSize, 10.0, 20.0), (6, DecisionKind::LearningRate, 0.1, 0.05)]
    );
    assert!(decisions(&[&steps[..], &from_lr].concat()).len() == 1, "it is held");
}

/// Chooses what it was given, the first time that it is asked, and then the current choice.
struct Given(Option<Choice>);

impl Policy for Given {
    fn decide(&mut self, epoch: &EpochStart<'_>) -> Result<Choice, Error> {
        Ok(self.0.take().unwrap_or(epoch.current.clone()))
    }
}

/// The decisions of a policy's first choice for 300 images.
fn first_choice(changes: &[&str], choice: Choice) -> Result<Vec<Decision>, String> {
    let changes = [&["batch.policy=custom", "batch.initial=40"], changes].concat();
    let recipe = Recipe::load("report", &changes).unwrap();
    let mut state = PolicyState::new(&recipe);
    let so_far = SoFar { images: 300, ..SoFar::default() };
    let before = state.clone();
    let decisions = state.enter(&recipe, Some(&mut Given(Some(choice))), 1, so_far);
    assert!(decisions.is_ok() || state == before, "the state stays");
    decisions.map_err(|error| error.to_string())
}

#[test]
fn a_choice_of_ones_own_is_checked_lowered_and_explained() {
    let choice = |size, factor| Choice::new(size, factor, "because");
    assert_eq!(first_choice(&[], choice(40, 1.0)), Ok(Vec::new()));
    let decisions = first_choice(&[], choice(80, 0.5)).unwrap();
    let said: Vec<_> = decisions.iter().map(|one| (one.what, one.from, one.to)).collect();
    let expected = [(DecisionKind::BatchSize, 40.0, 80.0), (DecisionKind::LearningRate, 0.1, 0.05)];
    assert_eq!(said, expected);
    assert!(decisions.iter().all(|one| one.reason == "because"));
    for (changes, most) in
        [(&[][..], 300.0), (&["batch.least_updates=5"], 60.0), (&["network.norm.ghost=8"], 296.0)]
    {
        let decisions = first_choice(changes, choice(usize::MAX, 1.0)).unwrap();
        assert_eq!(decisions[0].to, most);
        let reason = format!("because; {} lowered to {most}, for 300 training images", usize::MAX);
        assert_eq!(decisions[0].reason, reason);
    }
    for (size, factor, complaint) in [
        (0, 1.0, "a batch has at least 1 image, but it is 0"),
        (40, 0.0, "the factor of the learning rate must be above 0, but it is 0"),
        (40, -1.0, "must be above 0, but it is -1"),
        (40, f64::NAN, "must be above 0, but it is NaN"),
        (40, f64::INFINITY, "must be above 0, but it is inf"),
    ] {
        let error = first_choice(&[], choice(size, factor)).unwrap_err();
        assert!(error.starts_with("the policy's choice for epoch 1 cannot be used"), "{error}");
        assert!(error.contains(complaint), "{error}");
    }
    let error = first_choice(&["network.norm.ghost=8"], choice(42, 1.0)).unwrap_err();
    assert!(error.contains("network.norm.ghost = 8 does not divide the batch size 42"), "{error}");
}

#[test]
fn the_plan_of_a_policy_of_ones_own_is_its_first_batch() {
    let changes = ["batch.policy=custom", "batch.initial=40", "data.sides=[[1, 16], [3, 32]]"];
    let recipe = Recipe::load("report", &changes).unwrap();
    let phases = training_plan(&recipe, 300);
    let sizes: Vec<_> =
        phases.iter().map(|phase| (phase.batch_size, phase.image_size, phase.length)).collect();
    assert_eq!(sizes, [(40, 16, None), (40, 32, None)]);
    assert_eq!(training_plan(&recipe, 30)[0].batch_size, 30, "lowered to the data");
    let mut state = PolicyState::new(&recipe);
    let error = state.enter(&recipe, None, 1, SoFar::default()).unwrap_err().to_string();
    assert!(error.contains("only that program can train it"), "{error}");
}

#[test]
fn states_of_the_version_before_go_on() {
    let noise = r#""noise": {"trace": 0.0, "square": 0.0, "weight": 0.0}"#;
    let saved = |plateau: &str, cooldown: u32| {
        let plateaus = format!(r#""batch_plateau": {plateau}, "rate_plateau": {plateau}"#);
        let text = format!(
            r#"{{"epoch": 4, "batch_size": 125, "rate_factor": 1.0, {plateaus}, "cooldown": {cooldown}, {noise}}}"#
        );
        serde_json::from_str::<PolicyState>(&text).unwrap()
    };
    let waiting = r#"{"best": 0.5, "smoothed": 0.6, "epochs": 2, "cooldown": 0}"#;
    let empty = r#"{"best": null, "smoothed": null, "epochs": 0, "cooldown": 0}"#;
    let changes = [
        "batch.policy=plateau",
        "batch.patience=2",
        "schedule.policy=plateau",
        "schedule.patience=2",
    ];
    let recipe = Recipe::load("report", &changes).unwrap();
    let decisions = enter(&mut saved(waiting, 0), &recipe, 5, 0, &losses([0.6])[0]);
    let whats: Vec<_> = decisions.iter().map(|decision| decision.what).collect();
    assert_eq!(whats, [DecisionKind::BatchSize, DecisionKind::LearningRate]);
    assert!(enter(&mut saved(empty, 0), &recipe, 5, 0, &losses([0.6])[0]).is_empty());

    let recipe = Recipe::load("report", &["batch.policy=noise_scale"]).unwrap();
    let decides = |cooldown| {
        let mut state = saved(empty, cooldown);
        state.noise.observe(&sample(100.0, |images| 1.0 + 400.0 / images));
        !enter(&mut state, &recipe, 5, 0, &EpochMetrics::default()).is_empty()
    };
    assert_eq!([decides(1), decides(2)], [true, false]);
}

#[test]
fn a_damaged_state_of_a_policy_is_a_sentence() {
    let recipe = Recipe::load("report", &["batch.policy=plateau"]).unwrap();
    let mut state = PolicyState::new(&recipe);
    let text = serde_json::to_string(&state).unwrap();
    state = serde_json::from_str(&text.replace("{}", r#"{"batch.plateau": [1]}"#)).unwrap();
    let error = state.enter(&recipe, None, 2, SoFar::default()).unwrap_err().to_string();
    assert!(error.starts_with("the saved state of batch.policy = plateau is damaged"), "{error}");
}
