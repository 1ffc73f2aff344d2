//! skopeo, podman and buildah: no `ns`, the registry comes from the path; after a served manifest a blob that fails is a failed
//! pull, because these clients have no fallback.

use shoal_tests::agent::Setup;
use shoal_tests::clients::{Puller, skopeo_copy};
use shoal_tests::docker_registry::DockerRegistry;
use shoal_tests::image::Image;
use shoal_tests::origin::{Gate, Match, Origin, Plan};
use shoal_tests::place;

use super::{NAME, REGISTRY, REPOSITORY};

/// skopeo by path addressing, from docker-registry, cold and warm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skopeo_copies() {
    let registry = DockerRegistry::start().await;
    let image = Image::small(430);
    registry.push(REPOSITORY, "v1", &image).await;
    let agent = Setup::new(&registry.url()).registry(REGISTRY, &registry.url()).start().await;
    let folder = place::scratch();
    for round in ["cold", "warm"] {
        let into = folder.path().join(round);
        let copied = skopeo_copy(agent.address(), &format!("{REGISTRY}/{NAME}"), &into).await;
        copied.expect_ok("skopeo copy");
        for blob in image.blobs() {
            let path = into.join(blob.digest.trim_start_matches("sha256:"));
            assert_eq!(std::fs::read(path).expect("skopeo has written it"), blob.bytes, "{round}");
        }
    }
    registry.until_calm().await;
    for blob in image.blobs() {
        assert_eq!(registry.blob_gets(&blob.digest), 1, "{}", blob.digest);
    }
}

/// podman and buildah by a mirror in their registries.conf.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman_and_buildah_pull() {
    place::needs_root();
    let registry = DockerRegistry::start().await;
    let image = Image::small(431);
    registry.push(REPOSITORY, "v1", &image).await;
    let agent = Setup::new(&registry.url()).registry(REGISTRY, &registry.url()).start().await;
    for puller in [Puller::Podman, Puller::Buildah] {
        let folder = place::scratch();
        let pulled = puller.pull(agent.address(), REGISTRY, NAME, folder.path()).await;
        pulled.expect_ok(&format!("{puller:?}"));
        let images = puller.images(folder.path()).await;
        assert!(images.contains(&image.manifest.digest), "{puller:?}: {images}");
    }
    registry.until_calm().await;
    for layer in &image.layers {
        assert_eq!(registry.blob_gets(&layer.digest), 1);
    }
}

/// What fails a pull of these clients for good without the agent: a blob that is 500 once, a reset, a stall.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skopeo_notices_nothing_of_a_bad_upstream() {
    let origin = Origin::start().await;
    let image = Image::small(432);
    origin.add_image(REPOSITORY, "v1", &image);
    let never = Gate::closed();
    origin.script_times(1, Match::blob(&image.layers[0].digest), Plan::reset_after(3_000_000));
    origin.script_times(1, Match::blob(&image.layers[1].digest), Plan::pause_after(1_000_000, &never));
    origin.script_times(1, Match::blob(&image.layers[2].digest), Plan::close_after(500_000));
    let setup =
        Setup::new(&origin.url()).registry(REGISTRY, &origin.url()).set("upstream.idle_timeout", "2s");
    let agent = setup.start().await;
    let folder = place::scratch();
    let copied =
        skopeo_copy(agent.address(), &format!("{REGISTRY}/{NAME}"), &folder.path().join("image")).await;
    copied.expect_ok("skopeo copy");
}
