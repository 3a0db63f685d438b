//! What a person is told once all is ready.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::{LONGEST_FIRST_ANSWER, sample};
use crate::app::App;
use crate::cli::api_client::ApiClient;
use crate::telemetry::Quiet;

pub struct Welcome {
    /// Of the API.
    pub url: String,
    pub grpc: Option<ListenAddress>,
    pub metrics: ListenAddress,
    pub token: SecretString,
    /// This and the other paths are absolute: they are typed in other terminals.
    pub token_file: PathBuf,
    pub database: String,
    /// A link to this program.
    pub program: PathBuf,
    /// Whose `.salebell` it is.
    pub project: PathBuf,
    /// Whether an empty catalogue gets the sample.
    pub sample: bool,
    /// Until all is said.
    pub quiet: Quiet,
}

/// Where something listens.
pub struct ListenAddress {
    pub address: SocketAddr,
    /// Where it would be, did not another program listen there.
    pub instead_of: Option<SocketAddr>,
}

impl ListenAddress {
    fn why(&self) -> String {
        self.instead_of
            .map_or_else(String::new, |taken| format!("another program listens on port {}", taken.port()))
    }
}

impl Welcome {
    /// Loads the sample into an empty catalogue and says that all is ready, and what to try. When that fails, it
    /// stops the process.
    pub async fn greet(self, app: App) -> anyhow::Result<()> {
        let greet = async {
            let client =
                ApiClient::new(&self.url, Some(&self.token), LONGEST_FIRST_ANSWER, Box::new(|_| {}))?;
            if self.sample {
                sample::load_into_empty_catalogue(&client, app.clock.now()).await?;
            }
            // Whoever has closed our output does not want to know.
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

/// A path as a shell takes it.
pub fn quote(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
