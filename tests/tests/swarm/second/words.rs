//! The words of `docs/WIRE.md` in bytes: numbers, packets of the membership, and messages, written and read.

use std::net::{IpAddr, SocketAddr};

use ring::signature::{ED25519, UnparsedPublicKey};
use shoal_net::Key;
use shoal_tests::image::Blob;

/// As people see it.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// ---- Frames and encoding ----

/// An unsigned number of any width.
pub fn number(value: u64) -> Vec<u8> {
    match value {
        0..=250 => vec![value as u8],
        251..=0xffff => [&[0xfb][..], &(value as u16).to_le_bytes()[..]].concat(),
        0x1_0000..=0xffff_ffff => [&[0xfc][..], &(value as u32).to_le_bytes()[..]].concat(),
        _ => [&[0xfd][..], &value.to_le_bytes()[..]].concat(),
    }
}

fn text(text: &str) -> Vec<u8> {
    [&number(text.len() as u64)[..], text.as_bytes()].concat()
}

fn hash(blob: &Blob) -> [u8; 32] {
    let digits = blob.digest.strip_prefix("sha256:").expect("a digest of SHA-256");
    std::array::from_fn(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).expect("hex digits"))
}

/// As it is written.
pub fn digest(blob: &Blob) -> Vec<u8> {
    [&[0][..], &hash(blob)[..]].concat()
}

/// A blob with its size.
pub fn sized(blob: &Blob) -> Vec<u8> {
    [digest(blob), number(blob.len())].concat()
}

/// What has not been read yet. Whoever reads what is not there panics.
pub struct Rest<'b>(pub &'b [u8]);

impl<'b> Rest<'b> {
    fn take(&mut self, count: usize) -> &'b [u8] {
        let (taken, rest) = self.0.split_at_checked(count).expect("nothing ends in the middle");
        self.0 = rest;
        taken
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).try_into().expect("so many bytes")
    }

    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub fn number(&mut self) -> u64 {
        match self.byte() {
            0xfb => u16::from_le_bytes(self.array()).into(),
            0xfc => u32::from_le_bytes(self.array()).into(),
            0xfd => u64::from_le_bytes(self.array()),
            small => {
                assert!(small <= 250, "no number begins with {small:#x}");
                small.into()
            }
        }
    }

    pub fn bytes(&mut self) -> &'b [u8] {
        let count = self.number() as usize;
        self.take(count)
    }

    fn text(&mut self) -> String {
        String::from_utf8(self.bytes().to_vec()).expect("text")
    }

    pub fn list<T>(&mut self, mut element: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let mut list = Vec::new();
        for _ in 0..self.number() {
            list.push(element(self));
        }
        list
    }

    pub fn end(self) {
        assert!(self.0.is_empty(), "{} bytes are behind the end", self.0.len());
    }
}

// ---- Membership ----

/// What weights and views are made with.
pub fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The first eight bytes of a key or hash.
pub fn prefix(bytes: &[u8; 32]) -> u64 {
    Rest(bytes).long()
}

/// A member in one life.
pub type Name = (Key, u64);

/// What is told of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    pub addresses: Vec<SocketAddr>,
    pub data_port: u16,
    pub zone: String,
    pub labels: Vec<(String, String)>,
    pub version: String,
}

/// Kinds of packets.
pub const PING: u8 = 1;
pub const ACK: u8 = 2;
pub const ANNOUNCE: u8 = 7;
pub const FEED: u8 = 8;
pub const GOSSIP: u8 = 9;
pub const YOU_ARE_GONE: u8 = 10;
/// States of members.
pub const SUSPECTED: u8 = 1;
pub const GONE: u8 = 2;

/// What a packet says of a member.
pub struct Update {
    pub incarnation: u16,
    pub state: u8,
    pub name: Name,
}

/// A packet.
pub struct Packet {
    pub view: u64,
    pub kind: u8,
    pub probe: u8,
    pub sender: Name,
    pub details: Details,
    pub receiver: Name,
    pub updates: Vec<Update>,
}

