//! Welcome text, printed once everything is ready.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use super::sample;
use crate::app::App;
use crate::cli::api_client::ApiClient;
use crate::telemetry::Quiet;

/// Timeout of the first response of our own API.
const FIRST_RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Welcome {
    /// URL of the API.
    pub url: String,
    pub grpc: Option<ListenAddress>,
    pub metrics: ListenAddress,
    pub token: SecretString,
    /// Absolute path, like the others here, since they are typed in other terminals.
    pub token_file: PathBuf,
    pub database: String,
    /// Path of a link to this program.
    pub program: PathBuf,
    /// Folder that contains `.salebell`.
    pub project: PathBuf,
    /// Whether the sample feed is loaded into an empty catalogue.
    pub sample: bool,
    /// Keeps the log quiet until the text has been printed.
    pub quiet: Quiet,
}

/// Address of a listener.
pub struct ListenAddress {
    pub address: SocketAddr,
    /// Default address, if another program already listens on it.
    pub instead_of: Option<SocketAddr>,
}

impl ListenAddress {
    fn why(&self) -> String {
        self.instead_of
            .map_or_else(String::new, |taken| format!("another program listens on port {}", taken.port()))
    }
}

impl Welcome {
    /// Loads the sample feed into an empty catalogue, and prints that everything is ready and what to try. If that
    /// fails, it stops the process.
    pub async fn greet(self, app: App) -> anyhow::Result<()> {
        let greet = async {
            let client =
                ApiClient::new(&self.url, Some(&self.token), FIRST_RESPONSE_TIMEOUT, Box::new(|_| {}))?;
            if self.sample {
                sample::load_into_empty_catalogue(&client, app.clock.now()).await?;
            }
            // A closed standard output is not a failure.
            let _ = std::io::stdout().write_all(self.text().as_bytes());
            Ok(())
        };
        let greeted = greet.await;
        if greeted.is_err() {
            app.stopping.cancel();
        }
        drop(self.quiet);
        greeted
    }

    fn text(&self) -> String {
        let Welcome { url, database, .. } = self;
        let [token, program] = [&self.token_file, &self.program].map(|path| quote(path));
        let grpc = match &self.grpc {
            Some(place) => {
                let notes = ["without TLS".to_owned(), place.why()];
                let notes: Vec<String> = notes.into_iter().filter(|note| !note.is_empty()).collect();
                format!("{} ({})", place.address, notes.join("; "))
            }
            None => "off".to_owned(),
        };
        let metrics = match self.metrics.why() {
            why if why.is_empty() => format!("http://{}/metrics", self.metrics.address),
            why => format!("http://{}/metrics ({why})", self.metrics.address),
        };
        let project = self.project.display();
        format!(
            r#"
Salebell is ready. Ctrl-C stops it.

  API       {url}
  gRPC      {grpc}
  metrics   {metrics}
  token     {token} (every scope)
  database  {database}
  program   {program}
            Its commands report, files, stats and key find all of this when they are run in {project}.

Try, in another terminal:

  curl -s '{url}/v1/games?q=witcher+3'

  curl -s '{url}/v1/deals?currency=EUR&min_cut=50&limit=3'

  curl -s '{url}/v1/prices' -H "Authorization: Bearer $(cat {token})" -H 'Content-Type: application/json' -d '{{"observations": [{{"store": "Pixel Harbor", "sku": "ph-the-witcher-3-wild-hunt", "price": "7.99", "currency": "EUR"}}]}}'

"#
        )
    }
}

/// Quotes a path for a shell.
pub fn quote(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
