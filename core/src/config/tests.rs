//! Tests of the configuration: defaults, precedence, and problems, which are all reported at once.

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
fn a_hook_of_the_image_may_be_off() {
    let database = ("SALEBELL_DATABASE__URL", "postgres:///salebell");
    let hooks = |launch, termination| {
        let settings = [
            database,
            ("SALEBELL_INSTANCE__LAUNCH_HOOK", launch),
            ("SALEBELL_INSTANCE__TERMINATION_HOOK", termination),
        ];
        let instance = load(&settings).unwrap().instance;
        (instance.launch_hook, instance.termination_hook)
    };
    assert_eq!(hooks("off", "off"), (None, None));
    assert_eq!(hooks("", "offset"), (None, Some("offset".to_owned())));
}

#[test]
fn all_problems_are_reported_at_once_without_their_values() {
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

#[test]
fn efs_is_a_dns_name_mounted_where_the_units_mount_it() {
    let efs = |name| ("SALEBELL_FILES__EFS", name);
    let mounted = ("SALEBELL_FILES__MOUNTED", "true");
    let good = efs("fs-0123456789abcdef0.efs.eu-central-1.amazonaws.com");
    assert!(load(&[DATABASE, mounted, good]).unwrap().files.efs.is_some());
    assert_eq!(load(&[DATABASE, efs("")]).unwrap().files.efs, None);
    let elsewhere = ("SALEBELL_FILES__DIRECTORY", "/srv/files");
    for (settings, problem) in [
        (vec![good], "needs files.store = directory and files.mounted = true"),
        (vec![mounted, good, elsewhere], "is mounted at /var/lib/salebell/files"),
        (vec![mounted, efs("fs-0123456789abcdef0")], "must be a DNS name such as fs-"),
        (vec![mounted, efs("fs-1.efs\nexec = /bin/sh")], "must be a DNS name"),
        (vec![mounted, efs("fs-1..amazonaws.com")], "must be a DNS name"),
        (vec![mounted, efs("-fs.amazonaws.com")], "must be a DNS name"),
    ] {
        let problems = load(&[&[DATABASE][..], &settings].concat()).unwrap_err();
        assert_eq!(problems.0.len(), 1, "{problems}");
        assert!(
            problems.to_string().contains(&format!("files.efs (SALEBELL_FILES__EFS) {problem}")),
            "{problems}"
        );
    }
}

#[test]
fn the_password_of_the_database_is_set_in_one_place() {
    let url = ("SALEBELL_DATABASE__URL", "postgres://anna:hunter2@db.example/salebell");
    let password = ("SALEBELL_DATABASE__PASSWORD", "hunter3");
    let text = load(&[url, password]).unwrap_err().to_string();
    assert!(text.contains("(SALEBELL_DATABASE__PASSWORD) is in database.url too"), "{text}");
    assert!(!text.contains("hunter"), "{text}");
    let config = load(&[DATABASE, password, ("SALEBELL_DATABASE__USER", "anna")]).unwrap();
    assert!(!format!("{config:?}").contains("hunter"), "Debug shows a secret");
}

#[test]
fn tokens_of_iam_need_tls_a_user_and_no_password() {
    let iam = ("SALEBELL_DATABASE__IAM", "true");
    let region = ("SALEBELL_AWS__REGION", "eu-central-1");
    let url = |url| ("SALEBELL_DATABASE__URL", url);
    let good = url("postgres://app@db.example:5433/salebell?sslmode=verify-full");
    let config = load(&[iam, region, good]).unwrap();
    assert!(config.database.iam);
    assert!(load(&[iam, region, url("postgres://db.example/salebell?user=app&sslmode=require")]).is_ok());
    let elsewhere = ("SALEBELL_DATABASE__USER", "app");
    assert!(load(&[iam, region, elsewhere, url("postgres://db.example/a?sslmode=verify-ca")]).is_ok());
    let reader = ("SALEBELL_DATABASE__READER_URL", "postgres://app@db.example/salebell");
    for (settings, problems) in [
        (vec![iam, good], vec!["aws.region (SALEBELL_AWS__REGION) is required with database.iam"]),
        (
            vec![iam, region, good, reader],
            vec!["database.reader_url (SALEBELL_DATABASE__READER_URL) needs sslmode="],
        ),
        (
            vec![iam, region, url("postgres://app:hunter2@db.example/salebell?sslmode=prefer")],
            vec![
                "database.url (SALEBELL_DATABASE__URL) needs sslmode=",
                "must have no password with database.iam",
            ],
        ),
        (
            vec![
                iam,
                region,
                url("postgres://app@db.example/a?password=hunter2&sslmode=require&sslmode=disable"),
            ],
            vec!["needs sslmode=", "must have no password with database.iam"],
        ),
        (
            vec![iam, region, url("postgres:///salebell?host=/run/postgresql&sslmode=require")],
            vec!["needs a user with database.iam", "needs a host with database.iam"],
        ),
        (
            vec![iam, region, good, ("SALEBELL_DATABASE__PASSWORD", "hunter2")],
            vec!["database.password (SALEBELL_DATABASE__PASSWORD) must not be set with database.iam"],
        ),
    ] {
        let reported = load(&settings).unwrap_err();
        let text = reported.to_string();
        assert_eq!(reported.0.len(), problems.len(), "{text}");
        assert!(problems.iter().all(|problem| text.contains(problem)), "{problems:?} in {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_changed_value_overrides_the_file_but_not_the_environment() {
    let path = std::env::temp_dir().join(format!("{}.toml", uuid::Uuid::now_v7().simple()));
    std::fs::write(&path, "[database]\nurl = \"postgres:///a\"\nuser = \"a\"\n[log]\nlevel = \"warn\"\n")
        .unwrap();
    let changed = [("database.user", "b"), ("log.level", "debug")];
    let changed = changed.map(|(key, value)| (key.to_owned(), value.into())).into();
    let environment = [("SALEBELL_LOG__LEVEL".to_owned(), "error".to_owned())];
    let config = Config::load_again(Some(&path), &changed, environment).unwrap();
    assert_eq!(config.database.user.as_deref(), Some("b"));
    assert_eq!(config.log.level, log::LevelFilter::Error);
    std::fs::remove_file(path).unwrap();
}

const BELL: (&str, &str) = ("SALEBELL_EMAIL__FROM", "Salebell <bell@example.com>");
const DATABASE: (&str, &str) = ("SALEBELL_DATABASE__URL", "postgres:///salebell");
const PUBLIC: (&str, &str) = ("SALEBELL_SERVER__PUBLIC_URL", "https://salebell.example.com");

#[test]
fn mail_is_off_or_encrypted_where_a_password_is_sent() {
    assert!(load(&[DATABASE]).unwrap().email.server.is_none());
    let secret = "hunter2";
    for (url, starttls, port, tls) in [
        ("smtp://localhost", "auto", 25, MailTls::WhenOffered),
        ("smtp://[::1]:2525", "off", 2525, MailTls::Off),
        ("smtp://mail.example.com", "required", 25, MailTls::Required),
        ("smtp://bell:hunter2@mail.example.com", "auto", 587, MailTls::Required),
        ("smtp://bell:hunter2@127.0.0.1:25/", "off", 25, MailTls::Off),
        ("smtps://bell:hunter2@mail.example.com", "auto", 465, MailTls::FromTheStart),
    ] {
        let config = load(&[
            DATABASE,
            PUBLIC,
            BELL,
            ("SALEBELL_EMAIL__SMTP_URL", url),
            ("SALEBELL_EMAIL__STARTTLS", starttls),
            ("SALEBELL_STATS__MAIL_TO", "anna@example.com, ben@example.com"),
        ]);
        let config = config.unwrap_or_else(|problems| panic!("{url}: {problems}"));
        assert!(!format!("{config:?}").contains(secret), "Debug shows a secret");
        let server = config.email.server.unwrap();
        assert_eq!((server.port, server.tls), (port, tls), "{url}");
        assert!(!server.host.contains(['[', '@']), "{url}");
        assert_eq!(config.stats.mail_to.len(), 2);
    }
}

#[test]
fn user_and_password_are_decoded_only_in_the_url() {
    let apart = [("SALEBELL_EMAIL__USER", "be%2Bll"), ("SALEBELL_EMAIL__PASSWORD", "a%20+b")];
    for (url, apart, user, password) in [
        ("smtps://be%2Bll:a+b%26c&d%25%C3%A9%20@localhost", &[][..], "be+ll", "a+b&c&d%é "),
        ("smtps://localhost", &apart[..], "be%2Bll", "a%20+b"),
        ("smtps://bell@localhost", &apart[1..], "bell", "a%20+b"),
    ] {
        let settings: Vec<_> = [DATABASE, PUBLIC, BELL, ("SALEBELL_EMAIL__SMTP_URL", url)]
            .iter()
            .chain(apart)
            .copied()
            .collect();
        let (found_user, found_password) =
            load(&settings).unwrap().email.server.unwrap().credentials.unwrap();
        assert_eq!((found_user.as_str(), found_password.expose_secret()), (user, password));
    }
}

#[test]
fn problems_with_mail_are_reported_without_the_password() {
    let url = |url| ("SALEBELL_EMAIL__SMTP_URL", url);
    for (settings, expected) in [
        (&[url("smtp://localhost")][..], "email.from (SALEBELL_EMAIL__FROM) is required with email.smtp_url"),
        (
            &[url("smtp://localhost"), ("SALEBELL_EMAIL__FROM", "bell")],
            "email.from (SALEBELL_EMAIL__FROM) must be",
        ),
        (
            &[url("smtp://localhost"), ("SALEBELL_EMAIL__FROM", "a@b.example, c@d.example")],
            "email.from (SALEBELL_EMAIL__FROM) must be",
        ),
        (&[url("http://bell:hunter2@localhost"), BELL], "email.smtp_url (SALEBELL_EMAIL__SMTP_URL) must be"),
        (&[url("hunter2"), BELL], "email.smtp_url (SALEBELL_EMAIL__SMTP_URL) must be"),
        (&[url("smtp://localhost/hunter2"), BELL], "email.smtp_url (SALEBELL_EMAIL__SMTP_URL) must be"),
        (
            &[url("smtp://bell@localhost"), BELL],
            "email.password (SALEBELL_EMAIL__PASSWORD) is required with a user",
        ),
        (
            &[url("smtp://localhost"), BELL, ("SALEBELL_EMAIL__PASSWORD", "hunter2")],
            "email.user (SALEBELL_EMAIL__USER) is required with a password",
        ),
        (
            &[url("smtp://bell:hunter2@localhost"), BELL, ("SALEBELL_EMAIL__PASSWORD", "hunter2")],
            "email.password (SALEBELL_EMAIL__PASSWORD) is in email.smtp_url too",
        ),
        (
            &[url("smtp://bell:hunter2@mail.example.com"), BELL, ("SALEBELL_EMAIL__STARTTLS", "off")],
            "email.starttls (SALEBELL_EMAIL__STARTTLS) must be required",
        ),
        (
            &[("SALEBELL_EMAIL__STARTTLS", "hunter2")],
            "email.starttls (SALEBELL_EMAIL__STARTTLS) cannot be read",
        ),
        (
            &[("SALEBELL_EMAIL__TIMEOUT_S", "0")],
            "email.timeout_s (SALEBELL_EMAIL__TIMEOUT_S) must be at least 1",
        ),
        (
            &[("SALEBELL_STATS__MAIL_TO", "anna@example.com")],
            "stats.mail_to (SALEBELL_STATS__MAIL_TO) needs email.smtp_url",
        ),
        (
            &[url("smtp://localhost"), BELL, ("SALEBELL_STATS__MAIL_TO", "anna@example.com, hunter2")],
            "stats.mail_to (SALEBELL_STATS__MAIL_TO) [1] cannot be read",
        ),
    ] {
        let settings: Vec<_> = [DATABASE, PUBLIC].iter().chain(settings).copied().collect();
        let text = load(&settings).unwrap_err().to_string();
        assert!(text.contains("1 problem(s)") && text.contains(expected), "{settings:?}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn the_public_url_is_the_front_page_of_a_host_and_mails_need_it() {
    let public = |url| ("SALEBELL_SERVER__PUBLIC_URL", url);
    let mail = [DATABASE, BELL, ("SALEBELL_EMAIL__SMTP_URL", "smtp://localhost")];
    assert_eq!(load(&[DATABASE, public("")]).unwrap().server.public_url, None);
    let config = load(&[&mail[..], &[public("https://Salebell.example.com/")]].concat()).unwrap();
    assert_eq!(config.server.public_url.unwrap().as_str(), "https://salebell.example.com");
    for (settings, problem) in [
        (&[][..], "is required with email.smtp_url: links in mails begin with it"),
        (&[public("")], "is required with email.smtp_url: links in mails begin with it"),
        (&[public("https://hunter2@salebell.example.com")], "must not name a user or a password"),
        (&[public("https://example.com/hunter2")], "must have no path"),
        (&[public("hunter2")], "must be a URL such as https://salebell.example.com"),
    ] {
        let text = load(&[&mail[..], settings].concat()).unwrap_err().to_string();
        let expected = format!("server.public_url (SALEBELL_SERVER__PUBLIC_URL) {problem}");
        assert!(text.contains("1 problem(s)") && text.contains(&expected), "{settings:?}: {text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn sites_that_may_call_are_exact_origins_or_all() {
    let cors = |origins: &str| load(&[DATABASE, ("SALEBELL_SERVER__CORS_ORIGINS", origins)]);
    assert!(load(&[DATABASE]).unwrap().server.cors_origins.is_off());
    assert!(cors("").unwrap().server.cors_origins.is_off());
    assert_eq!(cors("*").unwrap().server.cors_origins, CorsOrigins::Any);
    let listed = ["https://app.example", "http://localhost:5173"];
    let expected = CorsOrigins::Listed(listed.map(|origin| origin.parse().unwrap()).into());
    assert_eq!(cors(&listed.join(", ")).unwrap().server.cors_origins, expected);
    for (origins, problem) in [
        ("https://app.example, https://app.example/", "[1] cannot be read: must be an origin as browsers"),
        ("app.example", "[0] cannot be read: must be an origin as browsers send it"),
        ("https://*.example", "[0] cannot be read: must be an origin as browsers send it"),
        ("null", "[0] cannot be read: must be an origin as browsers send it"),
        ("https://app.example, *", "must be * alone"),
    ] {
        let text = cors(origins).unwrap_err().to_string();
        let expected = format!("server.cors_origins (SALEBELL_SERVER__CORS_ORIGINS) {problem}");
        assert!(text.contains("1 problem(s)") && text.contains(&expected), "{origins}: {text}");
    }
}

#[test]
fn the_one_limit_of_requests_stands_for_classes_that_have_none_of_their_own() {
    let all = ("SALEBELL_SERVER__RATE_LIMIT_PER_MINUTE", "7");
    let write = ("SALEBELL_SERVER__RATE_LIMITS__WRITE", "0");
    for (settings, expected) in
        [(&[][..], [600, 240, 60]), (&[write], [600, 0, 60]), (&[all], [7, 7, 7]), (&[all, write], [7, 0, 7])]
    {
        let limits = load(&[&[DATABASE][..], settings].concat()).unwrap().server.rate_limits;
        assert_eq!([limits.read, limits.write, limits.heavy], expected, "{settings:?}");
    }
    let text = load(&[DATABASE, ("SALEBELL_SERVER__RATE_LIMITS__HEAVY", "many")]).unwrap_err().to_string();
    let expected = "server.rate_limits.heavy (SALEBELL_SERVER__RATE_LIMITS__HEAVY) cannot be read";
    assert!(text.contains(expected) && text.contains("1 problem(s)"), "{text}");
}

#[test]
fn tls_and_the_load_balancer_are_checked() {
    let arn =
        "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/salebell/50dc6c495c0c9188";
    let alb = |more: &[(&'static str, &'static str)]| {
        let mut settings = vec![
            DATABASE,
            ("SALEBELL_AUTH__ALB__ARN", arn),
            ("SALEBELL_AUTH__ALB__ISSUER", "https://id.example"),
            ("SALEBELL_AUTH__ALB__CLIENT_ID", "browsers"),
            ("SALEBELL_SERVER__TRUSTED_PROXIES", "10.0.0.0/8"),
        ];
        // `more` replaces the settings of the same names.
        settings.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
        settings.extend_from_slice(more);
        load(&settings)
    };
    let config = alb(&[("SALEBELL_SERVER__TLS", "minted")]).unwrap();
    assert_eq!(config.server.tls, TlsConfig::Minted);
    let keys_url = config.auth.alb.unwrap().keys_url;
    assert_eq!(keys_url, "https://public-keys.auth.elb.eu-central-1.amazonaws.com");
    for (more, problem) in [
        (
            &[("SALEBELL_SERVER__TLS", "on")][..],
            "server.tls (SALEBELL_SERVER__TLS) must be off, minted or files",
        ),
        (&[("SALEBELL_SERVER__TLS", "files")], "server.key (SALEBELL_SERVER__KEY) is required"),
        (&[("SALEBELL_SERVER__KEY", "/a")], "server.key (SALEBELL_SERVER__KEY) is required"),
        (
            &[("SALEBELL_AUTH__ALB__ARN", "arn:aws:what")],
            "auth.alb.arn (SALEBELL_AUTH__ALB__ARN) must be arn:",
        ),
        (&[("SALEBELL_AUTH__ALB__ARN", "")], "auth.alb.arn (SALEBELL_AUTH__ALB__ARN) is required"),
        (&[("SALEBELL_AUTH__ALB__ISSUER", "")], "auth.alb.issuer (SALEBELL_AUTH__ALB__ISSUER) is required"),
        (&[("SALEBELL_AUTH__ALB__SCOPES", "admin")], "auth.alb.scopes"),
        (&[("SALEBELL_AUTH__ALB__KEYS_URL", "https://evil.example")], "auth.alb.keys_url"),
        (&[("SALEBELL_AUTH__ALB__KEYS_URL", "http://evil.example")], "auth.alb.keys_url"),
        (&[("SALEBELL_SERVER__TRUSTED_PROXIES", "")], "server.trusted_proxies"),
        (&[("SALEBELL_SERVER__TRUSTED_PROXIES", "0.0.0.0/0")], "server.trusted_proxies"),
        (&[("SALEBELL_AUTH__ALB__ARM", "a")], "auth.alb.arm (SALEBELL_AUTH__ALB__ARM) is unknown"),
    ] {
        let text = alb(more).unwrap_err().to_string();
        assert!(text.contains(problem), "{more:?}: {text}");
    }
}

#[test]
fn programs_beside_the_services_read_the_settings_that_are_valid() {
    let settings = [
        ("SALEBELL_INSTANCE__LAUNCH_HOOK", "launch"),
        ("SALEBELL_INSTANCE__POLL_S", "0"),
        ("SALEBELL_INSTANCE__READY_URL", "hunter2"),
        ("SALEBELL_INSTANCE__DEAD_MAN_S", "90"),
        ("SALEBELL_FILES__MAX_BYTES", "many"),
        ("SALEBELL_NOBODY__KNOWS", "it"),
    ];
    let settings = || settings.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let no_file = std::path::Path::new("/there/is/none");
    for file in [None, Some(no_file)] {
        let (config, problems) = Config::load_beside(file, settings()).unwrap();
        assert_eq!(config.instance.launch_hook.as_deref(), Some("launch"));
        assert_eq!(config.instance.poll, std::time::Duration::from_secs(1), "a loop polls at this interval");
        assert_eq!(config.instance.dead_man, Some(std::time::Duration::from_secs(90)));
        let text = problems.to_string();
        let named = ["instance.poll_s", "instance.ready_url"].map(|key| text.contains(key));
        assert_eq!((named, problems.0.len()), ([true, true], 2 + usize::from(file.is_some())), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    // The services themselves do not start with these settings.
    let text = load(&settings().each_ref().map(|(key, value)| (key.as_str(), value.as_str()))).unwrap_err();
    assert_eq!(text.0.len(), 5, "{text}");
}
