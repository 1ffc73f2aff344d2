//! What containerd's own configuration says about mirrors: where its folders of hosts are, and what keeps it from looking
//! there (`contract.md` 2.1).

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Finding, Kind, Root, Trap, Version};

/// What containerd 2.2 takes when nothing is said.
const DEFAULT_LIST: &str = "/etc/containerd/certs.d:/etc/docker/certs.d";
/// Where k0s looks for parts of its containerd's configuration.
const K0S_DROP_INS: &str = "/etc/k0s/containerd.d/*.toml";
/// Most files that a configuration is put together from.
const FILES_MAX: usize = 64;

/// A configuration with what it imports.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// The files that are there, the main one first; later ones overrule earlier ones.
    pub files: Vec<File>,
    /// The format's version.
    pub format: i64,
    /// What the main file imports, as it is written there; without patterns that its containerd does not follow.
    pub imports: Vec<String>,
    /// Where folders of hosts are: one path, or a list with colons. Empty is none.
    pub config_path: Option<(String, PathBuf)>,
    /// The key that makes CRI pull by itself instead of by the transfer service.
    pub local_pull: Option<String>,
    /// Mirrors in the old form, and the file.
    pub old_mirrors: Option<PathBuf>,
    discards_layers: Option<PathBuf>,
    cri_disabled: Option<PathBuf>,
    unreadable: Vec<(PathBuf, String)>,
}

/// One file.
#[derive(Clone, Debug)]
pub(super) struct File {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it has a section of the plugin that mirrors are configured in.
    pub has_section: bool,
}

/// Where the key is, by the version of the format.
pub(super) fn section(format: i64) -> &'static [&'static str] {
    match format {
        ..=1 => &["plugins", "cri"],
        2 => &["plugins", "io.containerd.grpc.v1.cri"],
        _ => &["plugins", "io.containerd.cri.v1.images"],
    }
}

/// The format that a file without one is written in.
pub(super) fn format_of(version: Option<Version>) -> i64 {
    if version.is_some_and(|version| version >= Version::V2) { 3 } else { 2 }
}

impl Settings {
    /// Reads the main file and what it imports.
    pub fn read(root: &Root, kind: Kind, main: &Path, version: Option<Version>) -> Self {
        let mut settings = Settings {
            files: Vec::new(),
            format: format_of(version),
            imports: Vec::new(),
            config_path: None,
            local_pull: None,
            old_mirrors: None,
            discards_layers: None,
            cri_disabled: None,
            unreadable: Vec::new(),
        };
        let (mut ahead, mut seen) = (VecDeque::from([main.to_owned()]), BTreeSet::new());
        if kind == Kind::K0s {
            // It hands them to its containerd itself.
            ahead.extend(matching(root, main, K0S_DROP_INS));
        }
        while let Some(path) = ahead.pop_front() {
            if seen.len() == FILES_MAX || !seen.insert(path.clone()) {
                continue;
            }
            let table = match root.read(&path).map(|text| text.map(|text| text.parse::<Table>())) {
                Ok(None) => continue,
                Ok(Some(Ok(table))) => table,
                Ok(Some(Err(error))) => {
                    settings.unreadable.push((path, error.message().to_owned()));
                    continue;
                }
                Err(error) => {
                    settings.unreadable.push((path, error.to_string()));
                    continue;
                }
            };
            let mut imports = texts(table.get("imports"));
            imports.retain(|pattern| is_followed(pattern, version));
            ahead.extend(imports.iter().flat_map(|pattern| matching(root, &path, pattern)));
            if path == main {
                settings.format = table.get("version").and_then(Value::as_integer).unwrap_or(1);
                settings.imports = imports;
            }
            settings.add(path, &table);
        }
        settings
    }

    fn add(&mut self, path: PathBuf, table: &Table) {
        if texts(table.get("disabled_plugins")).iter().any(|plugin| is_cri(plugin)) {
            self.cri_disabled = Some(path.clone());
        }
        let format = table.get("version").and_then(Value::as_integer).unwrap_or(self.format);
        let plugin = at(table, section(format));
        self.files.push(File { path: path.clone(), has_section: plugin.is_some() });
        let Some(plugin) = plugin else { return };
        if let Some(key) = pulls_locally(plugin, format) {
            self.local_pull = Some(key);
        }
        let discards = [at(plugin, &["containerd"]), Some(plugin)].into_iter().flatten();
        if discards
            .filter_map(|table| table.get("discard_unpacked_layers"))
            .any(|v| v.as_bool() == Some(true))
        {
            self.discards_layers = Some(path.clone());
        }
        let Some(registry) = at(plugin, &["registry"]) else { return };
        let has =
            |key: &str| registry.get(key).and_then(Value::as_table).is_some_and(|table| !table.is_empty());
        let configs = registry.get("configs").and_then(Value::as_table);
        if has("mirrors") || configs.is_some_and(|hosts| hosts.values().any(|host| host.get("tls").is_some()))
        {
            self.old_mirrors = Some(path.clone());
        }
        if let Some(said) =
            registry.get("config_path").and_then(Value::as_str).filter(|said| !said.is_empty())
        {
            self.config_path = Some((said.to_owned(), path));
        }
    }

