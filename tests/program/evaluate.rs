//! `evaluate` and `predict`: checkpoints, images, options.

use std::fs;
use std::path::Path;

use super::{Place, SMALL, array_rows, column, text};
use crescendo::data::{ImageShape, Split, shapes};
use image::{ImageBuffer, Rgb, RgbImage, imageops};
use safetensors::SafeTensors;
use serde_json::Value;

const ELEMENTS: usize = ImageShape::CIFAR.elements();

const CHECKPOINT: &str = "run/weights/epoch-0004.safetensors";

/// A run with a checkpoint after each of its four epochs.
fn trained() -> Place {
    Place::with_run("--epochs 4 --set train.checkpoint_every=1")
}

/// The test images of [`SMALL`].
fn test_images() -> Split {
    shapes::generate(0, 144, 100).test
}

/// The lines of an evaluation without its table.
fn lines(output: &str) -> Vec<&str> {
    let wanted = |line: &&str| line.starts_with("Restored") || line.starts_with("Test accuracy");
    output.lines().filter(wanted).collect()
}

fn json(place: &Place, arguments: &str) -> Value {
    serde_json::from_str(&place.run(&format!("evaluate {arguments} --json"))).unwrap()
}

#[test]
fn checkpoints_are_evaluated_in_the_order_asked_for() {
    let place = trained();
    let epochs = place.read("run/epochs.csv");
    let (losses, accuracies) = (column(&epochs, "train_loss"), column(&epochs, "test_accuracy"));
    let expected = |asked: &[usize]| -> Vec<String> {
        let two = |&epoch: &usize| {
            let (loss, accuracy) = (losses[epoch - 1], accuracies[epoch - 1]);
            let restored = format!("Restored model parameters for checkpoint {epoch} loss {loss}");
            [restored, format!("Test accuracy: {accuracy}")]
        };
        asked.iter().flat_map(two).collect()
    };
    for (arguments, asked) in [
        ("run --checkpoints 4,1,3", &[4, 1, 3][..]),
        ("run --checkpoints 2 --checkpoints 1", &[2, 1]),
        ("run", &[4]),
        (CHECKPOINT, &[4]),
        ("run/weights/epoch-0002.safetensors run run --threads 1", &[2, 4, 4]),
    ] {
        let output = place.run(&format!("evaluate {arguments}"));
        assert_eq!(lines(&output), expected(asked), "{arguments}");
    }
    assert!(place.read("run/log.txt").contains(&format!("Test accuracy: {}\n", accuracies[3])));
}

#[test]
fn json_agrees_with_the_text_output() {
    let place = trained();
    let json = json(&place, "run --checkpoints 3,4");
    let results = json["results"].as_array().unwrap();
    let mut said = Vec::new();
    for result in results {
        let confusion: Vec<Vec<u64>> = serde_json::from_value(result["confusion"].clone()).unwrap();
        let correct: u64 = (0..10).map(|class| confusion[class][class]).sum();
        let images: u64 = confusion.iter().flatten().sum();
        assert_eq!((&result["correct"], &result["images"]), (&correct.into(), &images.into()));
        assert_eq!((images, &result["data"]), (100, &"shapes".into()));
        let accuracy = correct as f64 / images as f64;
        assert_eq!(result["accuracy"], accuracy);
        for (class, of_class) in result["class_accuracies"].as_array().unwrap().iter().enumerate() {
            // Every class has ten images.
            assert_eq!(*of_class, confusion[class][class] as f64 / 10.0);
            assert_eq!(*of_class, result["class_recalls"][class]);
            let predicted: u64 = confusion.iter().map(|counts| counts[class]).sum();
            let precision =
                (predicted > 0).then(|| confusion[class][class] as f64 / predicted as f64);
            assert_eq!(result["class_precisions"][class], serde_json::json!(precision));
        }
        assert_eq!(result["top5_accuracy"], Value::Null);
        let bins = result["calibration"].as_array().unwrap();
        let gap = |bin: &Value| match (bin["accuracy"].as_f64(), bin["confidence"].as_f64()) {
            (Some(accuracy), Some(confidence)) => {
                bin["images"].as_f64().unwrap() * (accuracy - confidence).abs()
            }
            _ => 0.0,
        };
        let error = bins.iter().map(gap).sum::<f64>() / 100.0;
        assert!((result["calibration_error"].as_f64().unwrap() - error).abs() < 1e-9);
        assert_eq!(bins.len(), 15);
        assert_eq!(result["classes"].as_array().unwrap().len(), 10);
        let (epoch, loss) = (&result["checkpoint"], result["loss"].as_f64().unwrap());
        said.push(format!("Restored model parameters for checkpoint {epoch} loss {loss:.6}"));
        said.push(format!("Test accuracy: {accuracy:.4}"));
        assert!(
            Path::new(result["file"].as_str().unwrap())
                .ends_with(format!("run/weights/epoch-000{epoch}.safetensors"))
        );
    }
    assert_eq!(lines(&place.run("evaluate run --checkpoints 3,4")), said);
}

