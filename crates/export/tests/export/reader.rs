//! Reads ONNX files: protocol buffers, and what of `onnx.proto` the models have.

use std::collections::BTreeMap;

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Int(u64),
    Float(f32),
    Bytes(Vec<u8>),
}

/// The fields of a message, in their order.
#[derive(Clone, Debug)]
pub struct Fields(Vec<(u64, Value)>);

impl Fields {
    /// Panics if `bytes` are no message.
    pub fn read(mut bytes: &[u8]) -> Self {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let value = match key & 7 {
                0 => Value::Int(varint(&mut bytes)),
                2 => {
                    let length = varint(&mut bytes) as usize;
                    let (value, rest) = bytes.split_at(length);
                    bytes = rest;
                    Value::Bytes(value.to_vec())
                }
                5 => {
                    let (value, rest) = bytes.split_at(4);
                    bytes = rest;
                    Value::Float(f32::from_le_bytes(value.try_into().unwrap()))
                }
                other => panic!("encoding {other}"),
            };
            fields.push((key >> 3, value));
        }
        Fields(fields)
    }

    fn all(&self, field: u64) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |(number, _)| *number == field).map(|(_, value)| value)
    }

    pub fn ints(&self, field: u64) -> Vec<u64> {
        let int = |value: &Value| match value {
            Value::Int(value) => *value,
            other => panic!("field {field} is {other:?}"),
        };
        self.all(field).map(int).collect()
    }

    pub fn floats(&self, field: u64) -> Vec<f32> {
        let float = |value: &Value| match value {
            Value::Float(value) => *value,
            other => panic!("field {field} is {other:?}"),
        };
        self.all(field).map(float).collect()
    }

    pub fn bytes(&self, field: u64) -> Vec<&[u8]> {
        let mut values = Vec::new();
        for value in self.all(field) {
            match value {
                Value::Bytes(bytes) => values.push(&bytes[..]),
                other => panic!("field {field} is {other:?}"),
            }
        }
        values
    }

    pub fn texts(&self, field: u64) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        self.bytes(field).into_iter().map(text).collect()
    }

    pub fn messages(&self, field: u64) -> Vec<Fields> {
        self.bytes(field).into_iter().map(Fields::read).collect()
    }

    pub fn message(&self, field: u64) -> Fields {
        let messages = self.messages(field);
        assert_eq!(messages.len(), 1, "field {field}");
        messages[0].clone()
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for place in 0.. {
        let (&byte, rest) = bytes.split_first().expect("the number ends");
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            break;
        }
    }
    value
}

/// A node of the graph.
#[derive(Debug)]
pub struct Node {
    pub operation: String,
    pub inputs: Vec<String>,
    pub output: String,
    /// Each attribute's whole numbers; floating-point ones are in `floats`.
    pub ints: BTreeMap<String, Vec<u64>>,
    pub floats: BTreeMap<String, f32>,
}

/// A tensor of the graph.
#[derive(Debug, PartialEq)]
pub struct Tensor {
    pub shape: Vec<u64>,
    /// 1: float, 7: int64.
    pub kind: u64,
    pub bytes: Vec<u8>,
}

/// A model.
#[derive(Debug)]
pub struct Model {
    pub ir_version: Vec<u64>,
    pub producer: Vec<String>,
    /// Domains and versions of operations.
    pub operations: Vec<(Vec<String>, Vec<u64>)>,
    pub metadata: BTreeMap<String, String>,
    pub nodes: Vec<Node>,
    pub tensors: BTreeMap<String, Tensor>,
    /// Names, types and dimensions of the input and of the output.
    pub input: (String, u64, Vec<String>),
    pub output: (String, u64, Vec<String>),
}

impl Model {
    pub fn read(bytes: &[u8]) -> Self {
        let model = Fields::read(bytes);
        let graph = model.message(7);
        let metadata = model.messages(14).into_iter().map(|entry| {
            let [key, value] = [1, 2].map(|field| entry.texts(field).remove(0));
            (key, value)
        });
        let imports = model.messages(8).into_iter();
        let tensors = graph.messages(5);
        let count = tensors.len();
        let tensors: BTreeMap<String, Tensor> = tensors.iter().map(tensor).collect();
        assert_eq!(tensors.len(), count, "a tensor is there twice");
        Model {
            ir_version: model.ints(1),
            producer: model.texts(2),
            operations: imports.map(|import| (import.texts(1), import.ints(2))).collect(),
            metadata: metadata.collect(),
            nodes: graph.messages(1).iter().map(node).collect(),
            tensors,
            input: value(&graph.message(11)),
            output: value(&graph.message(12)),
        }
    }

    /// How many nodes compute this operation.
    pub fn count(&self, operation: &str) -> usize {
        self.nodes.iter().filter(|node| node.operation == operation).count()
    }
}

fn tensor(fields: &Fields) -> (String, Tensor) {
    let name = fields.texts(8).remove(0);
    let bytes = fields.bytes(9)[0].to_vec();
    (name, Tensor { shape: fields.ints(1), kind: fields.ints(2)[0], bytes })
}

fn node(fields: &Fields) -> Node {
    let (mut ints, mut floats) = (BTreeMap::new(), BTreeMap::new());
    for attribute in fields.messages(5) {
        let name = attribute.texts(1).remove(0);
        match attribute.ints(20)[..] {
            [1] => drop(floats.insert(name, attribute.floats(2)[0])),
            [2] => drop(ints.insert(name, attribute.ints(3))),
            [7] => drop(ints.insert(name, attribute.ints(8))),
            ref other => panic!("{name} has the type {other:?}"),
        }
    }
    let [output, operation] = [2, 4].map(|field| fields.texts(field).remove(0));
    assert!(fields.texts(7).is_empty(), "operations are of ONNX's own domain");
    Node { operation, inputs: fields.texts(1), output, ints, floats }
}

fn value(fields: &Fields) -> (String, u64, Vec<String>) {
    let tensor = fields.message(2).message(1);
    let dimensions = tensor.message(2).messages(1).into_iter().map(|dimension| {
        let sizes = dimension.ints(1);
        sizes.first().map_or_else(|| dimension.texts(2).remove(0), u64::to_string)
    });
    (fields.texts(1).remove(0), tensor.ints(1)[0], dimensions.collect())
}
