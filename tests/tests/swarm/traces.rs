//! The trace of a pull: one for all agents that take part, at a collector that may be away.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_tests::agent::Setup;
use shoal_tests::cluster::Cluster;
use shoal_tests::collector::{Collector, Span};
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::Origin;
use shoal_tests::{http, place, wait};

use super::faults::story;
use super::{REPOSITORY, one_layer};

/// Longest time until spans that have ended are with the collector.
const ARRIVE_MAX: Duration = Duration::from_secs(20);
const LAYER_BYTES: usize = 3_000_000;

/// An agent that sends its spans soon.
fn traced(setup: Setup, node: usize, collector: &str) -> Setup {
    setup
        .set("traces.endpoint", collector)
        .env("OTEL_SERVICE_NAME", &format!("node-{node}"))
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
}

/// The spans of one trace, by their names in it.
struct Trace(BTreeMap<String, Span>);

impl Trace {
    fn of(collector: &Collector, trace: &str) -> Self {
        let spans = collector.spans().into_iter().filter(|span| span.trace == trace);
        Trace(spans.map(|span| (span.id.clone(), span)).collect())
    }

    fn named(&self, service: &str, name: &str) -> Vec<&Span> {
        self.0.values().filter(|span| span.service == service && span.name == name).collect()
    }

    /// Names of the spans from this one up to the first, and what that one is a part of.
    fn path(&self, span: &Span) -> (Vec<String>, String) {
        let mut names = vec![format!("{} {}", span.service, span.name)];
        let mut parent = &span.parent;
        while let Some(above) = self.0.get(parent) {
            names.push(format!("{} {}", above.service, above.name));
            parent = &above.parent;
        }
        (names, parent.clone())
    }
}

fn bytes(spans: &[&Span]) -> usize {
    spans.iter().map(|span| span.get("shoal.bytes").parse::<usize>().expect("a number")).sum()
}

/// What one agent asks another is a part of the same trace, which begins at the client; and everything in it is where it belongs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_is_one_trace() {
    /// What the clients of the second node say that their requests belong to: a trace, and a span of it.
    const CLIENTS: [(&str, &str); 3] = [
        ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"),
        ("0af7651916cd43dd8448eb211c80319d", "b7ad6b7169203332"),
        ("0af7651916cd43dd8448eb211c80319e", "b7ad6b7169203333"),
    ];
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let image = Image::new(1000, &[LAYER_BYTES; CLIENTS.len()]);
    origin.add_image(REPOSITORY, "v1", &image);
    let url = collector.url();
    let cluster = Cluster::start_with(&origin.url(), 2, |node, setup| traced(setup, node, &url)).await;
    // While one of the two stands still for a moment, the other one takes itself for alone, and fetches by itself: then it is the next
    // layer's turn.
    for (layer, client) in image.layers.iter().zip(CLIENTS) {
        if begins_at_a_node(&cluster, &origin, &collector, layer).await
            && goes_on_at_another(&cluster, &collector, layer, client).await
        {
            return;
        }
    }
    panic!("no layer came once from upstream and then from the other node");
}

/// Without a word about a trace, one begins at the first node. Whether that one has fetched the layer for both, and all of it at once.
async fn begins_at_a_node(cluster: &Cluster, origin: &Origin, collector: &Collector, layer: &Blob) -> bool {
    cluster.agents[0].get_blob(REPOSITORY, &layer.digest).await.expect(200, &layer.bytes);
    let is_flight = |span: &Span| span.name == "flight" && span.get("shoal.digest") == layer.digest;
    let is_request = |span: &Span| span.name == "GET blob" && span.get("shoal.reference") == layer.digest;
    wait::until_true("the spans of the first pull", ARRIVE_MAX, || {
        collector.spans().iter().any(is_flight) && collector.spans().iter().any(is_request)
    })
    .await;
    let is_alone = story(&cluster.admins()[0], layer).await.on_its_own.is_some();
    if is_alone || origin.blob_gets(&layer.digest) > 1 {
        return false;
    }
    let request = collector.spans().into_iter().find(is_request).expect("it is there");
    assert_eq!(request.parent, "");
    for (key, value) in [
        ("http.response.status_code", "200"),
        ("shoal.repository", REPOSITORY),
        ("shoal.reference", &layer.digest),
        ("shoal.source", "upstream"),
        ("shoal.bytes", &layer.len().to_string()),
        ("shoal.outcome", "complete"),
    ] {
        assert_eq!(request.get(key), value, "{key} of {request:?}");
    }
    let trace = Trace::of(collector, &request.trace);
    let fetched: Vec<_> = trace
        .named("node-0", "transfer")
        .into_iter()
        .filter(|transfer| transfer.get("shoal.source") == "registry")
        .collect();
    assert_eq!(bytes(&fetched), layer.bytes.len(), "{fetched:?}");
    let (path, _) = trace.path(fetched[0]);
    assert_eq!(path, ["node-0 transfer", "node-0 lease", "node-0 flight", "node-0 GET blob"]);
    for name in ["look", "verify", "commit"] {
        let spans = trace.named("node-0", name);
        assert_eq!(spans.len(), 1, "{name}");
        assert_eq!(trace.path(spans[0]).0[1..], ["node-0 flight", "node-0 GET blob"], "{name}");
    }
    assert!(
        cluster.agents[0].log().contains(&format!("trace={:?}", request.trace)),
        "the log names the trace"
    );
    true
}

