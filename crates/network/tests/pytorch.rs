//! Whole updates against PyTorch, from fixtures that `pytorch/fixtures.py` wrote.

use crescendo_network::{
    ActivationKind, Alone, Batch, Compute, Config, CpuEngine, Engine, Family, Init, Isa, Muon,
    Parameter, Plan, Rule, Section, Sgd, Tensor, Values,
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

/// Two whole updates of the report's family.
#[test]
fn whole_updates() {
    let fixture = Fixture::open("step");
    let mut config = Config::report();
    config.blocks = vec![1, 1, 1];
    config.widths = vec![4, 8, 16];
    config.head.hidden = fixture.metadata("hidden") as usize;
    let sgd = Sgd {
        learning_rate: fixture.metadata("learning_rate") as f32,
        momentum: fixture.metadata("momentum") as f32,
        nesterov: false,
        weight_decay: fixture.metadata("weight_decay") as f32,
    };
    check_updates(&fixture, &config, 0.0, |_| Rule::Sgd(sgd));
}

/// Two whole updates of an airbench network: filters that are not trained, max-pooling, scaled logits,
/// smoothed labels, Muon beside Nesterov's momentum.
#[test]
fn whole_updates_of_airbench() {
    let fixture = Fixture::open("airbench");
    let smoothing = fixture.metadata("label_smoothing");
    check_updates(&fixture, &airbench(&fixture), smoothing, |parameter| {
        airbench_rule(&fixture, parameter)
    });
}

fn airbench_rule(fixture: &Fixture, parameter: &Parameter) -> Rule {
    let number = |key: &str| fixture.metadata(key) as f32;
    let sgd = |learning_rate: &str, decay: &str| {
        Rule::Sgd(Sgd {
            learning_rate: number(learning_rate),
            momentum: number("momentum"),
            nesterov: true,
            weight_decay: number(decay),
        })
    };
    let muon = Muon {
        learning_rate: number("muon_lr"),
        momentum: number("muon_momentum"),
        nesterov: true,
        steps: number("muon_steps") as usize,
    };
    match (parameter.trained, parameter.name.as_str()) {
        (false, _) => Rule::Fixed,
        (_, "head.weight") => sgd("head_lr", "head_decay"),
        (_, name) if name.ends_with(".bias") => sgd("bias_lr", "bias_decay"),
        _ => Rule::Muon(muon),
    }
}

fn airbench(fixture: &Fixture) -> Config {
    let mut config = Config { family: Family::Airbench, whitening: 2, ..Config::report() };
    config.activation = ActivationKind::Gelu;
    (config.blocks, config.widths) = (vec![2, 3], vec![4, 6]);
    (config.bias, config.init) = (false, Init::Dirac);
    (config.norm.eps, config.norm.momentum, config.norm.scale) = (1e-12, 0.4, false);
    (config.head.pool, config.head.hidden, config.head.init) = (3, 0, Init::Unit);
    config.head.scale = fixture.metadata("scale");
    config
}

/// The state that the fixture has under this prefix.
fn state(fixture: &Fixture, engine: &CpuEngine, prefix: &str) -> Vec<Tensor<'static>> {
    let tensors = engine.export(Section::Model).into_iter().map(|tensor| {
        let from = format!("{prefix}/{}", tensor.name);
        let values = match tensor.values {
            Values::I64(_) => Values::I64(fixture.wide(&from)[0] as i64),
            Values::F32(_) => Values::F32(fixture.get(&from).into()),
        };
        Tensor { name: tensor.name.into_owned().into(), shape: fixture.shape(&from), values }
    });
    tensors.collect()
}

/// An engine for images of this side, in the state that the fixture has under this prefix.
fn engine(fixture: &Fixture, prefix: &str, config: &Config, side: usize) -> CpuEngine {
    let plan = Plan::new(&config.network_for(side).unwrap(), Compute::default()).unwrap();
    let mut engine = CpuEngine::new(plan, 2, Isa::best());
    let model = state(fixture, &engine, prefix);
    engine.import(Section::Model, &model).unwrap();
    engine
}

/// Holds a section to what the fixture has under this prefix.
#[track_caller]
fn compare(engine: &CpuEngine, section: Section, fixture: &Fixture, prefix: &str) {
    let trained = |name: &str| engine.plan().parameters.iter().any(|p| p.trained && p.name == name);
    for tensor in engine.export(section) {
        // PyTorch has neither gradient nor momentum for what is not trained.
        if section != Section::Model && !trained(&tensor.name) {
            continue;
        }
        let name = format!("{prefix}/{}", tensor.name);
        let expected = fixture.wide(&name);
        match &tensor.values {
            Values::F32(values) => assert_close(&name, values, &expected),
            Values::I64(count) => assert_eq!(*count as f64, expected[0]),
        }
    }
}

#[test]
fn a_moving_average_of_models() {
    let fixture = Fixture::open("airbench");
    let plan = Plan::new(&airbench(&fixture).network().unwrap(), Compute::default()).unwrap();
    let mut engine = CpuEngine::new(plan, 2, Isa::best());
    for moment in ["before", "after", "after2"] {
        let model = state(&fixture, &engine, moment);
        engine.import(Section::Model, &model).unwrap();
        engine.average(1.0 - fixture.metadata("ema_decay"));
    }
    for tensor in engine.export(Section::Average) {
        if let Values::F32(values) = &tensor.values {
            assert_close(&tensor.name, values, &fixture.wide(&format!("ema/{}", tensor.name)));
        }
    }
}

