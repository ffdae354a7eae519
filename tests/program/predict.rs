//! `predict`: which inputs it takes, and what it writes.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use super::{Place, array_rows, rows, text};

fn paint(place: &Place, name: &str, size: u32, colour: [u8; 3]) {
    image::RgbImage::from_pixel(size, size, image::Rgb(colour)).save(place.path(name)).unwrap();
}

/// With a run, and a folder of images in folders.
fn place() -> Place {
    let place = Place::with_run("--epochs 1");
    fs::create_dir_all(place.path("photos/more")).unwrap();
    paint(&place, "photos/b.png", 32, [200, 10, 10]);
    paint(&place, "photos/a.jpg", 50, [10, 200, 10]);
    paint(&place, "photos/more/c, d.png", 32, [10, 10, 200]);
    fs::write(place.path("photos/notes.txt"), "text").unwrap();
    fs::write(place.path("photos/.hidden.png"), "hidden").unwrap();
    place
}

#[test]
fn folders_and_listed_paths_are_the_same_as_their_files() {
    let place = place();
    let output = place.command("predict run photos").output().unwrap();
    assert!(output.status.success());
    let said = text(&output.stdout);
    let names: Vec<&str> = said.lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(names, ["photos/a.jpg", "photos/b.png", "photos/more/c, d.png"]);
    assert!(text(&output.stderr).contains("1 of 3 images were resized to 32x32"));

    let mut listed = place.command("predict run -");
    let mut child =
        listed.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"photos/a.jpg\r\nphotos/b.png\n\nphotos/more/c, d.png")
        .unwrap();
    assert_eq!(text(&child.wait_with_output().unwrap().stdout), said);
}

#[test]
fn probabilities_are_the_same_in_every_format() {
    let place = place();
    place.run("predict run photos --out p.csv");
    let json: Value =
        serde_json::from_str(&place.run("predict run photos --json --out p.npy")).unwrap();
    let table = place.read("p.csv");
    let header: Vec<&str> = table.lines().next().unwrap().split(',').collect();
    let classes: Vec<&str> =
        json["classes"].as_array().unwrap().iter().map(|class| class.as_str().unwrap()).collect();
    assert_eq!(header, [&["file", "class"], &classes[..]].concat());
    assert!(table.contains("\n\"photos/more/c, d.png\","), "{table}");
    let npy = fs::read(place.path("p.npy")).unwrap();
    let numbers = array_rows(&npy, 10);
    let predictions = json["predictions"].as_array().unwrap();
    assert_eq!(predictions.len(), 3);
    for (index, prediction) in predictions.iter().enumerate() {
        let expected = &numbers[10 * index..][..10];
        let probabilities: Vec<f64> =
            serde_json::from_value(prediction["probabilities"].clone()).unwrap();
        assert_eq!(probabilities, expected);
        let most = (0..10).max_by(|&a, &b| expected[a].total_cmp(&expected[b])).unwrap();
        assert_eq!(prediction["class"], classes[most]);
        let row = rows(&table)[index + 1].clone();
        let cells: Vec<f64> =
            row[row.len() - 10..].iter().map(|cell| cell.parse().unwrap()).collect();
        assert_eq!((cells, row[row.len() - 11]), (expected.to_vec(), classes[most]));
    }
    for name in ["p", "p.txt", "p.json"] {
        let command = format!("predict run photos --out {name}");
        place.refuse_saying(1, &command, &[name, ".npy or .csv"]);
    }
}

#[test]
fn one_bad_file_does_not_lose_the_others() {
    let place = place();
    fs::write(place.path("photos/bad.png"), "no image").unwrap();
    let output = place.command("predict run nowhere.png photos --out p.csv").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    for part in ["error: cannot read nowhere.png", "error: photos/bad.png: ", "error: 2 inputs"] {
        assert!(errors.contains(part), "no {part:?} in {errors}");
    }
    assert_eq!(place.read("p.csv").lines().count(), 4);
    assert!(text(&output.stdout).contains("photos/b.png: "));
    // With nothing left there is nothing to write.
    let complaint = place.refuse(1, "predict run photos/bad.png --out none.csv");
    assert!(
        complaint.lines().last().unwrap().starts_with("error: photos/bad.png: "),
        "{complaint}"
    );
    assert!(!place.path("none.csv").exists());
}
