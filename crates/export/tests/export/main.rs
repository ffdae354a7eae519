//! Exported models, read back. That other programs compute what `predict` does is tested where they are: see the tests of
//! the program.

mod reader;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crescendo_cpu::CpuDevices;
use crescendo_data::{Sizing, shapes};
use crescendo_export::{OnnxOptions, to_onnx, write_onnx, write_pytorch};
use crescendo_training::checkpoint::{self, Checkpoint};
use crescendo_training::validation::MAX_SHIFT;
use crescendo_training::{Recipe, Run, Start, TrainedNetwork};

use self::reader::Model;

const QUICK: &[&str] = &["network.widths=[4, 4, 8]"];
const FAST: &[&str] = &["network.widths=[4, 4, 8]", "network.blocks=[2, 3, 2]"];

/// A network that was trained for an update, in the new folder `folder`.
fn trained_by(recipe: &Recipe, folder: &Path) -> TrainedNetwork {
    let data = shapes::generate(0, 60, 20);
    let start = Start {
        recipe,
        recipe_name: "mine",
        data: &data,
        data_location: "shapes:60,20",
        init: None,
        devices: &CpuDevices,
    };
    let mut run = Run::create(folder, &start).unwrap();
    run.train(&CpuDevices, &data, &mut (), &false.into()).unwrap();
    let path = checkpoint::path(folder, recipe.train.epochs);
    TrainedNetwork::new(&Checkpoint::open(&path).unwrap(), None).unwrap()
}

fn trained(recipe: &str, changes: &[&str]) -> TrainedNetwork {
    let own = ["train.epochs=1", "engine.device=cpu", "batch.policy=fixed", "batch.size=30"];
    let recipe = Recipe::load(recipe, &[changes, &own].concat()).unwrap();
    trained_by(&recipe, &tempfile::tempdir().unwrap().path().join("run"))
}

/// The model of a network, read back. Every value is there before it is read, and all that is there has one name.
fn exported(network: &TrainedNetwork, options: &OnnxOptions) -> Model {
    let model = Model::read(&to_onnx(network, options).unwrap());
    let mut names: BTreeSet<&str> = model.tensors.keys().map(String::as_str).collect();
    assert!(names.insert("image"));
    for node in &model.nodes {
        for input in &node.inputs {
            assert!(names.contains(&**input), "{input}, which {node:?} reads, is not there");
        }
        assert!(names.insert(&node.output), "{} is there twice", node.output);
    }
    assert_eq!(model.nodes.last().unwrap().output, "probabilities");
    let readers = model.nodes.iter().filter(|node| node.inputs.iter().any(|name| name == "image"));
    let readers: Vec<&str> = readers.map(|node| &*node.operation).collect();
    assert_eq!(readers, ["Cast"], "TensorRT lets nothing else read bytes");
    // Initializers are the checkpoint's tensors, but for the counts, which nothing reads.
    for tensor in &network.tensors {
        let Some(values) = tensor.values() else { continue };
        let found = &model.tensors[&*tensor.name];
        let shape: Vec<u64> = tensor.shape.iter().map(|&size| size as u64).collect();
        assert_eq!((found.kind, &found.shape), (1, &shape), "{}", tensor.name);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert!(found.bytes == bytes, "{}", tensor.name);
        let is_read = |node: &reader::Node| node.inputs.iter().any(|name| *name == tensor.name);
        assert!(model.nodes.iter().any(is_read), "nothing reads {}", tensor.name);
    }
    model
}

