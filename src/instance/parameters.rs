//! The settings of an environment: every parameter below its path in Parameter Store, and the secrets that those name.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::config::http::HttpResponse;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use futures_util::future::ready;
use futures_util::stream::{self, Stream, StreamExt};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::mpsc;

use crate::aws;
use crate::config::{SECRET_PREFIX, SecretName, SecretSetting};

/// Maximum number of parameters that Parameter Store returns per page.
const PAGE: i32 = 10;
/// Maximum number of parameters below a path, far more than there are settings: with more, the path must be a mistake.
const MAX_PARAMETERS: usize = 2_000;
/// Maximum number of pages of a listing. A page may be empty and still have a successor.
const MAX_PAGES: usize = 1_000;
/// Maximum number of secrets that are read concurrently.
const SECRETS_AT_ONCE: usize = 4;
/// Maximum number of attempts of a call while AWS cannot be reached at all.
const ROUNDS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// Reads the parameters below one path, and secrets. Its own configuration holds no secret; it sends no request before
/// the first read.
pub struct Parameters {
    ssm: aws_sdk_ssm::Client,
    secrets: aws_sdk_secretsmanager::Client,
    /// Path of the parameters, without a trailing slash.
    path: String,
}

/// Texts of secrets by id, or the reason why one cannot be read.
type Texts = BTreeMap<String, Result<SecretString, String>>;

/// Settings that were read.
#[derive(Default)]
pub struct StoredSettings {
    /// Values by setting, such as `database.url`. If a parameter names a secret, its value is that of the secret.
    pub values: BTreeMap<String, SecretString>,
    /// The settings that come from secrets, with the secret of each.
    pub secrets: Vec<SecretSetting>,
}

impl StoredSettings {
    /// Names of all settings, whether their value could be read or not.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str).chain(self.unread())
    }

    /// Names of the settings whose secret could not be read.
    pub fn unread(&self) -> impl Iterator<Item = &str> {
        let settings = self.secrets.iter().map(|secret| secret.setting.as_str());
        settings.filter(|setting| !self.values.contains_key(*setting))
    }
}

/// Version of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Current,
    /// The version that a rotation under way has created, and perhaps set in the database already.
    Pending,
}

impl Stage {
    fn label(self) -> &'static str {
        match self {
            Stage::Current => "AWSCURRENT",
            Stage::Pending => "AWSPENDING",
        }
    }
}

impl Parameters {
    /// Reader of the parameters below `path`, such as `/salebell/prod`.
    pub fn new(config: &SdkConfig, path: &str) -> Parameters {
        Parameters {
            ssm: aws_sdk_ssm::Client::new(config),
            secrets: aws_sdk_secretsmanager::Client::new(config),
            path: path.trim_end_matches('/').to_owned(),
        }
    }

    /// Path of the parameters.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Reads all parameters and the secrets that they name. Returns what could be read, and for each failure a line
    /// with the reason, without a value.
    pub async fn read(&self) -> (StoredSettings, Vec<String>) {
        let (mut settings, mut problems) = (StoredSettings::default(), Vec::new());
        // Secrets are read while later pages are still being listed.
        let (named, mut ids) = mpsc::unbounded_channel();
        let ids = stream::poll_fn(move |context| ids.poll_recv(context));
        let parameters = async { self.read_parameters(named).await };
        let secrets = async { Ok(self.read_texts(ids, Stage::Current).await) };
        let (parameters, texts) = match tokio::try_join!(parameters, secrets) {
            Ok(read) => read,
            Err(problem) => return (settings, vec![problem]),
        };
        for (name, value) in parameters {
            match self.understand(&name, &value) {
                // Ignored: it is not below the path.
                None => {}
                Some(Ok((setting, Some(secret)))) => settings.secrets.push(SecretSetting { setting, secret }),
                Some(Ok((setting, None))) => drop(settings.values.insert(setting, value)),
                Some(Err(problem)) => problems.push(problem),
            }
        }
        if settings.names().next().is_none() && problems.is_empty() {
            problems.push(format!("there is no parameter below {}/", self.path));
        }
        let (values, further) = self.pick_all(&settings.secrets, &texts);
        settings.values.extend(values);
        problems.extend(further);
        (settings, problems)
    }

    /// Setting of a parameter, and the secret that it names, if any. `None` if it is not below the path.
    fn understand(
        &self,
        name: &str,
        value: &SecretString,
    ) -> Option<Result<(String, Option<SecretName>), String>> {
        let below = name.strip_prefix(&self.path).and_then(|name| name.strip_prefix('/'))?;
        let setting = below.replace('/', ".");
        if below.contains('.') {
            return Some(Err(format!("{name} has a dot in its name")));
        }
        if !value.expose_secret().starts_with(SECRET_PREFIX) {
            return Some(Ok((setting, None)));
        }
        let secret = value.expose_secret().parse().map_err(|problem| format!("{name} {problem}"));
        Some(secret.map(|secret| (setting, Some(secret))))
    }

