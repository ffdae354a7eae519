//! The size of an image, stated here and nowhere else.

/// The shape of an image: `channels` planes of `height` rows of `width` pixels.
///
/// In memory the values of an image follow each other in this order: plane by plane (red, green, blue),
/// row by row from the top, each row from the left. A data set has a byte for each value, a batch an
/// `f32`.
///
/// See the example of [`Split`](crate::Split).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageShape {
    /// Colour channels.
    pub channels: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
}

impl ImageShape {
    /// `3 x 32 x 32`, the shape of CIFAR's images (Krizhevsky, *Learning Multiple Layers of Features from
    /// Tiny Images*, 2009). Images of other sizes are resized to it when they are read.
    pub const CIFAR: Self = ImageShape { channels: 3, height: 32, width: 32 };

    /// The number of values: `channels * height * width`.
    pub const fn elements(self) -> usize {
        self.channels * self.plane()
    }

    /// The number of values in one channel: `height * width`.
    pub const fn plane(self) -> usize {
        self.height * self.width
    }
}
