use super::*;

fn sight(trouble: Option<Trouble>) -> Sight {
    Sight {
        endpoint: "https://reg.test/".into(),
        identified: false,
        no_credentials: None,
        clock_ahead: None,
        took: None,
        trouble,
    }
}

fn source(role: Role, trouble: Option<Trouble>) -> Source {
    Source {
        name: "reg.test".into(),
        role,
        sight: Some(sight(trouble)),
        state: None,
        limit: None,
        mode: None,
    }
}

fn told(outcomes: impl IntoIterator<Item = Outcome>) -> Vec<(&'static str, Level)> {
    let told = |outcome| match outcome {
        Outcome::Well { .. } => None,
        Outcome::Found(finding) => Some((finding.kind.id, finding.level)),
    };
    outcomes.into_iter().filter_map(told).collect()
}

#[test]
fn troubles_and_whose_they_are() {
    const MIRROR: Role = Role::Mirror { refusal_stops: true };
    const LENIENT: Role = Role::Mirror { refusal_stops: false };
    let why = || "why".to_owned();
    let table = [
        (Role::Registry, Trouble::Name(why()), ("name-unresolved", Level::Problem)),
        (MIRROR, Trouble::Name(why()), ("name-unresolved", Level::Warning)),
        (Role::Named, Trouble::Connect(why()), ("connect-failed", Level::Warning)),
        (Role::Registry, Trouble::Expired(why()), ("tls-expired", Level::Problem)),
        (Role::Registry, Trouble::Loop, ("upstream-loop", Level::Problem)),
        (MIRROR, Trouble::Refused(why()), ("credentials-refused", Level::Problem)),
        (LENIENT, Trouble::Refused(why()), ("credentials-refused", Level::Warning)),
        (Role::Registry, Trouble::Anonymous(why()), ("credentials-missing", Level::Warning)),
        (Role::Registry, Trouble::Realm(why()), ("token-realm", Level::Problem)),
        (Role::Registry, Trouble::TokenServer(why()), ("token-server", Level::Problem)),
        (Role::Registry, Trouble::NoRegistry(why()), ("not-a-registry", Level::Problem)),
    ];
    for (role, trouble, expected) in table {
        assert_eq!(told(judge(&source(role, Some(trouble)))), [expected], "{role:?}");
    }
    assert!(told(judge(&source(Role::Registry, None))).is_empty());
    let late = Source { sight: None, ..source(Role::Registry, None) };
    assert_eq!(told(judge(&late)), [("answer-late", Level::Problem)]);
}

#[test]
fn what_the_agent_knows() {
    let well = source(Role::Registry, None);
    let limit = |remaining| Some(RateLimit { limit: 100, remaining });
    for (remaining, expected) in [(15, vec![]), (14, vec![("rate-limit-low", Level::Warning)])] {
        assert_eq!(told(judge(&Source { limit: limit(remaining), ..well.clone() })), expected);
    }
    let alone = Source { state: Some(SourceState::LeftAlone { seconds: 5 }), ..well.clone() };
    assert_eq!(told(judge(&alone)), [("source-left-alone", Level::Warning)]);
    let limited = Source { state: Some(SourceState::Limited { seconds: 5 }), ..well };
    assert_eq!(told(judge(&limited)), [("rate-limited", Level::Problem)]);
}

#[test]
fn clocks() {
    for (ahead, expected) in [
        (vec![], None),
        (vec![0], None),
        (vec![-30, 30], None),
        (vec![3600, 1, 0], None),
        (vec![60], Some(Level::Warning)),
        (vec![-301, -302], Some(Level::Problem)),
    ] {
        let level = judge_clock(ahead.clone()).and_then(|outcome| outcome.level());
        assert_eq!(level, expected, "{ahead:?}");
    }
}

