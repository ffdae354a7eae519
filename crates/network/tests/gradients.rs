//! The engine's gradients of whole networks against finite differences, in f64, of the naive
//! reference; and the engine's promises about threads, batches and processes.

use std::sync::{Barrier, Mutex};

use crescendo_kernels::ActivationFunction as Activation;
use crescendo_network::{
    ActivationKind, Alone, Batch, Communicator, Compute, Config, CpuEngine, Engine, Family,
    HeadActivation, Init, Isa, Network, Operation, Plan, Rule, Section, Sgd, Shape, Tensor, Values,
};
use crescendo_reference::{self as reference, Conv2d, Nchw, Pointwise};

fn small(activation: ActivationKind, hidden: usize) -> Config {
    let mut config = Config { activation, ..Config::report() };
    config.blocks = vec![1, 1];
    config.widths = vec![2, 3];
    config.head.hidden = hidden;
    config
}

fn engine(network: &Network, threads: usize) -> CpuEngine {
    let plan = Plan::new(network, Compute::default()).unwrap();
    let initial = plan.initial(1);
    let mut engine = CpuEngine::new(plan, threads, Isa::best());
    engine.import(Section::Model, &initial).unwrap();
    engine
}

/// Images with large and small structure, the same in every run.
fn images(count: usize) -> Vec<f32> {
    images_of(32, count)
}

/// The same with other sides.
fn images_of(side: usize, count: usize) -> Vec<f32> {
    let pixel = |i: usize| ((i * 7919 % 1009) as f32 / 504.5 - 1.0) + (i as f32 * 0.01).sin();
    (0..count * 3 * side * side).map(pixel).collect()
}

fn values<'a>(tensor: &'a Tensor) -> &'a [f32] {
    match &tensor.values {
        Values::F32(values) => values,
        Values::I64(_) => panic!("{} is a count", tensor.name),
    }
}

/// An activation as the reference has it.
fn pointwise(f: Activation) -> Pointwise {
    match f {
        Activation::Relu => Pointwise::Relu,
        Activation::LeakyRelu { slope } => Pointwise::LeakyRelu { slope: slope.into() },
        Activation::Elu => Pointwise::Elu,
        Activation::Sigmoid => Pointwise::Sigmoid,
        Activation::Silu => Pointwise::Silu,
        Activation::Gelu => Pointwise::Gelu,
        Activation::Scale { factor } => Pointwise::Scale { factor: factor.into() },
    }
}

/// The loss of a network in f64: the list of operations, each by its reference.
fn reference_loss(plan: &Plan, parameters: &[Vec<f64>], images: &[f32], labels: &[u16]) -> f64 {
    let maps = |shape: Shape| {
        let (channels, height, width) = match shape {
            Shape::Maps { channels, height, width } => (channels, height, width),
            Shape::Vector { features } => (features, 1, 1),
        };
        Nchw { images: labels.len(), channels, height, width }
    };
    let mut values: Vec<Vec<f64>> = vec![images.iter().map(|&x| f64::from(x)).collect()];
    for step in &plan.steps {
        let x = &values[step.node.inputs[0].0];
        let own = |index: Option<usize>| index.map(|index| &parameters[index]);
        let outputs = match step.output {
            Shape::Maps { channels, .. } => channels,
            Shape::Vector { features } => features,
        };
        let none = vec![0.0; outputs];
        let b = own(step.bias).unwrap_or(&none);
        let y = match (step.node.operation, own(step.weight)) {
            (Operation::Convolution { kernel, stride, padding, .. }, Some(w)) => {
                let layer = Conv2d { outputs, kernel, stride, padding };
                reference::convolution(layer, maps(step.input), x, w, b)
            }
            (Operation::BatchNorm { eps, .. }, Some(w)) => {
                reference::batch_norm(maps(step.input), x, w, b, eps)
            }
            (Operation::Linear { .. }, Some(w)) => reference::linear(step.input.len(), x, w, b),
            (Operation::Activation(f), _) => reference::pointwise(pointwise(f), x),
            (Operation::Add, _) => {
                x.iter().zip(&values[step.node.inputs[1].0]).map(|(a, b)| a + b).collect()
            }
            (Operation::AveragePool { size }, _) => {
                reference::average_pool(size, maps(step.input), x)
            }
            (Operation::MaxPool { size }, _) => reference::max_pool(size, maps(step.input), x),
            (Operation::Flatten, _) => x.clone(),
            (operation, _) => panic!("no parameters for {operation:?}"),
        };
        values.push(y);
    }
    reference::cross_entropy(&values[plan.steps.len()], labels, 0.0, None)
}

