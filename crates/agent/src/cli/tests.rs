use std::path::Path;

use clap::{CommandFactory as _, Parser as _};
use shoal_store::OpenError;

use super::failure::Failure;
use super::{Cli, Command, blob, explain, mirror_url, status};
use crate::admin::client::ClientError;
use crate::admin::status::Status;
use crate::app::StartError;
use crate::config::{Config, NodeFacts};
use crate::pull::PullError;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn what_can_be_said() {
    for good in [
        "shoal agent",
        "shoal agent --config /a/b.toml --log debug --log-format json",
        "shoal agent --zone a --labels pool=gpu,rack=7 --advertise 10.0.0.7,fd00::7",
        "shoal -v config check -c x.toml --json",
        "shoal config show --zone a --labels pool=gpu",
        "shoal prepare /var/lib/shoal /run/shoal --owner 65532:65532",
        "shoal config show",
        "shoal config sample",
        "shoal config import --registries-conf /etc/containers/registries.conf --own 127.0.0.1:5001 --own [::1]:5000",
        "shoal config import --hosts-dir a --hosts-dir b --kubernetes c d --output e --force",
        "shoal mirrors explain redis:7 --json --config x.toml",
        "shoal blob ls --sort size --json",
        "shoal blob list --socket /run/x.sock",
        "shoal blob rm sha256:4f2a91 abcdef",
        "shoal blob verify --all",
        "shoal blob pin abcdef",
        "shoal status --json",
        "shoal demo",
        "shoal prewarm redis:7 --select zone=a,pool=gpu --pin 24h --deadline 10m --json",
        "shoal prewarm -f images.txt --from-manifest a.yaml --from-manifest - --platform linux/amd64,linux/arm64",
        "shoal prewarm redis --nodes all --count 3 --dry-run",
        "shoal prewarm redis --percent 10 --detach --socket /run/x.sock",
        "shoal prewarm ls --json",
        "shoal prewarm redis --pin 366days",
        "shoal prewarm status 0a1b2c3d",
        "shoal prewarm cancel 0a1b2c3d --config x.toml",
        "shoal top",
        "shoal top --once --socket /run/x.sock",
        "shoal top --json",
        "shoal pull redis:7 --platform linux/arm64 --mirror http://127.0.0.1:5000 --parallel 8 --json",
        "shoal evict redis:7 sha256:4f2a91 --cluster --json",
        "shoal pin redis:7 --for 7days",
        "shoal unpin redis:7 --socket /run/x.sock",
        "shoal gc --unused-for 14days",
        "shoal explain sha256:4f2a91 --json",
        "shoal explain redis:7",
        "shoal doctor --skip runtimes,registries",
        "shoal doctor --config x.toml --socket /run/x.sock",
        "shoal runtime install --api https://node-7:5443 --token-file t --mirror http://127.0.0.1:5000",
        "shoal runtime status --config x.toml --mirror http://127.0.0.1:5000 --containerd-version 2.1",
        "shoal help prewarm status",
        "shoal completion zsh",
        "shoal version --json",
    ] {
        assert!(parse(good).is_ok(), "{good}: {}", parse(good).unwrap_err());
    }
    for bad in [
        "shoal",
        "shoal agent --labels gpu",
        "shoal agent --labels =gpu",
        "shoal prepare --owner 65532:65532",
        "shoal prepare /var/lib/shoal --owner somebody",
        "shoal agnet",
        "shoal config",
        "shoal config import",
        "shoal config import --hosts-dir a --force",
        "shoal config import --hosts-dir a --own here",
        "shoal mirrors explain",
        "shoal blob rm",
        "shoal blob verify",
        "shoal evict",
        "shoal pull",
        "shoal pull redis:7 --parallel 0",
        "shoal pin --for 7days",
        "shoal gc --unused-for soon",
        "shoal blob verify --all abcdef",
        "shoal blob ls --sort colour",
        "shoal agent --log-format xml",
        "shoal completion tcl",
        "shoal status extra",
        "shoal prewarm redis --select zone",
        "shoal prewarm redis --count 1 --percent 2",
        "shoal prewarm redis --pin soon",
        "shoal prewarm redis --pin 0s",
        "shoal prewarm redis --pin 367days",
        "shoal pin redis --for 0s",
        "shoal pin redis --for 1ms",
        "shoal demo --size banana",
        "shoal demo --size 9GB",
        "shoal demo --link 1kB",
        "shoal prewarm redis --deadline 48h",
        "shoal prewarm redis --percent 200",
        "shoal doctor --skip moon",
        "shoal doctor --api https://node-7:5443 --token-file t",
        "shoal runtime status --api https://node-7:5443 --token-file t",
        "shoal runtime status --socket /run/x.sock",
        "shoal prewarm redis --detach --dry-run",
        "shoal prewarm status",
    ] {
        assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad}");
    }
}

