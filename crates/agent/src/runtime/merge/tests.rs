//! Texts as people write them, with the agent in them, and taken out again after somebody has changed them.

use super::*;

const MIRROR: &str = "http://127.0.0.1:5000";

fn hosts(server: Server) -> Wanted {
    Wanted::HostsToml { server }
}

fn hub() -> Server {
    Server { url: Some("https://registry-1.docker.io".into()), ..Server::default() }
}

const BLOCK: &str = "# shoal begin: this node's mirror agent; taken out by `shoal runtime uninstall`\n[host.\"http://127.0.0.1:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n  dial_timeout = \"2s\"\n# shoal end\n";

/// Adds, checks that adding again changes nothing and that taking out gives back what was there, and returns the text.
fn added(wanted: &Wanted, text: &str) -> String {
    let after = wanted.add(Some(text), MIRROR).unwrap_or_else(|error| panic!("{text}: {error}"));
    if wanted.format() != Format::RegistriesConf {
        assert_eq!(wanted.add(Some(&after), MIRROR).as_deref(), Ok(after.as_str()), "again");
    }
    after
}

#[test]
fn the_agent_comes_first_in_hosts_toml() {
    let certificates = Server {
        ca: vec!["/d/ca.crt".into()],
        client: vec![("/d/c.cert".into(), "/d/c.key".into())],
        ..hub()
    };
    let new = "server = \"https://registry-1.docker.io\"\n";
    let table: &[(Server, &str, String)] = &[
        (hub(), "", format!("{new}\n{BLOCK}")),
        (Server::default(), "", BLOCK.to_owned()),
        (
            certificates,
            "",
            format!("{new}ca = [\"/d/ca.crt\"]\nclient = [[\"/d/c.cert\", \"/d/c.key\"]]\n\n{BLOCK}"),
        ),
        (hub(), "server = \"https://x.test\"", format!("server = \"https://x.test\"\n{BLOCK}")),
        (
            hub(),
            "server = \"https://x.test\" # ours\n\n# the office's\n  # one\n[host.\"https://m.test\"]\n  capabilities = [\"pull\"]\n",
            format!(
                "server = \"https://x.test\" # ours\n\n{BLOCK}# the office's\n  # one\n[host.\"https://m.test\"]\n  capabilities = [\"pull\"]\n"
            ),
        ),
        // What belongs to a host may come before the host itself.
        (
            hub(),
            "[host.\"https://m.test\".header]\nx = \"y\"\n",
            format!("{BLOCK}[host.\"https://m.test\".header]\nx = \"y\"\n"),
        ),
        // Written by hand, not first and not for tags.
        (
            hub(),
            "[host.\"https://m.test\"]\n[host.\"http://127.0.0.1:5000/\"]\ncapabilities = [\"pull\"]\n",
            format!("{BLOCK}[host.\"https://m.test\"]\n"),
        ),
    ];
    for (server, text, expected) in table {
        let after = added(&hosts(server.clone()), text);
        assert_eq!(&after, expected, "{text}");
        let changed = format!("{after}\n[host.\"https://new.test\"]\n");
        let removed = remove(Format::HostsToml, &changed, MIRROR, None).unwrap();
        assert!(!removed.contains("127.0.0.1") && removed.contains("new.test"), "{removed}");
        if !text.is_empty() && !text.contains("127.0.0.1") && text.ends_with('\n') {
            assert_eq!(removed, format!("{text}\n[host.\"https://new.test\"]\n"));
        }
    }
    let by_hand = "[host.\"http://127.0.0.1:5000\"]\n[host.\"https://m.test\"]\n";
    assert_eq!(added(&hosts(hub()), by_hand), by_hand);
}

#[test]
fn a_block_with_somebody_s_lines_in_it_is_taken_out_alone() {
    let changed = BLOCK.replace("# shoal end", "[host.\"https://new.test\"]\n# shoal end");
    let removed = remove(Format::HostsToml, &changed, MIRROR, None).unwrap();
    assert!(removed.contains("new.test") && !removed.contains("127.0.0.1"), "{removed}");
}

