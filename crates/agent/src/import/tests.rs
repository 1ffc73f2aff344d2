use std::path::{Path, PathBuf};

use proptest::prelude::*;
use shoal_engine::Scope;
use shoal_engine::mirrors::Asking;

use super::*;
use crate::config::Config;

/// Cargo runs tests in their package's folder. Its path at compile time may be another checkout's, where several share
/// a target folder.
fn fixture(name: &str) -> PathBuf {
    std::env::current_dir().unwrap().join("src/import/tests").join(name)
}

fn own() -> Vec<SocketAddr> {
    vec!["127.0.0.1:5000".parse().unwrap()]
}

/// The outcome, without the folder that a fixture lies in.
fn imported(import: Import, folder: &Path) -> (Imported, String) {
    let imported = import.finish(&own()).unwrap_or_else(|error| panic!("{error}"));
    let folder = format!("{}/", folder.display().to_string().trim_end_matches('/'));
    let notes: Vec<String> = imported.notes.iter().map(ToString::to_string).collect();
    let shown = format!("{}\n--- notes\n{}\n", imported.text, notes.join("\n")).replace(&folder, "");
    assert!(!shown.contains("hunter2") && !shown.contains("aHVudGVyMg"), "a secret is shown: {shown}");
    (imported, shown)
}

/// The outcome as a configuration: it is right, and it is read as it was meant.
fn config(imported: &Imported) -> Config {
    Config::parse(&imported.text, None).unwrap_or_else(|error| panic!("{error}\n{}", imported.text))
}

fn asked(config: &Config, image: &str, asking: Asking) -> Vec<String> {
    let (registry, repository) = image.split_once('/').unwrap();
    let scope = Scope { registry: registry.parse().unwrap(), repository: repository.parse().unwrap() };
    let plan = config.mirror_settings().mirrors.candidates(&scope, asking);
    plan.candidates.iter().map(|candidate| candidate.scope.to_string()).collect()
}

#[test]
fn registries_conf_with_drop_ins() {
    let mut import = Import::default();
    import.registries_conf(&fixture("registries.conf"));
    let (imported, shown) = imported(import, &fixture(""));
    insta::assert_snapshot!(shown);
    let config = config(&imported);
    let table: &[(&str, Asking, &[&str])] = &[
        (
            "docker.io/library/redis",
            Asking::Tag,
            &[
                "mirror.example.com/hub/library/redis",
                "lab.example.com:5000/library/redis",
                "docker.io/library/redis",
            ],
        ),
        ("quay.io/a/b", Asking::Tag, &["quay.io/a/b"]),
        ("quay.io/a/b", Asking::Digest, &["mirror.example.com/quay/a/b", "quay.io/a/b"]),
        (
            "registry.k8s.io/pause",
            Asking::Digest,
            &["digests.example.com/k8s/pause", "mirror.example.com/k8s/pause", "registry.k8s.io/pause"],
        ),
        (
            "registry.k8s.io/pause",
            Asking::Tag,
            &["mirror.example.com/k8s/pause", "tags.example.com/k8s/pause", "registry.k8s.io/pause"],
        ),
        ("registry.redhat.io/ubi9", Asking::Tag, &["mirror.example.com/redhat/ubi9"]),
        ("images.example.com/base/go", Asking::Digest, &["storage.example.com:8443/base-images/go"]),
        ("images.example.com/other", Asking::Digest, &["images.example.com/other"]),
        ("gcr.io/a", Asking::Digest, &["new.example.com/gcr/a", "gcr.io/a"]),
    ];
    for (image, asking, expected) in table {
        assert_eq!(asked(&config, image, *asking), *expected, "{image} {asking:?}");
    }
}