/// Numbers of packets are big endian.
impl Rest<'_> {
    fn short(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    fn long(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    fn name(&mut self) -> Name {
        (self.array(), self.long())
    }

    fn details(&mut self) -> Details {
        let length = usize::from(self.short());
        Details::read(self.take(length))
    }

    fn update(&mut self) -> Update {
        let update = Update { incarnation: self.short(), state: self.byte(), name: self.name() };
        self.details();
        update
    }

    pub fn packet(mut self) -> Packet {
        assert_eq!(self.byte(), 1, "the version of packets");
        let (view, kind, probe) = (self.long(), self.byte(), self.byte());
        // The sender's incarnation says nothing as long as nobody is suspected here.
        self.short();
        let (sender, details, receiver) = (self.name(), self.details(), self.name());
        if (3..=6).contains(&kind) {
            self.name();
        }
        let mut updates = Vec::new();
        if !self.0.is_empty() {
            for _ in 0..self.short() {
                updates.push(self.update());
            }
        }
        self.end();
        Packet { view, kind, probe, sender, details, receiver, updates }
    }
}

impl Details {
    pub fn written(&self) -> Vec<u8> {
        let mut bytes = number(self.addresses.len() as u64);
        for address in &self.addresses {
            match address.ip() {
                IpAddr::V4(ip) => bytes.extend([&[0][..], &ip.octets()[..]].concat()),
                IpAddr::V6(ip) => bytes.extend([&[1][..], &ip.octets()[..]].concat()),
            }
            bytes.extend(number(address.port().into()));
        }
        bytes.extend(number(self.data_port.into()));
        bytes.extend(text(&self.zone));
        bytes.extend(number(self.labels.len() as u64));
        for (key, value) in &self.labels {
            bytes.extend([text(key), text(value)].concat());
        }
        bytes.extend(text(&self.version));
        bytes
    }

    pub fn read(bytes: &[u8]) -> Self {
        let mut rest = Rest(bytes);
        let address = |rest: &mut Rest<'_>| {
            let ip = match rest.byte() {
                0 => IpAddr::from(rest.array::<4>()),
                1 => IpAddr::from(rest.array::<16>()),
                kind => panic!("there is no address of kind {kind}"),
            };
            SocketAddr::new(ip, rest.number() as u16)
        };
        let details = Details {
            addresses: rest.list(address),
            data_port: rest.number() as u16,
            zone: rest.text(),
            labels: rest.list(|rest| (rest.text(), rest.text())),
            version: rest.text(),
        };
        rest.end();
        details
    }
}

// ---- Messages ----

/// Numbers of messages.
pub const SWIM: u8 = 0;
pub const JOIN: u8 = 1;
pub const WELCOME: u8 = 2;
pub const HASHES: u8 = 8;
pub const WHOLE: u8 = 16;
pub const HAVE: u8 = 20;
pub const INQUIRE: u8 = 28;
pub const KNOWN: u8 = 29;
pub const HAIL: u8 = 33;
pub const HERE: u8 = 34;

/// How heavy a member is as home of a blob.
pub fn weight(blob: &Blob, member: &Key) -> u64 {
    mix(prefix(&hash(blob)) ^ prefix(member))
}

/// Who feeds a receiver.
#[derive(Debug, PartialEq, Eq)]
pub struct Welcome {
    pub digest: Vec<u8>,
    pub classes: u8,
    pub list: u64,
    /// By class, who sends the pieces of which run.
    pub feeds: Vec<(u8, Vec<(Key, u64, u64)>)>,
}

/// Hashes of pieces, by the word of a home.
pub struct Hashes {
    pub digest: Vec<u8>,
    pub home: Key,
    pub list: u64,
    pub entries: Vec<(u32, [u8; 32])>,
    pub signature: [u8; 64],
}

impl Rest<'_> {
    pub fn welcome(mut self) -> Welcome {
        let feed = |rest: &mut Rest<'_>| (rest.array::<32>(), rest.number(), rest.number());
        let welcome = Welcome {
            digest: self.array::<33>().to_vec(),
            classes: self.byte(),
            list: self.number(),
            feeds: self.list(|rest| (rest.byte(), rest.list(feed))),
        };
        self.end();
        welcome
    }

    pub fn hashes(mut self) -> Hashes {
        let hashes = Hashes {
            digest: self.array::<33>().to_vec(),
            home: self.array(),
            list: self.number(),
            entries: self.list(|rest| (rest.number() as u32, rest.array::<32>())),
            signature: self.array(),
        };
        self.end();
        hashes
    }
}

impl Hashes {
    /// Whether the home has signed them.
    pub fn is_signed(&self) -> bool {
        let mut signed = b"shoal signed message 1\0shoal piece hashes 1\0".to_vec();
        signed.extend(&self.digest);
        signed.extend(self.list.to_le_bytes());
        signed.extend((self.entries.len() as u32).to_le_bytes());
        for (piece, hash) in &self.entries {
            signed.extend(piece.to_le_bytes());
            signed.extend(hash);
        }
        UnparsedPublicKey::new(&ED25519, &self.home).verify(&signed, &self.signature).is_ok()
    }
}
