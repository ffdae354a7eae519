//! What rank 0 asks all ranks to do, and how it is written in a message.

use crescendo_network::{
    BatchTree, BorderPixels, ChannelStatistics, EngineConfig, EngineError, Graph, Loss, Muon,
    Network, Node, Preparation, Rule, Sample, Section, Sgd, Shape, Tensor, TensorData,
};
use serde::{Deserialize, Serialize};

use crate::message::{Reader, Writer, damaged};

/// What is asked. Devices and engines have numbers.
pub(crate) enum Command {
    Open { device: u32, config: EngineConfig },
    Close { device: u32 },
    Make { engine: u32, device: u32, graph: Graph },
    Drop { engine: u32 },
    Call { engine: u32, call: Call },
    Stop,
}

/// A call of an engine. Images `[N, C, H, W]` that only rank 0 has are not in it: each rank is sent its own.
pub(crate) enum Call {
    SetGraph(Graph),
    SetLoss(Loss),
    SetRequiresGrad(Vec<bool>),
    LoadData {
        pixels: Vec<u8>,
        shape: Shape,
    },
    Accumulate(Batch),
    Update(Vec<Rule>),
    UpdateAverage(f64),
    SwapAverage,
    /// Of so many images.
    BlendStatistics {
        images: usize,
        weight: f64,
    },
    FavorLatency,
    /// Of so many images.
    Logits(usize),
    /// The gradients before an update, summed over the ranks.
    Gradients,
    Import {
        section: Section,
        tensors: Vec<Tensor<'static>>,
    },
}

/// A batch.
pub(crate) struct Batch {
    pub tree: BatchTree,
    /// Whether it was made by [`BatchTree::ghost`].
    pub is_ghost: bool,
    pub labels: Vec<u16>,
    pub mean_weight: f64,
    pub measure: bool,
    /// The samples of resident data; without them, images come with it.
    pub samples: Option<(Vec<Sample>, Preparation)>,
}

impl Call {
    /// Whether it may fail without harm: then all ranks learn of it, and go on.
    pub fn may_fail(&self) -> bool {
        matches!(
            self,
            Call::SetGraph(_) | Call::SetLoss(_) | Call::LoadData { .. } | Call::Import { .. }
        )
    }
}

impl Command {
    pub fn write(&self) -> Vec<u8> {
        let mut to = Writer::default();
        match self {
            Command::Open { device, config } => {
                to.u8(0);
                to.u32(*device);
                to.text(&toml(config));
            }
            Command::Close { device } => {
                to.u8(1);
                to.u32(*device);
            }
            Command::Make { engine, device, graph } => {
                to.u8(2);
                to.u32(*engine);
                to.u32(*device);
                write_graph(&mut to, graph);
            }
            Command::Drop { engine } => {
                to.u8(3);
                to.u32(*engine);
            }
            Command::Call { engine, call } => {
                to.u8(4);
                to.u32(*engine);
                write_call(&mut to, call);
            }
            Command::Stop => to.u8(5),
        }
        to.0
    }

    pub fn read(message: &[u8]) -> Result<Self, EngineError> {
        let mut from = Reader(message);
        Ok(match from.u8()? {
            0 => {
                let device = from.u32()?;
                let config = toml::from_str(&from.text()?).map_err(|_| damaged())?;
                Command::Open { device, config }
            }
            1 => Command::Close { device: from.u32()? },
            2 => {
                let (engine, device) = (from.u32()?, from.u32()?);
                Command::Make { engine, device, graph: read_graph(&mut from)? }
            }
            3 => Command::Drop { engine: from.u32()? },
            4 => Command::Call { engine: from.u32()?, call: read_call(&mut from)? },
            5 => Command::Stop,
            _ => return Err(damaged()),
        })
    }
}

