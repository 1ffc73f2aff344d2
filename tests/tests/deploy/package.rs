//! The Debian package, as its metadata in crates/agent/Cargo.toml describe it: what it brings is there, and so is all that units, pages
//! and the configuration in it lead to; its scripts are scripts.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use shoal_tests::agent::shoal;
use shoal_tests::helm;
use shoal_tests::place;
use shoal_tests::process::run;
use tempfile::TempDir;

const PROGRAM_MAX: Duration = Duration::from_secs(60);

/// What links may lead to although no package has it.
const SOURCES: [&str; 4] = ["crates", "simulations", "tests", "fuzz"];

fn checkout() -> PathBuf {
    helm::deploy().parent().expect("it lies in the checkout").to_owned()
}

fn metadata() -> toml::Table {
    let text = std::fs::read_to_string(checkout().join("crates/agent/Cargo.toml")).expect("it is there");
    let manifest: toml::Table = text.parse().expect("it is TOML");
    manifest["package"]["metadata"]["deb"].as_table().expect("a table").clone()
}

/// The files of the package: where each will be, and where it is now. `made` has what the program writes.
fn files(made: &Path) -> BTreeMap<PathBuf, PathBuf> {
    let mut files = BTreeMap::new();
    for asset in metadata()["assets"].as_array().expect("a list") {
        let text = |index: usize| asset[index].as_str().expect("text").to_owned();
        let (source, target) = (text(0), text(1));
        let source =
            match (source.strip_prefix("target/release/package/"), source.strip_prefix("target/release/")) {
                (Some(rest), _) => made.join(rest),
                (None, Some(_)) => place::shoal_bin(),
                (None, None) => checkout().join("crates/agent").join(&source),
            };
        let found = matching(&source);
        assert!(!found.is_empty(), "{} is in no checkout", source.display());
        for file in found {
            let name = file.file_name().expect("a file").to_owned();
            let to =
                if target.ends_with('/') { Path::new(&target).join(name) } else { PathBuf::from(&target) };
            assert!(files.insert(to.clone(), file).is_none(), "{} comes twice", to.display());
        }
    }
    // What cargo-deb finds by itself, beside the unit that the metadata name.
    let units = helm::deploy().join("systemd");
    for (source, target) in [
        ("shoal.service", "usr/lib/systemd/system/shoal.service"),
        ("shoal.sysusers", "usr/lib/sysusers.d/shoal.conf"),
        ("shoal.tmpfile", "usr/lib/tmpfiles.d/shoal.conf"),
    ] {
        assert!(units.join(source).is_file(), "{source}");
        assert!(files.insert(target.into(), units.join(source)).is_none(), "{target} comes twice");
    }
    files
}

/// All files of the package, with what the program writes. The folder goes when it is dropped.
async fn package() -> (BTreeMap<PathBuf, PathBuf>, TempDir) {
    let made = place::scratch();
    let mut assets = Command::new(helm::deploy().join("debian/assets.sh"));
    assets.arg(place::shoal_bin()).arg(made.path());
    run(&mut assets, PROGRAM_MAX).await.expect_ok("assets.sh");
    (files(made.path()), made)
}

/// The files that a pattern with one `*` in its last part names.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let name = pattern.file_name().expect("a name").to_string_lossy().into_owned();
    let Some((before, after)) = name.split_once('*') else {
        return pattern.is_file().then(|| pattern.to_owned()).into_iter().collect();
    };
    let folder = std::fs::read_dir(pattern.parent().expect("a folder")).into_iter().flatten().flatten();
    let is_meant = |path: &PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy();
        path.is_file() && name.starts_with(before) && name.ends_with(after)
    };
    folder.map(|entry| entry.path()).filter(is_meant).collect()
}

