//! Layers and whole updates against PyTorch, from fixtures that `pytorch/fixtures.py` wrote.

use crescendo_kernels::norm::{self, Moments};
use crescendo_kernels::{
    Activation, Convolution, Map, Pool, Workspace, activation, convolution, linear, loss, pooling,
};
use crescendo_network::{
    Alone, Batch, Config, CpuEngine, Decay, Engine, Plan, Rule, Section, Sgd, Tensor, Values,
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

    fn metadata(&self, key: &str) -> f64 {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).unwrap();
        metadata.metadata().as_ref().unwrap()[key].parse().unwrap()
    }
}

/// From PyTorch's `[N, C, ...]` to the kernels' `[C, N, ...]`, and back: it is its own reverse.
fn swap<T: Copy>(values: &[T], images: usize, channels: usize) -> Vec<T> {
    let pixels = values.len() / (images * channels);
    let mut swapped = Vec::with_capacity(values.len());
    for channel in 0..channels {
        for image in 0..images {
            swapped.extend_from_slice(&values[(image * channels + channel) * pixels..][..pixels]);
        }
    }
    swapped
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

#[test]
fn convolutions() {
    let (fixture, pool) = (Fixture::open("layers"), Pool::new(2));
    for case in [
        "conv3x3",
        "conv3x3_wide",
        "conv3x3_stride2",
        "conv3x3_stride2_odd",
        "conv1x1_stride2",
        "conv1x1_stride2_odd",
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
        let map = Map { images: input[0], height: input[2], width: input[3] };
        let mut workspace = Workspace::new(&pool, [layer.workspace(map, true)]);
        let x = swap(&get("input"), input[0], input[1]);
        let dy = swap(&get("grad_output"), input[0], weight[0]);
        let mut y = vec![0.0; dy.len()];
        let (w, b) = (get("weight"), get("bias"));
        convolution::forward(&pool, &mut workspace, &layer, map, &x, &w, &b, &mut y);
        assert_close(case, &y, &swap(&wide("output"), input[0], weight[0]));
        let (mut dw, mut db) = (vec![0.0; w.len()], vec![0.0; b.len()]);
        let mut dx = vec![0.0; x.len()];
        convolution::backward(
            &pool,
            &mut workspace,
            &layer,
            map,
            &x,
            &w,
            &dy,
            &mut dw,
            &mut db,
            Some(&mut dx),
        );
        assert_close(case, &dx, &swap(&wide("grad_input"), input[0], input[1]));
        assert_close(case, &dw, &wide("grad_weight"));
        assert_close(case, &db, &wide("grad_bias"));
    }
}

#[test]
fn batch_norm() {
    let (fixture, pool) = (Fixture::open("layers"), Pool::new(2));
    let shape = fixture.shape("batchnorm_train.input");
    let (images, channels) = (shape[0], shape[1]);
    let eps = fixture.metadata("batchnorm_train.eps");
    let get = |name: &str| fixture.get(&format!("batchnorm_train.{name}"));
    let wide = |name: &str| fixture.wide(&format!("batchnorm_train.{name}"));
    let x = swap(&get("input"), images, channels);
    let dy = swap(&get("grad_output"), images, channels);
    let count = (x.len() / channels) as f64;
    let mut sums = vec![0.0; 2 * channels];
    norm::sums(&pool, &x, &mut sums);
    let moments: Vec<Moments> = sums.chunks(2).map(|s| Moments::new(s[0], s[1], count)).collect();
    norm::backward_sums(&pool, &x, &dy, &moments, eps, &mut sums);
    let mut dx = vec![0.0; x.len()];
    norm::backward(&pool, &x, &dy, &moments, eps, &get("weight"), &sums, count, &mut dx);
    assert_close("grad_input", &dx, &swap(&wide("grad_input"), images, channels));
    let part = |nth: usize| sums.iter().skip(nth).step_by(2).map(|&s| s as f32).collect::<Vec<_>>();
    assert_close("grad_bias", &part(0), &wide("grad_bias"));
    assert_close("grad_weight", &part(1), &wide("grad_weight"));
}

#[test]
fn activations_pooling_and_linear() {
    let (fixture, pool) = (Fixture::open("layers"), Pool::new(2));
    let kinds = [
        ("leaky_relu", Activation::LeakyRelu { slope: 0.01 }),
        ("relu", Activation::Relu),
        ("elu", Activation::Elu),
        ("sigmoid", Activation::Sigmoid),
    ];
    for (case, f) in kinds {
        let x = fixture.get(&format!("{case}.input"));
        let dy = fixture.get(&format!("{case}.grad_output"));
        let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        activation::forward(&pool, f, &x, &mut y);
        activation::backward(&pool, f, &y, &dy, &mut dx);
        assert_close(case, &y, &fixture.wide(&format!("{case}.output")));
        assert_close(case, &dx, &fixture.wide(&format!("{case}.grad_input")));
    }

    let shape = fixture.shape("avgpool2x2.input");
    let map = Map { images: shape[0], height: shape[2], width: shape[3] };
    let swapped =
        |name: &str| swap(&fixture.get(&format!("avgpool2x2.{name}")), shape[0], shape[1]);
    let wide = |name: &str| swap(&fixture.wide(&format!("avgpool2x2.{name}")), shape[0], shape[1]);
    let (x, dy) = (swapped("input"), swapped("grad_output"));
    let (mut y, mut dx) = (vec![0.0; dy.len()], vec![0.0; x.len()]);
    pooling::average(&pool, 2, map, &x, &mut y);
    pooling::average_backward(&pool, 2, map, &dy, &mut dx);
    assert_close("avgpool", &y, &wide("output"));
    assert_close("avgpool", &dx, &wide("grad_input"));

    let shape = fixture.shape("linear.weight");
    let layer = linear::Linear { inputs: shape[1], outputs: shape[0] };
    let get = |name: &str| fixture.get(&format!("linear.{name}"));
    let (x, w, b, dy) = (get("input"), get("weight"), get("bias"), get("grad_output"));
    let mut y = vec![0.0; dy.len()];
    linear::forward(&pool, &layer, &x, &w, &b, &mut y);
    assert_close("linear", &y, &fixture.wide("linear.output"));
    let (mut dw, mut db, mut dx) = (vec![0.0; w.len()], vec![0.0; b.len()], vec![0.0; x.len()]);
    linear::backward(&pool, &layer, &x, &w, &dy, &mut dw, &mut db, Some(&mut dx));
    assert_close("linear", &dw, &fixture.wide("linear.grad_weight"));
    assert_close("linear", &db, &fixture.wide("linear.grad_bias"));
    assert_close("linear", &dx, &fixture.wide("linear.grad_input"));
}

#[test]
fn cross_entropy() {
    let fixture = Fixture::open("layers");
    for case in ["cross_entropy", "cross_entropy_large"] {
        let logits = fixture.get(&format!("{case}.input"));
        let labels: Vec<u16> =
            fixture.wide(&format!("{case}.target")).iter().map(|&x| x as u16).collect();
        let mut gradient = vec![0.0; logits.len()];
        let value = loss::cross_entropy(&logits, &labels, 1.0, &mut gradient);
        assert!((value - fixture.wide(&format!("{case}.output"))[0]).abs() < 1e-9);
        assert_close(case, &gradient, &fixture.wide(&format!("{case}.grad_input")));
    }
}

/// Two whole updates: loss, logits, gradients, weights, momentum, running statistics, and the
/// logits of evaluation after them.
#[test]
fn whole_updates() {
    let fixture = Fixture::open("step");
    let mut config = Config::report();
    config.blocks = vec![1, 1, 1];
    config.widths = vec![4, 8, 16];
    config.head.hidden = fixture.metadata("hidden") as usize;
    let plan = Plan::new(&config.network().unwrap()).unwrap();
    let mut engine = CpuEngine::new(plan, 2);

    let model: Vec<(String, Vec<usize>)> = engine
        .export(Section::Model)
        .iter()
        .map(|tensor| (tensor.name.to_string(), tensor.shape.clone()))
        .collect();
    let before: Vec<Tensor> = model
        .iter()
        .map(|(name, _)| {
            let from = format!("before/{name}");
            let shape = fixture.shape(&from);
            if name.ends_with("num_batches_tracked") {
                let values = Values::I64(fixture.wide(&from)[0] as i64);
                Tensor { name: name.into(), shape, values }
            } else {
                Tensor::f32(name, shape, fixture.get(&from))
            }
        })
        .collect();
    engine.import(Section::Model, &before).unwrap();

    let images = fixture.get("images");
    let labels: Vec<u16> = fixture.wide("labels").iter().map(|&x| x as u16).collect();
    let batch = Batch { images: &images, labels: &labels };
    let sgd = Sgd {
        learning_rate: fixture.metadata("learning_rate") as f32,
        momentum: fixture.metadata("momentum") as f32,
        nesterov: false,
        weight_decay: fixture.metadata("weight_decay") as f32,
    };
    let rule = Rule::Sgd { sgd, decay: Decay::All };
    let compare = |engine: &CpuEngine, section: Section, prefix: &str| {
        for tensor in engine.export(section) {
            let expected = fixture.wide(&format!("{prefix}/{}", tensor.name));
            match &tensor.values {
                Values::F32(values) => {
                    assert_close(&format!("{prefix} {}", tensor.name), values, &expected)
                }
                Values::I64(count) => assert_eq!(*count as f64, expected[0]),
            }
        }
    };

    let loss = engine.backward(batch, 1.0, &Alone);
    assert!((loss - fixture.wide("loss")[0]).abs() < 1e-6);
    compare(&engine, Section::Gradients, "grad");
    engine.update(&rule);
    compare(&engine, Section::Model, "after");
    compare(&engine, Section::Momentum, "momentum");

    let loss = engine.backward(batch, 1.0, &Alone);
    assert!((loss - fixture.wide("loss2")[0]).abs() < 1e-6);
    engine.update(&rule);
    compare(&engine, Section::Model, "after2");
    assert_close("eval_logits", &engine.logits(&images), &fixture.wide("eval_logits"));
}