#[test]
fn proxies() {
    let variables = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let ours = variables(&[("https_proxy", "http://user:word@proxy.test:3128/"), ("NO_PROXY", "10.0.0.1")]);
    let same = variables(&[("HTTPS_PROXY", "http://user:word@proxy.test:3128/"), ("no_proxy", "10.0.0.1")]);
    let proxies = |agents| Proxies { ours: ours.clone(), agents };
    assert_eq!(Vec::from_iter(proxies(None).addresses()), ["proxy.test:3128"]);
    assert!(proxies(None).are_used());
    assert_eq!(judge_proxies(&proxies(None)), None);
    assert_eq!(judge_proxies(&proxies(Some(same))), None);
    let Some(Outcome::Found(found)) = judge_proxies(&proxies(Some(BTreeMap::new()))) else {
        panic!("they differ")
    };
    assert!(found.what.contains("HTTPS_PROXY, NO_PROXY") && !found.what.contains("word"), "{}", found.what);
}

#[test]
fn who_is_looked_at() {
    let text = r#"
        [upstream.registries."registry.test"]
        [upstream.registries."sealed.test"]
        [[mirrors.sets]]
        source = "sealed.test"
        mirrors = ["mirror.test/sealed"]
        serves = "all"
        never_contact_source = true
    "#;
    let config = Config::parse(text, None).unwrap();
    let looked_at = wanted(&config, None).looked_at.into_iter();
    let wanted: Vec<(String, Role)> =
        looked_at.map(|(registry, role)| (registry.to_string(), role)).collect();
    assert_eq!(
        wanted,
        [
            ("mirror.test".to_owned(), Role::Mirror { refusal_stops: true }),
            ("registry.test".to_owned(), Role::Registry)
        ]
    );
}

/// Names that clients make up are no reason to keep a person waiting, nor to hide what is real among them.
#[test]
fn which_names_are_worth_a_look() {
    let status = |name: &str| SourceStatus {
        name: name.to_owned(),
        endpoint: format!("https://{name}/"),
        state: SourceState::Well,
    };
    let look = |names: &[&str]| {
        let all: Vec<SourceStatus> = names.iter().map(|name| status(name)).collect();
        let received = BTreeMap::from([("real.test".to_owned(), 7), ("a.test".to_owned(), 0)]);
        let (looked_at, unproven) = worth_a_look(&all.iter().collect::<Vec<_>>(), &received);
        (looked_at.iter().map(ToString::to_string).collect::<Vec<_>>(), unproven)
    };
    let few = ["a.test", "b.test", "c.test", "d.test"];
    assert_eq!(look(&few), (few.map(str::to_owned).to_vec(), Vec::new()));
    let many = ["a.test", "b.test", "c.test", "d.test", "e.test", "other", "other", "real.test"];
    let (looked_at, unproven) = look(&many);
    assert_eq!(looked_at, ["real.test"]);
    assert_eq!(unproven, many[..5]);
    assert_eq!(listed(&unproven), "a.test, b.test, c.test, d.test, e.test");
    let more = [unproven, vec!["f.test".to_owned()]].concat();
    assert_eq!(listed(&more), "a.test, b.test, c.test, d.test, e.test and 1 more");
}

#[test]
fn who_gets_what() {
    let source = |name: &str, mode| Source { name: name.into(), mode, ..source(Role::Registry, None) };
    let sources = [
        source("a.test", Some(AccessMode::PublicOnly)),
        source("b.test", Some(AccessMode::Open)),
        source("c.test", None),
        source("d.test", Some(AccessMode::PublicOnly)),
    ];
    let said: Vec<String> = judge_access(&sources)
        .into_iter()
        .map(|outcome| match outcome {
            Outcome::Well { what, .. } => what,
            Outcome::Found(finding) => panic!("{finding:?}"),
        })
        .collect();
    let expected = [
        "access = \"open\", whoever reaches the port has everything: b.test",
        "access = \"public-only\", whoever reaches the port has what is public: a.test, d.test",
    ];
    assert_eq!(said, expected);
}