#[test]
fn a_model_reads_back_with_the_weights_names_and_facts() {
    for (recipe, changes) in [("quick", QUICK), ("fast94", FAST)] {
        let network = trained(recipe, changes);
        let options = OnnxOptions::new(&network.recipe);
        let model = exported(&network, &options);
        assert_eq!(
            (&model.ir_version[..], &model.producer[..]),
            (&[8][..], &["crescendo".into()][..])
        );
        assert_eq!(model.operations, [(vec![], vec![17])]);
        let dimensions = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        let input = ("image".to_owned(), 2, dimensions(&["N", "height", "width", "3"]));
        assert_eq!(model.input, input);
        let output = ("probabilities".to_owned(), 1, dimensions(&["N", "10"]));
        assert_eq!(model.output, output);
        let names: Vec<String> = serde_json::from_str(&model.metadata["names"]).unwrap();
        assert_eq!(names, network.classes);
        let facts = [("data", "shapes:60,20"), ("epoch", "1")];
        facts.iter().for_each(|(key, fact)| assert_eq!(model.metadata[*key], *fact));
        assert!(model.metadata["recipe"].contains("[optimizer]"));
        assert_eq!(model.metadata["test_flip"], options.flip.to_string());
        assert_eq!(model.metadata["test_shift"], options.shift.to_string());
        // A convolution's settings; zeros are written too.
        let first = model.nodes.iter().find(|node| node.operation == "Conv").unwrap();
        let padding = if recipe == "quick" { 1 } else { 0 };
        assert_eq!(first.ints["pads"], [padding; 4]);
        let norm = model.nodes.iter().find(|node| node.operation == "BatchNormalization").unwrap();
        assert_eq!(norm.floats["epsilon"], network.recipe.network.norm.eps as f32);
    }
}

#[test]
fn equal_weights_classes_and_recipes_make_equal_files() {
    let models = [["engine.threads=1"], ["engine.threads=2"]].map(|changes| {
        let network = trained("quick", &[QUICK, &changes].concat());
        to_onnx(&network, &OnnxOptions::new(&network.recipe)).unwrap()
    });
    assert!(models[0] == models[1]);
    let other = trained("quick", &[QUICK, &["train.seed=1"]].concat());
    assert!(models[0] != to_onnx(&other, &OnnxOptions::new(&other.recipe)).unwrap());
    // Where it was trained is not in it.
    let folder = std::env::temp_dir().display().to_string();
    assert!(!models[0].windows(folder.len()).any(|part| part == folder.as_bytes()));
}

#[test]
fn views_sizes_and_normalisations_are_nodes_of_the_graph() {
    let mut network = trained("fast94", FAST);
    let options = |flip, shift, fixed| OnnxOptions { flip, shift, fixed };
    // Each half or shift is one more batch.
    for (flip, shift, joined, mean) in
        [(false, 0, 0, 0), (true, 0, 1, 1), (false, 1, 1, 1), (true, MAX_SHIFT, 2, 1)]
    {
        let model = exported(&network, &options(flip, shift, true));
        assert_eq!((model.count("Concat"), model.count("ReduceSum")), (joined, mean));
    }
    let error = to_onnx(&network, &options(false, MAX_SHIFT + 1, false)).unwrap_err().to_string();
    assert!(error.contains(&format!("at most {MAX_SHIFT} pixels")), "{error}");

    let resizes = |model: &Model| (model.count("MatMul"), model.count("Range"));
    let fixed = exported(&network, &options(false, 0, true));
    assert_eq!(
        (resizes(&fixed), &fixed.input.2[1..]),
        ((0, 0), &["32", "32", "3"].map(String::from)[..])
    );
    let plain = exported(&network, &options(false, 0, false));
    assert_eq!((resizes(&plain), plain.count("Where")), ((2, 2), 0));
    network.sizing = Sizing::Pad;
    let padded = exported(&network, &options(false, 0, false));
    assert_eq!((resizes(&padded), padded.count("Where")), ((2, 2), 2));

    let count = |normalize: &str, operation: &str| {
        let network = trained("quick", &[QUICK, &[normalize]].concat());
        exported(&network, &options(false, 0, true)).count(operation)
    };
    assert_eq!(count("data.normalize=per_image", "ReduceMean"), 2);
    assert_eq!(count("data.normalize=dataset", "ReduceMean"), 0);
    assert_eq!(count("data.normalize=none", "Sub"), 0);
}

