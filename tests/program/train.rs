//! Training runs and the files they write.

use super::{Place, SMALL, checkpoint, column, rows};
use safetensors::{Dtype, SafeTensors};

#[test]
fn a_run_writes_csv_files_checkpoints_and_its_recipe() {
    let place = Place::new();
    let output = place.run(&format!(
        "train {SMALL} --epochs 4 --log-steps --set train.checkpoint_every=2 --set \
         train.evaluate_every=2"
    ));
    // The lines of the paper's program.
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[1], "Images: 144 for training, 0 for validation, 100 for testing");
    assert!(lines[2].starts_with("Epoch 1 Loss "), "{output}");
    assert!(lines[2].contains(" Duration ") && lines[2].ends_with(" seconds."), "{output}");
    let decided = "Increasing batch size from 12 to 24 (table batch.steps: 24 from epoch 3)\n";
    assert_eq!(output.matches(decided).count(), 1, "{output}");
    assert_eq!(output.matches("Checkpoint has been created.\n").count(), 2);
    let last = &lines[lines.len() - 5..];
    assert!(last[0].starts_with("Test accuracy: 0."), "{output}");
    let expected = [
        "Run: runs/quick-1",
        "Report: runs/quick-1/report.html",
        "Weights: runs/quick-1/weights/last.safetensors",
        "Classify images with: crescendo predict runs/quick-1 IMAGE.png",
    ];
    assert_eq!(last[1..], expected);
    assert!(
        expected[1..3].iter().all(|line| place.path(&line[line.find(' ').unwrap() + 1..]).exists())
    );
    assert_eq!(place.read("runs/quick-1/log.txt"), output);

    let epochs = place.read("runs/quick-1/epochs.csv");
    assert_eq!(
        rows(&epochs)[0][..8],
        [
            "epoch",
            "updates",
            "batch_size",
            "learning_rate",
            "train_loss",
            "test_accuracy",
            "seconds",
            "images_per_second"
        ]
    );
    assert_eq!(column(&epochs, "epoch"), ["1", "2", "3", "4"]);
    assert_eq!(column(&epochs, "updates"), ["12", "24", "30", "36"]);
    assert_eq!(column(&epochs, "batch_size"), ["12", "12", "24", "24"]);
    let evaluated: Vec<bool> =
        column(&epochs, "test_accuracy").iter().map(|cell| !cell.is_empty()).collect();
    assert_eq!(evaluated, [false, true, false, true]);

    let steps = place.read("runs/quick-1/steps.csv");
    assert_eq!(rows(&steps)[0], ["step", "epoch", "batch_size", "learning_rate", "loss"]);
    assert_eq!(column(&steps, "step").len(), 36);
    // The loss of an epoch is the mean of the losses of its batches.
    let losses: Vec<f64> =
        column(&steps, "loss")[..12].iter().map(|cell| cell.parse().unwrap()).collect();
    let mean = losses.iter().sum::<f64>() / 12.0;
    let written: f64 = column(&epochs, "train_loss")[0].parse().unwrap();
    assert!((mean - written).abs() < 1e-6, "{mean} {written}");

    let recipe = place.read("runs/quick-1/recipe.toml");
    for part in ["widths = [4, 8, 8]", "data_fingerprint", "version = ", "learning_rate = 0.1"] {
        assert!(recipe.contains(part), "no {part} in {recipe}");
    }
    for epoch in [2, 4] {
        assert!(checkpoint(&place.path("runs/quick-1"), epoch).exists());
    }
    // The recipe that a run wrote can be trained, and the next run has the next number.
    let again = place.run("train runs/quick-1/recipe.toml --data shapes:144,100 --epochs 1");
    assert!(again.contains("\nRun: runs/recipe-1\n"), "{again}");
    let next = place.run(&format!("train {SMALL} --epochs 1"));
    assert!(next.contains("\nRun: runs/quick-2\n"), "{next}");
}

