//! Images that the device prepares from a data set of its own are, to the bit, those that are prepared ahead.

use crescendo_network::{
    BorderPixels, ChannelStatistics, DeviceData, Engine, Images, MicroBatch, Preparation, Sample,
    Section, Shape, Tensor, UpdateResult,
};

use crate::Suite;
use crate::setup::{airbench, graph, labels};
use crate::suite::{copy, finish, numbers};

const SIDE: usize = 32;
const SHAPE: Shape = Shape::Maps { channels: 3, height: SIDE, width: SIDE };
const IMAGES: usize = 7;

/// Bytes that differ from place to place; one channel of the second image is constant.
fn data(seed: usize) -> Vec<u8> {
    let byte = |i: usize| ((i * 31 + seed * 17) ^ (i / 7 * 13)) as u8;
    let mut bytes: Vec<u8> = (0..IMAGES * SHAPE.len()).map(byte).collect();
    bytes[SHAPE.len()..][..SIDE * SIDE].fill(200);
    bytes
}

/// A sample by the definition of its parts: see [`Preparation`].
fn prepare(data: &[u8], sample: &Sample, how: &Preparation) -> Vec<f32> {
    let (side, last) = (SIDE as i32, SIDE as i32 - 1);
    let image = &data[sample.index as usize * SHAPE.len()..][..SHAPE.len()];
    let mirrored = |at: i32| last - (last - at.abs()).abs();
    let mut prepared = Vec::new();
    for (channel, image) in image.chunks_exact(SIDE * SIDE).enumerate() {
        let mut bytes = Vec::new();
        for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
            let x = if sample.flip { last - x } else { x };
            let (y, x) = (y + i32::from(sample.crop[0]), x + i32::from(sample.crop[1]));
            bytes.push(match how.border {
                BorderPixels::Constant(colour) if [mirrored(y), mirrored(x)] != [y, x] => {
                    colour[channel]
                }
                _ => image[(mirrored(y) * side + mirrored(x)) as usize],
            });
        }
        let (mean, deviation) = match how.normalization {
            ChannelStatistics::Fixed(channels) => channels[channel],
            ChannelStatistics::PerImage => {
                let n = bytes.len() as u64;
                let sum: u64 = bytes.iter().map(|&x| u64::from(x)).sum();
                let squares: u64 = bytes.iter().map(|&x| u64::from(x) * u64::from(x)).sum();
                let deviation = ((n * squares - sum * sum) as f64).sqrt() / n as f64;
                (sum as f64 / n as f64, deviation)
            }
        };
        let scale = if deviation > 0.0 { 1.0 / deviation } else { 1.0 };
        let [top, left] = sample.cutout.map(usize::from);
        let cut = |at: usize, from: usize| (from..from + how.cutout).contains(&at);
        let normalised: Vec<f32> = (0..SIDE * SIDE)
            .map(|at| match cut(at / SIDE, top) && cut(at % SIDE, left) {
                true => 0.0,
                false => ((f64::from(bytes[at]) - mean) * scale) as f32,
            })
            .collect();
        prepared.extend(resized(&normalised, how.image_size));
    }
    prepared
}

/// Each pixel is the mean of the area that it covers.
fn resized(image: &[f32], size: usize) -> Vec<f32> {
    if size == SIDE {
        return image.to_vec();
    }
    let covered = |at: usize| {
        let (from, to) = (at * SIDE, (at + 1) * SIDE);
        (from / size..to.div_ceil(size)).map(move |pixel| {
            let parts = to.min((pixel + 1) * size) - from.max(pixel * size);
            (pixel, parts as f32 / SIDE as f32)
        })
    };
    let pixel = |y: usize, x: usize| -> f32 {
        let row = |row: usize| -> f32 {
            covered(x).map(|(column, weight)| weight * image[row * SIDE + column]).sum()
        };
        covered(y).map(|(at, weight)| weight * row(at)).sum()
    };
    (0..size * size).map(|at| pixel(at / size, at % size)).collect()
}

fn samples() -> Vec<Sample> {
    let sample = |index, crop, flip, cutout| Sample { index, crop, flip, cutout };
    vec![
        sample(0, [0, 0], false, [0, 0]),
        sample(1, [-4, 3], true, [20, 5]),
        sample(6, [4, -4], false, [27, 27]),
        sample(3, [-1, -2], true, [0, 13]),
    ]
}

/// The gradients and the result of a micro-batch.
fn computed(engine: &mut dyn Engine, images: Images) -> (Vec<Vec<u32>>, UpdateResult) {
    let labels = labels(samples().len());
    engine.accumulate(&MicroBatch { images, ..MicroBatch::whole(&[], &labels) }).unwrap();
    let bits =
        |tensor: &Tensor| -> Vec<u32> { numbers(tensor).iter().map(|x| x.to_bits()).collect() };
    let gradients = copy(engine, Section::Gradients).iter().map(bits).collect();
    (gradients, finish(engine))
}

pub(crate) fn samples_become_the_input_that_is_described(suite: &Suite) {
    let fixed = ChannelStatistics::Fixed([(125.0, 63.0), (123.0, 0.0), (114.0, 66.5)]);
    let plain = Preparation {
        border: BorderPixels::Constant([9, 100, 255]),
        normalization: fixed,
        cutout: 0,
        image_size: SIDE,
    };
    let ways = [
        plain,
        Preparation { normalization: ChannelStatistics::PerImage, cutout: 5, ..plain },
        Preparation { border: BorderPixels::Reflect, cutout: 3, ..plain },
        Preparation { border: BorderPixels::Reflect, image_size: 24, ..plain },
        Preparation { cutout: 4, image_size: 28, ..plain },
    ];
    let (data, samples) = (data(1), samples());
    for how in ways {
        let graph = graph(&airbench(), how.image_size);
        let mut engine = suite.engine(&graph);
        if !engine.load_data(&DeviceData { pixels: &data, shape: SHAPE }).unwrap() {
            return;
        }
        let on_device = computed(&mut *engine, Images::Samples(&samples, &how));
        let ahead: Vec<f32> = samples.iter().flat_map(|s| prepare(&data, s, &how)).collect();
        let mut engine = suite.engine(&graph);
        assert_eq!(on_device, computed(&mut *engine, Images::Prepared(&ahead)), "{how:?}");
    }
}

pub(crate) fn samples_are_of_the_last_data_set(suite: &Suite) {
    let how = Preparation {
        border: BorderPixels::Reflect,
        normalization: ChannelStatistics::PerImage,
        cutout: 0,
        image_size: SIDE,
    };
    let graph = graph(&airbench(), SIDE);
    let (first, second, samples) = (data(1), data(2), samples());
    // With these data sets one after the other; `None` if the engine takes none.
    let with = |sets: &[&[u8]]| {
        let mut engine = suite.engine(&graph);
        let mut load = |pixels| engine.load_data(&DeviceData { pixels, shape: SHAPE }).unwrap();
        let taken = sets.iter().all(|pixels| load(pixels));
        taken.then(|| computed(&mut *engine, Images::Samples(&samples, &how)))
    };
    let Some(last) = with(&[&first, &second]) else { return };
    assert_eq!(Some(&last), with(&[&second]).as_ref());
    assert_ne!(Some(&last), with(&[&first]).as_ref());
}
