//! Kernels against PyTorch, from fixtures that `pytorch/fixtures.py` wrote.

use crescendo_kernels::epilogue::{BatchStatistics, Epilogue, GradientEpilogue, NormGradientSums};
use crescendo_kernels::muon::MuonStep;
use crescendo_kernels::norm::{self, BatchMoments, NormBackward};
use crescendo_kernels::prologue::{Affine, GradientPrologue, NormGradient, Prologue};
use crescendo_kernels::{
    ActivationFunction, ConvAlgorithm, Convolution, DisjointSlice, Isa, Leaves, MapShape, MapsMut,
    MapsRef, Processor, ThreadPool, Workspace, activation, convolution, linear, loss, max_pool,
    muon, pooling, to_blocked, to_nchw,
};
use safetensors::{Dtype, SafeTensors};

struct Fixture {
    bytes: Vec<u8>,
}

impl Fixture {
    fn open(name: &str) -> Self {
        let path = format!("{}/tests/fixtures/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        Fixture { bytes: std::fs::read(path).unwrap() }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    fn shape(&self, name: &str) -> Vec<usize> {
        self.tensors().tensor(name).unwrap().shape().to_vec()
    }

    fn wide(&self, name: &str) -> Vec<f64> {
        let tensors = self.tensors();
        let view = tensors.tensor(name).unwrap_or_else(|_| panic!("no {name}"));
        let bytes = view.data();
        match view.dtype() {
            Dtype::F64 => {
                bytes.chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
            }
            Dtype::F32 => {
                bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect()
            }
            Dtype::I64 => {
                bytes.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect()
            }
            other => panic!("{name} is {other:?}"),
        }
    }

    fn get(&self, name: &str) -> Vec<f32> {
        self.wide(name).iter().map(|&x| x as f32).collect()
    }

    fn labels(&self, name: &str) -> Vec<u16> {
        self.wide(name).iter().map(|&x| x as u16).collect()
    }

    fn metadata(&self, key: &str) -> f64 {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).unwrap();
        metadata.metadata().as_ref().unwrap()[key].parse().unwrap()
    }
}

#[track_caller]
fn assert_close(name: &str, values: &[f32], expected: &[f64]) {
    assert_eq!(values.len(), expected.len(), "{name}");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let off = norm(&mut values.iter().zip(expected).map(|(&x, e)| f64::from(x) - e));
    let size = norm(&mut expected.iter().copied());
    // A bias before BatchNorm has no gradient but rounding: compared absolutely.
    assert!(off <= 3e-6 * size + 1e-6, "{name}: off by {off:e} of {size:e}");
}

fn processor() -> Processor {
    Processor { pool: ThreadPool::new(2), isa: Isa::best() }
}

/// The maps that a tensor of PyTorch's shape holds.
fn map_shape(shape: &[usize]) -> MapShape {
    MapShape { images: shape[0], channels: shape[1], height: shape[2], width: shape[3] }
}

