//! A million damaged inputs for each reader: no panic, and bounded memory. Ignored by default; to run them:
//! `cargo test --release -p crescendo-training fuzz -- --ignored --nocapture`

use std::path::Path;

use crescendo_fuzzing::fuzz;
use crescendo_network::Family;

use crate::loading::BUILT_IN;
use crate::tensors::TensorFile;
use crate::{Recipe, checkpoint::Checkpoint};

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
    // Without its checksum, damage to the numbers and the metadata is read further.
    let mut open = sealed.clone();
    while let Some(at) = open.windows(8).position(|window| window == b"checksum") {
        open[at] = b'k';
    }
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
    let samples: Vec<Vec<u8>> =
        BUILT_IN.iter().map(|recipe| recipe.text.as_bytes().to_vec()).collect();
    fuzz("recipes", &samples, |_, input| Recipe::saved(&String::from_utf8_lossy(&input)).is_ok());
}
