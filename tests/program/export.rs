//! Exported networks. Those who compute them elsewhere are compared with `predict` by ignored tests, which need Python with
//! `venv` and a network, or the environment variable `CRESCENDO_PYTHON` for a Python that has the packages of
//! `tests/onnx/requirements.txt` (or of `pytorch/requirements.txt`):
//!
//! ```text
//! cargo test --release --test program -- --ignored onnx
//! cargo test --release --test program -- --ignored pytorch
//! ```

use std::fs;
use std::path::Path;
use std::process::Command;

use super::python::{interpreter, run};
use super::readme::python_blocks;
use super::{Place, SMALL, text, with_header, without_checksums};

const ONNX: &str = "tests/onnx/requirements.txt";

#[test]
fn the_best_weights_are_exported_or_those_that_are_asked_for() {
    let settings =
        "--set data.validation=24 --set train.evaluate_every=1 --set train.checkpoint_every=1";
    let place = Place::with_run(&format!("--epochs 2 {settings}"));
    let model = |arguments: &str| {
        let said = place.run(&format!("export {arguments} --onnx model.onnx"));
        assert!(said.starts_with("model.onnx: image (uint8 [N, "), "{said}");
        fs::read(place.path("model.onnx")).unwrap()
    };
    let best = model("run");
    assert!(best == model("run/weights/best.safetensors"));
    assert!(best == model("run --checkpoint best"));
    let [first, last] = [1, 2].map(|epoch| model(&format!("run --checkpoint {epoch}")));
    assert!(first != last && (best == first || best == last));
    assert!(last == model("run --checkpoint last"));
    assert!(last == model("run/weights/epoch-0002.safetensors --flip false --shift 0"));
    assert!(last != model("run --checkpoint last --flip true"));
    assert!(last.len() > model("run --checkpoint last --fixed").len());
    let output = place.command("export run --onnx model.onnx").output().unwrap();
    assert!(text(&output.stderr).starts_with("note: these are the weights of epoch "));
    // Without validation images there is no best checkpoint.
    let place = Place::with_run("--epochs 1");
    place.run("export run --onnx a.onnx");
    place.run("export run --checkpoint last --onnx b.onnx");
    assert!(fs::read(place.path("a.onnx")).unwrap() == fs::read(place.path("b.onnx")).unwrap());
    place.refuse_saying(
        1,
        "export run --checkpoint best --onnx a.onnx",
        &["run: has no best checkpoint", "data.validation"],
    );
}

#[test]
fn what_cannot_be_exported_is_said() {
    let place = Place::with_run("--epochs 1");
    let file = "run/weights/epoch-0001.safetensors";
    let expectations: [(i32, String, &[&str]); 8] = [
        (1, "export nowhere --onnx a.onnx".into(), &["cannot read nowhere"]),
        (1, "export run --onnx a.onnx --checkpoint 7".into(), &["has no checkpoint 7, only 1"]),
        (
            1,
            format!("export {file} --onnx a.onnx --checkpoint 1"),
            &["--checkpoint needs", "a run"],
        ),
        (1, format!("export run --onnx {file}"), &[file, "not a model that crescendo wrote"]),
        (1, "export run --onnx run/recipe.toml".into(), &["recipe.toml", "choose another file"]),
        (1, "export run --pytorch run/weights".into(), &["run/weights", "already exists"]),
        (2, "export run --pytorch b --flip true".into(), &["--flip and --shift are for --onnx"]),
        (1, "export run --onnx nowhere/a.onnx".into(), &["cannot write nowhere/a.onnx"]),
    ];
    let before = super::contents(&place.path("run"));
    for (code, arguments, parts) in expectations {
        let complaint = place.refuse(code, &arguments);
        let error = complaint.lines().last().unwrap();
        parts.iter().for_each(|part| assert!(error.contains(part), "no {part} in {error}"));
    }
    for arguments in ["", " --onnx a.onnx --pytorch b", " --pytorch b --fixed"] {
        place.refuse(2, &format!("export run{arguments}"));
    }
    assert_eq!(before, super::contents(&place.path("run")));
    assert!(!place.path("a.onnx").exists() && !place.path("b").exists());
}

