use proptest::prelude::*;

use super::*;

fn set(name: &str, source: &str, mirrors: &[&str]) -> MirrorSet {
    MirrorSet {
        name: name.into(),
        source: source.parse().unwrap(),
        mirrors: mirrors.iter().map(|mirror| mirror.parse().unwrap()).collect(),
        serves: Serves::Digests,
        tag_order: None,
        never_contact_source: false,
    }
}

fn serving(serves: Serves, set: MirrorSet) -> MirrorSet {
    MirrorSet { serves, ..set }
}

fn ordered(order: TagOrder, set: MirrorSet) -> MirrorSet {
    MirrorSet { tag_order: Some(order), ..set }
}

fn forbidden(set: MirrorSet) -> MirrorSet {
    MirrorSet { never_contact_source: true, ..set }
}

fn mirrors(sets: &[MirrorSet]) -> Mirrors {
    Mirrors::new(sets.to_vec()).unwrap_or_else(|conflicts| panic!("{conflicts:?}"))
}

fn scope(text: &str) -> Scope {
    let (registry, repository) = text.split_once('/').unwrap();
    Scope { registry: registry.parse().unwrap(), repository: repository.parse().unwrap() }
}

fn plan(sets: &[MirrorSet], repository: &str, asking: Asking) -> Plan {
    mirrors(sets).candidates(&scope(repository), asking)
}

/// Who is asked, one after the other; `=` marks the source, `?` one that is told the namespace.
fn shown(plan: &Plan) -> Vec<String> {
    let mark = |candidate: &Candidate| match (&candidate.kind, candidate.sends_namespace) {
        (CandidateKind::Source, false) => "=",
        (CandidateKind::Mirror(_), true) => "?",
        (CandidateKind::Mirror(_), false) => "",
        (CandidateKind::Source, true) => "a source needs no namespace",
    };
    plan.candidates.iter().map(|candidate| format!("{}{}", mark(candidate), candidate.scope)).collect()
}

