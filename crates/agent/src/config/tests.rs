use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use serde_json::Value;
use shoal_engine::Scope;
use shoal_engine::mirrors::{Asking, OnDenied};

use super::{Config, ConfigErrors, NodeFacts, Problem, SAMPLE, schema};

fn problems(text: &str) -> Vec<Problem> {
    match Config::parse(text, None) {
        Ok(_) => Vec::new(),
        Err(ConfigErrors::Wrong { problems, .. }) => problems,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = r#"
[registry]
answer_timeout = 25
[[registry.listeners]]
address = "localhost:5000"

[store]
capcity = "100GB"
low_watermark = 0.95

[upstream.registries."registry.test:5000"]
endpoint = "https://puller:hunter2@registry.test"
password = "hunter2"

[log]
format = "xml"
"#;
    let error = Config::parse(text, Some(Path::new("/etc/shoal/shoal.toml"))).unwrap_err();
    insta::assert_snapshot!(error, @r#"
    7 problems in /etc/shoal/shoal.toml
      3:18: registry.answer_timeout = 25: expected a duration with its unit, such as "25s" or "1m 30s"
      5:1: registry.listeners[0].address = "localhost:5000": must be an IP address and a port, such as "127.0.0.1:5000" or "[::1]:5000"
      8:1: store.capcity: there is no such key; did you mean capacity?
      9:1: store.low_watermark = 0.95: must be below store.high_watermark, which is 0.9
      12:1: upstream.registries."registry.test:5000".endpoint: must not have credentials in it; use username and password_file
      13:1: upstream.registries."registry.test:5000".password: a password cannot stand here; write it to a file and name that in password_file
      16:10: log.format = "xml": expected "text" or "json"
    "#);
    assert!(!error.to_string().contains("hunter2"), "a password was repeated");
}

#[test]
fn single_problems() {
    // File, key, and a word of what would be right.
    let table: &[(&str, &str, &str)] = &[
        ("[registry]\nlisteners = []", "registry.listeners", "leave the key out"),
        ("[registry]\nlisteners = [\"127.0.0.1:5000\"]", "registry.listeners[0]", "{ address ="),
        (
            "[[registry.listeners]]\ndefault_registry = 'docker.io'",
            "registry.listeners[0].address",
            "is missing",
        ),
        (
            "[[registry.listeners]]\naddress = '127.0.0.1:5080'",
            "registry.listeners[0].address",
            "another port",
        ),
        (
            "[[registry.listeners]]\naddress = '127.0.0.1:1'\ndefault_registry = 'a/b'",
            "registry.listeners[0].default_registry",
            "host:port",
        ),
        ("[registry]\nconnections_max = 0", "registry.connections_max", "from 1"),
        ("[registry]\nconnections_max = -1", "registry.connections_max", "whole number"),
        ("[registry]\nkeep_alive = '0s'", "registry.keep_alive", "from 1s"),
        ("[registry]\nanswer_timeout = '25'", "registry.answer_timeout", "\"25s\""),
        ("[store]\npath = 'data'", "store.path", "absolute"),
        ("[store]\ncapacity = 100", "store.capacity", "at least 1MiB"),
        ("[store]\ncapacity = 'much'", "store.capacity", "\"100GB\""),
        ("[store]\nhigh_watermark = 1.5", "store.high_watermark", "at most 1"),
        ("[store]\nhigh_watermark = nan", "store.high_watermark", "at most 1"),
        ("[store]\nhigh_watermark = 'full'", "store.high_watermark", "a number"),
        ("[store]\ninline_max = '8MiB'", "store.inline_max", "at most 1MiB"),
        ("[store]\nruntime_content = '/var/lib/shoal/blobs'", "store.runtime_content", "not inside"),
        ("[traces]\nendpoint = 'collector:4318'", "traces.endpoint", "http or https"),
        ("[traces]\nendpoint = 'http://u:p@c'", "traces.endpoint", "; use traces.headers_file"),
        ("[traces]\nratio = 0.5", "traces.ratio", "traces.endpoint"),
        ("[traces]\nendpoint = 'http://c'\nratio = 5", "traces.ratio", "from 0"),
        ("[traces]\nendpoint = 'http://c'\nheaders_file = 'h'", "traces.headers_file", "absolute"),
        (
            "[traces]\nendpoint = 'http://c'\nheaders_file = '/proc/self/stat'",
            "traces.headers_file",
            "line 1",
        ),
        ("[traces]\nendpoint = 'http://c'\nca = '/no/such/file'", "traces.ca", "No such file"),
        ("[upstream]\ntransfers_max = 100000", "upstream.transfers_max", "to 1024"),
        ("[upstream]\nuser_agent = \"a\\nb\"", "upstream.user_agent", "visible"),
        ("[upstream]\ndocker_config = '/no/such/file'", "upstream.docker_config", "No such file"),
        ("[upstream]\ndocker_config = '/'", "upstream.docker_config", "not a file"),
        ("[upstream]\ndocker_config = ['/', '/etc/passwd']", "upstream.docker_config[0]", "not a file"),
        ("[upstream]\ndocker_config = 7", "upstream.docker_config", "a path, or a list of paths"),
        ("[upstream.registries.'a/b']", "upstream.registries.\"a/b\"", "host:port"),
        (
            "[upstream.registries.'index.docker.io']\n[upstream.registries.'docker.io']",
            "upstream.registries.\"index.docker.io\"",
            "same registry",
        ),
        ("[upstream.registries.r]\nendpoint = 'ftp://r'", "upstream.registries.r.endpoint", "http or https"),
        ("[upstream.registries.r]\nendpoint = 'r:5000'", "upstream.registries.r.endpoint", "http or https"),
        (
            "[upstream.registries.r]\nendpoint = 'https://r/?x=1'",
            "upstream.registries.r.endpoint",
            "http or https",
        ),
        ("[upstream.registries.r]\nca = '/no/such/file'", "upstream.registries.r.ca", "No such file"),
        ("[upstream.registries.r]\nca = '/proc/self/status'", "upstream.registries.r.ca", "PEM"),
        ("[upstream.registries.r]\nusername = 'u'", "upstream.registries.r.username", "password_file"),
        ("[upstream.registries.r]\npassword = 'p'", "upstream.registries.r.password", "password_file"),
        (
            "[upstream.registries.r]\ntrusted_realms = ['https://auth.test/token']",
            "upstream.registries.r.trusted_realms[0]",
            "without scheme",
        ),
        ("[upstream.registries.r]\naccess = 'closed'", "upstream.registries.r.access", "\"public-only\""),
        ("[upstream.registries.r]\ncache = 'no'", "upstream.registries.r.cache", "true or false"),
        ("[[access.rules]]\naction = 'deny'", "access.rules[0].match", "registry/repository[:tag]"),
        ("[[access.rules]]\nmatch = 'docker.io/Library/*'", "access.rules[0].match", "lower-case"),
        ("[[access.rules]]\nmatch = 'a b/c'", "access.rules[0].match", "*.example.com"),
        (
            "[[access.rules]]\nmatch = 'r.test/a'\naction = 'refuse'",
            "access.rules[0].action",
            "\"local-only\"",
        ),
        (
            "[[access.rules]]\nmatch = 'r.test/a'\nupstream = 'https://s.test'",
            "access.rules[0].upstream",
            "host[:port][/prefix]",
        ),
        (
            "[[access.rules]]\nmatch = 'r.test/a'\naction = 'deny'\nupstream = 's.test'",
            "access.rules[0].upstream",
            "only with action",
        ),
        (
            "[[access.rules]]\nmatch = 'r.test/a/**'\n[[access.rules]]\nmatch = '*/b'\n\
             [[access.rules]]\nmatch = 'r.test/a/**/**'\naction = 'deny'",
            "access.rules[2].match",
            "access.rules[0], which says \"r.test/a/**\"",
        ),
        ("[object_store]\nwrite = false", "object_store.url", "is missing"),
        ("[object_store]\nurl = 'bucket/prefix'", "object_store.url", "s3://bucket/prefix"),
        ("[object_store]\nurl = 'ftp://bucket'", "object_store.url", "s3://bucket/prefix"),
        ("[object_store]\nurl = 's3://u:hunter2@b'", "object_store.url", "nothing else in it"),
        ("[object_store]\nurl = 'file://host/dir'", "object_store.url", "file:///"),
        ("[object_store]\nurl = 'gs://bucket/a//b*'", "object_store.url", "the prefix may have"),
        ("[object_store]\nurl = 's3://bucket'", "object_store.region", "eu-central-1"),
        ("[object_store]\nurl = 's3://bucket'\nregion = 'a b'", "object_store.region", "eu-central-1"),
        ("[object_store]\nurl = 'az://images'", "object_store.account", "storage account"),
        (
            "[object_store]\nurl = 's3://b'\nendpoint = 'http://s3.test'",
            "object_store.endpoint",
            "allow_http = true",
        ),
        (
            "[object_store]\nurl = 's3://b'\nendpoint = 's3.test:9000'",
            "object_store.endpoint",
            "http or https",
        ),
        ("[object_store]\nurl = 'gs://b'\nregion = 'eu'", "object_store.region", "only with an s3:// URL"),
        (
            "[object_store]\nurl = 'file:///d'\nendpoint = 'https://s3.test'",
            "object_store.endpoint",
            "only with a bucket",
        ),
        ("[object_store]\nurl = 'gs://b'\ncredentials = 'file'", "object_store.credentials", "\"anonymous\""),
        (
            "[object_store]\nurl = 'gs://b'\ncredentials_file = '/no/such/file'",
            "object_store.credentials_file",
            "No such file",
        ),
        ("[object_store]\nurl = 'gs://b'\nuploads_max = 0", "object_store.uploads_max", "from 1"),
        ("[object_store]\nurl = 'gs://b'\nidle_timeout = '0s'", "object_store.idle_timeout", "from 100ms"),
        ("[mirrors]\non_denied = 'ignore'", "mirrors.on_denied", "\"stop\" or \"continue\""),
        ("[mirrors]\nwalk_budget = '0s'", "mirrors.walk_budget", "from 100ms"),
        ("[mirrors]\nsets = ['m.test']", "mirrors.sets[0]", "a table"),
        ("[[mirrors.sets]]\nmirrors = ['m.test']", "mirrors.sets[0].source", "is missing"),
        (
            "[[mirrors.sets]]\nsource = 'hub'\nmirrors = ['m.test']\nmirror = 'n.test'",
            "mirrors.sets[0].mirror",
            "did you mean mirrors?",
        ),
        ("[[mirrors.sets]]\nsource = 'hub'", "mirrors.sets[0].mirrors", "is empty"),
        (
            "[[mirrors.sets]]\nsource = '*.hub:1'\nmirrors = ['m.test']",
            "mirrors.sets[0].source",
            "without a port",
        ),
        (
            "[[mirrors.sets]]\nsource = 'hub'\nmirrors = ['m.test/Hub']",
            "mirrors.sets[0].mirrors[0]",
            "host[:port][/prefix]",
        ),
        (
            "[[mirrors.sets]]\nsource = 'hub'\nmirrors = ['http://m.test:5000/hub/']",
            "mirrors.sets[0].mirrors[0]",
            "write \"m.test:5000/hub\", and [upstream.registries.\"m.test:5000\"] endpoint = \"http://m.test:5000\"",
        ),
        (
            "[[mirrors.sets]]\nsource = 'https://hub'\nmirrors = ['m.test']",
            "mirrors.sets[0].source",
            "no scheme",
        ),
        (
            "[[mirrors.sets]]\nsource = 'hub'\nmirrors = ['m.test', 'M.test']",
            "mirrors.sets[0].mirrors[1]",
            "in this list already",
        ),
        (
            "[[mirrors.sets]]\nsource = 'hub'\nmirrors = ['127.0.0.1:5000']",
            "mirrors.sets[0].mirrors[0]",
            "this agent itself",
        ),
        (
            "[[mirrors.sets]]\nsource = 'hub'\nmirrors = ['m.test']\ntag_order = 'mirror-first'",
            "mirrors.sets[0].tag_order",
            "digests only",
        ),
        (
            "[[mirrors.sets]]\nsource = 'hub'\nmirrors = ['m.test']\nserves = 'everything'",
            "mirrors.sets[0].serves",
            "\"all\"",
        ),
        (
            "[[mirrors.sets]]\nname = ' '\nsource = 'hub'\nmirrors = ['m.test']",
            "mirrors.sets[0].name",
            "must not be empty",
        ),
        ("[tags]\nttl = '30days'", "tags.ttl", "tags.ttl_max"),
        ("[prefetch]\nlayers = 'yes'", "prefetch.layers", "true or false"),
        ("[log]\nlevel = 'infoo'", "log.level", "not a level"),
        ("[observe]\naddress = '5080'", "observe.address", "\"127.0.0.1:5000\""),
        ("[admin]\nsocket = 'admin.sock'", "admin.socket", "absolute"),
        ("[shutdown]\ndrain_deadline = '2h'", "shutdown.drain_deadline", "from 0s to 1h"),
        ("[swarm]\nport = 99999", "swarm.port", "from 0 to 65535"),
        ("registry = 5", "registry", "a table"),
        ("[stroe]\npath = '/x'", "stroe", "did you mean store?"),
        ("[nothing]", "nothing", "there are registry, store"),
    ];
    for (text, key, remedy) in table {
        let found = problems(text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert_eq!(found[0].key, *key, "{text}");
        assert!(found[0].remedy.contains(remedy), "{text}: {}", found[0].remedy);
        assert!(found[0].at.is_some(), "{text}: no place");
    }
    let long = format!("[admin]\nsocket = '/{}'", "x".repeat(120));
    assert!(problems(&long)[0].remedy.contains("121 bytes"), "{:?}", problems(&long));
}

#[test]
fn no_two_ports_are_one() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    let member = format!("[swarm]\nsecret_file = '{}'\n", secret.display());
    let (alone, member) = ("", member.as_str());
    let first = "registry.listeners[0].address";
    // Who is alone or a member, what else the file says, and which key collides with which.
    let table: &[(&str, &str, Option<(&str, &str)>)] = &[
        (alone, "[[registry.listeners]]\naddress = '127.0.0.1:5001'", None),
        (member, "", None),
        (member, "[[registry.listeners]]\naddress = '127.0.0.1:5001'", Some((first, "swarm.port"))),
        (member, "[[registry.listeners]]\naddress = '127.0.0.1:5002'", Some((first, "swarm.data_port"))),
        (member, "[[registry.listeners]]\naddress = '127.0.0.1:5003'", None),
        (member, "port = 5000", Some((first, "swarm.port"))),
        (member, "port = 0\n[[registry.listeners]]\naddress = '127.0.0.1:0'", None),
        (member, "listen = ['10.0.0.7']\n[[registry.listeners]]\naddress = '127.0.0.1:5001'", None),
        (
            member,
            "listen = ['10.0.0.7']\n[[registry.listeners]]\naddress = '0.0.0.0:5001'",
            Some((first, "swarm.port")),
        ),
        // Clients of `[::]` come over both families, members over one.
        (member, "[[registry.listeners]]\naddress = '[::1]:5001'", None),
        (member, "[[registry.listeners]]\naddress = '[::]:5001'", Some((first, "swarm.port"))),
        (member, "listen = ['::']\n[[registry.listeners]]\naddress = '0.0.0.0:5001'", None),
        (
            member,
            "listen = ['::']\n[[registry.listeners]]\naddress = '[::1]:5001'",
            Some((first, "swarm.port")),
        ),
        (member, "[observe]\naddress = '127.0.0.1:5002'", Some(("observe.address", "swarm.data_port"))),
        (member, "[admin]\naddress = '0.0.0.0:5001'", Some(("admin.address", "swarm.port"))),
        (alone, "[admin]\naddress = '0.0.0.0:5080'", Some(("admin.address", "observe.address"))),
        (alone, "[admin]\naddress = '[::]:5000'", Some(("admin.address", first))),
        (alone, "[[registry.listeners]]\naddress = '0.0.0.0:5080'", Some((first, "observe.address"))),
        (alone, "[[registry.listeners]]\naddress = '[::1]:5080'", None),
        (
            alone,
            "[[registry.listeners]]\naddress = '127.0.0.1:1'\n[[registry.listeners]]\naddress = '[::]:1'",
            Some(("registry.listeners[1].address", first)),
        ),
        (
            alone,
            "[[registry.listeners]]\naddress = '127.0.0.1:1'\n[[registry.listeners]]\naddress = '[::1]:1'",
            None,
        ),
    ];
    for (swarm, rest, expected) in table {
        let found = problems(&format!("{swarm}{rest}\n"));
        let collision = |problem: &&Problem| problem.remedy.starts_with("collides with ");
        let told = found.iter().find(collision).map(|problem| (problem.key.as_str(), &problem.remedy));
        assert_eq!(told.map(|(key, _)| key), expected.map(|(key, _)| key), "{swarm}{rest}: {found:?}");
        if let (Some((_, remedy)), Some((_, other))) = (told, expected) {
            assert!(remedy.contains(&format!(" with {other}, which takes ")), "{swarm}{rest}: {remedy}");
        }
    }
}

#[test]
fn mirror_sets_that_contradict_each_other() {
    let text = r#"
[[mirrors.sets]]
name = "hub"
source = "docker.io"
mirrors = ["a.example.com"]

[[mirrors.sets]]
name = "hub"
source = "quay.io"
mirrors = ["a.example.com", "a.example.com"]

[[mirrors.sets]]
name = "hub-tags"
source = "docker.io"
mirrors = ["b.example.com"]
serves = "all"
never_contact_source = true

[[mirrors.sets]]
source = "ghcr.io"
mirrors = ["ghcr.io", "c.example.com"]
never_contact_source = true
"#;
    insta::assert_snapshot!(Config::parse(text, None).unwrap_err(), @r#"
    4 problems in the configuration
      8:1: mirrors.sets[1].name = "hub": is the name of mirrors.sets[0], too; messages could not tell them apart
      10:29: mirrors.sets[1].mirrors[1] = "a.example.com": is in this list already; remove one of them
      12:1: mirrors.sets[2]: sets hub-tags and hub both mirror docker.io, and only hub-tags says never_contact_source; say the same in both
      19:1: mirrors.sets[3]: set mirrors.sets[3] says never_contact_source and has its source ghcr.io among its mirrors; remove one of them
    "#);
}

#[test]
fn mirror_sets_in_force() {
    let text = r#"
[mirrors]
on_denied = "continue"
walk_budget = "3s"
[[mirrors.sets]]
source = "docker.io"
mirrors = ["b.example.com", "c.example.com:5000/hub"]
serves = "all"
tag_order = "mirror-first"
[[mirrors.sets]]
source = "docker.io"
mirrors = ["a.example.com", "b.example.com"]
serves = "all"
[upstream.registries."127.0.0.1:5000"]
endpoint = "https://far.example.com"
[[mirrors.sets]]
source = "quay.io"
mirrors = ["127.0.0.1:5000"]
"#;
    let config = Config::parse(text, None).unwrap_or_else(|error| panic!("{error}"));
    let settings = config.upstream_settings().mirrors;
    assert_eq!((settings.on_denied, settings.walk_budget.as_secs()), (OnDenied::Continue, 3));
    let scope =
        Scope { registry: "docker.io".parse().unwrap(), repository: "library/redis".parse().unwrap() };
    let plan = settings.mirrors.candidates(&scope, Asking::Tag);
    let asked: Vec<String> = plan.candidates.iter().map(|candidate| candidate.scope.to_string()).collect();
    assert_eq!(
        asked,
        [
            "a.example.com/library/redis",
            "b.example.com/library/redis",
            "c.example.com:5000/hub/library/redis",
            "docker.io/library/redis"
        ]
    );
    assert_eq!(plan.candidates[0].from, ["mirrors.sets[1]".into()]);
    assert_eq!(Config::parse(&config.to_toml(), None).unwrap().file, config.file);
}

#[test]
fn problems_have_their_place() {
    let found =
        problems("[store]\n# a comment\npath = 'data'\n\n[upstream.registries.'r.test']\nusername = 'u'\n");
    let places: Vec<_> = found.iter().map(|problem| (problem.key.as_str(), problem.at.unwrap())).collect();
    assert_eq!(places, [("store.path", (3, 1)), ("upstream.registries.\"r.test\".username", (6, 1))]);
}

#[test]
fn syntax_is_reported_without_the_line() {
    let found = problems("[upstream.registries.r]\nusername = 'u'\npassword = hunter2\n");
    assert!(!found.is_empty());
    assert_eq!(found[0].at.unwrap().0, 3);
    assert!(found.iter().all(|problem| !problem.to_string().contains("hunter2")), "{found:?}");
}

#[test]
fn an_unreadable_file_is_named() {
    let error = Config::load(Path::new("/no/such/shoal.toml"), &NodeFacts::default()).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the configuration /no/such/shoal.toml");
}

#[test]
fn facts_of_the_node_go_before_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shoal.toml");
    std::fs::write(
        &path,
        "[swarm]\nzone = 'a'\nadvertise = ['10.0.0.1']\nlabels = { pool = 'cpu', rack = '7' }\n",
    )
    .unwrap();
    let swarm = |facts: &NodeFacts| Config::load(&path, facts).unwrap().file.swarm;
    let labels =
        |text: &[(&str, &str)]| text.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();

    // What Kubernetes gives a pod whose node has no such label is an empty text.
    let nothing = NodeFacts {
        zone: Some(String::new()),
        labels: labels(&[("pool", "")]),
        advertise: vec![String::new()],
        traces: Some(String::new()),
    };
    for silent in [NodeFacts::default(), nothing] {
        let swarm = swarm(&silent);
        assert_eq!((swarm.zone.as_str(), swarm.advertise), ("a", vec!["10.0.0.1".to_owned()]));
        assert_eq!(swarm.labels, labels(&[("pool", "cpu"), ("rack", "7")]));
    }
    let told = NodeFacts {
        zone: Some("b".into()),
        labels: labels(&[("pool", "gpu")]),
        advertise: vec!["10.0.0.7".into(), "fd00::7".into()],
        traces: Some("http://10.0.0.7:4318".into()),
    };
    let traces = Config::load(&path, &told).unwrap().file.traces.endpoint;
    assert_eq!(traces, told.traces);
    let swarm = swarm(&told);
    assert_eq!((swarm.zone.as_str(), swarm.advertise), ("b", told.advertise.clone()));
    assert_eq!(swarm.labels, labels(&[("pool", "gpu"), ("rack", "7")]));

    // They are checked as the file is, with and without one, and are no lines of it.
    let (advertise, traces) = (vec!["here".into()], Some("collector:4318".into()));
    let wrong = NodeFacts { advertise, traces, ..NodeFacts::default() };
    for refused in [Config::load(&path, &wrong), Config::without_file(&wrong)] {
        let told = refused.unwrap_err().to_string();
        assert!(told.starts_with("2 problems in flags and variables\n"), "{told}");
        for line in [
            "\n  --advertise or SHOAL_ADVERTISE (swarm.advertise[0]) = \"here\": must be an IP address",
            "\n  --traces or OTEL_EXPORTER_OTLP_ENDPOINT (traces.endpoint) = \"collector:4318\": must be a URL such as \
             \"http://collector.example.com:4318\"",
        ] {
            assert!(told.contains(line), "{line} is not in {told}");
        }
    }
    // What the file says beside them stands where it did.
    std::fs::write(&path, "[swarm]\nlisten = ['there']\nadvertise = ['10.0.0.1']\n").unwrap();
    let told = Config::load(&path, &wrong).unwrap_err().to_string();
    assert!(
        told.starts_with(&format!("3 problems in {}\n  2:11: swarm.listen[0]", path.display())),
        "{told}"
    );
}

#[test]
fn values_are_told_as_they_were_written() {
    for (text, value) in [
        ("[store]\ncapacity = '1KB'", "\"1KB\""),
        ("[store]\ncapacity = 0x10", "0x10"),
        ("[shutdown]\ndrain_deadline = '120m'", "\"120m\""),
        ("[upstream]\nrate = '1KB/s'", "\"1KB/s\""),
    ] {
        assert_eq!(problems(text)[0].value.as_deref(), Some(value), "{text}");
    }
}

#[test]
fn the_sample_is_the_default() {
    let sample = Config::parse(SAMPLE, None).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(sample.file, schema::File::default());
    assert_eq!(sample.listeners(), Config::default().listeners());
    assert_eq!(Config::parse("", None).unwrap().file, schema::File::default());
}

/// Every key of a table, with those of the tables in it. Names of registries are replaced by one.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(table) => {
            for (name, value) in table {
                let name = if path == "upstream.registries" { "*" } else { name.as_str() };
                let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                keys(value, &path, found);
                found.insert(path);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| keys(value, path, found)),
        _ => {}
    }
}

