//! Other data than CIFAR-10: folders of images, CIFAR-100, fine-tuning.

use std::fs;
use std::path::Path;

use super::{Place, check_line, check_refusal, checkpoint, column, text};
use image::{Rgb, RgbImage};
use safetensors::SafeTensors;

/// A network and a batch size for a few dozen images.
const TINY: &str = "quick --set network.widths=[4,8,8] --set batch.policy=fixed --set batch.size=8";

/// Writes an image whose pattern shows its class. No two images are the same.
fn paint(path: &Path, class: u32, index: u32, [width, height]: [u32; 2]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pixel = |x: u32, y: u32| {
        let wave = [x, y, x + y][class as usize % 3] * 16;
        Rgb([wave as u8, (index * 9) as u8, (wave / 2) as u8])
    };
    RgbImage::from_fn(width, height, pixel).save(path).unwrap();
}

/// Writes a folder of three classes with `count` images each, PNG and JPEG, of different sizes.
fn flowers(place: &Place, folder: &str, count: u32) {
    for (class, name) in ["rose", "tulip", "oxeye daisy"].into_iter().enumerate() {
        for index in 0..count {
            let ending = if index.is_multiple_of(3) { "jpg" } else { "png" };
            let path = place.path(folder).join(name).join(format!("{index}.{ending}"));
            paint(&path, class as u32, index, [32 + 5 * (index % 4), 32 + 7 * (index % 2)]);
        }
    }
}

#[test]
fn fast94_fits_its_batches_to_a_folder_of_images() {
    let place = Place::new();
    flowers(&place, "flowers", 50);
    let train = "train fast94 --data flowers --set network.widths=[4,8,8] --epochs 2 --out run";
    let output = place.run(train);
    let note = "Batches have at most 4 images, so that an epoch of 120 has batch.least_updates = 25 updates.";
    assert!(output.contains(note), "{output}");
    let output = place.run("evaluate run");
    assert!(output.contains("on 30 images of the folder flowers"), "{output}");
}

#[test]
fn the_larger_fast_recipes_train() {
    let place = Place::new();
    let small = "--data shapes:144,100 --set network.widths=[4,8,8] --epochs 2";
    place.run(&format!("train fast96 {small} --out fast96"));
    assert!(place.run("evaluate fast96").contains("mean of 6 views of each"));
    let sides = "--set network.head.hidden=16 --set data.sides=[[1,16],[2,32]]";
    place.run(&format!("train report-fast {small} {sides} --out report-fast"));
    assert!(place.run("evaluate report-fast").contains("mean of 2 views of each"));
}

#[test]
fn a_run_trains_on_a_folder_of_images() {
    let place = Place::new();
    flowers(&place, "flowers", 15);
    fs::write(place.path("flowers/LICENSE"), "free").unwrap();
    let output = place.run(&format!("train {TINY} --data flowers --epochs 1 --out run"));
    for line in [
        "36 images of the folder flowers (images, 20 % of each class for testing)",
        "\nnetwork.classes is 3, not 10: the folder flowers has 3 classes\n",
        "\n1 file is ignored (not an image): LICENSE\n",
        "\nTest accuracy: ",
    ] {
        assert!(output.contains(line), "no {line:?} in {output}");
    }
    assert!(place.read("run/recipe.toml").contains("\nclasses = 3\n"));
    // A run in two sessions has the same result as one in a single session.
    place.run("train --resume run --epochs 2");
    place.run(&format!("train {TINY} --data ./flowers --epochs 2 --out whole"));
    let weights = |run: &str| fs::read(checkpoint(&place.path(run), 2)).unwrap();
    assert!(weights("run") == weights("whole"));

    let output = place.run("evaluate run");
    assert!(output.contains("on 9 images of the folder flowers"), "{output}");
    paint(&place.path("new one.jpeg"), 1, 200, [300, 200]);
    let mut predict = place.command("predict run/weights/epoch-0002.safetensors");
    let output = predict.arg("new one.jpeg").output().unwrap();
    let (said, warned) = (text(&output.stdout), text(&output.stderr));
    assert!(said.starts_with("new one.jpeg: ") && said.contains("oxeye daisy 0."), "{said}");
    assert!(warned.contains("1 of 1 images were resized to 32x32"), "{warned}");

    let info = place.run("data info flowers");
    for part in ["the folder flowers", "oxeye daisy        12         3", "LICENSE", "fingerprint"]
    {
        assert!(info.contains(part), "no {part:?} in {info}");
    }
    place.run("data export flowers exported");
    place.run("train --resume run --epochs 3 --data exported");
}

