//! The report's family: a start layer, stacks of standard (post-activation) residual blocks, and a
//! head of pooling and linear layers. Names are those of the original program's state.

use crescendo_kernels::ActivationFunction as Activation;

use crate::config::refuse;
use crate::{Builder, Config, Error, HeadActivation, Init, Operation, Value};

/// Whether the keys go with this family.
///
/// # Errors
/// Names one that does not.
pub(crate) fn check(config: &Config) -> Result<(), Error> {
    if config.whitening != 0 {
        return refuse("whitening", "belongs to the family airbench: set it to 0".into());
    }
    Ok(())
}

/// Rows and columns of the last stack's maps, for images with `side`.
pub(crate) fn last_side(config: &Config, side: usize) -> usize {
    config.blocks[1..].iter().fold(side, |side, _| side.div_ceil(2))
}

/// Writes the list of operations for checked keys, with squares of `pool` pixels in the head.
pub(crate) fn network(config: &Config, pool: usize, builder: &mut Builder) {
    let activation = Operation::Activation(config.activation());
    let norm = config.batch_norm();

    let images = builder.images();
    let mut x = builder.add("start_layer.0", config.convolution(config.widths[0], 3, 1), [images]);
    x = builder.add("start_layer.1", norm, [x]);
    x = builder.add("start_layer.2", activation, [x]);

    for (stack, (&blocks, &width)) in config.blocks.iter().zip(&config.widths).enumerate() {
        for block in 0..blocks {
            let name = format!("stack_layers.{stack}.blocks.{block}");
            // The first block of every later stack halves the maps.
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
    builder: &mut Builder,
    config: &Config,
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
