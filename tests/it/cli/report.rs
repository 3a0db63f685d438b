//! `salebell report`: the real program against a real API, through connections that break.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::support::scratch::Scratch;
use crate::support::{TestApp, User};

const COLUMNS: [&str; 12] = [
    "--map",
    "sku=ID",
    "--map",
    "title=Name",
    "--map",
    "price=Price (€)",
    "--map",
    "observed_at=Date",
    "--set",
    "currency=EUR",
    "--set",
    "store=Steam",
];

fn command(scratch: &Scratch, url: &str, user: &User, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_salebell"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SALEBELL_")) {
        command.env_remove(name);
    }
    command
        .arg("report")
        .args(arguments)
        .current_dir(scratch.path())
        .env("SALEBELL_URL", url)
        .env("SALEBELL_TOKEN", &user.token)
        .env("XDG_STATE_HOME", scratch.path().join("state"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs it to its end while the worker records.
pub async fn report(app: &TestApp, scratch: &Scratch, url: &str, user: &User, arguments: &[&str]) -> Output {
    let output = command(scratch, url, user, arguments).output();
    while_recording(app, output).await.unwrap()
}

/// Steps the worker while `work` runs.
async fn while_recording<T>(app: &TestApp, work: impl Future<Output = T>) -> T {
    let record = async {
        loop {
            app.record_all().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! { result = work => result, () = record => unreachable!() }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn write(scratch: &Scratch, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = scratch.path().join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Lines with `count` price changes, each of another offer.
fn many(count: usize) -> String {
    let mut csv = String::from("ID,Name,Price (€),Date\n");
    for n in 0..count {
        csv.push_str(&format!("sku-{n},Game {n},{}.{:02},2026-01-01 12:00:00+02:00\n", n % 50 + 1, n % 100));
    }
    csv
}

async fn count_history(app: &TestApp) -> i64 {
    sqlx::query_scalar("select count(*) from price_history").fetch_one(&app.state.writer).await.unwrap()
}

async fn count_accepted(app: &TestApp) -> i64 {
    sqlx::query_scalar("select coalesce(sum(accepted), 0)::bigint from batches")
        .fetch_one(&app.state.writer)
        .await
        .unwrap()
}

#[tokio::test]
async fn observations_too_old_to_ring_are_counted() {
    let app = TestApp::builder().settings(&[("SALEBELL_PRICES__RINGS_WITHIN_S", "604800")]).spawn().await;
    let scratch = Scratch::new();
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let csv = format!("{}new,New,1.00,{}\n", many(3), app.clock.now().to_rfc3339());
    let file = write(&scratch, "prices.csv", csv);
    let said = "3 were seen too long ago to ring anybody";
    let output =
        report(&app, &scratch, &app.url, &shop, &[&COLUMNS, [file.as_str()].as_slice()].concat()).await;
    assert!(text(&output.stdout).contains(said), "{output:?}");
    let history = [&COLUMNS, ["--backfill", &file].as_slice()].concat();
    let output = report(&app, &scratch, &app.url, &shop, &history).await;
    assert!(!text(&output.stdout).contains("ring"), "{output:?}");
}

#[tokio::test]
async fn refused_lines_are_reported_with_their_numbers_in_the_file() {
    let app = TestApp::spawn().await;
    let scratch = Scratch::new();
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let csv = "\u{feff}Name,ID,Price (€),Date,Other\r\n\
        \" Two, of them \",a,18.5,2025-07-15 22:33:15+02:00,\"x\r\ny\"\r\n\
        \r\n\
        Bad price,b,1.999,2025-07-15 22:33:15+02:00,x\r\n\
        Short,c\r\n\
        Free,d,0.0,2025-07-15 22:33:15+02:00,x\r\n\
        No date,e,1.00,15.07.2025,x\r\n\
        Last,f,7,2025-07-16 22:33:15+02:00,x";
    let file = write(&scratch, "prices.csv", csv);
    let rejects = scratch.path().join("rejects.ndjson");
    let arguments = [&COLUMNS, ["--rejects", rejects.to_str().unwrap(), &file].as_slice()].concat();
    let output = report(&app, &scratch, &app.url, &shop, &arguments).await;
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(2), "{out}{err}");
    assert!(out.contains("3 accepted, 3 refused"), "{out}");
    assert!(out.contains("3 recorded, 0 unchanged"), "{out}");
    assert!(out.contains("3 first.seen"), "{out}");
    let lines: Vec<Value> = std::fs::read_to_string(&rejects)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.iter().map(|line| line["line"].as_u64().unwrap()).collect::<Vec<_>>(), [5, 6, 8]);
    assert!(lines[0]["reason"].as_str().unwrap().contains("price"), "{lines:?}");
    assert_eq!(lines[1]["reason"], "has 2 fields where the header has 5");
    assert!(lines[2]["reason"].as_str().unwrap().contains("observed_at"), "{lines:?}");
    assert!(err.contains("line 5: price"), "{err}");
    assert!(err.contains("columns that are not reported: Other"), "{err}");

    let (title, amount, at): (String, i64, chrono::DateTime<chrono::Utc>) = sqlx::query_as(
        "select games.title, offers.amount, offers.observed_at from offers join games on games.id = offers.game_id
         where offers.sku = 'a'",
    )
    .fetch_one(&app.state.writer)
    .await
    .unwrap();
    assert_eq!((title.as_str(), amount), ("Two, of them", 1850));
    assert_eq!(at, "2025-07-15T20:33:15Z".parse::<chrono::DateTime<chrono::Utc>>().unwrap());

    // Sending the whole file again changes nothing.
    let again = report(&app, &scratch, &app.url, &shop, &arguments).await;
    assert!(text(&again.stdout).contains("0 recorded, 3 unchanged"), "{}", text(&again.stdout));
    assert!(std::fs::read_dir(scratch.path().join("state/salebell")).unwrap().next().is_none());
}

#[tokio::test]
async fn every_one_of_many_refused_lines_is_reported() {
    let app = TestApp::spawn().await;
    let scratch = Scratch::new();
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let mut csv = "store,sku,price,currency\n".to_owned();
    // More refusals than the API lists individually, with valid lines in between.
    for line in 2..3_502 {
        let price = if line % 7 == 0 { "1.00" } else { "none" };
        csv += &format!("gog,sku-{line},{price},EUR\n");
    }
    let file = write(&scratch, "prices.csv", &csv);
    let rejects = scratch.path().join("rejects.ndjson");
    let arguments = ["--rejects", rejects.to_str().unwrap(), &file];
    let output = report(&app, &scratch, &app.url, &shop, &arguments).await;
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(2), "{out}{err}");
    assert!(out.contains("500 accepted, 3000 refused"), "{out}");
    // They were sent more than once, and changed nothing the second time.
    app.record_all().await;
    let offers = "select count(*) from offers o where o.amount = 100
        and (select count(*) from price_history h where h.offer_id = o.id) = 1";
    assert_eq!(sqlx::query_scalar::<_, i64>(offers).fetch_one(&app.state.writer).await.unwrap(), 500);
    let reported: Vec<u64> = std::fs::read_to_string(&rejects)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["line"].as_u64().unwrap())
        .collect();
    assert_eq!(reported, (2..3_502).filter(|line| line % 7 != 0).collect::<Vec<u64>>());
}

#[tokio::test]
async fn gzip_zstd_standard_input_and_ndjson_are_read_alike() {
    let app = TestApp::spawn().await;
    let scratch = Scratch::new();
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let line = |sku: &str| {
        format!(
            "{{\"store\":\"GOG\",\"sku\":\"{sku}\",\"price\":9.99,\"currency\":\"EUR\",\"observed_at\":\"2026-01-01T00:00:00Z\"}}\n"
        )
    };
    // Two members in one file, as `cat a.gz b.gz` makes them.
    let mut gzip = compress(async_compression::tokio::write::GzipEncoder::new(Vec::new()), &line("gz")).await;
    gzip.extend(
        compress(async_compression::tokio::write::GzipEncoder::new(Vec::new()), &many_json("gz-", 2000))
            .await,
    );
    let zstd = compress(async_compression::tokio::write::ZstdEncoder::new(Vec::new()), &line("zst")).await;
    let cut_off = gzip[..gzip.len() - 20].to_vec();
    for (name, content, accepted) in [
        ("a.ndjson.gz", gzip.clone(), 2001),
        // Neither name reveals the format.
        ("b", zstd, 1),
        ("c.jsonl", line("plain").into_bytes(), 1),
    ] {
        let file = write(&scratch, name, content);
        let output = report(&app, &scratch, &app.url, &shop, &[&file]).await;
        assert!(text(&output.stdout).contains(&format!("{accepted} accepted, 0 refused")), "{output:?}");
        assert_eq!(output.status.code(), Some(0));
    }

    let mut child = command(&scratch, &app.url, &shop, &[&["-"], COLUMNS.as_slice()].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let packed = compress(async_compression::tokio::write::GzipEncoder::new(Vec::new()), &many(3)).await;
    // A single byte must not hide the format.
    input.write_all(&packed[..1]).await.unwrap();
    input.flush().await.unwrap();
    tokio::task::yield_now().await;
    input.write_all(&packed[1..]).await.unwrap();
    drop(input);
    let output = while_recording(&app, child.wait_with_output()).await.unwrap();
    assert!(text(&output.stdout).contains("3 recorded"), "{output:?}");

    // A truncated download is reported as a failure, not treated as a shorter file.
    let file = write(&scratch, "d.ndjson.gz", cut_off);
    let output = report(&app, &scratch, &app.url, &shop, &[&file]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("cannot read the input"), "{output:?}");
}

fn many_json(prefix: &str, count: usize) -> String {
    (0..count)
        .map(|n| {
            format!(
                "{{\"store\":\"GOG\",\"sku\":\"{prefix}{n}\",\"price\":\"{}.50\",\"currency\":\"EUR\"}}\n",
                n % 9
            )
        })
        .collect()
}

async fn compress<E>(mut encoder: E, content: &str) -> Vec<u8>
where
    E: tokio::io::AsyncWrite + Unpin + IntoInner,
{
    encoder.write_all(content.as_bytes()).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.take_inner()
}

trait IntoInner {
    fn take_inner(self) -> Vec<u8>;
}

impl IntoInner for async_compression::tokio::write::GzipEncoder<Vec<u8>> {
    fn take_inner(self) -> Vec<u8> {
        self.into_inner()
    }
}

impl IntoInner for async_compression::tokio::write::ZstdEncoder<Vec<u8>> {
    fn take_inner(self) -> Vec<u8> {
        self.into_inner()
    }
}

/// Point at which the proxy breaks a connection.
#[derive(Clone, Copy)]
enum Cut {
    /// After this number of bytes of the request.
    Request(usize),
    /// When the API's answer begins: the work is done and its receipt is lost.
    Answer,
}

/// Starts a proxy in front of the API that breaks its first connections, one after another as `cuts` says.
async fn start_proxy(to: SocketAddr, cuts: Vec<Cut>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let broken = Arc::new(AtomicUsize::new(0));
    let counter = broken.clone();
    tokio::spawn(async move {
        let mut cuts = cuts.into_iter();
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let (cut, counter) = (cuts.next(), counter.clone());
            tokio::spawn(async move {
                let server = TcpStream::connect(to).await.unwrap();
                if forward(client, server, cut).await {
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    (url, broken)
}

/// Forwards one connection; returns whether it broke it.
async fn forward(mut client: TcpStream, mut server: TcpStream, cut: Option<Cut>) -> bool {
    match cut {
        None => {
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            false
        }
        Some(Cut::Request(bytes)) => {
            let mut part = (&mut client).take(bytes as u64);
            let _ = tokio::io::copy(&mut part, &mut server).await;
            true
        }
        Some(Cut::Answer) => {
            let (mut from_client, mut to_client) = client.split();
            let (mut from_server, mut to_server) = server.split();
            let mut first = [0; 1];
            tokio::select! {
                _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                _ = from_server.read_exact(&mut first) => {}
            }
            let _ = to_client.shutdown().await;
            true
        }
    }
}

#[tokio::test]
async fn broken_connections_lose_nothing_and_duplicate_nothing() {
    let app = TestApp::spawn().await;
    let scratch = Scratch::new();
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let file = write(&scratch, "prices.csv", many(3000));
    let cuts = vec![Cut::Request(100), Cut::Request(50_000), Cut::Answer, Cut::Request(20_000), Cut::Answer];
    let (url, broken) = start_proxy(app.url[7..].parse().unwrap(), cuts).await;
    let arguments = [&COLUMNS, ["--slice", "1000", &file].as_slice()].concat();
    let output = report(&app, &scratch, &url, &shop, &arguments).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(broken.load(Ordering::SeqCst), 5);
    assert!(
        text(&output.stdout).contains("3000 accepted, 0 refused\n3000 recorded, 0 unchanged"),
        "{output:?}"
    );
    assert_eq!(count_history(&app).await, 3000);
    assert_eq!(count_accepted(&app).await, 3000);
}

/// Starts `salebell api` as a separate process on a given port.
async fn start_api(app: &TestApp, address: SocketAddr) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_salebell"));
    let config = &app.state.config;
    let child = command
        .arg("api")
        .env("SALEBELL_DATABASE__URL", config.database.url.expose_secret())
        .env("SALEBELL_WEBHOOK__ENCRYPTION_KEYS", config.webhook.encryption_keys[0].expose_secret())
        .env("SALEBELL_SERVER__LISTEN", address.to_string())
        .env("SALEBELL_SERVER__GRPC_LISTEN", "127.0.0.1:0")
        .env("SALEBELL_SERVER__METRICS_LISTEN", "127.0.0.1:0")
        .env("SALEBELL_LOG__LEVEL", "warn")
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        assert!(begin.elapsed() < Duration::from_secs(60), "the API does not start");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    child
}

async fn wait_for_batches(app: &TestApp, count: i64) {
    let begin = Instant::now();
    loop {
        let batches: i64 =
            sqlx::query_scalar("select count(*) from batches").fetch_one(&app.state.writer).await.unwrap();
        if batches >= count {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{batches} batches");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_killed_and_restarted_server_loses_nothing_and_duplicates_nothing() {
    let app = TestApp::spawn().await;
    let scratch = Scratch::new();
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let file = write(&scratch, "prices.csv", many(8000));
    let address = free_address();
    let mut api = start_api(&app, address).await;
    let arguments = [&COLUMNS, ["--slice", "200", &file].as_slice()].concat();
    let running = command(&scratch, &format!("http://{address}"), &shop, &arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_batches(&app, 8).await;
    api.kill().await.unwrap();
    let mut api = start_api(&app, address).await;
    let output = while_recording(&app, running.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).contains("8000 accepted, 0 refused"), "{output:?}");
    assert_eq!(count_history(&app).await, 8000);
    api.kill().await.unwrap();
}

#[tokio::test]
async fn a_killed_report_resumes_where_it_was() {
    let app = TestApp::spawn().await;
    let scratch = Scratch::new();
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let mut csv = many(8000);
    csv.push_str("bad,Bad,x,2026-01-01 12:00:00Z\n");
    let csv = csv.replacen("sku-1,Game 1,", "sku-1,Game 1,minus ", 1);
    let file = write(&scratch, "prices.csv", csv);
    let arguments = [&COLUMNS, ["--slice", "200", &file].as_slice()].concat();
    let mut running = command(&scratch, &app.url, &shop, &arguments).spawn().unwrap();
    wait_for_batches(&app, 5).await;

    // While it runs, a second report of the same file is refused.
    let other = command(&scratch, &app.url, &shop, &arguments).output().await.unwrap();
    assert_eq!(other.status.code(), Some(1));
    assert!(text(&other.stderr).contains("another salebell report"), "{other:?}");

    running.kill().await.unwrap();
    let output = report(&app, &scratch, &app.url, &shop, &arguments).await;
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(2), "{out}{err}");
    assert!(err.contains("taking up an earlier report"), "{err}");
    // Refusals from before the kill are reported again, and the counts are those of the whole file.
    assert!(out.contains("7999 accepted, 2 refused\n7999 recorded, 0 unchanged"), "{out}");
    assert!(err.contains("line 3: price") && err.contains("line 8002: price"), "{err}");
    assert_eq!(count_history(&app).await, 7999);
    assert_eq!(count_accepted(&app).await, 7999);
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn an_unavailable_server_ends_the_report_with_advice() {
    let app = TestApp::spawn().await;
    let scratch = Scratch::new();
    let shop = app.user("shop", &[]).await;
    let file = write(&scratch, "prices.csv", many(1));
    let url = format!("http://{}", free_address());
    let arguments = [&COLUMNS, ["--max-wait", "1s", &file].as_slice()].concat();
    let output = command(&scratch, &url, &shop, &arguments).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let err = text(&output.stderr);
    assert!(err.contains("within 1 s") && err.contains("takes up where this one ended"), "{err}");

    // A file named by option takes precedence over the variable.
    let arguments = [&COLUMNS, ["--token-file", "nowhere", &file].as_slice()].concat();
    let output = command(&scratch, &app.url, &shop, &arguments).output().await.unwrap();
    assert!(text(&output.stderr).contains("cannot read nowhere"), "{output:?}");

    // A refusal of everything is not retried.
    let begin = Instant::now();
    let output = command(&scratch, &app.url, &shop, &[&COLUMNS, [file.as_str()].as_slice()].concat())
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("403"), "{output:?}");
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn a_line_of_a_hundred_megabytes_is_one_refused_line() {
    let app = TestApp::spawn().await;
    let scratch = Scratch::new();
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let path = scratch.path().join("long.ndjson");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    file.write_all(many_json("a", 2).as_bytes()).unwrap();
    file.write_all(b"{\"store\": \"").unwrap();
    for _ in 0..100 {
        file.write_all(&vec![b'x'; 1 << 20]).unwrap();
    }
    file.write_all(b"\"}\n\xff\xfe\n").unwrap();
    file.write_all(many_json("b", 1).as_bytes()).unwrap();
    file.flush().unwrap();
    let child = command(&scratch, &app.url, &shop, &[path.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id().unwrap();
    let peak = async {
        // The kernel's count; the last value before the end is the peak.
        let mut peak = 0;
        while let Some(kib) = read_peak(pid) {
            peak = kib;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        peak
    };
    let (output, peak) = tokio::join!(while_recording(&app, child.wait_with_output()), peak);
    let output = output.unwrap();
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        err.contains("line 3: is longer than 65536 bytes") && err.contains("line 4: is not UTF-8"),
        "{err}"
    );
    assert!(text(&output.stdout).contains("3 accepted, 2 refused"), "{output:?}");
    assert!(peak > 0 && peak < 64 << 10, "{peak} KiB");
}

/// `VmHWM` in KiB, while the process lives.
pub fn read_peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[tokio::test]
async fn a_dry_run_sends_nothing() {
    let app = TestApp::spawn().await;
    let scratch = Scratch::new();
    let shop = app.user("shop", &["prices:write", "catalogue:write"]).await;
    let file = write(&scratch, "prices.csv", many(20));
    let arguments = [&COLUMNS, ["--dry-run", &file].as_slice()].concat();
    let output = command(&scratch, &app.url, &shop, &arguments).output().await.unwrap();
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(out.lines().count(), 6, "{out}");
    let first: Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert_eq!(first["observed_at"], "2026-01-01T10:00:00Z");
    assert!(out.ends_with("20 lines can be sent, 0 cannot\n"), "{out}");
    assert_eq!(count_accepted(&app).await, 0);
}
