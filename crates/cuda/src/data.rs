//! The data set in the device's memory, and the preparation of batches from it.

use std::sync::Arc;

use crescendo_network::{
    BorderPixels, ChannelStatistics, DeviceData, EngineError, Preparation, Sample, Shape,
};

use crate::driver::{Buffer, Driver, Launch};
use crate::params::{Maps, SampleParams, SamplePreparation, SamplesParams};
use crate::pass::launch;
use crate::window::MapShape;

/// Shared memory of a block beside the image's bytes: factors of three channels, and two sums of each thread.
const SUMS_BYTES: usize = 6 * 8 + 2 * 256 * 4;

/// Images as bytes.
pub(crate) struct ResidentData {
    pixels: Buffer,
    images: usize,
    shape: Shape,
    preparation: Buffer,
}

impl ResidentData {
    /// Copies a data set to the device; `None` if it does not fit, or its images are none that the kernel prepares.
    pub fn new(
        driver: &Arc<dyn Driver>,
        data: &DeviceData,
    ) -> Result<Option<ResidentData>, EngineError> {
        let maps = MapShape::new(data.shape);
        let too_large = data.shape.len() + SUMS_BYTES + 16 > crate::window::SHARED_BYTES;
        if maps.rows != maps.columns || maps.channels > 3 || too_large {
            return Ok(None);
        }
        // Half of what is free, so that the engine has the rest.
        let free = driver.memory().available.unwrap_or(u64::MAX);
        if data.pixels.len() as u64 > free / 2 {
            return Ok(None);
        }
        let pixels = Buffer::new(driver, data.pixels.len())?;
        driver.upload(pixels.address, data.pixels)?;
        Ok(Some(ResidentData {
            pixels,
            images: data.pixels.len() / data.shape.len(),
            shape: data.shape,
            preparation: Buffer::new(driver, size_of::<SamplePreparation>())?,
        }))
    }

    /// Brings the parameters of samples to the device.
    pub fn upload(
        &self,
        driver: &dyn Driver,
        samples: &[Sample],
        preparation: &Preparation,
        to: u64,
    ) -> Result<(), EngineError> {
        let samples: Vec<SampleParams> = samples
            .iter()
            .map(|sample| {
                assert!((sample.index as usize) < self.images, "not an image of the data set");
                SampleParams {
                    index: sample.index,
                    flip: sample.flip.into(),
                    row: sample.crop[0].into(),
                    column: sample.crop[1].into(),
                    cutout_row: sample.cutout[0].into(),
                    cutout_column: sample.cutout[1].into(),
                }
            })
            .collect();
        driver.upload(to, bytemuck::cast_slice(&samples))?;
        let mut params =
            SamplePreparation { cutout: preparation.cutout as i64, ..SamplePreparation::default() };
        match preparation.normalization {
            ChannelStatistics::PerImage => params.per_image = 1,
            ChannelStatistics::Fixed(channels) => {
                for (channel, (mean, deviation)) in channels.into_iter().enumerate() {
                    params.mean[channel] = mean;
                    params.scale[channel] = if deviation > 0.0 { 1.0 / deviation } else { 1.0 };
                }
            }
        }
        match preparation.border {
            BorderPixels::Reflect => params.reflect = 1,
            BorderPixels::Constant(colour) => params.border = colour.map(i64::from),
        }
        driver.upload(self.preparation.address, bytemuck::bytes_of(&params))
    }

    /// The launch that prepares `count` samples.
    pub fn prepare(&self, samples: u64, count: usize, input: Shape, out: Maps) -> Launch {
        let (image, input) = (MapShape::new(self.shape), MapShape::new(input));
        let params = SamplesParams {
            pixels: self.pixels.address,
            samples,
            preparation: self.preparation.address,
            out,
            channels: image.channels as i32,
            rows: image.rows as i32,
            columns: image.columns as i32,
            padded_channels: input.padded() as i32,
            side: input.rows as i32,
            unused: 0,
        };
        let shared = self.shape.len().next_multiple_of(16) + SUMS_BYTES;
        launch("prepare_samples", [count, 1, 1], shared, &params)
    }
}
