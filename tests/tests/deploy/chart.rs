//! What the chart promises: who reaches which port, with how little privilege, what is kept over upgrades, what is refused.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use shoal_tests::agent::shoal;
use shoal_tests::helm::{self, Rendered, render};
use shoal_tests::place;

use super::expect_file;

fn agent(rendered: &Rendered) -> &Value {
    &rendered.pod()["containers"][0]
}

fn port<'a>(rendered: &'a Rendered, name: &str) -> &'a Value {
    let ports = agent(rendered)["ports"].as_array().expect("ports");
    ports.iter().find(|port| port["name"] == name).unwrap_or_else(|| panic!("no port {name}"))
}

fn configuration(rendered: &Rendered) -> toml::Table {
    let (_, text) = rendered.configurations().into_iter().next().expect("a configuration");
    text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Values, where the agent listens for the runtime, where for watchers, and from which port of the node it is reached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ways_to_reach_the_agent() {
    let table: &[(&str, &[&str], &str, Value)] = &[
        ("", &["127.0.0.1:5000"], "0.0.0.0:5080", Value::Null),
        ("{observe: {exposed: false}}", &["127.0.0.1:5000"], "127.0.0.1:5080", Value::Null),
        ("{ipFamilies: [IPv6], observe: {exposed: false}}", &["[::1]:5000"], "[::1]:5080", Value::Null),
        ("{ipFamilies: [IPv4, IPv6]}", &["127.0.0.1:5000", "[::1]:5000"], "[::]:5080", Value::Null),
        (
            "{exposure: {mode: hostPort, port: 5555}}",
            &["0.0.0.0:5555"],
            "0.0.0.0:5080",
            json!(["127.0.0.1", 5555]),
        ),
        (
            "{exposure: {mode: hostPort}, ipFamilies: [IPv6]}",
            &["[::]:5000"],
            "[::]:5080",
            json!(["::1", 5000]),
        ),
        (
            "{exposure: {mode: nodePort}, observe: {exposed: false}}",
            &["0.0.0.0:5000"],
            "0.0.0.0:5080",
            Value::Null,
        ),
    ];
    for (values, listeners, observe, host_port) in table {
        let rendered = render(values).await;
        let config = configuration(&rendered);
        let addresses = config["registry"]["listeners"].as_array().expect("a list").iter();
        let addresses: Vec<_> =
            addresses.map(|listener| listener["address"].as_str().expect("text")).collect();
        assert_eq!(addresses, *listeners, "{values}");
        assert_eq!(config["observe"]["address"].as_str(), Some(*observe), "{values}");
        let on_host = rendered.pod()["hostNetwork"] == true;
        assert_eq!(on_host, !values.contains("mode:"), "{values}");
        let registry = port(&rendered, "registry");
        let reached = registry.get("hostPort").map(|number| json!([registry["hostIP"], number]));
        assert_eq!(reached.unwrap_or_default(), *host_port, "{values}");
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            // kubelet asks the pod's own address unless told otherwise, where an agent on loopback does not listen.
            let asked = agent(&rendered)[probe]["httpGet"]["host"].as_str();
            assert_eq!(asked.is_some(), on_host, "{values}: {probe}");
        }
        // Policies are about pods that have an address of their own.
        assert_eq!(rendered.of_kind("NetworkPolicy").count(), usize::from(!on_host), "{values}");
    }
    let rendered = render("{exposure: {mode: nodePort, nodePort: 31000}}").await;
    let service = rendered.of_kind("Service").find(|service| service["spec"]["type"] == "NodePort");
    let spec = &service.expect("a node port")["spec"];
    assert_eq!(spec["ports"][0]["nodePort"], 31000);
    assert_eq!(
        (&spec["internalTrafficPolicy"], &spec["externalTrafficPolicy"]),
        (&json!("Local"), &json!("Local"))
    );
}