    /// Reads all pages of parameters. Sends the id of each secret as it finds it, possibly more than once.
    async fn read_parameters(
        &self,
        named: mpsc::UnboundedSender<String>,
    ) -> Result<Vec<(String, SecretString)>, String> {
        let (mut found, mut next) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let page = until_reached(|| {
                let request = self.ssm.get_parameters_by_path().path(&self.path);
                request
                    .recursive(true)
                    .with_decryption(true)
                    .max_results(PAGE)
                    .set_next_token(next.clone())
                    .send()
            });
            let page = page.await.map_err(|error| {
                format!("the parameters below {}/ cannot be read: {}", self.path, aws::reason(&error))
            })?;
            for parameter in page.parameters.unwrap_or_default() {
                if let (Some(name), Some(value)) = (parameter.name, parameter.value) {
                    let value = SecretString::from(value);
                    if let Some(Ok((_, Some(secret)))) = self.understand(&name, &value) {
                        // The receiver lives as long as this future.
                        let _ = named.send(secret.id);
                    }
                    found.push((name, value));
                }
            }
            if found.len() > MAX_PARAMETERS {
                break;
            }
            next = page.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(found);
            }
        }
        Err(format!("below {}/ are more than {MAX_PARAMETERS} parameters", self.path))
    }

    /// Reads the value of each of these settings at a stage; returns failures as `read` does. A secret is read once, no
    /// matter how many settings refer to it.
    pub async fn read_secrets(
        &self,
        settings: &[SecretSetting],
        stage: Stage,
    ) -> (BTreeMap<String, SecretString>, Vec<String>) {
        let ids: Vec<String> = settings.iter().map(|setting| setting.secret.id.clone()).collect();
        self.pick_all(settings, &self.read_texts(stream::iter(ids), stage).await)
    }

    /// Texts of secrets by id; each is read once, even if it is named several times.
    async fn read_texts(&self, ids: impl Stream<Item = String>, stage: Stage) -> Texts {
        let mut seen = BTreeSet::new();
        ids.filter(|id| ready(seen.insert(id.clone())))
            .map(|id| async move {
                let text = self.read_secret(&id, stage).await;
                (id, text)
            })
            .buffer_unordered(SECRETS_AT_ONCE)
            .collect()
            .await
    }

    /// Picks the value of each setting from the text of its secret; for each one without a value, returns a line with
    /// the reason.
    fn pick_all(
        &self,
        settings: &[SecretSetting],
        texts: &Texts,
    ) -> (BTreeMap<String, SecretString>, Vec<String>) {
        let (mut values, mut problems) = (BTreeMap::new(), Vec::new());
        for SecretSetting { setting, secret } in settings {
            let value = match &texts[&secret.id] {
                Ok(text) => pick(text, secret),
                Err(problem) => Err(problem.clone()),
            };
            match value {
                Ok(value) => drop(values.insert(setting.clone(), value)),
                Err(problem) => problems.push(format!(
                    "{}/{} is {secret}, and {problem}",
                    self.path,
                    setting.replace('.', "/")
                )),
            }
        }
        (values, problems)
    }

    async fn read_secret(&self, id: &str, stage: Stage) -> Result<SecretString, String> {
        let answer = until_reached(|| {
            self.secrets.get_secret_value().secret_id(id).version_stage(stage.label()).send()
        });
        let answer = answer.await.map_err(|error| match error.code() {
            Some("ResourceNotFoundException") => "there is no such secret".to_owned(),
            _ => aws::reason(&error),
        })?;
        answer.secret_string.map(SecretString::from).ok_or_else(|| "it holds bytes, and no text".to_owned())
    }
}

/// The value that a name refers to in the text of its secret.
fn pick(text: &SecretString, name: &SecretName) -> Result<SecretString, String> {
    let Some(key) = &name.key else { return Ok(text.clone()) };
    // The error of serde is dropped: it may quote parts of the secret.
    let object: BTreeMap<String, serde_json::Value> = serde_json::from_str(text.expose_secret())
        .map_err(|_| "the secret is no JSON object, so it has no keys".to_owned())?;
    match object.get(key) {
        Some(serde_json::Value::String(value)) => Ok(value.clone().into()),
        Some(serde_json::Value::Null) | None => Err("the secret has no such key".to_owned()),
        Some(other) => Ok(other.to_string().into()),
    }
}

/// Makes a call, and repeats it while AWS cannot be reached. This covers failures to fetch credentials, which come
/// before the SDK's own retries.
async fn until_reached<T, E, F>(call: impl Fn() -> F) -> Result<T, SdkError<E, HttpResponse>>
where
    F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
{
    let mut round = 1;
    loop {
        match call().await {
            Err(error) if aws::was_not_reached(&error) && round < ROUNDS => {
                tokio::time::sleep((PAUSE * round).mul_f64(super::jitter())).await;
                round += 1;
            }
            end => return end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_a_secret_is_selected_and_its_value_is_not_shown() {
        let name = |text: &str| text.parse::<SecretName>().unwrap();
        let secret = SecretString::from(r#"{"username": "salebell", "password": "hunter2", "port": 5432}"#);
        let is =
            |name_text: &str| pick(&secret, &name(name_text)).map(|value| value.expose_secret().to_owned());
        assert_eq!(is("secret:a#password").unwrap(), "hunter2");
        assert_eq!(is("secret:a#port").unwrap(), "5432");
        assert_eq!(is("secret:a").unwrap(), secret.expose_secret());
        assert!(is("secret:a#dbname").unwrap_err().contains("no such key"));
        let problem = pick(&"hunter2".into(), &name("secret:a#password")).unwrap_err();
        assert!(problem.contains("no JSON object") && !problem.contains("hunter2"), "{problem}");
    }
}