/// A client of the second node says what its request belongs to. Whether that node has the layer from the first one, and each byte once.
async fn goes_on_at_another(
    cluster: &Cluster,
    collector: &Collector,
    layer: &Blob,
    client: (&str, &str),
) -> bool {
    cluster.agents[0].until_idle().await;
    let asked = cluster.agents[1].client().request("GET", &cluster.agents[1].blob(REPOSITORY, &layer.digest));
    let asked = asked.header("traceparent", format!("00-{}-{}-01", client.0, client.1));
    http::read(asked).await.expect(200, &layer.bytes);
    if !story(&cluster.admins()[1], layer).await.sources.iter().all(|source| source.is_member) {
        return false;
    }
    wait::until_true("the spans of the second pull", ARRIVE_MAX, || {
        let trace = Trace::of(collector, client.0);
        let answers = trace.named("node-0", "answer /shoal/1/stream").len();
        let all = trace.named("node-1", "flight").len() + trace.named("node-1", "GET blob").len();
        all == 2 && answers > 0 && answers == trace.named("node-1", "transfer").len()
    })
    .await;
    let trace = Trace::of(collector, client.0);
    let transfers = trace.named("node-1", "transfer");
    assert!(transfers.iter().all(|span| span.get("shoal.source") == "member"), "{transfers:?}");
    // The other node is asked once more where nothing comes for seconds.
    if bytes(&transfers) > layer.bytes.len() {
        return false;
    }
    assert_eq!(bytes(&transfers), layer.bytes.len());
    let answers = trace.named("node-0", "answer /shoal/1/stream");
    assert_eq!(bytes(&answers), layer.bytes.len());
    for answer in answers {
        let (path, above) = trace.path(answer);
        let expected =
            ["node-0 answer /shoal/1/stream", "node-1 transfer", "node-1 flight", "node-1 GET blob"];
        assert_eq!((path, above), (expected.map(String::from).to_vec(), client.1.to_owned()));
        assert_eq!(answer.get("shoal.digest"), layer.digest);
    }
    assert!(trace.0.values().all(|span| span.times.0 <= span.times.1 && !span.failed));
    // Known with the last byte only: the request's span was open until then. A transfer's own may end a moment later.
    let request = trace.named("node-1", "GET blob")[0];
    assert_eq!(bytes(&[request]), layer.bytes.len());
    assert_eq!(request.get("shoal.outcome"), "complete");
    true
}

