//! Small public documents that are fetched over HTTP: the keys of token issuers.

use std::sync::OnceLock;
use std::time::Duration;

use crate::error::chain;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the status and body of `url`; redirects are not followed.
///
/// # Errors
/// The reason, for the log: the connection or the response failed or timed out, or the body exceeds `most` bytes.
pub async fn fetch(url: &str, most: usize) -> Result<(u16, Vec<u8>), String> {
    let text = |error: reqwest::Error| chain(&error);
    let mut answer = client()?.get(url).send().await.map_err(text)?;
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(text)? {
        if body.len() + piece.len() > most {
            return Err(format!("more than {most} bytes"));
        }
        body.extend_from_slice(&piece);
    }
    Ok((answer.status().as_u16(), body))
}

/// Returns the client, which is created when it is first needed: loading the certificate authorities would cost memory
/// and time at start.
fn client() -> Result<&'static reqwest::Client, String> {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    if let Some(client) = CLIENT.get() {
        return Ok(client);
    }
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("salebell/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| chain(&error))?;
    Ok(CLIENT.get_or_init(|| client))
}
