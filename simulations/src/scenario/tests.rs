use super::schema::Plot;
use super::{LIBRARY, Override, Scenario, Span};

fn parse(text: &str, overrides: &[&str]) -> Result<Vec<Scenario>, String> {
    let overrides: Vec<Override> = overrides.iter().map(|each| each.parse().unwrap()).collect();
    Scenario::parse("test.toml", text, &overrides).map_err(|errors| errors.to_string())
}

fn one(text: &str, overrides: &[&str]) -> Scenario {
    parse(&format!("name = \"test\"\n{text}"), overrides).unwrap().remove(0)
}

#[test]
fn every_built_in_scenario_is_listed_and_right() {
    // Cargo runs tests in their package's folder. Its path at compile time may be another checkout's, where several
    // share a target folder.
    let files = std::fs::read_dir("scenarios")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<String> = files.collect();
    let mut listed: Vec<String> = LIBRARY.iter().map(|(name, _)| format!("{name}.toml")).collect();
    files.sort_unstable();
    listed.sort_unstable();
    assert_eq!(files, listed);
    for (name, _) in LIBRARY {
        let runs = Scenario::load(name, &[]).unwrap_or_else(|errors| panic!("{errors}"));
        for run in &runs {
            assert!(run.name.starts_with(name) && !run.description.is_empty(), "{name}");
            // Everybody upstream is the slowest of the systems that are compared.
            let upstream_s = run.receivers() as f64 * run.bytes() as f64 / run.origin.bandwidth;
            assert!(!run.baselines || upstream_s * 1.1 < run.deadline, "{name}: {upstream_s} s");
        }
    }
}

#[test]
fn defaults() {
    let scenario = one("", &[]);
    assert_eq!((scenario.nodes, scenario.seed, scenario.bytes()), (1000, 1, 1 << 30));
    assert_eq!((scenario.link.up, scenario.origin.bandwidth), (1.25e9, 1.25e9));
    assert_eq!((scenario.delay(0, 0), scenario.delay_between), (0.0001, 0.0005));
    assert_eq!((scenario.hash_speed, scenario.disk_speed), (1.8e9, 2e9));
    assert_eq!((scenario.zones.len(), scenario.zones[0].nodes), (1, 1000));
    assert!(scenario.clients.read_speed.is_infinite() && scenario.origin.per_connection.is_infinite());
}

#[test]
fn what_the_command_line_says_wins() {
    let text = "nodes = 10\n[link]\nup = \"1Gbit/s\"\n[[zones]]\nname = \"a\"\n[[zones]]\nname = \"b\"";
    let overrides = [
        "nodes=20",
        "link.up=25Gbit/s",
        "image=[\"1MiB\", \"2MiB\"]",
        "zones.1.uplink=10:1",
        "faults.slow.share=0.5",
        "plots=[\"traffic\"]",
        "description=a = b",
    ];
    let scenario = one(text, &overrides);
    assert_eq!((scenario.nodes, scenario.link.up, scenario.link.down), (20, 3.125e9, 1.25e9));
    assert_eq!(scenario.layers, [1 << 20, 2 << 20]);
    assert_eq!((scenario.zones[0].uplink, scenario.zones[1].uplink), (f64::INFINITY, 1.25e9));
    assert_eq!((scenario.faults.slow_share, scenario.faults.slow_factor), (0.5, 10.0));
    assert_eq!(scenario.plots, [Plot::Traffic]);
    assert_eq!(scenario.description, "a = b");
    assert_eq!(one("image = \"1GiB\"", &["image=64KiB"]).layers, [64 << 10]);
}