#[test]
fn convolutions() {
    let (fixture, processor) = (Fixture::open("layers"), processor());
    for case in [
        "conv3x3",
        "conv3x3_wide",
        "conv3x3_stride2",
        "conv3x3_stride2_odd",
        "conv1x1_stride2",
        "conv1x1_stride2_odd",
        "conv2x2_valid",
    ] {
        let get = |name: &str| fixture.get(&format!("{case}.{name}"));
        let wide = |name: &str| fixture.wide(&format!("{case}.{name}"));
        let (input, weight) =
            (fixture.shape(&format!("{case}.input")), fixture.shape(&format!("{case}.weight")));
        let layer = Convolution {
            inputs: weight[1],
            outputs: weight[0],
            kernel: weight[2],
            stride: fixture.metadata(&format!("{case}.stride")) as usize,
            padding: fixture.metadata(&format!("{case}.padding")) as usize,
        };
        let shape = map_shape(&input);
        let out = layer.output_shape(shape);
        for algorithm in [ConvAlgorithm::Direct, ConvAlgorithm::Winograd2, ConvAlgorithm::Winograd4]
        {
            if !layer.supports(algorithm) {
                continue;
            }
            let leaves = &Leaves::one(shape.images);
            let workspace_size = layer
                .workspace_size(algorithm, shape, None, 2)
                .max(layer.workspace_size(algorithm, shape, Some(leaves), 2));
            let mut workspace = Workspace::new(2, workspace_size);
            let x = to_blocked(shape, &get("input"));
            let dy = to_blocked(out, &get("grad_output"));
            let (w, mut b) = (get("weight"), get("bias"));
            b.resize(out.padded_channels(), 0.0);
            let prologue = Prologue::plain(shape, MapsRef::F32(&x));
            let mut y = vec![0.0; out.len()];
            let epilogue =
                Epilogue { shape: out, bias: Some(&b), out: MapsMut::f32(&mut y), sums: None };
            let mut packed = vec![0.0; layer.packed_len(algorithm)];
            convolution::pack_weights(&processor, algorithm, &layer, &w, None, &mut packed);
            convolution::forward(
                &processor,
                &mut workspace,
                algorithm,
                &layer,
                &prologue,
                &packed,
                &epilogue,
            );
            assert_close(case, &to_nchw(out, &y), &wide("output"));
            let (mut dw, mut db) = (vec![0.0; w.len()], vec![0.0; layer.outputs]);
            let mut dx = vec![0.0; x.len()];
            let gradient = GradientPrologue { shape: out, gradient: &dy, norm: None };
            let epilogue = GradientEpilogue::plain(shape, DisjointSlice::new(&mut dx));
            convolution::backward(
                &processor,
                &mut workspace,
                algorithm,
                &layer,
                &prologue,
                &w,
                &gradient,
                leaves,
                Some(&mut [&mut dw]),
                Some(&epilogue),
            );
            norm::bias_gradient(&processor, &gradient, leaves, &mut [&mut db]);
            assert_close(case, &to_nchw(shape, &dx), &wide("grad_input"));
            assert_close(case, &dw, &wide("grad_weight"));
            assert_close(case, &db, &wide("grad_bias"));
        }
    }
}

