//! Real clients, real registries: a mirror that serves manifests and fails blobs must fail no pull (rows F12, F13), and
//! one that refuses leaves the runtime its own way (row F5).

use std::path::Path;

use shoal_tests::agent::{Agent, Setup};
use shoal_tests::clients::{Puller, skopeo_copy};
use shoal_tests::containerd::{Containerd, REGISTRY, Version};
use shoal_tests::docker_registry::DockerRegistry;
use shoal_tests::image::Image;
use shoal_tests::nginx::{BlobFault, Nginx};
use shoal_tests::place;
use shoal_tests::proxy::{Faults, Proxy};

use super::{REPOSITORY, Set, mirror, with_endpoints, with_sets};

/// Bytes of the layers of a pulled image.
const LAYERS: [usize; 2] = [600_000, 300_000];
/// The same of less than a piece each: no client has a byte of them before the whole has been checked. Of a longer one a client may have a wrong
/// beginning when it is cut, and no pull can be saved then.
const WITHHELD: [usize; 2] = [200_000, 100_000];

/// A registry, a mirror of it that fails blobs, and the images that both have.
struct Scene {
    origin: DockerRegistry,
    mirror: Nginx,
    agent: Agent,
    images: Vec<Image>,
    _behind: DockerRegistry,
}

impl Scene {
    async fn new(fault: &BlobFault, images: u64, change: impl FnOnce(Setup) -> Setup) -> Self {
        Scene::behind(DockerRegistry::start().await, fault, &LAYERS, images, change).await
    }

    /// With the registry that the mirror stands in front of.
    async fn behind(
        behind: DockerRegistry,
        fault: &BlobFault,
        layers: &[usize],
        images: u64,
        change: impl FnOnce(Setup) -> Setup,
    ) -> Self {
        let origin = DockerRegistry::start().await;
        // Each pull has an image of its own, so that no blob is in the agent's store yet.
        let images: Vec<Image> = (0..images).map(|n| Image::new(10_000 + n, layers)).collect();
        for (n, image) in images.iter().enumerate() {
            for registry in [&origin, &behind] {
                registry.push(REPOSITORY, &format!("v{n}"), image).await;
            }
        }
        let mirror = Nginx::mirror(&behind.url(), fault).await;
        let setup = Setup::new(&origin.url()).registry(REGISTRY, &origin.url());
        let setup = with_endpoints(setup, [mirror.url().as_str()]);
        let sets = vec![Set::new(REGISTRY, [self::mirror(0).as_str()])];
        let agent = change(with_sets(setup, sets)).start().await;
        Scene { origin, mirror, agent, images, _behind: behind }
    }

    /// containerd without a way around the agent.
    async fn containerd(&self) -> Containerd {
        let containerd = Containerd::start(Version::V1_6, None).await;
        containerd.mirror(&self.agent.url(), &self.agent.url());
        containerd
    }

    /// Pulls one image by containerd, and throws away what containerd has of it.
    async fn pull(&self, containerd: &Containerd, n: usize) {
        let name = format!("{REPOSITORY}:v{n}");
        let pulled = containerd.fetch(&name).await.expect_ok(&format!("pull {n} by containerd"));
        containerd.expect_image(&self.images[n]).await;
        containerd.forget(&name).await;
        eprintln!("pull {n} by containerd: {:?}", pulled.took);
    }

    /// Copies one image by skopeo: by digest, so that the mirror is asked for the manifest.
    async fn copy(&self, folder: &Path, n: usize) {
        let image = &self.images[n];
        let name = format!("{REGISTRY}/{REPOSITORY}@{}", image.manifest.digest);
        let into = folder.join(format!("image-{n}"));
        let copied = skopeo_copy(self.agent.address(), &name, &into).await;
        let copied = copied.expect_ok(&format!("pull {n} by skopeo"));
        for blob in image.blobs() {
            let path = into.join(blob.digest.trim_start_matches("sha256:"));
            assert_eq!(std::fs::read(path).expect("skopeo has written it"), blob.bytes);
        }
        eprintln!("pull {n} by skopeo: {:?}", copied.took);
    }

    /// Every layer of the images so far came from the registry, once.
    async fn expect_from_origin(&self, images: usize) {
        self.origin.until_calm().await;
        for layer in self.images[..images].iter().flat_map(|image| &image.layers) {
            assert_eq!(self.origin.blob_gets(&layer.digest), 1, "{}", layer.digest);
        }
    }
}

/// F12: podman, buildah and skopeo as they are. None of them has a second place to ask, and to none is said that there is
/// one: parts of a pull come from here, others from there, and the client sees one registry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f12_plain_clients_notice_no_fallback() {
    place::needs_root();
    // Each has a scene of its own: a mirror that has failed another one is left alone for a while.
    for puller in [Puller::Podman, Puller::Buildah] {
        let scene = Scene::new(&BlobFault::Status(503), 1, |setup| setup).await;
        let folder = place::scratch();
        let name = format!("{REPOSITORY}:v0");
        let pulled = puller.pull(scene.agent.address(), REGISTRY, &name, folder.path()).await;
        pulled.expect_ok(&format!("the pull by {puller:?}"));
        let images = puller.images(folder.path()).await;
        assert!(images.contains(&scene.images[0].manifest.digest), "{puller:?}: {images}");
        scene.expect_from_origin(1).await;
        assert!(scene.mirror.answered("blobs", 503) >= 1, "{puller:?}: the mirror was not asked");
    }
    let scene = Scene::new(&BlobFault::Status(503), 1, |setup| setup).await;
    let folder = place::scratch();
    scene.copy(folder.path(), 0).await;
    scene.expect_from_origin(1).await;
    let (manifests, blobs) = (scene.mirror.answered("manifests", 200), scene.mirror.answered("blobs", 503));
    assert!(manifests >= 1 && blobs >= 1, "the mirror was not asked: {manifests} manifests, {blobs} blobs");
}

