//! From an image's bytes to the network's input: what `predict` does with an image of any size.

use crescendo_data::{ImageShape, Normalization, Sizing};

use super::builder::{Attribute, Builder, Type};

const SHAPE: ImageShape = ImageShape::CIFAR;
/// The size of the images that [`Sizing::Pad`] pads.
const PADDED: usize = 28;

/// The name of the graph's input: `[N, height, width, 3]`, bytes of red, green and blue.
pub const IMAGE: &str = "image";

/// Adds the nodes from [`IMAGE`] to normalised images `[N, 3, 32, 32]`. If `sizing` is `None`, images have that size
/// already.
pub fn add(builder: &mut Builder, sizing: Option<Sizing>, normalization: &Normalization) -> String {
    // The only node that reads bytes: TensorRT allows no other.
    let to_float = [("to", Attribute::Int(Type::Float as i64))];
    let image = builder.node("Cast", "input/bytes", &[IMAGE], &to_float);
    let image = match sizing {
        Some(sizing) => resized(builder, &image, sizing),
        None => planes(builder, &image),
    };
    normalized(builder, &image, normalization)
}

/// From `[N, rows, columns, 3]` to `[N, 3, rows, columns]`.
fn planes(builder: &mut Builder, image: &str) -> String {
    let order = [("perm", Attribute::Ints(&[0, 3, 1, 2]))];
    builder.node("Transpose", "input/planes", &[image], &order)
}

/// The image with the size that the network takes, its numbers rounded as bytes are: two matrix products, first with the
/// weights of the rows, then with those of the columns. Other programs compute ONNX's own `Resize` with antialiasing
/// wrongly, or not at all. For an image that has the size already, both matrices are the identity.
fn resized(builder: &mut Builder, image: &str, sizing: Sizing) -> String {
    let shape = builder.node("Shape", "resize/shape", &[image], &[]);
    let [height, width] = [("height", 1), ("width", 2)].map(|(name, axis)| {
        let axis = builder.int(&format!("resize/{name}_axis"), axis);
        builder.node("Gather", &format!("resize/{name}"), &[&shape, &axis], &[])
    });
    let is_padded = (sizing == Sizing::Pad).then(|| {
        let padded = builder.int("resize/padded_size", PADDED as i64);
        let equal = [("height", &height), ("width", &width)].map(|(name, size)| {
            builder.node("Equal", &format!("resize/{name}_is_padded"), &[size, &padded], &[])
        });
        builder.node("And", "resize/is_padded", &[&equal[0], &equal[1]], &[])
    });
    let is_padded = is_padded.as_deref();
    let rows = weights(builder, "resize/rows", &height, is_padded, SHAPE.height, true);
    let columns = weights(builder, "resize/columns", &width, is_padded, SHAPE.width, false);

    let flat = builder.ints("resize/flat_shape", &[0, 0, -1]);
    let flat = builder.node("Reshape", "resize/flat", &[image, &flat], &[]);
    let low = builder.node("MatMul", "resize/low_flat", &[&rows, &flat], &[]);
    let colours = SHAPE.channels as i64;
    let low_shape = builder.ints("resize/low_shape", &[0, SHAPE.height as i64, -1, colours]);
    let low = builder.node("Reshape", "resize/low", &[&low, &low_shape], &[]);
    let low = planes(builder, &low);
    let small = builder.node("MatMul", "resize/small", &[&low, &columns], &[]);
    // Halves are rounded up; ONNX's `Round` would round them to even numbers.
    let half = builder.scalar(0.5);
    let above = builder.node("Add", "resize/above", &[&small, &half], &[]);
    builder.node("Floor", "resize/rounded", &[&above], &[])
}

