//! A graph in ONNX's format (`onnx/onnx.proto` of its repository), built node by node. Numbers of fields and of types are
//! that file's. It is of `proto2`: repeated numbers are not packed, and zeros are written.

use std::collections::{BTreeMap, BTreeSet};

use crescendo_training::protobuf::Message;

/// The type of a tensor's numbers.
#[derive(Clone, Copy)]
pub enum Type {
    Float = 1,
    Uint8 = 2,
    Int64 = 7,
}

/// A dimension of the graph's input or output.
#[derive(Clone, Copy)]
pub enum Dimension {
    Fixed(usize),
    /// Any size, under this name.
    Any(&'static str),
}

/// The value of a node's attribute.
#[derive(Clone, Copy)]
pub enum Attribute<'a> {
    Int(i64),
    Float(f32),
    Ints(&'a [i64]),
}

/// Nodes and tensors. Values and tensors share one name space, in which every name is given once.
#[derive(Default)]
pub struct Builder {
    nodes: Vec<Message>,
    tensors: Vec<Message>,
    /// How many bytes the tensors' numbers take.
    bytes: usize,
    names: BTreeSet<String>,
    /// The names of single numbers, by their bits.
    scalars: BTreeMap<u32, String>,
}

impl Builder {
    /// An empty graph in which these names are taken.
    pub fn new(taken: impl IntoIterator<Item = String>) -> Self {
        Builder { names: taken.into_iter().collect(), ..Builder::default() }
    }

    /// How many bytes the numbers of all tensors take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A name that nothing else has: `wanted`, if it is free.
    fn unique(&mut self, wanted: &str) -> String {
        let others = (2..).map(|number| format!("{wanted}_{number}"));
        let mut names = std::iter::once(wanted.to_owned()).chain(others);
        let free = names.find(|name| !self.names.contains(name)).expect("numbers do not end");
        self.names.insert(free.clone());
        free
    }

    /// Adds a tensor under a name that was taken for it.
    pub fn tensor(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.add_tensor(name, shape, Type::Float, bytes);
    }

    /// Adds constant numbers.
    pub fn floats(&mut self, wanted: &str, shape: &[usize], values: &[f32]) -> String {
        let name = self.unique(wanted);
        self.tensor(&name, shape, values);
        name
    }

    /// Adds constant whole numbers, in one dimension.
    pub fn ints(&mut self, wanted: &str, values: &[i64]) -> String {
        self.add_ints(wanted, &[values.len()], values)
    }

    /// Adds a constant whole number without dimensions.
    pub fn int(&mut self, wanted: &str, value: i64) -> String {
        self.add_ints(wanted, &[], &[value])
    }

    /// A constant number without dimensions; the same one each time.
    pub fn scalar(&mut self, value: f32) -> String {
        if let Some(name) = self.scalars.get(&value.to_bits()) {
            return name.clone();
        }
        let name = self.floats(&format!("constant_{value}"), &[], &[value]);
        self.scalars.insert(value.to_bits(), name.clone());
        name
    }

    fn add_ints(&mut self, wanted: &str, shape: &[usize], values: &[i64]) -> String {
        let name = self.unique(wanted);
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.add_tensor(&name, shape, Type::Int64, bytes);
        name
    }

    fn add_tensor(&mut self, name: &str, shape: &[usize], kind: Type, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        let dimensions =
            shape.iter().fold(Message::default(), |tensor, &size| tensor.int(1, size as u64));
        let tensor = dimensions.int(2, kind as u64).bytes(8, name.as_bytes()).bytes(9, &bytes);
        self.tensors.push(tensor);
    }

    /// Adds a node. Returns the name of its output: `wanted`, if it is free.
    pub fn node(
        &mut self,
        operation: &str,
        wanted: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute)],
    ) -> String {
        let output = self.unique(wanted);
        self.node_to(operation, &output, inputs, attributes);
        output
    }

    /// Adds a node whose output has a name that was taken for it.
    pub fn node_to(
        &mut self,
        operation: &str,
        output: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute)],
    ) {
        let node =
            inputs.iter().fold(Message::default(), |node, input| node.bytes(1, input.as_bytes()));
        let node = node.bytes(2, output.as_bytes()).bytes(3, output.as_bytes());
        let node = node.bytes(4, operation.as_bytes());
        let attributes = attributes.iter().map(|(name, value)| attribute(name, *value));
        self.nodes.push(attributes.fold(node, |node, attribute| node.message(5, &attribute)));
    }

    /// The whole graph, with one input and one output.
    pub fn finish(self, name: &str, input: Message, output: Message) -> Message {
        let graph = Message::default();
        let graph = self.nodes.iter().fold(graph, |graph, node| graph.message(1, node));
        let graph = graph.bytes(2, name.as_bytes());
        let graph = self.tensors.iter().fold(graph, |graph, tensor| graph.message(5, tensor));
        graph.message(11, &input).message(12, &output)
    }
}

fn attribute(name: &str, value: Attribute) -> Message {
    let named = Message::default().bytes(1, name.as_bytes());
    match value {
        Attribute::Float(value) => named.float(2, value).int(20, 1),
        Attribute::Int(value) => named.int(3, value as u64).int(20, 2),
        Attribute::Ints(values) => {
            values.iter().fold(named, |named, &value| named.int(8, value as u64)).int(20, 7)
        }
    }
}

/// The description of the graph's input or output.
pub fn value(name: &str, kind: Type, dimensions: &[Dimension]) -> Message {
    let shape = dimensions.iter().fold(Message::default(), |shape, dimension| {
        let size = match dimension {
            Dimension::Fixed(size) => Message::default().int(1, *size as u64),
            Dimension::Any(name) => Message::default().bytes(2, name.as_bytes()),
        };
        shape.message(1, &size)
    });
    let tensor = Message::default().int(1, kind as u64).message(2, &shape);
    Message::default().bytes(1, name.as_bytes()).message(2, &Message::default().message(1, &tensor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_given_twice() {
        let mut builder = Builder::new(["conv.weight".to_owned()]);
        assert_eq!(builder.node("Relu", "conv.weight", &["image"], &[]), "conv.weight_2");
        assert_eq!(builder.node("Relu", "conv.weight", &["image"], &[]), "conv.weight_3");
        assert_eq!(builder.node("Relu", "conv", &["image"], &[]), "conv");
        assert_eq!(builder.scalar(0.5), builder.scalar(0.5));
        assert_ne!(builder.scalar(0.5), builder.scalar(0.25));
        assert_eq!(builder.bytes(), 8);
    }
}
