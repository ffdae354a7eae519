//! The families of networks: from the section `[network]` to a network.

mod airbench;
mod custom;
mod resnet;

use crate::{Error, Family, Init, Network, NetworkBuilder, NetworkConfig, Shape};

impl NetworkConfig {
    /// The network that these keys describe, for images of the shape `input`.
    ///
    /// # Errors
    /// If the value of a key is invalid, with the key's name; or if the images are not square.
    pub fn network(&self, input: Shape) -> Result<Network, Error> {
        let (_, side) = square(input)?;
        self.network_resized(input, side)
    }

    /// The same network, with the same parameters, for images that are resized to `side` x `side` pixels: the
    /// head pools over smaller squares, to as many features as for images of the shape `input`. The operations of
    /// the family `custom` stay as they are.
    ///
    /// # Errors
    /// As [`network`](Self::network), or if no pool size gives as many features.
    pub fn network_resized(&self, input: Shape, side: usize) -> Result<Network, Error> {
        let (channels, full) = square(input)?;
        if !(2..=65_536).contains(&self.classes) {
            return refuse("classes", format!("must be from 2 to 65536, but is {}", self.classes));
        }
        let family = match self.family {
            Family::Custom => return custom::network(self, channels, full, side),
            Family::Resnet => Stacked::Resnet,
            Family::Airbench => Stacked::Airbench,
        };
        if !self.operations.is_empty() {
            return refuse("operations", "belongs to network.family = custom".into());
        }
        self.check(family, full)?;
        let last = family.last_side(self, side);
        let features = family.last_side(self, full) / self.head.pool;
        let pool = if side == full { self.head.pool } else { last / features };
        if pool == 0 || last / pool != features {
            return Err(Error(format!(
                "images of {side}x{side} pixels do not fit this network: its last maps would be \
                 {last}x{last}, and the head needs {features}x{features} squares of them"
            )));
        }
        let mut builder = NetworkBuilder::new(Shape::Maps { channels, height: side, width: side });
        match family {
            Stacked::Resnet => resnet::network(self, pool, &mut builder),
            Stacked::Airbench => airbench::network(self, channels, pool, &mut builder),
        }
        Ok(builder.finish())
    }

    /// Checks the keys for images of `side` x `side` pixels.
    fn check(&self, family: Stacked, side: usize) -> Result<(), Error> {
        if self.blocks.is_empty() || self.blocks.contains(&0) {
            return refuse("blocks", "needs at least one block in every stack".into());
        }
        if self.blocks.len() != self.widths.len() {
            let (blocks, widths) = (self.blocks.len(), self.widths.len());
            let problem = format!(
                "has {widths} entries but network.blocks has {blocks}: give one of each for every stack"
            );
            return refuse("widths", problem);
        }
        if self.widths.contains(&0) {
            return refuse("widths", "has a stack without channels".into());
        }
        if !(0.0..1.0).contains(&self.leaky_slope) {
            return refuse(
                "leaky_slope",
                format!("must be at least 0 and below 1, but is {}", self.leaky_slope),
            );
        }
        if !(self.norm.eps > 0.0 && self.norm.eps < 1.0) {
            return refuse(
                "norm.eps",
                format!("must be above 0 and below 1, but is {}", self.norm.eps),
            );
        }
        if !(0.0..=1.0).contains(&self.norm.momentum) {
            return refuse(
                "norm.momentum",
                format!("must be from 0 to 1, but is {}", self.norm.momentum),
            );
        }
        if !(self.head.scale > 0.0 && self.head.scale <= 1e6) {
            let problem = format!("must be above 0 and at most 1e6, but is {}", self.head.scale);
            return refuse("head.scale", problem);
        }
        if self.head.init == Init::Dirac {
            let problem = "is dirac, which is for convolutions: uniform or unit";
            return refuse("head.init", problem.into());
        }
        match family {
            Stacked::Resnet => resnet::check(self)?,
            Stacked::Airbench => airbench::check(self, side)?,
        }
        let side = family.last_side(self, side);
        if !(1..=side).contains(&self.head.pool) {
            let problem = format!(
                "must be from 1 to {side}, the size of the last maps, but is {}",
                self.head.pool
            );
            return refuse("head.pool", problem);
        }
        Ok(())
    }
}