#[test]
fn checkpoints_have_the_names_and_shapes_of_pytorch() {
    let place = Place::new();
    place.run("train report --data shapes:10,10 --epochs 0 --out run");
    let bytes = std::fs::read(checkpoint(&place.path("run"), 0)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let parameters = tensors
        .iter()
        .filter(|(name, view)| view.dtype() == Dtype::F32 && !name.contains("running"));
    let count: usize = parameters.map(|(_, view)| view.shape().iter().product::<usize>()).sum();
    assert_eq!(count, 17_392_394);
    let counter = tensors.tensor("start_layer.1.num_batches_tracked").unwrap();
    assert_eq!((counter.dtype(), counter.shape()), (Dtype::I64, &[][..]));
    for (name, shape) in [
        ("start_layer.0.weight", vec![64, 3, 3, 3]),
        ("stack_layers.1.blocks.0.shortcut.0.weight", vec![128, 64, 1, 1]),
        ("stack_layers.2.blocks.5.bn2.running_var", vec![256]),
        ("output_layer.fc1.weight", vec![2048, 4096]),
        ("output_layer.fc2.bias", vec![10]),
    ] {
        assert_eq!(tensors.tensor(name).unwrap().shape(), shape, "{name}");
    }
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = metadata.metadata().clone().unwrap();
    for key in ["recipe", "classes", "normalization", "epoch", "version"] {
        assert!(metadata.contains_key(key), "no {key}");
    }
}

#[test]
fn weights_are_bit_identical_for_any_number_of_threads() {
    let place = Place::new();
    for threads in [1, 2, 3] {
        place.run(&format!("train {SMALL} --epochs 2 --threads {threads} --out t{threads}"));
    }
    let weights = |run: &str| std::fs::read(checkpoint(&place.path(run), 2)).unwrap();
    assert!(weights("t1") == weights("t2"), "two threads differ from one");
    assert!(weights("t1") == weights("t3"), "three threads differ from one");
    place.run(&format!("train {SMALL} --epochs 2 --seed 1 --out other"));
    assert!(weights("t1") != weights("other"), "another seed, other weights");
}

#[test]
fn a_run_can_start_from_given_weights() {
    let place = Place::new();
    place.run(&format!("train {SMALL} --epochs 1 --out first"));
    let init = "first/weights/epoch-0001.safetensors";
    place.run(&format!("train {SMALL} --epochs 0 --init {init} --out second"));
    let model = |path: &str| {
        let bytes = std::fs::read(place.path(path)).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let mut model: Vec<(String, Vec<u8>)> =
            tensors.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect();
        model.sort();
        model
    };
    assert!(model(init) == model("second/weights/epoch-0000.safetensors"));
    let complaint =
        place.refuse(1, &format!("train quick --data shapes:144,100 --init {init} --out third"));
    assert!(complaint.contains("start_layer.0.weight") && complaint.contains("epoch-0001"));
    assert!(!place.path("third").exists());
}

#[test]
fn a_run_limited_by_max_steps_writes_its_last_checkpoint() {
    let place = Place::new();
    let limits = "--set train.max_steps=15 --set train.final_evaluation=false --out run";
    let output = place.run(&format!("train {SMALL} {limits}"));
    assert!(!output.contains("Test accuracy:") && output.contains("\nRun: run\n"), "{output}");
    assert!(checkpoint(&place.path("run"), 2).exists());
    assert_eq!(column(&place.read("run/epochs.csv"), "updates"), ["12", "15"]);
    let again = place.run("train --resume run");
    assert!(again.contains("already finished"), "{again}");
    assert_eq!(column(&place.read("run/epochs.csv"), "updates"), ["12", "15"]);
}

#[test]
fn train_keep_limits_the_number_of_checkpoints() {
    let place = Place::new();
    let keep = "--set train.checkpoint_every=1 --set train.keep=2 --out run";
    place.run(&format!("train {SMALL} --epochs 4 {keep}"));
    let there: Vec<bool> =
        (1..=4).map(|epoch| checkpoint(&place.path("run"), epoch).exists()).collect();
    assert_eq!(there, [false, false, true, true]);
}

#[test]
fn with_a_validation_set_the_test_set_is_evaluated_only_at_the_end() {
    let place = Place::new();
    let options = "--set data.validation=48 --set train.evaluate_every=1 --out run";
    place.run(&format!("train {SMALL} --epochs 2 {options}"));
    let epochs = place.read("run/epochs.csv");
    assert_eq!(column(&epochs, "updates"), ["8", "16"], "96 of 144 images are trained on");
    let tested = column(&epochs, "test_accuracy");
    assert!(tested[0].is_empty() && !tested[1].is_empty());
    assert!(column(&epochs, "validation_accuracy").iter().all(|cell| !cell.is_empty()));
}

#[test]
fn last_batches_can_be_kept() {
    let place = Place::new();
    let options = "--set batch.policy=fixed --set batch.size=32 --log-steps";
    place.run(&format!("train {SMALL} --epochs 1 {options} --out dropped"));
    let keep = "--set data.last_batch=keep";
    place.run(&format!("train {SMALL} --epochs 1 {options} {keep} --out kept"));
    let losses = |run: &str| {
        let steps = place.read(&format!("{run}/steps.csv"));
        let losses = column(&steps, "loss");
        losses.iter().map(|cell| cell.parse().unwrap()).collect::<Vec<f64>>()
    };
    assert_eq!(losses("dropped"), losses("kept")[..4]);
    // 4 x 32 + 16 images: the last batch has a smaller weight in the loss of the epoch.
    let kept = losses("kept");
    let mean = (32.0 * kept[..4].iter().sum::<f64>() + 16.0 * kept[4]) / 144.0;
    let written = place.read("kept/epochs.csv");
    let written: f64 = column(&written, "train_loss")[0].parse().unwrap();
    assert!((mean - written).abs() < 1e-6, "{mean} {written}");
}

#[test]
fn training_from_a_folder_equals_training_from_memory() {
    let place = Place::new();
    place.run("data export shapes:144,100 bin");
    place.run(&format!("train {SMALL} --epochs 1 --out drawn"));
    let options = "--set network.widths=[4,8,8] --set batch.steps=[[1,12],[3,24]] --epochs 1";
    place.run(&format!("train quick --data bin {options} --out read"));
    let losses =
        |run: &str| column(&place.read(&format!("{run}/epochs.csv")), "train_loss")[0].to_owned();
    assert_eq!(losses("drawn"), losses("read"));
}
