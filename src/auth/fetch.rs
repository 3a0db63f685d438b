//! Small public things that are fetched over HTTP: keys of token issuers.

use std::sync::OnceLock;
use std::time::Duration;

use crate::error::chain;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Status and body of what is at `url`; redirects are not followed.
///
/// # Errors
/// What went wrong, for the log: nobody answers in time, or there are more than `most` bytes.
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

/// Made when it is first needed: loading the certificate authorities takes memory and time at start.
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