#[test]
fn whitening_filters() {
    let fixture = Fixture::open("airbench");
    let plan = Plan::new(&airbench(&fixture).network().unwrap(), Compute::default()).unwrap();
    let mut state = plan.initial(0);
    plan.whiten(&mut state, || fixture.get("whiten/images"));
    let Values::F32(filters) = &state[0].values else { panic!("it has numbers") };
    let expected = fixture.wide("whiten/weight");
    // An eigenvector's sign is anybody's choice; the opposites follow in the same order.
    for (index, (filter, expected)) in filters.chunks(12).zip(expected.chunks(12)).enumerate() {
        let dot: f64 = filter.iter().zip(expected).map(|(&a, b)| f64::from(a) * b).sum();
        let turned: Vec<f64> = expected.iter().map(|x| x * dot.signum()).collect();
        assert_close(&format!("filter {index}"), filter, &turned);
    }
}

/// Two whole updates by these rules: loss, gradients, weights, momentum, running statistics, and the
/// logits of evaluation after them.
fn check_updates(
    fixture: &Fixture,
    config: &Config,
    label_smoothing: f64,
    rule: impl Fn(&Parameter) -> Rule,
) {
    let mut engine = engine(fixture, "before", config, 32);
    let rules: Vec<Rule> = engine.plan().parameters.iter().map(rule).collect();
    let (images, labels) = (fixture.get("images"), fixture.labels("labels"));
    let batch = Batch { label_smoothing, ..Batch::new(&images, &labels) };

    let loss = engine.backward(batch, 1.0, &Alone).loss;
    assert!((loss - fixture.wide("loss")[0]).abs() < 1e-6);
    compare(&engine, Section::Gradients, fixture, "grad");
    engine.update(&rules);
    compare(&engine, Section::Model, fixture, "after");
    compare(&engine, Section::Momentum, fixture, "momentum");

    let loss = engine.backward(batch, 1.0, &Alone).loss;
    assert!((loss - fixture.wide("loss2")[0]).abs() < 1e-6);
    engine.update(&rules);
    compare(&engine, Section::Model, fixture, "after2");
    assert_close("eval_logits", &engine.logits(&images), &fixture.wide("eval_logits"));
}

/// Three updates, after each of which the model is set back to its average; before the third, the
/// epochs of the whitening's bias end.
#[test]
fn lookahead_and_the_end_of_a_groups_epochs() {
    let (start, fixture) = (Fixture::open("sides"), Fixture::open("lookahead"));
    let mut engine = engine(&start, "airbench/before", &smaller_airbench(&start), 24);
    let (images, labels) = (start.get("airbench/images"), start.labels("airbench/labels"));
    let label_smoothing = fixture.metadata("label_smoothing");
    let batch = Batch { label_smoothing, ..Batch::new(&images, &labels) };
    let mut loss = f64::NAN;
    for (update, decay) in [0.0, 0.4, 0.7].into_iter().enumerate() {
        // Its learning rate falls to 0 in two updates.
        let left = 1.0 - (update as f32 + 0.5) / 2.0;
        let rule = |parameter: &Parameter| match airbench_rule(&fixture, parameter) {
            Rule::Sgd(_) if parameter.name == "whiten.bias" && update == 2 => Rule::Fixed,
            Rule::Sgd(sgd) if parameter.name == "whiten.bias" => {
                Rule::Sgd(Sgd { learning_rate: left * sgd.learning_rate, ..sgd })
            }
            rule => rule,
        };
        let rules: Vec<Rule> = engine.plan().parameters.iter().map(rule).collect();
        let trained: Vec<bool> = rules.iter().map(|rule| *rule != Rule::Fixed).collect();
        engine.set_trained(&trained);
        loss = engine.backward(batch, 1.0, &Alone).loss;
        engine.update(&rules);
        engine.average(1.0 - decay);
        engine.swap_average();
        engine.average(1.0);
    }
    assert!((loss - fixture.wide("loss")[0]).abs() < 1e-6);
    compare(&engine, Section::Model, &fixture, "after");
}

fn smaller_airbench(fixture: &Fixture) -> Config {
    Config { widths: vec![3, 2], ..airbench(fixture) }
}

/// Losses and gradients for images of other sides.
#[test]
fn smaller_images() {
    let fixture = Fixture::open("sides");
    let mut resnet = Config { activation: ActivationKind::Silu, ..Config::report() };
    (resnet.blocks, resnet.widths) = (vec![1, 1], vec![2, 3]);
    (resnet.head.pool, resnet.head.hidden) = (8, 5);
    for (family, config) in [("resnet", resnet), ("airbench", smaller_airbench(&fixture))] {
        let side = fixture.shape(&format!("{family}/images"))[2];
        let mut engine = engine(&fixture, &format!("{family}/before"), &config, side);
        let images = fixture.get(&format!("{family}/images"));
        let labels = fixture.labels(&format!("{family}/labels"));
        let loss = engine.backward(Batch::new(&images, &labels), 1.0, &Alone).loss;
        assert!((loss - fixture.wide(&format!("{family}/loss"))[0]).abs() < 1e-6, "{family}");
        compare(&engine, Section::Gradients, &fixture, &format!("{family}/grad"));
    }
}
