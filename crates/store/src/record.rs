//! What stands in the index, byte for byte.
//!
//! A record is one byte of version and then the fields in bincode's standard encoding. Invariant: bytes that this
//! program wrote decode to what was encoded, and anything else is an error, never a guess; the golden bytes in the
//! tests pin the encoding.

use std::time::{Duration, SystemTime};

use bincode::{Decode, Encode};
use shoal_engine::{Algorithm, Digest, Scope, Tag};

use crate::blob::{TagRecord, Visibility};

/// Version that stands before every record, and before records that have grown: as they were.
const RECORD_VERSION: u8 = 1;
/// Version of partials and tags that say how they were obtained. Those without it are written as they always were.
const RECORD_VERSION_OBTAINED: u8 = 2;
/// Version of blobs that are pinned for a while. All others are written as they always were.
const RECORD_VERSION_PINNED: u8 = 2;
/// Version of tags that say which mirror has told them. Those told by the registry itself are written as before.
const RECORD_VERSION_TOLD: u8 = 3;
/// Largest record, bytes: the piece map of the largest blob (32 KiB) and room to spare.
const RECORD_BYTES_MAX: usize = 64 * 1024;
/// Longest media type that is kept, bytes: two names of 127 and the slash (RFC 6838, section 4.2).
pub(crate) const MEDIA_TYPE_BYTES_MAX: usize = 255;

/// Why bytes are not a record. The index is at fault and has to be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The key is not one of ours.
    #[error("{0} bytes are not a key")]
    Key(usize),
    /// The version byte is missing or another's.
    #[error("version {0:?}, expected {RECORD_VERSION}")]
    Version(Option<u8>),
    /// The fields do not decode.
    #[error(transparent)]
    Fields(#[from] bincode::error::DecodeError),
    /// There is no such visibility.
    #[error("visibility {0}")]
    Visibility(u8),
    /// A registry or repository has a name that none can have.
    #[error("a name that is none")]
    Name,
    /// There are bytes after the last field.
    #[error("{0} bytes too many")]
    Trailing(usize),
}

/// Family `blobs`: a whole blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlobRecord {
    pub size: u64,
    pub media_type: Option<String>,
    /// The content is in family `inline`, not in a file.
    pub inline: bool,
    pub pinned: bool,
    /// Milliseconds since 1970, like all times here.
    pub stored_at: u64,
    pub used_at: u64,
    pub hits: u64,
    /// It is pinned until then; 0 if not. A sweep takes the pin away.
    pub pinned_until: u64,
}

impl BlobRecord {
    /// Whether eviction and expiry leave it alone.
    pub fn is_pinned(&self) -> bool {
        self.pinned || self.pinned_until > 0
    }
}

/// [`BlobRecord`] as it stands in the index; the end of its pin follows where there is one.
#[derive(Encode, Decode)]
struct StoredBlob {
    size: u64,
    media_type: Option<String>,
    inline: bool,
    pinned: bool,
    stored_at: u64,
    used_at: u64,
    hits: u64,
}

/// Family `partials`: what of a partial blob is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartialRecord {
    pub size: u64,
    pub piece_len: u64,
    /// One bit for each piece, lowest bit first.
    pub map: Vec<u8>,
    /// Set before the file is renamed into `blobs/`, so that a crash right after it leaves a trace.
    pub committing: Option<Committing>,
    /// Where its bytes come from; `None` in records of before this was kept.
    pub origin: Option<Origin>,
}

/// The repository that the bytes of a partial blob were obtained through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub scope: Scope,
    pub visibility: Visibility,
}

/// [`PartialRecord`] as it stands in the index.
#[derive(Encode, Decode)]
struct StoredPartial {
    size: u64,
    piece_len: u64,
    map: Vec<u8>,
    committing: Option<Committing>,
}

/// What follows it in the second version.
#[derive(Encode, Decode)]
struct StoredOrigin {
    registry: String,
    repository: String,
    visibility: u8,
}

/// What the blob's record will say.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Committing {
    pub media_type: Option<String>,
    pub at: u64,
}

/// Family `tags`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct StoredTag {
    digest: Vec<u8>,
    media_type: String,
    size: u64,
    checked_at: u64,
    expires_at: u64,
}

const fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<RECORD_BYTES_MAX>()
}

pub(crate) fn encode_blob(record: &BlobRecord) -> Vec<u8> {
    let stored = StoredBlob {
        size: record.size,
        media_type: record.media_type.clone(),
        inline: record.inline,
        pinned: record.pinned,
        stored_at: record.stored_at,
        used_at: record.used_at,
        hits: record.hits,
    };
    match record.pinned_until {
        0 => encode(&stored),
        until => encode_as(RECORD_VERSION_PINNED, &(stored, until)),
    }
}

