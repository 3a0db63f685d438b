//! `salebell files`: the real program against a real API. Interruptions are tested in `files_resume`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::cli::report::read_peak;
use crate::files::uploads::{bytes, hex};
use crate::support::shell::{Shell, id, text};
use crate::support::{TestApp, User};

use salebell::domain::ids::AccountId;

#[tokio::test]
async fn files_are_uploaded_and_downloaded() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let shell = Shell::new(&app.url, &anna);
    let (large, small) = (bytes(5_000_000), bytes(10));
    shell.write("large.bin", &large);
    shell.write("Klein & Ä.txt", &small);
    shell.write("empty", b"");
    let out = shell.out(&["put", "large.bin", "Klein & Ä.txt", "empty", "--expires-in", "2d"]).await;
    for expected in ["large.bin  4.77 MiB\n  id  ", "Klein & Ä.txt  10 B\n", "empty  0 B\n", ", in 2 d 0 h"]
    {
        assert!(out.contains(expected), "{expected}: {out}");
    }
    assert!(out.contains(&format!("sha256   {}", hex(&large))), "{out}");
    assert!(shell.states().is_empty());

    let listed = shell.out(&["ls", "--json"]).await;
    let listed: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        listed.iter().map(|file| file["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["empty", "Klein & Ä.txt", "large.bin"]
    );
    std::fs::create_dir(shell.path("here")).unwrap();
    for (file, content) in listed.iter().zip([&Bytes::new(), &small, &large]) {
        shell.out(&["get", id(file), "-o", "here"]).await;
        assert_eq!(&shell.read(&format!("here/{}", file["name"].as_str().unwrap())), content);
        // In several concurrent ranges, under another name, and as a stream.
        shell.out(&["get", id(file), "-o", "other", "--parts", "4", "--force"]).await;
        assert_eq!(&shell.read("other"), content);
        let output = shell.run(&["get", id(file), "-o", "-"]).await;
        assert_eq!((output.status.code(), Bytes::from(output.stdout)), (Some(0), content.clone()));
    }
    assert!(!shell.path("other.part").exists());
    assert!(shell.states().is_empty());

    // An existing file is not overwritten, and nothing is downloaded for it.
    let said = shell.err(&["get", id(&listed[1]), "-o", "other"]).await;
    assert!(said.contains("other is there already; --force overwrites it"), "{said}");
    assert_eq!(shell.read("other"), large);
}

#[tokio::test]
async fn a_file_is_sent_in_parts_and_becomes_one() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let shell = Shell::new(&app.url, &anna);
    let whole = bytes(6_000_001);
    shell.write("a.bin", &whole);
    let out = shell.out(&["put", "a.bin", "--parts", "3", "--name", "../b.bin", "--json"]).await;
    let file: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&file["name"], &file["sha256"]), (&json!("b.bin"), &json!(hex(&whole))));
    // Its parts are not listed.
    let listed = app.see(&anna, "/v1/files").await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    shell.out(&["get", id(&file)]).await;
    assert_eq!(shell.read("b.bin"), whole);
}

#[tokio::test]
async fn damaged_bytes_are_reported_and_kept() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let shell = Shell::new(&app.url, &anna);
    let file = shell.put("a.bin", &bytes(100_000)).await;
    let place: String =
        sqlx::query_scalar("select place from file_pieces").fetch_one(&app.state.writer).await.unwrap();
    let on_disk = app.files.path().join(place);
    let mut damaged = std::fs::read(&on_disk).unwrap();
    damaged[50_000] ^= 1;
    std::fs::write(&on_disk, &damaged).unwrap();
    let said = shell.err(&["get", id(&file)]).await;
    assert!(said.contains("what arrived is damaged") && said.contains(&hex(&damaged)), "{said}");
    assert!(!shell.path("a.bin").exists());
    assert_eq!(shell.read("a.bin.part"), damaged);
    let said = shell.err(&["get", id(&file)]).await;
    assert!(said.contains("a.bin.part is there, and nothing tells what it holds"), "{said}");
    assert!(shell.err(&["get", id(&file), "-o", "-"]).await.contains("damaged"));
    damaged[50_000] ^= 1;
    std::fs::write(&on_disk, &damaged).unwrap();
    shell.out(&["get", id(&file), "--force"]).await;
    assert_eq!(shell.read("a.bin"), damaged);
}

