//! The settings of an environment: every parameter below its path in Parameter Store, and the secrets named there.

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

/// The most that Parameter Store gives at once.
const PAGE: i32 = 10;
/// Far more than there are settings: a path that holds more is the wrong one.
const MAX_PARAMETERS: usize = 2_000;
/// Pages may be empty and still have a next one.
const MAX_PAGES: usize = 1_000;
/// Secrets that are read at once.
const SECRETS_AT_ONCE: usize = 4;
/// How often AWS is tried where it was not reached at all.
const ROUNDS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// Reads the parameters below one path, and secrets. Made of settings that are not secret; asks nothing until it reads.
pub struct Parameters {
    ssm: aws_sdk_ssm::Client,
    secrets: aws_sdk_secretsmanager::Client,
    /// Without a slash at its end.
    path: String,
}

/// Texts of secrets by their ids, or why one cannot be read.
type Texts = BTreeMap<String, Result<SecretString, String>>;

/// What was read.
#[derive(Default)]
pub struct StoredSettings {
    /// By the setting's name, such as `database.url`; a secret's value, where a parameter names one.
    pub values: BTreeMap<String, SecretString>,
    /// Which of them came from which secret.
    pub secrets: Vec<SecretSetting>,
}

impl StoredSettings {
    /// The names of all that there is.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str).chain(self.unread())
    }

    /// Those whose secret could not be read.
    pub fn unread(&self) -> impl Iterator<Item = &str> {
        let settings = self.secrets.iter().map(|secret| secret.setting.as_str());
        settings.filter(|setting| !self.values.contains_key(*setting))
    }
}

/// Which version of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Current,
    /// What a rotation that is under way has made, and perhaps set in the database already.
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
    /// `path` is such as `/salebell/prod`.
    pub fn new(config: &SdkConfig, path: &str) -> Parameters {
        Parameters {
            ssm: aws_sdk_ssm::Client::new(config),
            secrets: aws_sdk_secretsmanager::Client::new(config),
            path: path.trim_end_matches('/').to_owned(),
        }
    }

    /// Where they are.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Reads all of them, and the secrets that they name: what could be read, and of everything else a line that says
    /// why not, without a value.
    pub async fn read(&self) -> (StoredSettings, Vec<String>) {
        let (mut settings, mut problems) = (StoredSettings::default(), Vec::new());
        // A secret is read beside the pages that follow the one that names it.
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
                // What is not below the path was not asked for.
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

    /// The setting of a parameter, and the secret that it names, if it does. `None`: it is not below our path.
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

    /// Tells the ids of secrets as it comes upon them, perhaps more than once.
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
                        // Who reads them is there for as long as we are.
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

    /// Reads what each of these settings is at this stage, and tells why it could not, as `read` does. A secret is read
    /// once, however many settings it has.
    pub async fn read_secrets(
        &self,
        settings: &[SecretSetting],
        stage: Stage,
    ) -> (BTreeMap<String, SecretString>, Vec<String>) {
        let ids: Vec<String> = settings.iter().map(|setting| setting.secret.id.clone()).collect();
        self.pick_all(settings, &self.read_texts(stream::iter(ids), stage).await)
    }

    /// The texts of secrets, by their ids; each is read once, however often it is named.
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

    /// The value of each setting, of the text of its secret; and of each that has none a line that says why.
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

/// The value that a name means in the text of its secret.
fn pick(text: &SecretString, name: &SecretName) -> Result<SecretString, String> {
    let Some(key) = &name.key else { return Ok(text.clone()) };
    // What serde says of a secret's text may repeat some of it.
    let object: BTreeMap<String, serde_json::Value> = serde_json::from_str(text.expose_secret())
        .map_err(|_| "the secret is no JSON object, so it has no keys".to_owned())?;
    match object.get(key) {
        Some(serde_json::Value::String(value)) => Ok(value.clone().into()),
        Some(serde_json::Value::Null) | None => Err("the secret has no such key".to_owned()),
        Some(other) => Ok(other.to_string().into()),
    }
}

/// Makes a call, and again where nobody was reached: beyond the SDK's own attempts, which need credentials.
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
    fn a_key_of_a_secret_is_picked_and_nothing_of_it_told() {
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