#[test]
fn the_test_split_is_saved_with_the_run() {
    let place = Place::new();
    flowers(&place, "flowers", 8);
    let split = "--data flowers --test-split 0.5";
    let output = place.run(&format!("train {TINY} {split} --epochs 1 --out run"));
    assert!(output.contains("12 images of the folder flowers (images, 50 % of each"), "{output}");
    let recipe: toml::Table = place.read("run/recipe.toml").parse().unwrap();
    let location = recipe["run"]["data"].as_str().unwrap().to_owned();
    assert!(location.starts_with("images:0.5,/") && location.ends_with("/flowers"), "{location}");
    place.run("train --resume run --epochs 2");
    assert!(place.run("evaluate run").contains("on 12 images of the folder flowers"));
    assert!(place.run(&format!("data info {location} --json")).contains("\"test\":12"));
    assert!(place.run("evaluate run --data flowers").contains("on 12 images"));
    let output = place.command("evaluate run --data flowers --test-split 0.25").output().unwrap();
    let warning = text(&output.stderr);
    assert!(
        warning.contains("is split differently") && warning.contains("trained on"),
        "{warning}"
    );
    assert_eq!(text(&place.command("evaluate run").output().unwrap().stderr), "");
    let other = place.refuse(1, "train --resume run --epochs 3 --data flowers");
    check_line(&other, &["is not the data", "images:0.5,", "--data"]);

    fs::rename(place.path("flowers"), place.path("moved")).unwrap();
    place.refuse_saying(1, "train --resume run --epochs 3", &["/flowers: there is no such"]);
    place.run("train --resume run --epochs 3 --data moved --test-split 0.5");
    assert!(place.run("evaluate run --data moved --test-split 0.5").contains("on 12 images"));
    assert_eq!(column(&place.read("run/epochs.csv"), "epoch"), ["1", "2", "3"]);
}

#[test]
fn test_images_can_be_in_a_separate_folder() {
    let place = Place::new();
    flowers(&place, "my flowers/train", 8);
    flowers(&place, "my flowers/test", 2);
    // Far from square.
    paint(&place.path("my flowers/train/rose/wide.png"), 0, 99, [90, 30]);
    let mut train = place.command(&format!("train {TINY} --epochs 1 --out run"));
    let output = train.args(["--data", "my flowers"]).output().unwrap();
    let said = text(&output.stdout);
    for part in [
        "25 images of the folder my flowers (images with a separate folder of test images)",
        "\n1 of 31 images are far from square and will be distorted, most of all \
         train/rose/wide.png (90x30)\n",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}{}", text(&output.stderr));
    }
    let output = place.command("evaluate run").output().unwrap();
    assert!(text(&output.stdout).contains("on 6 images of the folder my flowers"));
    assert!(text(&output.stderr).contains("warning: 1 of 31 images are far from square"));
    let mut again = place.command(&format!("train {TINY} --test-split 0.5"));
    let output = again.args(["--data", "my flowers"]).output().unwrap();
    let complaint = check_refusal(&output, 1, "train");
    check_line(&complaint, &["my flowers: ", "leave --test-split out"]);
    assert!(!place.path("runs").exists());
}

#[test]
fn problems_of_an_image_folder_are_named() {
    let place = Place::new();
    flowers(&place, "flowers", 4);
    let train = format!("train {TINY} --data flowers");
    let refuse = |part: &[&str]| {
        place.refuse_saying(1, &train, part);
        place.refuse_saying(1, "data info flowers", part);
    };
    fs::create_dir(place.path("flowers/aster")).unwrap();
    fs::write(place.path("flowers/aster/notes.txt"), "later").unwrap();
    refuse(&["flowers/aster: has no PNG, JPEG, WebP, BMP or GIF images", "move it elsewhere"]);
    paint(&place.path("flowers/aster/only.png"), 0, 0, [32, 32]);
    refuse(&["flowers/aster: has only one image"]);
    fs::remove_dir_all(place.path("flowers/aster")).unwrap();
    let png = fs::read(place.path("flowers/rose/1.png")).unwrap();
    fs::write(place.path("flowers/rose/1.png"), &png[..png.len() - 30]).unwrap();
    refuse(&["flowers: 1 of 12 images cannot be read", "flowers/rose/1.png: ", "repair or remove"]);
    fs::remove_dir_all(place.path("flowers/rose")).unwrap();
    fs::remove_dir_all(place.path("flowers/tulip")).unwrap();
    refuse(&["flowers: has images of one class only (oxeye daisy)"]);
    fs::remove_dir_all(place.path("flowers/oxeye daisy")).unwrap();
    refuse(&["flowers: there is no data set in this folder", "one for each class"]);
    place.refuse_saying(1, "data info images:0.2,nowhere", &["nowhere: there is no such"]);
    place.refuse_saying(1, "data info images:2,flowers", &["between 0 and 1"]);
    for share in ["0", "1", "-1", "nan", "half"] {
        place.refuse_value(&format!("{train} --test-split={share}"), "between 0 and 1");
    }
    place.refuse(2, &format!("train {TINY} --test-split 0.5"));
    place.refuse_saying(1, "data info shapes --test-split 0.5", &["shapes: there is no such"]);
    assert!(!place.path("runs").exists());
}

