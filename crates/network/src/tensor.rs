//! Named tensors: what goes into and out of an engine.

use std::borrow::Cow;

use crate::EngineError;

/// A named tensor.
///
/// # Example
///
/// ```
/// use crescendo_network::{EngineError, Tensor, TensorData, check_tensors};
///
/// let weight = Tensor::f32("fc.weight", vec![2, 3], vec![0.5; 6]);
/// let count = Tensor { name: "bn.num_batches_tracked".into(), shape: vec![], data: TensorData::I64(7) };
/// assert_eq!((weight.values().map(|values| values.len()), count.values()), (Some(6), None));
///
/// // Tensors of a file, in any order, as a network expects them.
/// let file = [count.clone(), weight.clone()];
/// let data = check_tensors(&[weight.clone(), count], &file)?;
/// assert_eq!(data, [&weight.data, &TensorData::I64(7)]);
/// let error = check_tensors(&[weight], &[]).unwrap_err();
/// assert_eq!(error.to_string(), "the tensor fc.weight is missing");
/// # Ok::<(), EngineError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<'a> {
    /// Such as `start_layer.0.weight`.
    pub name: Cow<'a, str>,
    /// PyTorch's shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// The numbers, last dimension fastest.
    pub data: TensorData<'a>,
}

/// The numbers of a tensor.
///
/// See the example of [`Tensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData<'a> {
    /// Floating-point numbers.
    F32(Cow<'a, [f32]>),
    /// A count: `num_batches_tracked`.
    I64(i64),
}

impl<'a> Tensor<'a> {
    /// A tensor of floating-point numbers.
    pub fn f32(
        name: impl Into<Cow<'a, str>>,
        shape: Vec<usize>,
        values: impl Into<Cow<'a, [f32]>>,
    ) -> Self {
        Tensor { name: name.into(), shape, data: TensorData::F32(values.into()) }
    }

    /// The floating-point numbers; `None` for a count.
    pub fn values(&self) -> Option<&[f32]> {
        match &self.data {
            TensorData::F32(values) => Some(values),
            TensorData::I64(_) => None,
        }
    }

    /// A copy that borrows nothing.
    pub fn into_owned(self) -> Tensor<'static> {
        let data = match self.data {
            TensorData::F32(values) => TensorData::F32(values.into_owned().into()),
            TensorData::I64(count) => TensorData::I64(count),
        };
        Tensor { name: self.name.into_owned().into(), shape: self.shape, data }
    }
}

/// The tensors of `given` in the order of those that are `expected`, if it has exactly these.
///
/// # Errors
/// Names the first tensor that is missing, unknown, or of another shape or type.
pub fn check_tensors<'t, 'a>(
    expected: &[Tensor],
    given: &'t [Tensor<'a>],
) -> Result<Vec<&'t TensorData<'a>>, EngineError> {
    let wrong = |problem: String| Err(EngineError::WrongTensors(problem));
    let mut in_order = Vec::new();
    for tensor in expected {
        let name = &tensor.name;
        let Some(found) = given.iter().find(|given| given.name == *name) else {
            return wrong(format!("the tensor {name} is missing"));
        };
        if found.shape != tensor.shape {
            let (found, expected) = (&found.shape, &tensor.shape);
            return wrong(format!(
                "the tensor {name} has the shape {found:?}, but this network's has {expected:?}"
            ));
        }
        let numbers: usize = found.shape.iter().product();
        if found.values().is_some_and(|values| values.len() != numbers) {
            return wrong(format!("the tensor {name} does not have as many numbers as its shape"));
        }
        if std::mem::discriminant(&found.data) != std::mem::discriminant(&tensor.data) {
            return wrong(format!("the tensor {name} has the wrong type of numbers"));
        }
        in_order.push(&found.data);
    }
    if given.len() > expected.len() {
        let twice = |(index, tensor): &(usize, &Tensor)| {
            given[..*index].iter().any(|other| other.name == tensor.name)
        };
        if let Some((_, tensor)) = given.iter().enumerate().find(twice) {
            return wrong(format!("the tensor {} is there twice", tensor.name));
        }
    }
    match given.iter().find(|given| expected.iter().all(|tensor| tensor.name != given.name)) {
        Some(unknown) => wrong(format!("this network has no tensor named {}", unknown.name)),
        None => Ok(in_order),
    }
}