pub(crate) fn decode_blob(bytes: &[u8]) -> Result<BlobRecord, RecordError> {
    let (stored, pinned_until): (StoredBlob, u64) = match bytes {
        [RECORD_VERSION_PINNED, fields @ ..] => decode_fields(fields)?,
        _ => (decode(bytes)?, 0),
    };
    let StoredBlob { size, media_type, inline, pinned, stored_at, used_at, hits } = stored;
    Ok(BlobRecord { size, media_type, inline, pinned, stored_at, used_at, hits, pinned_until })
}

fn encode<T: Encode>(fields: &T) -> Vec<u8> {
    encode_as(RECORD_VERSION, fields)
}

fn encode_as<T: Encode>(version: u8, fields: &T) -> Vec<u8> {
    let mut bytes = vec![version];
    // Every field is bounded before it gets here, and a vector takes all that is written.
    bincode::encode_into_std_write(fields, &mut bytes, config()).expect("a bounded record encodes");
    bytes
}

fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, RecordError> {
    let [RECORD_VERSION, fields @ ..] = bytes else {
        return Err(RecordError::Version(bytes.first().copied()));
    };
    decode_fields(fields)
}

fn decode_fields<T: Decode<()>>(fields: &[u8]) -> Result<T, RecordError> {
    let (record, used) = bincode::decode_from_slice(fields, config())?;
    if used != fields.len() {
        return Err(RecordError::Trailing(fields.len() - used));
    }
    Ok(record)
}

pub(crate) fn encode_partial(record: &PartialRecord) -> Vec<u8> {
    let stored = StoredPartial {
        size: record.size,
        piece_len: record.piece_len,
        map: record.map.clone(),
        committing: record.committing.clone(),
    };
    match &record.origin {
        None => encode(&stored),
        Some(Origin { scope, visibility }) => {
            let origin = StoredOrigin {
                registry: scope.registry.to_string(),
                repository: scope.repository.to_string(),
                visibility: visibility_code(*visibility),
            };
            encode_as(RECORD_VERSION_OBTAINED, &(stored, origin))
        }
    }
}

pub(crate) fn decode_partial(bytes: &[u8]) -> Result<PartialRecord, RecordError> {
    let (stored, origin) = match bytes {
        [RECORD_VERSION_OBTAINED, fields @ ..] => {
            let (stored, origin): (StoredPartial, StoredOrigin) = decode_fields(fields)?;
            let name = |_| RecordError::Name;
            let scope = Scope {
                registry: origin.registry.parse().map_err(name)?,
                repository: origin.repository.parse().map_err(name)?,
            };
            (stored, Some(Origin { scope, visibility: visibility(origin.visibility)? }))
        }
        _ => (decode(bytes)?, None),
    };
    let StoredPartial { size, piece_len, map, committing } = stored;
    Ok(PartialRecord { size, piece_len, map, committing, origin })
}

/// Value of a link.
pub(crate) fn encode_link(visibility: Visibility) -> [u8; 1] {
    [visibility_code(visibility)]
}

/// A link of before visibility was kept has no value, and says no more than that the repository had it.
pub(crate) fn decode_link(value: &[u8]) -> Result<Visibility, RecordError> {
    match value {
        [] => Ok(Visibility::Private),
        [code] => visibility(*code),
        _ => Err(RecordError::Trailing(value.len() - 1)),
    }
}

const fn visibility_code(visibility: Visibility) -> u8 {
    match visibility {
        Visibility::Private => 0,
        Visibility::Public => 1,
        Visibility::Mirrored => 2,
    }
}

fn visibility(code: u8) -> Result<Visibility, RecordError> {
    match code {
        0 => Ok(Visibility::Private),
        1 => Ok(Visibility::Public),
        2 => Ok(Visibility::Mirrored),
        _ => Err(RecordError::Visibility(code)),
    }
}

pub(crate) fn encode_tag(record: &TagRecord) -> Vec<u8> {
    let stored = StoredTag {
        digest: digest_key(&record.digest),
        media_type: record.media_type.clone(),
        size: record.size,
        checked_at: to_millis(record.checked_at),
        expires_at: to_millis(record.expires_at),
    };
    if let Some(mirror) = &record.mirror {
        let told = (stored, visibility_code(record.visibility), mirror.as_str().to_owned());
        return encode_as(RECORD_VERSION_TOLD, &told);
    }
    match record.visibility {
        Visibility::Private => encode(&stored),
        obtained @ (Visibility::Mirrored | Visibility::Public) => {
            encode_as(RECORD_VERSION_OBTAINED, &(stored, visibility_code(obtained)))
        }
    }
}