#[test]
fn overrides_that_are_none() {
    for (text, expected) in [
        ("nodes", "has no `=`"),
        ("a..b=1", "is not a key"),
        ("=1", "is not a key"),
        ("image=[1GiB]", "need quotes"),
    ] {
        let error = text.parse::<Override>().unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn a_sweep_is_every_combination() {
    let text = "name = \"test\"\n[sweep]\nnodes = [5, 10]\n\"link.up\" = [\"1Gbit/s\", \"10Gbit/s\"]";
    let names = |overrides: &[&str]| -> Vec<String> {
        parse(text, overrides).unwrap().into_iter().map(|run| run.name).collect()
    };
    assert_eq!(names(&[]), ["test-1Gbits-5", "test-1Gbits-10", "test-10Gbits-5", "test-10Gbits-10"]);
    assert_eq!(names(&["nodes=7"]), ["test-1Gbits", "test-10Gbits"]);
}

#[test]
fn nodes_are_in_zones_by_share() {
    let text = "nodes = 10\n[[zones]]\nname = \"a\"\nshare = 2\n[[zones]]\nname = \"b\"\ndelay = \"1ms\"";
    let scenario = one(text, &[]);
    assert_eq!(scenario.zones.iter().map(|zone| zone.nodes).collect::<Vec<_>>(), [7, 3]);
    assert_eq!(
        (scenario.zone_of(0), scenario.zone_of(6), scenario.zone_of(7), scenario.zone_of(9)),
        (0, 0, 1, 1)
    );
    assert_eq!((scenario.delay(0, 0), scenario.delay(1, 1), scenario.delay(0, 1)), (0.0001, 0.001, 0.0005));
}

#[test]
fn times_are_seconds_since_the_beginning() {
    let text = "[origin]\noutages = [{ from = \"1s\", for = \"500ms\" }]\n[clients]\nlate = { nodes = 2, at = \"3s\" }";
    let scenario = one(text, &[]);
    assert_eq!(scenario.origin.outages, [Span { from: 1.0, until: 1.5 }]);
    assert_eq!((scenario.clients.late, scenario.clients.late_at), (2, 3.0));
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = r#"
nodes = 0
imge = "1GiB"
deadline = 30

[link]
up = "10G"

[origin]
outages = [{ from = "1s" }]
requests_per_s = -1

[faults]
slow = { share = 5 }
home_dies_at = "1h"
partition = { zones = ["x"], from = "1s", for = "1s" }
"#;
    let expected = "\
10 problems in test.toml
  deadline = 30: expected a duration with its unit, such as \"5ms\" or \"1m 30s\"
  imge = \"1GiB\": there is no such key; did you mean image?
  link.up = \"10G\": expected a rate such as \"10Gbit/s\", \"300MB/s\" or \"unlimited\"
  origin.outages[0]: for is missing
  name: is missing; name the scenario, such as name = \"cold-start\"
  nodes = 0: must be from 1 to 100000
  origin.requests_per_s = -1: must be above 0; leave the key out for no limit
  faults.slow.share = 5: must be from 0 to 1
  faults.home_dies_at = \"1h\": must be before the deadline, which is 10m
  faults.partition.zones = \"x\": there is no such zone; there are all";
    assert_eq!(parse(text, &[]).unwrap_err(), expected);
}

#[test]
fn single_problems() {
    // File, key, and a word of what would be right.
    let table = [
        ("nodes = \"many\"", "nodes = \"many\"", "a whole number"),
        ("image = \"large\"", "image = \"large\"", "1GiB"),
        ("image = [\"0B\"]", "image[0] = 0", "from 1 byte"),
        ("link.down = \"0B/s\"", "link.down", "above 0"),
        ("link.down = 5", "link.down = 5", "10Gbit/s"),
        ("zones = [{ share = 1 }]", "zones[0]", "name is missing"),
        ("zones = [{ name = \"a\" }, { name = \"a\" }]", "zones[1].name = \"a\"", "another zone"),
        ("nodes = 1\nzones = [{ name = \"a\" }, { name = \"b\" }]", "zones", "without any"),
        ("zones = [{ name = \"a\", uplink = \"1:10\" }]", "zones[0].uplink = \"1:10\"", "10:1"),
        ("clients.start = \"soon\"", "clients.start = \"soon\"", "together"),
        ("clients.holders = 1000", "clients.holders = 1000", "somebody has to ask"),
        ("clients.late = { nodes = 2000, at = \"1s\" }", "clients.late.nodes = 2000", "at most 1000"),
        ("origin.connections_max = 0", "origin.connections_max = 0", "at least 1"),
        ("faults.slow = { share = 0.1, factor = 0.5 }", "faults.slow.factor = 0.5", "at least 1"),
        ("faults.liars = 1000", "faults.liars = 1000", "below nodes"),
        ("goals.p50 = -1", "goals.p50 = -1", "0 or more"),
        ("goals.origin_busy = 97", "goals.origin_busy = 97", "from 0 to 1"),
        ("goals.p75 = 1", "goals.p75 = 1", "there are p50, p90"),
        ("plots = [\"pie\"]", "plots[0]", "completion"),
        ("swim = 1", "swim = 1", "true or false"),
        ("sweep = 3", "sweep", "a table"),
        ("[sweep]\nnodes = 3", "sweep.nodes = 3", "a list"),
        ("nodes = ", "not TOML", ""),
    ];
    for (text, key, remedy) in table {
        let error = parse(&format!("name = \"test\"\n{text}"), &[]).unwrap_err();
        assert!(error.contains(key) && error.contains(remedy), "{text}: {error}");
        assert!(error.starts_with("1 problem in"), "{text}: {error}");
    }
    assert!(parse("name = \"Two Words\"", &[]).unwrap_err().contains("lower case"));
    let text = "name = \"a\"\nzones = [{ name = \"a\" }]";
    assert!(parse(text, &["zones.4.uplink=10:1"]).unwrap_err().contains("an index below 1"));
    assert!(parse(text, &["nodes=7", "nodes.x=1"]).unwrap_err().contains("nothing below `nodes`"));
}

#[test]
fn a_name_that_is_none_is_answered_with_the_closest() {
    let error = Scenario::load("kraken2", &[]).unwrap_err().to_string();
    assert!(error.contains("did you mean `kraken`?"), "{error}");
    assert!(Scenario::load("xyz", &[]).unwrap_err().to_string().contains("--list"));
}