#[tokio::test]
async fn files_are_listed_shared_and_removed() {
    let app = TestApp::spawn().await;
    let (anna, mallory) = (app.user("anna", &[]).await, app.user("mallory", &[]).await);
    let (shell, stranger) = (Shell::new(&app.url, &anna), Shell::new(&app.url, &mallory));
    assert_eq!(shell.out(&["ls"]).await, "");
    let whole = bytes(2_000_000);
    let file = shell.put("Größe.bin", &whole).await;
    let begun = app.post("/v1/files").bearer_auth(&anna.token).header("tus-resumable", "1.0.0");
    begun.header("upload-length", 1000).send().await.unwrap();
    let listed = shell.out(&["ls"]).await;
    let lines: Vec<&str> = listed.lines().collect();
    assert!(lines[0].starts_with("ID ") && lines[1].contains("  1000 B       0 %"), "{listed}");
    assert!(
        lines[2].starts_with(id(&file))
            && lines[2].contains("  1.91 MiB  complete  1")
            && lines[2].ends_with(" h  Größe.bin"),
        "{listed}"
    );

    let link = shell.out(&["share", id(&file), "--max-downloads", "1", "--expires-in", "1h"]).await;
    let link = link.trim();
    assert!(link.starts_with(&format!("{}/d/", app.url)), "{link}");
    // The link needs no token, and several ranges of it are one download.
    let mut command = stranger.command(&["get", link, "--parts", "3"]);
    let output = command.env_remove("SALEBELL_TOKEN").output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(stranger.read("Größe.bin"), whole);
    let said = stranger.err(&["get", link, "--force"]).await;
    assert!(said.contains("no such link"), "{said}");
    let said = stranger.err(&["get", &format!("{}/d/guess", app.url)]).await;
    assert!(said.contains("no such link"), "{said}");

    for arguments in [["get", id(&file)], ["share", id(&file)], ["rm", id(&file)]] {
        let said = stranger.err(&arguments).await;
        assert!(said.contains("404 Not Found: There is no such file"), "{said}");
    }
    let gone = uuid::Uuid::now_v7().to_string();
    let output = shell.run(&["rm", &gone, id(&file)]).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), format!("removed {}\n", id(&file)), "the others go all the same");
    let output = shell.run(&["share", "nonsense"]).await;
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test]
async fn a_shared_link_is_at_the_public_url_of_the_service() {
    let public_url = ("SALEBELL_SERVER__PUBLIC_URL", "https://salebell.test");
    let app = TestApp::builder().settings(&[public_url]).spawn().await;
    let shell = Shell::new(&app.url, &app.user("anna", &[]).await);
    let file = shell.put("a.bin", &bytes(100)).await;
    let link = shell.out(&["share", id(&file)]).await;
    assert!(link.starts_with("https://salebell.test/d/") && link.ends_with('\n'), "{link}");
}