#[test]
fn who_is_asked_for_digests() {
    let hub = |mirrors: &[&str]| set("hub", "docker.io", mirrors);
    let table: &[(&str, Vec<MirrorSet>, &str, &[&str])] = &[
        ("nothing is configured", vec![], "docker.io/a", &["=docker.io/a"]),
        ("another registry", vec![hub(&["m.test"])], "quay.io/a", &["=quay.io/a"]),
        (
            "list order, source last (T2)",
            vec![hub(&["b.test", "a.test:5000/hub"])],
            "docker.io/library/redis",
            &["?b.test/library/redis", "a.test:5000/hub/library/redis", "=docker.io/library/redis"],
        ),
        (
            "two sets of one source (M1)",
            vec![hub(&["b.test", "c.test"]), set("more", "docker.io", &["a.test", "b.test"])],
            "docker.io/a",
            &["?a.test/a", "?b.test/a", "?c.test/a", "=docker.io/a"],
        ),
        (
            "the source where it is listed (M2)",
            vec![hub(&["a.test", "docker.io", "b.test"])],
            "docker.io/a",
            &["?a.test/a", "=docker.io/a", "?b.test/a"],
        ),
        (
            "by another of its names",
            vec![hub(&["registry-1.docker.io", "b.test"])],
            "docker.io/a",
            &["=docker.io/a", "?b.test/a"],
        ),
        (
            "a set with nothing but the source is none (M2)",
            vec![hub(&["a.test"]), set("empty", "docker.io", &["docker.io"])],
            "docker.io/a",
            &["?a.test/a", "=docker.io/a"],
        ),
        (
            "a part of a registry",
            vec![set("library", "docker.io/library", &["m.test/hub"])],
            "docker.io/library/redis",
            &["m.test/hub/redis", "=docker.io/library/redis"],
        ),
        (
            "the narrowest source decides alone",
            vec![hub(&["a.test"]), set("library", "docker.io/library", &["b.test/library"])],
            "docker.io/library/redis",
            &["b.test/library/redis", "=docker.io/library/redis"],
        ),
        (
            "one without mirrors inherits (M2)",
            vec![hub(&["a.test/hub"]), set("library", "docker.io/library", &["docker.io/library"])],
            "docker.io/library/redis",
            &["a.test/hub/library/redis", "=docker.io/library/redis"],
        ),
        (
            "a registry before a domain",
            vec![set("all", "*.example.com", &["a.test"]), set("one", "r.example.com", &["b.test"])],
            "r.example.com/x",
            &["?b.test/x", "=r.example.com/x"],
        ),
        (
            "every registry of a domain",
            vec![set("all", "*.example.com", &["a.test"])],
            "r.example.com:5000/x",
            &["?a.test/x", "=r.example.com:5000/x"],
        ),
        (
            "a mirror that is the registry asked for",
            vec![set("all", "*.example.com", &["r.example.com", "a.test"])],
            "r.example.com/x",
            &["=r.example.com/x", "?a.test/x"],
        ),
        (
            "two ways to one place",
            vec![set("x", "docker.io/x", &["m.test/x", "m.test"])],
            "docker.io/x/x",
            &["m.test/x/x", "m.test/x", "=docker.io/x/x"],
        ),
        (
            "no name is left at a mirror without a prefix",
            vec![set("one", "docker.io/library/redis", &["m.test", "n.test/redis"])],
            "docker.io/library/redis",
            &["n.test/redis", "=docker.io/library/redis"],
        ),
        ("a forbidden source (M3)", vec![forbidden(hub(&["a.test"]))], "docker.io/a", &["?a.test/a"]),
        (
            "forbidden by a narrower source that inherits its mirrors",
            vec![hub(&["a.test"]), forbidden(set("own", "docker.io/own", &[]))],
            "docker.io/own/a",
            &["?a.test/own/a"],
        ),
        (
            "forbidden by the source whose mirrors are inherited",
            vec![forbidden(hub(&["a.test"])), set("own", "docker.io/own", &["docker.io/own"])],
            "docker.io/own/a",
            &["?a.test/own/a"],
        ),
        (
            "a narrower source with mirrors of its own decides that, too",
            vec![forbidden(hub(&["a.test"])), set("own", "docker.io/own", &["b.test/own"])],
            "docker.io/own/a",
            &["b.test/own/a", "=docker.io/own/a"],
        ),
        (
            "forbidden, and a mirror of the domain is the source",
            vec![forbidden(set("all", "*.example.com", &["r.example.com", "a.test"]))],
            "r.example.com/x",
            &["?a.test/x"],
        ),
        ("forbidden, and no mirror at all", vec![forbidden(hub(&[]))], "docker.io/a", &[]),
    ];
    for (case, sets, repository, expected) in table {
        assert_eq!(shown(&plan(sets, repository, Asking::Digest)), *expected, "{case}");
    }
}

#[test]
fn who_is_asked_for_tags() {
    let hub = |mirrors: &[&str]| set("hub", "docker.io", mirrors);
    let all = |set| serving(Serves::All, set);
    let (source_first, mirror_first) = (TagOrder::SourceFirst, TagOrder::MirrorFirst);
    let table: &[(&str, Vec<MirrorSet>, &[&str])] = &[
        ("not the mirrors, unless they may be (T1)", vec![hub(&["a.test"])], &["=docker.io/a"]),
        (
            "the source first (T3)",
            vec![all(hub(&["a.test", "b.test"]))],
            &["=docker.io/a", "?a.test/a", "?b.test/a"],
        ),
        (
            "the source first, wherever it is listed",
            vec![ordered(source_first, all(hub(&["a.test", "docker.io", "b.test"])))],
            &["=docker.io/a", "?a.test/a", "?b.test/a"],
        ),
        (
            "the mirrors first",
            vec![ordered(mirror_first, all(hub(&["a.test", "b.test"])))],
            &["?a.test/a", "?b.test/a", "=docker.io/a"],
        ),
        (
            "the mirrors first, and the source where it is listed",
            vec![ordered(mirror_first, all(hub(&["a.test", "docker.io", "b.test"])))],
            &["?a.test/a", "=docker.io/a", "?b.test/a"],
        ),
        (
            "composed apart from digests",
            vec![hub(&["a.test", "b.test"]), serving(Serves::Tags, set("tags", "docker.io", &["b.test"]))],
            &["=docker.io/a", "?b.test/a"],
        ),
        (
            "one set says who is first, for all of its source",
            vec![all(hub(&["a.test"])), ordered(mirror_first, all(set("more", "docker.io", &["b.test"])))],
            &["?a.test/a", "?b.test/a", "=docker.io/a"],
        ),
        (
            "a narrower source decides, though it has mirrors for digests only",
            vec![all(hub(&["a.test"])), set("own", "docker.io/a", &["b.test/a"])],
            &["=docker.io/a"],
        ),
        (
            "nobody: the source is forbidden, its mirrors serve digests",
            vec![forbidden(hub(&["a.test"]))],
            &[],
        ),
        ("the source is forbidden", vec![forbidden(all(hub(&["a.test"])))], &["?a.test/a"]),
    ];
    for (case, sets, expected) in table {
        assert_eq!(shown(&plan(sets, "docker.io/a", Asking::Tag)), *expected, "{case}");
    }
}