/// A .npy file of images.
fn array(pixels: &[u8]) -> Vec<u8> {
    let shape = format!("({}, 3072)", pixels.len() / ELEMENTS);
    let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n");
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), pixels].concat()
}

/// The rows of probabilities in a .npy file. Each row must be a distribution.
fn probabilities(path: &Path) -> Vec<Vec<f64>> {
    let bytes = fs::read(path).unwrap();
    let rows: Vec<Vec<f64>> = array_rows(&bytes, 10).chunks(10).map(<[f64]>::to_vec).collect();
    for row in &rows {
        assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12 && row.iter().all(|&p| p >= 0.0));
    }
    rows
}

fn best(row: &[f64]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

#[test]
fn predictions_do_not_depend_on_other_images_or_threads() {
    let place = trained();
    let test = test_images();
    let whole = json(&place, "run --threads 1");
    for threads in [2, 3] {
        assert_eq!(json(&place, &format!("run --threads {threads}")), whole);
    }
    fs::write(place.path("all.npy"), array(&test.pixels)).unwrap();
    fs::write(place.path("one.npy"), array(test.image(57))).unwrap();
    fs::write(place.path("rest.npy"), array(&test.pixels[58 * ELEMENTS..])).unwrap();
    let output = place.run(&format!("predict {CHECKPOINT} all.npy --out all-p.npy"));
    let classes = whole["results"][0]["classes"].as_array().unwrap();
    let classes: Vec<&str> = classes.iter().map(|class| class.as_str().unwrap()).collect();
    let end = format!("Probabilities: all-p.npy (100, 10), columns: {}\n", classes.join(", "));
    assert!(output.ends_with(&end), "{output}");
    let all = probabilities(&place.path("all-p.npy"));
    let mut confusion = vec![vec![0; 10]; 10];
    for (row, label) in all.iter().zip(&test.labels) {
        confusion[usize::from(*label)][best(row)] += 1;
    }
    assert_eq!(whole["results"][0]["confusion"], serde_json::to_value(confusion).unwrap());
    place.run(&format!("predict {CHECKPOINT} one.npy rest.npy --threads 1 --out some-p.npy"));
    assert_eq!(probabilities(&place.path("some-p.npy")), all[57..]);
}

#[test]
fn a_checkpoint_file_is_self_contained() {
    let place = trained();
    fs::write(place.path("x.npy"), array(test_images().image(0))).unwrap();
    let predict = |file: &str| place.run(&format!("predict {file} x.npy"));
    let before = (place.run(&format!("evaluate {CHECKPOINT}")), predict(CHECKPOINT));
    fs::create_dir_all(place.path("else/where")).unwrap();
    for file in ["alone.safetensors", "else/alone.safetensors", "else/where/alone.safetensors"] {
        fs::copy(place.path(CHECKPOINT), place.path(file)).unwrap();
    }
    fs::remove_dir_all(place.path("run")).unwrap();
    for file in ["alone.safetensors", "else/alone.safetensors", "else/where/alone.safetensors"] {
        assert_eq!((place.run(&format!("evaluate {file}")), predict(file)), before);
    }
    // For a data set that is not generated, the file holds only its name.
    place.run("data export shapes:144,100 set");
    let options = "--set network.widths=[4,8,8] --set batch.steps=[[1,50]] --epochs 1 --out read";
    place.run(&format!("train quick --data set {options}"));
    let file = "else/read.safetensors";
    fs::copy(place.path("read/weights/epoch-0001.safetensors"), place.path(file)).unwrap();
    place.refuse_saying(1, &format!("evaluate {file}"), &["was trained on other images", "--data"]);
    let output = place.run(&format!("evaluate {file} --data set"));
    assert_eq!(lines(&output)[1], lines(&place.run("evaluate read --data set --checkpoints 1"))[1]);
}

/// Names as PyTorch gives them to a network that is wrapped.
#[test]
fn weights_of_a_wrapped_network_load() {
    let place = Place::with_run("--epochs 1");
    fs::write(place.path("own.toml"), "base = \"quick\"\n[network]\nwidths = [4, 8, 8]\n").unwrap();
    let bytes = fs::read(place.path("run/weights/epoch-0001.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let with = "--recipe own.toml --data shapes:144,100";
    let ours = place.run("evaluate run");
    for prefix in ["module.", "_orig_mod.", "module._orig_mod."] {
        let wrapped = tensors.iter().filter(|(name, _)| !name.ends_with("num_batches_tracked"));
        let wrapped = wrapped.map(|(name, view)| (format!("{prefix}{name}"), view));
        let wrapped = safetensors::serialize(wrapped, None).unwrap();
        fs::write(place.path("wrapped.safetensors"), wrapped).unwrap();
        let output = place.run(&format!("evaluate wrapped.safetensors {with}"));
        assert_eq!(lines(&output)[1..], lines(&ours)[1..]);
        let init = "train own.toml --data shapes:144,100 --init wrapped.safetensors --epochs 0";
        place.run(&format!("{init} --out {prefix}run"));
    }
    // Only a prefix of all names is one of a wrapper.
    let some = tensors.iter().map(|(name, view)| match name.starts_with("start") {
        true => (format!("module.{name}"), view),
        false => (name.to_owned(), view),
    });
    fs::write(place.path("some.safetensors"), safetensors::serialize(some, None).unwrap()).unwrap();
    let complaint = place.refuse(1, &format!("evaluate some.safetensors {with}"));
    assert!(complaint.contains("is missing"), "{complaint}");
    // What torch.save writes is told from damage.
    for start in [&b"PK\x03\x04\x00\x00\x08\x08"[..], b"\x80\x02\x8a\nl\xfc\x9c"] {
        fs::write(place.path("model.pth"), [start, &[7; 100]].concat()).unwrap();
        let parts = ["model.pth", "torch.load(\"model.pth\"", "safetensors.torch.save_file"];
        place.refuse_saying(1, &format!("evaluate model.pth {with}"), &parts);
    }
}

#[test]
fn a_file_of_another_program_is_evaluated_with_a_recipe() {
    let place = Place::with_run("--epochs 1 --set data.normalize=dataset");
    let own = "base = \"quick\"\n[network]\nwidths = [4, 8, 8]\n[data]\nnormalize = \"dataset\"\n";
    fs::write(place.path("own.toml"), own).unwrap();
    let bytes = fs::read(place.path("run/weights/epoch-0001.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let bare = safetensors::serialize(tensors.iter(), None).unwrap();
    fs::write(place.path("bare.safetensors"), bare).unwrap();
    let parts = ["bare.safetensors", "has no recipe", "--recipe"];
    place.refuse_saying(1, "evaluate bare.safetensors --data shapes:144,100", &parts);
    place.refuse_saying(1, "predict bare.safetensors x.npy", &parts);

    let output = place.run("evaluate bare.safetensors --recipe own.toml --data shapes:144,100");
    let ours = place.run("evaluate run");
    assert_eq!(lines(&output)[0], "Restored model parameters of bare.safetensors");
    assert_eq!(lines(&output)[1..], lines(&ours)[1..]);
    // The tables agree as well.
    assert_eq!(
        output.lines().skip(1).collect::<Vec<_>>(),
        ours.lines().skip(1).collect::<Vec<_>>()
    );
    let json = json(&place, "bare.safetensors --recipe own.toml --data shapes:144,100");
    assert_eq!(
        (&json["results"][0]["checkpoint"], &json["results"][0]["loss"]),
        (&Value::Null, &Value::Null)
    );
    fs::write(place.path("x.npy"), array(test_images().image(0))).unwrap();
    let output =
        place.run("predict bare.safetensors x.npy --recipe own.toml --data shapes:144,100");
    assert_eq!(output, place.run("predict run/weights/epoch-0001.safetensors x.npy"));
}

/// An image of a data set as an image file's pixels.
fn picture(image: &[u8]) -> RgbImage {
    ImageBuffer::from_fn(32, 32, |x, y| {
        Rgb([0, 1, 2].map(|channel| image[channel * 1024 + y as usize * 32 + x as usize]))
    })
}

#[test]
fn image_files_are_classified_like_arrays_of_the_same_pixels() {
    let place = Place::with_run("--epochs 2");
    let test = test_images();
    let small = picture(test.image(3));
    small.save(place.path("small.png")).unwrap();
    small.save(place.path("small.jpg")).unwrap();
    image::DynamicImage::from(small.clone()).to_rgba16().save(place.path("deep.png")).unwrap();
    // A larger image, and a file name without an extension.
    let large = imageops::resize(&small, 128, 96, imageops::FilterType::Nearest);
    large.save_with_format(place.path("large"), image::ImageFormat::Png).unwrap();
    fs::write(place.path("x.npy"), array(test.image(3))).unwrap();

    let inputs = "x.npy small.png deep.png small.jpg large";
    let arguments = format!("predict run/weights/epoch-0002.safetensors {inputs} --out p.npy");
    let output = place.command(&arguments).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "note: 1 of 5 images were resized to 32x32\n");
    let rows = probabilities(&place.path("p.npy"));
    assert_eq!((&rows[1], &rows[2]), (&rows[0], &rows[0]));
    assert_ne!(rows[3], rows[0], "a JPEG is not exact");

    let output = text(&output.stdout);
    let classes = shapes::generate(0, 1, 1).classes;
    for (line, (name, row)) in output
        .lines()
        .zip(["x.npy[0]", "small.png", "deep.png", "small.jpg", "large"].iter().zip(&rows))
    {
        let (said, top) = line.split_once(": ").unwrap();
        assert_eq!(said, *name);
        let top: Vec<(&str, f64)> = top
            .split(", ")
            .map(|class| class.rsplit_once(' ').unwrap())
            .map(|(class, probability)| (class, probability.parse().unwrap()))
            .collect();
        assert_eq!(top.len(), 3);
        assert_eq!(top[0].0, classes[best(row)]);
        assert!(top.is_sorted_by(|a, b| a.1 >= b.1), "{line}");
        for (class, probability) in top {
            let index = classes.iter().position(|name| name == class).unwrap();
            assert!((row[index] - probability).abs() <= 0.5e-4, "{line}");
        }
    }
    assert_eq!(output.lines().count(), 6);
}

#[test]
fn a_run_initialised_from_a_checkpoint_evaluates_like_it() {
    let place = Place::with_run("--epochs 1");
    let init = "run/weights/epoch-0001.safetensors";
    place.run(&format!("train {SMALL} --epochs 0 --init {init} --out next"));
    let accuracy = |run: &str| json(&place, run)["results"][0]["confusion"].clone();
    assert_eq!(accuracy("next"), accuracy("run"));
}

#[test]
fn with_flip_an_image_and_its_mirror_image_get_the_same_prediction() {
    let place = trained();
    let image = picture(test_images().image(5));
    image.save(place.path("image.png")).unwrap();
    imageops::flip_horizontal(&image).save(place.path("mirror.png")).unwrap();
    let answers = |flip: bool| -> Vec<String> {
        let output = place.run(&format!("predict {CHECKPOINT} image.png mirror.png --flip {flip}"));
        output.lines().map(|line| line.split_once(": ").unwrap().1.to_owned()).collect()
    };
    let (with, without) = (answers(true), answers(false));
    assert_eq!(with[0], with[1]);
    assert_ne!(without[0], without[1]);
    // Without the options the recipe decides, as it does during training.
    place.run(&format!("train {SMALL} --epochs 4 --set data.test_flip=true --out flipped"));
    let plain = json(&place, "run --flip true");
    let flipped = json(&place, "flipped");
    assert_eq!(plain["results"][0]["confusion"], flipped["results"][0]["confusion"]);
    assert_eq!(
        (&plain["results"][0]["views"], &flipped["results"][0]["views"]),
        (&2.into(), &2.into())
    );
    let table = place.read("flipped/epochs.csv");
    let accuracy: f64 = column(&table, "test_accuracy")[3].parse().unwrap();
    assert_eq!(flipped["results"][0]["accuracy"].as_f64(), Some(accuracy));
}

/// An image shifted by `by` pixels down and to the right, with mirrored edges.
fn shifted(image: &[u8], by: isize) -> Vec<u8> {
    let mirrored = |at: isize| match at {
        ..0 => -at as usize,
        32.. => (62 - at) as usize,
        _ => at as usize,
    };
    let pixel = |at: usize| {
        let (y, x) = (at as isize / 32 % 32 - by, at as isize % 32 - by);
        image[at / 1024 * 1024 + mirrored(y) * 32 + mirrored(x)]
    };
    (0..ELEMENTS).map(pixel).collect()
}

#[test]
fn with_shift_and_flip_six_views_of_an_image_are_averaged() {
    // Without normalisation, shifting before it is the same as after it.
    let place = Place::with_run("--epochs 4 --set data.normalize=none");
    let test = test_images();
    let images: Vec<&[u8]> = (0..20).map(|index| test.image(index)).collect();
    let answers = |by: isize, options: &str| -> Vec<Vec<f64>> {
        let pixels: Vec<u8> = images.iter().flat_map(|image| shifted(image, by)).collect();
        fs::write(place.path("x.npy"), array(&pixels)).unwrap();
        place.run(&format!("predict {CHECKPOINT} x.npy {options} --out p.npy"));
        probabilities(&place.path("p.npy"))
    };
    for (flip, shift) in [(true, 1), (false, 2)] {
        let flip = format!("--flip {flip}");
        let views = [(0.5, 0), (0.25, -shift), (0.25, shift)];
        let views = views.map(|(weight, by)| (weight, answers(by, &flip)));
        let both = answers(0, &format!("{flip} --shift {shift}"));
        assert_ne!(both, views[0].1);
        for (image, row) in both.iter().enumerate() {
            // Up to a constant, logits are the logarithms of probabilities.
            let logit = |class: usize| -> f64 {
                views.iter().map(|(weight, answers)| weight * answers[image][class].ln()).sum()
            };
            let weights: Vec<f64> = (0..10).map(|class| logit(class).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for (weight, probability) in weights.iter().zip(row) {
                assert!((weight / sum - probability).abs() < 1e-5, "{weight} {sum} {probability}");
            }
        }
    }
    // Without the options the recipe decides, as it does during training.
    let options = "--epochs 4 --set data.normalize=none --set data.test_shift=1";
    place.run(&format!("train {SMALL} {options} --set data.test_flip=true --out views"));
    let (plain, views) = (json(&place, "run --flip true --shift 1"), json(&place, "views"));
    assert_eq!(plain["results"][0]["test_loss"], views["results"][0]["test_loss"]);
    let table = place.read("views/epochs.csv");
    let accuracy: f64 = column(&table, "test_accuracy")[3].parse().unwrap();
    assert_eq!(views["results"][0]["accuracy"].as_f64(), Some(accuracy));
    let (without, plain) = (json(&place, "views --flip false --shift 0"), json(&place, "run"));
    assert_eq!(without["results"][0]["test_loss"], plain["results"][0]["test_loss"]);
    place.refuse_value("evaluate run --shift 32", "from 0 to 31");
}
