//! The report's family: a start layer, stacks of standard (post-activation) residual blocks, and a
//! head of pooling and linear layers. Names are those of the original program's state.

use crescendo_kernels::Activation;

use crate::{Builder, Config, HeadActivation, Network, Operation, Shape, Value};

/// Pixels along each side of an image.
pub(crate) const SIDE: usize = 32;

/// The list of operations for checked keys.
pub(crate) fn network(config: &Config) -> Network {
    let activation = Operation::Activation(config.activation());
    let norm = Operation::BatchNorm { eps: config.norm.eps, new_weight: config.norm.new_weight() };
    let mut builder = Builder::new(Shape::Maps { channels: 3, height: SIDE, width: SIDE });

    let images = builder.images();
    let mut x = builder.add("start_layer.0", conv3x3(config.widths[0], 1), [images]);
    x = builder.add("start_layer.1", norm, [x]);
    x = builder.add("start_layer.2", activation, [x]);

    for (stack, (&blocks, &width)) in config.blocks.iter().zip(&config.widths).enumerate() {
        for block in 0..blocks {
            let name = format!("stack_layers.{stack}.blocks.{block}");
            // The first block of every later stack halves the maps.
            let halve = stack > 0 && block == 0;
            x = standard_block(&mut builder, &name, width, halve, norm, activation, x);
        }
    }

    let head = &config.head;
    x = builder.add("output_layer.pool", Operation::AveragePool { size: head.pool }, [x]);
    x = builder.add("output_layer.flatten", Operation::Flatten, [x]);
    let classes = Operation::Linear { outputs: config.classes };
    if head.hidden == 0 {
        builder.add("output_layer.fc", classes, [x]);
    } else {
        let activation = match head.activation {
            HeadActivation::Sigmoid => Operation::Activation(Activation::Sigmoid),
            HeadActivation::Same => activation,
        };
        x = builder.add("output_layer.fc1", Operation::Linear { outputs: head.hidden }, [x]);
        x = builder.add("output_layer.activation", activation, [x]);
        builder.add("output_layer.fc2", classes, [x]);
    }
    builder.finish()
}

fn standard_block(
    builder: &mut Builder,
    name: &str,
    width: usize,
    halve: bool,
    norm: Operation,
    activation: Operation,
    input: Value,
) -> Value {
    let stride = if halve { 2 } else { 1 };
    let mut x = builder.add(format!("{name}.conv1"), conv3x3(width, stride), [input]);
    x = builder.add(format!("{name}.bn1"), norm, [x]);
    x = builder.add(format!("{name}.activation1"), activation, [x]);
    x = builder.add(format!("{name}.conv2"), conv3x3(width, 1), [x]);
    x = builder.add(format!("{name}.bn2"), norm, [x]);
    let shortcut = if halve {
        let project = Operation::Convolution { outputs: width, kernel: 1, stride, padding: 0 };
        let projected = builder.add(format!("{name}.shortcut.0"), project, [input]);
        builder.add(format!("{name}.shortcut.1"), norm, [projected])
    } else {
        input
    };
    x = builder.add(format!("{name}.add"), Operation::Add, [x, shortcut]);
    builder.add(format!("{name}.activation2"), activation, [x])
}

fn conv3x3(outputs: usize, stride: usize) -> Operation {
    Operation::Convolution { outputs, kernel: 3, stride, padding: 1 }
}