#[test]
fn who_is_left_out_and_why() {
    let sets = [
        forbidden(set(
            "library",
            "docker.io/library/redis",
            &["a.test", "b.test/redis", "c.test/library/redis"],
        )),
        serving(Serves::All, set("hub", "docker.io", &["d.test"])),
    ];
    let told = |asking| {
        let plan = plan(&sets, "docker.io/library/redis", asking);
        let who = |kind: &CandidateKind| match kind {
            CandidateKind::Source => "source".to_owned(),
            CandidateKind::Mirror(location) => location.to_string(),
        };
        let told: Vec<String> = plan
            .left_out
            .iter()
            .map(|left| format!("{} ({}): {}", who(&left.kind), left.from.join(", "), left.reason))
            .collect();
        (plan, told)
    };
    let (plan, left_out) = told(Asking::Digest);
    assert_eq!(plan.matched, plan.decided_by);
    assert_eq!(
        left_out,
        [
            "a.test (library): has no name for this repository: nothing is left of it",
            "source (library): never_contact_source",
            "d.test (hub): the mirrors of docker.io/library/redis apply, which is narrower",
        ]
    );
    let (plan, left_out) = told(Asking::Tag);
    assert!(plan.candidates.is_empty());
    assert_eq!(
        left_out,
        [
            "source (library): never_contact_source",
            "a.test (library): not asked for tags: serves = \"digests\"",
            "b.test/redis (library): not asked for tags: serves = \"digests\"",
            "c.test/library/redis (library): not asked for tags: serves = \"digests\"",
            "d.test (hub): the mirrors of docker.io/library/redis apply, which is narrower",
        ]
    );
}

#[test]
fn inherited_mirrors_name_both_sources() {
    let sets = [set("hub", "docker.io", &["a.test"]), forbidden(set("own", "docker.io/own", &[]))];
    let plan = plan(&sets, "docker.io/own/a", Asking::Digest);
    let named = |source: &Option<SourceScope>| source.as_ref().map(ToString::to_string);
    assert_eq!(named(&plan.matched).as_deref(), Some("docker.io/own"));
    assert_eq!(named(&plan.decided_by).as_deref(), Some("docker.io"));
    assert_eq!(plan.candidates[0].from, [Arc::from("hub")]);
}

