use super::*;

fn digest(n: u8) -> String {
    format!("sha256:{}", format!("{n:02x}").repeat(32))
}

fn entry(n: u8, more: &str) -> String {
    format!(
        r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":{n}{more}}}"#,
        digest(n)
    )
}

fn image_of(layers: &[String]) -> String {
    format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#, entry(1, ""), layers.join(","))
}

#[test]
fn an_image() {
    for media_type in
        [OCI_MANIFEST, DOCKER_MANIFEST, "application/vnd.oci.image.manifest.v1+json; charset=utf-8"]
    {
        let urls = r#","urls":["https://elsewhere.test/x"]"#;
        let parsed = parse(media_type, image_of(&[entry(2, ""), entry(3, urls)]).as_bytes()).unwrap();
        assert_eq!(parsed.kind, Kind::Image);
        assert_eq!(parsed.config.as_ref().unwrap().digest.to_string(), digest(1));
        let layers: Vec<_> = parsed.layers.iter().map(|layer| (layer.size, layer.is_foreign)).collect();
        assert_eq!(layers, [(2, false), (3, true)]);
        assert_eq!(parsed.descriptors().count(), 3);
    }
}

#[test]
fn an_index() {
    let platform = r#","platform":{"os":"linux","architecture":"arm","variant":"v7"}"#;
    let windows = r#","platform":{"os":"windows","architecture":"amd64","os.version":"10.0.1"}"#;
    let entries = [entry(2, platform), entry(3, windows), entry(4, "")].join(",");
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#);
    for media_type in [OCI_INDEX, DOCKER_LIST] {
        let parsed = parse(media_type, index.as_bytes()).unwrap();
        let platforms: Vec<_> =
            parsed.children.iter().map(|(_, platform)| platform.as_ref().map(Platform::to_string)).collect();
        assert_eq!(platforms, [Some("linux/arm/v7".into()), Some("windows/amd64".into()), None]);
        assert_eq!((parsed.kind, parsed.config, parsed.layers.len()), (Kind::Index, None, 0));
    }
}

#[test]
fn layers_that_are_not_distributed() {
    for media_type in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ] {
        let layer = format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":1}}"#, digest(2));
        let parsed = parse(OCI_MANIFEST, image_of(&[layer]).as_bytes()).unwrap();
        assert!(parsed.layers[0].is_foreign, "{media_type}");
        assert_eq!(parsed.layers[0].media_type, media_type);
    }
}

#[test]
fn other_types_are_not_read() {
    for media_type in
        ["", "text/plain", "application/json", "application/vnd.docker.distribution.manifest.v1+prettyjws"]
    {
        assert_eq!(parse(media_type, b"not even JSON").unwrap(), Parsed::OTHER, "{media_type}");
    }
}

#[test]
fn a_digest_that_cannot_be_checked_is_left_out() {
    let layer = |digest: &str| format!(r#"{{"mediaType":"x/y","digest":"{digest}","size":1}}"#);
    let blake = layer(&format!("blake3:{}", "0".repeat(64)));
    let sha512 = layer(&format!("sha512:{}", "0".repeat(128)));
    let parsed = parse(OCI_MANIFEST, image_of(&[blake, sha512]).as_bytes()).unwrap();
    assert_eq!(parsed.layers.len(), 1);
}

#[test]
fn what_is_no_manifest_is_an_error() {
    let two_in_one = image_of(&[]).replace("\"layers\":[]", "\"layers\":[],\"manifests\":[]");
    let claimed = image_of(&[]).replace("{\"schema", &format!("{{\"mediaType\":\"{OCI_INDEX}\",\"schema"));
    let index_with_layers = r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
    for (media_type, text) in [
        (OCI_MANIFEST, two_in_one.as_str()),
        (OCI_MANIFEST, claimed.as_str()),
        (OCI_INDEX, index_with_layers),
    ] {
        let error = parse(media_type, text.as_bytes()).unwrap_err();
        assert!(matches!(error, ManifestError::Ambiguous { .. }), "{text}: {error:?}");
    }
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep = format!(r#"{{"schemaVersion":2,"annotations":{nested}}}"#);
    let negative = image_of(&[entry(2, "").replace("\"size\":2", "\"size\":-2")]);
    let huge = image_of(&[entry(2, "").replace("\"size\":2", "\"size\":18446744073709551616")]);
    let twice = image_of(&[]).replace("\"layers\":[]", "\"layers\":[],\"layers\":[]");
    for text in
        ["", "{}", "null", "[]", "\u{0}", "{\"schemaVersion\":2}", &nested, &deep, &negative, &huge, &twice]
    {
        for media_type in [OCI_MANIFEST, OCI_INDEX] {
            let error = parse(media_type, text.as_bytes()).unwrap_err();
            let shown: String = text.chars().take(60).collect();
            assert!(
                matches!(error, ManifestError::Form { .. } | ManifestError::Ambiguous { .. }),
                "{shown}: {error:?}"
            );
        }
    }
}

#[test]
fn bounds() {
    let long = vec![b' '; MANIFEST_BYTES_MAX + 1];
    assert!(matches!(parse(OCI_MANIFEST, &long), Err(ManifestError::TooLong(_))));
    let layers = vec![entry(2, ""); DESCRIPTORS_MAX];
    assert_eq!(parse(OCI_MANIFEST, image_of(&layers).as_bytes()).unwrap().layers.len(), DESCRIPTORS_MAX);
    let layers = vec![entry(2, ""); DESCRIPTORS_MAX + 1];
    let error = parse(OCI_MANIFEST, image_of(&layers).as_bytes()).unwrap_err();
    assert!(matches!(error, ManifestError::TooManyEntries(n) if n == DESCRIPTORS_MAX + 1));
}

proptest::proptest! {
    #[test]
    fn no_document_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = parse(OCI_MANIFEST, &bytes);
        let _ = parse(DOCKER_LIST, &bytes);
    }

    #[test]
    fn a_document_with_something_changed_is_read_or_refused(at in 0usize..400, byte in proptest::num::u8::ANY) {
        let mut bytes = image_of(&[entry(2, ""), entry(3, "")]).into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(parsed) = parse(OCI_MANIFEST, &bytes) {
            proptest::prop_assert!(parsed.layers.len() <= 2);
        }
    }
}

#[test]
fn a_manifest_tells_its_type() {
    let table = [
        (r#"{"schemaVersion":2,"mediaType":"a/b","layers":[]}"#, Some("a/b")),
        (r#"{"schemaVersion":2,"layers":[]}"#, Some(OCI_MANIFEST)),
        (r#"{"schemaVersion":2,"manifests":[]}"#, Some(OCI_INDEX)),
        (r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#, None),
        (r#"{"schemaVersion":1,"layers":[]}"#, None),
        ("a layer", None),
    ];
    for (text, media_type) in table {
        assert_eq!(media_type_of(text.as_bytes()).as_deref(), media_type, "{text}");
    }
}
