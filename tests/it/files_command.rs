//! `salebell files`: the real program against a real API, through connections that break and kills.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use bytes::Bytes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::support::gate::Gate;
use crate::support::scratch::Scratch;
use crate::support::{TestApp, User, binary};
use crate::uploads::{bytes, hex};

/// A person at a shell, in a folder of their own.
struct Shell {
    scratch: Scratch,
    url: String,
    token: String,
}

impl Shell {
    fn new(url: &str, user: &User) -> Shell {
        Shell { scratch: Scratch::new(), url: url.to_owned(), token: user.token.clone() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let arguments = [&["files"], arguments].concat();
        let state = self.scratch.path().join("state");
        let settings = [
            ("SALEBELL_URL", self.url.as_str()),
            ("SALEBELL_TOKEN", self.token.as_str()),
            ("XDG_STATE_HOME", state.to_str().unwrap()),
        ];
        let mut command = binary::command(&arguments, &settings);
        command.current_dir(self.scratch.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    async fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().await.unwrap()
    }

    /// Runs it to its success; returns what it printed.
    async fn out(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        text(&output.stdout)
    }

    /// Runs it to its failure; returns what it said.
    async fn err(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        let said = text(&output.stderr);
        assert!(!said.contains(&self.token), "{said}");
        said
    }

    fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.path(name), content).unwrap();
    }

    fn read(&self, name: &str) -> Bytes {
        std::fs::read(self.path(name)).unwrap().into()
    }

    /// Sends bytes; returns the file as the API has it.
    async fn put(&self, name: &str, content: &[u8]) -> Value {
        self.write(name, content);
        let file = serde_json::from_str(&self.out(&["put", name, "--json"]).await).unwrap();
        std::fs::remove_file(self.path(name)).unwrap();
        file
    }

    /// What killed runs have left.
    fn states(&self) -> Vec<String> {
        let Ok(folder) = std::fs::read_dir(self.path("state/salebell")) else { return Vec::new() };
        folder.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn id(file: &Value) -> &str {
    file["id"].as_str().unwrap()
}

async fn kill_hard(mut child: Child) {
    child.kill().await.unwrap();
}

/// How much the server has for good of all that is on its way.
async fn stored(app: &TestApp, user: &User) -> u64 {
    let files = app.see(user, "/v1/files").await;
    let mut sum = 0;
    for file in files["items"].as_array().unwrap() {
        // HEAD makes durable what is on its way.
        let path = format!("/v1/files/{}", id(file));
        let head = app.request(reqwest::Method::HEAD, &path).header("tus-resumable", "1.0.0");
        let head = head.bearer_auth(&user.token).send().await.unwrap();
        sum += head.headers()["upload-offset"].to_str().unwrap().parse::<u64>().unwrap();
    }
    sum
}

/// Waits until the server has at least so much; returns how much it is.
async fn until_stored(app: &TestApp, user: &User, bytes: u64) -> u64 {
    let enough = async {
        loop {
            match stored(app, user).await {
                there if there >= bytes => return there,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), enough).await.expect("what was sent arrives")
}

const MEGABYTE: u64 = 1_000_000;

#[tokio::test]
async fn files_go_there_and_come_back() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let shell = Shell::new(&app.url, &anna);
    let (large, small) = (bytes(5_000_000), bytes(10));
    shell.write("large.bin", &large);
    shell.write("Klein & Ä.txt", &small);
    shell.write("empty", b"");
    let out = shell.out(&["put", "large.bin", "Klein & Ä.txt", "empty", "--expires-in", "2d"]).await;
    for expected in ["large.bin  4.77 MiB\n  id  ", "Klein & Ä.txt  10 B\n", "empty  0 B\n", ", in 1 d 23 h"]
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
        // In several ranges at once, under another name, and as a stream.
        shell.out(&["get", id(file), "-o", "other", "--parts", "4", "--force"]).await;
        assert_eq!(&shell.read("other"), content);
        let output = shell.run(&["get", id(file), "-o", "-"]).await;
        assert_eq!((output.status.code(), Bytes::from(output.stdout)), (Some(0), content.clone()));
    }
    assert!(!shell.path("other.part").exists());
    assert!(shell.states().is_empty());

    // What is there is not overwritten, and nothing is fetched for it.
    let said = shell.err(&["get", id(&listed[1]), "-o", "other"]).await;
    assert!(said.contains("other is there already; --force overwrites it"), "{said}");
    assert_eq!(shell.read("other"), large);
}

#[tokio::test]
async fn a_file_goes_in_parts_and_is_one_in_the_end() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let shell = Shell::new(&app.url, &anna);
    let whole = bytes(6_000_001);
    shell.write("a.bin", &whole);
    let out = shell.out(&["put", "a.bin", "--parts", "3", "--name", "../b.bin", "--json"]).await;
    let file: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&file["name"], &file["sha256"]), (&json!("b.bin"), &json!(hex(&whole))));
    // Its parts are in nobody's way.
    let listed = app.see(&anna, "/v1/files").await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    shell.out(&["get", id(&file)]).await;
    assert_eq!(shell.read("b.bin"), whole);
}