/// Who is asked for a tag, and what is not to be traced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_decides_what_is_traced() {
    const TRACED: &str = "0af7651916cd43dd8448eb211c80319d";
    const UNTRACED: &str = "0af7651916cd43dd8448eb211c80319e";
    let (origin, collector) = (Origin::start().await, Collector::start().await);
    let url = collector.url();
    // Nothing is traced of its own accord.
    let cluster = Cluster::start_with(&origin.url(), 2, |node, setup| {
        traced(setup, node, &url).set("traces.ratio", 0.0)
    })
    .await;
    for (seed, trace, flags) in [(1010, UNTRACED, "00"), (1011, "", ""), (1012, TRACED, "01")] {
        let image = Image::new(seed, &[1000]);
        let tag = format!("v{seed}");
        origin.add_image(REPOSITORY, &tag, &image);
        for agent in &cluster.agents {
            let asked = agent.client().request("GET", &agent.manifest(REPOSITORY, &tag));
            let parent = format!("00-{trace}-b7ad6b7169203331-{flags}");
            let asked = if trace.is_empty() { asked } else { asked.header("traceparent", parent) };
            http::read(asked).await.expect(200, &image.manifest.bytes);
        }
    }
    // One of the two is home of the tag, and the other asks it; who comes first asks the registry, for both.
    wait::until_true("the spans of the traced one", ARRIVE_MAX, || {
        let trace = Trace::of(&collector, TRACED);
        let of = |name: &str| trace.0.values().filter(|span| span.name == name).count();
        let (manifests, blobs) = (of("answer /shoal/1/manifest"), of("answer /shoal/1/blob"));
        manifests >= 1 && manifests + blobs == of("question") && of("GET manifest") == 2 && of("source") >= 1
    })
    .await;
    let trace = Trace::of(&collector, TRACED);
    for question in trace.0.values().filter(|span| span.name == "question") {
        let (path, _) = trace.path(question);
        // A manifest is asked for by a request, and sets its small blobs in motion.
        let by_request = path[1].ends_with(" resolve") && path[2].ends_with(" GET manifest");
        assert!(by_request || path[1].ends_with(" look"), "{path:?}");
        let answers: Vec<_> = trace.0.values().filter(|span| span.parent == question.id).collect();
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert_ne!(answers[0].service, question.service);
    }
    let others: Vec<_> = collector.spans().into_iter().filter(|span| span.trace != TRACED).collect();
    assert!(others.is_empty(), "{others:?}");
}

/// A collector that is not there, or takes connections and says nothing, holds up neither a pull nor the agent's end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_costs_nothing() {
    let (origin, image) = one_layer(1020, LAYER_BYTES).await;
    let silent = tokio::net::TcpListener::bind((place::loopback(), 4318)).await.expect("the address is ours");
    let silent_url = format!("http://{}", silent.local_addr().expect("it listens"));
    let nobody = format!("http://{}:4318", place::loopback());
    for (url, says) in [(&nobody, true), (&silent_url, false)] {
        // A queue that is full after a few spans.
        let setup = traced(Setup::new(&origin.url()), 0, url).env("OTEL_BSP_MAX_QUEUE_SIZE", "8");
        let mut agent = setup.start().await;
        for _ in 0..20 {
            agent.get_blob(REPOSITORY, &image.layers[0].digest).await.expect(200, &image.layers[0].bytes);
        }
        if says {
            wait::until_true("the agent to say so", ARRIVE_MAX, || {
                agent.log().contains("traces do not arrive")
            })
            .await;
            assert_eq!(agent.log().matches("traces do not arrive").count(), 1, "once is enough");
        }
        let begun = std::time::Instant::now();
        agent.terminate();
        assert!(agent.exit().await.success());
        assert!(begun.elapsed() < Duration::from_secs(10), "the end took {:?}", begun.elapsed());
    }
}

/// Headers come from their file, each time anew, and are shown to nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_may_want_a_header() {
    let (origin, folder) = (Origin::start().await, place::scratch());
    let collector = Collector::start_with(Some("Bearer of-the-collector")).await;
    let file = folder.path().join("headers");
    std::fs::write(&file, "Authorization: Bearer of-before\n").expect("the folder is ours");
    let setup = traced(Setup::new(&origin.url()), 0, &collector.url());
    let agent = setup.set("traces.headers_file", file.display().to_string()).start().await;
    let ask = || async { agent.get_manifest(REPOSITORY, "v1").await };
    ask().await;
    wait::until_true("the agent to say so", ARRIVE_MAX, || {
        agent.log().contains("the collector answered 401")
    })
    .await;
    std::fs::write(&file, "Authorization: Bearer of-the-collector\n").expect("the folder is ours");
    wait::until("spans to arrive", ARRIVE_MAX, || async {
        ask().await;
        !collector.spans().is_empty() && agent.log().contains("traces arrive again")
    })
    .await;
    assert!(!agent.log().contains("Bearer"), "a header was logged");
}