fn write_call(to: &mut Writer, call: &Call) {
    match call {
        Call::SetGraph(graph) => {
            to.u8(0);
            write_graph(to, graph);
        }
        Call::SetLoss(Loss { label_smoothing, class_weights }) => {
            to.u8(1);
            to.f64(*label_smoothing);
            to.bool(class_weights.is_some());
            to.numbers(class_weights.as_deref().unwrap_or_default());
        }
        Call::SetRequiresGrad(requires_grad) => {
            to.u8(2);
            to.list(requires_grad, |to, &is| to.bool(is));
        }
        Call::LoadData { pixels, shape } => {
            to.u8(3);
            to.numbers(pixels);
            write_shape(to, *shape);
        }
        Call::Accumulate(batch) => {
            to.u8(4);
            write_batch(to, batch);
        }
        Call::Update(rules) => {
            to.u8(5);
            // Neighbours often have the same rule.
            let groups: Vec<&[Rule]> = rules.chunk_by(|a, b| a == b).collect();
            to.list(&groups, |to, group| {
                to.u32(group.len() as u32);
                write_rule(to, &group[0]);
            });
        }
        Call::UpdateAverage(weight) => {
            to.u8(6);
            to.f64(*weight);
        }
        Call::SwapAverage => to.u8(7),
        Call::BlendStatistics { images, weight } => {
            to.u8(8);
            to.usize(*images);
            to.f64(*weight);
        }
        Call::FavorLatency => to.u8(9),
        Call::Logits(images) => {
            to.u8(10);
            to.usize(*images);
        }
        Call::Gradients => to.u8(11),
        Call::Import { section, tensors } => {
            to.u8(12);
            let at = SECTIONS.iter().position(|other| other == section);
            to.u8(at.unwrap_or_default() as u8);
            to.list(tensors, |to, tensor| {
                to.text(&tensor.name);
                to.list(&tensor.shape, |to, &size| to.usize(size));
                to.bool(tensor.values().is_some());
                match &tensor.data {
                    TensorData::F32(values) => to.numbers(values),
                    TensorData::I64(count) => to.usize(*count as usize),
                }
            });
        }
    }
}

const SECTIONS: [Section; 4] =
    [Section::Model, Section::Gradients, Section::Momentum, Section::Average];

fn read_call(from: &mut Reader) -> Result<Call, EngineError> {
    Ok(match from.u8()? {
        0 => Call::SetGraph(read_graph(from)?),
        1 => {
            let label_smoothing = from.f64()?;
            let (has_weights, weights) = (from.bool()?, from.numbers()?);
            Call::SetLoss(Loss { label_smoothing, class_weights: has_weights.then_some(weights) })
        }
        2 => Call::SetRequiresGrad(from.list(Reader::bool)?),
        3 => Call::LoadData { pixels: from.numbers()?, shape: read_shape(from)? },
        4 => Call::Accumulate(read_batch(from)?),
        5 => {
            let groups = from.list(|from| Ok((from.u32()? as usize, read_rule(from)?)))?;
            let rules = groups.into_iter().flat_map(|(count, rule)| vec![rule; count]);
            Call::Update(rules.collect())
        }
        6 => Call::UpdateAverage(from.f64()?),
        7 => Call::SwapAverage,
        8 => {
            let (images, weight) = (from.usize()?, from.f64()?);
            if images == 0 {
                return Err(damaged());
            }
            Call::BlendStatistics { images, weight }
        }
        9 => Call::FavorLatency,
        10 => Call::Logits(from.usize()?),
        11 => Call::Gradients,
        12 => {
            let section = *SECTIONS.get(usize::from(from.u8()?)).ok_or_else(damaged)?;
            let tensors = from.list(|from| {
                let (name, shape) = (from.text()?, from.list(Reader::usize)?);
                let data = match from.bool()? {
                    true => TensorData::F32(from.numbers()?.into()),
                    false => TensorData::I64(from.usize()? as i64),
                };
                Ok(Tensor { name: name.into(), shape, data })
            });
            Call::Import { section, tensors: tensors? }
        }
        _ => return Err(damaged()),
    })
}

fn write_batch(to: &mut Writer, batch: &Batch) {
    to.usize(batch.tree.images());
    to.usize(batch.tree.micro_batch());
    to.bool(batch.is_ghost);
    to.numbers(&batch.labels);
    to.f64(batch.mean_weight);
    to.bool(batch.measure);
    to.bool(batch.samples.is_some());
    let Some((samples, Preparation { border, normalization, cutout, image_size })) = &batch.samples
    else {
        return;
    };
    to.list(samples, |to, sample| {
        to.u32(sample.index);
        sample.crop.iter().for_each(|&at| to.u32(i32::from(at) as u32));
        to.bool(sample.flip);
        sample.cutout.iter().for_each(|&at| to.u32(at.into()));
    });
    match border {
        BorderPixels::Reflect => to.numbers::<u8>(&[]),
        BorderPixels::Constant(colour) => to.numbers(colour),
    }
    match normalization {
        ChannelStatistics::PerImage => to.numbers::<f64>(&[]),
        ChannelStatistics::Fixed(channels) => {
            let numbers: Vec<f64> =
                channels.iter().flat_map(|&(mean, deviation)| [mean, deviation]).collect();
            to.numbers(&numbers);
        }
    }
    to.usize(*cutout);
    to.usize(*image_size);
}