#[test]
fn gradients_of_whole_networks_match_finite_differences() {
    for (activation, hidden, head) in [
        (ActivationKind::LeakyRelu, 5, HeadActivation::Sigmoid),
        (ActivationKind::Elu, 0, HeadActivation::Sigmoid),
        (ActivationKind::Elu, 5, HeadActivation::Same),
        (ActivationKind::Gelu, 5, HeadActivation::Same),
        (ActivationKind::Silu, 5, HeadActivation::Same),
    ] {
        let mut config = small(activation, hidden);
        config.head.activation = head;
        check_gradients(&config, 32);
    }
}

/// Max-pooling, filters and weights that are not trained, no biases, scaled logits; stacks of two
/// convolutions, and of three with a residual.
fn airbench() -> Config {
    let mut config = small(ActivationKind::Gelu, 0);
    (config.family, config.whitening) = (Family::Airbench, 2);
    (config.blocks, config.widths) = (vec![2, 3], vec![4, 6]);
    (config.bias, config.init) = (false, Init::Dirac);
    (config.norm.scale, config.norm.eps) = (false, 1e-12);
    (config.head.pool, config.head.scale, config.head.init) = (3, 0.05, Init::Unit);
    config
}

#[test]
fn gradients_of_an_airbench_network_match_finite_differences() {
    check_gradients(&airbench(), 32);
}

#[test]
fn gradients_of_smaller_images_match_finite_differences() {
    check_gradients(&small(ActivationKind::Relu, 5), 16);
    check_gradients(&airbench(), 28);
}

fn check_gradients(config: &Config, side: usize) {
    let mut engine = engine(&config.network_for(side).unwrap(), 2);
    let (images, labels) = (images_of(side, 2), [3, 7]);
    let loss = engine.backward(Batch::new(&images, &labels), 1.0, &Alone).loss;

    let plan = engine.plan().clone();
    let model = engine.export(Section::Model);
    let mut parameters: Vec<Vec<f64>> = plan
        .parameters
        .iter()
        .map(|p| model.iter().find(|t| t.name == p.name).unwrap())
        .map(|tensor| values(tensor).iter().map(|&x| f64::from(x)).collect())
        .collect();
    let reference = reference_loss(&plan, &parameters, &images, &labels);
    assert!((loss - reference).abs() < 1e-6, "{loss} {reference}");

    let step = 1e-6;
    for (index, gradient) in engine.export(Section::Gradients).iter().enumerate() {
        let name = &gradient.name;
        if !plan.parameters[index].trained {
            assert!(values(gradient).iter().all(|&g| g == 0.0), "{name} is not trained");
            continue;
        }
        let (mut difference, mut size) = (0.0, 1e-12);
        // A few numbers of each parameter, first and last among them.
        let len = parameters[index].len();
        for i in (0..len).step_by(len.div_ceil(7)).chain([len - 1]) {
            let here = parameters[index][i];
            parameters[index][i] = here + step;
            let above = reference_loss(&plan, &parameters, &images, &labels);
            parameters[index][i] = here - step;
            let below = reference_loss(&plan, &parameters, &images, &labels);
            parameters[index][i] = here;
            let expected = (above - below) / (2.0 * step);
            difference += (f64::from(values(gradient)[i]) - expected).powi(2);
            size += expected.powi(2);
        }
        // A bias before BatchNorm has no effect: its gradient is nothing but rounding.
        let (difference, size) = (difference.sqrt(), size.sqrt());
        assert!(difference < 1e-4 * size + 1e-6, "{name}: off by {difference:e} of {size:e}");
    }
}

#[test]
fn an_engine_goes_from_one_size_of_images_to_another_and_back() {
    for (config, smaller) in [(small(ActivationKind::LeakyRelu, 5), 16), (airbench(), 24)] {
        let plan = |side: usize| {
            Plan::new(&config.network_for(side).unwrap(), Compute::default()).unwrap()
        };
        let labels = [3, 7, 1];
        let mut one = engine(&config.network().unwrap(), 2);
        let mut fresh = |side: usize, images: &[f32]| {
            // An engine of its own for each size, to which everything is carried over.
            let mut next = CpuEngine::new(plan(side), 2, Isa::best());
            for section in [Section::Model, Section::Momentum] {
                next.import(section, &one.export(section)).unwrap();
            }
            one.set_plan(plan(side));
            for engine in [&mut one, &mut next] {
                engine.backward(Batch::new(images, &labels), 1.0, &Alone);
                let sgd = Sgd { learning_rate: 0.1, momentum: 0.9, ..Sgd::default() };
                engine.update(&vec![Rule::Sgd(sgd); engine.plan().parameters.len()]);
            }
            for section in [Section::Model, Section::Momentum] {
                assert_eq!(one.export(section), next.export(section), "{side}");
            }
            assert_eq!(one.logits(images), next.logits(images));
        };
        for side in [32, smaller, 32] {
            fresh(side, &images_of(side, 3));
        }
    }
}

