use super::*;

fn scope(text: &str) -> (Scope, Option<Tag>) {
    let (registry, rest) = text.split_once('/').unwrap();
    let (repository, tag) = rest.split_once(':').map_or((rest, None), |(name, tag)| (name, Some(tag)));
    let scope = Scope { registry: registry.parse().unwrap(), repository: repository.parse().unwrap() };
    (scope, tag.map(|tag| tag.parse().unwrap()))
}

fn rules(list: &[(&str, Action)]) -> Rules {
    let rule = |(pattern, action): &(&str, Action)| Rule {
        pattern: pattern.parse().unwrap(),
        action: *action,
        upstream: None,
    };
    Rules::new(list.iter().map(rule).collect()).unwrap()
}

fn decided(rules: &Rules, request: &str) -> String {
    let (scope, tag) = scope(request);
    rules.decide(&scope, tag.as_ref()).rule.map_or("(none)".to_owned(), |rule| rule.to_string())
}

#[test]
fn what_a_pattern_matches() {
    // Pattern; what it is about; what it is not.
    let table: &[(&str, &[&str], &[&str])] = &[
        (
            "docker.io/library/*",
            &["docker.io/library/redis", "index.docker.io/library/redis:7"],
            &["docker.io/library/a/b", "docker.io/library-of-mine/redis", "ghcr.io/library/redis"],
        ),
        (
            "docker.io/library/**",
            &["docker.io/library/redis", "docker.io/library/a/b/c"],
            &["docker.io/library", "docker.io/libraryx/a"],
        ),
        ("r.test/**", &["r.test/a", "r.test/a/b"], &["r.test:5000/a"]),
        ("r.test/**/**", &["r.test/a", "r.test/a/b"], &[]),
        ("r.test/**/redis", &["r.test/redis", "r.test/a/b/redis"], &["r.test/a/redis/x", "r.test/xredis"]),
        ("r.test/a/**/b", &["r.test/a/b", "r.test/a/x/y/b"], &["r.test/a/x", "r.test/ab"]),
        ("r.test/**/a/**/b", &["r.test/a/b", "r.test/x/a/a/y/b"], &["r.test/a/x", "r.test/b/a"]),
        ("r.test/team-*/app*", &["r.test/team-a/app", "r.test/team-b-c/app-1"], &["r.test/team/app"]),
        ("r.test/a*b*c", &["r.test/abc", "r.test/aabbcc", "r.test/a.bb-cbc"], &["r.test/acb", "r.test/ab/c"]),
        ("r.test:5000/a", &["r.test:5000/a"], &["r.test/a", "r.test:5001/a"]),
        ("*/secret/**", &["docker.io/secret/a", "r.test:5000/secret/a"], &["docker.io/a/secret/b"]),
        (
            "*.example.com/**",
            &["a.example.com/x", "a.b.example.com/x", "a.example.com:5000/x"],
            &["example.com/x", "aexample.com/x", "a.example.com.evil.test/x"],
        ),
        ("*.example.com:5000/**", &["a.example.com:5000/x"], &["a.example.com/x", "a.example.com:5001/x"]),
        ("[::1]:5000/**", &["[::1]:5000/x"], &["[::1]:5001/x"]),
        ("r.test/a:latest", &["r.test/a:latest"], &["r.test/a", "r.test/a:Latest", "r.test/a:latest-1"]),
        ("r.test/a:v*", &["r.test/a:v1", "r.test/a:v"], &["r.test/a:1v", "r.test/a"]),
        ("r.test/**:*-rc*", &["r.test/a/b:1-rc", "r.test/a:1.0-rc2"], &["r.test/a:1.0"]),
    ];
    for (pattern, yes, no) in table {
        let rules = rules(&[(pattern, Action::Deny)]);
        for (requests, expected) in [(yes, *pattern), (no, "(none)")] {
            for request in *requests {
                assert_eq!(decided(&rules, request), expected, "{pattern} {request}");
            }
        }
    }
}

