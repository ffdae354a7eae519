//! A million damaged inputs for each reader: no panic, and bounded memory. Ignored by default; to run them:
//! `cargo test --release -p crescendo-training fuzz -- --ignored --nocapture`

use std::path::Path;

use crescendo_cpu::CpuDevices;
use crescendo_data::shapes;
use crescendo_fuzzing::fuzz;
use crescendo_network::Family;

use crate::comparison::{self, Comparison};
use crate::loading::BUILT_IN;
use crate::tensors::TensorFile;
use crate::{Recipe, Run, Start, checkpoint::Checkpoint};

/// A network with every kind of number.
const OPERATIONS: &str = r#"[
    {"name": "conv", "operation": "convolution", "outputs": 4, "kernel": 3, "stride": 2,
     "padding": 1, "bias": true, "init": "dirac", "inputs": [0]},
    {"name": "norm", "operation": "batch_norm", "eps": 1e-5, "scale": true, "new_weight": 0.1,
     "inputs": [1]},
    {"name": "leaky", "operation": "leaky_relu", "slope": 0.01, "inputs": [2]},
    {"name": "sum", "operation": "add", "inputs": [3, 1]},
    {"name": "pool", "operation": "max_pool", "size": 4, "inputs": [4]},
    {"name": "flatten", "operation": "flatten", "inputs": [5]},
    {"name": "fc", "operation": "linear", "outputs": 10, "bias": true, "init": "unit",
     "inputs": [6]},
    {"name": "scaled", "operation": "scale", "factor": 0.1, "inputs": [7]}
]"#;

/// A file of tensors whose checksums are not found, so that damage to the numbers and the metadata is read further.
fn unsealed(mut file: Vec<u8>) -> Vec<u8> {
    while let Some(at) = file.windows(8).position(|window| window == b"checksum") {
        file[at] = b'k';
    }
    file
}

#[test]
#[ignore = "takes minutes"]
fn fuzz_files_of_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let mut recipe = Recipe::load::<&str>("quick", &[]).unwrap();
    recipe.network.family = Family::Custom;
    let recipe = toml::to_string(&recipe).unwrap();
    let metadata = [
        ("recipe", &*recipe),
        ("network", OPERATIONS),
        ("classes", "[\"a\", \"b\"]"),
        ("normalization", "\"per_image\""),
        ("epoch", "3"),
    ];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let tensors = [
        crescendo_network::Tensor::f32("bn.running_var", vec![2], vec![1.0, 2.0]),
        crescendo_network::Tensor::f32("fc.weight", vec![2, 3], vec![0.5; 6]),
    ];
    crate::tensors::write(&[&path], &tensors, metadata.into()).unwrap();
    let sealed = std::fs::read(&path).unwrap();
    let open = unsealed(sealed.clone());
    let valid = TensorFile::parse(&path, open.clone()).unwrap();
    Checkpoint::from(valid).description().unwrap();
    fuzz("files of tensors", &[sealed, open], |_, input| {
        let path = Path::new("x.safetensors");
        let Ok(file) = TensorFile::parse(path, input) else { return false };
        let checkpoint = Checkpoint::from(file);
        checkpoint.about();
        checkpoint.description().is_ok() & checkpoint.model().is_ok()
    });
}

#[test]
#[ignore = "takes minutes"]
fn fuzz_recipes() {
    let mut custom = Recipe::load::<&str>("quick", &[]).unwrap();
    custom.network.family = Family::Custom;
    custom.network.operations = serde_json::from_str(OPERATIONS).unwrap();
    let custom = toml::to_string(&custom).unwrap();
    let built_in = BUILT_IN.iter().map(|recipe| recipe.text);
    let samples: Vec<Vec<u8>> =
        built_in.chain([&*custom]).map(|text| text.as_bytes().to_vec()).collect();
    fuzz("recipes", &samples, |_, input| Recipe::saved(&String::from_utf8_lossy(&input)).is_ok());
}

#[test]
#[ignore = "takes minutes"]
fn fuzz_comparisons() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    let samples: Vec<Vec<u8>> =
        comparison::BUILT_IN.iter().map(|built_in| built_in.text.as_bytes().to_vec()).collect();
    fuzz("comparisons", &samples, |_, input| {
        std::fs::write(&path, input).unwrap();
        Comparison::load::<&str>(&path.to_string_lossy(), &[]).is_ok()
    });
}

/// The files that a run is resumed from.
#[test]
#[ignore = "takes minutes"]
fn fuzz_run_folders() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("run");
    let data = shapes::generate(0, 40, 10);
    let recipe = ["network.widths=[1, 1, 1]", "train.epochs=1", "batch.policy=noise_scale"];
    let recipe = Recipe::load("quick", &recipe).unwrap();
    let start = Start::new(&recipe, &data, &CpuDevices);
    Run::create(&folder, &start)
        .unwrap()
        .train(&CpuDevices, &data, &mut (), &false.into())
        .unwrap();
    let files = ["recipe.toml", "state/state.safetensors"].map(|name| folder.join(name));
    let samples = files.clone().map(|file| unsealed(std::fs::read(file).unwrap()));
    std::fs::write(&files[1], &samples[1]).unwrap();
    Run::open(&folder).unwrap();
    fuzz("run folders", &samples, |which, input| {
        std::fs::write(&files[which], input).unwrap();
        let is_read = Run::open(&folder).is_ok();
        std::fs::write(&files[which], &samples[which]).unwrap();
        is_read
    });
}
