//! Is the configuration right, and are the files that it names what they should be?
//!
//! Facts are metadata, dates and counts: no content of a secret leaves [`look`].

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, RootCertStore};

use super::finding::{Finding, Group, Outcome, kinds};
use crate::config::{Config, ConfigErrors, Holds, NamedFile};
use crate::upstream::SettingsError;

kinds! {
    UNREADABLE: "config-unreadable", Configuration, Problem,
        "The agent does not start, and nothing else can be checked.",
        "Name the file with --config, and let the agent's user read it.";
    WRONG: "config-wrong", Configuration, Problem,
        "The agent refuses to start with this file; one that runs goes on with what it read before.",
        "Correct the key; `shoal config sample` explains every one, `shoal config check` checks again.";
    DENIED: "config-denied", Configuration, Warning,
        "This is no fault of the agent's: this user may not read what only the agent's user should. What follows from these files could not be checked, and nothing beyond the agent itself.",
        "Run this as the agent's user, or as root.";
    CHANGED: "config-changed", Configuration, Warning,
        "The agent reads its configuration once, at its start: what runs may differ from what is checked here.",
        "Restart the agent.";
    WRITABLE: "config-writable", Configuration, Warning,
        "Any user of this node can decide which registries the agent asks and whom it trusts.",
        "Take the right away: chmod go-w FILE.";
    EXPOSED: "secret-exposed", Configuration, Warning,
        "Any user of this node can read it and use it as the agent does.",
        "chmod o= FILE, with the agent's user as its owner; for a Kubernetes Secret set defaultMode: 0400.";
    EMPTY: "password-empty", Configuration, Problem,
        "The registry is shown an empty password and refuses it.",
        "Write the password into the file; it is read again when it changes.";
    WEAK: "secret-weak", Configuration, Warning,
        "Whoever guesses the cluster's secret can join the swarm and read every image.",
        "Make one with `openssl rand -hex 32` and change it in three rounds (Swarm, A new secret).";
    EXPIRED: "certificate-expired", Configuration, Problem,
        "It is refused by whoever looks at it, so registries that need it cannot be asked.",
        "Renew it, and restart the agent: certificates are read at its start.";
    EXPIRES: "certificate-expires", Configuration, Warning,
        "In a few days it will be refused by whoever looks at it.",
        "Renew it, and restart the agent: certificates are read at its start.";
    UNUSABLE: "certificate-mismatch", Configuration, Problem,
        "The certificate and the key do not belong together, or are of a kind that cannot be used: the agent does not start.",
        "Give the key that the certificate was made for.";
}

/// A certificate that ends sooner is told of: renewals by hand need some days.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// The year 10000, before which every certificate ends (RFC 5280, section 4.1.2.5).
const AFTER_ALL: Duration = Duration::from_secs(253_402_300_800);
/// Bytes of a file that are looked at.
const LOOKED_AT_MAX: u64 = 4 << 20;
/// A secret of random hex digits of the least length has more different bytes than this, nearly always.
const DISTINCT_BYTES_MIN: usize = 8;
/// Words that nobody's random generator writes.
const GUESSABLE: [&str; 6] = ["secret", "password", "change", "shoal", "example", "12345678"];

/// What is known of a file that the configuration names.
#[derive(Clone, Debug)]
struct FileFacts {
    file: NamedFile,
    /// Permission bits.
    mode: u32,
    is_empty: bool,
    is_guessable: bool,
    /// For each certificate: when it ends.
    certificates: Vec<SystemTime>,
}

/// What is wrong with a configuration that cannot be used.
pub(super) fn judge_errors(errors: &ConfigErrors) -> Vec<Outcome> {
    match errors {
        ConfigErrors::Unreadable { path, source } => {
            vec![UNREADABLE.found(format!("{} cannot be read: {source}", path.display())).into()]
        }
        ConfigErrors::Wrong { path, problems } => {
            let file = path.as_ref().map_or_else(String::new, |path| format!("{}:", path.display()));
            problems.iter().map(|problem| WRONG.found(format!("{file}{problem}")).into()).collect()
        }
    }
}

/// Files that only this user may not read.
pub(super) fn judge_denied(denied: &[NamedFile]) -> Outcome {
    let files: Vec<String> =
        denied.iter().map(|file| format!("{} ({})", file.path.display(), file.key)).collect();
    DENIED.found(format!("this user may not read {}", files.join(", "))).into()
}