/// The agent itself has no privilege, whatever is asked for; what needs one is a container of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_little_privilege_as_the_job_allows() {
    for values in [
        "",
        "{exposure: {mode: hostPort}}",
        "{runtime: {configure: true}}",
        "{runtimeContent: {enabled: true}}",
    ] {
        let rendered = render(values).await;
        let pod = rendered.pod();
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        let is_root = values.contains("runtimeContent");
        assert_eq!(pod["securityContext"]["runAsNonRoot"], !is_root, "{values}");
        for kind in ["initContainers", "containers"] {
            for container in pod[kind].as_array().expect("containers") {
                let security = &container["securityContext"];
                assert_eq!(security["allowPrivilegeEscalation"], false, "{container}");
                assert_eq!(security["readOnlyRootFilesystem"], true, "{container}");
                assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{container}");
                let added = security["capabilities"].get("add").is_some();
                assert_eq!(added, container["name"] != "agent", "{container}");
            }
        }
        // Directories of the node that the agent itself sees: its own two, and none of the runtime's that it could write to.
        let volumes = pod["volumes"].as_array().expect("volumes");
        for mount in agent(&rendered)["volumeMounts"].as_array().expect("mounts") {
            let volume =
                volumes.iter().find(|volume| volume["name"] == mount["name"]).expect("mounted volumes exist");
            let own = ["/var/lib/shoal", "/run/shoal"];
            if let Some(path) = volume["hostPath"]["path"].as_str().filter(|path| !own.contains(path)) {
                assert_eq!(
                    (path.starts_with("/var/lib/containerd/"), &mount["readOnly"]),
                    (true, &json!(true)),
                    "{path}"
                );
            }
        }
        for rights in ["Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"] {
            assert_eq!(rendered.of_kind(rights).count(), 0);
        }
    }
}

/// The zone and the labels of a node, as far as its pool does not say: from the pod's own label, and empty if it has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_says_of_itself() {
    let variable = |rendered: &Rendered, set: usize, name: &str| {
        let set = rendered.of_kind("DaemonSet").nth(set).expect("a set");
        let env =
            set["spec"]["template"]["spec"]["containers"][0]["env"].as_array().cloned().unwrap_or_default();
        env.into_iter().find(|variable| variable["name"] == name)
    };
    let rendered = render("").await;
    let zone = variable(&rendered, 0, "SHOAL_ZONE").expect("a zone");
    assert_eq!(zone["valueFrom"]["fieldRef"]["fieldPath"], "metadata.labels['topology.kubernetes.io/zone']");
    assert_eq!(variable(&rendered, 0, "SHOAL_LABELS"), None);
    let pools = "{zoneFrom: none, pools: {a: {nodeSelector: {z: a}, zone: eu-1a, labels: {pool: gpu, rack: '7'}}, b: {nodeSelector: {z: b}}}}";
    let rendered = render(pools).await;
    assert_eq!(variable(&rendered, 0, "SHOAL_ZONE").expect("a zone")["value"], "eu-1a");
    assert_eq!(variable(&rendered, 0, "SHOAL_LABELS").expect("labels")["value"], "pool=gpu,rack=7");
    assert_eq!(variable(&rendered, 1, "SHOAL_ZONE"), None);
    // Two DaemonSets never select each other's pods.
    let selectors: Vec<_> = rendered.of_kind("DaemonSet").map(|set| &set["spec"]["selector"]).collect();
    assert_ne!(selectors[0], selectors[1]);
}

