//! Trains a network that is described operation by operation: `cargo run --release --example own_network`.
//! Its checkpoints have the description in them: `crescendo evaluate`, `predict` and `train --resume` take the run.

use crescendo::data::shapes;
use crescendo::devices;
use crescendo::logging::usual_observers;
use crescendo::network::{Activation, Init, Network, NetworkBuilder, Operation, Shape};
use crescendo::training::recipe::BatchPolicyKind;
use crescendo::training::{Error, Recipe, Run, Start};

/// Two convolutions with a shortcut around the second, and a linear layer.
fn network() -> Network {
    let mut network = NetworkBuilder::new(Shape::Maps { channels: 3, height: 32, width: 32 });
    let convolution = |stride| Operation::Convolution {
        outputs: 16,
        kernel: 3,
        stride,
        padding: 1,
        bias: false,
        init: Init::Uniform,
    };
    let norm = Operation::BatchNorm { eps: 1e-5, scale: true, new_weight: 0.1 };
    let relu = Operation::Activation(Activation::Relu);
    // Each call gives the value that later operations read. The names are those of the parameters in checkpoints.
    let images = network.images();
    let x = network.add("conv1", convolution(2), [images]);
    let x = network.add("norm1", norm, [x]);
    let short = network.add("relu1", relu, [x]);
    let x = network.add("conv2", convolution(1), [short]);
    let x = network.add("norm2", norm, [x]);
    let x = network.add("sum", Operation::Add, [x, short]);
    let x = network.add("relu2", relu, [x]);
    let x = network.add("pool", Operation::MaxPool { size: 4 }, [x]);
    let x = network.add("flatten", Operation::Flatten, [x]);
    // The last operation gives the logits, one for each class.
    let linear = Operation::Linear { outputs: 10, bias: true, init: Init::Uniform };
    network.add("logits", linear, [x]);
    network.finish()
}

fn main() -> Result<(), Error> {
    let recipe = Recipe::builder("quick")?
        .custom_network(&network())?
        .optimizer(|optimizer| optimizer.learning_rate = 0.02)
        .batch(|batch| (batch.policy, batch.size) = (BatchPolicyKind::Fixed, 25))
        .train(|train| train.epochs = 12)
        .build()?;
    let data = shapes::generate(0, 1000, 200);
    let folder = std::env::temp_dir().join(format!("own-network-{}", std::process::id()));
    // By this location the program finds the data again.
    let data_location = "shapes:1000,200";
    let start = Start { data_location, ..Start::new(&recipe, &data, devices()) };
    let mut run = Run::create(&folder, &start)?;
    run.train(devices(), &data, &mut usual_observers(), &false.into())?;
    Ok(())
}