#[test]
fn a_file_from_elsewhere_needs_its_network_classes_and_statistics_described() {
    let place = Place::with_run("--epochs 1 --set data.normalize=dataset");
    let own = fs::read(super::checkpoint(&place.path("run"), 1)).unwrap();
    let bare = with_header(&without_checksums(&own), |header| {
        header.as_object_mut().unwrap().remove("__metadata__");
    });
    fs::write(place.path("bare.safetensors"), bare).unwrap();
    let refused = |arguments: &str, parts: &[&str]| {
        let complaint =
            place.refuse(1, &format!("export bare.safetensors --onnx a.onnx {arguments}"));
        parts.iter().for_each(|part| assert!(complaint.contains(part), "no {part}: {complaint}"));
    };
    refused("", &["bare.safetensors: has no recipe", "--recipe"]);
    refused(
        "--recipe quick --data shapes:144,100",
        &["holds 4107 numbers, but its network has 87978"],
    );
    // A recipe without classes and statistics, and no data to take them from.
    let recipe = place.read("run/recipe.toml");
    fs::write(place.path("mine.toml"), recipe.split("[run]").next().unwrap()).unwrap();
    refused("--recipe mine.toml --data nowhere", &["nowhere"]);
    let model = |arguments: &str| {
        place.run(&format!("export {arguments} --onnx a.onnx"));
        fs::read(place.path("a.onnx")).unwrap()
    };
    let described = model("bare.safetensors --recipe run/recipe.toml");
    assert!(described == model("bare.safetensors --recipe mine.toml --data shapes:144,100"));
    // The file itself also says of which epoch it is.
    assert!(described.len() < model("run").len());

    place.run("export bare.safetensors --recipe run/recipe.toml --pytorch module");
    // The copy says what its network is.
    place.run("evaluate module/model.safetensors --data shapes:144,100");
    place.run("export run --pytorch own");
    let readme = place.read("own/README.md");
    assert!(readme.contains("% of the test images are right"), "{readme}");
}

/// Runs of both families, with every normalisation and with padding, and images to compare on.
/// Returns the names of the runs.
fn models(place: &Place, python: &Path) -> Vec<&'static str> {
    place.run("data export shapes:5,1000 records");
    run(script(place, python).args(["prepare", "records/test_batch.bin"]));
    place.run("data export sizes resized");
    let quick = "quick --data shapes:2000,100 --epochs 3 --set network.widths=[8,8,16]";
    for (name, arguments) in [
        ("per-image", quick.to_owned()),
        (
            "none",
            format!(
                "{quick} --set data.normalize=none --set network.activation=silu \
                 --set network.head.hidden=0 --set network.bias=false --set network.head.scale=0.5"
            ),
        ),
        (
            "dataset",
            "fast94 --data shapes:2000,100 --epochs 3 --set network.widths=[8,16,16] \
             --set network.blocks=[2,3,2]"
                .into(),
        ),
        (
            "padded",
            "quick --data small.npz --epochs 1 --set network.widths=[4,8,8] \
             --set batch.policy=fixed --set batch.size=20"
                .into(),
        ),
    ] {
        place.run(&format!("train {arguments} --out {name}"));
    }
    vec!["per-image", "none", "dataset", "padded"]
}

/// The script that compares, to be run in the folder of the test.
fn script(place: &Place, python: &Path) -> Command {
    let mut command = Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/onnx/check.py"));
    command.current_dir(place.folder());
    command
}

/// Compares an exported model (or folder) of a run with what `predict` says with these views.
fn compare(place: &Place, python: &Path, reader: &str, name: &str, model: &str, views: &str) {
    place.run(&format!("predict {name} images.npy {views} --out array.npy"));
    let mut command = script(place, python);
    command.args([reader, model, "--array", "images.npy", "--expected", "array.npy"]);
    if !model.starts_with("fixed") {
        place.run(&format!("predict {name} sizes/train/a {views} --out sizes.npy"));
        command.args(["--sizes", "sizes.npz", "--sizes-expected", "sizes.npy"]);
        if reader == "onnx" && name == "per-image" {
            let parts = (1..=5).map(|part| format!("resized/data_batch_{part}.bin"));
            command.arg("--bytes").args(parts);
        }
    }
    println!("{reader} {model} {views}\n{}", run(&mut command));
}