#[test]
fn what_is_not_trained_gets_no_gradient_and_changes_nobody_elses() {
    for config in [small(ActivationKind::LeakyRelu, 5), airbench()] {
        let network = config.network().unwrap();
        let (images, labels) = (images(3), [3, 7, 1]);
        let gradients = |trained: &dyn Fn(usize) -> bool| -> Vec<Vec<f32>> {
            let mut engine = engine(&network, 2);
            let parameters = &engine.plan().parameters;
            let all: Vec<bool> =
                parameters.iter().enumerate().map(|(i, p)| p.trained && trained(i)).collect();
            engine.set_trained(&all);
            engine.backward(Batch::new(&images, &labels), 1.0, &Alone);
            engine.export(Section::Gradients).iter().map(|t| values(t).to_vec()).collect()
        };
        let whole = gradients(&|_| true);
        // The first layers, the last ones, every second parameter, all of them.
        let (half, all) = (whole.len() / 2, whole.len());
        let choices: [&dyn Fn(usize) -> bool; 4] =
            [&|i| i >= half, &|i| i < half, &|i| i % 2 == 0, &|i| i >= all];
        for trained in choices {
            for (i, (part, whole)) in gradients(trained).iter().zip(&whole).enumerate() {
                if trained(i) {
                    assert!(part == whole, "parameter {i} has another gradient");
                } else {
                    assert!(part.iter().all(|&g| g == 0.0), "parameter {i} is not trained");
                }
            }
        }
    }
}

#[test]
fn the_way_back_ends_where_nothing_before_is_trained() {
    let (images, labels) = (images(3), [3, 7, 1]);
    let mut engine = engine(&airbench().network().unwrap(), 2);
    // Which fused steps have a way back.
    let mut steps = |first: usize| -> Vec<bool> {
        let parameters = engine.plan().parameters.iter().enumerate();
        let trained: Vec<bool> = parameters.map(|(i, p)| p.trained && i >= first).collect();
        engine.set_trained(&trained);
        engine.take_seconds();
        engine.backward(Batch::new(&images, &labels), 1.0, &Alone);
        engine.take_seconds().iter().map(|seconds| seconds[1] > 0.0).collect()
    };
    let (all, half, none) = (steps(0), steps(4), steps(usize::MAX));
    assert!(all.iter().all(|&way_back| way_back), "{all:?}");
    assert!(!half[0] && half[half.len() - 1] && half.is_sorted(), "{half:?}");
    assert!(none.iter().all(|&way_back| !way_back), "{none:?}");
}

#[test]
fn the_average_follows_the_model_and_trades_places_with_it() {
    let mut engine = engine(&small(ActivationKind::Relu, 0).network().unwrap(), 2);
    let model = |engine: &CpuEngine, section| -> Vec<Vec<f32>> {
        let tensors = engine.export(section);
        let numbers = tensors.iter().filter(|t| matches!(t.values, Values::F32(_)));
        numbers.map(|tensor| values(tensor).to_vec()).collect()
    };
    assert!(engine.export(Section::Average).is_empty());
    engine.swap_average();
    let first = model(&engine, Section::Model);
    engine.average(0.25);
    assert_eq!(model(&engine, Section::Average), first);

    let (images, labels) = (images(4), [0, 1, 2, 3]);
    let sgd = Sgd { learning_rate: 0.1, ..Sgd::default() };
    let before = engine.logits(&images);
    engine.backward(Batch::new(&images, &labels), 1.0, &Alone);
    engine.update(&vec![Rule::Sgd(sgd); engine.plan().parameters.len()]);
    let second = model(&engine, Section::Model);
    engine.swap_average();
    assert_eq!((model(&engine, Section::Model), engine.logits(&images)), (first.clone(), before));
    engine.swap_average();
    engine.average(0.25);
    let average = model(&engine, Section::Average);
    for ((first, second), average) in first.iter().zip(&second).zip(&average) {
        for ((&first, &second), &average) in first.iter().zip(second).zip(average) {
            assert!(
                (average - (0.75 * first + 0.25 * second)).abs() <= 1e-6 * first.abs().max(1.0)
            );
        }
    }
    // It can be saved and put back.
    let saved: Vec<Tensor> = engine.export(Section::Average).into_iter().map(owned).collect();
    engine.average(1.0);
    assert_eq!(model(&engine, Section::Average), second);
    engine.import(Section::Average, &saved).unwrap();
    assert_eq!(model(&engine, Section::Average), average);
}

