//! Subcommands that run to an end.

use crate::support::binary::command;
use crate::support::database::TestDatabase;

async fn run(arguments: &[&str], settings: &[(&str, &str)]) -> (bool, String, String) {
    let output = command(arguments, settings).output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn check_config_reports_all_problems_at_once() {
    let settings = [
        ("SALEBELL_SERVER__LISTEN", "hunter2"),
        ("SALEBELL_SERVER__GRPC_LISTEN", "9000"),
        ("SALEBELL_SERVER__METRICS_LISTEN", "0.0.0.0:9100"),
        ("SALEBELL_SERVER__RATE_LIMIT_PER_MINUTE", "-1"),
        (
            "SALEBELL_AUTH__ISSUERS",
            r#"[{"issuer":"i","audiences":[],"algorithms":["RS256"],"jwks_url":"u"}]"#,
        ),
    ];
    let (success, _, errors) = run(&["check-config"], &settings).await;
    assert!(!success);
    for part in [
        "6 problem(s)",
        "server.listen",
        "server.grpc_listen (SALEBELL_SERVER__GRPC_LISTEN) cannot be read: invalid socket address syntax",
        "server.metrics_listen (SALEBELL_SERVER__METRICS_LISTEN) must be a loopback address",
        "server.rate_limit_per_minute",
        "auth.issuers[0]",
        "database.url (SALEBELL_DATABASE__URL) is required",
    ] {
        assert!(errors.contains(part), "{part} is not in {errors}");
    }
    assert!(!errors.contains("hunter2"), "a value may be a secret: {errors}");
}

#[tokio::test]
async fn check_config_reads_the_file_under_the_environment() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("{}.toml", uuid::Uuid::now_v7().simple()));
    std::fs::write(&path, "[database]\nurl = \"postgres:///a\"\n[server]\nlisten = \"nowhere\"\n").unwrap();
    let file = path.to_str().unwrap();
    let (success, _, errors) = run(&["check-config", "--config", file], &[]).await;
    assert!(!success && errors.contains("1 problem(s)") && errors.contains("server.listen"), "{errors}");
    let settings = [("SALEBELL_SERVER__LISTEN", "127.0.0.1:0"), ("SALEBELL_CONFIG", file)];
    let (success, output, errors) = run(&["check-config"], &settings).await;
    assert!(success, "{errors}");
    assert_eq!(output, "The configuration is complete.\n");
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn migrate_runs_twice_and_twice_at_once() {
    let database = TestDatabase::create_bare().await;
    let settings = [("SALEBELL_DATABASE__URL", database.url.as_str())];
    let both = tokio::join!(run(&["migrate"], &settings), run(&["migrate"], &settings));
    assert!(both.0.0 && both.1.0, "{both:?}");
    let (success, _, errors) = run(&["migrate"], &settings).await;
    assert!(success, "{errors}");
}
