//! Compares augmentation, normalisation and resizing with PyTorch; `pytorch/fixtures.py` wrote the fixture.

use std::collections::BTreeSet;

use crescendo_data::{
    Augmentation, Border, Flip, ImageBatch, ImageShape, LastBatch, Normalization, Sampling,
    Shuffle, Split,
};
use safetensors::SafeTensors;

const SHAPE: ImageShape = ImageShape::CIFAR;
const SIDE: usize = SHAPE.width;
const PADDING: usize = 4;

fn bytes(name: &str) -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images.safetensors");
    let file = std::fs::read(path).unwrap();
    SafeTensors::deserialize(&file).unwrap().tensor(name).unwrap().data().to_vec()
}

fn numbers(name: &str) -> Vec<f32> {
    bytes(name).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Both images of the fixture; the tests use the first.
fn split() -> Split {
    Split { pixels: bytes("pixels"), labels: vec![0, 1], ..Split::default() }
}

fn sampling(
    augmentation: Option<Augmentation>,
    normalization: Normalization,
    image_size: usize,
) -> Sampling {
    let (shuffle, last_batch) = (Shuffle::FileOrder, LastBatch::Keep);
    Sampling { seed: 1, shuffle, last_batch, augmentation, normalization, image_size }
}

/// The first image as `epoch` augments it.
fn seen(sampling: &Sampling, split: &Split, epoch: u64) -> Vec<f32> {
    let mut batch = ImageBatch::default();
    sampling.fill(split, epoch, &[0], &mut batch);
    batch.images
}

fn is_close(values: &[f32], expected: &[f32]) -> bool {
    assert_eq!(values.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt()
    };
    let off = norm(&mut values.iter().zip(expected).map(|(x, e)| x - e));
    off <= 3e-7 * norm(&mut expected.iter().copied())
}

/// Over many epochs, every crop of the bordered image and of its mirror image occurs, and nothing else.
/// Each crop is normalised on its own.
#[test]
fn crops_and_flips() {
    let bits = |image: &[f32]| image.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let side = SIDE + 2 * PADDING;
    for (name, border) in [("reflect", Border::Reflect), ("white", Border::Grey(255))] {
        let mut expected = BTreeSet::new();
        for way in ["padded", "flipped"] {
            let bordered = bytes(&format!("{way}/{name}"));
            for place in 0..(2 * PADDING + 1).pow(2) {
                let (top, left) = (place / (2 * PADDING + 1), place % (2 * PADDING + 1));
                let rows = bordered.chunks(side * side).flat_map(|channel| {
                    channel.chunks(side).skip(top).take(SIDE).flat_map(|row| &row[left..][..SIDE])
                });
                let crop: Vec<u8> = rows.copied().collect();
                let mut normalised = vec![0.0; SHAPE.elements()];
                Normalization::PerImage.apply(&crop, &mut normalised);
                expected.insert(bits(&normalised));
            }
        }
        let flip = Flip::Random(true);
        let change = Augmentation { padding: PADDING, border, flip, cutout: 0 };
        let (sampling, split) = (sampling(Some(change), Normalization::PerImage, SIDE), split());
        let drawn: BTreeSet<_> =
            (1..=2000).map(|epoch| bits(&seen(&sampling, &split, epoch))).collect();
        assert_eq!(expected.len(), 162);
        assert!(drawn == expected, "{name}");
    }
}

/// The epochs in which an image is flipped are those of airbench's program, for either first choice.
#[test]
fn alternating_flips() {
    let flip = Flip::Alternate;
    let change = Augmentation { padding: 2, border: Border::Reflect, flip, cutout: 0 };
    let sampling = sampling(Some(change), Normalization::None, SIDE);
    // Bright on the right, so that a crop shows whether it is flipped.
    let image: Vec<u8> =
        (0..SHAPE.elements()).map(|at| if at % SIDE < SIDE / 2 { 0 } else { 255 }).collect();
    let split = Split { pixels: image.repeat(16), labels: vec![0; 16], ..Split::default() };
    let mut flips = vec![Vec::new(); split.len()];
    let mut batch = ImageBatch::default();
    for epoch in 1..=4 {
        sampling.fill(&split, epoch, &sampling.order(epoch, split.len()), &mut batch);
        for (flips, image) in flips.iter_mut().zip(batch.images.chunks(SHAPE.elements())) {
            flips.push(u8::from(image[0] == 1.0));
        }
    }
    let expected: BTreeSet<_> = bytes("flips").chunks(4).map(<[u8]>::to_vec).collect();
    assert_eq!(BTreeSet::from_iter(flips), expected);
}

#[test]
fn normalised_and_resized_images() {
    let split = split();
    let dataset = Normalization::dataset(&split);
    for (name, normalization, side) in [
        ("normalised/per_image", Normalization::PerImage, SIDE),
        ("normalised/dataset", dataset, SIDE),
        ("shrunk/16", dataset, 16),
        ("shrunk/24", dataset, 24),
    ] {
        let image = seen(&sampling(None, normalization, side), &split, 1);
        assert!(is_close(&image, &numbers(name)), "{name}");
    }
}

/// The square of cutout is set to zero in the normalised image before it is resized.
#[test]
fn cutout() {
    let split = split();
    let flip = Flip::Random(false);
    let change = Augmentation { padding: 0, border: Border::Reflect, flip, cutout: 31 };
    let sampling = sampling(Some(change), Normalization::dataset(&split), 16);
    let squares = numbers("cut_out/16");
    let places: BTreeSet<_> = (1..=50)
        .map(|epoch| {
            let image = seen(&sampling, &split, epoch);
            let mut squares = squares.chunks(SHAPE.channels * 16 * 16);
            squares.position(|square| is_close(&image, square)).expect("one of the four places")
        })
        .collect();
    assert_eq!(places.len(), 4);
}
