//! Data in the forms that people have it in: validation images of its own, damaged images, archives, unequal classes.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::{Place, check_line, checkpoint, column, text};
use image::{Rgb, RgbImage};

/// A network, batches and an evaluation after each epoch, for a few dozen images.
pub const TINY: &str = "quick --set network.widths=[4,8,8] --set batch.policy=fixed --set batch.size=8 --set \
                    train.evaluate_every=1";

/// Writes images `first` to before `end` of a class into a folder; no two images are the same.
pub fn images(folder: &Path, class: u32, first: u32, end: u32) {
    fs::create_dir_all(folder).unwrap();
    for index in first..end {
        let pixel = |x: u32, y: u32| {
            let wave = [x, y, x + y][class as usize % 3] * 8;
            Rgb([wave as u8, (index * 5) as u8, (wave / 2) as u8])
        };
        RgbImage::from_fn(32, 32, pixel).save(folder.join(format!("{index}.png"))).unwrap();
    }
}

/// A folder `flowers` with training, validation and test images.
fn three_splits() -> Place {
    let place = Place::new();
    for (class, name) in ["rose", "tulip"].into_iter().enumerate() {
        for (split, first, end) in [("train", 0, 16), ("valid", 16, 21), ("test", 21, 25)] {
            images(&place.path(&format!("flowers/{split}/{name}")), class as u32, first, end);
        }
    }
    place
}

#[test]
fn validation_images_of_the_data_are_measured_and_decide() {
    let place = three_splits();
    let policy = "quick --set network.widths=[4,8,8] --set train.evaluate_every=1 --set batch.policy=plateau --set \
                  batch.metric=validation_loss --set batch.initial=4 --set batch.max=16 --set batch.patience=0 \
                  --set batch.threshold=0.9 --epochs 4";
    let output = place.run(&format!("train {policy} --data flowers --out run"));
    let first: Vec<&str> = output.lines().take(2).collect();
    assert!(first[0].contains("32 images of the folder flowers (images with separate"), "{output}");
    assert_eq!(first[1], "Images: 32 for training, 10 for validation, 8 for testing");
    let epochs = place.read("run/epochs.csv");
    assert!(column(&epochs, "validation_accuracy").iter().all(|cell| !cell.is_empty()), "{epochs}");
    // The test images wait for the end.
    let tested = column(&epochs, "test_accuracy");
    assert!(tested[..3].iter().all(|cell| cell.is_empty()) && !tested[3].is_empty(), "{epochs}");
    let decisions = place.read("run/decisions.csv");
    assert!(decisions.contains("validation"), "{decisions}");
    place.run("train --resume run --epochs 5");
    assert!(place.run("evaluate run").contains("on 8 images"));

    let both = format!("train {TINY} --data flowers --set data.validation=5 --out both");
    place.refuse_saying(2, &both, &["data.validation is 5", "has 10 validation images of its own"]);
    let without = format!("train {policy} --data shapes:80,20 --out without");
    place.refuse_saying(2, &without, &["batch.metric is validation_loss", "set data.validation"]);
    assert!(!place.path("both").exists() && !place.path("without").exists());
    assert!(place.run("data info flowers").contains("images          train validation      test"));
    let exported = place.command("data export flowers exported").output().unwrap();
    assert!(text(&exported.stderr).contains("the 10 validation images are not written"));
}

#[test]
fn a_comparison_is_judged_on_the_validation_images_of_the_data() {
    let place = three_splits();
    fs::write(
        place.path("own.toml"),
        "recipe = \"quick\"\nbase = \"a\"\nseeds = [0]\nset = [\"network.widths=[4,8,8]\", \"batch.policy=fixed\", \
         \"train.epochs=1\"]\n[[arm]]\nname = \"a\"\nset = [\"batch.size=8\"]\n[[arm]]\nname = \"b\"\nset = \
         [\"batch.size=16\"]\n",
    )
    .unwrap();
    let output = place.run("compare own.toml --data flowers --out results");
    assert!(output.contains("validation accuracy 0."), "{output}");
    assert!(place.read("results/results.csv").contains("validation_accuracy"));
}