#[test]
fn batch_norm() {
    let (fixture, processor) = (Fixture::open("layers"), processor());
    let shape = map_shape(&fixture.shape("batchnorm_train.input"));
    let padded = shape.padded_channels();
    let eps = fixture.metadata("batchnorm_train.eps");
    let output = |case: &str, moments: &[BatchMoments]| {
        let get = |name: &str| fixture.get(&format!("{case}.{name}"));
        let (mut scale, mut shift) = (vec![0.0; padded], vec![0.0; padded]);
        for (channel, (weight, bias)) in get("weight").into_iter().zip(get("bias")).enumerate() {
            (scale[channel], shift[channel]) = moments[channel].affine(eps, weight, bias);
        }
        let x = to_blocked(shape, &get("input"));
        let mut y = vec![0.0; x.len()];
        let affine = Some(Affine { scale: &scale, shift: &shift });
        let prologue = Prologue { affine, ..Prologue::plain(shape, MapsRef::F32(&x)) };
        let epilogue = Epilogue { shape, bias: None, out: MapsMut::f32(&mut y), sums: None };
        pooling::materialise(&processor, &prologue, &epilogue);
        assert_close(case, &to_nchw(shape, &y), &fixture.wide(&format!("{case}.output")));
    };
    let running = |name: &str| fixture.wide(&format!("batchnorm_eval.running_{name}"));
    let moments = running("mean").into_iter().zip(running("var"));
    let moments = moments.map(|(mean, variance)| BatchMoments { mean, variance });
    output("batchnorm_eval", &moments.collect::<Vec<_>>());

    let get = |name: &str| fixture.get(&format!("batchnorm_train.{name}"));
    let wide = |name: &str| fixture.wide(&format!("batchnorm_train.{name}"));
    let (x, dy) = (to_blocked(shape, &get("input")), to_blocked(shape, &get("grad_output")));
    let count = (shape.images * shape.pixels()) as f64;
    let mut sums = vec![0.0; shape.images * 2 * padded];
    let mut total = vec![0.0; 2 * shape.channels];
    let zeros = vec![0.0; padded];
    let mut copy = vec![0.0; x.len()];
    let epilogue = Epilogue {
        shape,
        bias: None,
        out: MapsMut::f32(&mut copy),
        sums: Some(BatchStatistics { sums: DisjointSlice::new(&mut sums), shift: &zeros }),
    };
    pooling::materialise(&processor, &Prologue::plain(shape, MapsRef::F32(&x)), &epilogue);
    norm::sum_over_images(&processor, shape, &Leaves::one(shape.images), &sums, &mut total);
    let moments: Vec<BatchMoments> =
        total.chunks(2).map(|s| BatchMoments::from_sums(s[0], s[1], count, 0.0)).collect();
    output("batchnorm_train", &moments);
    let mut mean: Vec<f32> = moments.iter().map(|moments| moments.mean as f32).collect();
    mean.resize(padded, 0.0);

    sums.fill(0.0);
    let mut g = vec![0.0; x.len()];
    let mut epilogue = GradientEpilogue::plain(shape, DisjointSlice::new(&mut g));
    let value = MapsRef::F32(&x);
    epilogue.norms[0] =
        Some(NormGradientSums { value, mean: &mean, sums: DisjointSlice::new(&mut sums) });
    let gradient = GradientPrologue { shape, gradient: &dy, norm: None };
    pooling::materialise_backward(&processor, &gradient, &epilogue);
    norm::sum_over_images(&processor, shape, &Leaves::one(shape.images), &sums, &mut total);
    let weight = get("weight");
    let mut abc = [zeros.clone(), zeros.clone(), zeros];
    let (mut dweight, mut dbias) = (Vec::new(), Vec::new());
    for (channel, sums) in total.chunks(2).enumerate() {
        let backward = NormBackward::from_sums(sums[0], sums[1], moments[channel], eps);
        dweight.push(backward.dweight as f32);
        dbias.push(backward.dbias as f32);
        let values = backward.coefficients(moments[channel], eps, weight[channel], count);
        for (coefficients, value) in abc.iter_mut().zip(values) {
            coefficients[channel] = value;
        }
    }
    let [a, b, c] = &abc;
    let mut dx = vec![0.0; x.len()];
    let norm = Some(NormGradient { value, a, b, c });
    let epilogue = GradientEpilogue::plain(shape, DisjointSlice::new(&mut dx));
    pooling::materialise_backward(
        &processor,
        &GradientPrologue { shape, gradient: &g, norm },
        &epilogue,
    );
    assert_close("grad_input", &to_nchw(shape, &dx), &wide("grad_input"));
    assert_close("grad_bias", &dbias, &wide("grad_bias"));
    assert_close("grad_weight", &dweight, &wide("grad_weight"));
}

