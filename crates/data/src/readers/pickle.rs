//! Reads Python's pickle format without executing anything.
//!
//! A pickle is a program for a stack machine that may call any Python function. Here a call only becomes
//! a value, which the caller may recognise. Values are stored in one list and refer to each other by index,
//! so that time and memory are linear in the length of the pickle: nesting needs no recursion, and shared
//! values, by which a few bytes can describe an exponential structure, are not copied.

use std::borrow::Cow;
use std::collections::HashMap;

/// The largest file of a published data set, of 50,000 images, takes at most 400,000 steps.
const MAX_STEPS: usize = 1 << 20;

/// The index of a value in a pickle.
pub(super) type Id = usize;

/// A value in a pickle.
pub(super) enum Value<'a> {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// Bytes, or a string in UTF-8.
    Bytes(&'a [u8]),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A list.
    List(Vec<Id>),
    /// A dictionary: keys and their values.
    Dict(Vec<(Id, Id)>),
    /// A global of a module, such as a function or a class.
    Global { module: &'a [u8], name: &'a [u8] },
    /// The result of a call, and the state that it was given afterwards.
    Call { function: Id, arguments: Id, state: Option<Id> },
}

/// A pickle that has been read.
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// Reads a pickle of protocol 2 to 5, or says what is wrong with it.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let mut machine = Machine {
            rest: bytes,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        match machine.run() {
            Ok(root) => Ok(Pickle { values: machine.values, root }),
            Err(problem) => {
                let position = bytes.len() - machine.rest.len();
                Err(format!(
                    "is not a Python pickle of such a data set (byte {position}: {problem}): download \
                     it again"
                ))
            }
        }
    }

    /// A value.
    pub(super) fn value(&self, id: Id) -> &Value<'a> {
        &self.values[id]
    }

    /// The value under `key`, if the pickle is a dictionary that has the key.
    pub(super) fn get(&self, key: &str) -> Option<Id> {
        let Value::Dict(items) = self.value(self.root) else { return None };
        let found = items.iter().rev().find(|item| self.is(item.0, key));
        found.map(|item| item.1)
    }

    /// Whether a value is this ASCII string or its bytes.
    pub(super) fn is(&self, id: Id, text: &str) -> bool {
        self.text(id) == Some(text.as_bytes())
    }

    /// A string in UTF-8, or bytes if they are ASCII.
    pub(super) fn text(&self, id: Id) -> Option<&'a [u8]> {
        match self.value(id) {
            Value::Bytes(text) => Some(text),
            Value::Call { .. } => self.encoded(id),
            _ => None,
        }
    }

    /// The content of bytes.
    pub(super) fn bytes(&self, id: Id) -> Option<Cow<'a, [u8]>> {
        if let Value::Bytes(bytes) = self.value(id) {
            return Some(Cow::Borrowed(bytes));
        }
        let characters = str::from_utf8(self.encoded(id)?).ok()?.chars();
        let bytes: Result<_, _> = characters.map(|c| u8::try_from(u32::from(c))).collect();
        bytes.ok().map(Cow::Owned)
    }

    /// The text of bytes in a protocol that has no type for bytes: Python 3 pickles them as a call that
    /// encodes a text as Latin-1.
    fn encoded(&self, id: Id) -> Option<&'a [u8]> {
        let Value::Call { function, arguments, .. } = self.value(id) else { return None };
        let (b"_codecs", b"encode") = self.global(*function)? else { return None };
        let [text, encoding] = self.tuple(*arguments)? else { return None };
        match (self.value(*text), self.value(*encoding)) {
            (Value::Bytes(text), Value::Bytes(b"latin1")) => Some(text),
            _ => None,
        }
    }

    /// The items of a list.
    pub(super) fn list(&self, id: Id) -> Option<&[Id]> {
        let Value::List(items) = self.value(id) else { return None };
        Some(items)
    }

    /// The items of a tuple.
    pub(super) fn tuple(&self, id: Id) -> Option<&[Id]> {
        let Value::Tuple(items) = self.value(id) else { return None };
        Some(items)
    }

    /// The module and the name of a global.
    pub(super) fn global(&self, id: Id) -> Option<(&'a [u8], &'a [u8])> {
        let Value::Global { module, name } = self.value(id) else { return None };
        Some((module, name))
    }
}