#[test]
fn the_number_of_classes_follows_the_data_unless_the_user_sets_it() {
    let place = Place::new();
    flowers(&place, "flowers", 10);
    let own =
        "base = \"quick\"\n[network]\nwidths = [4, 8, 8]\n[batch]\npolicy = \"fixed\"\nsize = 8\n";
    fs::write(place.path("silent.toml"), own).unwrap();
    fs::write(place.path("three.toml"), "base = \"silent.toml\"\n[network]\nclasses = 3\n")
        .unwrap();
    fs::write(place.path("ten.toml"), "base = \"silent.toml\"\n[network]\nclasses = 10\n").unwrap();
    fs::write(place.path("above.toml"), "base = \"ten.toml\"\n").unwrap();
    let train =
        |recipe: &str| format!("train {recipe} --data flowers --epochs 0 --out {recipe}.run");
    assert!(place.run(&train("silent.toml")).contains("network.classes is 3, not 10"));
    assert!(!place.run(&train("three.toml")).contains("network.classes"));
    let mut told = vec![train("ten.toml"), train("above.toml")];
    for change in ["network.classes=10", "network={classes=10}", "network.classes=4"] {
        told.push(format!(
            "{} --set {change}",
            train("silent.toml").replace("silent.toml.run", "x")
        ));
    }
    for command in told {
        place.refuse_saying(1, &command, &["flowers has 3 classes", "--set network.classes=3"]);
    }
}

#[test]
fn a_run_trains_on_cifar_100() {
    let place = Place::new();
    fs::create_dir(place.path("c100")).unwrap();
    for (name, images) in [("train.bin", 200_u32), ("test.bin", 100)] {
        let record = |index: u32| {
            let pixel = move |at: u32| (at * (index % 7 + 1) + index) as u8;
            [(index % 20) as u8, (index % 100) as u8].into_iter().chain((0..3072).map(pixel))
        };
        let bytes: Vec<u8> = (0..images).flat_map(record).collect();
        fs::write(place.path("c100").join(name), bytes).unwrap();
    }
    let info = place.run("data info c100");
    for part in ["(CIFAR-100 binary folder)", "worm", "aquarium_fish"] {
        assert!(info.contains(part), "no {part:?} in {info}");
    }
    let output = place.run(&format!("train {TINY} --data c100 --epochs 1 --out run"));
    assert!(output.contains("network.classes is 100, not 10: other images in the"), "{output}");
    assert!(place.run("evaluate run").contains("on 100 images"));
    place.run("data export c100 exported");
    assert!(place.run("data info exported").contains("worm"));
    fs::write(place.path("c100/test.bin"), [0; 3073]).unwrap();
    place.refuse_saying(1, "data info c100", &["c100/test.bin: is 3073 bytes", "3074"]);
}

/// The tensors of a checkpoint: name, shape, bytes.
fn tensors(path: &Path) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = tensors
        .iter()
        .map(|(name, view)| (name.to_owned(), view.shape().to_vec(), view.data().to_vec()))
        .collect();
    tensors.sort();
    tensors
}

#[test]
fn a_checkpoint_can_be_fine_tuned_on_other_classes() {
    let place = Place::new();
    flowers(&place, "flowers", 10);
    place.run(&format!("train {TINY} --data shapes:80,10 --epochs 1 --out old"));
    let init = "old/weights/epoch-0001.safetensors";
    let tune = format!("train {TINY} --data flowers --seed 3");
    let output = place.run(&format!("{tune} --init {init} --epochs 0 --out begun"));
    let line = "\nThe checkpoint has 10 classes and the folder flowers has 3: the last layer is \
                reinitialised.\n";
    assert!(output.contains(line), "{output}");
    place.run(&format!("{tune} --epochs 0 --out fresh"));
    let model = |path: &str| tensors(&place.path(path));
    let old = model(init);
    let fresh = model("fresh/weights/epoch-0000.safetensors");
    let begun = model("begun/weights/epoch-0000.safetensors");
    assert_eq!((begun.len(), old.len()), (fresh.len(), fresh.len()));
    for ((begun, old), fresh) in begun.iter().zip(&old).zip(&fresh) {
        let is_new = begun.0 == "output_layer.fc.weight" || begun.0 == "output_layer.fc.bias";
        assert!(begun == if is_new { fresh } else { old }, "{}", begun.0);
        assert_eq!(is_new, old.1 != fresh.1, "{}", begun.0);
    }
    place.run("train --resume begun --epochs 1");
    assert!(place.run("evaluate begun").contains("Test accuracy"));
    // A checkpoint that differs in other layers is refused.
    let wider = format!("{tune} --set network.widths=[4,8,16] --init {init} --out wider");
    place.refuse_saying(1, &wider, &[init, "another network"]);
    let hidden = format!("{tune} --set network.head.hidden=8 --init {init} --out hidden");
    place.refuse_saying(1, &hidden, &[init, "another network"]);
    assert!(!place.path("wider").exists() && !place.path("hidden").exists());
}
