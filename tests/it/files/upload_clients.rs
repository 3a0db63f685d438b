//! Real tus clients that upload, break off and resume: `tus-js-client` from npm and `tuspy` from PyPI. Also curl's
//! ranges.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::files::uploads::{bytes, hex};
use crate::support::s3::Store;
use crate::support::scratch::Scratch;
use crate::support::{TestApp, User};

crate::on_both_stores!(
    tus_js_client_uploads_breaks_resumes_and_concatenates,
    tuspy_uploads_with_checksums_breaks_and_resumes,
);

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; `make test` sets it"))
}

/// Runs a client, and returns its output.
async fn run(client: &str, task: &Value) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");
    let mut command = match client {
        "tuspy" => Command::new(setting("SALEBELL_TEST_PYTHON")),
        _ => Command::new("node"),
    };
    match client {
        "tuspy" => command.arg(format!("{folder}/upload.py")),
        _ => command.arg(format!("{folder}/upload.cjs")).env("NODE_PATH", setting("SALEBELL_TEST_NODE_PATH")),
    };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(task.to_string().as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{client} failed: {error}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Uploads two megabytes with a client, and checks the stored file.
async fn upload(app: &TestApp, anna: &User, client: &str, how: &str) {
    let (folder, whole) = (Scratch::new(), bytes(2_000_003));
    let file = folder.path().join("file");
    std::fs::write(&file, &whole).unwrap();
    let endpoint = format!("{}/v1/files", app.url);
    let task = json!({"endpoint": endpoint, "token": anna.token, "file": file, "how": how});
    let address = run(client, &task).await;
    let file = app.see(anna, address.strip_prefix(&app.url).unwrap_or(&address)).await;
    assert_eq!(file["state"], "complete", "{client}, {how}");
    assert_eq!(
        (&file["sha256"], &file["length"]),
        (&json!(hex(&whole)), &json!(2_000_003)),
        "{client}, {how}"
    );
    let name = if client == "tuspy" { "from-python.bin" } else { "from-node.bin" };
    assert_eq!((&file["name"], &file["media_type"]), (&json!(name), &json!("application/x-test")));
}

async fn tus_js_client_uploads_breaks_resumes_and_concatenates(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    for how in ["whole", "broken", "parallel", "draft", "draft broken"] {
        upload(&app, &anna, "tus-js-client", how).await;
    }
}

async fn tuspy_uploads_with_checksums_breaks_and_resumes(store: Store) {
    let app = TestApp::builder().store(store).spawn().await;
    let anna = app.user("anna", &[]).await;
    for how in ["whole", "broken"] {
        upload(&app, &anna, "tuspy", how).await;
    }
}

#[tokio::test]
async fn curl_sends_a_file_and_fetches_it_in_ranges() {
    let app = TestApp::spawn().await;
    let anna = app.user("anna", &[]).await;
    let (folder, whole) = (Scratch::new(), bytes(1_000_000));
    let (file, part) = (folder.path().join("feed.bin"), folder.path().join("part"));
    std::fs::write(&file, &whole).unwrap();
    let bearer = format!("Authorization: Bearer {}", anna.token);
    let curl = async |arguments: &[&str]| {
        let output =
            Command::new("curl").args(["-sSf", "-H", &bearer]).args(arguments).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    // The address ends in a slash: curl adds the name of the file.
    let sent = curl(&["-T", file.to_str().unwrap(), &format!("{}/v1/files/", app.url)]).await;
    let sent: Value = serde_json::from_slice(&sent).unwrap();
    assert_eq!((&sent["name"], &sent["sha256"]), (&json!("feed.bin"), &json!(hex(&whole))));
    let content = format!("{}{}", app.url, sent["content"].as_str().unwrap());
    assert_eq!(curl(&["-r", "500000-599999", &content]).await, whole[500_000..600_000]);
    assert_eq!(curl(&["-r", "-7", &content]).await, whole[999_993..]);
    // A download that broke off continues.
    std::fs::write(&part, &whole[..400_000]).unwrap();
    curl(&["-C", "-", "-o", part.to_str().unwrap(), &content]).await;
    assert_eq!(std::fs::read(&part).unwrap(), whole);
}
