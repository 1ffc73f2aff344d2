//! The examples of the operator's manual, each run by a real agent: it starts with it, and does what the manual says.

use toml::Table;

use super::*;

/// The text between the fences of every example, by name.
fn examples() -> Vec<(String, String)> {
    let manual = include_str!("../../../docs/OPERATING.md");
    let example = |part: &str| {
        let (name, rest) = part.split_once(" -->\n```toml\n").expect("a ```toml fence follows");
        let (text, _) = rest.split_once("\n```").expect("the fence ends");
        (name.to_owned(), text.to_owned())
    };
    manual.split("<!-- example: ").skip(1).map(example).collect()
}

/// An agent that is configured as the example says, with the secrets that it names in a folder of its own.
fn configured(text: &str) -> Setup {
    let setup = Setup::new(NOWHERE);
    std::fs::write(setup.folder().join("puller"), "secret").expect("the folder is ours");
    let text = text.replace("/run/secrets", &setup.folder().display().to_string());
    let table: Table = text.parse().expect("an example is TOML");
    setup.merge(table)
}

fn example(name: &str) -> String {
    let found = examples().into_iter().find(|(of, _)| of == name);
    found.unwrap_or_else(|| panic!("there is no example {name}")).1
}

/// Every example is a configuration with which an agent gets ready.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_start_with_every_example() {
    let examples = examples();
    for name in ["mirrors", "mirrors-disconnected", "access", "private", "object-store"] {
        assert!(examples.iter().any(|(of, _)| of == name), "there is no example {name}");
    }
    for (name, text) in examples {
        println!("{name}");
        let agent = configured(&text).start().await;
        agent.terminate();
    }
}

/// The mirrors' example: who is asked, in the order that the manual shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mirrors_are_asked_in_the_order_shown() {
    let setup = configured(&example("mirrors"));
    let config = setup.write().display().to_string();
    let told = shoal(&["mirrors", "explain", "redis:7", "--config", &config]).await;
    assert!(told.ok, "{}", told.output);
    let (tags, digests) = told.output.split_once("Digests:").expect("two parts");
    assert!(tags.contains("https://registry-1.docker.io") && !tags.contains("https://harbor"), "{tags}");
    let at = |host: &str| digests.find(host).unwrap_or_else(|| panic!("{host} is not told: {digests}"));
    assert!(at("https://harbor.example.com") < at("http://mirror.far.example.com:5000"), "{digests}");
    assert!(at("http://mirror.far.example.com:5000") < at("https://registry-1.docker.io"), "{digests}");
}

/// The access rules' example: what no rule allows is kept back, and the answer names the rule.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rules_keep_back_what_they_say() {
    let agent = configured(&example("access")).start().await;
    let blob = Blob::noise(700, 10);
    let kept = [("quay.io", "team/app"), ("docker.io", "somebody/app")];
    for (registry, repository) in kept {
        let url = format!("{}/v2/{repository}/blobs/{}?ns={registry}", agent.url(), blob.digest);
        let answer = agent.client().get(&url).await;
        assert_eq!(answer.status, 404, "{registry}/{repository}");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.contains("*/**"), "the rule is not named: {text}");
    }
    // Served as far as it is on the node, and never fetched.
    let url = format!("{}/v2/mycorp/product/manifests/latest?ns=registry.example.com", agent.url());
    let answer = agent.client().get(&url).await;
    assert_eq!(answer.status, 404);
    assert!(String::from_utf8_lossy(&answer.body).contains("local-only"));
    assert_eq!(agent.metric("upstream_requests_total", &[]).await, 0.0, "somebody was asked");
}
