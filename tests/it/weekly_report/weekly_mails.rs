//! The weekly report by e-mail, against an independent mail server.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use nix::sys::signal::Signal;
use salebell::domain::week::Week;
use salebell::worker::{schedule, statistics, weekly_mail};
use serde_json::{Value, json};

use crate::support::TestApp;
use crate::support::binary::{Binary, command};
use crate::support::smtp::MailServer;

const FROM: &str = "Salebell bell <bell@salebell.test>";
const PASSWORD: &str = "hunter2+&%é";
const PUBLIC: (&str, &str) = ("SALEBELL_SERVER__PUBLIC_URL", "https://salebell.test");

/// Starts an app with a completed week in which a user whose name contains markup has uploaded 12 bytes.
async fn spawn(settings: &[(&str, &str)]) -> TestApp {
    let defaults = [PUBLIC, ("SALEBELL_EMAIL__FROM", FROM), ("SALEBELL_STATS__MAIL_TO", "anna@example.com")];
    let settings: Vec<_> = defaults.iter().chain(settings).copied().collect();
    let app = TestApp::builder().settings(&settings).spawn().await;
    let until_monday = Week::at(app.clock.now()).end() - app.clock.now();
    app.clock.advance(until_monday + TimeDelta::hours(12));
    let eve = app.user("<b>\u{1b}[31meve\u{202e}", &[]).await;
    let request = app.post("/v1/files").bearer_auth(&eve.token).body("twelve bytes");
    assert_eq!(request.send().await.unwrap().status(), 201);
    app.until("select exists (select from activity where kind = 'login')").await;
    app.clock.advance(TimeDelta::weeks(1));
    schedule::step(&app.state).await.unwrap();
    app
}

async fn spawn_for(server: &MailServer, settings: &[(&str, &str)]) -> TestApp {
    let url = server.url();
    let settings: Vec<_> =
        [("SALEBELL_EMAIL__SMTP_URL", url.as_str())].iter().chain(settings).copied().collect();
    spawn(&settings).await
}

/// Sends every mail that is due.
async fn mail_all(app: &TestApp) {
    while weekly_mail::step(&app.state).await.unwrap().is_more() {}
}

/// The newest completed week.
fn week(app: &TestApp) -> Week {
    Week::at(app.clock.now()).back(1)
}

#[derive(Debug, sqlx::FromRow)]
struct Row {
    recipient: String,
    state: String,
    tries: i32,
    last_error: Option<String>,
}

async fn rows(app: &TestApp) -> Vec<Row> {
    let rows = "select recipient, state, tries, last_error from weekly_mails order by week, recipient";
    sqlx::query_as(rows).fetch_all(&app.state.writer).await.unwrap()
}

fn id_of(mail: &Value) -> &str {
    mail["headers"]["Message-ID"].as_str().unwrap()
}