/// A copy of the fixture with certificates in it: private keys do not belong into a repository.
fn certs_d() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["test".to_owned()]).unwrap();
    for name in ["docker.io", "quay.io", "registry.example.com_5000_", "_default", "ghcr.io"] {
        let (from, to) = (fixture("certs.d").join(name), folder.path().join(name));
        std::fs::create_dir(&to).unwrap();
        std::fs::copy(from.join("hosts.toml"), to.join("hosts.toml")).unwrap();
    }
    for name in ["internal.example.com", "registry.example.com:5000", "no registry"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("stray"), "").unwrap();
    let pem = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    pem("registry.example.com_5000_/ca.pem", &certificate);
    pem("registry.example.com_5000_/client.pem", &certificate);
    pem("registry.example.com_5000_/client-key.pem", &key);
    pem("internal.example.com/ca.crt", &certificate);
    pem("internal.example.com/client.cert", &certificate);
    pem("internal.example.com/client.key", &key);
    folder
}

#[test]
fn hosts_dir() {
    let folder = certs_d();
    let mut import = Import::default();
    import.hosts_dir(folder.path());
    let (imported, shown) = imported(import, folder.path());
    insta::assert_snapshot!(shown);
    let config = config(&imported);
    let table: &[(&str, Asking, &[&str])] = &[
        (
            "docker.io/library/redis",
            Asking::Digest,
            &[
                "z-first.example.com/library/redis",
                "harbor.example.com/hub-proxy/library/redis",
                "a-last.example.com:8080/library/redis",
                "docker.io/library/redis",
            ],
        ),
        (
            "docker.io/library/redis",
            Asking::Tag,
            &[
                "z-first.example.com/library/redis",
                "a-last.example.com:8080/library/redis",
                "docker.io/library/redis",
            ],
        ),
        ("quay.io/a/b", Asking::Tag, &["harbor.example.com/quay-proxy/a/b"]),
        ("ghcr.io/a/b", Asking::Tag, &["ghcr.io/a/b"]),
        ("registry.example.com:5000/a", Asking::Tag, &["registry.example.com:5000/a"]),
        (
            "registry.example.com:5000/a",
            Asking::Digest,
            &["z-first.example.com/a", "registry.example.com:5000/a"],
        ),
    ];
    for (image, asking, expected) in table {
        assert_eq!(asked(&config, image, *asking), *expected, "{image} {asking:?}");
    }
    let registries = config.upstream_settings().registries;
    let of = |name: &str| &registries[&name.parse::<Registry>().unwrap()];
    assert!(of("internal.example.com").ca.is_some() && of("internal.example.com").client_identity.is_some());
    assert!(of("registry.example.com:5000").client_identity.is_some());
    let cache = of("a-last.example.com:8080").endpoint.as_ref().unwrap();
    assert_eq!(cache.as_str(), "http://a-last.example.com:8080/cache");
}

#[test]
fn kubernetes_objects() {
    let mut import = Import::default();
    import.kubernetes(&fixture("openshift.yaml"));
    let (imported, shown) = imported(import, &fixture(""));
    insta::assert_snapshot!(shown);
    let config = config(&imported);
    let release = "quay.io/openshift-release-dev/ocp-release";
    assert_eq!(
        asked(&config, release, Asking::Digest),
        ["mirror.example.com:8443/ocp/release", "backup.example.com/ocp/release"]
    );
    assert!(asked(&config, release, Asking::Tag).is_empty());
    // M6: the old object and the new one, composed.
    assert_eq!(
        asked(&config, "registry.redhat.io/ubi9", Asking::Digest),
        ["older.example.com/redhat/ubi9", "mirror.example.com:8443/redhat/ubi9", "registry.redhat.io/ubi9"]
    );
    assert_eq!(
        asked(&config, "registry.redhat.io/ubi9", Asking::Tag),
        ["mirror.example.com:8443/redhat/ubi9", "registry.redhat.io/ubi9"]
    );
}

