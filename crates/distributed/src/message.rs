//! Messages as bytes: numbers, texts and lists, one after the other. All ranks run the same program, so that a message
//! says nothing of its form.

use crescendo_network::EngineError;

/// A message that is written.
#[derive(Default)]
pub(crate) struct Writer(pub Vec<u8>);

impl Writer {
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn bool(&mut self, value: bool) {
        self.u8(value.into());
    }

    pub fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    pub fn usize(&mut self, value: usize) {
        self.0.extend((value as u64).to_le_bytes());
    }

    pub fn f32(&mut self, value: f32) {
        self.0.extend(value.to_le_bytes());
    }

    pub fn f64(&mut self, value: f64) {
        self.0.extend(value.to_le_bytes());
    }

    /// Numbers, as they lie in memory.
    pub fn numbers<T: bytemuck::NoUninit>(&mut self, numbers: &[T]) {
        self.usize(numbers.len());
        self.0.extend_from_slice(bytemuck::cast_slice(numbers));
    }

    pub fn text(&mut self, text: &str) {
        self.numbers(text.as_bytes());
    }

    pub fn list<T>(&mut self, list: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.usize(list.len());
        list.iter().for_each(|item| write(self, item));
    }
}

/// A message that is read.
pub(crate) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], EngineError> {
        let (own, rest) = self.0.split_at_checked(count).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(own)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], EngineError> {
        self.take(N)?.try_into().map_err(|_| damaged())
    }

    pub fn u8(&mut self) -> Result<u8, EngineError> {
        Ok(self.array::<1>()?[0])
    }

    pub fn bool(&mut self) -> Result<bool, EngineError> {
        Ok(self.u8()? != 0)
    }

    pub fn u32(&mut self) -> Result<u32, EngineError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn usize(&mut self) -> Result<usize, EngineError> {
        Ok(u64::from_le_bytes(self.array()?) as usize)
    }

    pub fn f32(&mut self) -> Result<f32, EngineError> {
        Ok(f32::from_le_bytes(self.array()?))
    }

    pub fn f64(&mut self) -> Result<f64, EngineError> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    pub fn numbers<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &mut self,
    ) -> Result<Vec<T>, EngineError> {
        let count = self.usize()?;
        let bytes = count.checked_mul(size_of::<T>()).ok_or_else(damaged)?;
        Ok(bytemuck::pod_collect_to_vec(self.take(bytes)?))
    }

    pub fn text(&mut self) -> Result<String, EngineError> {
        String::from_utf8(self.numbers()?).map_err(|_| damaged())
    }

    pub fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, EngineError>,
    ) -> Result<Vec<T>, EngineError> {
        let count = self.usize()?;
        (0..count).map(|_| read(self)).collect()
    }
}

/// The error of a message that cannot be read.
pub(crate) fn damaged() -> EngineError {
    EngineError::Communication(
        "rank 0 sent what this rank cannot read: start the same version of the program on all machines"
            .into(),
    )
}