/// The cluster's secret is made once, is as strong as it has to be, and stays; a secret that is there already is used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets() {
    let made = |rendered: &Rendered| {
        let secret = rendered.one("Secret");
        assert_eq!(secret["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
        BASE64_STANDARD.decode(secret["data"]["secret"].as_str().expect("text")).expect("base64")
    };
    let (one, other) = (made(&render("").await), made(&render("").await));
    assert_eq!(one.len(), 64);
    assert_ne!(one, other);
    let mounted = |rendered: &Rendered, name: &str| {
        let volumes = rendered.pod()["volumes"].as_array().expect("volumes").clone();
        volumes.into_iter().find(|volume| volume["name"] == name).map(|volume| volume["secret"].clone())
    };
    let rendered = render("{swarm: {existingSecret: mine, secretKey: token}}").await;
    assert_eq!(rendered.of_kind("Secret").count(), 0);
    let volume = mounted(&rendered, "swarm").expect("a volume");
    assert_eq!((&volume["secretName"], &volume["items"][0]["key"]), (&json!("mine"), &json!("token")));

    let password = "p\"<&> \\";
    let values = json!({ "swarm": { "enabled": false },
        "credentials": { "registries": [{ "registry": "r.example.com:5000", "username": "u", "password": password }] } });
    let rendered = render(&values.to_string()).await;
    let secret = rendered.one("Secret");
    assert_eq!(secret["type"], "kubernetes.io/dockerconfigjson");
    let config =
        BASE64_STANDARD.decode(secret["data"][".dockerconfigjson"].as_str().expect("text")).expect("base64");
    let config: Value = serde_json::from_slice(&config).expect("JSON");
    let auth = BASE64_STANDARD.encode(format!("u:{password}"));
    assert_eq!(config, json!({ "auths": { "r.example.com:5000": { "auth": auth } } }));
}

/// Values, and which Secrets the agent has credentials from, in the order in which they count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_of_several_secrets() {
    let own = "registries: [{registry: r.example.com, username: u, password: p}]";
    let table: &[(String, &[&str])] = &[
        (String::new(), &[]),
        ("existingSecrets: [a]".into(), &["a"]),
        ("existingSecrets: [b, a]".into(), &["b", "a"]),
        (own.into(), &["shoal-credentials"]),
        (format!("existingSecrets: [a], {own}"), &["shoal-credentials", "a"]),
    ];
    for (values, expected) in table {
        let rendered = render(&format!("{{credentials: {{{values}}}}}")).await;
        let volumes = rendered.pod()["volumes"].as_array().expect("volumes").iter();
        let sources = volumes.filter(|volume| volume["name"] == "registries");
        let sources: Vec<&Value> =
            sources.flat_map(|volume| volume["projected"]["sources"].as_array().expect("a list")).collect();
        let secrets: Vec<&str> =
            sources.iter().map(|source| source["secret"]["name"].as_str().expect("a name")).collect();
        assert_eq!(secrets, *expected, "{values}");
        let config = configuration(&rendered);
        let named =
            config.get("upstream").and_then(|upstream| upstream.get("docker_config")?.as_array().cloned());
        let named: Vec<String> =
            named.unwrap_or_default().iter().map(|path| path.as_str().expect("text").to_owned()).collect();
        let mounts = agent(&rendered)["volumeMounts"].as_array().expect("mounts");
        let mount = mounts.iter().find(|mount| mount["name"] == "registries");
        let files: Vec<String> = sources
            .iter()
            .map(|source| {
                let item = &source["secret"]["items"][0];
                assert_eq!(item["key"], ".dockerconfigjson", "{values}");
                let folder = mount.expect("it is mounted")["mountPath"].as_str().expect("a path");
                format!("{folder}/{}", item["path"].as_str().expect("a path"))
            })
            .collect();
        assert_eq!(named, files, "{values}");
    }
}

/// The taint is the only thing for which anything here has a right, and only its container has the account's token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taint_costs_a_right() {
    let rendered = render("{runtime: {configure: true, removeTaint: shoal.io/not-ready}}").await;
    let (role, binding) = (rendered.one("ClusterRole"), rendered.one("ClusterRoleBinding"));
    let rules = json!([{ "apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"] }]);
    assert_eq!(role["rules"], rules);
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    assert_eq!(binding["subjects"][0]["name"], rendered.pod()["serviceAccountName"]);
    assert_eq!(binding["subjects"][0]["namespace"], "shoal-system");
    for container in rendered.pod()["containers"].as_array().expect("containers") {
        let mounts = container["volumeMounts"].as_array().expect("mounts");
        let has_token = mounts.iter().any(|mount| mount["name"] == "service-account");
        assert_eq!(has_token, container["name"] == "runtime", "{container}");
    }
    assert_eq!(rendered.pod()["automountServiceAccountToken"], false);
}