#[tokio::test]
async fn a_killed_put_goes_on_where_it_was() {
    for parts in ["1", "3"] {
        let app = TestApp::spawn().await;
        let anna = app.user("anna", &[]).await;
        let gate = Gate::start(&app.url).await;
        let shell = Shell::new(&gate.url, &anna);
        let whole = bytes(20_000_000);
        shell.write("a.bin", &whole);
        let arguments = ["put", "a.bin", "--parts", parts, "--json"];
        gate.allow_more(8 * MEGABYTE);
        let first = shell.start(&arguments);
        gate.until_shut().await;
        // All that went through: what the server reads only later would be sent twice.
        let there = until_stored(&app, &anna, 8 * MEGABYTE - 100_000).await;
        // Two at once would be in each other's way.
        assert!(shell.err(&arguments).await.contains("another salebell files put of a.bin is running"));
        kill_hard(first).await;
        assert_eq!(shell.states().len(), 1);

        // What the killed one had handed to the system shall not count.
        gate.cut();
        let before = gate.passed();
        gate.open();
        let output = shell.run(&arguments).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(text(&output.stderr).contains("taking up an earlier put of a.bin"), "{output:?}");
        let file: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(file["sha256"], json!(hex(&whole)));
        let moved = gate.passed() - before;
        assert!(moved < 20 * MEGABYTE - there + MEGABYTE, "{moved} bytes for what {there} were there of");
        assert!(shell.states().is_empty());
        assert_eq!(app.see(&anna, "/v1/files").await["items"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn an_upload_that_is_gone_is_begun_anew() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let gate = Gate::start(&app.url).await;
    let shell = Shell::new(&gate.url, &anna);
    let whole = bytes(6_000_000);
    shell.write("a.bin", &whole);
    gate.allow_more(3 * MEGABYTE);
    let first = shell.start(&["put", "a.bin"]);
    gate.until_shut().await;
    kill_hard(first).await;
    gate.open();
    let listed = app.see(&anna, "/v1/files").await;
    shell.out(&["rm", id(&listed["items"][0])]).await;
    let output = shell.run(&["put", "a.bin"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stderr).contains("what there was of a.bin is gone; sending it anew"), "{output:?}");
    assert!(text(&output.stdout).contains(&hex(&whole)), "{output:?}");

    // A file that has changed meanwhile is another one.
    gate.allow_more(3 * MEGABYTE);
    shell.write("b.bin", &whole);
    let first = shell.start(&["put", "b.bin"]);
    gate.until_shut().await;
    kill_hard(first).await;
    gate.open();
    let other = bytes(5_000_000);
    shell.write("b.bin", &other);
    let output = shell.run(&["put", "b.bin"]).await;
    assert!(text(&output.stdout).contains(&hex(&other)), "{output:?}");
    assert!(!text(&output.stderr).contains("taking up"), "{output:?}");
}

#[tokio::test]
async fn broken_connections_are_gone_on_with() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let gate = Gate::start(&app.url).await;
    let shell = Shell::new(&gate.url, &anna);
    let whole = bytes(12_000_000);
    shell.write("a.bin", &whole);
    for (arguments, size) in [(["put", "a.bin", "--parts", "1"], 12), (["put", "a.bin", "--parts", "3"], 12)]
    {
        let before = gate.passed();
        gate.allow_more(4 * MEGABYTE);
        let running = shell.start(&arguments);
        for _ in 0..2 {
            gate.until_shut().await;
            gate.allow_more(4 * MEGABYTE);
            gate.cut();
        }
        gate.open();
        let output = running.wait_with_output().await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(text(&output.stdout).contains(&hex(&whole)), "{output:?}");
        let moved = gate.passed() - before;
        assert!(moved < (size + 4) * MEGABYTE, "{moved}");
    }
    let file = shell.put("b.bin", &whole).await;
    for parts in ["1", "3"] {
        let before = gate.passed();
        gate.allow_more(4 * MEGABYTE);
        let running = shell.start(&["get", id(&file), "--parts", parts, "--force"]);
        for _ in 0..2 {
            gate.until_shut().await;
            gate.allow_more(4 * MEGABYTE);
            gate.cut();
        }
        gate.open();
        let output = running.wait_with_output().await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(shell.read("b.bin"), whole);
        let moved = gate.passed() - before;
        assert!(moved < 18 * MEGABYTE, "{moved}");
    }
}

/// Waits until a killed get would know that so many bytes are there.
async fn until_kept(shell: &Shell, bytes: u64) {
    let kept = async {
        loop {
            let states = shell.states().concat();
            let newest = states.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
            let there: u64 = newest
                .iter()
                .flat_map(|state| state["there"].as_array().unwrap())
                .filter_map(Value::as_u64)
                .sum();
            if there >= bytes {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), kept).await.expect("what has arrived is kept");
}

#[tokio::test]
async fn a_killed_or_stopped_get_goes_on_where_it_was() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let gate = Gate::start(&app.url).await;
    let shell = Shell::new(&gate.url, &anna);
    let whole = bytes(20_000_000);
    let file = shell.put("a.bin", &whole).await;
    for parts in ["1", "4"] {
        let arguments = ["get", id(&file), "--parts", parts, "--force"];
        gate.allow_more(6 * MEGABYTE);
        let first = shell.start(&arguments);
        gate.until_shut().await;
        until_kept(&shell, 3 * MEGABYTE).await;
        kill_hard(first).await;

        gate.allow_more(6 * MEGABYTE);
        let second = shell.start(&arguments);
        gate.until_shut().await;
        kill(Pid::from_raw(second.id().unwrap() as i32), Signal::SIGINT).unwrap();
        let output = second.wait_with_output().await.unwrap();
        assert_eq!(output.status.code(), Some(130), "{output:?}");
        let said = text(&output.stderr);
        assert!(
            said.contains("taking up an earlier get") && said.contains("The same command takes up where"),
            "{said}"
        );

        gate.cut();
        let before = gate.passed();
        gate.open();
        let output = shell.run(&arguments).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(shell.read("a.bin"), whole);
        let moved = gate.passed() - before;
        assert!(moved < 14 * MEGABYTE, "{moved}");
        assert!(shell.states().is_empty());
    }
}

#[tokio::test]
async fn two_versions_are_never_glued_together() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let gate = Gate::start(&app.url).await;
    let shell = Shell::new(&gate.url, &anna);
    let one = bytes(12_000_000);
    let two: Bytes = one.iter().rev().copied().collect();
    let (first, second) = (shell.put("one", &one).await, shell.put("two", &two).await);

    // Killed, and then another file is wanted in the same place.
    gate.allow_more(6 * MEGABYTE);
    let running = shell.start(&["get", id(&first), "-o", "x"]);
    gate.until_shut().await;
    until_kept(&shell, 3 * MEGABYTE).await;
    kill_hard(running).await;
    gate.open();
    let output = shell.run(&["get", id(&second), "-o", "x"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stderr).contains("what there is of"), "{output:?}");
    assert_eq!(shell.read("x"), two);

    // Another one on the server while it comes: here by hand, for the API changes no bytes.
    gate.allow_more(6 * MEGABYTE);
    let running = shell.start(&["get", id(&first), "-o", "y"]);
    gate.until_shut().await;
    for swap in [
        "update files set sha256 = (select sha256 from files where name = 'two') where name = 'one'",
        "update file_pieces set place = (select place from file_pieces where file_id = (select id from files where name = 'two'))
         where file_id = (select id from files where name = 'one')",
    ] {
        sqlx::query(swap).execute(&app.app.writer).await.unwrap();
    }
    gate.open();
    gate.cut();
    let output = running.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stderr).contains("is another one by now"), "{output:?}");
    assert_eq!(shell.read("y"), two);
}

