//! The format of TensorBoard's event files: TFRecord framing (length, payload and masked CRC-32C
//! checksums, `tensorflow/core/lib/io/record_writer.h`) around `Event` protocol buffers
//! (`tensorflow/core/util/event.proto`). Only the fields that scalars, texts, images and hyperparameters need are
//! written.

use std::time::{SystemTime, UNIX_EPOCH};

use crc::{CRC_32_ISCSI, Crc};
use crescendo_training::protobuf::Message;

use super::canvas::Canvas;
use super::hparams::Hyperparameter;

/// The value of a tag in a summary.
pub(crate) enum Value {
    Scalar(f64),
    /// Markdown.
    Text(String),
    Picture(Canvas),
    /// That a session, which is a run, begins with these hyperparameters.
    SessionStart(Vec<(String, Hyperparameter)>),
    /// That it has ended with success.
    SessionEnd,
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
            Value::Picture(canvas) => tagged.message(4, &image(&canvas)),
            Value::SessionStart(all) => session(tagged, 3, &session_start(&all)),
            Value::SessionEnd => session(tagged, 4, &session_end()),
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
    Message::default().double(1, now())
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
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

/// A picture as a PNG; 3 are the colours red, green and blue.
fn image(canvas: &Canvas) -> Message {
    let message = Message::default().int(1, canvas.height as u64).int(2, canvas.width as u64);
    message.int(3, 3).bytes(4, &canvas.png())
}

/// A value of the plugin `hparams` (`tensorboard/plugins/hparams/plugin_data.proto`): all of it is in the metadata, in
/// this field. The tensor, a zero, is only there because every value has one.
fn session(tagged: Message, field: u64, data: &Message) -> Message {
    let content = Message::default().int(1, 0).message(field, data);
    let plugin = Message::default().bytes(1, b"hparams").message(2, &content);
    let shape = Message::default().message(2, &Message::default().int(1, 1));
    let zero = Message::default().int(1, 1).message(2, &shape).bytes(5, &[0; 4]);
    tagged.message(8, &zero).message(9, &Message::default().message(1, &plugin).int(4, 2))
}

fn session_start(all: &[(String, Hyperparameter)]) -> Message {
    let mut message = Message::default();
    for (name, value) in all {
        let value = match value {
            Hyperparameter::Number(number) => Message::default().double(2, *number),
            Hyperparameter::Text(text) => Message::default().bytes(3, text.as_bytes()),
            Hyperparameter::Switch(switch) => Message::default().int(4, u64::from(*switch)),
        };
        let entry = Message::default().bytes(1, name.as_bytes()).message(2, &value);
        message = message.message(1, &entry);
    }
    message.double(5, now())
}

/// 1 is success.
fn session_end() -> Message {
    Message::default().int(1, 1).double(2, now())
}