#[test]
fn networks_of_ones_own_are_exported_whatever_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/every_operation.toml");
    let recipe = Recipe::load(recipe, &["train.epochs=0", "engine.device=cpu"]).unwrap();
    let network = trained_by(&recipe, &folder.path().join("run"));
    let model = exported(&network, &OnnxOptions { flip: true, shift: 1, fixed: false });
    for operation in ["Relu", "LeakyRelu", "Elu", "Erf", "MaxPool", "AveragePool", "Flatten"] {
        assert!(model.count(operation) > 0, "no {operation}");
    }
    let linear = model.nodes.iter().filter(|node| node.operation == "Gemm");
    let inputs: Vec<usize> = linear.map(|node| node.inputs.len()).collect();
    assert_eq!(inputs, [2, 3], "the second has a bias");
    assert!(model.metadata["network"].contains("\"operation\":\"gelu\""));

    let error = write_pytorch(&folder.path().join("pytorch"), &network, None).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("epoch-0000.safetensors") && error.contains("family custom"), "{error}");
    assert!(!folder.path().join("pytorch").exists());
}

#[test]
fn a_model_replaces_another_but_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = Recipe::load("quick", &[QUICK, &["train.epochs=0"]].concat()).unwrap();
    let network = trained_by(&recipe, &folder.path().join("run"));
    let model = to_onnx(&network, &OnnxOptions::new(&network.recipe)).unwrap();
    let path = folder.path().join("model.onnx");
    for _ in 0..2 {
        write_onnx(&path, &model).unwrap();
        assert!(fs::read(&path).unwrap() == model);
    }
    for read in [&network.path, &folder.path().join("run/recipe.toml")] {
        let before = fs::read(read).unwrap();
        let error = write_onnx(read, &model).unwrap_err().to_string();
        assert!(error.contains("not a model that crescendo wrote"), "{error}");
        assert!(fs::read(read).unwrap() == before);
    }
    for nowhere in ["run", "nowhere/model.onnx"] {
        let error = write_onnx(&folder.path().join(nowhere), &model).unwrap_err().to_string();
        assert!(error.contains("cannot write") && error.contains(nowhere), "{error}");
    }
}

#[test]
fn a_pytorch_folder_has_the_weights_and_what_they_need() {
    for (recipe, changes, settings) in [
        ("quick", QUICK, ["WIDTHS = [4, 4, 8]", "activation = nn.LeakyReLU(0.01)", "POOL = 2"]),
        ("fast94", FAST, ["BLOCKS = [2, 3, 2]", "activation = nn.GELU()", "WHITENING = 2"]),
    ] {
        let mut network = trained(recipe, changes);
        network.classes[3] = "a \"quoted\"\nname".to_owned();
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("pytorch");
        write_pytorch(&folder, &network, Some("42.00 % of the test images are right")).unwrap();
        let path = folder.join("model.safetensors");
        let read = TrainedNetwork::new(&Checkpoint::open(&path).unwrap(), None).unwrap();
        assert_eq!(read.tensors, network.tensors);
        assert_eq!(
            (read.classes, read.recipe.network),
            (network.classes.clone(), network.recipe.network.clone())
        );

        let module = fs::read_to_string(folder.join("model.py")).unwrap();
        for setting in settings.into_iter().chain(["    \"a \\\"quoted\\\"\\nname\",", "def load("])
        {
            assert!(module.contains(setting), "no {setting:?} in {module}");
        }
        let imports = module.lines().filter(|line| line.contains("import "));
        assert!(imports.clone().all(|line| line.contains("torch")), "{module}");
        assert!(imports.count() == 4 && module.lines().count() < 130);
        let readme = fs::read_to_string(folder.join("README.md")).unwrap();
        for part in ["42.00 %", "shapes:60,20", "crescent", "[optimizer]", "model.load()"] {
            assert!(readme.contains(part), "no {part} in {readme}");
        }
        let error = write_pytorch(&folder, &network, None).unwrap_err().to_string();
        assert!(error.contains("already exists"), "{error}");
    }
}
