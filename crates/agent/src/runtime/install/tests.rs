//! Whole trees: what is written, and that it can be taken away without a trace, whatever was there before.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use proptest::prelude::*;

use super::*;
use crate::runtime::tests::{MIRROR, tree};
use crate::runtime::{DEFAULT_RECORD, EVERY_REGISTRY, Own, survey};

/// By path: mode, and the bytes of a file.
type Snapshot = BTreeMap<PathBuf, (u32, Option<Vec<u8>>)>;

/// Everything below a folder.
fn snapshot(folder: &Path) -> Snapshot {
    let mut all = BTreeMap::new();
    let mut ahead = vec![folder.to_owned()];
    while let Some(path) = ahead.pop() {
        let known = fs::symlink_metadata(&path).unwrap();
        if known.is_dir() {
            ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let bytes = known.is_file().then(|| fs::read(&path).unwrap());
        all.insert(path, (known.mode(), bytes));
    }
    all
}

/// The same of a folder that may be none.
fn snapshot_if_there(folder: &Path) -> Snapshot {
    if folder.exists() { snapshot(folder) } else { BTreeMap::new() }
}

/// What a snapshot has below a folder.
fn of_etc(all: &Snapshot, etc: &Path) -> Snapshot {
    all.iter()
        .filter(|(path, _)| path.starts_with(etc))
        .map(|(path, found)| (path.clone(), found.clone()))
        .collect()
}

/// The agent's addresses in what a test writes.
const MIRRORS: [&str; 2] = [MIRROR, "http://127.0.0.1:5001"];

fn site(root: &Root) -> Site {
    Site { root: root.clone(), record: DEFAULT_RECORD.into() }
}

fn wish(registries: &[&str]) -> Wish {
    Wish {
        mirror: MIRROR.into(),
        hub_mirror: Some("http://127.0.0.1:5001".into()),
        registries: registries.iter().map(|name| (*name).to_owned()).collect(),
        known: vec!["docker.io".into(), "ghcr.io".into()],
        plain: ["plain.test:5000".into()].into(),
        with_runtime_config: true,
    }
}

fn look(root: &Root) -> Survey {
    survey(root, &Own::new(["127.0.0.1:5000".parse().unwrap(), "127.0.0.1:5001".parse().unwrap()]), None)
}

fn install(root: &Root, wish: &Wish) -> Vec<FileDone> {
    let done = site(root).install(&look(root), wish).unwrap();
    done.into_iter().flat_map(|done| done.files).collect()
}

const EVERYTHING: &[(&str, &str)] = &[
    ("etc/containerd/config.toml", "version = 2\n"),
    ("etc/containerd/certs.d/ghcr.io/hosts.toml", "[host.\"https://m.test\"]\n"),
    ("usr/bin/crio", ""),
    ("usr/bin/podman", ""),
    ("usr/bin/dockerd", ""),
    ("etc/buildkit/buildkitd.toml", "debug = true\n"),
    ("etc/rancher/k3s/", ""),
];

#[test]
fn every_runtime_uses_the_agent_and_then_nothing_is_left() {
    let (folder, root) = tree(EVERYTHING);
    let secret = folder.path().join("etc/containerd/config.toml");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o640)).unwrap();
    let before = snapshot(folder.path());
    let files = install(&root, &wish(&[EVERY_REGISTRY, "ghcr.io"]));
    assert!(files.iter().all(|file| matches!(file.change, Change::Created | Change::Changed)), "{files:?}");
    let found = look(&root);
    for runtime in &found.runtimes {
        assert!(runtime.uses_agent(), "{runtime:?}");
    }
    assert_eq!(fs::metadata(&secret).unwrap().mode() & 0o777, 0o640);
    assert_eq!(fs::metadata(root.at(Path::new(DEFAULT_RECORD))).unwrap().mode() & 0o777, 0o600);
    // Once more, and once more for one of them: nothing changes.
    let after = snapshot(folder.path());
    for wish in [wish(&[EVERY_REGISTRY, "ghcr.io"]), wish(&["ghcr.io"])] {
        let files = install(&root, &wish);
        assert!(files.iter().all(|file| file.change == Change::Unchanged), "{files:?}");
        assert_eq!(snapshot(folder.path()), after);
    }
    site(&root).uninstall(&[], true).unwrap();
    assert_eq!(snapshot(folder.path()), after, "a rehearsal");
    site(&root).uninstall(&[], false).unwrap();
    assert_eq!(snapshot(folder.path()), before);
    assert!(site(&root).uninstall(&[], false).unwrap().is_empty());
}

