//! A digest alone is no right: what is on the node is served through a repository only if that repository has it. Each test
//! ends with the same question: did bytes get to somebody whom no registry has let in?

use shoal_tests::agent::{REGISTRY, Setup};
use shoal_tests::cluster::Cluster;
use shoal_tests::http::{self, Client};
use shoal_tests::image::{self, Blob, Image};
use shoal_tests::origin::{Auth, Gate, Kind, Match, Origin, Plan};
use shoal_tests::place;
use shoal_tests::tls::Authority;
use shoal_tests::wait;
use tempfile::TempDir;

use super::{REPOSITORY, Stand, expect_not_served};

/// A registry that wants credentials, which the agent has: what it brings is private.
async fn private() -> Stand {
    let stand = Stand::with(|setup| setup.credentials(REGISTRY, "robot", "secret")).await;
    stand.origin.require(Auth::Basic { user: "robot".into(), password: "secret".into() });
    stand
}

/// Pulls an image, and waits until all of it is stored.
async fn bring(stand: &Stand, image: &Image) {
    stand.agent.get_manifest(REPOSITORY, "v1").await.expect(200, &image.manifest.bytes);
    for blob in image.blobs() {
        stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    }
    stand.settled().await;
}

fn asked_for(origin: &Origin, method: &str, digest: &str) -> usize {
    let fits = |seen: &&shoal_tests::origin::Seen| {
        seen.method == method && seen.reference == digest && seen.header("authorization").is_some()
    };
    origin.seen().iter().filter(fits).count()
}

/// A stored blob or manifest is not served through a repository that does not have it, however often it is asked for;
/// through one that has it, after one question. A plain pull asks nothing that it did not ask before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_repository_of_the_same_registry() {
    let stand = private().await;
    let image = Image::new(540, &[3_000_000, 1000]);
    stand.origin.add_private_image(REPOSITORY, "v1", &image);
    bring(&stand, &image).await;
    for blob in image.blobs() {
        assert_eq!(stand.origin.blob_gets(&blob.digest), 1, "a plain pull costs more than its transfer");
        assert_eq!(asked_for(&stand.origin, "HEAD", &blob.digest), 0, "a plain pull asks twice");
    }
    for _ in 0..2 {
        for blob in image.blobs() {
            let path = format!("team/other/blobs/{}", blob.digest);
            expect_not_served(&stand.get(REGISTRY, &path).await, &path);
            assert_eq!(stand.client.head(&stand.url(REGISTRY, &path)).await.status, 404);
        }
        let path = format!("team/other/manifests/{}", image.manifest.digest);
        expect_not_served(&stand.get(REGISTRY, &path).await, &path);
    }
    // A manifest that names the blobs of others is no proof that its repository has them.
    stand.origin.add_manifest("team/other", &image.manifest);
    stand.agent.get_manifest("team/other", &image.manifest.digest).await.expect(200, &image.manifest.bytes);
    stand.settled().await;
    let layer = &image.layers[0];
    expect_not_served(&stand.agent.get_blob("team/other", &layer.digest).await, "named by a manifest");
    // Now it has one of them: one question, and no transfer.
    stand.origin.only_in("team/other", &layer.digest);
    let before = stand.origin.seen().len();
    for _ in 0..3 {
        stand.agent.get_blob("team/other", &layer.digest).await.expect(200, &layer.bytes);
    }
    let asked = &stand.origin.seen()[before..];
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!((asked[0].method.as_str(), stand.origin.blob_gets(&layer.digest)), ("HEAD", 1));
}

/// While the blob is on its way: the flight is shared with those whose repository has it, and with nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flight_under_way() {
    let stand = private().await;
    let blob = Blob::noise(541, 6_000_000);
    stand.origin.add_blob(&blob);
    stand.origin.only_in(REPOSITORY, &blob.digest);
    stand.origin.only_in("team/too", &blob.digest);
    let gate = Gate::closed();
    stand.origin.script(Match::blob(&blob.digest), Plan::pause_after(3_000_000, &gate));
    let url = stand.agent.blob(REPOSITORY, &blob.digest);
    let first = tokio::spawn(async move { Client::new().get(&url).await });
    stand.origin.until_sent(&blob.digest, 3_000_000).await;
    expect_not_served(&stand.agent.get_blob("team/other", &blob.digest).await, "a repository without it");
    let url = stand.agent.blob("team/too", &blob.digest);
    let mut second = Client::new().open(&url).await;
    assert_eq!(second.status(), 200);
    let some = http::read_some(&mut second, 1_000_000).await;
    assert!(some == blob.bytes[..some.len()], "{} bytes, and others than the blob's", some.len());
    gate.open();
    first.await.expect("it ends").expect(200, &blob.bytes);
    assert_eq!(stand.origin.blob_gets(&blob.digest), 1, "the flight was not shared");
    drop(second);
    // What was learned on the way is remembered with the blob.
    stand.settled().await;
    let before = stand.origin.seen().len();
    for repository in [REPOSITORY, "team/too"] {
        stand.agent.get_blob(repository, &blob.digest).await.expect(200, &blob.bytes);
    }
    assert_eq!(stand.origin.seen().len(), before, "asked again");
}

