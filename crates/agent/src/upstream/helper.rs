//! Docker credential helpers: a program that is told a server on its standard input and answers with JSON. It is
//! given a deadline and ended with it, and its output is read up to a bound.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::credentials::{Login, Secret};
use super::limits::{CREDENTIALS_BYTES_MAX, HELPER_TIMEOUT};

/// Why a helper gave no credential. What it printed is not passed on: it may be the secret.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// The configured name could leave the search path.
    #[error("{0:?} is not the name of a credential helper")]
    Name(String),
    /// The program cannot be started.
    #[error("docker-credential-{name} cannot be started")]
    Start {
        /// The helper's name.
        name: String,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// The program did not answer in time and has been ended.
    #[error("docker-credential-{name} did not answer within {limit:?}")]
    Late {
        /// The helper's name.
        name: String,
        /// The deadline.
        limit: Duration,
    },
    /// Reading its answer failed.
    #[error("docker-credential-{name} cannot be read from")]
    Read {
        /// The helper's name.
        name: String,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// The program reports a failure.
    #[error("docker-credential-{name} get failed ({status}); run it by hand to see why")]
    Failed {
        /// The helper's name.
        name: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// The answer is not what the protocol prescribes.
    #[error("docker-credential-{0} did not answer with a user name and a secret")]
    Malformed(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// What helpers say when they have nothing, which is no failure.
const NOT_FOUND: &str = "credentials not found";

/// Asks `docker-credential-<name>` for the credential of `server`; `None` if it has none.
pub(super) async fn get(name: &str, server: &str) -> Result<Option<Login>, HelperError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(HelperError::Name(name.chars().take(80).collect()));
    }
    let program = format!("docker-credential-{name}");
    ask(Command::new(program), name, server, HELPER_TIMEOUT).await
}

async fn ask(
    program: Command,
    name: &str,
    server: &str,
    limit: Duration,
) -> Result<Option<Login>, HelperError> {
    match tokio::time::timeout(limit, run(program, name, server)).await {
        Ok(result) => result,
        // Dropping the future has ended the program.
        Err(_) => Err(HelperError::Late { name: name.to_owned(), limit }),
    }
}

async fn run(mut program: Command, name: &str, server: &str) -> Result<Option<Login>, HelperError> {
    let mut child = program
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| HelperError::Start { name: name.to_owned(), error })?;
    let read = |error| HelperError::Read { name: name.to_owned(), error };
    // A helper that answers without reading its input closes the pipe; its answer is what counts.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(server.as_bytes()).await;
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(CREDENTIALS_BYTES_MAX).read_to_end(&mut output).await.map_err(read)?;
    }
    let status = child.wait().await.map_err(read)?;
    if !status.success() {
        let said = String::from_utf8_lossy(&output).to_ascii_lowercase();
        if said.contains(NOT_FOUND) {
            return Ok(None);
        }
        return Err(HelperError::Failed { name: name.to_owned(), status });
    }
    let answer: Answer =
        serde_json::from_slice(&output).map_err(|_| HelperError::Malformed(name.to_owned()))?;
    let secret = Secret::new(answer.secret);
    Ok(Some(if answer.username == "<token>" {
        Login::IdentityToken(secret)
    } else {
        Login::Password { username: answer.username, password: secret }
    }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::{Path, PathBuf};

    use super::*;

    fn script(directory: &Path, text: &str) -> PathBuf {
        let path = directory.join("helper");
        // Written by a child: were it open for writing here while another test forks, running it would fail.
        let status = std::process::Command::new("sh")
            .args(["-c", "printf '%s' \"$1\" > \"$2\"", "sh", text])
            .arg(&path)
            .status()
            .unwrap();
        assert!(status.success());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    async fn answer(text: &str) -> Result<Option<Login>, HelperError> {
        let directory = tempfile::tempdir().unwrap();
        let path = script(directory.path(), &format!("#!/bin/sh\n{text}\n"));
        ask(Command::new(path), "test", "registry.test", Duration::from_secs(30)).await
    }

    #[tokio::test]
    async fn answers() {
        let login = answer(r#"read server; echo "{\"Username\":\"u\",\"Secret\":\"$1 $server\"}""#)
            .await
            .unwrap()
            .unwrap();
        let password = Secret::new("get registry.test");
        assert_eq!(login, Login::Password { username: "u".into(), password });

        let login = answer(r#"echo '{"Username":"<token>","Secret":"t"}'"#).await.unwrap().unwrap();
        assert_eq!(login, Login::IdentityToken(Secret::new("t")));

        let none = answer("echo 'credentials not found in native keychain'; exit 1").await.unwrap();
        assert_eq!(none, None);

        assert!(matches!(answer("echo hunter2; exit 3").await, Err(HelperError::Failed { .. })));
        let error = answer("echo hunter2").await.unwrap_err();
        assert!(matches!(error, HelperError::Malformed(_)));
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn names_stay_on_the_search_path() {
        for name in ["", "../x", "a/b", "a b"] {
            assert!(matches!(get(name, "registry.test").await, Err(HelperError::Name(_))), "{name}");
        }
        let missing = get("shoal-test-does-not-exist", "registry.test").await;
        assert!(matches!(missing, Err(HelperError::Start { .. })));
    }

    #[tokio::test]
    async fn a_helper_that_hangs_is_ended() {
        const LIMIT: Duration = Duration::from_secs(30);
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("pid");
        let text =
            format!("#!/bin/sh\necho $$ > {0}.new; mv {0}.new {0}; exec sleep 1000\n", pid_file.display());
        let program = Command::new(script(directory.path(), &text));
        let begun = async {
            while !pid_file.exists() {
                tokio::task::yield_now().await;
            }
            // The rest of the time passes at once.
            tokio::time::pause();
        };
        let begun = tokio::time::timeout(LIMIT, begun);
        let (answer, begun) = tokio::join!(ask(program, "test", "registry.test", LIMIT), begun);
        let error = answer.unwrap_err();
        assert!(matches!(error, HelperError::Late { .. }), "{error}");
        begun.expect("the helper has not begun");
        tokio::time::resume();
        let pid = std::fs::read_to_string(pid_file).unwrap();
        let process = PathBuf::from(format!("/proc/{}/cmdline", pid.trim()));
        let ended = async {
            // An ended process that has not been reaped yet has no command line any more.
            while std::fs::read(&process).is_ok_and(|line| !line.is_empty()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ended).await.expect("the helper still runs");
    }
}