#[test]
fn runtimes_are_taken_out_one_by_one() {
    let (folder, root) = tree(EVERYTHING);
    let before = snapshot(folder.path());
    install(&root, &wish(&["docker.io"]));
    for kind in [Kind::Podman, Kind::Docker, Kind::Containerd] {
        site(&root).uninstall(&[kind], false).unwrap();
        let left: Vec<Kind> = site(&root).written().unwrap().iter().map(|file| file.runtime).collect();
        assert!(left.iter().all(|other| !kind.shares_files(*other)) && !left.is_empty(), "{left:?}");
    }
    site(&root).uninstall(&[], false).unwrap();
    assert_eq!(snapshot(folder.path()), before);
}

#[test]
fn what_somebody_has_changed_since_stays() {
    let (folder, root) = tree(&[
        ("etc/containerd/config.toml", "version = 2\n"),
        ("etc/docker/daemon.json", "{}"),
        ("usr/bin/dockerd", ""),
    ]);
    install(&root, &wish(&["docker.io", "ghcr.io", "quay.io"]));
    let hosts = |registry: &str| folder.path().join(format!("etc/containerd/certs.d/{registry}/hosts.toml"));
    let grown = fs::read_to_string(hosts("docker.io")).unwrap() + "[host.\"https://new.test\"]\n";
    fs::write(hosts("docker.io"), grown).unwrap();
    fs::write(hosts("ghcr.io"), "not TOML [").unwrap();
    fs::remove_file(hosts("quay.io")).unwrap();
    fs::write(folder.path().join("etc/docker/daemon.json"), "{\"debug\": true}").unwrap();
    let states: Vec<State> = site(&root).written().unwrap().iter().map(|file| file.state).collect();
    assert_eq!(states, [State::Changed, State::Changed, State::Gone, State::AsWritten, State::Changed]);
    let done = site(&root).uninstall(&[], false).unwrap();
    let changes: Vec<Change> = done.into_iter().flat_map(|done| done.files).map(|file| file.change).collect();
    assert!(
        matches!(
            changes.as_slice(),
            [
                Change::TakenOut,
                Change::Refused { .. },
                Change::NothingLeft,
                Change::Restored,
                Change::NothingLeft
            ]
        ),
        "{changes:?}"
    );
    let left = fs::read_to_string(hosts("docker.io")).unwrap();
    assert!(left.contains("new.test") && !left.contains("127.0.0.1"), "{left}");
    assert_eq!(fs::read_to_string(hosts("ghcr.io")).unwrap(), "not TOML [");
    assert!(!hosts("quay.io").parent().unwrap().exists());
    // What was refused can be taken out later.
    assert_eq!(site(&root).written().unwrap().len(), 1);
    fs::write(hosts("ghcr.io"), "").unwrap();
    site(&root).uninstall(&[], false).unwrap();
    assert!(site(&root).written().unwrap().is_empty());
}

#[test]
fn an_installation_that_dies_half_way_is_taken_out_as_a_whole() {
    let (folder, root) = tree(EVERYTHING);
    let before = snapshot(folder.path());
    install(&root, &wish(&["docker.io"]));
    // As if the last file had not been reached.
    let last = site(&root).written().unwrap().pop().unwrap();
    fs::remove_file(root.at(&last.path)).unwrap();
    site(&root).uninstall(&[], false).unwrap();
    assert_eq!(snapshot(folder.path()), before);
}