fn read_batch(from: &mut Reader) -> Result<Batch, EngineError> {
    let (images, micro_batch, is_ghost) = (from.usize()?, from.usize()?, from.bool()?);
    if images == 0 || micro_batch == 0 {
        return Err(damaged());
    }
    let make = if is_ghost { BatchTree::ghost } else { BatchTree::new };
    let tree = make(images, micro_batch);
    let (labels, mean_weight, measure) = (from.numbers()?, from.f64()?, from.bool()?);
    let samples = match from.bool()? {
        false => None,
        true => {
            let samples = from.list(|from| {
                Ok(Sample {
                    index: from.u32()?,
                    crop: [from.u32()? as i32 as i16, from.u32()? as i32 as i16],
                    flip: from.bool()?,
                    cutout: [from.u32()? as u16, from.u32()? as u16],
                })
            })?;
            let border = match from.numbers::<u8>()?[..] {
                [red, green, blue] => BorderPixels::Constant([red, green, blue]),
                _ => BorderPixels::Reflect,
            };
            let normalization = match from.numbers::<f64>()?[..] {
                [a, b, c, d, e, f] => ChannelStatistics::Fixed([(a, b), (c, d), (e, f)]),
                _ => ChannelStatistics::PerImage,
            };
            let (cutout, image_size) = (from.usize()?, from.usize()?);
            Some((samples, Preparation { border, normalization, cutout, image_size }))
        }
    };
    Ok(Batch { tree, is_ghost, labels, mean_weight, measure, samples })
}

fn write_rule(to: &mut Writer, rule: &Rule) {
    match *rule {
        Rule::Frozen => to.u8(0),
        Rule::Sgd(Sgd { learning_rate, momentum, nesterov, weight_decay }) => {
            to.u8(1);
            to.f32(learning_rate);
            to.f32(momentum);
            to.bool(nesterov);
            to.f32(weight_decay);
        }
        Rule::Muon(Muon { learning_rate, momentum, nesterov, steps }) => {
            to.u8(2);
            to.f32(learning_rate);
            to.f32(momentum);
            to.bool(nesterov);
            to.usize(steps);
        }
    }
}

fn read_rule(from: &mut Reader) -> Result<Rule, EngineError> {
    Ok(match from.u8()? {
        0 => Rule::Frozen,
        1 => Rule::Sgd(Sgd {
            learning_rate: from.f32()?,
            momentum: from.f32()?,
            nesterov: from.bool()?,
            weight_decay: from.f32()?,
        }),
        2 => Rule::Muon(Muon {
            learning_rate: from.f32()?,
            momentum: from.f32()?,
            nesterov: from.bool()?,
            steps: from.usize()?,
        }),
        _ => return Err(damaged()),
    })
}

fn write_shape(to: &mut Writer, shape: Shape) {
    match shape {
        Shape::Maps { channels, height, width } => {
            [channels, height, width].iter().for_each(|&size| to.usize(size));
        }
        // No maps have no channels.
        Shape::Vector { features } => [0, features, 0].iter().for_each(|&size| to.usize(size)),
    }
}

fn read_shape(from: &mut Reader) -> Result<Shape, EngineError> {
    Ok(match (from.usize()?, from.usize()?, from.usize()?) {
        (0, features, _) => Shape::Vector { features },
        (channels, height, width) => Shape::Maps { channels, height, width },
    })
}

/// The operations of a network, in the form of a recipe.
#[derive(Serialize, Deserialize)]
struct Operations {
    operations: Vec<Node>,
}

fn write_graph(to: &mut Writer, graph: &Graph) {
    let node = |node: &crescendo_network::GraphNode| Node {
        name: node.name.clone(),
        operation: node.operation,
        inputs: node.inputs.clone(),
    };
    write_shape(to, graph.input);
    to.text(&toml(&Operations { operations: graph.nodes.iter().map(node).collect() }));
}