/// Who prewarms asks an agent as that agent's own user, and is no agent to anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_prewarms() {
    assert_eq!(render("").await.of_kind("Job").count(), 0);
    for (values, user) in [("", 65532), ("user: 1000", 1000), ("runtimeContent: {enabled: true}", 0)] {
        let rendered = render(&format!("{{prewarm: {{images: [redis:7]}}, {values}}}")).await;
        let job = rendered.one("Job");
        assert_eq!(job["metadata"]["annotations"]["helm.sh/hook"], "post-install,post-upgrade");
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsUser"], user, "{values}");
        assert_eq!(pod["securityContext"]["runAsUser"], rendered.pod()["securityContext"]["runAsUser"]);
        let container = &pod["containers"][0];
        assert_eq!(container["securityContext"]["capabilities"], json!({ "drop": ["ALL"] }));
        let socket = configuration(&rendered)["admin"]["socket"].as_str().expect("text").to_owned();
        let words = container["args"].as_array().expect("arguments");
        assert!(words.contains(&json!(format!("--socket={socket}"))), "{words:?}");
        // It lies where the agent's lies on the node.
        let volumes = rendered.pod()["volumes"].as_array().expect("volumes");
        let agents = volumes.iter().find(|volume| volume["name"] == "admin").expect("a volume");
        assert_eq!(pod["volumes"][0]["hostPath"]["path"], agents["hostPath"]["path"]);
        let labels = &job["spec"]["template"]["metadata"]["labels"];
        for selecting in rendered.of_kind("Service").chain(rendered.of_kind("DaemonSet")) {
            let selector = &selecting["spec"]["selector"];
            let wanted = selector.get("matchLabels").unwrap_or(selector).as_object().expect("labels");
            assert!(wanted.iter().any(|(key, value)| labels[key] != *value), "{selecting}");
        }
    }
}

/// Who is let into the swarm where a policy can say so: agents of every release in the namespace, and whoever else is named; no Job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_let_into_the_swarm() {
    let elsewhere = json!({ "ipBlock": { "cidr": "10.0.0.0/16" } });
    let table =
        [("", Vec::new()), ("networkPolicy: {swarmFrom: [{ipBlock: {cidr: 10.0.0.0/16}}]}", vec![elsewhere])];
    for (values, others) in table {
        let values = format!("{{exposure: {{mode: hostPort}}, prewarm: {{images: [redis:7]}}, {values}}}");
        let rendered = render(&values).await;
        let rules = rendered.one("NetworkPolicy")["spec"]["ingress"].as_array().expect("rules");
        let rule =
            rules.iter().find(|rule| rule["ports"][0]["port"] == "swarm").expect("a rule for the swarm");
        let from = rule["from"].as_array().expect("a list");
        // Without a selector of namespaces it is the policy's own.
        assert!(from[0].get("namespaceSelector").is_none(), "{rule}");
        let wanted = from[0]["podSelector"]["matchLabels"].as_object().expect("labels");
        let is_let_in = |labels: &Value| wanted.iter().all(|(key, value)| labels[key] == *value);
        let labels = |kind: &str| rendered.one(kind)["spec"]["template"]["metadata"]["labels"].clone();
        let mut agent = labels("DaemonSet");
        assert!(is_let_in(&agent), "{rule}");
        agent["app.kubernetes.io/instance"] = json!("another");
        assert!(is_let_in(&agent), "{rule}");
        assert!(!is_let_in(&labels("Job")), "{rule}");
        assert_eq!(&from[1..], others.as_slice(), "{values}");
    }
}

