//! Pictures: those of the documents are what the program draws, and no label overlaps another or leaves its picture.

use std::fs;
use std::path::Path;

use crescendo::data::ValidationChoice;
use crescendo::logging::report::{
    ComparisonData, TimeCurve, accuracy_over_time, forest_plot, render_comparison,
};
use crescendo::network::{DeviceKind, PrecisionKind};
use crescendo::training::comparison::{Comparison, Results, Row};

#[path = "../../examples/pictures.rs"]
#[expect(dead_code, reason = "the example's own main")]
mod drawn;

/// Texts of an SVG with their boxes: left, top, right, bottom. Letters are taken to be as wide as in a wide font.
fn texts(svg: &str) -> Vec<(String, [f64; 4])> {
    let attribute = |tag: &str, name: &str| -> f64 {
        let value = tag.split(&format!(" {name}=\"")).nth(1).unwrap();
        value.split('"').next().unwrap().parse().unwrap()
    };
    let one = |text: &str| {
        let (tag, words) = text.split_once('>').unwrap();
        let words = words.split("</text>").next().unwrap();
        let class = tag.split("class=\"").nth(1).map_or("", |rest| rest.split('"').next().unwrap());
        let size = match class {
            "title" => 28.0,
            "name" => 20.0,
            _ => 18.0,
        };
        let (x, y) = (attribute(tag, "x"), attribute(tag, "y"));
        let width = 0.58 * size * words.chars().count() as f64;
        let left = match class {
            _ if class.contains("end") => x - width,
            _ if class.contains("middle") => x - width / 2.0,
            _ => x,
        };
        (words.to_owned(), [left, y - 0.75 * size, left + width, y + 0.2 * size])
    };
    svg.split("<text").skip(1).map(one).collect()
}

#[track_caller]
fn check_labels(svg: &str) {
    let view = svg.split("viewBox=\"0 0 ").nth(1).unwrap().split('"').next().unwrap();
    let (width, height) = view.split_once(' ').unwrap();
    let [width, height] = [width, height].map(|number| number.parse::<f64>().unwrap());
    let texts = texts(svg);
    assert!(texts.len() > 3);
    for (index, (words, one)) in texts.iter().enumerate() {
        let inside = one[0] >= 0.0 && one[1] >= 0.0 && one[2] <= width && one[3] <= height;
        assert!(inside, "{words} leaves the picture: {one:?} in {width} x {height}");
        for (others, other) in &texts[index + 1..] {
            let apart = one[2] <= other[0]
                || other[2] <= one[0]
                || one[3] <= other[1]
                || other[3] <= one[1];
            assert!(apart, "{words} overlaps {others}: {one:?}, {other:?}");
        }
    }
}

#[test]
fn the_pictures_of_the_documents_are_what_the_program_draws() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    for (name, svg) in drawn::draw(&docs).unwrap() {
        check_labels(&svg);
        let there = fs::read_to_string(docs.join("pictures").join(name)).unwrap();
        assert!(svg == there, "{name} is old: cargo run --release --example pictures");
    }
}

#[test]
fn labels_of_any_length_have_room() {
    let place = tempfile::tempdir().unwrap();
    let long = "an-arm-with-a-name-that-is-longer-than-any-picture-has-room-for";
    let file = place.path().join("mine.toml");
    let arms = format!(
        "recipe = 'quick'\nbase = 'base'\nseeds = [0, 1, 2]\n[[arm]]\nname = 'base'\n\
         [[arm]]\nname = '{long}'\nset = ['batch.size=9']\n[[arm]]\nname = 'b'\n"
    );
    fs::write(&file, arms).unwrap();
    let comparison = Comparison::load::<&str>(file.to_str().unwrap(), &[]).unwrap();
    let record = comparison.record(&crescendo::data::shapes::generate(0, 100, 50));
    record.write(place.path()).unwrap();
    let results = place.path().join("results.csv");
    let mut results = Results::open(&results, record.evaluated_on).unwrap();
    for (arm, accuracies) in
        [("base", [0.9, 0.8, 0.85]), (long, [0.15, 0.9, 0.999]), ("b", [0.91, 0.8, 0.86])]
    {
        for (seed, running) in (0..).zip(accuracies) {
            let row = Row {
                arm: arm.into(),
                seed,
                fingerprint: "00ff".into(),
                running,
                precise: 1.0 - running,
                train_loss: 0.5,
                updates: 100,
                seconds: 10.0,
                device: DeviceKind::Cpu,
                precision: PrecisionKind::F32,
                version: "0.2.0".into(),
                validation: ValidationChoice::Random,
            };
            results.add(row).unwrap();
        }
    }
    let read = || ComparisonData::read(place.path()).unwrap();
    check_labels(&forest_plot(&[read()]));
    check_labels(&forest_plot(&[read(), read()]));
    let page = render_comparison(&read());
    let plots: Vec<&str> = page.split("<svg class=\"picture ").skip(1).collect();
    assert_eq!(plots.len(), 2);
    for plot in plots {
        check_labels(plot.split("</svg>").next().unwrap());
    }

    let names = ["a", "a long name of a curve", "another long name of a curve", "the last one"];
    let curves = names.iter().zip([0.93, 0.932, 0.934, 0.936]).map(|(name, accuracy)| TimeCurve {
        name: (*name).to_owned(),
        points: vec![(30.0, 0.5), (600.0, accuracy), (90_000.0, accuracy + 0.005)],
    });
    let curves: Vec<TimeCurve> = curves.collect();
    let svg =
        accuracy_over_time("Accuracy", "on a core", 0.7, &curves, Some(("the paper:", 0.9356)));
    check_labels(&svg);
    // The line is where 93.56 % are, between the ticks of 90 and 95 %.
    let tick = |label: &str| texts(&svg).into_iter().find(|text| text.0 == label).unwrap().1[3];
    let line = svg.split("<path class=\"zero\" stroke-dasharray=\"8 6\" d=\"M").nth(1).unwrap();
    let line: f64 = line.split([' ', 'H']).nth(1).unwrap().parse().unwrap();
    // A label ends so far below its tick.
    let (low, high) = (tick("90%") - 9.6, tick("95%") - 9.6);
    assert!((line - (low + 0.712 * (high - low))).abs() < 0.2, "{line} between {low} and {high}");
}