#[tokio::test]
async fn errors_are_reported_in_one_line() {
    let app = TestApp::builder().settings(&[("SALEBELL_FILES__MAX_BYTES", "1000")]).spawn().await;
    let anna = app.user("anna", &[]).await;
    let mut shell = Shell::new(&app.url, &anna);
    shell.write("a.bin", &bytes(2000));
    let said = shell.err(&["put", "a.bin"]).await;
    assert!(said.starts_with("salebell: 413 Payload Too Large: ") && said.lines().count() == 1, "{said}");
    assert!(shell.states().is_empty());
    let said = shell.err(&["put", "a.bin", "--expires-in", "20d"]).await;
    assert!(said.contains("422") && said.contains("expires_in must not be later than"), "{said}");
    assert!(shell.err(&["put", "nowhere"]).await.contains("cannot open nowhere"));
    assert!(shell.err(&["put", "."]).await.contains(". is no file"));
    assert!(shell.err(&["get", "a.bin"]).await.contains("is neither the id of a file nor"));
    let output = shell.run(&["put", "a.bin", "a.bin", "--name", "x"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");

    shell.write("token", b"sbk_wrong");
    let said = shell.err(&["put", "a.bin", "--token-file", "token"]).await;
    assert!(said.contains("401 Unauthorized") && said.contains("--token-file"), "{said}");
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    shell.url = format!("http://{address}");
    for arguments in [["put", "a.bin"].as_slice(), &["ls"], &["get", &uuid::Uuid::now_v7().to_string()]] {
        let said = shell.err(&[arguments, &["--max-wait", "1s"]].concat()).await;
        assert!(said.contains(&shell.url) && said.contains("within 1 s"), "{said}");
    }
}

/// Serves a router at an address of its own.
async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test]
async fn the_token_is_not_sent_to_the_store_of_the_bytes() {
    let whole = bytes(3_000_000);
    let received: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let (content, requests) = (whole.clone(), received.clone());
    let store = serve(Router::new().route(
        "/bucket/key",
        get(async move |headers: HeaderMap| {
            let range = headers["range"].to_str().unwrap().strip_prefix("bytes=").unwrap().to_owned();
            requests.lock().unwrap().push(headers);
            let (first, last) = range.split_once('-').unwrap();
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            let content_range = format!("bytes {first}-{last}/{}", content.len());
            (
                StatusCode::PARTIAL_CONTENT,
                [("content-range", content_range), ("etag", "\"md5\"".to_owned())],
                content.slice(first..=last),
            )
        }),
    ))
    .await;
    let id = uuid::Uuid::now_v7().to_string();
    let file = json!({"id": id, "name": "../a.bin", "state": "complete", "length": whole.len(), "offset": whole.len(),
        "sha256": hex(&whole), "expires_at": "2040-01-01T00:00:00Z"});
    let to = format!("{store}/bucket/key?signature=x");
    let api = serve(Router::new().route("/v1/files/{id}", get(async move || axum::Json(file))).route(
        "/v1/files/{id}/content",
        get(async move |headers: HeaderMap| {
            assert!(headers.contains_key("authorization"));
            (StatusCode::FOUND, [("location", to)])
        }),
    ))
    .await;
    let shell = Shell::new(&api, &User { account: AccountId::now_v7(), token: "sbk_secret".to_owned() });
    shell.out(&["get", &id, "--parts", "3"]).await;
    assert_eq!(shell.read("a.bin"), whole);
    let received = received.lock().unwrap();
    assert_eq!(received.len(), 3);
    assert!(
        received
            .iter()
            .all(|headers| !headers.contains_key("authorization") && !headers.contains_key("if-range"))
    );
}

#[tokio::test]
async fn a_large_file_does_not_fill_the_memory() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let shell = Shell::new(&app.url, &anna);
    let size = 100 << 20;
    std::fs::File::create(shell.path("a.bin")).unwrap().set_len(size).unwrap();
    shell.out(&["put", "a.bin", "--parts", "1"]).await;
    let file = app.see(&anna, "/v1/files").await["items"][0].clone();
    let arguments: [&[&str]; 3] = [
        &["put", "a.bin", "--parts", "4"],
        &["put", "-"],
        &["get", id(&file), "-o", "b.bin", "--parts", "4"],
    ];
    for arguments in arguments {
        let mut command = shell.command(arguments);
        let mut running = command.stdin(std::fs::File::open(shell.path("a.bin")).unwrap()).spawn().unwrap();
        let pid = running.id().unwrap();
        let mut peak = 0;
        while running.try_wait().unwrap().is_none() {
            peak = peak.max(read_peak(pid).unwrap_or(0));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let output = running.wait_with_output().await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(peak > 0 && peak < 80 << 10, "{arguments:?}: {peak} KiB");
    }
    assert_eq!(std::fs::metadata(shell.path("b.bin")).unwrap().len(), size);
}
