//! Images in NumPy's arrays.

use crescendo::data::ImageShape;
use numpy::{PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

const SHAPE: ImageShape = ImageShape::CIFAR;

/// The images `[N, 3, 32, 32]`, `[N, 3072]` or `[N, 32, 32, 3]` of a contiguous array, as `[N, 3, 32, 32]`.
pub fn channels_first(images: &PyReadonlyArrayDyn<u8>) -> PyResult<Vec<u8>> {
    let wrong = |problem: &str| PyValueError::new_err(format!("the array of images {problem}"));
    let bytes = images.as_slice().map_err(|_| wrong("is not contiguous"))?;
    if !bytes.len().is_multiple_of(SHAPE.elements()) {
        return Err(wrong("has no whole images"));
    }
    let ImageShape { channels, height, width } = SHAPE;
    if images.shape().get(1..) != Some(&[height, width, channels]) {
        return Ok(bytes.to_vec());
    }
    let mut planes = vec![0; bytes.len()];
    let images =
        bytes.chunks_exact(SHAPE.elements()).zip(planes.chunks_exact_mut(SHAPE.elements()));
    for (image, planes) in images {
        for (channel, plane) in planes.chunks_exact_mut(SHAPE.plane()).enumerate() {
            let values = image[channel..].iter().step_by(channels);
            plane.iter_mut().zip(values).for_each(|(out, value)| *out = *value);
        }
    }
    Ok(planes)
}
