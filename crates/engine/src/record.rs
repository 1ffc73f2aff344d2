//! Recordings: what happened to one engine, written down so that another one can go through it again.
//!
//! Because the engine depends on nothing but its [`Settings`] and its inputs (invariant I1), a recording of these is the
//! whole run. The driver of a real agent writes one with a [`Recorder`], and a [`Recording`] is read in the simulator or
//! in a test: the same inputs give the same outputs, which a [`Fingerprint`] over them shows.
//!
//! ```text
//! recording = "shoalrec", version u8, frame *
//! frame     = length u32 (little endian), body
//! body      = Begin: settings | Input: time since the frame before, input | Roster: time, who went, who came or changed
//!           | Full                                          (bincode 2, standard configuration)
//! ```
//!
//! A list of members is written as its difference to the list before: a thousand members that start within seconds make
//! hundreds of lists. A recording with several beginnings is one of an agent that was restarted. Bounds: a frame has at
//! most [`RECORD_FRAME_BYTES_MAX`], and a recorder stops at [`RECORDING_BYTES_MAX`], which the last frame says.
//!
//! A recording names blobs, repositories and members. It holds no bytes of blobs and no credentials.

mod codec;

use std::sync::Arc;
use std::time::Duration;

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::enc::write::Writer;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};

use crate::engine::Settings;
use crate::io::{Input, Output};
use crate::limits::{RECORD_FRAME_BYTES_MAX, RECORDING_BYTES_MAX};
use crate::peer::{Member, PeerId, Roster};
use crate::time::Time;

/// First bytes of a recording.
pub const MAGIC: [u8; 8] = *b"shoalrec";

/// Version of the recordings. Another one is not read: the inputs of another engine say nothing about this one.
pub const RECORD_VERSION: u8 = 2;

const HEAD_BYTES: usize = MAGIC.len() + 1;
const LENGTH_BYTES: usize = 4;

type Config = Configuration<LittleEndian, Varint, Limit<RECORD_FRAME_BYTES_MAX>>;

const CONFIG: Config = bincode::config::standard().with_limit::<RECORD_FRAME_BYTES_MAX>();

/// What a frame holds.
#[derive(Debug, Encode, Decode)]
enum Body {
    Begin(Settings),
    Input { after_nanos: u64, input: Input },
    Roster { after_nanos: u64, went: Vec<PeerId>, came: Vec<Member> },
    Full,
}

/// What a recording tells.
#[derive(Clone, Debug)]
pub enum Recorded {
    /// An engine was made, at the first time of its inputs or before.
    Begun(Settings),
    /// It was handed an input.
    Input(Time, Input),
    /// The recorder had to stop here; the agent went on.
    Full,
}

/// Why the bytes are not a recording, or not a whole one. The file is at fault.
#[derive(Debug, thiserror::Error)]
#[error("frame {frame}, at byte {at}: {what}")]
pub struct RecordError {
    /// Frames before this one.
    pub frame: u64,
    /// Its offset in bytes.
    pub at: usize,
    /// What is wrong with it.
    pub what: RecordFault,
}

/// What is wrong with a recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordFault {
    /// The first bytes are others.
    #[error("this is not a recording of an engine")]
    Foreign,
    /// It was made by other software.
    #[error("the recording has version {0}; this program reads {RECORD_VERSION}")]
    Version(u8),
    /// It ends in the middle of a frame.
    #[error("the recording ends in the middle: {missing} bytes are missing")]
    Truncated {
        /// Bytes that the frame is short of.
        missing: usize,
    },
    /// A frame is longer than any can be.
    #[error("a frame of {0} bytes; at most {RECORD_FRAME_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// A frame cannot be read.
    #[error("the bytes make no frame ({0})")]
    Malformed(Box<DecodeError>),
    /// Bytes follow what a frame holds.
    #[error("{0} bytes follow what the frame holds")]
    Trailing(usize),
    /// An input comes before any settings.
    #[error("an input before the engine's settings")]
    NoSettings,
}

/// Writes down what one engine is handed.
#[derive(Debug)]
pub struct Recorder {
    last: Time,
    roster: Arc<Roster>,
    bytes: u64,
    is_full: bool,
}

impl Recorder {
    /// A new recording, and its first bytes.
    pub fn begin(settings: Settings) -> (Self, Vec<u8>) {
        let mut recorder = Recorder { last: Time::ZERO, roster: Arc::default(), bytes: 0, is_full: false };
        let mut bytes = [MAGIC.as_slice(), &[RECORD_VERSION]].concat();
        bytes.append(&mut recorder.restart(settings));
        recorder.bytes = bytes.len() as u64;
        (recorder, bytes)
    }

    /// A new engine takes the place of the one before, on the same clock. Answers the bytes to append.
    pub fn restart(&mut self, settings: Settings) -> Vec<u8> {
        self.roster = Arc::default();
        self.append(&Body::Begin(settings))
    }

    /// The engine is handed an input. Answers the bytes to append: none once the recording is full.
    pub fn input(&mut self, now: Time, input: &Input) -> Vec<u8> {
        let after_nanos = u64::try_from((now - self.last).as_nanos()).unwrap_or(u64::MAX);
        let body = match input {
            Input::Roster(roster) => {
                let (went, came) = difference(&self.roster, roster);
                self.roster = Arc::clone(roster);
                Body::Roster { after_nanos, went, came }
            }
            input => Body::Input { after_nanos, input: input.clone() },
        };
        // A clock that goes backwards is recorded as one that stands still.
        self.last = self.last.max(now);
        self.append(&body)
    }

