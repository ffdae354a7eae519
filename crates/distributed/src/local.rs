//! What a rank does itself: its engine, and its share of every batch.

use std::ops::Range;
use std::sync::Arc;

use crescendo_data::{AugmentedSample, Border, ImagePreparation, ImageShape};
use crescendo_network::{
    BatchTree, BorderPixels, ChannelStatistics, Communicator, DeviceData, Engine, EngineError,
    Images, MicroBatch, Preparation, Sample, Section, Shape, Tensor,
};

use crate::Exchange;
use crate::all_reduce::AllReduce;
use crate::command::{Batch, Call};
use crate::session::Session;

/// An engine as a part of one that spans all ranks.
pub(crate) struct Local {
    session: Arc<Session>,
    pub engine: Box<dyn Engine>,
    data: Data,
    /// Prepared images, whose memory is kept.
    images: Vec<f32>,
}

/// Where the training images are.
enum Data {
    /// They come with each batch.
    Nowhere,
    /// On the engine's device.
    OnDevice,
    /// Here, as bytes.
    Here(Vec<u8>),
}

/// What a call gives.
pub(crate) enum Answer {
    Nothing,
    Taken(bool),
    /// Logits, or gradients.
    Numbers(Vec<f32>),
}

impl Local {
    pub fn new(session: Arc<Session>, mut engine: Box<dyn Engine>) -> Self {
        if session.ranks > 1 {
            engine.set_communicator(Box::new(AllReduce::new(session.clone())));
        }
        Local { session, engine, data: Data::Nowhere, images: Vec::new() }
    }

    /// Does this rank's part of a call. `images` are those that only rank 0 has.
    pub fn execute(&mut self, call: Call, images: &[f32]) -> Result<Answer, EngineError> {
        match call {
            Call::SetGraph(graph) => self.engine.set_graph(&graph)?,
            Call::SetLoss(loss) => self.engine.set_loss(&loss)?,
            Call::SetRequiresGrad(requires_grad) => {
                self.engine.set_requires_grad(&requires_grad);
            }
            Call::LoadData { pixels, shape } => {
                return Ok(Answer::Taken(self.load_data(pixels, shape)?));
            }
            Call::Accumulate(batch) => self.accumulate(&batch, images)?,
            Call::Update(rules) => {
                self.engine.update(&rules)?;
                // Only rank 0's caller asks for it.
                if self.session.rank > 0 {
                    self.engine.next_result(true)?;
                }
            }
            Call::UpdateAverage(weight) => self.engine.update_average(weight)?,
            Call::SwapAverage => self.engine.swap_average()?,
            Call::BlendStatistics { images: count, weight } => {
                let tree = BatchTree::new(count, count);
                let own = self.own_images(tree, images)?;
                let Session { rank, ranks, .. } = *self.session;
                for part in tree.parts(rank, ranks) {
                    self.engine.blend_statistics(&own, &part, weight)?;
                }
            }
            Call::FavorLatency => self.engine.favor_latency(),
            Call::Logits(count) => return Ok(Answer::Numbers(self.logits(count, images)?)),
            Call::Gradients => return Ok(Answer::Numbers(self.gradients()?)),
            Call::Import { section, tensors } => self.import(section, tensors)?,
        }
        Ok(Answer::Nothing)
    }

    fn load_data(&mut self, pixels: Vec<u8>, shape: Shape) -> Result<bool, EngineError> {
        const CIFAR: ImageShape = ImageShape::CIFAR;
        if shape.maps() != Some([CIFAR.channels, CIFAR.height, CIFAR.width]) {
            return Ok(false);
        }
        let taken = self.engine.load_data(&DeviceData { pixels: &pixels, shape })?;
        self.data = if taken { Data::OnDevice } else { Data::Here(pixels) };
        Ok(true)
    }

    /// The images of this rank's parts of a batch, of those that rank 0 has.
    fn own_images(&self, tree: BatchTree, images: &[f32]) -> Result<Vec<f32>, EngineError> {
        let ranks = self.session.ranks;
        let of_rank = |rank| tree.parts(rank, ranks).map(|part| part.images()).collect();
        let shares: Vec<Vec<Range<usize>>> = (0..ranks).map(of_rank).collect();
        scatter(&self.session, &shares, self.engine.graph().input.len(), images)
    }