/// What the registry client does not take, although the file is well formed.
pub(super) fn judge_settings(error: &SettingsError) -> Outcome {
    let text = crate::causes::chain(error);
    match error {
        SettingsError::Identity { .. } => UNUSABLE.found(text).into(),
        _ => WRONG.found(text).into(),
    }
}

/// The configuration was read: is it what the agent has, and are its files in order? `up_since` is the agent's start.
pub(super) fn check(path: Option<&Path>, config: &Config, up_since: Option<SystemTime>) -> Vec<Outcome> {
    let now = SystemTime::now();
    let mut outcomes = Vec::new();
    match path {
        None => outcomes.push(Outcome::well(Group::Configuration, "no file: the defaults are in force")),
        Some(path) => {
            let meta = fs::metadata(path).ok();
            let changed = meta.as_ref().and_then(|meta| meta.modified().ok());
            let mode = meta.as_ref().map_or(0, |meta| meta.mode());
            outcomes.extend(judge_file(path, mode, changed, up_since));
        }
    }
    let facts: Vec<FileFacts> = config.named_files().into_iter().filter_map(look).collect();
    let found: Vec<Finding> = facts.iter().flat_map(|facts| judge(facts, now)).collect();
    if found.is_empty() && !facts.is_empty() {
        let what = format!("files that it names, and that are in order: {}", facts.len());
        outcomes.push(Outcome::well(Group::Configuration, what));
    }
    outcomes.extend(found.into_iter().map(Outcome::from));
    outcomes
}

fn judge_file(
    path: &Path,
    mode: u32,
    changed: Option<SystemTime>,
    up_since: Option<SystemTime>,
) -> Vec<Outcome> {
    let shown = path.display();
    let mut outcomes = vec![Outcome::well(Group::Configuration, format!("{shown} is right"))];
    if mode & 0o002 != 0 {
        let found =
            WRITABLE.found(format!("{shown} can be written by everybody (mode {:04o})", mode & 0o7777));
        outcomes.push(found.remedy(format!("chmod go-w {shown}")).into());
    }
    if let (Some(changed), Some(up_since)) = (changed, up_since)
        && changed > up_since
    {
        let ago = age(changed);
        outcomes
            .push(CHANGED.found(format!("{shown} was changed {ago} ago, after the agent's start")).into());
    }
    outcomes
}

fn age(of: SystemTime) -> String {
    let seconds = of.elapsed().unwrap_or_default().as_secs();
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// Looks at a file. One that cannot be read is a problem of the configuration, which has been told already.
fn look(file: NamedFile) -> Option<FileFacts> {
    let meta = fs::metadata(&file.path).ok()?;
    let bytes = if meta.len() <= LOOKED_AT_MAX { fs::read(&file.path).ok()? } else { return None };
    let certificates = match file.holds {
        Holds::Certificates => certificates(&bytes),
        _ => Vec::new(),
    };
    Some(FileFacts {
        mode: meta.mode(),
        is_empty: bytes.trim_ascii().is_empty(),
        is_guessable: is_guessable(&bytes),
        certificates,
        file,
    })
}

/// When each certificate of a file ends.
fn certificates(pem: &[u8]) -> Vec<SystemTime> {
    CertificateDer::pem_slice_iter(pem).filter_map(|der| end_of(&der.ok()?)).collect()
}

/// When a certificate ends. Whoever verifies certificates says that of one that has ended: so it is asked about the far future.
fn end_of(der: &CertificateDer<'_>) -> Option<SystemTime> {
    let mut roots = RootCertStore::empty();
    roots.add(der.clone().into_owned()).ok()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
    let refused = verifier.verify_client_cert(der, &[], UnixTime::since_unix_epoch(AFTER_ALL)).err()?;
    match refused {
        rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => {
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(not_after.as_secs()))
        }
        _ => None,
    }
}

fn is_guessable(bytes: &[u8]) -> bool {
    let bytes = bytes.trim_ascii();
    let distinct: BTreeSet<u8> = bytes.iter().copied().collect();
    let text = String::from_utf8_lossy(bytes).to_lowercase();
    distinct.len() < DISTINCT_BYTES_MIN || GUESSABLE.iter().any(|word| text.contains(word))
}

