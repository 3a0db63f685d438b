//! `salebell api` and `salebell worker` as separate processes, on the database and the store of a test.

use reqwest::{Method, RequestBuilder};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::binary::{Binary, command};
use super::bus::Queues;
use super::{TestApp, User, raw};
use test_support::ec2::Ec2;

/// Settings by which a process shares the test's database and store.
fn settings(app: &TestApp) -> Vec<(String, String)> {
    let mut settings = vec![
        ("SALEBELL_DATABASE__URL", app.database.url.clone()),
        ("SALEBELL_FILES__DIRECTORY", app.files.path().to_str().unwrap().to_owned()),
        ("SALEBELL_FILES__RESERVE_BYTES", "0".to_owned()),
        ("SALEBELL_SERVER__LISTEN", "127.0.0.1:0".to_owned()),
        ("SALEBELL_SERVER__GRPC_LISTEN", "127.0.0.1:0".to_owned()),
        ("SALEBELL_SERVER__METRICS_LISTEN", "127.0.0.1:0".to_owned()),
        ("SALEBELL_WORKER__METRICS_LISTEN", "127.0.0.1:0".to_owned()),
        ("SALEBELL_SERVER__LINGER_S", "0".to_owned()),
        ("SALEBELL_LOG__TO", "stderr".to_owned()),
    ];
    if let Some(bucket) = &app.bucket {
        settings.extend(bucket.settings().map(|(key, value)| (key, value.to_owned())));
        settings.extend(
            ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| (name, std::env::var(name).unwrap())),
        );
    }
    for (key, value) in app.queues.iter().flat_map(Queues::settings_of_a_process) {
        settings.push((key, value));
    }
    settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Runs a subcommand to its end, and returns its output.
pub async fn run(app: &TestApp, arguments: &[&str]) -> String {
    let settings = settings(app);
    let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (&**key, &**value)).collect();
    let output = command(arguments, &settings).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Starts a subcommand with further settings.
pub fn start(app: &TestApp, command: &str, more: &[(&str, &str)]) -> Binary {
    start_under(&[], app, command, more)
}

/// Starts a subcommand through another program, such as `unshare`.
pub fn start_under(wrapper: &[&str], app: &TestApp, command: &str, more: &[(&str, &str)]) -> Binary {
    let settings = settings(app);
    let settings: Vec<(&str, &str)> =
        settings.iter().map(|(key, value)| (&**key, &**value)).chain(more.iter().copied()).collect();
    Binary::start_under(wrapper, &[command], &settings)
}

/// Launches an instance and starts an API on it, through another program if one is given; returns it with the addresses
/// of its API and of its metrics.
pub async fn launch(
    wrapper: &[&str],
    app: &TestApp,
    ec2: &Ec2,
    id: &str,
    more: &[(&str, &str)],
) -> (Binary, String, String) {
    let metadata = ec2.launch(id).await;
    let environment = ec2.environment(&metadata);
    let settings: Vec<(&str, &str)> =
        environment.iter().map(|(key, value)| (*key, value.as_str())).chain(more.iter().copied()).collect();
    let api = start_under(wrapper, app, "api", &settings);
    let url = api.url().await;
    let metrics = format!("http://{}", api.logged("metrics on http://").await);
    (api, url, metrics)
}

/// Lines of the head of a tus PATCH, without the empty one.
pub fn head_of_patch(token: &str, path: &str, offset: usize, length: usize) -> String {
    format!(
        "PATCH {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nTus-Resumable: 1.0.0\r\n\
         Content-Type: application/offset+octet-stream\r\nUpload-Offset: {offset}\r\n\
         Content-Length: {length}\r\n",
    )
}

/// A running `salebell api`, and its caller.
pub struct Api<'a> {
    pub binary: Binary,
    pub url: String,
    app: &'a TestApp,
    user: &'a User,
}

impl<'a> Api<'a> {
    pub async fn start(app: &'a TestApp, user: &'a User, more: &[(&str, &str)]) -> Api<'a> {
        Api::of(start(app, "api", more), app, user).await
    }

    pub async fn of(binary: Binary, app: &'a TestApp, user: &'a User) -> Api<'a> {
        let url = binary.url().await;
        Api { binary, url, app, user }
    }

    /// URL of a path at this process, for another caller.
    pub fn url_for(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub fn tus(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.app.client.request(method, self.url_for(path));
        request.bearer_auth(&self.user.token).header("tus-resumable", "1.0.0")
    }

    /// A tus PATCH.
    pub fn patch(&self, path: &str, offset: usize, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.tus(Method::PATCH, path)
            .header("upload-offset", offset)
            .header("content-type", "application/offset+octet-stream")
            .body(body)
    }

    /// Creates an upload, and returns its path.
    pub async fn create(&self, length: usize) -> String {
        self.create_with(&[("upload-length", &length.to_string())]).await
    }

    pub async fn create_with(&self, headers: &[(&str, &str)]) -> String {
        let request = self.tus(Method::POST, "/v1/files");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let created = request.send().await.unwrap();
        assert_eq!(created.status(), 201, "{}", created.text().await.unwrap());
        created.headers()["location"].to_str().unwrap().to_owned()
    }

    /// Offset that HEAD returns; `None` without an answer.
    pub async fn offset(&self, path: &str) -> Option<usize> {
        let head = self.tus(Method::HEAD, path).send().await.ok()?;
        assert_eq!(head.status(), 200, "{}", self.binary.log());
        Some(head.headers()["upload-offset"].to_str().unwrap().parse().unwrap())
    }

    /// Number of durable bytes, queried without interrupting the upload.
    pub async fn stored(&self, path: &str) -> usize {
        let response =
            self.app.client.get(self.url_for(path)).bearer_auth(&self.user.token).send().await.unwrap();
        assert_eq!(response.status(), 200, "{}", self.binary.log());
        let file: serde_json::Value = response.json().await.unwrap();
        file["offset"].as_u64().unwrap().try_into().unwrap()
    }

    /// Opens a connection and sends the head of a PATCH that will deliver `length` bytes.
    pub async fn begin_patch(&self, path: &str, offset: usize, length: usize) -> TcpStream {
        let mut stream = raw::connect(&self.url).await;
        let head = head_of_patch(&self.user.token, path, offset, length) + "\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    /// Sends the head of such a PATCH, and returns once the API asks for the bytes.
    pub async fn begin_requested_patch(&self, path: &str, offset: usize, length: usize) -> TcpStream {
        raw::begin(&self.url, &head_of_patch(&self.user.token, path, offset, length)).await
    }

    /// Kills the process as `TestApp::kill` does.
    pub async fn kill(&mut self) {
        self.app.kill(&mut self.binary).await;
    }
}
