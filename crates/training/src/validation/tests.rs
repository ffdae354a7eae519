use crate::Recipe;

#[test]
fn invalid_schedules_are_refused_by_key() {
    for (change, key) in [
        ("schedule.steps=[[5, 0.1], [3, 0.2]]", "schedule.steps"),
        ("schedule.steps=[[0, 0.1]]", "schedule.steps"),
        ("schedule.steps=[[2, 0.0]]", "schedule.steps"),
        ("schedule.peak=1.0", "schedule.peak"),
        ("schedule.factor=1.0", "schedule.factor"),
        ("schedule.smoothing=1.0", "schedule.smoothing"),
        ("schedule.threshold=nan", "schedule.threshold"),
        ("schedule.warmup=-1.0", "schedule.warmup"),
        ("schedule.metric=loss", "train_loss"),
    ] {
        let problem = Recipe::load("report", &[change]).unwrap_err().to_string();
        assert!(problem.contains(key), "{change}: {problem}");
    }
}

#[test]
fn invalid_policies_are_refused_by_key() {
    for (changes, key) in [
        (&["batch.policy=plateau", "batch.factor=1.0"][..], "batch.factor"),
        (&["batch.policy=plateau", "batch.initial=500", "batch.max=400"], "batch.max"),
        (&["batch.policy=plateau", "batch.metric=validation_loss"], "data.validation"),
        (
            &[
                "batch.policy=plateau",
                "batch.metric=validation_accuracy",
                "data.validation=100",
                "train.evaluate_every=0",
            ],
            "train.evaluate_every",
        ),
        (&["batch.policy=plateau", "batch.metric=accuracy"], "validation_accuracy"),
        (&["batch.policy=plateau", "batch.smoothing=1.0"], "batch.smoothing"),
        (&["batch.policy=noise_scale", "batch.noise_every=0"], "batch.noise_every"),
        (&["batch.policy=noise_scale", "batch.hysteresis=1.1"], "batch.hysteresis"),
        (&["batch.policy=from_lr"], "schedule.policy"),
        (&["batch.memory_limit=-1.0"], "batch.memory_limit"),
        (&["network.norm.ghost=50"], "network.norm.ghost"),
        (&["schedule.policy=plateau", "schedule.metric=validation_loss"], "schedule.metric"),
    ] {
        let problem = Recipe::load("report", changes).unwrap_err().to_string();
        assert!(problem.contains(key), "{changes:?}: {problem}");
    }
}

#[test]
fn invalid_groups_are_refused_by_name() {
    for (groups, complaint) in [
        (r#"[{ parameters = "nobody" }]"#, "no trained parameter of this network is called nobody"),
        (
            r#"[{ parameters = "*" }, { parameters = "*.bias" }]"#,
            "all parameters that *.bias matches",
        ),
        (
            r#"[{ parameters = "*conv*", kind = "muon", weight_decay = 0.1 }]"#,
            "*conv* has a weight_decay",
        ),
        (
            r#"[{ parameters = "*", kind = "fixed", epochs = 2 }]"#,
            "* is fixed, so its other settings",
        ),
        (r#"[{ parameters = "*", kind = "muon" }]"#, "is muon for start_layer.0.bias"),
        (r#"[{ parameters = "*", momentum = 1.0 }]"#, "of *: momentum must be"),
        (
            r#"[{ parameters = "*", rate = 1.0 }]"#,
            "optimizer.groups, entry 1: there is no key rate",
        ),
    ] {
        let change = format!("optimizer.groups={groups}");
        let error = Recipe::load("quick", &[change]).unwrap_err().to_string();
        assert!(error.contains(complaint), "{error}");
    }
}