#[test]
fn the_sample_has_every_key() {
    // `#key` and `#[table]` are keys without a default; `# word` is prose.
    let is_key = |line: &str| {
        line.strip_prefix('#')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['))
    };
    let uncomment = |line: &str| if is_key(line) { format!("{}\n", &line[1..]) } else { format!("{line}\n") };
    let full: String = SAMPLE.lines().map(uncomment).collect();
    let full: toml::Table = full.parse().unwrap_or_else(|error| panic!("{error}"));
    let mut shown = BTreeSet::new();
    keys(&serde_json::to_value(full).unwrap(), "", &mut shown);

    let mut file = schema::File::default();
    file.upstream.registries.insert("r".into(), schema::UpstreamRegistry::default());
    file.access.rules.push(schema::AccessRule::default());
    file.mirrors.sets.push(schema::MirrorSet::default());
    let mut known = BTreeSet::new();
    keys(&serde_json::to_value(file).unwrap(), "", &mut known);
    assert_eq!(shown, known);
    assert!(known.len() > 45, "{known:?}");
}

#[test]
fn what_is_shown_reads_back_and_has_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let made = rcgen::generate_simple_self_signed(vec!["client.test".to_owned()]).unwrap();
    let key_pem = made.signing_key.serialize_pem();
    let key_line = key_pem.lines().nth(1).unwrap();
    let (certificate, key) = (file("client.pem", &made.cert.pem()), file("client-key.pem", &key_pem));
    let password = file("password", "hunter2\n");
    let text = format!(
        "[store]\ncapacity = '1.5GiB'\nmax_age = '30days'\n[upstream.registries.'r.test:5000']\nusername = 'u'\n\
         endpoint = 'https://r.test:5000/cache'\nca = '{certificate}'\nclient_certificate = '{certificate}'\n\
         client_key = '{key}'\npassword_file = '{password}'\n"
    );
    let config = Config::parse(&text, None).unwrap_or_else(|error| panic!("{error}"));
    let shown = config.to_toml();
    assert_eq!(Config::parse(&shown, None).unwrap().file, config.file, "{shown}");
    let settings = config.upstream_settings();
    let registry = &settings.registries[&"r.test:5000".parse().unwrap()];
    assert!(registry.client_identity.is_some() && registry.ca.is_some());
    assert_eq!(config.store_options().capacity, Some(3 << 29));
    crate::upstream::Upstream::new(settings.clone(), crate::metrics::Metrics::new()).unwrap();
    for text in [shown, config.to_json().to_string(), format!("{config:?}"), format!("{settings:?}")] {
        assert!(!text.contains("hunter2") && !text.contains(key_line), "a secret is shown: {text}");
    }
}

