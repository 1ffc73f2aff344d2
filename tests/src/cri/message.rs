//! Messages of Protocol Buffers, written and read by the numbers of their fields.

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;

/// A field's bytes follow their length; the other kind in use is a number of variable length, 0.
const LENGTH_DELIMITED: u64 = 2;

/// One message.
#[derive(Clone, Debug, Default)]
pub struct Message(Vec<u8>);

/// What a field has.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl Message {
    /// With a text.
    #[must_use]
    pub fn string(self, field: u64, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    /// With a message inside.
    #[must_use]
    pub fn message(self, field: u64, inner: &Message) -> Self {
        self.bytes(field, &inner.0)
    }

    /// With a number.
    #[must_use]
    pub fn number(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.varint(field << 3 | LENGTH_DELIMITED);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// How it is sent.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The text of a field; one that is absent is empty.
    pub fn text(&self, field: u64) -> Result<String> {
        match self.find(field)? {
            Some(Field::Bytes(bytes)) => Ok(String::from_utf8(bytes.to_vec())?),
            Some(Field::Number(number)) => bail!("field {field} is the number {number}"),
            None => Ok(String::new()),
        }
    }

    /// The number of a field; one that is absent is 0.
    pub fn value(&self, field: u64) -> Result<u64> {
        match self.find(field)? {
            Some(Field::Number(number)) => Ok(number),
            Some(Field::Bytes(_)) => bail!("field {field} is no number"),
            None => Ok(0),
        }
    }

    /// The message of a field, which has to be there.
    pub fn inner(&self, field: u64) -> Result<Message> {
        match self.find(field)? {
            Some(Field::Bytes(bytes)) => Ok(Message(bytes.to_vec())),
            _ => bail!("field {field} is no message"),
        }
    }

    fn find(&self, field: u64) -> Result<Option<Field<'_>>> {
        let mut rest = &self.0[..];
        while !rest.is_empty() {
            let key = varint(&mut rest)?;
            let found = match key & 7 {
                0 => Field::Number(varint(&mut rest)?),
                LENGTH_DELIMITED => {
                    let length = usize::try_from(varint(&mut rest)?)?;
                    let (bytes, after) = rest.split_at_checked(length).context("a field is cut short")?;
                    rest = after;
                    Field::Bytes(bytes)
                }
                kind => bail!("a field of kind {kind} is not known here"),
            };
            if key >> 3 == field {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

impl From<Bytes> for Message {
    fn from(bytes: Bytes) -> Self {
        Message(bytes.to_vec())
    }
}

fn varint(rest: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().context("a number is cut short")?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    bail!("a number has more than 64 bits")
}
