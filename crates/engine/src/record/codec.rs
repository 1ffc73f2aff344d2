//! The form of what has rules of its own: it is checked when it is read, so that a broken recording is an error and not
//! an engine in a state that cannot be.

use std::sync::Arc;

use bincode::de::{BorrowDecoder, Decoder};
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Decode, Encode};

use crate::name::{Registry, Repository};
use crate::peer::{Member, Roster};
use crate::ranges::ByteRanges;

/// The same text, through the parser.
macro_rules! as_text {
    ($name:ident, $wrong:literal) => {
        impl Encode for $name {
            fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
                self.as_str().encode(encoder)
            }
        }

        impl<C> Decode<C> for $name {
            fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
                String::decode(decoder)?.parse().map_err(|_| DecodeError::Other($wrong))
            }
        }

        impl<'de, C> BorrowDecode<'de, C> for $name {
            fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(
                decoder: &mut D,
            ) -> Result<Self, DecodeError> {
                Self::decode(decoder)
            }
        }
    };
}

as_text!(Registry, "not a registry");
as_text!(Repository, "not a repository");

impl Encode for ByteRanges {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.iter().map(|r| (r.start, r.end)).collect::<Vec<_>>().encode(encoder)
    }
}

impl<C> Decode<C> for ByteRanges {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Ok(Vec::<(u64, u64)>::decode(decoder)?.into_iter().map(|(start, end)| start..end).collect())
    }
}

impl<'de, C> BorrowDecode<'de, C> for ByteRanges {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Self::decode(decoder)
    }
}

impl Encode for Roster {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.iter().map(|m| &**m).collect::<Vec<&Member>>().encode(encoder)
    }
}

impl<C> Decode<C> for Roster {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Ok(Roster::new(Vec::<Member>::decode(decoder)?.into_iter().map(Arc::new)))
    }
}

impl<'de, C> BorrowDecode<'de, C> for Roster {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Self::decode(decoder)
    }
}
