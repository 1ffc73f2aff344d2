use std::time::{Duration, SystemTime};

use shoal_engine::{Algorithm, Scope, Tag};
use shoal_store::{Options, TagRecord, Visibility};

use super::*;

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

struct Stock {
    store: Store,
    _folder: tempfile::TempDir,
}

impl Stock {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Options { disk_free_min: 0, ..Options::new(folder.path().join("store")) })
            .unwrap()
            .store;
        Stock { store, _folder: folder }
    }

    fn put(&self, bytes: &[u8], media_type: &str) -> Digest {
        let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
        let digest = Digest::new(Algorithm::Sha256, hash.as_ref());
        let bytes = bytes::Bytes::copy_from_slice(bytes);
        self.store.put(&digest, Some(media_type), &bytes, SystemTime::now()).unwrap();
        digest
    }

    fn layer(&self, text: &str) -> Digest {
        self.put(text.as_bytes(), "application/octet-stream")
    }

    fn image(&self, config: &Digest, layers: &[Digest]) -> Digest {
        let entry = |digest: &Digest| {
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":7}}"#
            )
        };
        let layers: Vec<_> = layers.iter().map(entry).collect();
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{IMAGE}","config":{},"layers":[{}]}}"#,
            entry(config),
            layers.join(",")
        );
        self.put(text.as_bytes(), IMAGE)
    }

    fn index(&self, children: &[Digest]) -> Digest {
        let entry = |digest: &Digest| format!(r#"{{"mediaType":"{IMAGE}","digest":"{digest}","size":7}}"#);
        let children: Vec<_> = children.iter().map(entry).collect();
        let text =
            format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#, children.join(","));
        self.put(text.as_bytes(), INDEX)
    }

    fn tag(&self, tag: &str, digest: Digest) {
        let record = TagRecord {
            digest,
            media_type: IMAGE.into(),
            size: 7,
            checked_at: SystemTime::now(),
            expires_at: SystemTime::now() + Duration::from_secs(60),
            visibility: Visibility::Public,
            mirror: None,
        };
        self.store.put_tag(&scope(), &tag.parse::<Tag>().unwrap(), &record).unwrap();
    }

    fn has(&self, digest: &Digest) -> bool {
        self.store.peek(digest).unwrap().is_some()
    }

    fn carry_out(&self, deed: Deed, name: &str) -> StockReport {
        let request = StockRequest {
            deed,
            names: vec![name.to_owned()],
            also: Vec::new(),
            until: None,
            cluster: false,
        };
        carry_out(&self.store, &request.parsed().unwrap(), &request).unwrap().remove(0)
    }

    fn is_pinned(&self, digest: &Digest) -> bool {
        self.store.peek(digest).unwrap().unwrap().pinned
    }
}

fn scope() -> Scope {
    Scope { registry: "registry.test".parse().unwrap(), repository: "team/app".parse().unwrap() }
}

#[test]
fn an_evicted_image_takes_its_own_blobs_and_its_tag() {
    let stock = Stock::new();
    let (base, mine, config, other) =
        (stock.layer("base"), stock.layer("mine"), stock.layer("config"), stock.layer("config 2"));
    let (v1, v2) = (stock.image(&config, &[base, mine]), stock.image(&other, &[base]));
    stock.tag("v1", v1);
    stock.tag("v2", v2);
    let report = stock.carry_out(Deed::Evict, "registry.test/team/app:v1");
    assert_eq!((report.blobs, report.shared, report.missing), (3, 1, 0));
    assert_eq!(report.digest, Some(v1));
    for (digest, stays) in
        [(v1, false), (mine, false), (config, false), (base, true), (v2, true), (other, true)]
    {
        assert_eq!(stock.has(&digest), stays, "{digest}");
    }
    assert_eq!(stock.store.tag(&scope(), &"v1".parse().unwrap()).unwrap(), None);
    assert!(stock.store.tag(&scope(), &"v2".parse().unwrap()).unwrap().is_some());
    let again = stock.carry_out(Deed::Evict, "registry.test/team/app:v1");
    assert_eq!((again.digest, again.blobs), (None, 0));
}

#[test]
fn an_index_stands_for_the_platforms_that_are_here() {
    let stock = Stock::new();
    let (layer, config) = (stock.layer("layer"), stock.layer("config"));
    let here = stock.image(&config, &[layer]);
    let elsewhere = Digest::new(Algorithm::Sha256, &[7; 32]);
    let index = stock.index(&[elsewhere, here]);
    let report = stock.carry_out(Deed::Pin, &format!("registry.test/team/app@{index}"));
    assert_eq!((report.blobs, report.missing), (4, 0));
    assert!([layer, config, here, index].iter().all(|digest| stock.is_pinned(digest)));
    // The manifest of one platform alone: the index has it too, but it was named.
    let report = stock.carry_out(Deed::Evict, &here.to_string());
    assert_eq!((report.blobs, report.shared), (3, 0));
    assert!(stock.has(&index) && !stock.has(&layer));
    let report = stock.carry_out(Deed::Pin, &index.to_string());
    assert_eq!((report.blobs, report.missing), (1, 1), "no platform is here any more");
}

#[test]
fn pins_are_put_and_taken_and_what_is_missing_is_counted() {
    let stock = Stock::new();
    let (config, absent) = (stock.layer("config"), Digest::new(Algorithm::Sha256, &[9; 32]));
    let image = stock.image(&config, &[absent]);
    stock.tag("v1", image);
    let name = "registry.test/team/app:v1";
    let report = stock.carry_out(Deed::Pin, name);
    assert_eq!((report.blobs, report.missing), (2, 1));
    assert!(stock.is_pinned(&config) && stock.is_pinned(&image));
    assert_eq!(stock.carry_out(Deed::Unpin, name).blobs, 2);
    assert!(!stock.is_pinned(&config));
}

#[test]
fn a_blob_by_itself_is_one_blob() {
    let stock = Stock::new();
    let layer = stock.layer("layer");
    let image = stock.image(&stock.layer("config"), &[layer]);
    assert_eq!(stock.carry_out(Deed::Evict, &layer.to_string()).blobs, 1);
    assert!(stock.has(&image) && !stock.has(&layer));
    assert_eq!(stock.carry_out(Deed::Evict, &layer.to_string()).missing, 1);
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let request = |names: &[&str]| StockRequest {
        deed: Deed::Evict,
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        also: Vec::new(),
        until: None,
        cluster: false,
    };
    assert_eq!(request(&[]).parsed(), Err(StockError::Empty));
    assert_eq!(request(&["a"; NAMES_MAX + 1]).parsed(), Err(StockError::TooMany(NAMES_MAX + 1)));
    assert!(matches!(request(&["redis:7", "UPPER"]).parsed(), Err(StockError::Name(_))));
}