/// A path without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// Where the links of a page lead, without those to the network and inside the page.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    let files = targets.map(|target| target.split_once('#').map_or(target, |(file, _)| file));
    files.filter(|file| !file.is_empty() && !file.contains("://") && !file.contains(char::is_whitespace))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_has_all_that_its_pages_lead_to() {
    let (files, _made) = package().await;
    let docs = Path::new("usr/share/doc/shoal");
    assert!(files.contains_key(&docs.join("docs/OPERATING.md")));
    let mut dead = Vec::new();
    for (page, source) in files.iter().filter(|(path, _)| path.extension().is_some_and(|end| end == "md")) {
        let text = std::fs::read_to_string(source).expect("a page is text");
        let folder = page.parent().expect("a folder");
        for link in links(&text) {
            let to = plain(&folder.join(link));
            let is_source = SOURCES.iter().any(|tree| to.starts_with(docs.join(tree)));
            let is_there = files.keys().any(|path| path.starts_with(&to));
            if !is_source && !is_there {
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(dead.is_empty(), "links that lead nowhere in the package: {dead:#?}");
    for unit in ["shoal.service", "shoal-runtime.service"] {
        let text = std::fs::read_to_string(helm::deploy().join("systemd").join(unit)).expect("it is there");
        for page in text.split("man:").skip(1).filter_map(|rest| rest.split_once('(')).map(|(page, _)| page) {
            assert!(
                files.contains_key(&Path::new("usr/share/man/man1").join(format!("{page}.1.gz"))),
                "{unit}: {page}"
            );
        }
        let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=/")).expect("a command");
        let program = start.split_whitespace().next().expect("a program");
        assert!(files.contains_key(Path::new(program)), "{unit}: {program}");
    }
    assert!(files.contains_key(Path::new("usr/share/doc/shoal/changelog.Debian.gz")));
}

/// dpkg keeps what the operator makes of it, so what it begins with is to be left alone by later versions: it says nothing, and what it
/// proposes works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_configuration_is_the_defaults() {
    let (files, scratch) = package().await;
    let source = files.get(Path::new("etc/shoal/shoal.toml")).expect("it has one");
    let text = std::fs::read_to_string(source).expect("it is text");
    let says_nothing = |line: &str| line.is_empty() || line.starts_with('#');
    assert!(text.lines().all(says_nothing), "{text}");
    for path in text.split([' ', ',', '.', ':']).filter_map(|word| word.strip_prefix("/usr/")) {
        let named = files.keys().any(|file| file.to_string_lossy().starts_with(&format!("usr/{path}")));
        assert!(named, "/usr/{path} is not in the package");
    }
    let secret = scratch.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef").expect("the folder is ours");
    let proposed: Vec<&str> = text
        .lines()
        .map(|line| line.strip_prefix('#').filter(|key| !key.starts_with(' ')).unwrap_or(line))
        .collect();
    let proposed = proposed.join("\n").replace("/etc/shoal/secret", &secret.display().to_string());
    assert!(proposed.contains("\n[swarm]\n"), "{proposed}");
    let file = scratch.path().join("shoal.toml");
    std::fs::write(&file, proposed).expect("the folder is ours");
    let file = file.display().to_string();
    shoal(&["config", "check", "--config", &file]).await.expect_ok("shoal config check");
}

/// The archive of a release has every file that the manual installs by hand.
#[test]
fn the_archive_has_what_is_installed_by_hand() {
    let read = |file: &str| std::fs::read_to_string(checkout().join(file)).expect("it is there");
    let (workflow, manual) = (read(".github/workflows/release.yml"), read("docs/OPERATING.md"));
    let (_, packed) = workflow.split_once("-czf \"out/$NAME.tar.gz\" ").expect("an archive is made");
    let packed: Vec<&str> = packed.lines().next().expect("a line").split_whitespace().collect();
    let (_, by_hand) = manual.split_once("\nBy hand, from the archive").expect("the steps by hand");
    let by_hand = by_hand.split("```").nth(1).expect("commands");
    let installed = by_hand.lines().filter_map(|line| line.strip_prefix("# install -m "));
    let installed: Vec<&str> = installed.filter_map(|rest| rest.split_whitespace().nth(1)).collect();
    assert!(installed.len() >= 5, "{by_hand}");
    for source in installed {
        let is_packed = packed.iter().any(|path| Path::new(source).starts_with(path));
        assert!(is_packed, "{source} is not in the archive: {packed:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_scripts_are_scripts() {
    for name in ["postinst", "prerm", "postrm"] {
        let script = helm::deploy().join("debian").join(name);
        let text = std::fs::read_to_string(&script).expect("it is there");
        // cargo-deb puts what the units need in its place.
        assert_eq!(text.lines().filter(|line| *line == "#DEBHELPER#").count(), 1, "{name}");
        let mut check = Command::new("sh");
        check.arg("-n").arg(&script);
        run(&mut check, PROGRAM_MAX).await.expect_ok(name);
    }
}