fn owned(tensor: Tensor) -> Tensor<'static> {
    let values = Values::F32(values(&tensor).to_vec().into());
    Tensor { name: tensor.name.to_string().into(), shape: tensor.shape, values }
}

/// Everything an engine holds after two updates.
fn train(threads: usize, batch: usize) -> Vec<(String, Vec<f32>)> {
    let mut engine = engine(&small(ActivationKind::LeakyRelu, 5).network().unwrap(), threads);
    let images = images(batch);
    let labels: Vec<u16> = (0..batch as u16).map(|i| i % 10).collect();
    let sgd = Sgd { learning_rate: 0.1, momentum: 0.9, nesterov: false, weight_decay: 1e-3 };
    for _ in 0..2 {
        engine.backward(Batch::new(&images, &labels), 1.0, &Alone);
        engine.update(&vec![Rule::Sgd(sgd); engine.plan().parameters.len()]);
    }
    let tensors = engine.export(Section::Model).into_iter().chain(engine.export(Section::Momentum));
    tensors
        .filter(|tensor| matches!(tensor.values, Values::F32(_)))
        .map(|tensor| (tensor.name.to_string(), values(&tensor).to_vec()))
        .collect()
}

#[test]
fn weights_are_the_same_to_the_bit_for_any_number_of_threads() {
    let one = train(1, 37);
    for threads in [2, 3, 5] {
        assert!(train(threads, 37) == one, "{threads} threads differ from one");
    }
}

#[test]
fn weighted_gradients_of_parts_add_up() {
    // Without BatchNorm a batch is the sum of its parts.
    let mut builder =
        crescendo_network::Builder::new(Shape::Maps { channels: 3, height: 32, width: 32 });
    let images_in = builder.images();
    let (bias, init) = (true, Init::Uniform);
    let conv = Operation::Convolution { outputs: 4, kernel: 3, stride: 2, padding: 1, bias, init };
    let mut x = builder.add("conv", conv, [images_in]);
    x = builder.add("flatten", Operation::Flatten, [x]);
    builder.add("linear", Operation::Linear { outputs: 10, bias, init }, [x]);
    let network = builder.finish();
    let (images, labels) = (images(6), [0, 1, 2, 3, 4, 5]);
    let gradients = |parts: &[(usize, usize)]| {
        let mut engine = engine(&network, 2);
        for &(start, end) in parts {
            let batch = Batch::new(&images[start * 3072..end * 3072], &labels[start..end]);
            engine.backward(batch, (end - start) as f64 / 6.0, &Alone);
        }
        engine
            .export(Section::Gradients)
            .iter()
            .flat_map(|t| values(t).to_vec())
            .collect::<Vec<_>>()
    };
    let (whole, parts) = (gradients(&[(0, 6)]), gradients(&[(0, 4), (4, 6)]));
    for (whole, part) in whole.iter().zip(&parts) {
        assert!((whole - part).abs() < 1e-6, "{whole} {part}");
    }
}

/// Sums over threads that stand for processes.
struct Exchange {
    total: Mutex<Vec<f64>>,
    barrier: Barrier,
}

impl Communicator for &Exchange {
    fn sum_f64(&self, values: &mut [f64]) {
        self.total.lock().unwrap().resize(values.len(), 0.0);
        self.barrier.wait();
        for (total, value) in self.total.lock().unwrap().iter_mut().zip(values.iter()) {
            *total += value;
        }
        self.barrier.wait();
        values.copy_from_slice(&self.total.lock().unwrap());
        if self.barrier.wait().is_leader() {
            self.total.lock().unwrap().clear();
        }
        self.barrier.wait();
    }
    fn sum_f32(&self, values: &mut [f32]) {
        let mut wide: Vec<f64> = values.iter().map(|&x| x.into()).collect();
        self.sum_f64(&mut wide);
        for (value, wide) in values.iter_mut().zip(wide) {
            *value = wide as f32;
        }
    }
}

