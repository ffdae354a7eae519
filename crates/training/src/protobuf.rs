//! Protocol buffers, as far as files of this project need them: TensorBoard's events and ONNX. Fields are written in the
//! order of the calls, so that equal calls make equal bytes.

/// A message, built field by field. Fields are numbered as in the format's `.proto` file.
#[derive(Debug, Default)]
pub struct Message(Vec<u8>);

/// How a value is encoded, the lowest three bits of a field's key.
const VARINT: u64 = 0;
const EIGHT_BYTES: u64 = 1;
const LENGTH: u64 = 2;
const FOUR_BYTES: u64 = 5;

impl Message {
    /// Adds a number of the types `int64`, `int32`, `uint64`, `bool` or of an enumeration.
    pub fn int(mut self, field: u64, value: u64) -> Self {
        self.key(field, VARINT);
        self.varint(value);
        self
    }

    /// Adds a number of the type `double`.
    pub fn double(mut self, field: u64, value: f64) -> Self {
        self.key(field, EIGHT_BYTES);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Adds `bytes`, or a `string` in UTF-8.
    pub fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.key(field, LENGTH);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    /// Adds another message.
    pub fn message(self, field: u64, message: &Message) -> Self {
        self.bytes(field, &message.0)
    }

    /// Adds a number of the type `float`.
    pub fn float(mut self, field: u64, value: f32) -> Self {
        self.key(field, FOUR_BYTES);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// The message as it is in a file.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn key(&mut self, field: u64, encoding: u64) {
        self.varint(field << 3 | encoding);
    }

    /// Seven bits per byte, lowest first; the eighth bit says whether more bytes follow.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_encoded_as_the_format_says() {
        // The examples of protobuf.dev's page on the encoding.
        assert_eq!(Message::default().int(1, 150).into_bytes(), [0x08, 0x96, 0x01]);
        let text = Message::default().bytes(2, b"testing").into_bytes();
        assert_eq!(text, [&[0x12, 0x07], &b"testing"[..]].concat());
        let inner = Message::default().int(1, 150);
        let outer = Message::default().message(3, &inner).into_bytes();
        assert_eq!(outer, [0x1a, 0x03, 0x08, 0x96, 0x01]);
        // From field 16 on the key has two bytes.
        assert_eq!(Message::default().int(20, 7).into_bytes(), [0xa0, 0x01, 7]);
        assert_eq!(Message::default().float(2, 1.0).into_bytes(), [0x15, 0, 0, 0x80, 0x3f]);
        assert_eq!(Message::default().double(1, 0.0).into_bytes(), [&[0x09][..], &[0; 8]].concat());
        assert_eq!(Message::default().int(1, u64::MAX).into_bytes().len(), 11);
    }
}
