//! Which images are meant: those on the command line, those in lists, and those that Kubernetes objects name.
//!
//! Invariant: every name is looked at before anything is begun, and what is wrong is named with its place.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;

use super::kubernetes;
use crate::cli::Failure;
use crate::image::Image;

/// Largest file that is read, bytes: what the objects of a whole cluster take.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// All of them, each once, in the order in which they were named.
pub(super) fn gather<P: AsRef<Path>>(
    given: &[String],
    lists: &[P],
    manifests: &[P],
) -> Result<Vec<String>, Failure> {
    let mut found: Vec<(String, Option<String>)> = given.iter().map(|image| (image.clone(), None)).collect();
    for path in lists {
        let place = place(path.as_ref());
        found.extend(
            listed(&read(path.as_ref())?)
                .map(|(line, image)| (image.to_owned(), Some(format!("{place}:{line}")))),
        );
    }
    for path in manifests {
        let place = place(path.as_ref());
        let named = kubernetes::images(&read(path.as_ref())?)
            .map_err(|reason| Failure::Manifest { place: place.clone(), reason })?;
        if named.is_empty() {
            let reason = "it names no image: there is no object with containers in it".into();
            return Err(Failure::Manifest { place, reason });
        }
        found.extend(named.into_iter().map(|(object, image)| (image, Some(format!("{place}, {object}")))));
    }
    let (mut images, mut seen) = (Vec::new(), BTreeSet::new());
    for (image, place) in found {
        let parsed: Image = image.parse().map_err(|mut error: crate::image::ImageError| {
            if let Some(place) = place {
                error.reason = format!("{} (in {place})", error.reason);
            }
            Failure::Image(error)
        })?;
        if seen.insert(parsed.to_string()) {
            images.push(image);
        }
    }
    if images.is_empty() { Err(Failure::NothingToWarm) } else { Ok(images) }
}

/// The images of a list, with the numbers of their lines.
fn listed(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let image = |line: &str| line.split('#').next().unwrap_or_default().trim().len();
    let lines = text.lines().enumerate().filter(move |(_, line)| image(line) > 0);
    lines.map(|(number, line)| (number + 1, line.split('#').next().unwrap_or_default().trim()))
}

fn is_standard_input(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn place(path: &Path) -> String {
    if is_standard_input(path) { "standard input".into() } else { path.display().to_string() }
}

fn read(path: &Path) -> Result<String, Failure> {
    let failed = |source| Failure::Read { path: place(path), source };
    let mut text = String::new();
    let read = if is_standard_input(path) {
        std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).map_err(failed)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)
    };
    read.map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(failed(std::io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes"))));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_an_image_a_line() {
        let text = "# base images\nredis:7\n\n  quay.io/team/app:v1  # the app\n\t\n#\nbusybox\r\n";
        let found: Vec<_> = listed(text).collect();
        assert_eq!(found, [(2, "redis:7"), (4, "quay.io/team/app:v1"), (7, "busybox")]);
    }

    #[test]
    fn every_source_counts_and_each_image_once() {
        let folder = tempfile::tempdir().unwrap();
        let (list, objects) = (folder.path().join("images.txt"), folder.path().join("pod.yaml"));
        std::fs::write(&list, "redis:7\ndocker.io/library/redis:7 # the same\nnginx\n").unwrap();
        std::fs::write(
            &objects,
            "kind: Pod\nspec: {containers: [{image: nginx:latest}, {image: quay.io/a/b}]}\n",
        )
        .unwrap();
        let given = ["app:v1".to_owned()];
        let found = gather(&given, &[&list], &[&objects]).unwrap();
        assert_eq!(found, ["app:v1", "redis:7", "nginx", "quay.io/a/b"]);

        std::fs::write(&list, "redis:7\n\nRedis:8\n").unwrap();
        let error = gather(&[], &[&list], &[]).unwrap_err().to_string();
        assert!(error.contains("\"Redis:8\" is no image") && error.contains("images.txt:3"), "{error}");
        let error = gather(&[], &[] as &[&Path], &[&folder.path().join("none")]).unwrap_err();
        assert!(matches!(error, Failure::Read { .. }), "{error}");
        assert!(matches!(gather(&[], &[] as &[&Path], &[]), Err(Failure::NothingToWarm)));
        std::fs::write(&objects, "kind: ConfigMap\ndata: {image: redis}\n").unwrap();
        assert!(matches!(gather(&[], &[], &[&objects]), Err(Failure::Manifest { .. })));
    }
}