    /// Whether nothing is recorded any more.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    fn append(&mut self, body: &Body) -> Vec<u8> {
        if self.is_full {
            return Vec::new();
        }
        let bytes = frame(body).filter(|b| self.bytes + b.len() as u64 <= RECORDING_BYTES_MAX);
        let bytes = bytes.unwrap_or_else(|| {
            self.is_full = true;
            frame(&Body::Full).expect("an empty frame is short")
        });
        self.bytes += bytes.len() as u64;
        bytes
    }
}

/// `None` if it is too long.
fn frame(body: &Body) -> Option<Vec<u8>> {
    let mut bytes = vec![0; LENGTH_BYTES];
    let len = bincode::encode_into_std_write(body, &mut bytes, CONFIG).ok()?;
    if len > RECORD_FRAME_BYTES_MAX {
        return None;
    }
    bytes[..LENGTH_BYTES].copy_from_slice(&(len as u32).to_le_bytes());
    Some(bytes)
}

/// Who is on the first list only, and who is on the second only or has changed.
fn difference(before: &Roster, after: &Roster) -> (Vec<PeerId>, Vec<Member>) {
    let went = before.iter().map(|m| m.peer).filter(|peer| !after.contains(peer)).collect();
    let came = after.iter().filter(|m| before.get(&m.peer) != Some(m)).map(|m| Member::clone(m)).collect();
    (went, came)
}

/// A recording that is being read: an iterator that ends after the first error.
#[derive(Debug)]
pub struct Recording<'a> {
    bytes: &'a [u8],
    at: usize,
    frames: u64,
    now: Time,
    roster: Arc<Roster>,
    has_begun: bool,
    is_broken: bool,
}

impl<'a> Recording<'a> {
    /// Looks at the head of a recording.
    pub fn open(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let wrong = |what| RecordError { frame: 0, at: 0, what };
        if !bytes.starts_with(&MAGIC) {
            return Err(wrong(RecordFault::Foreign));
        }
        match bytes.get(MAGIC.len()) {
            None => return Err(wrong(RecordFault::Truncated { missing: 1 })),
            Some(&RECORD_VERSION) => {}
            Some(other) => return Err(wrong(RecordFault::Version(*other))),
        }
        Ok(Recording {
            bytes,
            at: HEAD_BYTES,
            frames: 0,
            now: Time::ZERO,
            roster: Arc::default(),
            has_begun: false,
            is_broken: false,
        })
    }

    /// Share of the bytes that have been read, 0 to 1.
    pub fn share_read(&self) -> f64 {
        self.at as f64 / self.bytes.len() as f64
    }

    fn read(&mut self) -> Result<Recorded, RecordFault> {
        let rest = &self.bytes[self.at..];
        let truncated = |needed: usize| RecordFault::Truncated { missing: needed - rest.len() };
        let (length, rest_of_it) =
            rest.split_first_chunk::<LENGTH_BYTES>().ok_or_else(|| truncated(LENGTH_BYTES))?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > RECORD_FRAME_BYTES_MAX {
            return Err(RecordFault::TooLong(length));
        }
        let body = rest_of_it.get(..length).ok_or_else(|| truncated(LENGTH_BYTES + length))?;
        let (body, read) = bincode::decode_from_slice::<Body, _>(body, CONFIG)
            .map_err(|error| RecordFault::Malformed(Box::new(error)))?;
        if read < length {
            return Err(RecordFault::Trailing(length - read));
        }
        self.at += LENGTH_BYTES + length;
        self.frames += 1;
        self.take(body)
    }

    fn take(&mut self, body: Body) -> Result<Recorded, RecordFault> {
        if !self.has_begun && !matches!(body, Body::Begin(_)) {
            return Err(RecordFault::NoSettings);
        }
        Ok(match body {
            Body::Begin(settings) => {
                self.has_begun = true;
                self.roster = Arc::default();
                Recorded::Begun(settings)
            }
            Body::Input { after_nanos, input } => Recorded::Input(self.later(after_nanos), input),
            Body::Roster { after_nanos, went, came } => {
                let stayed = self.roster.iter().filter(|m| !went.contains(&m.peer)).cloned();
                self.roster = Arc::new(Roster::new(stayed.chain(came.into_iter().map(Arc::new))));
                Recorded::Input(self.later(after_nanos), Input::Roster(Arc::clone(&self.roster)))
            }
            Body::Full => Recorded::Full,
        })
    }

    fn later(&mut self, nanos: u64) -> Time {
        self.now = self.now + Duration::from_nanos(nanos);
        self.now
    }
}

impl Iterator for Recording<'_> {
    type Item = Result<Recorded, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_broken || self.at == self.bytes.len() {
            return None;
        }
        let (frame, at) = (self.frames, self.at);
        let read = self.read().map_err(|what| RecordError { frame, at, what });
        self.is_broken = read.is_err();
        Some(read)
    }
}

/// Hash over the outputs of an engine, in order: FNV-1a of 64 bits over their encoded form and their times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Fingerprint(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    /// One more output.
    pub fn add(&mut self, now: Time, output: &Output) {
        self.add_bytes(&now.since_origin().as_nanos().to_le_bytes());
        bincode::encode_into_writer(output, &mut *self, bincode::config::standard())
            .expect("an output always has a form");
    }

    fn add_bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

impl Writer for Fingerprint {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.add_bytes(bytes);
        Ok(())
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests;