#[tokio::test]
async fn damaged_bytes_are_told_and_kept() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let shell = Shell::new(&app.url, &anna);
    let file = shell.put("a.bin", &bytes(100_000)).await;
    let place: String =
        sqlx::query_scalar("select place from file_pieces").fetch_one(&app.app.writer).await.unwrap();
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
async fn standard_input_is_sent_through_broken_connections() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let gate = Gate::start(&app.url).await;
    let shell = Shell::new(&gate.url, &anna);
    for (size, cut) in [(0, false), (1, false), (4 << 20, false), (11_000_000, true)] {
        let whole = bytes(size);
        if cut {
            gate.allow_more(6 * MEGABYTE);
        }
        let mut command = shell.command(&["put", "-", "--name", "dump", "--json"]);
        let mut running = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut input = running.stdin.take().unwrap();
        let feed = async {
            input.write_all(&whole).await.unwrap();
            drop(input);
        };
        let breaks = async {
            if cut {
                gate.until_shut().await;
                gate.open();
                gate.cut();
            }
        };
        let (output, (), ()) = tokio::join!(running.wait_with_output(), feed, breaks);
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let file: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&file["name"], &file["sha256"]), (&json!("dump"), &json!(hex(&whole))));
        assert_eq!((&file["length"], &file["state"]), (&json!(size), &json!("complete")));
    }
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
        lines[2].starts_with(id(&file)) && lines[2].ends_with("  1.91 MiB  complete  12 d 23 h  Größe.bin"),
        "{listed}"
    );

    let link = shell.out(&["share", id(&file), "--max-downloads", "1", "--expires-in", "1h"]).await;
    let link = link.trim();
    assert!(link.starts_with(&format!("{}/d/", app.url)), "{link}");
    // Whoever has it needs no token, and several ranges of it are one download.
    let mut command = stranger.command(&["get", link, "--parts", "3"]);
    let output = command.env_remove("SALEBELL_TOKEN").output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(stranger.read("Größe.bin"), whole);
    let said = stranger.err(&["get", link, "--force"]).await;
    assert!(said.contains("404"), "{said}");
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
async fn what_is_wrong_is_said_in_a_line() {
    let app = TestApp::spawn_with(&[("SALEBELL_FILES__MAX_BYTES", "1000")]).await;
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
    let away = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    shell.url = format!("http://{away}");
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
async fn the_token_does_not_follow_to_where_the_bytes_are() {
    let whole = bytes(3_000_000);
    let heard: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let (content, asked) = (whole.clone(), heard.clone());
    let store = serve(Router::new().route(
        "/bucket/key",
        get(async move |headers: HeaderMap| {
            let range = headers["range"].to_str().unwrap().strip_prefix("bytes=").unwrap().to_owned();
            asked.lock().unwrap().push(headers);
            let (first, last) = range.split_once('-').unwrap();
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            let told = format!("bytes {first}-{last}/{}", content.len());
            (
                StatusCode::PARTIAL_CONTENT,
                [("content-range", told), ("etag", "\"md5\"".to_owned())],
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
    let shell = Shell::new(&api, &User { account: uuid::Uuid::now_v7(), token: "sbk_secret".to_owned() });
    shell.out(&["get", &id, "--parts", "3"]).await;
    assert_eq!(shell.read("a.bin"), whole);
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 3);
    assert!(
        heard
            .iter()
            .all(|headers| !headers.contains_key("authorization") && !headers.contains_key("if-range"))
    );
}