pub(crate) fn decode_tag(bytes: &[u8]) -> Result<TagRecord, RecordError> {
    let (stored, code, mirror): (StoredTag, u8, Option<String>) = match bytes {
        [RECORD_VERSION_TOLD, fields @ ..] => {
            let (stored, code, mirror) = decode_fields(fields)?;
            (stored, code, Some(mirror))
        }
        [RECORD_VERSION_OBTAINED, fields @ ..] => {
            let (stored, code) = decode_fields(fields)?;
            (stored, code, None)
        }
        _ => (decode(bytes)?, visibility_code(Visibility::Private), None),
    };
    Ok(TagRecord {
        digest: digest_of_key(&stored.digest)?,
        media_type: stored.media_type,
        size: stored.size,
        checked_at: from_millis(stored.checked_at),
        expires_at: from_millis(stored.expires_at),
        visibility: visibility(code)?,
        mirror: mirror.map(|name| name.parse()).transpose().map_err(|_| RecordError::Key(bytes.len()))?,
    })
}

/// Key of everything that belongs to a digest: one byte for the algorithm, then the hash. No key is the beginning of
/// another one, so it is also the prefix of the digest's links.
pub(crate) fn digest_key(digest: &Digest) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + digest.hash().len());
    key.push(match digest.algorithm() {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
    });
    key.extend_from_slice(digest.hash());
    key
}

pub(crate) fn digest_of_key(key: &[u8]) -> Result<Digest, RecordError> {
    match split_digest(key)? {
        (digest, []) => Ok(digest),
        _ => Err(RecordError::Key(key.len())),
    }
}

fn split_digest(key: &[u8]) -> Result<(Digest, &[u8]), RecordError> {
    let wrong = || RecordError::Key(key.len());
    let (first, rest) = key.split_first().ok_or_else(wrong)?;
    let algorithm = match first {
        1 => Algorithm::Sha256,
        2 => Algorithm::Sha512,
        _ => return Err(wrong()),
    };
    let (hash, rest) = rest.split_at_checked(algorithm.hash_len()).ok_or_else(wrong)?;
    Ok((Digest::new(algorithm, hash), rest))
}

/// Key of a tag. Neither names of registries nor of repositories contain a zero byte.
pub(crate) fn tag_key(scope: &Scope, tag: &Tag) -> Vec<u8> {
    [scope.registry.as_str(), scope.repository.as_str(), tag.as_str()].join("\0").into_bytes()
}

/// Key of a link: the digest comes first, because links leave together with their blob.
pub(crate) fn link_key(digest: &Digest, scope: &Scope) -> Vec<u8> {
    let mut key = digest_key(digest);
    key.extend_from_slice(scope.registry.as_str().as_bytes());
    key.push(0);
    key.extend_from_slice(scope.repository.as_str().as_bytes());
    key
}

pub(crate) fn link_of_key(key: &[u8]) -> Result<(Digest, Scope), RecordError> {
    let wrong = || RecordError::Key(key.len());
    let (digest, rest) = split_digest(key)?;
    let (registry, repository) =
        std::str::from_utf8(rest).ok().and_then(|text| text.split_once('\0')).ok_or_else(wrong)?;
    let registry = registry.parse().map_err(|_| wrong())?;
    let repository = repository.parse().map_err(|_| wrong())?;
    Ok((digest, Scope { registry, repository }))
}

/// A media type that can be kept; one that is too long is none.
pub(crate) fn kept_media_type(media_type: Option<&str>) -> Option<String> {
    media_type.filter(|text| text.len() <= MEDIA_TYPE_BYTES_MAX).map(str::to_owned)
}