#[test]
fn what_cannot_be_added_to_is_refused() {
    let yaml = Wanted::RegistriesYaml { registries: vec!["docker.io".into()] };
    let buildkit = Wanted::Buildkitd { registries: vec!["docker.io".into()], plain: BTreeSet::new() };
    let table: &[(&Wanted, &str)] = &[
        (&hosts(hub()), "server = \n"),
        (&hosts(hub()), "host = { \"https://m.test\" = { capabilities = [\"pull\"] } }\n"),
        (&Wanted::RegistriesConf { tables: Vec::new() }, "[[registry]]\n"),
        (&Wanted::DaemonJson, "{"),
        (&Wanted::DaemonJson, "[]"),
        (&Wanted::DaemonJson, "{\"registry-mirrors\": \"http://m.test\"}"),
        (&buildkit, "registry = 1\n"),
        (&buildkit, "[registry.\"docker.io\"]\nmirrors = \"m.test\"\n"),
        (&yaml, "mirrors: {docker.io: {endpoint: [\"http://m.test\"]}}\n"),
        (&yaml, "mirrors:\n  docker.io:\n    endpoint: [\"http://m.test\"]\n"),
        (&yaml, "mirrors: [\n"),
        (&Wanted::ContainerdConfig { format: 2, hosts_dir: "/d".into() }, "plugins = 1\n"),
    ];
    for (wanted, text) in table {
        let merged = wanted.add(Some(text), MIRROR);
        assert!(merged.is_err(), "{text}: {merged:?}");
    }
}

#[test]
fn a_drop_in_says_what_the_earlier_table_said() {
    let table: toml::Table = "prefix = \"docker.io\"\nlocation = \"m.test:5001/hub\"\nblocked = false\n[[mirror]]\nlocation = \"n.test\"\n".parse().unwrap();
    let after = added(&Wanted::RegistriesConf { tables: vec![table] }, "");
    let found: toml::Table = after.parse().unwrap();
    let expected: toml::Table = "[[registry]]\nprefix = \"docker.io\"\nlocation = \"m.test:5001/hub\"\nblocked = false\n[[registry.mirror]]\nlocation = \"127.0.0.1:5000/m.test__5001/hub\"\ninsecure = true\n[[registry.mirror]]\nlocation = \"n.test\"\n".parse().unwrap();
    assert_eq!(found, expected);
    let removed = remove(Format::RegistriesConf, &after, MIRROR, None).unwrap();
    assert!(removed.contains("n.test") && !removed.contains("127.0.0.1"), "{removed}");
}

#[test]
fn json_keeps_its_order() {
    let wanted = Wanted::DaemonJson;
    let text = "{\"log-driver\": \"x\", \"registry-mirrors\": [\"https://m.test\"], \"debug\": true}";
    let after = added(&wanted, text);
    let expected = "{\n  \"log-driver\": \"x\",\n  \"registry-mirrors\": [\n    \"http://127.0.0.1:5000\",\n    \"https://m.test\"\n  ],\n  \"debug\": true\n}\n";
    assert_eq!(after, expected);
    let removed = remove(Format::DaemonJson, &after, MIRROR, None).unwrap();
    assert_eq!(removed.replace(char::is_whitespace, ""), text.replace(' ', ""));
    let only = remove(Format::DaemonJson, &added(&wanted, ""), MIRROR, None).unwrap();
    assert_eq!(only, "{}\n");
}

#[test]
fn buildkit_s_mirrors() {
    let registries = ["docker.io", "ghcr.io", "plain.test", "localhost:5002"].map(str::to_owned);
    let plain = registries[2..].iter().cloned().collect();
    let wanted = Wanted::Buildkitd { registries: registries.to_vec(), plain };
    let text = "debug = true # loud\n\n[registry.\"docker.io\"]\n  mirrors = [\"m.test\"] # the office's\n";
    let after = added(&wanted, text);
    assert!(after.contains("  mirrors = [\"127.0.0.1:5000\", \"m.test\"] # the office's\n"), "{after}");
    assert!(after.contains("[registry.\"ghcr.io\"]\nmirrors = [\"127.0.0.1:5000\"]\n"), "{after}");
    assert!(after.contains("[registry.\"plain.test\"]\nhttp = true\n"), "{after}");
    assert!(after.contains("[registry.\"localhost:5002\"]\nmirrors"), "{after}");
    let removed = remove(Format::Buildkitd, &after, MIRROR, Some(text)).unwrap();
    let (removed, before): (toml::Table, toml::Table) = (removed.parse().unwrap(), text.parse().unwrap());
    assert_eq!(removed, before);
    let far = wanted.add(None, "http://10.0.0.1:5000").unwrap();
    assert!(far.contains("[registry.\"10.0.0.1:5000\"]\nhttp = true\n"), "{far}");
}