/// One operator's files of every kind: what is whole in one and a part in another is written as parts.
#[test]
fn files_together() {
    let mut import = Import::default();
    let containers =
        "[[registry]]\nlocation = 'docker.io'\n[[registry.mirror]]\nlocation = 'a.example.com'\n";
    import.registries_conf_text(Path::new("registries.conf"), containers);
    let hosts = "[host.'https://b.example.com']\n";
    import.hosts_toml_text(Path::new("/certs.d/docker.io/hosts.toml"), &"docker.io".parse().unwrap(), hosts);
    let object = "kind: ImageDigestMirrorSet\nmetadata: {name: docker.io}\nspec:\n  imageDigestMirrors:\n  - source: docker.io\n    mirrors: [c.example.com, a.example.com]\n";
    import.kubernetes_text(Path::new("sets.yaml"), object);
    let imported = import.finish(&own()).unwrap();
    let config = config(&imported);
    assert_eq!(
        asked(&config, "docker.io/x", Asking::Digest),
        ["b.example.com/x", "c.example.com/x", "a.example.com/x", "docker.io/x"]
    );
    assert_eq!(
        asked(&config, "docker.io/x", Asking::Tag),
        ["a.example.com/x", "b.example.com/x", "docker.io/x"]
    );
}

#[test]
fn files_that_contradict_each_other() {
    let mut import = Import::default();
    let containers = "[[registry]]\nlocation = 'docker.io'\nblocked = true\n[[registry.mirror]]\nlocation = 'a.example.com'\n";
    import.registries_conf_text(Path::new("registries.conf"), containers);
    let object = "kind: ImageTagMirrorSet\nmetadata: {name: tags}\nspec:\n  imageTagMirrors:\n  - source: docker.io\n    mirrors: [b.example.com]\n";
    import.kubernetes_text(Path::new("sets.yaml"), object);
    insta::assert_snapshot!(import.finish(&own()).unwrap_err(), @r#"
    1 problem, nothing was imported
      sets.yaml:5:13: sets docker.io digests and tags both mirror docker.io, and only docker.io digests says never_contact_source; say the same in both (and registries.conf:2:12)
    "#);
}

#[test]
fn problems_have_their_file_and_place() {
    let mut import = Import::default();
    let conf =
        |import: &mut Import, name: &str, text: &str| import.registries_conf_text(Path::new(name), text);
    conf(&mut import, "syntax.conf", "[[registry]\n");
    conf(&mut import, "v1.conf", "[registries.search]\nregistries = ['docker.io']\n");
    conf(&mut import, "types.conf", "[[registry]]\nlocation = 'docker.io'\nblocked = 'yes'\n");
    conf(
        &mut import,
        "names.conf",
        "[[registry]]\nlocation = 'docker.io/Upper'\n[[registry]]\nblocked = true\n",
    );
    conf(&mut import, "twice.conf", "[[registry]]\nlocation = 'a.test'\n[[registry]]\nprefix = 'a.test'\n");
    conf(
        &mut import,
        "both.conf",
        "[[registry]]\nlocation = 'a.test'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'b.test'\npull-from-mirror = 'all'\n",
    );
    let registry: Registry = "docker.io".parse().unwrap();
    let hosts =
        |import: &mut Import, text: &str| import.hosts_toml_text(Path::new("hosts.toml"), &registry, text);
    hosts(&mut import, "server = 5\n");
    hosts(&mut import, "[host]\n'https://m.test' = 'yes'\n");
    hosts(&mut import, "[host.'https://m.test']\nclient = [['a.pem']]\n");
    let yaml = |import: &mut Import, text: &str| import.kubernetes_text(Path::new("sets.yaml"), text);
    yaml(&mut import, "kind: [ImageDigestMirrorSet\n");
    let set = |entry: &str| {
        format!(
            "kind: ImageDigestMirrorSet\nmetadata: {{name: x}}\nspec:\n  imageDigestMirrors:\n  - {entry}\n"
        )
    };
    yaml(&mut import, &set("source: 'https://quay.io'"));
    yaml(&mut import, &set("{source: quay.io, mirrors: [m.test/Upper]}"));
    yaml(&mut import, &set("{source: quay.io, mirrors: [m.test], mirrorSourcePolicy: Sometimes}"));
    yaml(&mut import, &set("mirrors: [m.test]"));
    import.registries_conf(Path::new("/no/such/registries.conf"));
    import.hosts_dir(Path::new("/no/such/certs.d"));
    insta::assert_snapshot!(import.finish(&own()).unwrap_err(), @r#"
    16 problems, nothing was imported
      syntax.conf:1:12: not TOML: unclosed array table, expected `]`
      v1.conf:1:2: is of version 1 of the format, which has no mirrors; write [[registry]] tables
      types.conf:3:11: blocked is of the type string; expected true or false
      names.conf:2:12: is no source of images: "Upper" is not a repository name: lower-case letters, digits and single separators (. _ __ -), components between slashes
      names.conf:4:1: the table has neither prefix nor location
      both.conf:6:20: cannot stand beside mirror-by-digest-only; the runtime refuses the file, too
      hosts.toml:1:10: server is of the type integer; expected a text
      hosts.toml:2:20: https://m.test is of the type string; expected a table
      hosts.toml:2:10: client must be a file, a list of files, or a list of pairs of files
      sets.yaml:1:7: cannot be read as Kubernetes objects: expected string scalar at line 1, column 7
      sets.yaml:5:13: source of x: "/quay.io" is not a repository name: lower-case letters, digits and single separators (. _ __ -), components between slashes
      sets.yaml:5:33: mirror of x: "Upper" is not a repository name: lower-case letters, digits and single separators (. _ __ -), components between slashes
      sets.yaml:5:62: mirrorSourcePolicy of x: must be NeverContactSource or AllowContactingSource
      sets.yaml:5:5: cannot be read as Kubernetes objects: missing field `source` at line 5, column 5
      /no/such/registries.conf: cannot be read: No such file or directory (os error 2)
      /no/such/certs.d: cannot be read: No such file or directory (os error 2)
    "#);
}

#[test]
fn the_agent_itself() {
    let own: Vec<SocketAddr> = vec!["127.0.0.1:5000".parse().unwrap(), "10.0.0.1:5001".parse().unwrap()];
    for (location, is_own) in [
        ("127.0.0.1:5000", true),
        ("127.0.0.2:5000", true),
        ("localhost:5000", true),
        ("[::1]:5000", true),
        ("127.0.0.1:5001", false),
        ("10.0.0.1:5001", true),
        ("10.0.0.2:5001", false),
        ("localhost", false),
        ("m.test:5000", false),
    ] {
        let mut import = Import::default();
        let text = format!(
            "[[registry]]\nlocation = 'docker.io'\n[[registry.mirror]]\nlocation = '{location}/docker.io'\n"
        );
        import.registries_conf_text(Path::new("registries.conf"), &text);
        let imported = import.finish(&own).unwrap();
        assert_eq!(imported.sets == 0, is_own, "{location}");
        assert_eq!(imported.notes.iter().any(|note| note.text.contains("--own")), is_own, "{location}");
    }
}

/// Many aliases of aliases: refused, not unfolded.
#[test]
fn yaml_that_grows_is_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let list = vec![format!("*a{}", n - 1); 10].join(", ");
        text.push_str(&format!("a{n}: &a{n} [{list}]\n"));
    }
    let mut import = Import::default();
    import.kubernetes_text(Path::new("bomb.yaml"), &text);
    assert!(import.finish(&own()).is_err());
}

proptest! {
    /// Whatever the files say, there is an outcome that is a right configuration, or there are reasons.
    #[test]
    fn damaged_files_end_in_reasons(at in 0_usize..1200, with in "\\PC{0,3}|\\[|=|\"|\n") {
        for name in ["registries.conf", "certs.d/docker.io/hosts.toml", "openshift.yaml"] {
            let mut text = std::fs::read_to_string(fixture(name)).unwrap();
            if text.is_char_boundary(at) && text.is_char_boundary(at + 1) && at + 1 < text.len() {
                text.replace_range(at..=at, &with);
            }
            let (mut import, path) = (Import::default(), Path::new("file"));
            match name {
                "registries.conf" => import.registries_conf_text(path, &text),
                "openshift.yaml" => import.kubernetes_text(path, &text),
                _ => import.hosts_toml_text(path, &"docker.io".parse().unwrap(), &text),
            }
            match import.finish(&own()) {
                Ok(imported) => drop(config(&imported)),
                Err(ImportError(problems)) => prop_assert!(!problems.is_empty()),
            }
        }
    }
}