pub(crate) fn to_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn from_millis(millis: u64) -> SystemTime {
    // A time that this platform cannot express can only come from a broken record; then any old one will do.
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn digest() -> Digest {
        format!("sha256:{}", "a5".repeat(32)).parse().unwrap()
    }

    fn scope() -> Scope {
        Scope { registry: "r.test:5000".parse().unwrap(), repository: "a/b".parse().unwrap() }
    }

    fn blob() -> BlobRecord {
        BlobRecord {
            size: 70_000,
            media_type: Some("a/b".into()),
            inline: true,
            pinned: false,
            stored_at: 1_700_000_000_000,
            used_at: 1_700_000_000_001,
            hits: 3,
            pinned_until: 0,
        }
    }

    fn partial() -> PartialRecord {
        PartialRecord {
            size: 1 << 20,
            piece_len: 1 << 18,
            map: vec![0b0101],
            committing: Some(Committing { media_type: None, at: 5 }),
            origin: None,
        }
    }

    fn obtained(visibility: Visibility) -> PartialRecord {
        PartialRecord { origin: Some(Origin { scope: scope(), visibility }), ..partial() }
    }

    fn tag() -> TagRecord {
        TagRecord {
            digest: digest(),
            media_type: "m/t".into(),
            size: 250,
            checked_at: from_millis(1),
            expires_at: from_millis(2),
            visibility: Visibility::Private,
            mirror: None,
        }
    }

    /// If one of these has to change, so has `RECORD_VERSION` or `FORMAT`.
    #[test]
    fn golden_bytes() {
        let key = format!("01{}", "a5".repeat(32));
        let table = [
            (
                encode_blob(&BlobRecord { pinned_until: 7, ..blob() }),
                "02fc701101000103612f620100fd0068e5cf8b010000fd0168e5cf8b0100000307".to_owned(),
            ),
            (
                encode_blob(&blob()),
                "01fc701101000103612f620100fd0068e5cf8b010000fd0168e5cf8b01000003".to_owned(),
            ),
            (encode_partial(&partial()), "01fc00001000fc000004000105010005".into()),
            (
                encode_partial(&obtained(Visibility::Public)),
                "02fc00001000fc0000040001050100050b722e746573743a3530303003612f6201".into(),
            ),
            (encode_tag(&tag()), format!("0121{key}036d2f74fa0102")),
            (
                encode_tag(&TagRecord { visibility: Visibility::Public, ..tag() }),
                format!("0221{key}036d2f74fa010201"),
            ),
            (
                encode_tag(&TagRecord {
                    visibility: Visibility::Mirrored,
                    mirror: Some("m.test".parse().unwrap()),
                    ..tag()
                }),
                format!("0321{key}036d2f74fa010202066d2e74657374"),
            ),
            (encode_link(Visibility::Private).to_vec(), "00".into()),
            (encode_link(Visibility::Public).to_vec(), "01".into()),
            (encode_link(Visibility::Mirrored).to_vec(), "02".into()),
            (digest_key(&digest()), key.clone()),
            (link_key(&digest(), &scope()), format!("{key}722e746573743a3530303000612f62")),
            (tag_key(&scope(), &"v1".parse().unwrap()), "722e746573743a3530303000612f62007631".into()),
        ];
        for (bytes, golden) in table {
            assert_eq!(hex(&bytes), golden);
        }
    }

    #[test]
    fn what_was_written_is_read() {
        for record in [blob(), BlobRecord { pinned_until: 300, ..blob() }] {
            assert_eq!(decode_blob(&encode_blob(&record)).unwrap(), record);
        }
        for record in [partial(), obtained(Visibility::Private), obtained(Visibility::Mirrored)] {
            assert_eq!(decode_partial(&encode_partial(&record)).unwrap(), record);
        }
        for visibility in [Visibility::Private, Visibility::Mirrored, Visibility::Public] {
            for mirror in [None, Some("m.test".parse().unwrap())] {
                let record = TagRecord { visibility, mirror, ..tag() };
                assert_eq!(decode_tag(&encode_tag(&record)).unwrap(), record);
            }
            assert_eq!(decode_link(&encode_link(visibility)).unwrap(), visibility);
        }
        // As it was written before links had a value.
        assert_eq!(decode_link(b"").unwrap(), Visibility::Private);
        assert_eq!(link_of_key(&link_key(&digest(), &scope())).unwrap(), (digest(), scope()));
        let sha512: Digest = format!("sha512:{}", "0f".repeat(64)).parse().unwrap();
        assert_eq!(digest_of_key(&digest_key(&sha512)).unwrap(), sha512);
    }

    #[test]
    fn what_was_not_written_is_an_error() {
        assert!(matches!(decode_blob(&[]), Err(RecordError::Version(None))));
        assert!(matches!(decode_blob(&[9, 0]), Err(RecordError::Version(Some(9)))));
        let mut long = encode_blob(&blob());
        long.push(0);
        assert!(matches!(decode_blob(&long), Err(RecordError::Trailing(1))));
        for key in [&[][..], &[3; 33], &[1; 32], &[1; 34]] {
            assert!(matches!(digest_of_key(key), Err(RecordError::Key(_))), "{key:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_blob(&bytes);
            let _ = decode_partial(&bytes);
            let _ = decode_link(&bytes);
            let _ = decode_tag(&bytes);
            let _ = link_of_key(&bytes);
        }

        #[test]
        fn a_record_that_lost_its_end_is_an_error(cut in 1usize..30) {
            let bytes = encode_blob(&blob());
            prop_assert!(decode_blob(&bytes[..bytes.len() - cut.min(bytes.len())]).is_err());
            let bytes = encode_partial(&obtained(Visibility::Public));
            prop_assert!(decode_partial(&bytes[..bytes.len() - cut.min(bytes.len())]).is_err());
        }
    }
}