/// Every pod that uses a directory of the node has the label that is asked for, and none has one unasked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_for_selinux() {
    assert_eq!(render("").await.pod()["securityContext"].get("seLinuxOptions"), None);
    let rendered = render("{seLinuxOptions: {type: spc_t}, prewarm: {images: [redis:7]}}").await;
    for pod in [rendered.pod(), &rendered.one("Job")["spec"]["template"]["spec"]] {
        assert_eq!(pod["securityContext"]["seLinuxOptions"], json!({ "type": "spc_t" }), "{pod}");
    }
}

/// Whatever the release is called, Prometheus calls its agents what the alert about those that are down looks for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_alert_finds_the_agents() {
    let rendered = render("{fullnameOverride: mirror, serviceMonitor: {enabled: true}}").await;
    let label = rendered.one("ServiceMonitor")["spec"]["jobLabel"].as_str().expect("a label's name");
    let job =
        rendered.one("Service")["metadata"]["labels"][label].as_str().expect("the Service has the label");
    let alerts = helm::deploy().join("monitoring/alerts.yaml");
    let alerts = std::fs::read_to_string(alerts).expect("it is there");
    let (_, looked_for) = alerts.split_once("up{job=~\".*").expect("the alert goes by the job");
    let (looked_for, _) = looked_for.split_once(".*\"}").expect("and nothing else");
    assert!(job.contains(looked_for), "{job:?} has no {looked_for:?}");
}

/// What the README has people write for k3s and RKE2 is what the program would write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_entries_for_k3s() {
    let readme = std::fs::read_to_string(helm::chart().join("README.md")).expect("it is there");
    let (_, entries) = readme.split_once("```yaml\n# /etc/rancher/k3s/registries.yaml").expect("an example");
    let (_, entries) = entries.split_once('\n').expect("lines");
    let (entries, _) = entries.split_once("```").expect("it ends");
    let node = place::scratch();
    for kind in ["k3s", "rke2"] {
        let folder = node.path().join("etc/rancher").join(kind);
        std::fs::create_dir_all(&folder).expect("the folder is ours");
        std::fs::write(folder.join("registries.yaml"), entries).expect("the folder is ours");
        let root = node.path().display().to_string();
        let told =
            shoal(&["runtime", "install", "--dry-run", "--json", "--root", &root, "--runtime", kind]).await;
        let told = told.expect_ok("shoal runtime install --dry-run");
        let told: Value = serde_json::from_str(&told.output).expect("JSON");
        assert_eq!(told["changed"], false, "{kind}: {told}");
        assert_eq!(told["runtimes"][0]["files"][0]["change"], "unchanged", "{kind}: {told}");
    }
}

/// What the chart asks for unless told otherwise is the image of this version.
#[test]
fn the_chart_has_the_version_of_the_agent() {
    let chart = std::fs::read_to_string(helm::chart().join("Chart.yaml")).expect("it is there");
    let chart: Value = serde_saphyr::from_str(&chart).expect("it is YAML");
    for key in ["version", "appVersion"] {
        assert_eq!(chart[key], env!("CARGO_PKG_VERSION"), "{key}");
    }
}

/// An agent is restarted when its configuration changes, and only then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_configuration_restarts_the_agents() {
    let template = |rendered: &Rendered| rendered.one("DaemonSet")["spec"]["template"].clone();
    let plain = template(&render("").await);
    assert_eq!(plain, template(&render("{serviceMonitor: {enabled: true}}").await));
    assert_ne!(plain, template(&render("{config: {log: {level: debug}}}").await));
}

