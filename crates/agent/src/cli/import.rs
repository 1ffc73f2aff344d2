//! `shoal config import`: writes down as ours what runtimes and OpenShift have of mirrors.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueHint};

use super::Failure;
use super::output::Output;
use crate::config::{Config, ConfigErrors};
use crate::import::{Import, Imported};

/// Whoever may run the agent may read its configuration: no secret is in it.
const FILE_MODE: u32 = 0o644;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  shoal config import --registries-conf /etc/containers/registries.conf\n  shoal config import --hosts-dir /etc/containerd/certs.d -o mirrors.toml\n  kubectl get imagedigestmirrorset,imagetagmirrorset -o yaml |\n    shoal config import --kubernetes /dev/stdin"
)]
pub(super) struct ImportArgs {
    #[command(flatten)]
    inputs: Inputs,
    /// The agent's own addresses: a mirror there is the agent itself, and left out.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5000")]
    own: Vec<SocketAddr>,
    /// Write to a file instead of standard output.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Overwrite the output file.
    #[arg(long, requires = "output")]
    force: bool,
}

/// What is read. Each can be given several times, and with the others.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Inputs {
    /// A registries.conf of CRI-O, podman, skopeo or buildah; FILE.d beside it is read as well.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    registries_conf: Vec<PathBuf>,
    /// containerd's folder with a folder for each registry.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    hosts_dir: Vec<PathBuf>,
    /// YAML with ImageDigestMirrorSet, ImageTagMirrorSet and ImageContentSourcePolicy.
    #[arg(long, value_name = "FILE", num_args = 1.., value_hint = ValueHint::FilePath)]
    kubernetes: Vec<PathBuf>,
}

pub(super) fn run(args: &ImportArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    let imported = read(&args.inputs).finish(&args.own)?;
    tell(&imported);
    match &args.output {
        None => out.bytes(imported.text.as_bytes())?,
        Some(path) => write(path, &imported.text, args.force)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn read(inputs: &Inputs) -> Import {
    let mut import = Import::default();
    inputs.registries_conf.iter().for_each(|path| import.registries_conf(path));
    inputs.hosts_dir.iter().for_each(|path| import.hosts_dir(path));
    inputs.kubernetes.iter().for_each(|path| import.kubernetes(path));
    import
}

/// What was lost, one line each, on standard error. What is said there cannot be lost twice: if it is gone, so are we.
fn tell(imported: &Imported) {
    let mut lines: Vec<String> = imported.notes.iter().map(|note| format!("note: {note}")).collect();
    // Files that are named and not there, above all.
    if let Err(ConfigErrors::Wrong { problems, .. }) = Config::parse(&imported.text, None) {
        lines.extend(problems.iter().map(|problem| {
            let value = problem.value.as_ref().map_or_else(String::new, |value| format!(" = {value}"));
            format!("note: the outcome is not complete: {}{value}: {}", problem.key, problem.remedy)
        }));
    }
    lines.push(format!("mirror sets: {}, notes: {}", imported.sets, lines.len()));
    let mut errors = std::io::stderr().lock();
    let _ = lines.iter().try_for_each(|line| writeln!(errors, "{line}"));
}

/// Whole or not at all: an agent that starts meanwhile must not read half of it.
fn write(path: &Path, text: &str, may_overwrite: bool) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let failed = |source| Failure::Write { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(FILE_MODE))
        .tempfile_in(folder)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    let persisted = if may_overwrite { file.persist(path) } else { file.persist_noclobber(path) };
    match persisted {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(Failure::Exists(path.to_owned()))
        }
        Err(error) => Err(failed(error.error)),
    }
}
