//! What other programs call the keys of a recipe.

/// Names, in lower case with `_` for `-`, and the changes that do the same here: `section.key=` to be followed by
/// a value, or a whole change.
const NAMES: [(&[&str], &[&str]); 45] = [
    (
        &[
            "lr",
            "lr0",
            "learning_rate",
            "learningrate",
            "base_lr",
            "init_lr",
            "initial_lr",
            "max_lr",
            "eta",
        ],
        &["optimizer.learning_rate="],
    ),
    (
        &[
            "batch_size",
            "batchsize",
            "bs",
            "mini_batch_size",
            "minibatch_size",
            "train_batch_size",
            "per_device_train_batch_size",
            "batch",
        ],
        &["batch.policy=fixed", "batch.size="],
    ),
    (&["momentum", "beta1", "beta_1"], &["optimizer.momentum="]),
    (&["wd", "weight_decay", "weightdecay", "l2", "l2_reg"], &["optimizer.weight_decay="]),
    (&["nesterov"], &["optimizer.nesterov="]),
    (
        &["optim", "optimizer", "opt", "optimizer_type", "optimizer.type", "optimizer.name"],
        &["optimizer.kind="],
    ),
    (&["param_groups", "parameter_groups"], &["optimizer.groups="]),
    (&["ema", "use_ema", "swa"], &["optimizer.average=ema"]),
    (&["ema_decay"], &["optimizer.average_decay="]),
    (
        &["epochs", "num_epochs", "n_epochs", "nepochs", "max_epochs", "num_train_epochs"],
        &["train.epochs="],
    ),
    (
        &[
            "max_steps",
            "max_iters",
            "max_iter",
            "iterations",
            "num_steps",
            "total_steps",
            "train_steps",
        ],
        &["train.max_steps="],
    ),
    (&["seed", "random_seed", "manual_seed", "random_state"], &["train.seed="]),
    (&["early_stopping", "early_stopping_patience", "stop_patience"], &["train.stop_after="]),
    (&["label_smoothing"], &["train.label_smoothing="]),
    (
        &[
            "eval_every",
            "eval_interval",
            "eval_freq",
            "val_every",
            "val_interval",
            "val_freq",
            "check_val_every_n_epoch",
        ],
        &["train.evaluate_every="],
    ),
    (
        &["save_every", "save_interval", "save_freq", "checkpoint_interval", "checkpoint_freq"],
        &["train.checkpoint_every="],
    ),
    (&["save_total_limit", "save_top_k", "checkpoint_hist"], &["train.keep="]),
    (&["log_interval", "log_every", "log_every_n_steps"], &["train.log_steps=true"]),
    (
        &[
            "scheduler",
            "lr_scheduler",
            "lr_schedule",
            "lr_policy",
            "lr_scheduler_type",
            "sched",
            "schedule",
            "scheduler.type",
            "scheduler.name",
        ],
        &["schedule.policy="],
    ),
    (&["warmup", "warmup_epochs", "lr_warmup_epochs", "num_warmup_epochs"], &["schedule.warmup="]),
    (&["min_lr", "lr_min", "eta_min", "lrf", "final_lr", "end_lr"], &["schedule.last="]),
    (
        &[
            "milestones",
            "lr_milestones",
            "lr_steps",
            "lr_step_size",
            "step_size",
            "lr_gamma",
            "gamma",
            "lr_decay",
        ],
        &["schedule.policy=step", "schedule.steps="],
    ),
    (&["pct_start"], &["schedule.peak="]),
    (&["patience"], &["schedule.patience="]),
    (&["classes", "num_classes", "n_classes", "nc"], &["network.classes="]),
    (&["arch", "architecture", "model", "network"], &["network.family="]),
    (&["depth", "layers", "num_layers", "n_layers", "num_blocks"], &["network.blocks="]),
    (&["channels", "filters", "num_filters", "hidden_dims"], &["network.widths="]),
    (&["act", "activation", "nonlinearity"], &["network.activation="]),
    (&["bn_momentum", "batchnorm_momentum"], &["network.norm.momentum="]),
    (&["bn_eps", "batchnorm_eps"], &["network.norm.eps="]),
    (&["dataset", "data_set"], &["data.source="]),
    (
        &[
            "val_size",
            "val_split",
            "valid_size",
            "valid_pct",
            "validation_split",
            "validation_size",
        ],
        &["data.validation="],
    ),
    (
        &[
            "aug",
            "augment",
            "augmentation",
            "augmentations",
            "hflip",
            "horizontal_flip",
            "random_crop",
            "random_flip",
        ],
        &["data.augment="],
    ),
    (&["normalization", "normalisation", "normalise"], &["data.normalize="]),
    (&["drop_last"], &["data.last_batch=drop"]),
    (&["tta"], &["data.test_flip=true"]),
    (&["progressive_resizing", "image_sizes"], &["data.sides="]),
    (
        &["workers", "num_workers", "n_workers", "num_threads", "nthreads", "n_jobs", "jobs"],
        &["engine.threads="],
    ),
    (&["dtype", "precision"], &["engine.precision="]),
    (&["amp", "bf16", "mixed_precision"], &["engine.precision=bf16"]),
    (&["accelerator"], &["engine.device="]),
    (
        &[
            "grad_accum",
            "grad_accum_steps",
            "gradient_accumulation",
            "gradient_accumulation_steps",
            "accumulation_steps",
            "micro_batch_size",
            "accumulate_grad_batches",
        ],
        &["batch.memory_limit="],
    ),
    (&["ghost_batch_size", "virtual_batch_size"], &["network.norm.ghost="]),
    (&["batch_schedule", "batch_sizes", "batch_steps"], &["batch.steps="]),
];