#[test]
#[ignore = "installs ONNX Runtime"]
fn onnx_models_compute_what_predict_does() {
    let python = interpreter("onnx", ONNX);
    let place = Place::new();
    let mut names = models(&place, &python);
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/crates/export/tests/every_operation.toml");
    fs::copy(recipe, place.path("custom.toml")).unwrap();
    place.run("train custom.toml --data shapes:1000,100 --epochs 4 --out custom");
    names.push("custom");
    for name in names {
        // The recipe's own views, and others.
        for (index, views) in
            ["", "--flip true --shift 2", "--flip false --shift 0"].iter().enumerate()
        {
            for (start, fixed) in [("model", ""), ("fixed", "--fixed")] {
                let model = format!("{start}-{name}-{index}.onnx");
                place.run(&format!("export {name} --onnx {model} {views} {fixed}"));
                compare(&place, &python, "onnx", name, &model, views);
            }
        }
        compare(&place, &python, "tract", name, &format!("model-{name}-0.onnx"), "");
    }
}

#[test]
#[ignore = "installs ONNX Runtime and others"]
fn onnx_models_are_used_as_the_documents_say() {
    let python = interpreter("onnx", ONNX);
    let place = Place::new();
    place.run(&format!("train {SMALL} --epochs 1 --out run"));
    place.run("export run --onnx model.onnx");
    place.run("export run --onnx fixed.onnx --fixed");
    let pixel = |x: u32, y: u32| image::Rgb([(3 * x) as u8, (2 * y) as u8, 90]);
    image::RgbImage::from_fn(80, 60, pixel).save(place.path("cat.png")).unwrap();
    let predicted = place.run("predict run cat.png");
    let class = predicted.trim_start_matches("cat.png: ").split_whitespace().next().unwrap();
    let blocks = python_blocks("docs/deploy.md");
    assert!(blocks.len() >= 3);
    let script = blocks.join("\n");
    let said = run(Command::new(&python).args(["-c", &script]).current_dir(place.folder()));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines, vec![class; blocks.len()], "{predicted}");
}

/// The version of ONNX Runtime Web that the example page loads.
const ONNX_RUNTIME_WEB: &str = "onnxruntime-web@1.30.0";

#[test]
#[ignore = "needs Python's playwright, Chromium and npm"]
fn the_example_page_says_in_a_browser_what_predict_does() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/browser.html");
    assert!(fs::read_to_string(page).unwrap().contains(ONNX_RUNTIME_WEB));
    let python = std::env::var_os("CRESCENDO_PYTHON").unwrap_or_else(|| "python3".into());
    let runtime = Path::new(env!("CARGO_TARGET_TMPDIR")).join("onnxruntime-web");
    fs::create_dir_all(&runtime).unwrap();
    run(Command::new("npm").args(["install", "--prefix"]).arg(&runtime).arg(ONNX_RUNTIME_WEB));
    let place = Place::with_run("--epochs 2");
    place.run("export run --onnx model.onnx");
    let pixel = |x: u32, y: u32| image::Rgb([(3 * x) as u8, (2 * y) as u8, 90]);
    image::RgbImage::from_fn(80, 60, pixel).save(place.path("cat.png")).unwrap();
    let predicted = place.run("predict run cat.png");
    let mut words = predicted.trim_start_matches("cat.png: ").split([' ', ',']);
    let (class, probability) = (words.next().unwrap(), words.next().unwrap());
    let percent = 100.0 * probability.parse::<f64>().unwrap();
    let mut command = Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser/onnx.py"));
    command.args(["model.onnx", "cat.png", "--runtime"]).current_dir(place.folder());
    command.arg(runtime.join("node_modules/onnxruntime-web/dist"));
    let answer = run(&mut command);
    let (said, shown) = answer.trim().trim_end_matches(" %)").split_once(" (").unwrap();
    assert_eq!(said, class, "{predicted}{answer}");
    assert!((shown.parse::<f64>().unwrap() - percent).abs() < 0.2, "{predicted}{answer}");
}

#[test]
#[ignore = "installs PyTorch"]
fn pytorch_modules_load_strictly_and_compute_what_predict_does() {
    let python = interpreter("pytorch", "pytorch/requirements.txt");
    let place = Place::new();
    for name in models(&place, &python) {
        place.run(&format!("export {name} --pytorch module-{name}"));
        let views = "--flip false --shift 0";
        compare(&place, &python, "pytorch", name, &format!("module-{name}"), views);
    }
}