#[test]
fn an_archive_and_arrays_are_trained_on() {
    let place = three_splits();
    let mut zip = zip::ZipWriter::new(fs::File::create(place.path("flowers.zip")).unwrap());
    for (path, content) in super::contents(&place.path("flowers")) {
        let name = path.strip_prefix(place.folder()).unwrap().to_str().unwrap().to_owned();
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(&content).unwrap();
    }
    zip.finish().unwrap();
    place.run(&format!("train {TINY} --data flowers --epochs 1 --out folder"));
    place.run(&format!("train {TINY} --data flowers.zip --epochs 1 --out zipped"));
    let weights = |run: &str| fs::read(checkpoint(&place.path(run), 1)).unwrap();
    // The metadata names the data; the weights are behind it.
    let tail = |bytes: Vec<u8>| bytes[bytes.len() - 1000..].to_vec();
    assert!(tail(weights("folder")) == tail(weights("zipped")));
    assert!(place.run("evaluate zipped").contains("on 8 images of the archive flowers.zip"));
    place.run("train --resume zipped --epochs 2 --data flowers");
}

#[test]
fn damaged_images_are_listed_or_left_out() {
    let place = Place::new();
    images(&place.path("flowers/rose"), 0, 0, 20);
    images(&place.path("flowers/tulip"), 1, 20, 40);
    for index in 0..12 {
        fs::write(place.path(&format!("flowers/rose/{index}.png")), "no image").unwrap();
    }
    let train = format!("train {TINY} --data flowers --epochs 1 --out run");
    let problem = [
        "12 of 40 images cannot be read",
        "rose/0.png: cannot be read",
        "; and 2 more",
        "data.damaged=skip",
    ];
    place.refuse_saying(1, &train, &problem);
    place.refuse_saying(1, "data info flowers --damaged bad.txt", &problem);
    let listed = place.read("bad.txt");
    assert_eq!(listed.lines().count(), 12);
    assert!(
        listed
            .lines()
            .all(|line| line.contains(".png\t") && line.contains("cannot be read as an image"))
    );
    place.refuse_saying(1, "data info flowers --damaged bad.txt", &["bad.txt: already exists"]);

    let output = place.run(&format!("{train} --set data.damaged=skip"));
    assert!(output.contains("12 of 40 images cannot be read and are left out ("), "{output}");
    // A run remembers it.
    place.run("train --resume run --epochs 2");
    assert!(place.run("evaluate run").contains("Test accuracy: "));
    place.refuse_saying(
        2,
        &format!("{train} --set data.damaged=ignore"),
        &["data.damaged", "error", "skip"],
    );
}

#[test]
fn validation_images_are_taken_from_each_class() {
    let place = Place::new();
    images(&place.path("flowers/rose"), 0, 0, 50);
    images(&place.path("flowers/tulip"), 1, 50, 60);
    images(&place.path("flowers/aster"), 2, 60, 62);
    let train = format!("train {TINY} --data flowers --set data.validation=10 --epochs 1");
    let output = place.run(&format!("{train} --json --out run"));
    assert!(
        output.contains("Images: 39 for training, 10 for validation, 13 for testing"),
        "{output}"
    );
    // Of 40, 8 and 1 training images.
    assert!(output.contains("There are no validation images of aster"), "{output}");
    let validated = output.lines().find(|line| line.contains("\"split\":\"validation\"")).unwrap();
    let validated: serde_json::Value = serde_json::from_str(validated).unwrap();
    let sums = validated["confusion"].as_array().unwrap().iter().map(|row| {
        row.as_array().unwrap().iter().filter_map(serde_json::Value::as_u64).sum::<u64>()
    });
    assert_eq!(sums.collect::<Vec<_>>(), [0, 8, 2]);
    assert!(validated["balanced_accuracy"].is_number());
    assert!(place.read("run/recipe.toml").contains("\nvalidation = \"stratified\"\n"));
}

