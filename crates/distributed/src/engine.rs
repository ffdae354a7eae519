//! An engine that spans all ranks, as rank 0 has it.

use std::sync::Arc;

use crescendo_network::{
    BatchPart, Communicator, DeviceData, Engine, EngineError, Graph, Images, Loss, MicroBatch,
    Peaks, Rule, Section, Snapshot, StepTime, Tensor, UpdateResult, UpdateWork,
};

use crate::command::{Batch, Call, Command};
use crate::local::{Answer, Local};
use crate::session::Session;

pub(crate) struct DistributedEngine {
    session: Arc<Session>,
    number: u32,
    local: Local,
    requires_grad: Vec<bool>,
    /// What has come of a batch, and its images if they are prepared.
    collected: Option<Batch>,
    images: Vec<f32>,
    /// The gradients over all ranks, when they were last exported.
    gradients: Vec<f32>,
}

impl DistributedEngine {
    pub fn new(session: Arc<Session>, number: u32, local: Local) -> Self {
        let parameters = &local.engine.graph().parameters;
        let requires_grad = parameters.iter().map(|parameter| parameter.requires_grad).collect();
        DistributedEngine {
            session,
            number,
            local,
            requires_grad,
            collected: None,
            images: Vec::new(),
            gradients: Vec::new(),
        }
    }

    /// Has all ranks do their part of a call. `images` are those that only rank 0 has.
    fn call(&mut self, call: Call, images: &[f32]) -> Result<Answer, EngineError> {
        let may_fail = call.may_fail();
        let command = Command::Call { engine: self.number, call };
        let outcome = self.session.broadcast(&mut command.write()).and_then(|()| {
            let Command::Call { call, .. } = command else { unreachable!("it is a call") };
            self.local.execute(call, images)
        });
        if may_fail {
            return self.session.agree(outcome);
        }
        outcome.inspect_err(|_| self.session.set_lost())
    }
}

impl Engine for DistributedEngine {
    fn graph(&self) -> &Graph {
        self.local.engine.graph()
    }

    fn set_graph(&mut self, graph: &Graph) -> Result<(), EngineError> {
        if graph != self.graph() {
            self.call(Call::SetGraph(graph.clone()), &[])?;
        }
        Ok(())
    }

    fn set_loss(&mut self, loss: &Loss) -> Result<(), EngineError> {
        self.call(Call::SetLoss(loss.clone()), &[]).map(drop)
    }

    fn set_communicator(&mut self, communicator: Box<dyn Communicator>) {
        // Only without other ranks is there another communicator to ask.
        self.local.engine.set_communicator(communicator);
    }

    fn set_requires_grad(&mut self, requires_grad: &[bool]) {
        if requires_grad == self.requires_grad {
            return;
        }
        self.requires_grad = requires_grad.to_vec();
        // If it fails, so does the next call, which returns the error.
        let _ = self.call(Call::SetRequiresGrad(requires_grad.to_vec()), &[]);
    }

    fn load_data(&mut self, data: &DeviceData) -> Result<bool, EngineError> {
        let DeviceData { pixels, shape } = *data;
        let answer = self.call(Call::LoadData { pixels: pixels.to_vec(), shape }, &[])?;
        Ok(matches!(answer, Answer::Taken(true)))
    }

    /// Collects the micro-batches of a batch; with the last one, all ranks compute it.
    fn accumulate(&mut self, batch: &MicroBatch) -> Result<(), EngineError> {
        let MicroBatch { part, mean_weight, measure, labels, .. } = *batch;
        let (image, classes) = (self.graph().input.len(), self.graph().classes());
        assert_eq!(labels.len(), part.micro_batch(), "the images of the part");
        assert!(labels.iter().all(|&label| usize::from(label) < classes), "no such class");
        let collected = self.collected.get_or_insert_with(|| {
            let samples = match batch.images {
                Images::Samples(_, preparation) => Some((Vec::new(), *preparation)),
                Images::Prepared(_) => None,
            };
            let (tree, is_ghost) = (part.tree(), part.is_alone());
            Batch { tree, is_ghost, labels: Vec::new(), mean_weight, measure, samples }
        });
        assert_eq!(collected.labels.len(), part.images().start, "parts come in their order");
        collected.labels.extend_from_slice(labels);
        let count = match (batch.images, &mut collected.samples) {
            (Images::Prepared(images), None) => {
                self.images.extend_from_slice(images);
                images.len() / image
            }
            (Images::Samples(samples, _), Some((all, _))) => {
                all.extend_from_slice(samples);
                samples.len()
            }
            _ => panic!("the images of a batch are of one kind"),
        };
        assert_eq!(count, labels.len(), "one label for each image");
        if !part.is_last() {
            return Ok(());
        }
        let batch = self.collected.take().expect("it was made above");
        let mut images = std::mem::take(&mut self.images);
        let outcome = self.call(Call::Accumulate(batch), &images).map(drop);
        images.clear();
        self.images = images;
        outcome
    }