/// The example of the requirement: `library/*: remote`, `mycorp/product: production`, `mycorp/product:latest: local`.
#[test]
fn the_most_specific_wins() {
    // In every order of the file.
    let mut list = vec![
        ("*/**", Action::Deny),
        ("*.corp.test/**", Action::Allow),
        ("r.corp.test/**", Action::Deny),
        ("r.corp.test/mycorp/**", Action::Allow),
        ("r.corp.test/mycorp/*", Action::Deny),
        ("r.corp.test/mycorp/product", Action::Allow),
        ("r.corp.test/mycorp/product:*", Action::Allow),
        ("r.corp.test/mycorp/product:latest", Action::LocalOnly),
        ("r.corp.test/mycorp/p*:latest", Action::Deny),
    ];
    let table = [
        ("docker.io/mycorp/product:latest", "*/**"),
        ("s.corp.test/mycorp/product:latest", "*.corp.test/**"),
        ("r.corp.test/other", "r.corp.test/**"),
        ("r.corp.test/mycorp/a/b", "r.corp.test/mycorp/**"),
        ("r.corp.test/mycorp/a:latest", "r.corp.test/mycorp/*"),
        ("r.corp.test/mycorp/pro:latest", "r.corp.test/mycorp/p*:latest"),
        ("r.corp.test/mycorp/product", "r.corp.test/mycorp/product"),
        ("r.corp.test/mycorp/product:1", "r.corp.test/mycorp/product:*"),
        ("r.corp.test/mycorp/product:latest", "r.corp.test/mycorp/product:latest"),
    ];
    for turn in 0..list.len() {
        list.rotate_left(1);
        let rules = rules(&list);
        for (request, rule) in table {
            assert_eq!(decided(&rules, request), rule, "turn {turn}: {request}");
        }
    }
}

#[test]
fn of_equal_weight_the_earlier_wins() {
    let both = [("r.test/a*b", Action::Allow), ("r.test/ab*", Action::Deny)];
    assert_eq!(decided(&rules(&both), "r.test/abab"), "r.test/a*b");
    let turned = [both[1], both[0]];
    assert_eq!(decided(&rules(&turned), "r.test/abab"), "r.test/ab*");
}

#[test]
fn without_a_rule_everything_is_allowed() {
    let (scope, _) = scope("docker.io/library/redis");
    let decision = Rules::default().decide(&scope, None);
    assert_eq!(decision, Decision { action: Action::Allow, upstream: None, rule: None });
}

#[test]
fn a_rule_names_an_upstream() {
    let rule = Rule {
        pattern: "r.test/mycorp/**".parse().unwrap(),
        action: Action::Allow,
        upstream: Some("prod.test/prefix".parse().unwrap()),
    };
    let (scope, _) = scope("r.test/mycorp/product");
    let rules = Rules::new(vec![rule]).unwrap();
    assert_eq!(rules.decide(&scope, None).origin(&scope).to_string(), "prod.test/prefix/mycorp/product");
    let other = self::scope("r.test/other").0;
    assert_eq!(rules.decide(&other, None).origin(&other), other);
}

#[test]
fn two_rules_about_the_same_are_a_conflict() {
    let rule = |text: &str| Rule { pattern: text.parse().unwrap(), action: Action::Deny, upstream: None };
    // Written differently, and the same: Docker Hub's other name, a wildcard twice.
    let list = ["docker.io/a/**", "r.test/b", "index.docker.io/a/**/**", "r.test/b:v1", "r.test/b"];
    let conflicts = Rules::new(list.iter().map(|text| rule(text)).collect()).unwrap_err();
    let places: Vec<_> = conflicts.iter().map(|conflict| (conflict.first, conflict.second)).collect();
    assert_eq!(places, [(0, 2), (1, 4)]);
    assert_eq!(conflicts[1].to_string(), "rules 2 and 5 are both about r.test/b");
}

#[test]
fn what_is_no_pattern() {
    let table = [
        ("", PatternError::NoRepository),
        ("docker.io", PatternError::NoRepository),
        ("docker.io/", PatternError::NoRepository),
        ("docker.io/:v1", PatternError::NoRepository),
        ("docker.io/Library", PatternError::Repository),
        ("docker.io/a//b", PatternError::Repository),
        ("docker.io/a**", PatternError::Repository),
        ("docker.io/***", PatternError::Repository),
        ("docker.io/a?", PatternError::Repository),
        ("docker.io/{a,b}", PatternError::Repository),
        ("docker.io/a@sha256:00", PatternError::Repository),
        ("docker.io/a:", PatternError::Tag),
        ("docker.io/a:b:c", PatternError::Tag),
        ("docker.io/a:**", PatternError::Tag),
    ];
    for (text, error) in table {
        assert_eq!(text.parse::<Pattern>().unwrap_err(), error, "{text}");
    }
    for text in ["**/a", "*example.com/a", "*./a", "a.*.com/b", "https://r.test/a", "/a"] {
        assert!(matches!(text.parse::<Pattern>(), Err(PatternError::Registry(_))), "{text}");
    }
}

/// A pattern cannot make a look-up slow: the work is bounded by the product of the lengths.
#[test]
fn many_stars_are_no_trap() {
    let pattern = format!("r.test/{}b", "a*".repeat(100));
    let rules = rules(&[(pattern.as_str(), Action::Deny)]);
    assert_eq!(decided(&rules, &format!("r.test/{}", "a".repeat(250))), "(none)");
}