#[test]
fn object_stores() {
    use crate::tier::{Bucket, BucketCredentials};
    let tier = |text: &str| {
        let config = Config::parse(&format!("[object_store]\n{text}"), None);
        config.unwrap_or_else(|error| panic!("{error}")).tier_settings().cloned().unwrap()
    };
    let s3 = |region: &str, endpoint: Option<&str>, path_style| Bucket::S3 {
        bucket: "images".into(),
        region: region.into(),
        endpoint: endpoint.map(|text| text.parse().unwrap()),
        path_style,
    };
    let table = [
        ("url = 's3://images'\nregion = 'eu-central-1'", s3("eu-central-1", None, false), ""),
        (
            "url = 's3://images/a/b/'\nendpoint = 'https://s3.test'",
            s3("us-east-1", Some("https://s3.test"), true),
            "a/b",
        ),
        (
            "url = 's3://images'\nendpoint = 'https://obs.test'\nregion = 'x-1'\npath_style = false",
            s3("x-1", Some("https://obs.test"), false),
            "",
        ),
        (
            "url = 'az://images/a'\naccount = 'acc'",
            Bucket::Azure { account: "acc".into(), container: "images".into(), endpoint: None },
            "a",
        ),
        ("url = 'gs://images'", Bucket::Google { bucket: "images".into(), endpoint: None }, ""),
        ("url = 'file:///mnt/images'", Bucket::Directory { path: "/mnt/images".into() }, ""),
    ];
    for (text, bucket, prefix) in table {
        let settings = tier(text);
        assert_eq!((&settings.bucket, settings.prefix.as_str()), (&bucket, prefix), "{text}");
        assert_eq!(settings.credentials, BucketCredentials::Environment, "{text}");
        crate::tier::Tier::new(&settings, crate::metrics::Metrics::new()).unwrap();
    }
    let anonymous = tier("url = 'gs://b'\ncredentials = 'anonymous'");
    assert_eq!(anonymous.credentials, BucketCredentials::Anonymous);
    assert!(Config::default().tier_settings().is_none());
}

