//! The files that a configuration names, for somebody who looks at them.

use std::path::PathBuf;

use super::Config;
use super::document::key;

/// A file that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    /// The key that names it, with its tables.
    pub key: String,
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub holds: Holds,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A password for a registry.
    Password,
    /// A secret that all agents share.
    ClusterSecret,
    /// Something else that nobody else should read: a private key, credentials.
    Secret,
    /// Certificates in PEM form.
    Certificates,
}

impl Config {
    /// Every file that the configuration names and that must be there.
    pub fn named_files(&self) -> Vec<NamedFile> {
        let upstream = &self.file.upstream;
        let docker = upstream.docker_config.named("upstream.docker_config");
        let mut files: Vec<NamedFile> = docker
            .map(|(key, path)| NamedFile { key, path: path.to_owned(), holds: Holds::Secret })
            .collect();
        let mut add = |key: String, path: &Option<PathBuf>, holds| {
            files.extend(path.clone().map(|path| NamedFile { key, path, holds }));
        };
        for (name, registry) in &upstream.registries {
            let of = |name_of_key: &str| format!("upstream.registries.{}.{name_of_key}", key(name));
            add(of("ca"), &registry.ca, Holds::Certificates);
            add(of("client_certificate"), &registry.client_certificate, Holds::Certificates);
            add(of("client_key"), &registry.client_key, Holds::Secret);
            add(of("password_file"), &registry.password_file, Holds::Password);
        }
        add("object_store.ca".into(), &self.file.object_store.ca, Holds::Certificates);
        add("object_store.credentials_file".into(), &self.file.object_store.credentials_file, Holds::Secret);
        add("swarm.secret_file".into(), &self.file.swarm.secret_file, Holds::ClusterSecret);
        add("swarm.other_secret_file".into(), &self.file.swarm.other_secret_file, Holds::ClusterSecret);
        let admin = &self.file.admin;
        add("admin.certificate".into(), &admin.certificate, Holds::Certificates);
        add("admin.key".into(), &admin.key, Holds::Secret);
        add("admin.token_file".into(), &admin.token_file, Holds::Secret);
        add("traces.headers_file".into(), &self.file.traces.headers_file, Holds::Secret);
        add("traces.ca".into(), &self.file.traces.ca, Holds::Certificates);
        files
    }
}