#[test]
fn lines_are_put_into_yaml() {
    let ours = "    endpoint:\n      - \"http://127.0.0.1:5000\"\n";
    let table: &[(&str, &str, String)] = &[
        ("*", "", format!("mirrors:\n  \"*\":\n{ours}")),
        ("*", "# nothing\n", format!("# nothing\nmirrors:\n  \"*\":\n{ours}")),
        (
            "*",
            "mirrors:\n    docker.io: # hub\n        endpoint:\n            - \"https://m.test\"\nconfigs:\n    m.test: {}\n",
            "mirrors:\n    \"*\":\n      endpoint:\n        - \"http://127.0.0.1:5000\"\n    docker.io: # hub\n        endpoint:\n            - \"https://m.test\"\nconfigs:\n    m.test: {}\n".into(),
        ),
        (
            "docker.io",
            "mirrors:\n  \"docker.io\":\n    endpoint:\n    # first\n    - https://m.test\n    rewrite: {a: b}\n  x.test:\n",
            "mirrors:\n  \"docker.io\":\n    endpoint:\n    - \"http://127.0.0.1:5000\"\n    # first\n    - https://m.test\n    rewrite: {a: b}\n  x.test:\n".into(),
        ),
        (
            "docker.io",
            "mirrors:\n  docker.io:\n  x.test:\n",
            format!("mirrors:\n  docker.io:\n{ours}  x.test:\n"),
        ),
        (
            "m.test:5000",
            "mirrors:\n  m.test:5000:\n    rewrite:\n      a: b\n",
            "mirrors:\n  m.test:5000:\n    endpoint:\n      - \"http://127.0.0.1:5000\"\n    rewrite:\n      a: b\n".into(),
        ),
        ("*", "configs:\n  x: {}", format!("configs:\n  x: {{}}\nmirrors:\n  \"*\":\n{ours}")),
    ];
    for (registry, text, expected) in table {
        let after = added(&Wanted::RegistriesYaml { registries: vec![(*registry).to_owned()] }, text);
        assert_eq!(&after, expected, "{text}");
        let removed = remove(Format::RegistriesYaml, &after, MIRROR, None).unwrap();
        let read = |text: &str| crate::runtime::rancher::parse(text).unwrap();
        let (mut left, mut before) = (read(&removed), read(text));
        // A registry that said nothing is gone.
        for value in [&mut left, &mut before] {
            if let Some(mirrors) = value.get_mut("mirrors").and_then(serde_json::Value::as_object_mut) {
                mirrors.retain(|_, settings| !settings.is_null());
            }
        }
        assert_eq!(left, before, "{removed}");
    }
}

#[test]
fn the_folder_of_hosts_in_containerd_s_configuration() {
    let table: &[(i64, &str, &str)] = &[
        (3, "", "version = 3\n\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/d\"\n"),
        (
            2,
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"p\" # pause\n  [plugins.\"io.containerd.grpc.v1.cri\".registry]\n    config_path = \"\" # none\n",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"p\" # pause\n  [plugins.\"io.containerd.grpc.v1.cri\".registry]\n    config_path = \"/d\" # none\n",
        ),
        (1, "root = \"/r\"\n", "root = \"/r\"\n\n[plugins.cri.registry]\nconfig_path = \"/d\"\n"),
    ];
    for (format, text, expected) in table {
        let wanted = Wanted::ContainerdConfig { format: *format, hosts_dir: "/d".into() };
        let after = added(&wanted, text);
        assert_eq!(after, *expected, "{text}");
        let removed = remove(Format::ContainerdConfig, &after, MIRROR, Some(text)).unwrap();
        assert!(!removed.contains("/d"), "{removed}");
    }
}