proptest! {
    /// Whatever is written, there is an answer, and a file that was refused says why.
    #[test]
    fn damaged_files_are_refused_with_reasons(at in 0_usize..SAMPLE.len(), with in "\\PC{0,3}|\\[|=|\"|\n") {
        let mut text = SAMPLE.to_owned();
        if text.is_char_boundary(at) && text.is_char_boundary(at + 1) {
            text.replace_range(at..=at, &with);
        }
        if let Err(error) = Config::parse(&text, None) {
            let ConfigErrors::Wrong { problems, .. } = error else { panic!("{error}") };
            prop_assert!(!problems.is_empty());
            prop_assert!(problems.iter().all(|problem| !problem.remedy.is_empty()));
        }
    }
}

/// The parts have defaults of their own, for their tests; nobody should have to know which ones are in force.
#[test]
fn the_defaults_are_those_of_the_parts() {
    let config = Config::default();
    let own = shoal_store::Options::new("/var/lib/shoal");
    assert_eq!(format!("{:?}", config.store_options()), format!("{own:?}"));
    let own = crate::registry::listen::ConnectionLimits::default();
    assert_eq!(format!("{:?}", config.connection_limits()), format!("{own:?}"));
    let own = shoal_engine::engine::Settings::default();
    assert_eq!(config.driver_settings().engine.fetches_max, own.fetches_max);
    let (settings, own) = (config.upstream_settings(), crate::upstream::Settings::default());
    assert_eq!(settings.user_agent, own.user_agent);
    assert_eq!(
        (settings.connect_timeout, settings.header_timeout, settings.idle_timeout),
        (own.connect_timeout, own.header_timeout, own.idle_timeout)
    );
    assert_eq!(settings.own_addresses, ["127.0.0.1:5000".parse().unwrap()]);
    assert_eq!(format!("{:?}", settings.mirrors), format!("{:?}", own.mirrors));
}