#[tokio::test]
async fn the_report_arrives_whole_and_once() {
    let server = MailServer::start(json!({})).await;
    let app = spawn_for(&server, &[]).await;
    mail_all(&app).await;
    let mail = server.wait_for(1).await.remove(0);
    let week = week(&app);
    assert_eq!(
        (&mail["mail_from"], &mail["rcpt_to"]),
        (&json!("bell@salebell.test"), &json!(["anna@example.com"]))
    );
    assert_eq!(mail["defects"], json!([]));
    assert!(mail["longest_line"].as_u64().unwrap() <= 998, "RFC 5322 allows no longer line");
    let headers = &mail["headers"];
    for (name, value) in [
        ("From", FROM),
        ("To", "anna@example.com"),
        ("Subject", &format!("Salebell: weekly report {week}")),
        ("Auto-Submitted", "auto-generated"),
    ] {
        assert_eq!(headers[name], value);
    }
    let (id, domain) = id_of(&mail).split_once('@').unwrap();
    assert!(id.starts_with(&format!("<weekly-report.{week}.")) && domain == "salebell.test>", "{headers}");

    let parts = mail["parts"].as_array().unwrap();
    let types: Vec<&str> = parts.iter().map(|part| part["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["multipart/mixed", "multipart/alternative", "text/plain", "text/html", "text/csv"]);
    assert!(parts[2..].iter().all(|part| part["charset"] == "utf-8"), "{parts:?}");
    let content = |at: usize| parts[at]["content"].as_str().unwrap();
    let (text, html, csv) = (content(2), content(3), content(4));
    let line = |name: &str| {
        text.lines().find(|line| line.starts_with(name)).unwrap().split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(line("Uploads")[..3], ["Uploads", "1", "-"], "{text}");
    assert_eq!(line("Uploaded")[..3], ["Uploaded", "12", "B"], "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains("1. <b> [31meve  (test): 2"), "{text}");
    assert!(!text.contains(['\u{1b}', '\u{202e}']), "a terminal would act upon it");
    assert!(html.contains("&lt;b&gt; [31meve"), "{html}");
    // The only thing outside is the page, which a browser opens when it is asked to.
    let page = format!("https://salebell.test/v1/admin/stats/weekly?week={week}");
    assert!(text.lines().any(|line| line == page), "{text}");
    assert_eq!(html.matches(&format!("<a href=\"{page}\"")).count(), 1, "{html}");
    let html = html.replace(&page, "");
    for outside in ["<b>", "<script", "<style", "<link", "<img", "<svg", "http:", "https:", "url("] {
        assert!(!html.contains(outside), "{outside} is in {html}");
    }
    // Gmail clips messages longer than 102 KiB.
    assert!(html.len() < 90_000, "{}", html.len());
    let attached = (&parts[4]["disposition"], parts[4]["name"].as_str().unwrap());
    assert_eq!(attached, (&json!("attachment"), &*format!("weekly-statistics-{week}.csv")));
    let lines: Vec<&str> = csv.split_terminator("\r\n").collect();
    assert!(lines.len() == 2 && lines[0].starts_with("week,from,to,"), "{csv}");
    assert!(lines[1].starts_with(&format!("{week},{},{},", week.monday(), week.sunday())), "{csv}");

    // The mail is not sent again: neither when the week is recomputed by hand, nor when the schedule recomputes it a
    // week later.
    statistics::recompute(&app.state, week).await.unwrap();
    mail_all(&app).await;
    app.clock.advance(TimeDelta::days(1));
    schedule::step(&app.state).await.unwrap();
    mail_all(&app).await;
    assert_eq!(server.received().len(), 1);
    // The next mail covers the next week and compares it with this one.
    app.clock.advance(TimeDelta::weeks(1));
    mail_all(&app).await;
    assert_eq!(server.received().len(), 1, "the next week has not been computed yet");
    schedule::step(&app.state).await.unwrap();
    mail_all(&app).await;
    let second = server.wait_for(2).await.remove(1);
    assert_eq!(second["headers"]["Subject"], format!("Salebell: weekly report {}", week.next()));
    assert_ne!(id_of(&second), id_of(&mail));
}

#[tokio::test]
async fn only_the_newest_week_is_mailed_and_only_to_the_configured_addresses() {
    let server = MailServer::start(json!({"rcpt": ["451 later"]})).await;
    let app = spawn_for(&server, &[]).await;
    app.clock.advance(TimeDelta::weeks(5));
    schedule::step(&app.state).await.unwrap();
    mail_all(&app).await;
    // The recipient changes: the pending retry is dropped, and the new recipient gets the newest week at once.
    let beside = async |to: &'static str| {
        let url = server.url();
        let settings = [
            PUBLIC,
            ("SALEBELL_EMAIL__FROM", FROM),
            ("SALEBELL_EMAIL__SMTP_URL", &url),
            ("SALEBELL_STATS__MAIL_TO", to),
        ];
        let beside = TestApp::builder().beside(&app).settings(&settings).spawn().await;
        beside.clock.advance(app.clock.now() - beside.clock.now());
        beside
    };
    app.clock.advance(TimeDelta::hours(1));
    mail_all(&beside("ben@example.com").await).await;
    let received = server.wait_for(2).await;
    assert_eq!(received[0], json!({"refused": "anna@example.com"}));
    assert_eq!(received[1]["rcpt_to"], json!(["ben@example.com"]));
    assert_eq!(received[1]["headers"]["Subject"], format!("Salebell: weekly report {}", week(&app)));
    // The first recipient is configured again: old weeks are not sent.
    app.clock.advance(TimeDelta::weeks(2));
    mail_all(&beside("anna@example.com").await).await;
    let row = rows(&app).await.remove(0);
    assert_eq!((row.recipient.as_str(), row.state.as_str(), row.tries), ("anna@example.com", "failed", 1));
    assert_eq!(server.received().len(), 2);
}

#[tokio::test]
async fn several_workers_at_once_send_one() {
    let server = MailServer::start(json!({})).await;
    let app = spawn_for(&server, &[("SALEBELL_STATS__MAIL_TO", "a@example.com, b@example.com")]).await;
    let steps = (0..6).map(|_| weekly_mail::step(&app.state));
    for step in futures_util::future::join_all(steps).await {
        step.unwrap();
    }
    mail_all(&app).await;
    let mut to: Vec<String> = server.received().iter().map(|mail| mail["rcpt_to"].to_string()).collect();
    to.sort();
    assert_eq!(to, ["[\"a@example.com\"]", "[\"b@example.com\"]"]);
}

#[tokio::test]
async fn a_password_is_sent_over_an_encrypted_connection_only() {
    for scheme in ["smtp", "smtps"] {
        let options = json!({"starttls": scheme == "smtp", "smtps": scheme == "smtps", "user": "us er", "password": PASSWORD});
        let server = MailServer::start(options).await;
        let url = format!("{scheme}://us%20er@127.0.0.1:{}", server.port);
        let app = spawn(&[
            ("SALEBELL_EMAIL__SMTP_URL", &url),
            ("SALEBELL_EMAIL__PASSWORD", PASSWORD),
            ("SALEBELL_EMAIL__CA_FILE", &server.ca()),
        ])
        .await;
        mail_all(&app).await;
        let mail = server.wait_for(1).await.remove(0);
        assert_eq!((&mail["encrypted"], &mail["user"]), (&json!(true), &json!("us er")), "{scheme}");
    }
}

#[tokio::test]
async fn failures_that_an_operator_can_repair_are_retried() {
    let encrypted = MailServer::start(json!({"starttls": true, "user": "bell", "password": "right"})).await;
    let plain = MailServer::start(json!({"user": "bell", "password": PASSWORD})).await;
    let unused_port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let with_password = |port: u16| format!("smtp://bell:hunter2%2B%26%25%C3%A9@127.0.0.1:{port}");
    for (url, ca, reason) in [
        (with_password(encrypted.port), encrypted.ca(), "535"),
        (with_password(encrypted.port), String::new(), "certificate"),
        (with_password(encrypted.port), "/nowhere/ca.pem".to_owned(), "email.ca_file /nowhere/ca.pem"),
        (with_password(plain.port), String::new(), "offers no STARTTLS"),
        (format!("smtp://127.0.0.1:{unused_port}"), String::new(), "nothing listens at the mail server"),
        ("smtp://nowhere.invalid".to_owned(), String::new(), "lookup address"),
    ] {
        let mut settings = vec![("SALEBELL_EMAIL__SMTP_URL", url.as_str())];
        settings.extend((!ca.is_empty()).then_some(("SALEBELL_EMAIL__CA_FILE", ca.as_str())));
        let app = spawn(&settings).await;
        mail_all(&app).await;
        let row = rows(&app).await.remove(0);
        let error = row.last_error.unwrap();
        assert_eq!((row.state.as_str(), row.tries), ("waiting", 1), "{error}");
        assert!(error.contains(reason), "{reason} is not in {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    assert_eq!(plain.received(), Vec::<Value>::new());
    assert_eq!(encrypted.received(), Vec::<Value>::new());

    // A server that demands a log-in only after it has seen the recipient.
    let server = MailServer::start(json!({"rcpt": ["530 5.7.0 Authentication required"]})).await;
    let app = spawn_for(&server, &[]).await;
    mail_all(&app).await;
    assert_eq!(rows(&app).await[0].state, "waiting");
}

#[tokio::test]
async fn a_server_without_a_password_is_used_as_it_is() {
    // STARTTLS if the server offers it, whatever authority has signed the certificate, as mail servers do among
    // themselves.
    for (options, encrypted) in [(json!({"starttls": true}), true), (json!({}), false)] {
        let server = MailServer::start(options).await;
        let app = spawn_for(&server, &[]).await;
        mail_all(&app).await;
        assert_eq!(server.wait_for(1).await[0]["encrypted"], encrypted);
    }
}

#[tokio::test]
async fn a_domain_beyond_ascii_is_reached_through_every_server() {
    for smtputf8 in [false, true] {
        let server = MailServer::start(json!({"smtputf8": smtputf8})).await;
        let addresses = [
            ("SALEBELL_STATS__MAIL_TO", "anna@bücher.example"),
            ("SALEBELL_EMAIL__FROM", "Glöckchen <bell@glöckchen.example>"),
        ];
        let app = spawn_for(&server, &addresses).await;
        mail_all(&app).await;
        let mail = server.wait_for(1).await.remove(0);
        assert_eq!(mail["rcpt_to"], json!(["anna@xn--bcher-kva.example"]));
        assert_eq!(mail["mail_from"], "bell@xn--glckchen-o4a.example");
        assert_eq!(mail["headers"]["To"], "anna@xn--bcher-kva.example");
        assert_eq!(mail["headers"]["From"], "Glöckchen <bell@xn--glckchen-o4a.example>");
        assert!(id_of(&mail).ends_with("@xn--glckchen-o4a.example>"), "{mail}");
        assert_eq!(rows(&app).await[0].state, "sent");
    }
}

#[tokio::test]
async fn a_mailbox_beyond_ascii_is_never_taken_for_another() {
    for (smtputf8, state) in [(false, "failed"), (true, "sent")] {
        let server = MailServer::start(json!({"smtputf8": smtputf8})).await;
        let app = spawn_for(&server, &[("SALEBELL_STATS__MAIL_TO", "änna@bücher.example")]).await;
        mail_all(&app).await;
        let row = rows(&app).await.remove(0);
        assert_eq!(row.state, state, "{row:?}");
        if smtputf8 {
            assert_eq!(server.wait_for(1).await[0]["rcpt_to"], json!(["änna@xn--bcher-kva.example"]))
        } else {
            let error = row.last_error.unwrap();
            assert!(
                error.contains("letters beyond ASCII before the @") && error.contains("SMTPUTF8"),
                "{error}"
            );
            assert_eq!(server.received(), Vec::<Value>::new());
        }
    }
}

#[tokio::test]
async fn a_transient_refusal_is_retried_under_the_same_id() {
    let server = MailServer::start(json!({"data": ["451 4.3.0 try later", "421 4.3.2 closing"]})).await;
    let app = spawn_for(&server, &[]).await;
    for (tries, wait) in [(1, TimeDelta::seconds(7)), (2, TimeDelta::minutes(7))] {
        mail_all(&app).await;
        let row = rows(&app).await.remove(0);
        assert_eq!((row.state.as_str(), row.tries), ("waiting", tries), "{row:?}");
        app.clock.advance(wait);
    }
    mail_all(&app).await;
    let row = rows(&app).await.remove(0);
    assert_eq!((row.state.as_str(), row.tries), ("sent", 3), "{row:?}");
    let received = server.wait_for(3).await;
    assert!(received.iter().all(|mail| id_of(mail) == id_of(&received[0])
        && mail["headers"]["Date"] == received[0]["headers"]["Date"]));
}

#[tokio::test]
async fn after_ten_tries_it_is_given_up() {
    let server = MailServer::start(json!({"rcpt": vec!["450 mailbox busy"; 20]})).await;
    let app = spawn_for(&server, &[]).await;
    for tries in 1..=10 {
        mail_all(&app).await;
        assert_eq!(rows(&app).await[0].tries, tries);
        app.clock.advance(TimeDelta::hours(30));
    }
    mail_all(&app).await;
    let row = rows(&app).await.remove(0);
    assert_eq!((row.state.as_str(), row.tries), ("failed", 10));
}

#[tokio::test]
async fn a_permanent_refusal_is_given_up_and_shown_without_delaying_other_mails() {
    let server = MailServer::start(json!({"rcpt": ["550 5.1.1 <anna@example.com> is unknown"]})).await;
    let to = ("SALEBELL_STATS__MAIL_TO", "anna@example.com,ben@example.com");
    let app = spawn_for(&server, &[to]).await;
    mail_all(&app).await;
    let rows = rows(&app).await;
    let states: Vec<_> =
        rows.iter().map(|row| (row.recipient.as_str(), row.state.as_str(), row.tries)).collect();
    let mut refused =
        server.received().into_iter().filter_map(|received| received["refused"].as_str().map(str::to_owned));
    let refused = refused.next().unwrap();
    for (recipient, state, tries) in states {
        let expected = if recipient == refused { "failed" } else { "sent" };
        assert_eq!((state, tries), (expected, 1), "{recipient}");
    }
    app.clock.advance(TimeDelta::days(1));
    mail_all(&app).await;
    assert_eq!(server.received().len(), 2);

    let settings = [("SALEBELL_DATABASE__URL", app.database.url.as_str())];
    let output = command(&["stats", "mailed"], &settings).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&format!("{}  {refused}  given up, 1 try: ", week(&app))), "{text}");
    assert!(text.contains("550") && text.contains("is unknown"), "{text}");
    assert!(text.contains("example.com  sent 20"), "{text}");
}

#[tokio::test]
async fn a_server_that_hangs_delays_no_mail_beyond_the_timeout() {
    // A server that never sends a greeting, and one that receives a message and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = MailServer::start(json!({"data": ["hold"]})).await;
    for url in [format!("smtp://{}", silent.local_addr().unwrap()), mute.url()] {
        let app = spawn(&[("SALEBELL_EMAIL__SMTP_URL", &url), ("SALEBELL_EMAIL__TIMEOUT_S", "2")]).await;
        let began = Instant::now();
        mail_all(&app).await;
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        let row = rows(&app).await.remove(0);
        let error = row.last_error.unwrap();
        assert_eq!(
            (row.state.as_str(), error.as_str()),
            ("waiting", "the mail server has not answered within 2s")
        );
    }
}

#[tokio::test]
async fn an_accepted_mail_is_sent_even_if_the_quit_fails() {
    let server = MailServer::start(json!({"deaf": true})).await;
    let app = spawn_for(&server, &[]).await;
    mail_all(&app).await;
    assert_eq!(rows(&app).await[0].state, "sent");
    assert_eq!(server.received().len(), 1);
}

/// Starts an app with a week that is over by the system's clock, which a separate process uses.
async fn spawn_for_processes() -> TestApp {
    let app = TestApp::spawn().await;
    sqlx::query(
        "insert into weekly_totals select date_trunc('week', now() at time zone 'UTC')::date - 7, now(),
            1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 9, 11",
    )
    .execute(&app.state.writer)
    .await
    .unwrap();
    app
}

fn settings<'a>(app: &'a TestApp, url: &'a str) -> Vec<(&'static str, &'a str)> {
    vec![
        ("SALEBELL_DATABASE__URL", app.database.url.as_str()),
        PUBLIC,
        ("SALEBELL_EMAIL__FROM", FROM),
        ("SALEBELL_EMAIL__SMTP_URL", url),
        ("SALEBELL_EMAIL__TIMEOUT_S", "4"),
        ("SALEBELL_STATS__MAIL_TO", "anna@example.com"),
        ("SALEBELL_WORKER__METRICS_LISTEN", "127.0.0.1:0"),
        ("SALEBELL_WORKER__LEASE_S", "1"),
        ("SALEBELL_SERVER__LINGER_S", "0"),
        ("SALEBELL_SERVER__DRAIN_S", "1"),
    ]
}

#[tokio::test]
async fn a_worker_that_dies_before_it_records_sends_again_under_the_same_id() {
    let server = MailServer::start(json!({"data": ["hold", "hold"]})).await;
    let app = spawn_for_processes().await;
    let url = server.url();
    let settings = settings(&app, &url);
    let mut killed = Binary::start(&["worker"], &settings);
    server.wait_for(1).await;
    app.kill(&mut killed).await;
    // A worker that is stopping releases the mail, and waits for the server no longer than `server.drain_s`.
    let mut stopped = Binary::start(&["worker"], &settings);
    server.wait_for(2).await;
    stopped.signal(Signal::SIGTERM);
    assert_eq!(stopped.exit_code().await, Some(0), "{}", stopped.log());
    let last = Binary::start(&["worker"], &settings);
    last.logged("the weekly report was mailed").await;
    app.until("select state = 'sent' and tries = 3 from weekly_mails").await;
    let received = server.wait_for(3).await;
    assert!(received.iter().all(|mail| id_of(mail) == id_of(&received[0])), "{received:?}");
    assert!(!last.log().contains("anna@example.com"), "{}", last.log());
}

#[tokio::test]
async fn a_report_is_mailed_by_command() {
    let server = MailServer::start(
        json!({"starttls": true, "user": "bell", "password": "right", "rcpt": [null, null, "550 no"]}),
    )
    .await;
    let app = spawn_for_processes().await;
    let url = format!("smtp://bell:right@127.0.0.1:{}", server.port);
    let ca = server.ca();
    let mut settings = settings(&app, &url);
    settings.push(("SALEBELL_EMAIL__CA_FILE", &ca));
    let run = async |arguments: &[&str], settings: &[(&str, &str)]| {
        let output = command(&[&["stats"], arguments].concat(), settings).output().await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let to = ["mail", "--to", "ben@example.com", "--to", "cleo@example.com"];
    let (success, text) = run(&to, &settings).await;
    assert!(
        success && text.contains("to ben@example.com\n") && text.contains("to cleo@example.com\n"),
        "{text}"
    );
    let mails = server.wait_for(2).await;
    assert_ne!(id_of(&mails[0]), id_of(&mails[1]));

    let (success, text) = run(&["mail"], &settings).await;
    assert!(!success && text.contains("not mailed to anna@example.com: ") && text.contains("550"), "{text}");
    for (arguments, expected) in [
        (&["mail", "--week", "2020-W10"][..], "week has not been computed"),
        (&["mail", "--to", "anna@example.com\r\nBcc: eve@example.com"], "invalid value"),
        (&["mailed"], ""),
    ] {
        let (success, text) = run(arguments, &settings).await;
        assert!(success == expected.is_empty() && text.contains(expected), "{arguments:?}: {text}");
    }
    let off = [("SALEBELL_DATABASE__URL", app.database.url.as_str())];
    let (success, text) = run(&["mail"], &off).await;
    assert!(!success && text.contains("email.smtp_url is not set, so no mail can be sent"), "{text}");
    let (_, text) = run(&["mailed"], &off).await;
    assert_eq!(text, "stats.mail_to is not set: the report is mailed to nobody.\n");
}
