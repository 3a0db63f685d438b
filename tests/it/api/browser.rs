//! The pages for readers in a real browser: Chromium loads them under their policies, axe finds no fault with them, and
//! Swagger UI sends requests.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::cli::dev::Dev;
use crate::support::database::TestDatabase;
use crate::support::openapi::operations;
use crate::support::scratch::Scratch;
use crate::support::shell::text;

/// Timeout of the whole visit.
const VISIT_TIMEOUT: Duration = Duration::from_secs(300);

/// Names of the browser: in Debian, and in its vendor's package.
const BROWSERS: [&str; 2] = ["chromium", "google-chrome"];

/// What `tests/clients/browser.cjs` prints.
#[derive(Deserialize)]
struct Visit {
    pages: Vec<Page>,
    operations: Vec<String>,
    tried: Tried,
}

#[derive(Deserialize)]
struct Page {
    path: String,
    status: u16,
    title: String,
    refused: Vec<Value>,
    foreign: Vec<String>,
    errors: Vec<String>,
    faults: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Tried {
    stores: Shown,
    me: Shown,
    kept: String,
}

/// An answer as Swagger UI shows it.
#[derive(Deserialize)]
struct Shown {
    status: String,
    body: String,
}

fn find_browser() -> String {
    let path = std::env::var("PATH").unwrap();
    let mut programs =
        BROWSERS.iter().flat_map(|name| path.split(':').map(move |folder| format!("{folder}/{name}")));
    programs
        .find(|program| Path::new(program).exists())
        .expect("Chromium, which `make test` installs on Debian")
}

async fn visit(folder: &Path, url: &str, token: &str) -> Visit {
    let modules = std::env::var("SALEBELL_TEST_NODE_PATH").expect("the folder that `make test` sets");
    let mut command = Command::new("node");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/browser.cjs")).env("NODE_PATH", modules);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let input = json!({"browser": find_browser(), "url": url, "token": token, "folder": folder}).to_string();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = tokio::time::timeout(VISIT_TIMEOUT, child.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn pages_work_in_a_browser_under_their_policies_and_axe_finds_no_fault() {
    let (scratch, database) = (Scratch::new(), TestDatabase::create_bare().await);
    let dev = Dev::start(scratch.path(), &["--database-url", &database.url]);
    let token = std::fs::read_to_string(scratch.path().join(".salebell/dev-token")).unwrap();
    let seen = visit(scratch.path(), &dev.url, token.trim()).await;

    let paths: Vec<&str> = seen.pages.iter().map(|page| page.path.as_str()).collect();
    assert_eq!(paths, ["/", "/docs", "/problems", "/problems/invalid", "/docs/try"]);
    for page in &seen.pages {
        let path = &page.path;
        assert_eq!(page.status, 200, "{path}");
        assert!(page.title.contains("Salebell"), "{path}: {}", page.title);
        assert!(page.refused.is_empty(), "the policy of {path} refuses {:#?}", page.refused);
        assert!(page.foreign.is_empty(), "{path} asks {:?}", page.foreign);
        assert!(page.errors.is_empty(), "{path}: {:#?}", page.errors);
        // Swagger UI's own page is not ours to make accessible: /docs has the same.
        assert_eq!(page.faults.is_none(), path == "/docs/try", "{path}");
        assert!(page.faults.iter().flatten().next().is_none(), "{path}: {:#?}", page.faults);
    }

    let unseen: Vec<String> = operations()
        .map(|operation| operation.to_string())
        .filter(|operation| !seen.operations.contains(operation))
        .collect();
    assert!(unseen.is_empty(), "Swagger UI does not show {unseen:#?} in {:#?}", seen.operations);

    let Tried { stores, me, kept } = &seen.tried;
    assert!(stores.status.starts_with("200"), "{}: {}", stores.status, stores.body);
    assert!(stores.body.contains("pixel-harbor"), "a store of the sample feed: {}", stores.body);
    assert!(me.status.starts_with("200"), "{}: {}", me.status, me.body);
    assert!(me.body.contains("scopes"), "{}", me.body);
    assert!(!kept.contains(token.trim()), "the token is only in memory: {kept}");
}