/// What the manual shows is what works: every example in it that is marked as one.
#[test]
fn examples_of_the_manual_are_right() {
    let manual = include_str!("../../../../docs/OPERATING.md");
    let mut names = BTreeSet::new();
    let secrets = tempfile::tempdir().unwrap();
    std::fs::write(secrets.path().join("puller"), "secret").unwrap();
    for part in manual.split("<!-- example: ").skip(1) {
        let (name, rest) =
            part.split_once(" -->\n```toml\n").unwrap_or_else(|| panic!("no ```toml fence after {part}"));
        let (text, _) = rest.split_once("\n```").unwrap_or_else(|| panic!("{name}: the fence does not end"));
        assert!(names.insert(name), "{name} stands there twice");
        // The secrets that the examples name have to be there.
        let text = text.replace("/run/secrets", &secrets.path().display().to_string());
        Config::parse(&text, None).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for name in ["mirrors", "access", "private", "object-store"] {
        assert!(names.contains(name), "{name} is not among {names:?}");
    }
}

#[test]
fn the_page_is_for_loopback_unless_the_operator_says_otherwise() {
    let table = [
        ("", true),
        ("address = '0.0.0.0:5080'", false),
        ("address = '10.0.0.7:5080'", false),
        ("address = '[::1]:5080'", true),
        ("address = '0.0.0.0:5080'\npage = true", true),
        ("page = false", false),
    ];
    for (text, expected) in table {
        let config = Config::parse(&format!("[observe]\n{text}"), None).unwrap();
        assert_eq!(config.observe_page(), expected, "{text}");
    }
}