#[test]
fn contradictions_name_both_sets_and_the_source() {
    let a = |mirrors: &[&str]| set("a", "docker.io", mirrors);
    let b = |mirrors: &[&str]| set("b", "docker.io", mirrors);
    let all = |set| serving(Serves::All, set);
    let table: &[(&str, Vec<MirrorSet>, &[&str])] = &[
        (
            "a part beside everything (M4)",
            vec![a(&["m.test"]), all(b(&["m.test"]))],
            &["b and a both", "a for digests only"],
        ),
        (
            "tags beside everything (M4)",
            vec![serving(Serves::Tags, a(&["m.test"])), all(b(&["m.test"]))],
            &["b and a both", "a for tags only"],
        ),
        ("forbidden and not", vec![forbidden(a(&["m.test"])), b(&["m.test"])], &["only a says"]),
        ("forbidden and not, without mirrors", vec![forbidden(a(&[])), b(&["m.test"])], &["only a says"]),
        (
            "two orders",
            vec![
                ordered(TagOrder::MirrorFirst, all(a(&["m.test"]))),
                ordered(TagOrder::SourceFirst, all(b(&["m.test"]))),
            ],
            &["b and a both", "mirror-first"],
        ),
        ("forbidden and listed", vec![forbidden(a(&["m.test", "docker.io"]))], &["set a says"]),
    ];
    for (case, sets, said) in table {
        let conflicts = Mirrors::new(sets.clone()).expect_err(case);
        let [conflict] = &conflicts[..] else { panic!("{case}: {conflicts:?}") };
        let text = conflict.to_string();
        assert!(text.contains("docker.io"), "{case}: {text}");
        assert!(said.iter().all(|said| text.contains(said)), "{case}: {text}");
        assert!(conflict.sets().iter().all(|set| sets.iter().any(|known| known.name == *set)), "{case}");
    }
    // The same differences between different sources are none.
    let apart = [
        forbidden(a(&["m.test"])),
        all(set("b", "docker.io/library", &["m.test"])),
        serving(Serves::Tags, set("c", "quay.io", &["m.test"])),
    ];
    assert!(!mirrors(&apart).is_empty());
    assert!(Mirrors::default().is_empty() && mirrors(&[]).is_empty());
}

#[test]
fn every_mirror_once() {
    let sets = [
        set("a", "docker.io", &["b.test", "docker.io", "a.test/hub"]),
        serving(Serves::Tags, set("b", "quay.io", &["b.test"])),
    ];
    let mirrors = mirrors(&sets);
    let locations: Vec<String> = mirrors.locations().map(ToString::to_string).collect();
    assert_eq!(locations, ["a.test/hub", "b.test"]);
}

/// Few names, so that sets overlap, contradict each other and form loops.
fn any_set() -> impl Strategy<Value = MirrorSet> {
    let source = prop::sample::select(vec!["docker.io", "docker.io/library", "*.io", "*.example.com"]);
    let mirror =
        prop::sample::select(vec!["a.test", "b.test", "c.test", "d.test/hub", "docker.io", "r.example.com"]);
    (source, prop::collection::vec(mirror, 0..5), any::<bool>()).prop_map(|(source, mirrors, tags)| {
        let serves = if tags { Serves::Tags } else { Serves::Digests };
        serving(serves, set("", source, &mirrors))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// M1: every node reads the same sets and asks in the same order, whatever order it read them in.
    #[test]
    fn the_order_of_sets_does_not_matter(
        sets in prop::collection::vec(any_set(), 1..8).prop_map(|mut sets| {
            sets.iter_mut().enumerate().for_each(|(n, set)| set.name = format!("set {n}"));
            sets
        }).prop_flat_map(|sets| (Just(sets.clone()), Just(sets).prop_shuffle())),
        repository in prop::sample::select(vec!["docker.io/library/redis", "docker.io/x", "r.example.com/library"]),
        asking in prop::sample::select(vec![Asking::Digest, Asking::Tag]),
    ) {
        let (sets, shuffled) = sets;
        let scope = scope(repository);
        let first = mirrors(&sets).candidates(&scope, asking);
        prop_assert_eq!(&first, &mirrors(&shuffled).candidates(&scope, asking));
        // Whatever was configured: nobody twice, and the source is asked, exactly once.
        let mut asked: Vec<&Scope> = first.candidates.iter().map(|candidate| &candidate.scope).collect();
        prop_assert_eq!(asked.iter().filter(|asked| ***asked == scope).count(), 1);
        asked.sort();
        asked.dedup();
        prop_assert_eq!(asked.len(), first.candidates.len());
    }
}