struct Machine<'a> {
    rest: &'a [u8],
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// The height of the stack at each open mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

const ENDS: &str = "it ends too early";
const EMPTY: &str = "the stack is empty";

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Id, String> {
        for _ in 0..MAX_STEPS {
            match self.byte()? {
                b'.' => return self.pop(),
                opcode => {
                    if let Some(value) = self.make(opcode)? {
                        self.stack.push(self.values.len());
                        self.values.push(value);
                    }
                }
            }
        }
        Err("it is too long".into())
    }

    /// Executes an opcode. Returns the value that it makes, if it makes one.
    fn make(&mut self, opcode: u8) -> Result<Option<Value<'a>>, String> {
        Ok(Some(match opcode {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'K' => Value::Int(self.byte()?.into()),
            b'M' => Value::Int(u16::from_le_bytes(self.array()?).into()),
            b'J' => Value::Int(i32::from_le_bytes(self.array()?).into()),
            b'U' | b'C' | 0x8c => Value::Bytes(self.counted::<1>()?),
            b'T' | b'B' | b'X' => Value::Bytes(self.counted::<4>()?),
            0x8d | 0x8e | 0x96 => Value::Bytes(self.counted::<8>()?),
            b')' => Value::Tuple(Vec::new()),
            0x85 => Value::Tuple(vec![self.pop()?]),
            0x86..=0x87 => {
                let mut items = Vec::new();
                for _ in 0x85..=opcode {
                    items.insert(0, self.pop()?);
                }
                Value::Tuple(items)
            }
            b't' => Value::Tuple(self.pop_to_mark()?),
            b']' => Value::List(Vec::new()),
            b'}' => Value::Dict(Vec::new()),
            b'c' => Value::Global { module: self.line()?, name: self.line()? },
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.values[module], &self.values[name]) {
                    (Value::Bytes(module), Value::Bytes(name)) => Value::Global { module, name },
                    _ => return Err("a global has no name".into()),
                }
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                Value::Call { function, arguments, state: None }
            }
            other => return self.change(other).map(|()| None),
        }))
    }

    /// Executes an opcode that makes no value.
    fn change(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            0x80 => match self.byte()? {
                2..=5 => {}
                version => return Err(format!("its protocol is {version}, not 2 to 5")),
            },
            // The length of a frame, which is needed only for reading in pieces.
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'q' => {
                let key = self.byte()?.into();
                self.memo.insert(key, self.top()?);
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?);
                self.memo.insert(key, self.top()?);
            }
            0x94 => {
                let key = self.memo.len() as u32;
                self.memo.insert(key, self.top()?);
            }
            b'h' => {
                let key = self.byte()?.into();
                self.recall(key)?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?);
                self.recall(key)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend_list(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.extend_list(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend_dict(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.extend_dict(&items)?;
            }
            b'b' => {
                let new = self.pop()?;
                let object = self.top()?;
                let Value::Call { state, .. } = &mut self.values[object] else {
                    return Err("it sets the state of something that is not an object".into());
                };
                *state = Some(new);
            }
            other => return Err(format!("an unexpected opcode, {other:#04x}")),
        }
        Ok(())
    }

    fn extend_list(&mut self, new: Vec<Id>) -> Result<(), String> {
        let top = self.top()?;
        let Value::List(items) = &mut self.values[top] else {
            return Err("it appends to something that is not a list".into());
        };
        items.extend(new);
        Ok(())
    }

    fn extend_dict(&mut self, new: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        let Value::Dict(items) = &mut self.values[top] else {
            return Err("it adds to something that is not a dictionary".into());
        };
        items.extend(new.as_chunks().0.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), String> {
        let id = self.memo.get(&key).ok_or("it refers to a value that does not exist")?;
        self.stack.push(*id);
        Ok(())
    }

    /// The last value on the stack; values below the last mark are not accessible.
    fn top(&self) -> Result<Id, String> {
        let above = &self.stack[self.marks.last().copied().unwrap_or(0)..];
        above.last().copied().ok_or_else(|| EMPTY.into())
    }

    fn pop(&mut self) -> Result<Id, String> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or(EMPTY)?;
        Ok(self.stack.split_off(mark))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(ENDS)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(ENDS)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.array().map(|[byte]| byte)
    }

    /// Bytes that follow their count, which has `N` bytes.
    fn counted<const N: usize>(&mut self) -> Result<&'a [u8], String> {
        let mut count = [0; 8];
        count[..N].copy_from_slice(&self.array::<N>()?);
        let count = usize::try_from(u64::from_le_bytes(count)).map_err(|_| ENDS)?;
        self.take(count)
    }

    fn line(&mut self) -> Result<&'a [u8], String> {
        let end = self.rest.iter().position(|byte| *byte == b'\n').ok_or(ENDS)?;
        let line = self.take(end)?;
        self.take(1)?;
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(bytes: &[u8]) -> String {
        Pickle::read(bytes).err().expect("an invalid pickle")
    }

    #[test]
    fn values_are_read() {
        // {b'a': [1, -2, 300], 'b': (True, None), 'c': os.system('x')}
        let bytes = b"\x80\x02}(U\x01a]q\x00(K\x01J\xfe\xff\xff\xffM\x2c\x01eX\x01\x00\x00\x00b\
            \x88N\x86U\x01ccos\nsystem\nU\x01x\x85Ru.";
        let pickle = Pickle::read(bytes).unwrap();
        let items = pickle.list(pickle.get("a").unwrap()).unwrap();
        let numbers = items.iter().map(|item| match pickle.value(*item) {
            Value::Int(number) => *number,
            _ => panic!("no number"),
        });
        assert_eq!(numbers.collect::<Vec<_>>(), [1, -2, 300]);
        let [yes, none] = pickle.tuple(pickle.get("b").unwrap()).unwrap() else {
            panic!("no pair");
        };
        assert!(matches!(pickle.value(*yes), Value::Bool(true)));
        assert!(matches!(pickle.value(*none), Value::None));
        let Value::Call { function, .. } = pickle.value(pickle.get("c").unwrap()) else {
            panic!("no call");
        };
        assert_eq!(pickle.global(*function), Some((&b"os"[..], &b"system"[..])));
        assert_eq!(pickle.get("d"), None);
    }

    #[test]
    fn text_that_is_encoded_is_bytes() {
        let bytes =
            b"\x80\x02}U\x01dc_codecs\nencode\nX\x04\x00\x00\x00\xc3\xbf\x00aU\x06latin1\x86Rs.";
        let pickle = Pickle::read(bytes).unwrap();
        assert_eq!(*pickle.bytes(pickle.get("d").unwrap()).unwrap(), [0xff, 0, b'a']);
    }

    #[test]
    fn invalid_pickles_are_refused() {
        for (bytes, expected) in [
            (&b""[..], "byte 0: it ends too early"),
            (b"\x80\x02", "byte 2: it ends too early"),
            (b"\x80\x01.", "protocol is 1"),
            (b"\x80\x02.", "the stack is empty"),
            (b"\x80\x02N(a.", "the stack is empty"),
            (b"\x80\x02t.", "the stack is empty"),
            (b"\x80\x02Na.", "the stack is empty"),
            (b"\x80\x02NNa.", "not a list"),
            (b"\x80\x02NNNs.", "not a dictionary"),
            (b"\x80\x02NNb.", "not an object"),
            (b"\x80\x02h\x07.", "a value that does not exist"),
            (b"\x80\x02NN\x93.", "no name"),
            (b"\x80\x02T\xff\xff\xff\xffabc", "ends too early"),
            (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xffabc", "ends too early"),
            (b"\x80\x02cos\nsystem", "ends too early"),
            (b"<html>", "unexpected opcode, 0x3c"),
        ] {
            let problem = problem(bytes);
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn deep_and_shared_values_are_read_in_linear_time() {
        let mut deep = b"\x80\x02N".to_vec();
        deep.resize(1_000_000, 0x85);
        deep.push(b'.');
        assert!(Pickle::read(&deep).is_ok());

        let mut wide = b"\x80\x02N".to_vec();
        for _ in 0..10_000 {
            wide.extend(b"q\x00h\x00\x86");
        }
        wide.push(b'.');
        assert!(Pickle::read(&wide).is_ok());

        // A list in itself.
        assert!(Pickle::read(b"\x80\x02]q\x00h\x00a.").is_ok());
    }

    #[test]
    fn the_number_of_steps_is_limited() {
        assert!(problem(&vec![b'('; MAX_STEPS + 1]).contains("too long"));
    }
}