/// A registry with a password, and one that a client has made up, with the client's own server behind the name.
struct TwoRegistries {
    origin: Origin,
    evil: Origin,
    folder: TempDir,
}

impl TwoRegistries {
    async fn start() -> Self {
        let authority = Authority::new();
        let evil = Origin::start_tls(authority.server(&[b"http/1.1"], false)).await;
        let origin = Origin::start().await;
        origin.require(Auth::Basic { user: "robot".into(), password: "secret".into() });
        let folder = place::scratch();
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).expect("ours");
        TwoRegistries { origin, evil, folder }
    }

    /// An agent that has the password of the one and trusts the certificate of the other.
    fn reached_by(&self, setup: Setup) -> Setup {
        let ca = self.folder.path().join("ca.pem");
        setup.credentials(REGISTRY, "robot", "secret").env("SSL_CERT_FILE", &ca.display().to_string())
    }

    /// What a client calls the one that it has made up.
    fn made_up(&self) -> String {
        format!("localhost:{}", self.evil.address().port())
    }
}

/// A registry that a client has made up, with the client's own server behind the name, says that it has everything. It gets
/// nothing of what others have brought: not from the store, not by a tag, not from a transfer under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_a_client_has_made_up() {
    let registries = TwoRegistries::start().await;
    let agent = registries.reached_by(Setup::new(&registries.origin.url())).start().await;
    let made_up = registries.made_up();
    let TwoRegistries { origin, evil, folder: _folder } = registries;
    let stand = Stand { origin, agent, client: Client::new() };
    let image = Image::new(542, &[3_000_000, 1000]);
    stand.origin.add_image(REPOSITORY, "v1", &image);
    bring(&stand, &image).await;
    // It knows names and sizes, as anybody may who has seen a manifest or a log, and has other bytes.
    for blob in image.blobs() {
        evil.add_bytes(&blob.digest, vec![b'x'; blob.bytes.len()].into());
    }
    let forged = Blob { bytes: vec![b'{'; image.manifest.bytes.len()].into(), ..image.manifest.clone() };
    evil.add_manifest_as("evil/x", &image.manifest.digest, &forged);
    evil.tag("evil/x", "v1", &image.manifest.digest);
    let mut paths: Vec<String> = image.blobs().map(|blob| format!("evil/x/blobs/{}", blob.digest)).collect();
    paths.push(format!("evil/x/manifests/{}", image.manifest.digest));
    paths.push("evil/x/manifests/v1".to_owned());
    for _ in 0..2 {
        for path in &paths {
            let _ = stand.client.head(&stand.url(&made_up, path)).await;
            let answer = stand.get(&made_up, path).await;
            assert_eq!(answer.status, 502, "{path}: {} bytes", answer.body.len());
        }
    }
    assert!(evil.seen().len() >= paths.len(), "the made-up registry was not reached");
    // A transfer under way: begun by the made-up registry, so that it would be there first, and by the other one.
    let blob = Blob::noise(543, 3_000_000);
    stand.origin.add_blob(&blob);
    evil.add_bytes(&blob.digest, vec![b'x'; blob.bytes.len()].into());
    let gate = Gate::closed();
    evil.script(Match::blob(&blob.digest), Plan::pause_after(1_000_000, &gate));
    let url = stand.url(&made_up, &format!("evil/x/blobs/{}", blob.digest));
    let stolen = tokio::spawn(async move { Client::new().get(&url).await });
    evil.until_sent(&blob.digest, 1_000_000).await;
    stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    gate.open();
    let stolen = stolen.await.expect("it ends");
    assert!(stolen.body.iter().all(|byte| *byte == b'x'), "bytes of the other registry were served");
    // A registry that really has it, made up or not, is believed after it has shown a few bytes of it.
    evil.heal();
    let layer = &image.layers[0];
    evil.add_bytes(&layer.digest, layer.bytes.clone());
    let before = evil.blob_bytes(&layer.digest);
    let path = format!("evil/x/blobs/{}", layer.digest);
    for _ in 0..2 {
        stand.get(&made_up, &path).await.expect(200, &layer.bytes);
    }
    let shown = evil.blob_bytes(&layer.digest) - before;
    assert!((1..=64 << 10).contains(&shown), "{shown} bytes were fetched as proof");
}