/// Where no file can be written, or would not stay, nothing is, and the lines for it are told.
#[test]
fn what_only_the_operator_can_write_is_told() {
    let table: &[(&[(&str, &str)], Kind, &str)] = &[
        (
            &[("etc/cri/conf.d/hosts/", ""), ("etc/os-release", "ID=talos")],
            Kind::Talos,
            "- http://127.0.0.1:5000",
        ),
        (
            &[("etc/containerd/", ""), ("etc/os-release", "ID=bottlerocket")],
            Kind::Containerd,
            "registry = \"*\"",
        ),
        (
            &[("etc/containerd/", ""), ("home/kubernetes/kube-env", "")],
            Kind::Containerd,
            "- server: \"docker.io\"",
        ),
        (&[("etc/crio/", ""), ("etc/machine-config-daemon/", "")], Kind::CriO, "127.0.0.1:5000/docker.io"),
    ];
    for (files, kind, line) in table {
        let (folder, root) = tree(files);
        let before = snapshot(folder.path());
        let done = site(&root).install(&look(&root), &wish(&[EVERY_REGISTRY])).unwrap();
        assert_eq!(snapshot(folder.path()), before, "{files:?}");
        assert!(done[0].runtime == *kind && done[0].files.is_empty(), "{done:?}");
        let snippet = done[0].advice[0].snippet.clone().unwrap_or_default();
        assert!(snippet.contains(line), "{snippet}");
    }
    let (_folder, root) = tree(&[("etc/containerd/config.toml", "version = 2\n"), ("usr/bin/dockerd", "")]);
    let wish = Wish { hub_mirror: None, with_runtime_config: false, ..wish(&["docker.io"]) };
    let done = site(&root).install(&look(&root), &wish).unwrap();
    let snippets: Vec<&str> = done.iter().filter_map(|done| done.advice[0].snippet.as_deref()).collect();
    let section =
        "[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n";
    assert_eq!(snippets[0], section);
    assert!(snippets[1].contains("default_registry = \"docker.io\""), "{snippets:?}");
}

/// Where the agent is not there, a runtime goes where it would go without an entry: an entry must not say anything else.
#[test]
fn a_runtime_still_finds_the_registry_itself() {
    let (folder, root) = tree(EVERYTHING);
    let registries =
        ["docker.io", "quay.io", "plain.test:5000", "plain.test:5000/team", "127.0.0.1:5002", "[::1]:5002"];
    install(&root, &wish(&[&registries[..], &["localhost:5002", EVERY_REGISTRY]].concat()));
    let read = |path: &str| fs::read_to_string(folder.path().join("etc").join(path)).unwrap();
    for (registry, server) in [
        ("docker.io", Some("https://registry-1.docker.io")),
        ("quay.io", Some("https://quay.io")),
        ("plain.test:5000", Some("http://plain.test:5000")),
        ("127.0.0.1:5002", None),
        ("[::1]:5002", None),
        ("localhost:5002", None),
        ("_default", None),
    ] {
        let hosts: toml::Table = read(&format!("containerd/certs.d/{registry}/hosts.toml")).parse().unwrap();
        assert_eq!(hosts.get("server").map(|server| server.as_str().unwrap()), server, "{registry}");
    }
    let drop_in: toml::Table = read("containers/registries.conf.d/zz-shoal.conf").parse().unwrap();
    let insecure = |prefix: &str| {
        let tables = drop_in["registry"].as_array().unwrap();
        let table = tables.iter().find(|table| table["prefix"].as_str() == Some(prefix)).unwrap();
        table.get("insecure").map(|insecure| insecure.as_bool().unwrap())
    };
    let buildkitd: toml::Table = read("buildkit/buildkitd.toml").parse().unwrap();
    let http = |name: &str| buildkitd["registry"][name].get("http").map(|http| http.as_bool().unwrap());
    for (registry, is_plain) in [("quay.io", None), ("plain.test:5000", Some(true)), ("127.0.0.1:5002", None)]
    {
        assert_eq!((insecure(registry), http(registry)), (is_plain, is_plain), "{registry}");
    }
    assert_eq!(insecure("plain.test:5000/team"), Some(true));
}

