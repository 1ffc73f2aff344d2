use super::*;

fn hub() -> Registry {
    Registry::DOCKER_HUB.parse().unwrap()
}

fn password(username: &str, password: &str) -> Option<Login> {
    Some(Login::Password { username: username.into(), password: Secret::new(password) })
}

async fn found(registry: &Registry, config: &str) -> Resolved {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    std::fs::write(&path, config).unwrap();
    CredentialSource::new(registry.clone(), Credentials::DockerConfigs { paths: vec![path] }).resolve().await
}

#[tokio::test]
async fn docker_configurations() {
    let test: Registry = "registry.test:5000".parse().unwrap();
    // "dXNlcjpwYTpzcw==" is user:pa:ss
    let table = [
        (
            test.clone(),
            r#"{"auths":{"registry.test:5000":{"auth":"dXNlcjpwYTpzcw=="}}}"#,
            password("user", "pa:ss"),
        ),
        (
            test.clone(),
            r#"{"auths":{"https://registry.test:5000":{"auth":"dXNlcjpwYTpzcw=="}}}"#,
            password("user", "pa:ss"),
        ),
        (
            test.clone(),
            r#"{"auths":{"registry.test:5000":{"username":"a","password":"b"}}}"#,
            password("a", "b"),
        ),
        (
            test.clone(),
            r#"{"auths":{"registry.test:5000":{"auth":"dXNlcjpwYTpzcw==","identitytoken":"t"}}}"#,
            Some(Login::IdentityToken(Secret::new("t"))),
        ),
        (test.clone(), r#"{"auths":{"other.test":{"auth":"dXNlcjpwYTpzcw=="}}}"#, None),
        (test.clone(), r#"{"auths":{"registry.test:5000":{}}}"#, None),
        (test.clone(), "{}", None),
        (
            hub(),
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dXNlcjpwYTpzcw=="}}}"#,
            password("user", "pa:ss"),
        ),
        (hub(), r#"{"auths":{"docker.io":{"auth":"dXNlcjpwYTpzcw=="}}}"#, password("user", "pa:ss")),
    ];
    for (registry, config, expected) in table {
        let resolved = found(&registry, config).await;
        assert!(resolved.problem.is_none(), "{config}: {:?}", resolved.problem);
        assert_eq!(resolved.login.as_deref(), expected.as_ref(), "{config}");
    }
}

/// Several files, and whose password counts; none is a file that is not there.
#[tokio::test]
async fn the_first_file_that_knows_the_registry_counts() {
    const A: &str = r#"{"auths":{"registry.test":{"username":"a","password":"p"}}}"#;
    const B: &str = r#"{"auths":{"registry.test":{"username":"b","password":"p"}}}"#;
    const OTHER: &str = r#"{"auths":{"other.test":{"username":"o","password":"p"}}}"#;
    const HELPER: &str = r#"{"credsStore":"shoal-none"}"#;
    let table: [(&[Option<&str>], Option<&str>, bool); 7] = [
        (&[Some(A), Some(B)], Some("a"), false),
        (&[Some(OTHER), Some(B)], Some("b"), false),
        (&[Some(OTHER), Some("{}")], None, false),
        // One that is of no use hides none of the others, and is told of only where it may be what is missing.
        (&[Some("no JSON"), Some(B)], Some("b"), false),
        (&[None, Some(B)], Some("b"), false),
        (&[Some(HELPER), Some(B)], Some("b"), false),
        (&[None, Some(OTHER)], None, true),
    ];
    for (files, expected, is_problem) in table {
        let directory = tempfile::tempdir().unwrap();
        let paths = files.iter().enumerate().map(|(index, text)| {
            let path = directory.path().join(index.to_string());
            text.iter().for_each(|text| std::fs::write(&path, text).unwrap());
            path
        });
        let credentials = Credentials::DockerConfigs { paths: paths.collect() };
        let resolved = CredentialSource::new("registry.test".parse().unwrap(), credentials).resolve().await;
        let expected = expected.and_then(|name| password(name, "p"));
        assert_eq!(resolved.login.as_deref(), expected.as_ref(), "{files:?}");
        assert_eq!(resolved.problem.is_some(), is_problem, "{files:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_used_is_reported_without_being_quoted() {
    let test: Registry = "registry.test".parse().unwrap();
    for config in [
        r#"{"auths":{"registry.test":{"auth":"hunter2!"}}}"#,
        r#"{"auths":{"registry.test":{"auth":"hunter2=","password":7}}}"#,
        r#"["hunter2"]"#,
        "hunter2",
    ] {
        let resolved = found(&test, config).await;
        assert_eq!(resolved.login, None, "{config}");
        let problem = resolved.problem.unwrap();
        assert!(matches!(*problem, CredentialsError::Malformed { .. }), "{config}");
        assert!(!format!("{problem} {problem:?} {}", chain(&*problem)).contains("hunter2"), "{config}");
    }
}

#[tokio::test]
async fn helpers_are_chosen_as_docker_does() {
    let test: Registry = "registry.test".parse().unwrap();
    let started = |config: &'static str| {
        let test = test.clone();
        async move {
            let problem = found(&test, config).await.problem?;
            match &*problem {
                CredentialsError::Helper(helper::HelperError::Start { name, .. }) => Some(name.clone()),
                other => panic!("{other}"),
            }
        }
    };
    let table = [
        (
            r#"{"credHelpers":{"registry.test":"shoal-none-a"},"credsStore":"shoal-none-b"}"#,
            Some("shoal-none-a"),
        ),
        (
            r#"{"credHelpers":{"other.test":"shoal-none-a"},"credsStore":"shoal-none-b"}"#,
            Some("shoal-none-b"),
        ),
        (r#"{"auths":{"registry.test":{}},"credsStore":"shoal-none-b"}"#, Some("shoal-none-b")),
        (
            r#"{"auths":{"registry.test":{"auth":"dTpw"}},"credHelpers":{"registry.test":"shoal-none-a"}}"#,
            Some("shoal-none-a"),
        ),
        (r#"{"auths":{"registry.test":{"auth":"dTpw"}},"credHelpers":{"other.test":"shoal-none-a"}}"#, None),
        (r#"{"credHelpers":{"registry.test":""},"credsStore":""}"#, None),
    ];
    for (config, expected) in table {
        assert_eq!(started(config).await.as_deref(), expected, "{config}");
    }
}

#[tokio::test]
async fn a_replaced_file_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("password");
    let replace = |text: &str| {
        // As Kubernetes does it: a new file under the old name.
        let new = directory.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &path).unwrap();
    };
    replace("one\n");
    let credentials = Credentials::PasswordFile { username: "u".into(), path: path.clone() };
    let source = CredentialSource::new("registry.test".parse().unwrap(), credentials);
    let one = source.resolve().await.login;
    assert_eq!(one.as_deref(), password("u", "one").as_ref());
    assert!(
        Arc::ptr_eq(&one.unwrap(), &source.resolve().await.login.unwrap()),
        "an unchanged file is not read again"
    );
    replace("two\r\n");
    assert_eq!(source.resolve().await.login.as_deref(), password("u", "two").as_ref());
    std::fs::remove_file(&path).unwrap();
    let gone = source.resolve().await;
    assert_eq!(gone.login, None);
    assert!(matches!(*gone.problem.unwrap(), CredentialsError::Read { .. }));
    assert!(source.problem().is_some());
    replace("three");
    assert_eq!(source.resolve().await.login.as_deref(), password("u", "three").as_ref());
    assert!(source.problem().is_none());
}

#[tokio::test]
async fn a_file_without_end_is_refused() {
    let path = PathBuf::from("/dev/zero");
    let error = read_bounded(&path).await.unwrap_err();
    assert!(matches!(error, CredentialsError::TooLarge(_)));
}

#[test]
fn secrets_have_no_text_form() {
    let credentials = Credentials::Password { username: "u".into(), password: Secret::new("hunter2") };
    assert!(!format!("{credentials:?} {credentials:#?}").contains("hunter2"));
}
