//! The chart with many values: helm accepts them, every version of Kubernetes knows every field of what comes out, the agent
//! accepts every configuration and every command line.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use clap::Parser as _;
use serde_json::Value;
use shoal_agent::cli::Cli;
use shoal_tests::helm::{self, Rendered};
use shoal_tests::place;
use shoal_tests::process::run;

/// Oldest and newest minor version of Kubernetes 1 that the chart is for.
const MINORS: std::ops::RangeInclusive<u32> = 28..=37;

/// Name, values, and the first minor version that has what they ask for.
const MATRIX: &[(&str, &str, u32)] = &[
    ("defaults", "", 28),
    ("alone", "{swarm: {enabled: false}}", 28),
    ("host-port", "{exposure: {mode: hostPort, port: 5555}}", 28),
    ("node-port", "{exposure: {mode: nodePort, nodePort: 31000}}", 28),
    ("node-port-same-node", "{exposure: {mode: nodePort, trafficPolicy: PreferSameNode}}", 34),
    ("node-port-cluster", "{exposure: {mode: nodePort, trafficPolicy: Cluster}}", 28),
    ("ipv6", "{ipFamilies: [IPv6]}", 28),
    ("ipv6-host-port", "{ipFamilies: [IPv6], exposure: {mode: hostPort}, observe: {exposed: false}}", 28),
    ("dual", "{ipFamilies: [IPv6, IPv4], observe: {exposed: false}}", 28),
    ("dual-node-port", "{ipFamilies: [IPv4, IPv6], exposure: {mode: nodePort}}", 28),
    (
        "own-secrets",
        "{swarm: {existingSecret: s, secretKey: token, otherSecret: t, join: [10.9.0.7, shoal.far.example.com]}, \
         credentials: {existingSecrets: [pull, other]}, imagePullSecrets: [pull]}",
        28,
    ),
    (
        "credentials",
        "{credentials: {existingSecrets: [pull], registries: [{registry: r.example.com, username: u, password: 'p\"<&> '}]}}",
        28,
    ),
    (
        "monitoring",
        "{serviceMonitor: {enabled: true, interval: 15s, labels: {release: prometheus}}, \
         prometheusRule: {enabled: true, labels: {release: prometheus}}, dashboard: {enabled: true, annotations: {folder: shoal}}}",
        28,
    ),
    (
        "policies",
        "{exposure: {mode: nodePort}, networkPolicy: {registryFrom: [{ipBlock: {cidr: 10.0.0.0/16}}], \
         swarmFrom: [{ipBlock: {cidr: 10.1.0.0/16}}, {namespaceSelector: {matchLabels: {name: other}}, podSelector: {}}], \
         observeFrom: [{namespaceSelector: {matchLabels: {name: monitoring}}}]}}",
        28,
    ),
    (
        "pools",
        "{zoneFrom: none, config: {store: {max_age: 30days}}, pools: {gpu: {nodeSelector: {pool: gpu}, zone: eu-1a, \
         labels: {pool: gpu, rack: '7'}, config: {store: {capacity: 500GB}}, resources: {limits: {memory: 1Gi}}, \
         tolerations: [{key: gpu, operator: Exists}]}, cpu: {nodeSelector: {pool: cpu}}}}",
        28,
    ),
    (
        "mirrors",
        "{imageDigestMirrors: [{source: quay.io, mirrors: [q.example.com/a, q2.example.com], mirrorSourcePolicy: NeverContactSource}], \
         imageTagMirrors: [{source: quay.io/team, mirrors: [q.example.com/team], mirrorSourcePolicy: AllowContactingSource}], \
         config: {mirrors: {on_denied: continue, sets: [{name: hub, source: docker.io, mirrors: [m.example.com/hub], serves: all}]}}}",
        28,
    ),
    (
        "configuration",
        "{config: {registry: {connections_max: 2000, answer_timeout: 20s}, store: {high_watermark: 0.85, low_watermark: 0.5}, \
         upstream: {transfers_max: 16, registries: {'registry.example.com:5000': {endpoint: 'http://r.example.com:5000', \
         trusted_realms: [a.example.com, 'b.example.com:8443']}, docker.io: {access: verify, cache: false}}}, \
         access: {rules: [{match: '*/**', action: deny}, {match: 'docker.io/library/**'}]}, swarm: {upload_rate: 500MB/s}, \
         object_store: {url: 's3://images/shoal', region: eu-central-1, uploads_max: 4}, log: {format: json}}, \
         env: [{name: AWS_REGION, value: eu-central-1}], extraVolumes: [{name: ca, configMap: {name: ca}}], \
         extraVolumeMounts: [{name: ca, mountPath: /etc/ca}]}",
        28,
    ),
    (
        "traces",
        "{config: {traces: {endpoint: 'http://collector.example.com:4318', ratio: 0.25}}, \
         pools: {far: {nodeSelector: {site: far}, config: {traces: {ratio: 1}}}}}",
        28,
    ),
    ("end", "{config: {shutdown: {drain_deadline: 1m 30s}}, terminationGracePeriodSeconds: 100}", 28),
    (
        "runtime",
        "{runtime: {configure: true, types: [containerd], registries: [docker.io, quay.io], hostPaths: [/etc/containerd/certs.d]}}",
        28,
    ),
    ("runtime-default", "{runtime: {configure: true}, exposure: {mode: hostPort}, ipFamilies: [IPv6]}", 28),
    (
        "runtime-taint",
        "{runtime: {configure: true, unableAfter: 90s, ableAfter: 2m, removeTaint: shoal.io/not-ready}}",
        28,
    ),
    (
        "prewarm",
        "{prewarm: {images: [redis:7, 'registry.example.com/team/app:v2'], select: {pool: gpu, zone: eu-1a}, pin: 7days, deadline: 10m, \
         nodeSelector: {pool: gpu}, tolerations: [{key: gpu, operator: Exists}]}, imagePullSecrets: [pull], podLabels: {a: b}}",
        28,
    ),
    (
        "selinux",
        "{seLinuxOptions: {type: spc_t, level: s0}, prewarm: {images: [redis:7]}, runtime: {configure: true}}",
        28,
    ),
    ("prewarm-as-root", "{prewarm: {images: [redis:7], pin: ''}, runtimeContent: {enabled: true}}", 28),
    ("runtime-content", "{runtimeContent: {enabled: true}}", 28),
    (
        "scheduling",
        "{fullnameOverride: mirror, image: {repository: r.example.com/shoal, tag: dev, digest: \
         'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'}, nodeSelector: {a: b}, tolerations: [], \
         affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: \
         [{key: a, operator: Exists}]}]}}}, priorityClassName: high, podAnnotations: {a: b}, podLabels: {c: d}, \
         dnsPolicy: Default, update: {maxUnavailable: 1, minReadySeconds: 0}}",
        28,
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helm_finds_nothing_to_object_to() {
    let folder = place::scratch();
    // `helm lint` takes the version that it was built with for the cluster's.
    for (name, values, _) in MATRIX.iter().filter(|(_, _, since)| since == MINORS.start()) {
        let file = folder.path().join(name);
        std::fs::write(&file, values).expect("the folder is ours");
        let (chart, file) = (helm::chart().display().to_string(), file.display().to_string());
        let linted = helm::helm(&["lint", "--strict", &chart, "--values", &file]).await;
        let said = linted.unwrap_or_else(|said| panic!("{name}: {said}"));
        assert!(said.contains("0 chart(s) failed"), "{name}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_of_kubernetes_knows_every_field() {
    let folder = place::scratch();
    let mut files: Vec<(PathBuf, u32)> = Vec::new();
    for (name, values, since) in MATRIX {
        let rendered = helm::render(values).await;
        let file = folder.path().join(format!("{name}.yaml"));
        std::fs::write(&file, rendered.text).expect("the folder is ours");
        files.push((file, *since));
    }
    files.push((helm::deploy().join("manifests/shoal.yaml"), *MINORS.start()));
    for minor in MINORS {
        let files: Vec<PathBuf> =
            files.iter().filter(|(_, since)| *since <= minor).map(|(file, _)| file.clone()).collect();
        let checked = helm::validate(&format!("1.{minor}"), &files).await.expect_ok(&format!("1.{minor}"));
        // Not only custom resources, of which it knows nothing.
        let passed = checked.output.matches("passed for resource daemonset/").count();
        assert!(passed >= files.len(), "1.{minor}: {passed} of {}\n{}", files.len(), checked.output);
    }
    // It would say so: a field that no version has.
    let broken = folder.path().join("broken.yaml");
    let text = std::fs::read_to_string(&files[0].0).expect("just written");
    std::fs::write(&broken, text.replace("hostNetwork:", "hostNetwrk:")).expect("the folder is ours");
    assert!(!helm::validate("1.30", &[broken]).await.ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_accepts_every_configuration() {
    let mut checked = 0;
    for (name, values, _) in MATRIX {
        let rendered = helm::render(values).await;
        for (map, text) in rendered.configurations() {
            let sets: Vec<_> =
                rendered.of_kind("DaemonSet").filter(|set| set["metadata"]["name"] == *map).collect();
            assert_eq!(sets.len(), 1, "{name}: a ConfigMap for each DaemonSet");
            check(name, &text, &sets[0]["spec"]["template"]["spec"]).await;
            checked += 1;
        }
        command_lines(name, &rendered);
    }
    assert!(checked > MATRIX.len());
}

/// `shoal config check`, with the environment that the pod gives and the files that it mounts.
async fn check(name: &str, text: &str, pod: &Value) {
    let folder = place::scratch();
    let secrets = folder.path().display().to_string();
    for (file, content) in [
        ("swarm/secret", "0123456789abcdef0123456789abcdef"),
        ("other/secret", "fedcba9876543210fedcba9876543210"),
        ("registries/0.json", "{\"auths\": {}}"),
        ("registries/1.json", "{\"auths\": {}}"),
    ] {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().expect("in a folder")).expect("the folder is ours");
        std::fs::write(path, content).expect("the folder is ours");
    }
    let file = folder.path().join("shoal.toml");
    std::fs::write(&file, text.replace("/run/secrets/shoal", &secrets)).expect("the folder is ours");
    // What a path in the configuration names has to be mounted.
    let mounts = pod["containers"][0]["volumeMounts"].as_array().expect("a list");
    for line in text.lines().filter(|line| line.contains("\"/")) {
        let path = line.split('"').nth(1).expect("a path in quotes");
        let is_below = |mount: &Value| path.starts_with(mount["mountPath"].as_str().expect("a path"));
        assert!(mounts.iter().any(is_below), "{name}: nothing is mounted for {line}");
    }
    let mut command = Command::new(place::shoal_bin());
    command.args(["config", "check", "--config"]).arg(&file);
    for variable in pod["containers"][0]["env"].as_array().into_iter().flatten() {
        let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            None => variable["value"].as_str().expect("a value").to_owned(),
            Some("status.podIP") => "fd00::7".into(),
            Some("status.podIPs") => "10.0.0.7,fd00::7".into(),
            Some("metadata.labels['topology.kubernetes.io/zone']") => String::new(),
            Some(other) => panic!("{name}: the pod has no field {other}"),
        };
        command.env(variable["name"].as_str().expect("a name"), value);
    }
    run(&mut command, Duration::from_secs(20))
        .await
        .expect_ok(&format!("{name}: shoal config check\n{text}\n"));
}

/// Every container's arguments are a command of this agent.
fn command_lines(name: &str, rendered: &Rendered) {
    for set in rendered.of_kind("DaemonSet").chain(rendered.of_kind("Job")) {
        let pod = &set["spec"]["template"]["spec"];
        for kind in ["initContainers", "containers"] {
            for container in pod[kind].as_array().into_iter().flatten() {
                let args = container["args"].as_array().expect("arguments").iter();
                let words = std::iter::once("shoal").chain(args.map(|word| word.as_str().expect("a word")));
                let words: Vec<&str> = words.collect();
                let parsed = Cli::try_parse_from(&words);
                assert!(parsed.is_ok(), "{name}: {words:?}: {}", parsed.expect_err("not accepted"));
            }
        }
    }
}