#[test]
fn a_run_without_a_record_of_the_choice_keeps_the_random_one() {
    let place = Place::new();
    images(&place.path("flowers/rose"), 0, 0, 50);
    images(&place.path("flowers/tulip"), 1, 50, 60);
    let train = format!("train {TINY} --data flowers --set data.validation=10");
    place.run(&format!("{train} --epochs 0 --out new"));
    place.run(&format!("{train} --epochs 0 --out old"));
    let recipe = place.read("old/recipe.toml");
    let line = "validation = \"stratified\"\n";
    assert_eq!(recipe.matches(line).count(), 1);
    fs::write(place.path("old/recipe.toml"), recipe.replace(line, "")).unwrap();
    // Nor did the state say how the run was made.
    let state = place.path("old/state/state.safetensors");
    let bytes = super::with_header(&fs::read(&state).unwrap(), |header| {
        let metadata = header["__metadata__"].as_object_mut().unwrap();
        metadata.retain(|key, _| ["progress", "marks"].contains(&&**key));
    });
    fs::write(&state, bytes).unwrap();
    for run in ["new", "old"] {
        place.run(&format!("train --resume {run} --epochs 1"));
    }
    assert!(!place.read("old/recipe.toml").contains(line));
    assert!(place.read("new/recipe.toml").contains(line));
    // They were trained and validated on other images.
    let confusion = |run: &str| {
        let file: serde_json::Value =
            serde_json::from_str(&place.read(&format!("{run}/evaluation.json"))).unwrap();
        let rows = file["validation"]["confusion"].as_array().unwrap().clone();
        rows.iter()
            .map(|row| row.as_array().unwrap().iter().filter_map(|n| n.as_u64()).sum())
            .collect::<Vec<u64>>()
    };
    assert_eq!(confusion("new"), [8, 2]);
    let (_, random) = {
        let set = crescendo::data::open(&place.path("flowers")).unwrap();
        crescendo::data::split_validation(&set.train, 10, crescendo::data::ValidationChoice::Random)
    };
    let count = |class: u16| random.labels.iter().filter(|&&label| label == class).count() as u64;
    assert_eq!(confusion("old"), [count(0), count(1)]);
    // The checkpoint says it too, for the images of precise statistics.
    let metadata = |run: &str| {
        let bytes = fs::read(checkpoint(&place.path(run), 1)).unwrap();
        text(&bytes[..bytes.len().min(20_000)]).contains("\"validation\":\"stratified\"")
    };
    assert!(metadata("new") && !metadata("old"));
    place.run("evaluate new old --bn precise");
}

#[test]
fn classes_can_have_weights_in_the_training_loss() {
    let place = Place::new();
    images(&place.path("flowers/rose"), 0, 0, 50);
    images(&place.path("flowers/tulip"), 1, 50, 60);
    let train = |weights: &str, out: &str| {
        format!(
            "train {TINY} --data flowers --epochs 2 --set data.class_weights={weights} --out {out}"
        )
    };
    for (weights, out) in
        [("none", "none"), ("balanced", "balanced"), ("[0.6,3]", "list"), ("[0.625,3.125]", "own")]
    {
        // Of 40 and 8 training images, the balanced weights are 0.6 and 3.
        place.run(&train(weights, out));
    }
    let losses =
        |run: &str| column(&place.read(&format!("{run}/epochs.csv")), "train_loss").join(" ");
    assert_eq!(losses("balanced"), losses("list"));
    assert_ne!(losses("balanced"), losses("none"));
    // Only their ratio matters, but for rounding; the list above has the same.
    let near =
        |run: &str| losses(run).split(' ').map(|loss| loss.parse().unwrap()).collect::<Vec<f64>>();
    assert!(near("own").iter().zip(near("list")).all(|(own, list)| (own - list).abs() < 1e-3));
    // Evaluations do not have them.
    let json = place.run("evaluate balanced --json");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let result = &json["results"][0];
    let accuracies = result["class_accuracies"].as_array().unwrap();
    let mean = accuracies.iter().filter_map(serde_json::Value::as_f64).sum::<f64>() / 2.0;
    assert!((result["balanced_accuracy"].as_f64().unwrap() - mean).abs() < 1e-12);
    assert!(
        place
            .run("evaluate balanced")
            .contains(&format!("\nBalanced accuracy (mean over the classes): {mean:.4}\n"))
    );
    assert!(place.read("balanced/report.html").contains("balanced accuracy"));

    for (weights, part) in [
        ("[1,2,3]", "has 3 weights, but there are 2 classes"),
        ("[0,1]", "must be numbers above 0"),
        ("[1,-1]", "must be numbers above 0"),
        ("even", "\"balanced\""),
    ] {
        let complaint = place.refuse(2, &train(weights, "wrong"));
        check_line(&complaint, &["data.class_weights", part]);
    }
}