/// F13: ten pulls in a row by each of two clients, from a mirror that has every manifest and answers 503 for every blob.
/// skopeo has no fallback of its own, and containerd is given none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f13_ten_pulls_in_a_row() {
    const PULLS: usize = 10;
    let scene = Scene::new(&BlobFault::Status(503), 2 * PULLS as u64, |setup| setup).await;
    let containerd = scene.containerd().await;
    let folder = place::scratch();
    for n in 0..PULLS {
        scene.pull(&containerd, 2 * n).await;
        scene.copy(folder.path(), 2 * n + 1).await;
    }
    scene.expect_from_origin(2 * PULLS).await;
    let (manifests, blobs) = (scene.mirror.answered("manifests", 200), scene.mirror.answered("blobs", 503));
    println!("F13: {PULLS} pulls each; the mirror has served {manifests} manifests and failed {blobs} blobs");
    assert!(manifests >= 1 && blobs >= 1, "the mirror was not asked: {manifests} manifests, {blobs} blobs");
}

/// F13 for every way in which a mirror can fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f13_every_fault_of_a_mirror() {
    const IMAGES: u64 = 4;
    let began = std::time::Instant::now();
    // Bytes in the right number under the right names, but others.
    let lies = place::scratch();
    for n in 0..IMAGES {
        for blob in Image::new(10_000 + n, &WITHHELD).blobs() {
            let mut bytes = blob.bytes.to_vec();
            bytes[100] ^= 1;
            std::fs::write(lies.path().join(&blob.digest), bytes).expect("the folder is ours");
        }
    }
    let behind = [DockerRegistry::start().await, DockerRegistry::start().await];
    let cut = Faults { reset_after_bytes: Some(1), ..Faults::default() };
    let cutting = Proxy::start(behind[0].address(), cut).await;
    let silent = Proxy::start(behind[1].address(), Faults::default()).await;
    silent.go_silent();
    let [cut_registry, silent_registry] = behind;
    let table = [
        ("403", BlobFault::Status(403), None),
        ("404", BlobFault::Status(404), None),
        ("429", BlobFault::Status(429), None),
        ("cut after 64 kB at most", BlobFault::At(cutting.url()), Some(cut_registry)),
        ("no first byte", BlobFault::At(silent.url()), Some(silent_registry)),
        ("wrong bytes", BlobFault::Files(lies.path().to_owned()), None),
    ];
    for (name, fault, registry) in table {
        let registry = match registry {
            Some(registry) => registry,
            None => DockerRegistry::start().await,
        };
        let change = |setup: Setup| {
            // A 403 is passed over only where the operator wants that.
            setup.set("mirrors.on_denied", "continue").set("mirrors.header_timeout", "3s")
        };
        let layers = if matches!(fault, BlobFault::Files(_)) { &WITHHELD } else { &LAYERS };
        let scene = Scene::behind(registry, &fault, layers, IMAGES, change).await;
        let containerd = scene.containerd().await;
        let folder = place::scratch();
        eprintln!("--- {name}, {:?} since the start", began.elapsed());
        for n in 0..IMAGES as usize / 2 {
            scene.pull(&containerd, 2 * n).await;
            scene.copy(folder.path(), 2 * n + 1).await;
        }
        assert!(scene.mirror.answered("manifests", 200) >= 1, "{name}: the mirror was not asked");
        scene.expect_from_origin(IMAGES as usize).await;
    }
    assert!(cutting.resets() > 0 && silent.connections() > 0, "the mirror was not asked for blobs");
}

/// F5: the mirror refuses, the agent says so, and containerd completes the pull by the registry itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f5_the_runtime_goes_on_by_itself() {
    let scene = Scene::new(&BlobFault::Status(403), 1, |setup| setup).await;
    let fallback = Proxy::start(scene.origin.address(), Faults::default()).await;
    let containerd = Containerd::start(Version::V1_6, None).await;
    containerd.mirror(&scene.agent.url(), &fallback.url());
    containerd.fetch(&format!("{REPOSITORY}:v0")).await.expect_ok("the pull");
    containerd.expect_image(&scene.images[0]).await;
    assert!(fallback.connections() > 0, "the agent has served what the mirror refuses");
    assert!(scene.mirror.answered("blobs", 403) > 0, "the mirror was not asked");
    let address = scene.mirror.address().to_string();
    let named = |line: &str| line.contains(&address) && line.contains("403");
    let what = "a line that names the mirror and its answer";
    scene.agent.until_logged(what, |log| log.lines().any(named)).await;
}