    /// The folder whose folders of hosts are read by whoever follows this configuration; none if none is read.
    pub fn hosts_dir(&self, version: Option<Version>) -> Option<PathBuf> {
        let by_default =
            version.is_some_and(|version| version >= Version::LIST_BY_DEFAULT).then_some(DEFAULT_LIST);
        let said = self.config_path.as_ref().map(|(said, _)| said.as_str()).or(by_default)?;
        said.split(':').find(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// What keeps mirrors from being used, or may do so.
    pub fn findings(&self, main: &Path, version: Option<Version>) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self
            .unreadable
            .iter()
            .map(|(path, why)| Finding::new(path, Trap::Unreadable { why: why.clone() }))
            .collect();
        if let Some(path) = &self.cri_disabled {
            findings.push(Finding::new(path, Trap::CriDisabled));
            return findings;
        }
        let at_least = |least: Version| version.is_some_and(|version| version >= least);
        let (said, place) = match &self.config_path {
            Some((said, path)) => (Some(said.as_str()), path.as_path()),
            None if at_least(Version::LIST_BY_DEFAULT) => (Some(DEFAULT_LIST), main),
            None => (None, main),
        };
        // A version that is not known is one in which it can go wrong.
        let may_transfer = version.map_or(self.format > 2, |version| version >= Version::TRANSFER);
        match said {
            None => findings.push(Finding::new(place, Trap::HostsDirUnset)),
            Some(list) if list.contains(':') && may_transfer => {
                let list = list.to_owned();
                findings.push(Finding::new(
                    place,
                    match &self.local_pull {
                        Some(key) => Trap::HostsDirListInUse { list, key: key.clone() },
                        None => Trap::HostsDirList { list },
                    },
                ));
            }
            Some(_) => {}
        }
        if let Some(path) = &self.old_mirrors {
            let together = self.config_path.is_some();
            findings
                .push(Finding::new(path, if together { Trap::OldMirrorsBeside } else { Trap::OldMirrors }));
        }
        if let Some(path) = &self.discards_layers {
            findings.push(Finding::new(path, Trap::DiscardsLayers));
        }
        findings
    }
}

/// The key of the plugin that makes CRI pull by itself.
fn pulls_locally(plugin: &Table, format: i64) -> Option<String> {
    let truth =
        |table: &Table, key: &str, wanted: bool| table.get(key).and_then(Value::as_bool) == Some(wanted);
    let images = if format > 2 { Some(plugin) } else { at(plugin, &["containerd"]) };
    if truth(plugin, "use_local_image_pull", true) {
        return Some("use_local_image_pull".into());
    }
    if let Some(images) = images {
        for (key, wanted) in [("discard_unpacked_layers", true), ("disable_snapshot_annotations", false)] {
            if truth(images, key, wanted) {
                return Some(key.into());
            }
        }
    }
    let downloads = plugin.get("max_concurrent_downloads").and_then(Value::as_integer);
    const DEFAULT_DOWNLOADS: i64 = 3;
    downloads.is_some_and(|count| count != DEFAULT_DOWNLOADS).then(|| "max_concurrent_downloads".into())
}

fn is_cri(plugin: &str) -> bool {
    matches!(plugin, "cri" | "io.containerd.grpc.v1.cri" | "io.containerd.cri.v1.images")
}

fn at<'t>(table: &'t Table, path: &[&str]) -> Option<&'t Table> {
    path.iter().try_fold(table, |table, name| table.get(*name)?.as_table())
}

fn texts(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Whether containerd finds what a pattern of `imports` stands for. Containerd 1 takes one with `*` that is no absolute path
/// for relative to its own working folder, which is mostly `/`. Where the version is not known, that is not built upon.
fn is_followed(pattern: &str, version: Option<Version>) -> bool {
    !pattern.contains('*') || pattern.starts_with('/') || version.is_some_and(|version| version.major >= 2)
}

/// The files that a pattern of `imports` in `file` stands for.
fn matching(root: &Root, file: &Path, pattern: &str) -> Vec<PathBuf> {
    let pattern = file.parent().unwrap_or(Path::new("/")).join(pattern);
    let (Some(folder), Some(name)) = (pattern.parent(), pattern.file_name().and_then(|name| name.to_str()))
    else {
        return Vec::new();
    };
    if !name.contains(['*', '?']) {
        return vec![pattern.clone()];
    }
    let fits = |path: &PathBuf| path.file_name().and_then(|n| n.to_str()).is_some_and(|n| is_match(name, n));
    root.entries(folder).into_iter().filter(fits).collect()
}

/// Whether a name fits a pattern with `*` and `?`.
pub(super) fn is_match(pattern: &str, name: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => name.is_empty(),
        Some('*') => {
            let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            ends.into_iter().any(|at| is_match(rest.as_str(), &name[at..]))
        }
        Some(wanted) => {
            let mut chars = name.chars();
            let first = chars.next();
            first.is_some_and(|c| wanted == '?' || c == wanted) && is_match(rest.as_str(), chars.as_str())
        }
    }
}
