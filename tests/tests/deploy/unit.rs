//! The systemd unit and what the Debian package brings: systemd understands it, and how little the agent may do is a figure.

use std::process::Command;
use std::time::Duration;

use clap::Parser as _;
use shoal_agent::cli::Cli;
use shoal_tests::agent::shoal;
use shoal_tests::helm;
use shoal_tests::place;
use shoal_tests::process::run;

/// Units, and the most exposure, in tenths, that `systemd-analyze security` may find: 9.6 is a unit without any hardening. What is left is mostly that the
/// agent talks to any address, and that the other one is root.
const UNITS: [(&str, u32); 2] = [("shoal.service", 15), ("shoal-runtime.service", 25)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_units_are_right_and_hardened() {
    let analyze = place::program("systemd-analyze", "systemd");
    let manual = include_str!("../../../docs/OPERATING.md");
    for (name, exposure_max_tenths) in UNITS {
        let unit = std::fs::read_to_string(helm::deploy().join("systemd").join(name)).expect("it is there");
        let folder = place::scratch();
        let file = folder.path().join(name);
        // The program is not where a package would put it.
        let here = unit.replace("/usr/bin/shoal", &place::shoal_bin().display().to_string());
        std::fs::write(&file, here).expect("the folder is ours");

        let mut verify = Command::new(&analyze);
        verify.args(["verify", "--man=no"]).arg(&file);
        let verified = run(&mut verify, Duration::from_secs(60)).await.expect_ok("systemd-analyze verify");
        let about_it = format!("{name}:");
        let complaints: Vec<&str> = verified.output.lines().filter(|line| line.contains(&about_it)).collect();
        assert!(complaints.is_empty(), "{complaints:?}");

        let mut security = Command::new(&analyze);
        let threshold = format!("--threshold={exposure_max_tenths}");
        security.args(["security", "--offline=true", "--no-pager", &threshold]).arg(&file);
        let judged = run(&mut security, Duration::from_secs(60)).await.expect_ok("systemd-analyze security");
        let level = judged.output.split(&format!("exposure level for {name}: ")).nth(1).expect("a level");
        let (level, _) = level.split_once(' ').expect("a figure");
        // The manual quotes it.
        assert!(
            manual.contains(&format!("exposure level of {level}")),
            "docs/OPERATING.md does not say {level}"
        );
    }
}

/// What keeps the agent from starting may be over a minute later, when nobody is there to start it by hand. It has as long as a pod.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_is_never_given_up() {
    let unit = std::fs::read_to_string(helm::deploy().join("systemd/shoal.service")).expect("it is there");
    let rendered = helm::render("").await;
    let probe = &rendered.pod()["containers"][0]["startupProbe"];
    let count = |key: &str| probe[key].as_u64().expect("a number");
    let start_max = count("periodSeconds") * count("failureThreshold");
    let timeout = format!("TimeoutStartSec={}min", start_max / 60);
    for line in ["Restart=always", "StartLimitIntervalSec=0", "Type=notify", timeout.as_str()] {
        assert!(unit.lines().any(|of_unit| of_unit == line), "the unit has no {line}");
    }
}

/// The command of each unit is one that the program has.
#[test]
fn the_units_run_commands_that_there_are() {
    for (name, _) in UNITS {
        let unit = std::fs::read_to_string(helm::deploy().join("systemd").join(name)).expect("it is there");
        let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
        let words = start.split_whitespace().filter(|word| !word.starts_with('$'));
        let parsed = Cli::try_parse_from(words);
        assert!(parsed.is_ok(), "{name}: {start}: {}", parsed.expect_err("not accepted"));
    }
}

/// `shoal man` writes a page for every command, in a form that a reader takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manual_pages() {
    let folder = place::scratch();
    let to = folder.path().display().to_string();
    shoal(&["man", &to]).await.expect_ok("shoal man");
    let help = shoal(&["--help"]).await.expect_ok("shoal --help").output;
    let commands =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<&str> =
        commands.filter(|line| line.starts_with("  ") && !line.starts_with("   ")).collect();
    assert!(commands.len() > 8, "{help}");
    for command in commands.iter().map(|line| line.split_whitespace().next().expect("a name")) {
        let page = folder.path().join(format!("shoal-{command}.1"));
        let text = std::fs::read_to_string(&page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
        assert!(text.contains(".SH SYNOPSIS"), "{command}: {text}");
    }
    assert!(folder.path().join("shoal.1").is_file());
    assert!(!shoal(&["man", "/dev/null/folder"]).await.ok);
}