    fn update(&mut self, rules: &[Rule]) -> Result<(), EngineError> {
        assert_eq!(rules.len(), self.graph().parameters.len(), "one rule for each parameter");
        self.call(Call::Update(rules.to_vec()), &[]).map(drop)
    }

    fn next_result(&mut self, wait: bool) -> Result<Option<UpdateResult>, EngineError> {
        self.local.engine.next_result(wait)
    }

    fn update_average(&mut self, weight: f64) -> Result<(), EngineError> {
        self.call(Call::UpdateAverage(weight), &[]).map(drop)
    }

    fn swap_average(&mut self) -> Result<(), EngineError> {
        self.call(Call::SwapAverage, &[]).map(drop)
    }

    fn blend_statistics(
        &mut self,
        images: &[f32],
        part: &BatchPart,
        weight: f64,
    ) -> Result<(), EngineError> {
        let count = part.batch();
        assert_eq!(images.len(), count * self.graph().input.len(), "all images of the batch");
        self.call(Call::BlendStatistics { images: count, weight }, images).map(drop)
    }

    fn favor_latency(&mut self) {
        // As for `set_requires_grad`.
        let _ = self.call(Call::FavorLatency, &[]);
    }

    fn logits_into(&mut self, images: &[f32], logits: &mut [f32]) -> Result<(), EngineError> {
        let (image, classes) = (self.graph().input.len(), self.graph().classes());
        assert!(images.len().is_multiple_of(image), "not whole images");
        let count = images.len() / image;
        assert_eq!(logits.len(), count * classes, "not one logit for each class");
        if let Answer::Numbers(numbers) = self.call(Call::Logits(count), images)? {
            logits.copy_from_slice(&numbers);
        }
        Ok(())
    }

    fn export(&mut self, section: Section) -> Result<Vec<Tensor<'_>>, EngineError> {
        if section != Section::Gradients {
            return self.local.engine.export(section);
        }
        if let Answer::Numbers(numbers) = self.call(Call::Gradients, &[])? {
            self.gradients = numbers;
        }
        let tensor = |parameter: &crescendo_network::Parameter| {
            let values = &self.gradients[parameter.range.clone()];
            Tensor::f32(parameter.name.clone(), parameter.shape.clone(), values)
        };
        Ok(self.graph().parameters.iter().map(tensor).collect())
    }

    fn import(&mut self, section: Section, tensors: &[Tensor]) -> Result<(), EngineError> {
        let tensors = tensors.iter().cloned().map(Tensor::into_owned).collect();
        self.call(Call::Import { section, tensors }, &[]).map(drop)
    }

    fn snapshot(&mut self) -> Result<Snapshot<'_>, EngineError> {
        self.local.engine.snapshot()
    }

    fn take_step_times(&mut self) -> Vec<StepTime> {
        self.local.engine.take_step_times()
    }

    fn choices(&self) -> Option<String> {
        self.local.engine.choices()
    }

    fn work(&self, images: usize) -> Option<UpdateWork> {
        self.local.engine.work(images)
    }

    fn measure_peaks(&mut self) -> Result<Peaks, EngineError> {
        self.local.engine.measure_peaks()
    }
}

impl Drop for DistributedEngine {
    fn drop(&mut self) {
        if !self.session.is_lost() {
            let sent = self.session.broadcast(&mut Command::Drop { engine: self.number }.write());
            if sent.is_err() {
                self.session.set_lost();
            }
        }
    }
}
