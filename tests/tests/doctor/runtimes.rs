//! The container runtimes of a node, whose file tree lies in a folder.

use super::*;

/// Writes a file of the node.
fn file(setup: &Setup, path: &str, text: &str) {
    let path = setup.folder().join("root").join(path);
    std::fs::create_dir_all(path.parent().expect("it is in a folder")).expect("ours");
    std::fs::write(path, text).expect("ours");
}

const CONTAINERD: &str = "etc/containerd/config.toml";
const HOSTS: &str = "etc/containerd/certs.d/docker.io/hosts.toml";
const ONE_DIRECTORY: &str = "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerd_and_its_traps() {
    let setup = Setup::new(NOWHERE);
    let agent = setup.registry_address();
    let host = |rest: &str| format!("[host.\"http://{agent}\"]\n{rest}");
    file(&setup, CONTAINERD, ONE_DIRECTORY);
    doctor(&setup).await.expect("runtime-not-pointed", "problem", &["containerd"]);
    file(&setup, HOSTS, &host("capabilities = [\"pull\", \"resolve\"]\n"));
    doctor(&setup).await.expect_no("runtime-not-pointed");
    let table = [
        (host("capabilities = [\"pull\"]\n"), "hosts-capability-missing", "problem"),
        (host("capabilities = [\"pull\", \"fetch\"]\n"), "hosts-capability-unknown", "problem"),
        (host("skip_verify = true\n"), "hosts-tls-on-http", "warning"),
        (host("= broken\n"), "runtime-config-unreadable", "problem"),
        (format!("[host.\"https://other.test\"]\n{}", host("")), "mirror-not-first", "warning"),
        ("[host.\"http://127.0.0.1:5009\"]\n".to_owned(), "runtime-other-port", "problem"),
    ];
    for (hosts, id, level) in table {
        file(&setup, HOSTS, &hosts);
        doctor(&setup).await.expect(id, level, &["certs.d/docker.io"]);
    }
    file(&setup, HOSTS, &host(""));
    file(&setup, CONTAINERD, "version = 2\n");
    doctor(&setup).await.expect("containerd-config-path-unset", "problem", &["config.toml"]);
    file(&setup, CONTAINERD, &ONE_DIRECTORY.replace("certs.d\"", "certs.d:/etc/docker/certs.d\""));
    doctor(&setup).await.expect("containerd-config-path-list", "problem", &["certs.d:"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_and_cri_o() {
    let setup = Setup::new(NOWHERE);
    let mirrors = format!("{{\"registry-mirrors\": [\"http://{}\"]}}", setup.registry_address());
    file(&setup, "etc/docker/daemon.json", &mirrors);
    doctor(&setup).await.expect("docker-no-default-registry", "problem", &["daemon.json"]);
    let setup = Setup::new(NOWHERE);
    file(&setup, "etc/crio/crio.conf", "");
    doctor(&setup).await.expect("runtime-not-pointed", "problem", &["cri-o"]);
}