#[test]
fn registries_without_tls() {
    use crate::runtime::is_plain;
    for (registry, endpoint, expected) in [
        ("plain.test:5000", "http://plain.test:5000", true),
        ("plain.test:5000", "http://plain.test:5000/", true),
        ("plain.test", "http://plain.test:80", true),
        ("[::1]:5000", "http://[::1]:5000", true),
        ("plain.test:5000", "https://plain.test:5000", false),
        ("plain.test", "http://plain.test:5000", false),
        ("plain.test:5000", "http://plain.test:5000/cache", false),
        ("docker.io", "http://cache.test:5000", false),
    ] {
        assert_eq!(is_plain(registry, &endpoint.parse().unwrap()), expected, "{registry} {endpoint}");
    }
}

/// An entry that was there before and goes past the agent is told when it matters, with the command that changes it.
#[test]
fn entries_that_hide_the_one_for_every_registry_are_told() {
    const HUB: (&str, &str) =
        ("etc/containerd/certs.d/docker.io/hosts.toml", "server = \"https://m.test\"\n");
    const CONTAINERD: (&str, &str) = ("etc/containerd/config.toml", "version = 2\n");
    const YAML: (&str, &str) = (
        "etc/rancher/k3s/registries.yaml",
        "mirrors:\n  docker.io:\n    endpoint:\n      - \"https://m.test\"\n",
    );
    const PART: (&str, &str) = (
        "etc/containers/registries.conf",
        "[[registry]]\nprefix = \"ghcr.io/team\"\n[[registry.mirror]]\nlocation = \"m.test\"\n",
    );
    let table: &[(&[(&str, &str)], &[&str], &[&str])] = &[
        (&[CONTAINERD], &[EVERY_REGISTRY], &[]),
        (&[CONTAINERD, HUB], &[EVERY_REGISTRY], &["docker.io"]),
        (&[CONTAINERD, HUB], &[EVERY_REGISTRY, "docker.io"], &[]),
        (&[CONTAINERD, HUB], &["ghcr.io"], &[]),
        (&[YAML], &[EVERY_REGISTRY], &["docker.io"]),
        (&[("usr/bin/podman", ""), PART], &["ghcr.io"], &["ghcr.io/team"]),
        (&[("usr/bin/podman", ""), PART], &["ghcr.io", "ghcr.io/team"], &[]),
        (&[("usr/bin/podman", ""), PART], &["quay.io"], &[]),
    ];
    for (files, registries, hidden) in table {
        let (_folder, root) = tree(files);
        // As somebody sees it before, who then does it, and who does it again.
        let preview = site(&root).preview(&look(&root), &wish(registries)).unwrap();
        let first = site(&root).install(&look(&root), &wish(registries)).unwrap();
        let again = site(&root).install(&look(&root), &wish(registries)).unwrap();
        for done in [preview, first, again] {
            let advice: Vec<&str> =
                done.iter().flat_map(|done| &done.advice).map(|advice| advice.text.as_str()).collect();
            assert_eq!(advice.len(), hidden.len(), "{files:?} {registries:?}: {advice:?}");
            for (advice, name) in advice.iter().zip(*hidden) {
                assert!(advice.contains(&format!("`shoal runtime install --registry {name}`")), "{advice}");
            }
        }
    }
}

/// The agent's user may write to the folder of the record, and must not have root write what it likes.
#[test]
fn a_record_of_somebody_else_is_not_believed() {
    let (_folder, root) = tree(&[("etc/containerd/config.toml", "version = 2\n"), ("var/lib/shoal/", "")]);
    site(&root).install(&look(&root), &wish(&["docker.io"])).unwrap();
    let record = root.at(Path::new("/var/lib/shoal/runtime.json"));
    if std::os::unix::fs::lchown(&record, Some(65_532), None).is_err() {
        // Only root can give files away; for others there is nothing to try.
        return;
    }
    let error = site(&root).uninstall(&[], false).unwrap_err();
    assert!(error.to_string().contains("belongs to user 65532"), "{error}");
}