/// The weights with which the `size` rows (or columns) of a resized image are made of those of the image: `[size, length]`
/// if `outputs_first`, otherwise `[length, size]`. A triangle filter, whose width grows with the reduction. If `is_padded`,
/// the image is put between zeros.
fn weights(
    builder: &mut Builder,
    name: &str,
    length: &str,
    is_padded: Option<&str>,
    size: usize,
    outputs_first: bool,
) -> String {
    let named = |part: &str| format!("{name}/{part}");
    let of_outputs = if outputs_first { [size, 1] } else { [1, size] };
    let of_inputs: [i64; 2] = if outputs_first { [1, -1] } else { [-1, 1] };
    let to_float = [("to", Attribute::Int(Type::Float as i64))];
    let (zero, one) = (builder.int(&named("zero"), 0), builder.int(&named("one"), 1));
    let at = builder.node("Range", &named("range"), &[&zero, length, &one], &[]);
    let at = builder.node("Cast", &named("at"), &[&at], &to_float);
    let inputs_shape = builder.ints(&named("inputs_shape"), &of_inputs);
    let at = builder.node("Reshape", &named("inputs"), &[&at, &inputs_shape], &[]);

    let length = builder.node("Cast", &named("length"), &[length], &to_float);
    let outputs = builder.scalar(size as f32);
    let ratio = builder.node("Div", &named("ratio"), &[&length, &outputs], &[]);
    let unit = builder.scalar(1.0);
    let reach = builder.node("Max", &named("reach"), &[&ratio, &unit], &[]);
    let middles: Vec<f32> = (0..size).map(|output| output as f32 + 0.5).collect();
    let middles = builder.floats(&named("middles"), &of_outputs, &middles);
    let edges = builder.node("Mul", &named("edges"), &[&middles, &ratio], &[]);
    let half = builder.scalar(0.5);
    let mut centres = builder.node("Sub", &named("centres"), &[&edges, &half], &[]);
    if let Some(is_padded) = is_padded {
        let border = (size - PADDED) as f32 / 2.0;
        let moved: Vec<f32> = (0..size).map(|output| output as f32 - border).collect();
        let moved = builder.floats(&named("moved"), &of_outputs, &moved);
        let chosen = [is_padded, &moved, &centres];
        centres = builder.node("Where", &named("chosen_centres"), &chosen, &[]);
    }
    let offset = builder.node("Sub", &named("offset"), &[&at, &centres], &[]);
    let distance = builder.node("Abs", &named("distance"), &[&offset], &[]);
    let distance = builder.node("Div", &named("relative"), &[&distance, &reach], &[]);
    let height = builder.node("Sub", &named("height"), &[&unit, &distance], &[]);
    let triangle = builder.node("Relu", &named("triangle"), &[&height], &[]);
    let over_inputs = builder.ints(&named("inputs_axis"), &[i64::from(outputs_first)]);
    let mut sum = builder.node("ReduceSum", &named("sum"), &[&triangle, &over_inputs], &[]);
    if is_padded.is_some() {
        // Only the sums of the rows of zeros are below.
        sum = builder.node("Max", &named("sum_above_zero"), &[&sum, &half], &[]);
    }
    builder.node("Div", &named("weights"), &[&triangle, &sum], &[])
}

/// The numbers that the network takes: [`Normalization::apply`].
fn normalized(builder: &mut Builder, image: &str, normalization: &Normalization) -> String {
    match normalization {
        Normalization::None => {
            let most = builder.scalar(255.0);
            builder.node("Div", "normalize/output", &[image, &most], &[])
        }
        Normalization::Dataset { mean, deviation } => {
            let mean = mean.map(|mean| (255.0 * mean) as f32);
            let scale = deviation.map(|deviation| {
                let deviation = 255.0 * deviation;
                (if deviation > 0.0 { 1.0 / deviation } else { 1.0 }) as f32
            });
            let shape = [1, SHAPE.channels, 1, 1];
            let mean = builder.floats("normalize/mean", &shape, &mean);
            let scale = builder.floats("normalize/scale", &shape, &scale);
            let centred = builder.node("Sub", "normalize/centred", &[image, &mean], &[]);
            builder.node("Mul", "normalize/output", &[&centred, &scale], &[])
        }
        Normalization::PerImage => {
            let pixels = [("axes", Attribute::Ints(&[2, 3])), ("keepdims", Attribute::Int(1))];
            let mean = builder.node("ReduceMean", "normalize/mean", &[image], &pixels);
            // Sums of the squares of bytes would be rounded; those of a constant channel are zero like this.
            let centred = builder.node("Sub", "normalize/centred", &[image, &mean], &[]);
            let squares = builder.node("Mul", "normalize/squares", &[&centred, &centred], &[]);
            let variance = builder.node("ReduceMean", "normalize/variance", &[&squares], &pixels);
            let deviation = builder.node("Sqrt", "normalize/deviation", &[&variance], &[]);
            let (zero, one) = (builder.scalar(0.0), builder.scalar(1.0));
            let varies = builder.node("Greater", "normalize/varies", &[&deviation, &zero], &[]);
            let divisor =
                builder.node("Where", "normalize/divisor", &[&varies, &deviation, &one], &[]);
            builder.node("Div", "normalize/output", &[&centred, &divisor], &[])
        }
    }
}
