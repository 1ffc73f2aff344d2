use super::*;
use crate::config::Config;

async fn explained(config: &str, image: &str) -> Explanation {
    let config = Config::parse(config, None).unwrap_or_else(|error| panic!("{error}"));
    Explanation::new(&image.parse().unwrap(), &config.upstream_settings()).await.unwrap()
}

const SETS: &str = r#"
[upstream.registries."mirror-b.example.com:5000"]
endpoint = "http://10.0.0.7:5000"

[[mirrors.sets]]
name = "hub"
source = "docker.io"
mirrors = ["mirror-a.example.com", "mirror-b.example.com:5000/hub"]

[[mirrors.sets]]
name = "own"
source = "docker.io/own"
mirrors = []
never_contact_source = true
"#;

#[test]
fn images_as_users_write_them() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let table = [
        ("redis", "docker.io/library/redis:latest".to_owned()),
        ("redis:7", "docker.io/library/redis:7".to_owned()),
        ("team/app", "docker.io/team/app:latest".to_owned()),
        ("index.docker.io/library/redis:7", "docker.io/library/redis:7".to_owned()),
        ("quay.io/team/app:v1", "quay.io/team/app:v1".to_owned()),
        ("localhost:5000/app", "localhost:5000/app:latest".to_owned()),
        (&format!("redis@{digest}"), format!("docker.io/library/redis@{digest}")),
        (&format!("redis:7@{digest}"), format!("docker.io/library/redis:7@{digest}")),
    ];
    for (text, expected) in table {
        assert_eq!(text.parse::<Image>().unwrap().to_string(), expected, "{text}");
    }
    for bad in ["", "Redis", "redis:", "https://docker.io/redis", "redis@sha256:12", "a b"] {
        let failure = bad.parse::<Image>().unwrap_err();
        assert!(failure.to_string().contains("image"), "{bad}: {failure}");
    }
}

#[tokio::test]
async fn who_is_asked_and_why() {
    insta::assert_snapshot!(text(&explained(SETS, "redis:7").await), @r#"
    docker.io/library/redis:7

    Tags, tag lists, referrers
       the mirrors of docker.io apply
        ASKED FOR                AT                            CREDENTIALS  BECAUSE
     1  docker.io/library/redis  https://registry-1.docker.io  none         source
       not mirror-a.example.com: not asked for tags: serves = "digests" (set hub)
       not mirror-b.example.com:5000/hub: not asked for tags: serves = "digests" (set hub)

    Digests: blobs, and manifests by digest
       the mirrors of docker.io apply
        ASKED FOR                                    AT                            CREDENTIALS  BECAUSE
     1  mirror-a.example.com/library/redis           https://mirror-a.example.com  none         mirror (set hub), is told ns=docker.io
     2  mirror-b.example.com:5000/hub/library/redis  http://10.0.0.7:5000          none         mirror (set hub)
     3  docker.io/library/redis                      https://registry-1.docker.io  none         source
    "#);
}

#[tokio::test]
async fn a_part_that_must_not_be_asked() {
    insta::assert_snapshot!(text(&explained(SETS, "own/app").await), @r#"
    docker.io/own/app:latest

    Tags, tag lists, referrers
       docker.io/own has no mirrors of its own; those of docker.io apply
       nobody can be asked: every request for it fails
       not the source: never_contact_source (set own)
       not mirror-a.example.com: not asked for tags: serves = "digests" (set hub)
       not mirror-b.example.com:5000/hub: not asked for tags: serves = "digests" (set hub)

    Digests: blobs, and manifests by digest
       docker.io/own has no mirrors of its own; those of docker.io apply
        ASKED FOR                              AT                            CREDENTIALS  BECAUSE
     1  mirror-a.example.com/own/app           https://mirror-a.example.com  none         mirror (set hub), is told ns=docker.io
     2  mirror-b.example.com:5000/hub/own/app  http://10.0.0.7:5000          none         mirror (set hub)
       not the source: never_contact_source (set own)
    "#);
}

#[tokio::test]
async fn without_mirrors() {
    insta::assert_snapshot!(text(&explained("", "quay.io/team/app:v1").await), @r#"
    quay.io/team/app:v1

    Tags, tag lists, referrers
       no mirror set is for this repository
        ASKED FOR         AT               CREDENTIALS  BECAUSE
     1  quay.io/team/app  https://quay.io  none         source

    Digests: blobs, and manifests by digest
       no mirror set is for this repository
        ASKED FOR         AT               CREDENTIALS  BECAUSE
     1  quay.io/team/app  https://quay.io  none         source
    "#);
}

#[tokio::test]
async fn for_machines_and_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "hunter2").unwrap();
    let config = format!(
        "[upstream.registries.'mirror-a.example.com']\nusername = 'puller'\npassword_file = '{}'\n{SETS}",
        password.display()
    );
    let explanation = explained(&config, "redis:7").await;
    let json = serde_json::to_value(&explanation).unwrap();
    let first = &json["digests"]["asked"][0];
    assert_eq!((&first["kind"], &first["credentials"]), (&"mirror".into(), &"yes".into()));
    assert_eq!(first["namespace"], "docker.io");
    assert_eq!(json["digests"]["asked"][1]["endpoint"], "http://10.0.0.7:5000");
    assert_eq!(json["tags"]["left_out"][0]["who"], "mirror-a.example.com");
    let told = format!("{json}{}", text(&explanation));
    assert!(!told.contains("hunter2") && !told.contains("puller"), "{told}");

    // Credentials that are configured and cannot be had are told, not their content.
    let settings = Config::parse(&config, None).unwrap().upstream_settings();
    std::fs::remove_file(&password).unwrap();
    let explanation = Explanation::new(&"redis".parse().unwrap(), &settings).await.unwrap();
    assert!(explanation.digests.asked[0].credentials.starts_with("unusable: "), "{explanation:?}");
}
