//! The machine code in the program was compiled from the kernels that are beside it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

fn manifest() -> serde_json::Value {
    let path = kernels().join("compiled/manifest.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_sources_are_those_that_were_compiled() {
    let is_source = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "cu" || extension == "cuh")
    };
    let files = fs::read_dir(kernels()).unwrap().map(|entry| entry.unwrap().path());
    let now: BTreeMap<String, String> = files
        .filter(is_source)
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, sha256(&fs::read(&path).unwrap()))
        })
        .collect();
    let compiled: BTreeMap<String, String> =
        serde_json::from_value(manifest()["sources"].clone()).unwrap();
    assert!(
        now == compiled,
        "the kernels differ from those that were compiled: run python3 crates/cuda/compile.py"
    );
}

#[test]
fn the_code_is_what_the_manifest_says() {
    let manifest = manifest();
    let outputs = manifest["outputs"].as_object().unwrap();
    assert_eq!(outputs.len(), 5, "four kinds of cards, and PTX for later ones");
    for (name, output) in outputs {
        let packed = fs::read(kernels().join("compiled").join(name)).unwrap();
        let mut code = Vec::new();
        GzDecoder::new(&packed[..]).read_to_end(&mut code).unwrap();
        assert_eq!(sha256(&code), output["sha256"].as_str().unwrap(), "{name}");
    }
}