/// Values that cannot be, and a word of what is said against them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_are_refused() {
    for (values, word) in [
        ("{exposre: {}}", "exposre is not allowed"),
        ("{exposure: {mode: loadBalancer}}", "exposure.mode"),
        ("{exposure: {port: 0}}", "exposure.port"),
        ("{ipFamilies: []}", "ipFamilies"),
        ("{image: {digest: latest}}", "image.digest"),
        ("{config: {stoer: {}}}", "stoer"),
        (
            "{config: {swarm: {port: 1}}}",
            "config.swarm.port is decided by the chart; set the value swarm.port",
        ),
        ("{config: {registry: {listeners: []}}}", "set the value exposure instead"),
        ("{pools: {a: {nodeSelector: {a: b}, config: {store: {path: /x}}}}}", "pools.a.config.store.path"),
        ("{pools: {a: {}}}", "nodeSelector is required"),
        ("{imageDigestMirrors: [{source: a}]}", "mirrors is required"),
        ("{serviceMonitor: {enabled: true}, observe: {exposed: false}}", "needs observe.exposed"),
        ("{update: {maxUnavailable: 0}}", "maxUnavailable"),
        ("{user: 0}", "user"),
        ("{runtime: {configure: true}, exposure: {mode: nodePort}}", "needs exposure.mode"),
        ("{runtime: {removeTaint: shoal.io/not-ready}}", "runtime.removeTaint needs runtime.configure"),
        ("{runtime: {unableAfter: 60}}", "runtime.unableAfter"),
        ("{credentials: {existingSecret: pull}}", "existingSecret is not allowed"),
        ("{prewarm: {images: [--help]}}", "prewarm.images"),
        ("{seLinuxOptions: {typ: spc_t}}", "typ is not allowed"),
        ("{networkPolicy: {swarmFrom: all}}", "networkPolicy.swarmFrom"),
        ("{terminationGracePeriodSeconds: 15}", "config.shutdown.drain_deadline is 15s"),
        (
            "{config: {shutdown: {drain_deadline: 1m 30s}}, terminationGracePeriodSeconds: 90}",
            "terminationGracePeriodSeconds, which is 90",
        ),
        (
            "{pools: {a: {nodeSelector: {a: b}, config: {shutdown: {drain_deadline: 1hour}}}}}",
            "drain_deadline is 1hour",
        ),
    ] {
        let said = helm::template(values, helm::KUBERNETES).await.expect_err(values);
        assert!(said.contains(word), "{values}: {said}");
    }
    let values = "{exposure: {mode: nodePort, trafficPolicy: PreferSameNode}}";
    let said = helm::template(values, "1.33.0").await.expect_err("too old");
    assert!(said.contains("needs Kubernetes 1.34"), "{said}");
    assert!(helm::template("", "1.27.0").await.expect_err("too old").contains("incompatible"));
}

/// The plain manifests are the chart with its defaults.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manifests_are_the_chart() {
    const HEAD: &str = "\
# The shoal agent on every node, without Helm: the chart of deploy/helm/shoal with its defaults. Generated; the test `the_manifests_are_the_chart` keeps it
# equal, and writes it with SHOAL_WRITE=1. The namespace and the cluster's secret come first:
#
#   kubectl create namespace shoal-system
#   kubectl label namespace shoal-system pod-security.kubernetes.io/enforce=privileged
#   kubectl -n shoal-system create secret generic shoal-swarm --from-literal=secret=\"$(openssl rand -hex 32)\"
#   kubectl apply -f shoal.yaml
";
    let folder = helm::deploy().join("manifests");
    let values = std::fs::read_to_string(folder.join("values.yaml")).expect("it is there");
    let rendered = helm::template(&values, helm::KUBERNETES).await.expect("the values are right");
    // Who manages the objects, and from which chart, is not true of them.
    let is_helm = |line: &str| {
        line.trim_start().starts_with("app.kubernetes.io/managed-by:")
            || line.trim_start().starts_with("helm.sh/chart:")
    };
    let kept = rendered.lines().filter(|line| !is_helm(line) && !line.starts_with("# Source:"));
    let expected: String = kept.flat_map(|line| [line.trim_end(), "\n"]).collect();
    expect_file(&folder.join("shoal.yaml"), &format!("{HEAD}{expected}"));
}
