//! Trained networks for other programs: ONNX models with their preprocessing inside ([`to_onnx`]), and PyTorch modules
//! ([`write_pytorch`]).
//!
//! Both take a [`TrainedNetwork`](crescendo_training::TrainedNetwork): the weights of a checkpoint, with all that it says of
//! its network. What is written has no date and no path, so that equal networks make equal files. See the example of
//! [`to_onnx`].

mod onnx;
mod pytorch;

pub use onnx::{OnnxOptions, to_onnx, write_onnx};
pub use pytorch::write_pytorch;