#[test]
fn activations_pooling_and_linear() {
    let (fixture, processor) = (Fixture::open("layers"), processor());
    let kinds = [
        ("leaky_relu", ActivationFunction::LeakyRelu { slope: 0.01 }),
        ("relu", ActivationFunction::Relu),
        ("elu", ActivationFunction::Elu),
        ("sigmoid", ActivationFunction::Sigmoid),
        ("gelu", ActivationFunction::Gelu),
        ("silu", ActivationFunction::Silu),
    ];
    for (case, f) in kinds {
        let x = fixture.get(&format!("{case}.input"));
        let (mut y, mut dx) = (vec![0.0; x.len()], fixture.get(&format!("{case}.grad_output")));
        activation::forward(&processor, f, &x, &mut y);
        activation::backward(&processor, f, &x, &mut dx);
        assert_close(case, &y, &fixture.wide(&format!("{case}.output")));
        assert_close(case, &dx, &fixture.wide(&format!("{case}.grad_input")));
    }

    for (case, size, takes_largest) in
        [("avgpool2x2", 2, false), ("max_pool2", 2, true), ("max_pool3", 3, true)]
    {
        let shape = map_shape(&fixture.shape(&format!("{case}.input")));
        let out = pooling::output_shape(size, shape);
        let get = |name: &str| fixture.get(&format!("{case}.{name}"));
        let (x, dy) = (to_blocked(shape, &get("input")), to_blocked(out, &get("grad_output")));
        let (mut y, mut dx) = (vec![0.0; dy.len()], vec![0.0; x.len()]);
        let prologue = Prologue::plain(shape, MapsRef::F32(&x));
        let epilogue = Epilogue { shape: out, bias: None, out: MapsMut::f32(&mut y), sums: None };
        let back = GradientEpilogue::plain(shape, DisjointSlice::new(&mut dx));
        let gradient = GradientPrologue { shape: out, gradient: &dy, norm: None };
        if takes_largest {
            max_pool::forward(&processor, size, &prologue, &epilogue);
            max_pool::backward(&processor, size, &prologue, &gradient, &back);
        } else {
            pooling::average(&processor, size, &prologue, &epilogue);
            pooling::average_backward(&processor, size, &gradient, &back);
        }
        let wide = |name: &str| fixture.wide(&format!("{case}.{name}"));
        assert_close(case, &to_nchw(out, &y), &wide("output"));
        assert_close(case, &to_nchw(shape, &dx), &wide("grad_input"));
    }

    let shape = fixture.shape("linear.weight");
    let layer = linear::Linear { inputs: shape[1], outputs: shape[0] };
    let get = |name: &str| fixture.get(&format!("linear.{name}"));
    let (x, w, b, dy) = (get("input"), get("weight"), get("bias"), get("grad_output"));
    let mut workspace = Workspace::new(2, layer.workspace_size(dy.len() / shape[0]));
    let mut y = vec![0.0; dy.len()];
    linear::forward(&processor, &mut workspace, &layer, &x, &w, Some(&b), &mut y);
    assert_close("linear", &y, &fixture.wide("linear.output"));
    let (mut dw, mut db, mut dx) = (vec![0.0; w.len()], vec![0.0; b.len()], vec![0.0; x.len()]);
    linear::backward(
        &processor,
        &mut workspace,
        &layer,
        &x,
        &w,
        &dy,
        &Leaves::one(dy.len() / shape[0]),
        Some(&mut [&mut dw]),
        Some(&mut [&mut db]),
        Some(&mut dx),
    );
    assert_close("linear", &dw, &fixture.wide("linear.grad_weight"));
    assert_close("linear", &db, &fixture.wide("linear.grad_bias"));
    assert_close("linear", &dx, &fixture.wide("linear.grad_input"));
}

#[test]
fn cross_entropy() {
    let fixture = Fixture::open("layers");
    for (case, smoothing) in
        [("cross_entropy", 0.0), ("cross_entropy_large", 0.0), ("cross_entropy_smoothed", 0.2)]
    {
        let logits = fixture.get(&format!("{case}.input"));
        let labels = fixture.labels(&format!("{case}.target"));
        let mut gradient = vec![0.0; logits.len()];
        let count = labels.len();
        let sum = loss::cross_entropy(&logits, &labels, smoothing, count, None, &mut gradient);
        let value = sum / count as f64;
        assert!((value - fixture.wide(&format!("{case}.output"))[0]).abs() < 1e-9);
        assert_close(case, &gradient, &fixture.wide(&format!("{case}.grad_input")));
    }
}

/// From a weight of zeros, a step of length -1 is all there is.
#[test]
fn steps_of_muon_are_orthogonalised() {
    let (fixture, processor) = (Fixture::open("muon"), processor());
    let steps = fixture.metadata("muon_steps") as usize;
    let rule = MuonStep { learning_rate: -1.0, momentum: 0.0, nesterov: false, steps };
    for shape in ["wide", "tall"] {
        let (before, after) = (format!("orthogonalise/{shape}"), format!("orthogonalised/{shape}"));
        let [rows, columns] = fixture.shape(&before)[..] else { panic!("it is a matrix") };
        let mut workspace = Workspace::new(2, muon::workspace_size(rows, columns));
        let mut gradient = fixture.get(&before);
        let (mut weight, mut momentum_buffer) =
            (vec![0.0; gradient.len()], vec![0.0; gradient.len()]);
        muon::update(
            &processor,
            &mut workspace,
            rule,
            rows,
            &mut weight,
            &mut gradient,
            &mut momentum_buffer,
        );
        assert_close(shape, &weight, &fixture.wide(&after));
    }
}