fn judge(facts: &FileFacts, now: SystemTime) -> Vec<Finding> {
    let NamedFile { key, path, holds } = &facts.file;
    let (mode, shown) = (facts.mode & 0o7777, path.display());
    let mut found = Vec::new();
    if *holds != Holds::Certificates && mode & 0o004 != 0 {
        let finding = EXPOSED.found(format!("{shown} ({key}) can be read by everybody (mode {mode:04o})"));
        found.push(finding.remedy(format!(
            "chmod o= {shown}, with the agent's user as its owner; for a Kubernetes Secret set defaultMode: 0400."
        )));
    }
    match holds {
        Holds::Password if facts.is_empty => found.push(EMPTY.found(format!("{shown} ({key}) is empty"))),
        Holds::ClusterSecret if facts.is_guessable => {
            found.push(WEAK.found(format!("the secret in {shown} ({key}) can be guessed")));
        }
        _ => {}
    }
    let ends = facts.certificates.iter().enumerate();
    found.extend(ends.filter_map(|(place, end)| expiry(key, path, place, *end, now)));
    found
}

fn expiry(key: &str, path: &Path, place: usize, end: SystemTime, now: SystemTime) -> Option<Finding> {
    let day = humantime::format_rfc3339_seconds(end);
    let which = format!("{} ({key}): certificate {}", path.display(), place + 1);
    match end.duration_since(now) {
        Err(_) => Some(EXPIRED.found(format!("{which} ended on {day}"))),
        Ok(left) if left < EXPIRES_SOON => Some(EXPIRES.found(format!("{which} ends on {day}"))),
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(holds: Holds, mode: u32) -> FileFacts {
        let file = NamedFile { key: "a.key".into(), path: "/run/file".into(), holds };
        FileFacts { file, mode, is_empty: false, is_guessable: false, certificates: Vec::new() }
    }

    #[test]
    fn files() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let day = Duration::from_secs(24 * 60 * 60);
        let certificate = |ends| FileFacts { certificates: vec![ends], ..facts(Holds::Certificates, 0o644) };
        let table: Vec<(FileFacts, &[&str])> = vec![
            (facts(Holds::Password, 0o600), &[]),
            (facts(Holds::Password, 0o640), &[]),
            (facts(Holds::Password, 0o644), &["secret-exposed"]),
            (facts(Holds::Secret, 0o604), &["secret-exposed"]),
            (FileFacts { is_empty: true, ..facts(Holds::Password, 0o600) }, &["password-empty"]),
            (FileFacts { is_guessable: true, ..facts(Holds::ClusterSecret, 0o600) }, &["secret-weak"]),
            (FileFacts { is_guessable: true, ..facts(Holds::Password, 0o600) }, &[]),
            (certificate(now + 100 * day), &[]),
            (certificate(now + 13 * day), &["certificate-expires"]),
            (certificate(now - day), &["certificate-expired"]),
        ];
        for (facts, expected) in table {
            let found: Vec<&str> = judge(&facts, now).iter().map(|finding| finding.kind.id).collect();
            assert_eq!(found, expected, "{facts:?}");
        }
    }

    #[test]
    fn secrets_that_can_be_guessed() {
        for (secret, expected) in [
            ("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", false),
            ("aaaaaaaaaaaaaaaaaaaaaaaa", true),
            ("ababababababababababababab", true),
            ("ChangeMe-ChangeMe-ChangeMe", true),
            ("my cluster's Secret is this", true),
        ] {
            assert_eq!(is_guessable(secret.as_bytes()), expected, "{secret}");
        }
    }

    #[test]
    fn the_file_itself() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let (path, later) = (Path::new("/etc/shoal.toml"), start + Duration::from_secs(1));
        let found = |mode, changed, up_since| -> Vec<&str> {
            let outcomes = judge_file(path, mode, changed, up_since);
            outcomes
                .iter()
                .filter_map(|outcome| match outcome {
                    Outcome::Found(finding) => Some(finding.kind.id),
                    Outcome::Well { .. } => None,
                })
                .collect()
        };
        assert!(found(0o644, Some(start), Some(later)).is_empty());
        assert!(found(0o644, Some(later), None).is_empty());
        assert_eq!(found(0o646, None, None), ["config-writable"]);
        assert_eq!(found(0o600, Some(later), Some(start)), ["config-changed"]);
    }

    #[test]
    fn certificates_are_read() {
        let mut params = rcgen::CertificateParams::new(vec!["x.test".into()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let read = certificates(format!("{pem}\n{pem}").as_bytes());
        assert_eq!(read.len(), 2);
        assert_eq!(read[0], SystemTime::UNIX_EPOCH + Duration::from_secs(978_307_200));
    }
}