#[test]
fn an_agents_address_is_written_with_or_without_its_scheme() {
    for (given, expected) in [
        ("127.88.0.2:5000", Some("http://127.88.0.2:5000")),
        ("http://127.0.0.1:5000/", Some("http://127.0.0.1:5000")),
        ("[::1]:5000", Some("http://[::1]:5000")),
        ("localhost:5000", Some("http://localhost:5000")),
        ("ftp://x", None),
        ("https://127.0.0.1:5000", None),
        ("127.0.0.1:5000/v2", None),
        ("", None),
    ] {
        assert_eq!(mirror_url(given).ok().as_deref(), expected, "{given}");
    }
}

#[test]
fn what_is_no_command_is_told() {
    let failure = |line: &str| parse(line).unwrap().run().unwrap_err();
    for (line, told) in [
        ("shoal help nix", "there is no command `shoal nix`"),
        ("shoal help prewarm nix", "there is no command `shoal prewarm nix`"),
        ("shoal prewarm -c f ls --cluster", "\"ls\" looks like `shoal prewarm ls`"),
        ("shoal prewarm redis --cluster", "--cluster is an option of `shoal prewarm ls`"),
    ] {
        assert_eq!(failure(line).to_string(), told, "{line}");
    }
    let missing = parse("shoal blob verify").unwrap_err().to_string();
    assert!(missing.contains("--all"), "{missing}");
}

/// Examples and lists are laid out in columns: where they are broken, they say nothing.
#[test]
fn what_help_ends_with_fits_a_terminal() {
    const COLUMNS_MAX: usize = 78;
    fn walk(command: &clap::Command, wide: &mut Vec<String>) {
        let texts = [command.get_after_help(), command.get_after_long_help()]
            .map(|text| text.map(ToString::to_string));
        for line in texts.iter().flatten().flat_map(|text| text.lines()) {
            if line.chars().count() > COLUMNS_MAX {
                wide.push(format!("{}: {line}", command.get_name()));
            }
        }
        command.get_subcommands().for_each(|sub| walk(sub, wide));
    }
    let mut wide = Vec::new();
    walk(&Cli::command(), &mut wide);
    assert!(wide.is_empty(), "{}", wide.join("\n"));
}

#[test]
fn every_command_says_what_it_does() {
    fn walk(command: &clap::Command) {
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some(), "{} has no help", sub.get_name());
            for argument in sub.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {} has no help",
                    sub.get_name(),
                    argument.get_id()
                );
            }
            walk(sub);
        }
    }
    walk(&Cli::command());
}

#[test]
fn the_socket_is_named_or_configured() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shoal.toml");
    std::fs::write(&file, "[admin]\nsocket = '/somewhere/else.sock'\n").unwrap();
    let of = |line: String| match parse(&line).unwrap().command {
        Command::Blob(blob::BlobCommand::Ls(args)) => args.socket().unwrap(),
        other => panic!("{other:?}"),
    };
    let file = file.display();
    assert_eq!(of(format!("shoal blob ls --config {file}")), Path::new("/somewhere/else.sock"));
    assert_eq!(of(format!("shoal blob ls --config {file} --socket /x")), Path::new("/x"));
}