#[test]
fn another_installation_at_work_is_not_disturbed() {
    let (_folder, root) = tree(&[("etc/containerd/", ""), ("var/lib/shoal/", "")]);
    let _held = files::lock(&root, Path::new("/var/lib/shoal")).unwrap();
    let error = site(&root).install(&look(&root), &wish(&["docker.io"])).unwrap_err();
    assert!(error.to_string().contains("another `shoal runtime`"), "{error}");
}

/// What somebody writes while the agent is out of a file stays, and the rest comes back; what is asked for again is added.
#[test]
fn what_is_written_meanwhile_stays() {
    let hosts = "etc/containerd/certs.d";
    let (folder, root) = tree(&[("etc/containerd/config.toml", "version = 2\n")]);
    install(&root, &wish(&["docker.io", "ghcr.io", "quay.io"]));
    let file = |registry: &str| folder.path().join(hosts).join(registry).join("hosts.toml");
    let written = fs::read(file("docker.io")).unwrap();
    let paused = site(&root).pause(&[Kind::Containerd], "nobody answers").unwrap();
    assert!(paused[0].files.iter().all(|file| file.change == Change::Restored), "{paused:?}");
    for status in site(&root).written().unwrap() {
        assert_eq!((status.state, status.away.unwrap().why.as_str()), (State::Away, "nobody answers"));
    }
    fs::create_dir_all(file("ghcr.io").parent().unwrap()).unwrap();
    fs::write(file("ghcr.io"), "server = \"https://theirs.test\"\n").unwrap();

    // Another address was not proved.
    assert!(site(&root).resume(&[], &["http://127.0.0.1:1"]).unwrap().is_empty());
    assert!(site(&root).resume(&[Kind::Docker], &MIRRORS).unwrap().is_empty());
    let back = site(&root).resume(&[], &MIRRORS).unwrap();
    assert!(back[0].files.iter().all(|file| file.change == Change::PutBack), "{back:?}");
    assert_eq!(fs::read(file("docker.io")).unwrap(), written);
    assert_eq!(fs::read_to_string(file("ghcr.io")).unwrap(), "server = \"https://theirs.test\"\n");
    install(&root, &wish(&["ghcr.io"]));
    let both = fs::read_to_string(file("ghcr.io")).unwrap();
    assert!(both.contains("theirs.test") && both.contains(MIRROR), "{both}");
    assert!(site(&root).written().unwrap().iter().all(|file| file.state == State::AsWritten));

    site(&root).uninstall(&[], false).unwrap();
    assert_eq!(fs::read_to_string(file("ghcr.io")).unwrap(), "server = \"https://theirs.test\"\n");
    assert!(!file("docker.io").exists() && !file("quay.io").exists());
    assert!(!root.exists(Path::new(DEFAULT_RECORD)));
}

/// Whoever is killed while it writes leaves files that are not whole; the next one takes them away.
#[test]
fn what_was_left_unfinished_goes() {
    for is_paused in [false, true] {
        let (folder, root) = tree(EVERYTHING);
        let before = snapshot(folder.path());
        install(&root, &wish(&["docker.io"]));
        for half in
            ["etc/containerd/certs.d/docker.io/.shoal-hosts.toml", "var/lib/shoal/.shoal-runtime.json"]
        {
            fs::write(folder.path().join(half), "[ho").unwrap();
        }
        if is_paused {
            site(&root).pause(&[], "why").unwrap();
        }
        site(&root).uninstall(&[], false).unwrap();
        assert_eq!(snapshot(folder.path()), before);
    }
}

/// Where nothing is written, there is nothing to take away, and no record of it.
#[test]
fn nothing_is_paused_where_nothing_is() {
    let (folder, root) = tree(EVERYTHING);
    let before = snapshot(folder.path());
    assert!(site(&root).pause(&[], "why").unwrap().is_empty());
    assert!(site(&root).resume(&[], &MIRRORS).unwrap().is_empty());
    assert_eq!(snapshot(folder.path()), before);
}

