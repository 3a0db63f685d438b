//! What is wrong with a configuration is told, all at once.

use super::*;

fn load(environment: &[(&str, &str)]) -> Result<Config, Problems> {
    Config::load(None, environment.iter().map(|(k, v)| (k.to_string(), v.to_string())))
}

#[test]
fn the_defaults_need_only_a_database() {
    let config =
        load(&[("SALEBELL_DATABASE__URL", "postgres:///salebell"), ("SALEBELL_TOKEN", "x")]).unwrap();
    assert_eq!(config.server.listen.port(), 8080);
    assert!(!format!("{config:?}").contains("postgres:///salebell"), "Debug shows a secret");
}

#[test]
fn every_problem_is_told_at_once_without_its_value() {
    let problems = load(&[
        ("SALEBELL_SERVER__LISTEN", "hunter2"),
        ("SALEBELL_WORKER__DAILY_HOUR", "24"),
        ("SALEBELL_WEBHOOK__ALLOW_NETWORKS", "10.0.0.0/8, what"),
        ("SALEBELL_WEBHOOK__ENCRYPTION_KEYS", "c2hvcnQ="),
        (
            "SALEBELL_AUTH__ISSUERS",
            r#"[{"issuer":"i","audiences":["a"],"algorithms":["HS256"],"jwks_url":"u"}]"#,
        ),
        ("SALEBELL_FILES__STORE", "s3"),
        ("SALEBELL_FILES__S3_REGION", "eu-central-1"),
        ("SALEBELL_FILES__S3_ENDPOINT", "ftp://example.com"),
        ("SALEBELL_FILES__S3_PREFIX", "a/../b"),
        ("SALEBELL_FILES__MAX_BYTES", "52428800001"),
        ("SALEBELL_DATABSE__URL", "x"),
    ])
    .unwrap_err();
    let text = problems.to_string();
    for key in [
        "server.listen",
        "worker.daily_hour",
        "webhook.allow_networks",
        "webhook.encryption_keys",
        "auth.issuers[0]",
        "files.s3_bucket",
        "files.s3_endpoint",
        "files.s3_prefix",
        "files.max_bytes",
        "databse.url (SALEBELL_DATABSE__URL) is unknown",
        "database.url (SALEBELL_DATABASE__URL) is required",
    ] {
        assert!(text.contains(key), "{key} is missing in {text}");
    }
    assert_eq!(problems.0.len(), 11, "{text}");
    assert!(!text.contains("hunter2"));
}