/// A page for people under the address of a blob or a manifest is no consent, also with a length and a status of 200.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_for_people_proves_nothing() {
    let stand = private().await;
    let image = Image::new(546, &[3_000_000]);
    stand.origin.add_private_image(REPOSITORY, "v1", &image);
    bring(&stand, &image).await;
    let page = "<html>Who are you?</html>";
    for plan in [Plan::status_with(200, page), Plan::status_with(200, page).without("content-length")] {
        stand.origin.heal();
        stand.origin.script(Match::any(), plan);
        for blob in image.blobs() {
            let answer = stand.agent.get_blob("team/other", &blob.digest).await;
            assert!(answer.status >= 400, "{} bytes of a blob that it may not have", answer.body.len());
        }
        let answer = stand.agent.get_manifest("team/other", &image.manifest.digest).await;
        assert!(answer.status >= 400, "a manifest that it may not have");
    }
}

/// A made-up registry, where it is other members that have the blob: what they hand on goes to those whose registry has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_made_up_registry_and_what_members_have() {
    let registries = TwoRegistries::start().await;
    let cluster =
        Cluster::start_with(&registries.origin.url(), 2, |_, setup| registries.reached_by(setup)).await;
    let (origin, evil) = (&registries.origin, &registries.evil);
    let [asker, holder] = [&cluster.agents[0], &cluster.agents[1]];
    let have = async |blob: &Blob| {
        origin.add_blob(blob);
        holder.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
        holder.until_idle().await;
    };
    let secret = Blob::noise(547, 9_000_000);
    have(&secret).await;
    // Who asks through the registry that has it gets it from the other member, once that has said that it has it.
    let mut controls = 548..558;
    loop {
        let control = Blob::noise(controls.next().expect("the members share"), 9_000_000);
        have(&control).await;
        asker.get_blob(REPOSITORY, &control.digest).await.expect(200, &control.bytes);
        if origin.blob_gets(&control.digest) == 1 {
            break;
        }
    }
    evil.add_bytes(&secret.digest, vec![b'x'; secret.bytes.len()].into());
    let path = format!("{}/v2/evil/x/blobs/{}?ns={}", asker.url(), secret.digest, registries.made_up());
    let before = origin.seen().len();
    for _ in 0..2 {
        let answer = Client::new().get(&path).await;
        assert!(answer.body.iter().all(|byte| *byte == b'x'), "bytes of the other registry were served");
    }
    assert_eq!(origin.seen().len(), before, "the other registry was asked for it");
    // Through its own registry it is there for the asker as for everybody.
    asker.get_blob(REPOSITORY, &secret.digest).await.expect(200, &secret.bytes);
}

/// What one registry has sent of a blob is not the beginning of another one's, not even after a restart; for the one that
/// has sent it it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_half_received() {
    let other = Origin::start().await;
    let url = other.url();
    let mut stand =
        Stand::with(|setup| setup.credentials(REGISTRY, "robot", "secret").registry("other.test", &url))
            .await;
    stand.origin.require(Auth::Basic { user: "robot".into(), password: "secret".into() });
    let blob = Blob::noise(544, 8_000_000);
    stand.origin.add_blob(&blob);
    other.add_bytes(&blob.digest, vec![b'x'; blob.bytes.len()].into());
    // So that the index has a log that grows when a checkpoint is written.
    let small = Blob::noise(545, 1000);
    stand.origin.add_blob(&small);
    stand.agent.get_blob(REPOSITORY, &small.digest).await.expect(200, &small.bytes);
    let gate = Gate::closed();
    stand.origin.script(Match::blob(&blob.digest), Plan::pause_after(4_000_000, &gate));
    let open = stand.client.open(&stand.agent.blob(REPOSITORY, &blob.digest)).await;
    stand.origin.until_sent(&blob.digest, 4_000_000).await;
    stand.agent.until_checkpoint().await;
    drop(open);
    stand.agent.restart().await;
    let answer = stand.get("other.test", &format!("{REPOSITORY}/blobs/{}", blob.digest)).await;
    assert!(answer.body.iter().all(|byte| *byte == b'x'), "bytes of the other registry were served");
    gate.open();
    stand.settled().await;
    stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
}

