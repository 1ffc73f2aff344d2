//! Several sets, nested scopes and whole domains: who is asked under which name, and that `shoal mirrors explain` says
//! what really happens (rows M1, M2, M6, T2).

use std::time::Instant;

use shoal_tests::agent::{REGISTRY, Setup, shoal};
use shoal_tests::image::Blob;
use shoal_tests::origin::{Kind, Origin};
use shoal_tests::place;
use toml::Table;

use super::{Set, Stand, mirror};

/// Whom the command line says the agent asks for digests, as numbers of the stand's servers.
pub(super) async fn explained(stand: &Stand, image: &str, what: &str) -> Vec<usize> {
    let config = stand.agent.setup().write().display().to_string();
    let said = shoal(&["mirrors", "explain", image, "--config", &config, "--json"]).await;
    let said = said.expect_ok("shoal mirrors explain");
    let json: serde_json::Value = serde_json::from_str(&said.output).expect("one JSON object");
    let asked = json[what]["asked"].as_array().unwrap_or_else(|| panic!("{json}")).iter().map(|asked| {
        let endpoint = asked["endpoint"].as_str().expect("an endpoint").trim_end_matches('/').to_owned();
        stand.all().position(|origin| origin.url() == endpoint).unwrap_or_else(|| panic!("{endpoint}"))
    });
    asked.collect()
}

/// Asks for a blob that nobody has, so that everybody is asked.
async fn walked(stand: &Stand, url: &str) -> Vec<usize> {
    let began = Instant::now();
    assert_eq!(stand.client.get(url).await.status, 404, "{url}");
    stand.order(began, |seen| seen.kind == Kind::Blob)
}

/// M1, T2: A, B and B, C are A, B, C, in whatever order the sets are written, and the registry comes last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m1_two_sets_for_one_source() {
    let names = [mirror(0), mirror(1), mirror(2)];
    let [a, b, c] = names.each_ref().map(String::as_str);
    for sets in [[[a, b], [b, c]], [[b, c], [a, b]]] {
        let sets = sets.map(|mirrors| Set::new(REGISTRY, mirrors)).into_iter().collect();
        let stand = Stand::with(3, sets, |setup| setup).await;
        let blob = Blob::noise(900, 100);
        let asked = walked(&stand, &stand.agent.blob("team/app", &blob.digest)).await;
        assert_eq!(asked, [0, 1, 2, 3], "M1");
        assert_eq!(explained(&stand, &format!("{REGISTRY}/team/app:v1"), "digests").await, asked);
        assert_eq!(explained(&stand, &format!("{REGISTRY}/team/app:v1"), "tags").await, [3]);
    }
}

/// What `shoal config import` makes of OpenShift's objects.
async fn imported(objects: &[&str]) -> Table {
    let folder = place::scratch();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (input, output) = (path("objects.yaml"), path("mirrors.toml"));
    std::fs::write(&input, objects.join("---\n")).expect("the folder is ours");
    let made = shoal(&["config", "import", "--kubernetes", &input, "--output", &output]).await;
    made.expect_ok("shoal config import");
    let text = std::fs::read_to_string(&output).expect("it has been written");
    toml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// M6: OpenShift's old object counts as long as it is there, alone and beside the new one that is added for the same
/// source; when it is gone, the new one counts alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m6_old_objects_count_while_they_are_there() {
    let object = |kind: &str, entries: &str, mirrors: [usize; 2]| {
        let mirrors = mirrors.map(mirror).join(", ");
        format!(
            "kind: {kind}\nmetadata: {{name: {kind}}}\nspec:\n  {entries}:\n  - source: {REGISTRY}\n    mirrors: [{mirrors}]\n"
        )
    };
    let old = object("ImageContentSourcePolicy", "repositoryDigestMirrors", [0, 1]);
    let new = object("ImageDigestMirrorSet", "imageDigestMirrors", [1, 2]);
    let (old, new) = (old.as_str(), new.as_str());
    let table = [(vec![old], vec![0, 1, 3]), (vec![old, new], vec![0, 1, 2, 3]), (vec![new], vec![1, 2, 3])];
    for (objects, expected) in table {
        let tables = imported(&objects).await;
        let stand = Stand::with(3, Vec::new(), |setup| setup.merge(tables)).await;
        let blob = Blob::noise(950, 100);
        let asked = walked(&stand, &stand.agent.blob("team/app", &blob.digest)).await;
        assert_eq!(asked, expected, "M6: {objects:?}");
        let name = format!("{REGISTRY}/team/app:v1");
        assert_eq!(explained(&stand, &name, "digests").await, asked);
        assert_eq!(explained(&stand, &name, "tags").await, [3], "both are for digests only");
    }
}

/// The narrowest source decides, and the mirror's own prefix replaces it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nested_scope_has_its_own_mirrors() {
    let nested = format!("{}/cache/team", mirror(1));
    let sets = vec![
        Set::new(REGISTRY, [mirror(0).as_str()]),
        Set::new(&format!("{REGISTRY}/team"), [nested.as_str()]),
    ];
    let stand = Stand::with(2, sets, |setup| setup).await;
    let blob = Blob::noise(910, 100);
    let table = [("team/app", vec![1, 2], "cache/team/app"), ("other/app", vec![0, 2], "other/app")];
    for (repository, expected, at_mirror) in table {
        let asked = walked(&stand, &stand.agent.blob(repository, &blob.digest)).await;
        assert_eq!(asked, expected, "{repository}");
        assert_eq!(explained(&stand, &format!("{REGISTRY}/{repository}:v1"), "digests").await, asked);
        let seen = stand.mirrors[expected[0]].seen();
        assert_eq!(seen.last().map(|seen| seen.repository.as_str()), Some(at_mirror));
        let at_origin = stand.origin.seen();
        assert_eq!(at_origin.last().map(|seen| seen.repository.as_str()), Some(repository));
    }
}

/// `*.wild.test` is every registry below the domain; the mirror keeps them apart by `ns`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_has_mirrors() {
    let other = Origin::start().await;
    let registries = ["a.wild.test", "deep.b.wild.test"];
    let change =
        |setup: Setup| setup.registry(registries[0], &other.url()).registry(registries[1], &other.url());
    let stand = Stand::with(1, vec![Set::new("*.wild.test", [mirror(0).as_str()])], change).await;
    for (registry, seed) in registries.into_iter().zip(920..) {
        let blob = Blob::noise(seed, 10_000);
        stand.mirrors[0].add_blob(&blob);
        let url = format!("{}/v2/team/app/blobs/{}?ns={registry}", stand.agent.url(), blob.digest);
        stand.client.get(&url).await.expect(200, &blob.bytes);
        let seen = stand.mirrors[0].seen();
        let path = seen.last().map(|seen| seen.path.clone()).unwrap_or_default();
        assert!(path.ends_with(&format!("?ns={registry}")), "{path}");
        let missing = Blob::noise(seed + 10, 100);
        let url = format!("{}/v2/team/app/blobs/{}?ns={registry}", stand.agent.url(), missing.digest);
        assert_eq!(walked(&stand, &url).await, [0], "the mirror");
        let at_registry = other.seen();
        assert_eq!(at_registry.last().map(|seen| &seen.reference), Some(&missing.digest), "and the registry");
    }
    // The domain itself and another registry are not below it.
    let blob = Blob::noise(940, 100);
    assert_eq!(walked(&stand, &stand.agent.blob("team/app", &blob.digest)).await, [1]);
}