#[test]
fn two_processes_compute_what_one_does() {
    let network = small(ActivationKind::Elu, 5).network().unwrap();
    let (images, labels) = (images(6), [0, 1, 2, 3, 4, 5]);
    let step = |engine: &mut CpuEngine, part: std::ops::Range<usize>, by: &dyn Communicator| {
        let batch = Batch::new(&images[part.start * 3072..part.end * 3072], &labels[part.clone()]);
        let loss = engine.backward(batch, part.len() as f64 / 6.0, by).loss;
        engine.reduce(by);
        let gradients: Vec<Vec<f32>> =
            engine.export(Section::Gradients).iter().map(|t| values(t).to_vec()).collect();
        (loss * part.len() as f64 / 6.0, gradients)
    };
    let (loss, gradients) = step(&mut engine(&network, 1), 0..6, &Alone);

    let exchange = Exchange { total: Mutex::default(), barrier: Barrier::new(2) };
    let halves = std::thread::scope(|scope| {
        let run = |part| {
            let (network, exchange, step) = (&network, &exchange, &step);
            scope.spawn(move || step(&mut engine(network, 1), part, &exchange))
        };
        let (a, b) = (run(0..4), run(4..6));
        [a.join().unwrap(), b.join().unwrap()]
    });
    assert!((halves[0].0 + halves[1].0 - loss).abs() < 1e-6);
    assert_eq!(halves[0].1, halves[1].1, "all processes hold the same gradients");
    for (one, two) in gradients.iter().flatten().zip(halves[0].1.iter().flatten()) {
        assert!((one - two).abs() < 1e-5, "{one} {two}");
    }
}

#[test]
fn import_takes_what_export_gave_and_refuses_anything_else() {
    let network = small(ActivationKind::Relu, 5).network().unwrap();
    let source = engine(&network, 1);
    let mut target =
        CpuEngine::new(Plan::new(&network, Compute::default()).unwrap(), 1, Isa::best());
    target.import(Section::Model, &source.export(Section::Model)).unwrap();
    assert_eq!(source.export(Section::Model), target.export(Section::Model));

    let complaint = |change: &dyn Fn(&mut Vec<Tensor>)| {
        let mut tensors = source.export(Section::Model);
        change(&mut tensors);
        let mut target =
            CpuEngine::new(Plan::new(&network, Compute::default()).unwrap(), 1, Isa::best());
        let untouched =
            CpuEngine::new(Plan::new(&network, Compute::default()).unwrap(), 1, Isa::best());
        let error = target.import(Section::Model, &tensors).unwrap_err();
        assert_eq!(
            target.export(Section::Model),
            untouched.export(Section::Model),
            "nothing was replaced"
        );
        error.to_string()
    };
    let missing = complaint(&|tensors| drop(tensors.pop()));
    assert_eq!(missing, "the tensor output_layer.fc2.bias is missing");
    let shape = complaint(&|tensors| tensors[0].shape = vec![2, 27]);
    assert_eq!(
        shape,
        "the tensor start_layer.0.weight has the shape [2, 27], but this network's has [2, 3, 3, 3]"
    );
    let unknown = complaint(&|tensors| tensors.push(Tensor::f32("extra", vec![1], vec![0.0])));
    assert_eq!(unknown, "this network has no tensor of the name extra");
}