/// Families of stacks and a head.
#[derive(Clone, Copy)]
enum Stacked {
    Resnet,
    Airbench,
}

impl Stacked {
    /// Rows and columns of the last stack's maps, for images of `side` x `side` pixels.
    fn last_side(self, config: &NetworkConfig, side: usize) -> usize {
        match self {
            Stacked::Resnet => resnet::last_side(config, side),
            Stacked::Airbench => airbench::last_side(config, side),
        }
    }
}

/// Channels, and rows or columns, of square images.
fn square(input: Shape) -> Result<(usize, usize), Error> {
    match input {
        Shape::Maps { channels, height, width } if height == width => Ok((channels, height)),
        other => Err(Error(format!("images of the shape {other} are not square"))),
    }
}

/// An error about a key of the section.
fn refuse<T>(key: &str, problem: String) -> Result<T, Error> {
    Err(Error(format!("network.{key} {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Graph, Operation, Value};

    const SIDE: usize = 32;
    const IMAGES: Shape = Shape::Maps { channels: 3, height: SIDE, width: SIDE };

    fn airbench() -> NetworkConfig {
        let mut config =
            NetworkConfig { family: Family::Airbench, whitening: 2, ..NetworkConfig::paper() };
        (config.blocks, config.head.hidden, config.head.pool) = (vec![2, 3, 2], 0, 3);
        config
    }

    #[test]
    fn the_same_parameters_serve_smaller_images_where_the_head_can_pool_to_as_many_features() {
        let parameters = |config: &NetworkConfig, side: usize| {
            let network = config.network_resized(IMAGES, side)?;
            Ok::<_, Error>(Graph::new(&network)?.parameters)
        };
        let small = |pool: usize| {
            let mut config = NetworkConfig { widths: vec![4, 8, 8], ..NetworkConfig::paper() };
            (config.blocks, config.head.hidden, config.head.pool) = (vec![1; 3], 16, pool);
            config
        };
        for config in [small(2), airbench()] {
            assert_eq!(parameters(&config, SIDE).unwrap(), parameters(&config, 16).unwrap());
        }
        assert_eq!(
            small(3).network_resized(IMAGES, SIDE).unwrap(),
            small(3).network(IMAGES).unwrap()
        );
        assert_eq!(parameters(&airbench(), 24).unwrap(), parameters(&airbench(), SIDE).unwrap());
        let error = small(2).network_resized(IMAGES, 24).unwrap_err().to_string();
        assert!(error.contains("would be 6x6, and the head needs 4x4 squares"), "{error}");
        for side in 0..8 {
            for config in [small(2), airbench()] {
                let error = config.network_resized(IMAGES, side).unwrap_err().to_string();
                assert!(error.contains("do not fit this network"), "{error}");
            }
        }
    }

    #[test]
    fn keys_that_do_not_go_with_a_family_are_refused_by_name() {
        airbench().network(IMAGES).unwrap();
        type Change = fn(&mut NetworkConfig);
        let changes: [(&str, Change); 7] = [
            ("network.whitening must be from 1 to 4 for airbench, but is 0", |config| {
                config.whitening = 0
            }),
            ("network.blocks must have 2 or 3 convolutions", |config| config.blocks[1] = 4),
            ("network.head.hidden must be 0 for airbench", |config| config.head.hidden = 9),
            (
                "network.head.pool must be from 1 to 3, the size of the last maps, but is 4",
                |config| config.head.pool = 4,
            ),
            ("network.head.scale must be above 0 and at most 1e6, but is 0", |config| {
                config.head.scale = 0.0
            }),
            ("network.head.init is dirac", |config| config.head.init = Init::Dirac),
            ("network.blocks has 5 stacks", |config| {
                (config.blocks, config.widths) = (vec![2; 5], vec![4; 5]);
            }),
        ];
        for (complaint, change) in changes {
            let mut config = airbench();
            change(&mut config);
            let error = config.network(IMAGES).unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
        }
        let error = NetworkConfig { whitening: 2, ..NetworkConfig::paper() }
            .network(IMAGES)
            .unwrap_err()
            .to_string();
        assert!(error.contains("network.whitening belongs to the family airbench"), "{error}");
    }

    /// A small network of the family `custom` for images of [`SIDE`], with 10 classes.
    fn custom() -> NetworkConfig {
        let mut builder = NetworkBuilder::new(IMAGES);
        let convolution = Operation::Convolution {
            outputs: 4,
            kernel: 3,
            stride: 2,
            padding: 1,
            bias: true,
            init: Init::Uniform,
        };
        let x = builder.add("conv", convolution, [builder.images()]);
        let norm = Operation::BatchNorm { eps: 1e-5, scale: true, new_weight: 0.1 };
        let x = builder.add("norm", norm, [x]);
        let x = builder.add("relu", Operation::Activation(Activation::Relu), [x]);
        let x = builder.add("pool", Operation::AveragePool { size: 8 }, [x]);
        let x = builder.add("flatten", Operation::Flatten, [x]);
        let linear = Operation::Linear { outputs: 10, bias: true, init: Init::Uniform };
        builder.add("fc", linear, [x]);
        let operations = builder.finish().nodes;
        NetworkConfig { family: Family::Custom, operations, ..NetworkConfig::paper() }
    }

    #[test]
    fn a_network_of_operations_is_checked_as_a_graph_with_its_keys() {
        assert_eq!(custom().network(IMAGES).unwrap().nodes, custom().operations);
        type Change = fn(&mut NetworkConfig);
        let changes: [(&str, Change); 9] = [
            ("network.operations must list the operations", |config| config.operations.clear()),
            ("network.operations belongs to network.family = custom", |config| {
                config.family = Family::Resnet
            }),
            ("network.classes is 7, but the last of network.operations has 10", |config| {
                config.classes = 7
            }),
            ("network.operations: flatten: needs 1 input from earlier operations", |config| {
                config.operations[4].inputs = vec![Value(5)]
            }),
            ("network.operations has no name for operation 2", |config| {
                config.operations[1].name.clear()
            }),
            ("network.operations: norm: eps must be above 0 and below 1", |config| {
                let norm = Operation::BatchNorm { eps: f64::NAN, scale: true, new_weight: 0.1 };
                config.operations[1].operation = norm;
            }),
            ("network.operations: relu: its slope must be at least 0 and below 1", |config| {
                let slope = f32::INFINITY;
                config.operations[2].operation =
                    Operation::Activation(Activation::LeakyRelu { slope });
            }),
            ("network.operations: conv: an output of more than 268435456 numbers", |config| {
                let init = Init::Uniform;
                let [outputs, padding] = [1 << 20, 1 << 10];
                config.operations[0].operation = Operation::Convolution {
                    outputs,
                    kernel: 1,
                    stride: 1,
                    padding,
                    bias: false,
                    init,
                };
            }),
            ("network.operations: fc: more than 1099511627776 parameters", |config| {
                let outputs = usize::MAX;
                config.operations[5].operation =
                    Operation::Linear { outputs, bias: true, init: Init::Uniform };
            }),
        ];
        for (complaint, change) in changes {
            let mut config = custom();
            change(&mut config);
            let error = config.network(IMAGES).unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn a_network_of_operations_takes_images_that_its_parameters_fit() {
        let sides: Vec<usize> =
            (0..=SIDE).filter(|&side| custom().network_resized(IMAGES, side).is_ok()).collect();
        assert_eq!(sides, [31, 32]);
        let error = custom().network_resized(IMAGES, 12).unwrap_err().to_string();
        assert!(error.contains("images of 12x12 pixels do not fit this network: pool"), "{error}");
        let error = custom().network_resized(IMAGES, 16).unwrap_err().to_string();
        assert!(error.contains("fc.weight would have the shape [10, 4]"), "{error}");
    }
}