/// An index that was lost has lost the links as well: one question for each blob, no failed pull, no transfer. While nobody
/// can be asked, nothing is served that nobody is known to have a right to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_was_lost() {
    let mut stand = private().await;
    let blobs = [Blob::noise(545, 2_000_000), Blob::noise(546, 2_000_000)];
    for blob in &blobs {
        stand.origin.add_blob(blob);
        stand.agent.get_blob(REPOSITORY, &blob.digest).await.expect(200, &blob.bytes);
    }
    stand.settled().await;
    stand.agent.kill();
    std::fs::remove_dir_all(stand.agent.setup().data_dir().join("index")).expect("the index is there");
    stand.agent.restart().await;
    let before = stand.origin.seen().len();
    for _ in 0..2 {
        stand.agent.get_blob(REPOSITORY, &blobs[0].digest).await.expect(200, &blobs[0].bytes);
    }
    let asked: Vec<_> = stand.origin.seen().split_off(before);
    let asked: Vec<_> = asked.iter().filter(|seen| seen.header("authorization").is_some()).collect();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].method, "HEAD");
    stand.origin.refuse().await;
    stand.agent.get_blob(REPOSITORY, &blobs[0].digest).await.expect(200, &blobs[0].bytes);
    assert_eq!(stand.agent.get_blob(REPOSITORY, &blobs[1].digest).await.status, 502);
    stand.origin.recover().await;
    wait::until("the origin to be asked again", std::time::Duration::from_secs(20), || async {
        stand.agent.get_blob(REPOSITORY, &blobs[1].digest).await.status == 200
    })
    .await;
    assert_eq!(stand.origin.blob_gets(&blobs[1].digest), 1, "fetched again");
}

/// What was obtained anonymously is everybody's: no question for another repository's name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_public_is_public_under_every_name() {
    let other = Origin::start().await;
    let url = other.url();
    let stand = Stand::with(|setup| setup.registry("other.test", &url)).await;
    let image = Image::new(547, &[100_000]);
    stand.origin.add_private_image(REPOSITORY, "v1", &image);
    bring(&stand, &image).await;
    let before = stand.origin.seen().len();
    for registry in [REGISTRY, "other.test"] {
        for blob in image.blobs() {
            let path = format!("team/other/blobs/{}", blob.digest);
            stand.get(registry, &path).await.expect(200, &blob.bytes);
        }
    }
    assert_eq!((stand.origin.seen().len(), other.seen().len()), (before, 0));
    assert_eq!(other.count(Kind::Blob, "HEAD"), 0);
}

/// So is its type: a registry that sends the right bytes of a manifest as something else spoils it for nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_sends_a_manifest_as_something_else() {
    let other = Origin::start().await;
    let url = other.url();
    let stand = Stand::with(|setup| setup.registry("other.test", &url)).await;
    let stated = Image::new(548, &[1000]).manifest;
    let by_form = Blob::new(image::MANIFEST, r#"{"schemaVersion":2,"config":{},"layers":[]}"#);
    for manifest in [stated, by_form] {
        stand.origin.add_manifest(REPOSITORY, &manifest);
        other.add_manifest(REPOSITORY, &Blob { media_type: image::INDEX, ..manifest.clone() });
        let path = format!("{REPOSITORY}/manifests/{}", manifest.digest);
        for registry in ["other.test", REGISTRY] {
            let answer = stand.get(registry, &path).await;
            answer.expect(200, &manifest.bytes);
            assert_eq!(answer.header("Content-Type"), manifest.media_type, "{registry}");
            stand.settled().await;
        }
        // What the manifest names is asked for in advance, and as manifests, too, where there are no such blobs.
        let is_fetched =
            stand.origin.seen().iter().any(|s| s.reference == manifest.digest && s.method == "GET");
        assert!(!is_fetched, "what the other one has sent is served");
    }
}