#[test]
fn halves_of_a_batch_add_up_to_its_gradient() {
    let network = small(ActivationKind::LeakyRelu, 5).network().unwrap();
    let (images, labels) = (images(7), [0, 3, 9, 1, 1, 4, 2]);
    let batch = Batch::new(&images, &labels);
    let (mut whole, mut halves) = (engine(&network, 1), engine(&network, 1));
    let once = whole.backward(batch, 0.5, &Alone);
    let (twice, squares) = halves.backward_in_halves(batch, 0.5, &Alone);
    assert_eq!(once, twice);
    // Running statistics learn of the batch once, parameters not at all.
    assert_eq!(whole.export(Section::Model), halves.export(Section::Model));
    let flat = |engine: &CpuEngine| -> Vec<f64> {
        let all = engine.export(Section::Gradients);
        all.iter().flat_map(|tensor| values(tensor).to_vec()).map(f64::from).collect()
    };
    let norm = |numbers: &[f64]| numbers.iter().map(|number| number * number).sum::<f64>();
    let (gradient, sum) = (flat(&whole), flat(&halves));
    let difference: Vec<f64> = gradient.iter().zip(&sum).map(|(a, b)| a - b).collect();
    assert!(norm(&difference) < 1e-11 * norm(&gradient), "{}", norm(&difference));
    assert!((halves.gradient_square() / norm(&sum) - 1.0).abs() < 1e-12);
    // The halves' mean gradients, weighted by their images, make the batch's: so their squares bound it.
    let bound = (3.0 * squares[0].sqrt() + 4.0 * squares[1].sqrt()) / 7.0;
    assert!(bound >= norm(&gradient).sqrt() / 0.5 && squares.iter().all(|&square| square > 0.0));
    // What was measured does not disturb the next measurement.
    let sgd = Sgd { learning_rate: 0.1, momentum: 0.9, nesterov: false, weight_decay: 0.0 };
    for engine in [&mut whole, &mut halves] {
        engine.update(&vec![Rule::Sgd(sgd); engine.plan().parameters.len()]);
        engine.backward(batch, 1.0, &Alone);
    }
    let (change, square) = (halves.gradient_change(), halves.gradient_square());
    assert!((change / square - 1.0).abs() < 1e-12, "{change} {square}");
}

/// Inference keeps what it made of the weights and statistics until one of them changes.
#[test]
fn logits_follow_every_change_of_the_state() {
    let network = small(ActivationKind::Relu, 0).network().unwrap();
    let images = images(3);
    let batch = Batch::new(&images, &[1, 4, 9]);
    let mut kept = engine(&network, 1);
    let mut before = kept.logits(&images);
    let mut check = |kept: &mut CpuEngine, change: &str| {
        let mut fresh = engine(&network, 1);
        fresh.import(Section::Model, &kept.export(Section::Model)).unwrap();
        let after = kept.logits(&images);
        assert_eq!(after, fresh.logits(&images), "{change}");
        assert_ne!(after, before, "{change} changed nothing");
        before = after;
    };
    // Backward computes new running statistics.
    kept.backward(batch, 1.0, &Alone);
    check(&mut kept, "a batch");
    let sgd = Sgd { learning_rate: 0.1, momentum: 0.9, nesterov: false, weight_decay: 0.0 };
    kept.update(&vec![Rule::Sgd(sgd); kept.plan().parameters.len()]);
    check(&mut kept, "an update");
    let other = kept.plan().initial(2);
    kept.import(Section::Model, &other).unwrap();
    check(&mut kept, "an import");
}

#[test]
fn the_reports_network_has_the_reports_numbers() {
    let plan = Plan::new(&Config::report().network().unwrap(), Compute::default()).unwrap();
    assert_eq!(plan.parameter_count(), 17_392_394);
    assert_eq!(plan.forward_macs(), 1_335_578_624);
    assert_eq!(plan.classes(), 10);
}

#[test]
fn lists_that_make_no_network_are_refused() {
    let complaint = |write: &dyn Fn(&mut crescendo_network::Builder)| {
        let mut builder =
            crescendo_network::Builder::new(Shape::Maps { channels: 3, height: 8, width: 8 });
        write(&mut builder);
        Plan::new(&builder.finish(), Compute::default()).unwrap_err().to_string()
    };
    let (bias, init) = (true, Init::Uniform);
    let linear = Operation::Linear { outputs: 10, bias, init };
    let flat = |builder: &mut crescendo_network::Builder| {
        let images = builder.images();
        builder.add("flatten", Operation::Flatten, [images])
    };
    let maps = complaint(&|builder| {
        builder.add("fc", linear, [builder.images()]);
    });
    assert_eq!(maps, "fc: needs a vector, not maps: flatten them first");
    let unused = complaint(&|builder| {
        let x = flat(builder);
        builder.add("side", linear, [x]);
        builder.add("fc", linear, [x]);
    });
    assert_eq!(unused, "side: nothing uses what it makes");
    let twice = complaint(&|builder| {
        let x = flat(builder);
        let x = builder.add("fc", linear, [x]);
        builder.add("fc", linear, [x]);
    });
    assert_eq!(twice, "fc: two operations have this name");
    let conv = Operation::Convolution { outputs: 1, kernel: 9, stride: 1, padding: 0, bias, init };
    let large = complaint(&|builder| {
        builder.add("conv", conv, [builder.images()]);
    });
    assert_eq!(large, "conv: filters of 9 do not fit 3x8x8");
}
