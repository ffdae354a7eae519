//! Images, samples and batches on their way to the device.

use crescendo_network::{Engine, EngineError, Images, MicroBatch, Preparation, Sample};

use super::{CudaEngine, Source};
use crate::driver::Launch;
use crate::params::{Batch, ImagesParams, Maps};
use crate::pass::launch;
use crate::window::{MapShape, THREADS};

impl CudaEngine {
    /// Makes maps from images `[N, C, H, W]`.
    pub(super) fn lay_out_images(&self, count: usize) -> Launch {
        let shape = MapShape::new(self.graph().input);
        let params = ImagesParams {
            images: self.space.uploaded(),
            out: self.input_maps(),
            count: count as i64,
            channels: shape.channels as i64,
            padded_channels: shape.padded() as i64,
            pixels: shape.pixels() as i64,
        };
        let groups = count * shape.len() / 8;
        launch("lay_out_images", [groups.div_ceil(THREADS as usize), 1, 1], 0, &params)
    }

    /// Brings images `[N, C, H, W]` to the device.
    pub(super) fn upload_images(&self, images: &[f32]) -> Result<Option<Source>, EngineError> {
        self.driver.upload(self.space.uploaded(), bytemuck::cast_slice(images))?;
        Ok(Some(Source::Images))
    }

    /// Brings parameters of samples to the device.
    pub(super) fn upload_samples(
        &self,
        samples: &[Sample],
        preparation: &Preparation,
    ) -> Result<Option<Source>, EngineError> {
        let side = MapShape::new(self.graph().input).rows;
        assert_eq!(preparation.image_size, side, "samples of another size than the graph's");
        let Some(data) = &self.data else {
            return Err(EngineError::Unsupported("the engine has no data set".into()));
        };
        data.upload(&*self.driver, samples, preparation, self.space.uploaded())?;
        Ok(Some(Source::Samples))
    }

    /// The input of the network.
    pub(super) fn input_maps(&self) -> Maps {
        Maps {
            data: self.space.images(),
            f32: self.plan().precision.stores_f32(self.graph().input).into(),
        }
    }

    pub(super) fn upload_batch(&mut self, batch: Batch) -> Result<(), EngineError> {
        self.driver.upload(self.state.batch.address, bytemuck::bytes_of(&batch))
    }

    /// Brings a micro-batch to the device.
    pub(super) fn upload_micro_batch(
        &mut self,
        batch: &MicroBatch,
    ) -> Result<Option<Source>, EngineError> {
        let count = batch.labels.len();
        assert_eq!(count, batch.part.images().len(), "not the labels of the part");
        let classes = self.graph().classes();
        assert!(batch.labels.iter().all(|&label| usize::from(label) < classes), "not a class");
        self.reserve(count.max(1), true)?;
        if count == 0 {
            return Ok(None);
        }
        self.driver.upload(self.space.labels(), bytemuck::cast_slice(batch.labels))?;
        match batch.images {
            Images::Prepared(images) => {
                let len = count * self.graph().input.len();
                assert_eq!(images.len(), len, "one label for each image");
                self.upload_images(images)
            }
            Images::Samples(samples, preparation) => {
                assert_eq!(samples.len(), count, "one label for each image");
                self.upload_samples(samples, preparation)
            }
        }
    }
}