fn read_graph(from: &mut Reader) -> Result<Graph, EngineError> {
    let input = read_shape(from)?;
    let Operations { operations } = toml::from_str(&from.text()?).map_err(|_| damaged())?;
    Ok(Graph::new(&Network { input, nodes: operations })?)
}

fn toml(value: &impl Serialize) -> String {
    toml::to_string(value).expect("only strings for keys")
}

#[cfg(test)]
mod tests {
    use crescendo_network::{Family, Init, NetworkConfig};

    use super::*;

    fn through(call: Call) -> Call {
        let message = Command::Call { engine: 7, call }.write();
        match Command::read(&message).unwrap() {
            Command::Call { engine: 7, call } => call,
            _ => panic!("another command"),
        }
    }

    #[test]
    fn graphs_come_over_as_they_are() {
        let images = Shape::Maps { channels: 3, height: 32, width: 32 };
        let mut airbench = NetworkConfig::paper();
        (airbench.family, airbench.whitening) = (Family::Airbench, 2);
        (airbench.blocks, airbench.widths) = (vec![2, 3], vec![4, 6]);
        (airbench.init, airbench.norm.eps) = (Init::Dirac, 1.0 / 3e5);
        (airbench.head.hidden, airbench.head.pool) = (0, 3);
        for config in [NetworkConfig::paper(), airbench] {
            let graph = Graph::new(&config.network(images).unwrap()).unwrap();
            let Call::SetGraph(read) = through(Call::SetGraph(graph.clone())) else { panic!() };
            assert_eq!(read, graph);
        }
    }

    #[test]
    fn batches_and_rules_come_over_as_they_are() {
        let sample = |index| Sample { index, crop: [-4, 3], flip: index == 1, cutout: [2, 300] };
        let preparation = Preparation {
            border: BorderPixels::Constant([1, 2, 3]),
            normalization: ChannelStatistics::Fixed([(0.1, 1.0 / 3.0), (2.0, 3.0), (4.0, 5.0)]),
            cutout: 8,
            image_size: 24,
        };
        let batch = Batch {
            tree: BatchTree::ghost(100, 2),
            is_ghost: true,
            labels: vec![3, 65_535],
            mean_weight: 0.7,
            measure: true,
            samples: Some((vec![sample(1), sample(4_000_000_000)], preparation)),
        };
        let Call::Accumulate(read) = through(Call::Accumulate(batch)) else { panic!() };
        assert_eq!((read.tree, read.is_ghost), (BatchTree::ghost(100, 2), true));
        assert_eq!((read.labels, read.mean_weight, read.measure), (vec![3, 65_535], 0.7, true));
        let (samples, how) = read.samples.unwrap();
        assert_eq!(samples, [sample(1), sample(4_000_000_000)]);
        assert_eq!(how, preparation);

        let sgd = Sgd { learning_rate: 0.1, momentum: 0.9, nesterov: true, weight_decay: 1e-4 };
        let muon = Muon { learning_rate: 0.2, momentum: 0.6, nesterov: false, steps: 3 };
        let rules = vec![Rule::Sgd(sgd), Rule::Sgd(sgd), Rule::Frozen, Rule::Muon(muon)];
        let Call::Update(read) = through(Call::Update(rules.clone())) else { panic!() };
        assert_eq!(read, rules);
    }

    #[test]
    fn tensors_come_over_as_they_are() {
        let count = Tensor { name: "n".into(), shape: vec![], data: TensorData::I64(-7) };
        let tensors = vec![Tensor::f32("weight", vec![2, 1], vec![0.1, f32::NAN]), count.clone()];
        let call = Call::Import { section: Section::Average, tensors };
        let Call::Import { section: Section::Average, tensors } = through(call) else { panic!() };
        assert_eq!((&*tensors[0].name, &tensors[0].shape[..]), ("weight", &[2, 1][..]));
        let values = tensors[0].values().unwrap();
        assert!(values[0] == 0.1 && values[1].is_nan());
        assert_eq!(tensors[1], count);
    }

    #[test]
    fn a_message_that_ends_early_is_an_error() {
        let message = Command::Call { engine: 1, call: Call::UpdateAverage(0.5) }.write();
        for end in 0..message.len() {
            assert!(Command::read(&message[..end]).is_err(), "{end}");
        }
    }
}