/// The changes of a recipe that do what another program's key or option of this `name` does: each
/// `section.key=`, to be followed by a value, or a whole change such as `batch.policy=fixed`. Case, hyphens and
/// sections do not matter.
///
/// # Example
///
/// ```
/// use crescendo_training::loading::familiar_name;
///
/// assert_eq!(familiar_name("--lr"), Some(&["optimizer.learning_rate="][..]));
/// assert_eq!(familiar_name("colour"), None);
/// ```
pub fn familiar_name(name: &str) -> Option<&'static [&'static str]> {
    let name = name.trim_start_matches('-').to_lowercase().replace('-', "_");
    let find = |name: &str| NAMES.iter().find(|names| names.0.contains(&name)).map(|names| names.1);
    find(&name).or_else(|| find(name.rsplit('.').next()?))
}

/// The keys that changes of a [`familiar_name`] are about, in words.
pub(super) fn in_words(changes: &[&str]) -> String {
    let key = |change: &&str| change.split('=').next().unwrap_or(change).to_owned();
    match changes {
        [first, change, ..] => format!("{}, with {}", key(change), first.trim_end_matches('=')),
        _ => changes.iter().map(key).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loading::{keys, parse_change};

    #[test]
    fn every_familiar_name_leads_to_keys_that_there_are() {
        let keys = keys();
        for change in NAMES.iter().flat_map(|names| names.1) {
            let key = change.split('=').next().unwrap();
            assert!(keys.iter().any(|known| known == key), "{change}");
            assert!(parse_change(change).is_ok());
        }
        let mut names: Vec<&str> = NAMES.iter().flat_map(|names| names.0).copied().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "a name is there twice");
        assert!(names.iter().all(|name| *name == name.to_lowercase() && !name.contains('-')));
    }

    #[test]
    fn names_are_known_in_any_spelling_and_section() {
        for name in ["lr", "--lr", "optimizer.lr", "learning-rate", "LR", "train.learning_rate"] {
            assert_eq!(familiar_name(name), Some(&["optimizer.learning_rate="][..]), "{name}");
        }
        assert_eq!(familiar_name("--batch-size"), Some(&["batch.policy=fixed", "batch.size="][..]));
        assert_eq!(familiar_name("dropout"), None);
    }
}