    /// Computes this rank's parts of a batch.
    fn accumulate(&mut self, batch: &Batch, images: &[f32]) -> Result<(), EngineError> {
        let Session { rank, ranks, .. } = *self.session;
        let image = self.engine.graph().input.len();
        if batch.samples.is_none() {
            self.images = self.own_images(batch.tree, images)?;
        }
        // Images that came are of all parts, one after the other.
        let mut end = 0;
        for part in batch.tree.parts(rank, ranks) {
            let own = part.images();
            let images = match (&batch.samples, &self.data) {
                (Some((samples, preparation)), Data::OnDevice) => {
                    Images::Samples(&samples[own.clone()], preparation)
                }
                (Some((samples, preparation)), Data::Here(pixels)) => {
                    prepare(pixels, &samples[own.clone()], preparation, &mut self.images);
                    Images::Prepared(&self.images)
                }
                (Some(_), Data::Nowhere) => {
                    return Err(EngineError::Unsupported(
                        "there are no images to take samples of".into(),
                    ));
                }
                (None, _) => {
                    let start = end;
                    end += own.len() * image;
                    Images::Prepared(&self.images[start..end])
                }
            };
            self.engine.accumulate(&MicroBatch {
                images,
                labels: &batch.labels[own],
                part,
                mean_weight: batch.mean_weight,
                measure: batch.measure,
            })?;
        }
        Ok(())
    }

    /// The logits of `count` images, on every rank.
    fn logits(&mut self, count: usize, images: &[f32]) -> Result<Vec<f32>, EngineError> {
        /// A rank with fewer would compute them in another way than more of them.
        const LEAST: usize = 8;
        let Session { rank, ranks, .. } = *self.session;
        let bound = |rank| count * rank / ranks;
        let mut shares: Vec<Range<usize>> =
            (0..ranks).map(|rank| bound(rank)..bound(rank + 1)).collect();
        if count < LEAST * ranks {
            shares.fill(0..0);
            shares[0] = 0..count;
        }
        let (image, classes) = (self.engine.graph().input.len(), self.engine.graph().classes());
        let alone: Vec<Vec<Range<usize>>> =
            shares.iter().map(|share| vec![share.clone()]).collect();
        let own = scatter(&self.session, &alone, image, images)?;
        let mut logits = vec![0; shares[rank].len() * classes];
        self.engine.logits_into(&own, bytemuck::cast_slice_mut(&mut logits))?;
        let from = shares.iter().map(|share| share.len() * classes).collect();
        let all = self.session.exchange(Exchange::AllGather { send: logits, from })?;
        Ok(bytemuck::allocation::cast_vec(all))
    }

    /// The gradients so far, summed over the ranks.
    fn gradients(&mut self) -> Result<Vec<f32>, EngineError> {
        let mut flat = Vec::new();
        for tensor in self.engine.export(Section::Gradients)? {
            flat.extend_from_slice(tensor.values().unwrap_or_default());
        }
        AllReduce::new(self.session.clone()).sum_gradients(&mut flat)?;
        Ok(flat)
    }

    fn import(
        &mut self,
        section: Section,
        mut tensors: Vec<Tensor<'static>>,
    ) -> Result<(), EngineError> {
        if section == Section::Gradients && self.session.rank > 0 {
            // The sum over the ranks is what is imported.
            for tensor in &mut tensors {
                let count = tensor.values().map_or(0, <[f32]>::len);
                *tensor = Tensor::f32(tensor.name.clone(), tensor.shape.clone(), vec![0.0; count]);
            }
        }
        self.engine.import(section, &tensors)
    }
}

/// The images of this rank, of those that rank 0 has.
fn scatter(
    session: &Session,
    shares: &[Vec<Range<usize>>],
    image: usize,
    images: &[f32],
) -> Result<Vec<f32>, EngineError> {
    let Session { rank, ranks, .. } = *session;
    let (mut send, mut to) = (Vec::new(), vec![0; ranks]);
    if rank == 0 {
        for (share, count) in shares.iter().zip(&mut to) {
            for range in share {
                let own = &images[range.start * image..range.end * image];
                send.extend_from_slice(bytemuck::cast_slice::<f32, u32>(own));
                *count += own.len();
            }
        }
    }
    let mut from = vec![0; ranks];
    from[0] = shares[rank].iter().map(Range::len).sum::<usize>() * image;
    let words = session.exchange(Exchange::AllToAll { send, to, from })?;
    Ok(bytemuck::allocation::cast_vec(words))
}

/// Writes the samples of `pixels` as the network takes them to `images`.
fn prepare(pixels: &[u8], samples: &[Sample], how: &Preparation, images: &mut Vec<f32>) {
    const CIFAR: ImageShape = ImageShape::CIFAR;
    let Preparation { border, normalization, cutout, image_size } = *how;
    let preparation = ImagePreparation {
        border: match border {
            BorderPixels::Reflect => Border::Reflect,
            BorderPixels::Constant(colour) => Border::Colour(colour),
        },
        statistics: match normalization {
            ChannelStatistics::PerImage => None,
            ChannelStatistics::Fixed(channels) => Some(channels),
        },
        cutout,
        image_size,
    };
    let elements = CIFAR.channels * image_size * image_size;
    images.resize(samples.len() * elements, 0.0);
    for (sample, out) in samples.iter().zip(images.chunks_exact_mut(elements)) {
        let image = &pixels[sample.index as usize * CIFAR.elements()..][..CIFAR.elements()];
        let cutout = Some(sample.cutout.into());
        let sample = AugmentedSample::new(sample.index, sample.crop, sample.flip, cutout);
        preparation.apply(&sample, image, out);
    }
}
