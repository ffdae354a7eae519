//! The format of TensorBoard's event files: TFRecord framing (length, payload and masked CRC-32C
//! checksums, `tensorflow/core/lib/io/record_writer.h`) around `Event` protocol buffers
//! (`tensorflow/core/util/event.proto`). Only the fields that scalars and texts need are written.

use std::time::{SystemTime, UNIX_EPOCH};

use crc::{CRC_32_ISCSI, Crc};
use crescendo_training::protobuf::Message;

/// The value of a tag in a summary.
pub(crate) enum Value {
    Scalar(f64),
    /// Markdown.
    Text(String),
}

/// The first record of a file: the format's version.
pub(crate) fn version() -> Vec<u8> {
    framed(event().bytes(3, b"brain.Event:2"))
}

/// A record with the values of a step, each with its tag.
pub(crate) fn summary<'a>(
    step: u64,
    values: impl IntoIterator<Item = (&'a str, Value)>,
) -> Vec<u8> {
    let mut summary = Message::default();
    for (tag, value) in values {
        let tagged = Message::default().bytes(1, tag.as_bytes());
        let tagged = match value {
            Value::Scalar(value) => tagged.float(2, value as f32),
            Value::Text(text) => tagged.message(8, &tensor(&text)).message(9, &text_metadata()),
        };
        summary = summary.message(1, &tagged);
    }
    framed(event().int(2, step).message(5, &summary))
}

/// A tensor of strings (type 7) without dimensions.
fn tensor(text: &str) -> Message {
    Message::default().int(1, 7).message(2, &Message::default()).bytes(8, text.as_bytes())
}

/// Metadata that assigns a tensor to the text plugin; 2 is the data class of tensors.
fn text_metadata() -> Message {
    Message::default().message(1, &Message::default().bytes(1, b"text")).int(4, 2)
}

/// An event with the current time.
fn event() -> Message {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Message::default().double(1, now.as_secs_f64())
}

/// A record: the message's length and the message, each followed by its checksum.
fn framed(message: Message) -> Vec<u8> {
    let data = message.into_bytes();
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &checksum(&length), &data, &checksum(&data)].concat()
}

/// CRC-32C, masked as TFRecord requires, so that checksums of data that contains checksums stay
/// useful.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    static CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
    CRC.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}