/// Whoever only wants the socket needs no right to read what else the file names; what is misspelt is told all the same.
#[test]
fn secrets_are_not_needed_to_find_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shoal.toml");
    let socket = |text: &str| {
        std::fs::write(&file, text).unwrap();
        match parse(&format!("shoal blob ls --config {}", file.display())).unwrap().command {
            Command::Blob(blob::BlobCommand::Ls(args)) => args.socket(),
            other => panic!("{other:?}"),
        }
    };
    let named = "[swarm]\nsecret_file = '/nobody/may/read/this'\n[admin]\nsocket = '/x.sock'\n";
    assert_eq!(socket(named).unwrap(), Path::new("/x.sock"));
    assert!(Config::load(&file, &NodeFacts::default()).is_err());
    assert!(matches!(socket("[admin]\nsokcet = '/x.sock'\n"), Err(Failure::Config(_))));
}

#[test]
fn errors_say_what_and_what_to_do() {
    let gone = || std::io::Error::from_raw_os_error(libc::ENOENT);
    let failure = Failure::Agent(ClientError::NoAgent { at: "/run/shoal/admin.sock".into(), source: gone() });
    let (text, _) = explain(&failure, false);
    insta::assert_snapshot!(text, @r"
    error: no agent answers on /run/shoal/admin.sock: No such file or directory (os error 2)
    help: start it with `shoal agent`, or name its socket with --socket or its configuration with --config
    ");
    let (text, _) = explain(&failure, true);
    insta::assert_snapshot!(text, @r"
    error: no agent answers on /run/shoal/admin.sock
      because: No such file or directory (os error 2)
    help: start it with `shoal agent`, or name its socket with --socket or its configuration with --config
    ");
    let wrong = Failure::Config(
        Config::parse("[log]\nlevel = 'loud'", Some(Path::new("/etc/shoal.toml"))).unwrap_err(),
    );
    let (text, _) = explain(&wrong, false);
    insta::assert_snapshot!(text, @r#"
    error: 1 problem in /etc/shoal.toml
      2:1: log.level = "loud": "loud" is not a level; write error, warn, info, debug, trace or off, or a list such as "info,shoal::request=warn"
    help: every key and what it may be: shoal config sample
    "#);
}

/// What would help depends on where the agent was looked for, and on what keeps it from its directory.
#[test]
fn remedies_fit() {
    let io = |kind: std::io::ErrorKind| std::io::Error::from(kind);
    let nobody = |at: &str| {
        Failure::Agent(ClientError::NoAgent {
            at: at.into(),
            source: io(std::io::ErrorKind::ConnectionRefused),
        })
    };
    let start = |kind| {
        let (operation, path) = ("make the directory", "/var/lib/shoal".into());
        Failure::Start(StartError::Store(OpenError::Io { operation, path, source: io(kind) }))
    };
    let late =
        PullError::Late { mirror: "m".into(), what: "w".into(), waited: std::time::Duration::from_secs(30) };
    let table = [
        (nobody("https://node-7:5443"), "admin.address"),
        (nobody("/run/shoal/admin.sock"), "`shoal agent`"),
        (Failure::NoStore { socket: "/a".into(), store: "/b".into() }, "`shoal agent`"),
        (start(std::io::ErrorKind::PermissionDenied), "`shoal prepare /var/lib/shoal --owner "),
        (start(std::io::ErrorKind::ReadOnlyFilesystem), "store.path"),
        (Failure::Pull(late), "it hangs"),
        (Failure::Pull(PullError::NoRegistry { mirror: "m".into(), reason: "r".into() }), "--mirror"),
    ];
    for (failure, remedy) in table {
        let (text, _) = explain(&failure, false);
        assert!(text.split_once("\nhelp: ").is_some_and(|(_, help)| help.contains(remedy)), "{text}");
    }
}

#[test]
fn exit_codes_are_those_of_the_help() {
    use std::process::ExitCode;
    let refused = |status: u16| {
        Failure::Agent(ClientError::Refused {
            status: http::StatusCode::from_u16(status).unwrap(),
            error: "no".into(),
        })
    };
    let table = [
        (refused(404), 5),
        (refused(400), 2),
        (refused(503), 1),
        (Failure::WarmLost { source: None }, 4),
        (Failure::NothingToWarm, 2),
        (Failure::NoSuchPrefix("abcdef".into()), 5),
        (Failure::NoDigest { name: "foo".into(), reason: "no".into() }, 2),
        (Failure::NoCommand { name: "shoal nix".into(), of: "shoal".into() }, 2),
        (Failure::NotForWarming, 2),
        (Failure::Proof(crate::runtime::ProofError::Url("ftp://x".into())), 2),
        (Failure::Config(Config::parse("x", None).unwrap_err()), 3),
        (Failure::Filter(crate::logging::filter("loud").unwrap_err()), 2),
        (Failure::NoStore { socket: "/a".into(), store: "/b".into() }, 4),
    ];
    for (failure, code) in table {
        // `ExitCode` has no other way to be looked at.
        assert_eq!(
            format!("{:?}", explain(&failure, false).1),
            format!("{:?}", ExitCode::from(code)),
            "{failure}"
        );
    }
}

#[test]
fn the_status_at_a_glance() {
    let status: Status = serde_json::from_value(serde_json::json!({
        "version": "0.1.0", "instance": "00", "pid": 42, "uptime_seconds": 11_520,
        "listeners": ["127.0.0.1:5000"], "connections": 3,
        "store": {
            "degraded": false, "blobs": 12, "bytes": 1_234_000_000_u64, "partials": 1, "partial_bytes": 50_000_000,
            "capacity": 100_000_000_000_u64, "disk_free": 34_000_000_000_u64, "evicted": 2, "expired": 0
        },
        "flights": [{
            "digest": format!("sha256:{}", "ab".repeat(32)), "size": 50_000_000, "received": 20_000_000, "clients": 4,
            "transfers": 1, "phase": "receiving"
        }],
        "served_bytes": { "store": 900, "upstream": 100 }, "hits": { "store": 9 }, "misses": 1,
        "upstream_bytes": { "docker.io": 100 }, "saved_bytes": 900, "upstream_resumes": 1, "verify_failures": 0
    }))
    .unwrap();
    insta::assert_snapshot!(format!("{}\n{}", status::summary(&status), status::flights(&status)), @r"
    shoal 0.1.0, process 42, up 3h 12m
      listening  127.0.0.1:5000 (3 connections)
      store      12 blobs, 1.2 GB of 100.0 GB (1 %), 34.0 GB free on the disk, 1 half-received (50.0 MB), 2 evicted, 0 expired
      served     1.0 kB: 90 % store, 10 % as it arrived
      requests   9 answered from this node, 1 had to be fetched (90 % hits)
      upstream   100 B received for 1.0 kB served, 900 B saved (90 %): docker.io 100 B; transfers that broke and went on: 1

    RECEIVING                                                                   SIZE  DONE  CLIENTS  TRANSFERS  PHASE
    sha256:abababababababababababababababababababababababababababababababab  50.0 MB  40 %        4          1  receiving
    ");
}

/// Without an agent the store is opened directly; without a store nothing is made.
#[test]
fn blobs_of_an_agent_that_does_not_run() {
    use std::process::ExitCode;

    use bytes::Bytes;
    use shoal_engine::{Algorithm, Digest};
    use shoal_store::{Options, Store};

    let folder = tempfile::tempdir().unwrap();
    let (file, data) = (folder.path().join("shoal.toml"), folder.path().join("data"));
    let text = format!(
        "[store]\npath = '{}'\n[admin]\nsocket = '{}'\n",
        data.display(),
        folder.path().join("admin.sock").display()
    );
    std::fs::write(&file, text).unwrap();
    let run = |line: &str| parse(&format!("shoal blob {line} --config {}", file.display())).unwrap().run();
    let code = |line: &str| format!("{:?}", run(line).unwrap());
    let (success, not_as_named) = (format!("{:?}", ExitCode::SUCCESS), format!("{:?}", ExitCode::from(5)));

    assert!(matches!(run("ls"), Err(Failure::NoStore { store, .. }) if store == data));
    assert!(!data.exists(), "a store was made by whoever looked for one");

    let options = || Options { disk_free_min: 0, ..Options::new(&data) };
    let digests: Vec<Digest> = [b"one", b"two"]
        .iter()
        .map(|bytes| {
            Digest::new(Algorithm::Sha256, ring::digest::digest(&ring::digest::SHA256, *bytes).as_ref())
        })
        .collect();
    let store = Store::open(options()).unwrap().store;
    for (digest, bytes) in digests.iter().zip(["one", "two"]) {
        store.put(digest, None, &Bytes::from(bytes), std::time::SystemTime::now()).unwrap();
    }
    assert!(matches!(run("ls"), Err(Failure::Open { .. })), "another process works in the store");
    drop(store);

    let prefix = &digests[0].to_string()[.."sha256:".len() + 6];
    assert_eq!(code("ls"), success);
    assert_eq!(code(&format!("verify {prefix}")), success);
    assert_eq!(code("verify --all"), success);
    assert_eq!(code(&format!("pin {prefix}")), success);
    assert_eq!(code(&format!("rm {prefix} {}", digests[1])), success);
    assert_eq!(code(&format!("verify {}", digests[0])), not_as_named);
    assert!(matches!(run(&format!("pin {}", digests[0])), Err(Failure::Missing(_))));
    assert!(matches!(run("rm abcdef"), Err(Failure::NoSuchPrefix(_))));
    assert!(matches!(run("rm foo"), Err(Failure::NoDigest { .. })));
    assert_eq!(code("ls"), success, "an empty store is a store");
    assert!(Store::open(options()).unwrap().store.list(None, 10).unwrap().is_empty());
}

/// What a page tells people to type, without what goes before and after it on the line.
fn commands_of(page: &str) -> Vec<&str> {
    let mut texts = Vec::new();
    let mut is_block = false;
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
        } else if is_block {
            let line = line.trim_start();
            texts.push(line.strip_prefix("$ ").or(line.strip_prefix("# ")).unwrap_or(line));
        } else {
            texts.extend(line.split('`').skip(1).step_by(2));
        }
    }
    let parts = texts.into_iter().flat_map(|text| text.split("&& ")).flat_map(|text| text.split("| "));
    let inside = parts.map(|part| part.rsplit_once(" -- ").map_or(part, |(_, inside)| inside));
    let whole = inside.map(|part| part.split(['#', '<', '>', '|', ')', ';']).next().unwrap_or_default());
    let whole = whole.map(|part| part.split("  ").next().unwrap_or_default());
    whole.filter(|part| part.starts_with("shoal ")).collect()
}

/// Every command in the documents is one that there is, with options that it has.
#[test]
fn the_documents_name_commands_that_there_are() {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut count = 0;
    for page in [
        "README.md",
        "docs/OPERATING.md",
        "docs/comparison.md",
        "docs/migrating.md",
        "docs/prewarm-ci.md",
        "deploy/helm/shoal/README.md",
        "deploy/monitoring/README.md",
    ] {
        let text = std::fs::read_to_string(checkout.join(page)).unwrap();
        for command in commands_of(&text) {
            let words = command.split_whitespace().filter(|word| *word != "...").chain(["--help"]);
            let answer = Cli::try_parse_from(words).expect_err("help is no command");
            assert_eq!(answer.kind(), clap::error::ErrorKind::DisplayHelp, "{page}: {command}: {answer}");
            count += 1;
        }
    }
    assert!(count > 100, "only {count} commands were found");
}
