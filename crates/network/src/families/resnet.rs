//! The paper's family: a start layer, stacks of standard (post-activation) residual blocks (arXiv
//! 1512.03385), and a head of pooling and linear layers. State names are those of the paper's program.

use super::refuse;
use crate::{
    Activation, Error, HeadActivation, Init, NetworkBuilder, NetworkConfig, Operation, Value,
};

/// Checks the keys for this family.
///
/// # Errors
/// Names a key that does not fit.
pub(super) fn check(config: &NetworkConfig) -> Result<(), Error> {
    if config.whitening != 0 {
        return refuse("whitening", "belongs to the family airbench: set it to 0".into());
    }
    Ok(())
}

/// Rows and columns of the last stack's maps, for images of `side` x `side` pixels.
pub(super) fn last_side(config: &NetworkConfig, side: usize) -> usize {
    config.blocks[1..].iter().fold(side, |side, _| side.div_ceil(2))
}

/// Adds the operations for checked keys, with average pooling of `pool` x `pool` pixels in the head.
pub(super) fn network(config: &NetworkConfig, pool: usize, builder: &mut NetworkBuilder) {
    let activation = Operation::Activation(config.activation());
    let norm = config.batch_norm();

    let images = builder.images();
    let mut x = builder.add("start_layer.0", config.convolution(config.widths[0], 3, 1), [images]);
    x = builder.add("start_layer.1", norm, [x]);
    x = builder.add("start_layer.2", activation, [x]);

    for (stack, (&blocks, &width)) in config.blocks.iter().zip(&config.widths).enumerate() {
        for block in 0..blocks {
            let name = format!("stack_layers.{stack}.blocks.{block}");
            // The first block of every later stack halves height and width.
            let halve = stack > 0 && block == 0;
            x = standard_block(builder, config, &name, width, halve, x);
        }
    }

    let head = &config.head;
    x = builder.add("output_layer.pool", Operation::AveragePool { size: pool }, [x]);
    x = builder.add("output_layer.flatten", Operation::Flatten, [x]);
    let name = if head.hidden == 0 {
        "output_layer.fc"
    } else {
        let activation = match head.activation {
            HeadActivation::Sigmoid => Operation::Activation(Activation::Sigmoid),
            HeadActivation::Same => activation,
        };
        let hidden = Operation::Linear { outputs: head.hidden, bias: true, init: Init::Uniform };
        x = builder.add("output_layer.fc1", hidden, [x]);
        x = builder.add("output_layer.activation", activation, [x]);
        "output_layer.fc2"
    };
    config.add_classifier(builder, [name, "output_layer.scale"], x);
}

fn standard_block(
    builder: &mut NetworkBuilder,
    config: &NetworkConfig,
    name: &str,
    width: usize,
    halve: bool,
    input: Value,
) -> Value {
    let (norm, activation) = (config.batch_norm(), Operation::Activation(config.activation()));
    let stride = if halve { 2 } else { 1 };
    let mut x = builder.add(format!("{name}.conv1"), config.convolution(width, 3, stride), [input]);
    x = builder.add(format!("{name}.bn1"), norm, [x]);
    x = builder.add(format!("{name}.activation1"), activation, [x]);
    x = builder.add(format!("{name}.conv2"), config.convolution(width, 3, 1), [x]);
    x = builder.add(format!("{name}.bn2"), norm, [x]);
    let shortcut = if halve {
        let project = config.convolution(width, 1, stride);
        let projected = builder.add(format!("{name}.shortcut.0"), project, [input]);
        builder.add(format!("{name}.shortcut.1"), norm, [projected])
    } else {
        input
    };
    x = builder.add(format!("{name}.add"), Operation::Add, [x, shortcut]);
    builder.add(format!("{name}.activation2"), activation, [x])
}
