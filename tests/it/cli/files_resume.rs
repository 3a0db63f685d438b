//! `salebell files` through connections that break, servers that die, and kills of the command itself.

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Child;

use crate::files::uploads::{bytes, hex};
use crate::support::binary::Binary;
use crate::support::gate::Gate;
use crate::support::shell::{Shell, id, text};
use crate::support::{TestApp, User};

const MEGABYTE: u64 = 1_000_000;

fn signal_to(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().unwrap() as i32), signal).unwrap();
}

async fn kill_hard(mut child: Child) {
    child.kill().await.unwrap();
}

/// Number of durable bytes of all uploads in progress.
async fn stored(app: &TestApp, user: &User) -> u64 {
    let files = app.see(user, "/v1/files").await;
    let mut sum = 0;
    for file in files["items"].as_array().unwrap() {
        // Queried individually, a file also reports an upload in progress.
        let file = app.see(user, &format!("/v1/files/{}", id(file))).await;
        sum += file["offset"].as_u64().unwrap();
    }
    sum
}

/// Waits until the server has at least `bytes`; returns the number.
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

#[tokio::test]
async fn a_killed_or_stopped_put_resumes_where_it_was() {
    for (parts, signal) in [("1", Signal::SIGKILL), ("3", Signal::SIGKILL), ("3", Signal::SIGINT)] {
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
        // All bytes that went through: those that the server reads only later would be sent twice.
        let there = until_stored(&app, &anna, 8 * MEGABYTE - 100_000).await;
        // Two concurrent runs would conflict.
        assert!(shell.err(&arguments).await.contains("another salebell files put of a.bin is running"));
        signal_to(&first, signal);
        let output = first.wait_with_output().await.unwrap();
        if signal == Signal::SIGINT {
            assert_eq!(output.status.code(), Some(130), "{output:?}");
            assert!(text(&output.stderr).contains("The same command takes up where"), "{output:?}");
        }
        assert_eq!(shell.states().len(), 1);

        // Bytes that the killed process had handed to the kernel do not count.
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
async fn an_upload_that_is_gone_is_started_again() {
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

    // A file that has changed meanwhile is a different one.
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
async fn transfers_resume_after_broken_connections() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let gate = Gate::start(&app.url).await;
    let shell = Shell::new(&gate.url, &anna);
    let whole = bytes(12_000_000);
    shell.write("a.bin", &whole);
    for parts in ["1", "3"] {
        let arguments = ["put", "a.bin", "--parts", parts];
        let (before, had) = (gate.passed(), stored(&app, &anna).await);
        gate.allow_more(4 * MEGABYTE);
        let running = shell.start(&arguments);
        for _ in 0..2 {
            gate.until_shut().await;
            until_stored(&app, &anna, had + gate.passed() - before - 100_000).await;
            gate.allow_more(4 * MEGABYTE);
            gate.cut();
        }
        gate.open();
        let output = running.wait_with_output().await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(text(&output.stdout).contains(&hex(&whole)), "{output:?}");
        let moved = gate.passed() - before;
        assert!(moved < 14 * MEGABYTE, "{moved}");
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

/// Starts `salebell api` on the app's database and folder, as a separate process.
async fn start_api(app: &TestApp, address: &str) -> Binary {
    let settings = [
        ("SALEBELL_DATABASE__URL", app.database.url.as_str()),
        ("SALEBELL_FILES__DIRECTORY", app.files.path().to_str().unwrap()),
        ("SALEBELL_FILES__RESERVE_BYTES", "0"),
        ("SALEBELL_SERVER__LISTEN", address),
        ("SALEBELL_SERVER__GRPC_LISTEN", "127.0.0.1:0"),
        ("SALEBELL_SERVER__METRICS_LISTEN", "127.0.0.1:0"),
        ("SALEBELL_LOG__TO", "stderr"),
    ];
    let api = Binary::start(&["api"], &settings);
    api.url().await;
    api
}

#[tokio::test]
async fn a_killed_and_restarted_server_costs_nothing() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    // A loopback address where no connection of another test takes the port while the server is down.
    let address = std::net::TcpListener::bind("127.0.0.3:0").unwrap().local_addr().unwrap().to_string();
    let gate = Gate::start(&format!("http://{address}")).await;
    let shell = Shell::new(&gate.url, &anna);
    let whole = bytes(12_000_000);
    shell.write("a.bin", &whole);
    let through_a_kill = async |arguments: &[&str]| {
        let mut api = start_api(&app, &address).await;
        gate.allow_more(6 * MEGABYTE);
        let running = shell.start(arguments);
        gate.until_shut().await;
        app.kill(&mut api).await;
        gate.cut();
        gate.open();
        let _api = start_api(&app, &address).await;
        let output = running.wait_with_output().await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        text(&output.stdout)
    };
    for parts in ["1", "3"] {
        let out = through_a_kill(&["put", "a.bin", "--parts", parts, "--json"]).await;
        let file: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(file["sha256"], json!(hex(&whole)));
        through_a_kill(&["get", id(&file), "-o", "b.bin", "--parts", parts, "--force"]).await;
        assert_eq!(shell.read("b.bin"), whole);
    }
}

/// Waits until the state on disk would let a later get resume at `bytes`.
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
async fn a_killed_or_stopped_get_resumes_where_it_was() {
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
        signal_to(&second, Signal::SIGINT);
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
        assert!(moved < 17 * MEGABYTE, "{moved}");
        assert!(shell.states().is_empty());
    }
}

#[tokio::test]
async fn two_versions_are_never_mixed() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let gate = Gate::start(&app.url).await;
    let shell = Shell::new(&gate.url, &anna);
    let one = bytes(12_000_000);
    let two: Bytes = one.iter().rev().copied().collect();
    let (first, second) = (shell.put("one", &one).await, shell.put("two", &two).await);

    // Killed, and then another file is requested to the same path.
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

    // The file on the server changes during the download: here by hand, because the API changes no bytes.
    gate.allow_more(6 * MEGABYTE);
    let running = shell.start(&["get", id(&first), "-o", "y"]);
    gate.until_shut().await;
    for swap in [
        "update files set sha256 = (select sha256 from files where name = 'two') where name = 'one'",
        "update file_pieces set place = (select place from file_pieces where file_id = (select id from files where name = 'two'))
         where file_id = (select id from files where name = 'one')",
    ] {
        sqlx::query(swap).execute(&app.state.writer).await.unwrap();
    }
    gate.open();
    gate.cut();
    let output = running.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stderr).contains("is another one by now"), "{output:?}");
    assert_eq!(shell.read("y"), two);
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
