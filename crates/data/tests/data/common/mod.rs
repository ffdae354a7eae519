//! Small data sets of random images in the published formats.

use std::fs;
use std::io::Write;
use std::path::Path;

use crescendo_data::{ImageShape, Split};
use flate2::Compression;
use flate2::write::GzEncoder;

/// The files of a data set: five of training images and one of test images.
#[derive(Clone, Debug)]
pub struct Batches(pub [Split; 6]);

impl Batches {
    /// `sizes` images in the files; the same for the same `seed`.
    pub fn new(sizes: [usize; 6], seed: u64) -> Self {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u8
        };
        Batches(sizes.map(|size| {
            let mut split = Split::default();
            for _ in 0..size {
                let image = [0; ImageShape::CIFAR.elements()].map(|_| next());
                split.push(&image, u16::from(next() % 10));
            }
            split
        }))
    }

    /// The training images and the test images that should be read from the files.
    pub fn splits(&self) -> (Split, Split) {
        let [train @ .., test] = &self.0;
        let pixels = train.iter().flat_map(|split| split.pixels.clone()).collect();
        let labels = train.iter().flat_map(|split| split.labels.clone()).collect();
        (Split { pixels, labels, ..Split::default() }, test.clone())
    }

    /// The files of the binary version, with their names.
    pub fn binary(&self) -> Vec<File> {
        let names = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4"];
        let names = names.into_iter().chain(["data_batch_5", "test_batch"]);
        let batches = names.zip(&self.0).map(|(name, split)| {
            let records = (0..split.len())
                .flat_map(|index| [&[split.labels[index] as u8], split.image(index)].concat());
            (format!("{name}.bin"), records.collect())
        });
        let names = b"airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";
        batches.chain([("batches.meta.txt".into(), names.to_vec())]).collect()
    }
}

/// A file's name and content.
pub type File = (String, Vec<u8>);

/// Writes `files` into `folder`.
pub fn write(folder: &Path, files: &[File]) {
    fs::create_dir_all(folder).unwrap();
    for (name, content) in files {
        fs::write(folder.join(name), content).unwrap();
    }
}

/// An archive of `files` in `folder`, as the published ones are.
pub fn archive(folder: &str, files: &[File]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("{folder}/{name}"), &content[..]).unwrap();
    }
    gzip(&tar.into_inner().unwrap())
}

/// `content`, compressed.
pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}
