//! Keller Jordan's airbench networks (arXiv 2404.00498): frozen whitening filters, stacks of convolutions
//! with max-pooling after the first, and a linear layer. State names are those of his program.

use super::refuse;
use crate::{Error, Init, NetworkBuilder, NetworkConfig, Operation, Value};

/// Checks the keys for this family and images of `side` x `side` pixels.
///
/// # Errors
/// Names a key that does not fit.
pub(super) fn check(config: &NetworkConfig, side: usize) -> Result<(), Error> {
    if !(1..=4).contains(&config.whitening) {
        return refuse(
            "whitening",
            format!("must be from 1 to 4 for airbench, but is {}", config.whitening),
        );
    }
    if config.blocks.iter().any(|blocks| !(2..=3).contains(blocks)) {
        return refuse("blocks", "must have 2 or 3 convolutions in each stack for airbench".into());
    }
    if config.head.hidden != 0 {
        return refuse("head.hidden", "must be 0 for airbench, which has one linear layer".into());
    }
    if last_side(config, side) == 0 {
        let stacks = config.blocks.len();
        let problem =
            format!("has {stacks} stacks, but {side}x{side} pixels cannot be halved as often");
        return refuse("blocks", problem);
    }
    Ok(())
}

/// Rows and columns of the last stack's maps, for images of `side` x `side` pixels; 0 if none are left.
pub(super) fn last_side(config: &NetworkConfig, side: usize) -> usize {
    let whitened = (side + 1).saturating_sub(config.whitening);
    config.blocks.iter().fold(whitened, |side, _| side / 2)
}

/// Adds the operations for checked keys and images of `channels` channels, with max-pooling of `pool` x `pool`
/// pixels in the head.
pub(super) fn network(
    config: &NetworkConfig,
    channels: usize,
    pool: usize,
    builder: &mut NetworkBuilder,
) {
    let activation = Operation::Activation(config.activation());

    let kernel = config.whitening;
    let whiten = Operation::Convolution {
        // Each eigenvector of the patches' covariance, and its negative.
        outputs: 2 * channels * kernel * kernel,
        kernel,
        stride: 1,
        padding: 0,
        bias: true,
        init: Init::Whitening,
    };
    let images = builder.images();
    let mut x = builder.add("whiten", whiten, [images]);
    x = builder.add("layers.0", activation, [x]);
    for (stack, (&convolutions, &width)) in config.blocks.iter().zip(&config.widths).enumerate() {
        let name = format!("layers.{}", stack + 1);
        x = group(builder, config, &name, convolutions, width, x);
    }
    let pool = Operation::MaxPool { size: pool };
    x = builder.add(format!("layers.{}", config.blocks.len() + 1), pool, [x]);
    x = builder.add("flatten", Operation::Flatten, [x]);
    config.add_classifier(builder, ["head", "scale"], x);
}

/// Two convolutions, or three with a residual connection around the second and third.
fn group(
    builder: &mut NetworkBuilder,
    config: &NetworkConfig,
    name: &str,
    convolutions: usize,
    width: usize,
    input: Value,
) -> Value {
    let (norm, activation) = (config.batch_norm(), Operation::Activation(config.activation()));
    let (mut x, mut pooled) = (input, input);
    for index in 1..=convolutions {
        x = builder.add(format!("{name}.conv{index}"), config.convolution(width, 3, 1), [x]);
        if index == 1 {
            x = builder.add(format!("{name}.pool"), Operation::MaxPool { size: 2 }, [x]);
        }
        x = builder.add(format!("{name}.norm{index}"), norm, [x]);
        if index == 3 {
            x = builder.add(format!("{name}.add"), Operation::Add, [x, pooled]);
        }
        x = builder.add(format!("{name}.activ{index}"), activation, [x]);
        if index == 1 {
            pooled = x;
        }
    }
    x
}