/// Files as they may be before: none, empty, of another's hand, with our mirror in it already, and wrong ones.
fn files() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let of = |path: &'static str, texts: &'static [&'static str]| {
        prop::option::of(prop::sample::select(texts)).prop_map(move |text| text.map(|text| (path, text)))
    };
    const HOSTS: &[&str] = &[
        "",
        "server = \"https://x.test\"",
        "[host.\"https://m.test\"]\r\n  capabilities = [\"pull\"]\r\n",
        "[host.\"https://m.test\"]\n[host.\"http://127.0.0.1:5000\"]\n",
        "[host.\"http://127.0.0.1:5000\"]\n",
        "host = {}\n",
        "not TOML [",
    ];
    const CONFIGS: &[&str] = &[
        "",
        "version = 2\n",
        "version = 3\nimports = [\"conf.d/*.toml\"]\n",
        "version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n[plugins.\"io.containerd.grpc.v1.cri\"]\n",
        "disabled_plugins = [\"cri\"]",
    ];
    const JSON: &[&str] =
        &["", "{}", "{\"b\": 1, \"a\": {\"c\": []}}", "{\"registry-mirrors\":[\"http://m.test\"]}", "["];
    const YAML: &[&str] = &[
        "",
        "mirrors:\n  docker.io:\n    endpoint:\n      - https://m.test",
        "mirrors: {}\n",
        "configs:\n  x: {}\n",
        "mirrors:\n  \"*\":\n",
    ];
    const REGISTRIES: &[&str] = &[
        "",
        "[[registry]]\nprefix = \"docker.io\"\nlocation = \"m.test/hub\"\nblocked = true\n",
        "[[registry]\n",
    ];
    (
        of("etc/containerd/config.toml", CONFIGS),
        of("etc/containerd/certs.d/docker.io/hosts.toml", HOSTS),
        of("etc/containerd/certs.d/_default/hosts.toml", HOSTS),
        of("etc/containerd/certs.d/m.test_5000_/ca.crt", &["certificate"]),
        of("etc/docker/daemon.json", JSON),
        of("etc/rancher/k3s/registries.yaml", YAML),
        of("etc/containers/registries.conf", REGISTRIES),
        of("etc/containers/registries.conf.d/zz-shoal.conf", REGISTRIES),
        of(
            "etc/buildkit/buildkitd.toml",
            &["", "# mine\n[registry.\"docker.io\"]\nmirrors = ['m.test']\n", "registry = 1"],
        ),
        of("var/lib/shoal/index", &["data"]),
    )
        .prop_map(|(a, b, c, d, e, f, g, h, i, j)| {
            [a, b, c, d, e, f, g, h, i, j].into_iter().flatten().collect()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn installing_and_uninstalling_is_nothing(
        before in files(),
        rounds in prop::collection::vec(prop::sample::subsequence(vec!["*", "docker.io", "ghcr.io", "m.test:5000"], 1..=3), 1..3),
    ) {
        let (folder, root) = tree(&before);
        tree_of_programs(folder.path());
        let first = snapshot(folder.path());
        for registries in &rounds {
            install(&root, &wish(registries));
            let written = snapshot(folder.path());
            let again = install(&root, &wish(registries));
            prop_assert!(again.iter().all(|file| matches!(file.change, Change::Unchanged | Change::Refused { .. })), "{again:?}");
            prop_assert_eq!(snapshot(folder.path()), written);
        }
        // Away for a time, and back, whatever it was; twice is as good as once.
        let (etc, written) = (folder.path().join("etc"), snapshot(folder.path()));
        for _ in 0..2 {
            site(&root).pause(&[], "why").unwrap();
            prop_assert_eq!(snapshot_if_there(&etc), of_etc(&first, &etc));
        }
        for _ in 0..2 {
            site(&root).resume(&[], &MIRRORS).unwrap();
            prop_assert_eq!(snapshot(folder.path()), written.clone());
        }
        site(&root).pause(&[], "why").unwrap();
        site(&root).uninstall(&[], false).unwrap();
        prop_assert_eq!(snapshot(folder.path()), first);
    }
}

fn tree_of_programs(folder: &Path) {
    fs::create_dir_all(folder.join("usr/bin")).unwrap();
    for program in ["containerd", "podman", "dockerd"] {
        fs::write(folder.join("usr/bin").join(program), "").unwrap();
    }
}