#[test]
fn the_advice_after_a_loss_that_is_not_a_number_fits_its_cause() {
    let place = Place::new();
    for (folder, same) in [("flowers", false), ("same", true)] {
        for (class, name) in ["rose", "tulip"].into_iter().enumerate() {
            images(&place.path(&format!("{folder}/{name}")), class as u32, 0, 20);
            if same {
                for index in 0..20 {
                    let from = place.path("flowers/rose/0.png");
                    fs::copy(from, place.path(&format!("{folder}/{name}/{index}.png"))).unwrap();
                }
            }
        }
    }
    let train = |data: &str, changes: &str| {
        format!("train {TINY} --data {data} --epochs 3 --out {data} {changes}")
            .replace("--out ", "--out run-")
    };
    let diverge = "--set optimizer.learning_rate=1e30";
    place.refuse_saying(1, &train("flowers", diverge), &["not a number", "a lower learning rate"]);
    fs::remove_dir_all(place.path("run-flowers")).unwrap();
    let weights = format!("{diverge} --set data.class_weights=[1,1e30]");
    place.refuse_saying(
        1,
        &train("flowers", &weights),
        &["not a number", "data.class_weights", "times another"],
    );
    place.refuse_saying(
        1,
        &train("same", diverge),
        &["not a number", "all training images are identical", "data info"],
    );
}

#[test]
fn a_network_of_padded_images_gets_padded_images() {
    let place = Place::new();
    let images = |count: u8| {
        (0..count)
            .flat_map(|image| (0..784_u32).map(move |at| (at * u32::from(image % 3 + 1)) as u8))
    };
    for (split, count) in [("train", 40), ("t10k", 10)] {
        let size = [0, 0, 0, count, 0, 0, 0, 28, 0, 0, 0, 28];
        let pixels: Vec<u8> = [0, 0, 8, 3].into_iter().chain(size).chain(images(count)).collect();
        let labels: Vec<u8> =
            [0, 0, 8, 1, 0, 0, 0, count].into_iter().chain((0..count).map(|i| i % 3)).collect();
        fs::create_dir_all(place.path("mnist")).unwrap();
        fs::write(place.path(&format!("mnist/{split}-images-idx3-ubyte")), pixels).unwrap();
        fs::write(place.path(&format!("mnist/{split}-labels-idx1-ubyte")), labels).unwrap();
    }
    let output = place.run(&format!("train {TINY} --data mnist --epochs 1 --out run"));
    assert!(
        output.contains("the images are grey, 28x28: they are padded with zeros to 32x32"),
        "{output}"
    );
    assert!(place.run("evaluate run").contains("on 10 images"));
    let value = |x: u32, y: u32| image::Luma([((y * 28 + x) * 2) as u8]);
    image::GrayImage::from_fn(28, 28, value).save(place.path("small.png")).unwrap();
    let inside = |at: u32| (2..30).contains(&at);
    let padded = |x, y| if inside(x) && inside(y) { value(x - 2, y - 2) } else { image::Luma([0]) };
    image::GrayImage::from_fn(32, 32, padded).save(place.path("padded.png")).unwrap();
    let output = place.run("predict run/weights/epoch-0001.safetensors small.png padded.png");
    let answers: Vec<&str> =
        output.lines().filter_map(|line| line.split_once(": ")).map(|line| line.1).collect();
    assert_eq!((answers.len(), answers[0]), (2, answers[1]));
}
