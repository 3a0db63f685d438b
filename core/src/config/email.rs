//! `[email]`: the server that sends our mail.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use lettre::Address;
use lettre::message::Mailbox;
use secrecy::SecretString;
use url::{Host, Url};

use super::reader::Reader;
use crate::domain::mail_domain;

/// `[email]`: the mail server, and how it is reached.
#[derive(Clone, Debug)]
pub struct EmailConfig {
    /// `None` without `email.smtp_url`: no mail is sent.
    pub server: Option<MailServer>,
    /// `email.timeout_s`: timeout of one whole message.
    pub timeout: Duration,
}

/// Server that relays our mail.
#[derive(Clone, Debug)]
pub struct MailServer {
    /// Host from `email.smtp_url`. The port comes from the same setting, or is the standard one for `tls`.
    pub host: String,
    pub port: u16,
    pub tls: MailTls,
    /// User and password, from `email.smtp_url` or from `email.user` and `email.password`.
    pub credentials: Option<(String, SecretString)>,
    /// `email.from`: sender.
    pub from: Mailbox,
    /// `email.ca_file`: certificates (PEM) of authorities that are trusted in addition to the system's.
    pub ca_file: Option<PathBuf>,
}

/// Encryption of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailTls {
    /// `smtps://`: TLS from the first byte.
    FromTheStart,
    /// `smtp://`, and STARTTLS with a valid certificate.
    Required,
    /// `smtp://`, and STARTTLS with any certificate if the server offers it.
    WhenOffered,
    Off,
}

/// Value of `email.starttls`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StartTls {
    /// Same as `required` with a password, and as `offered` without one.
    Auto,
    Required,
    Offered,
    Off,
}

impl FromStr for StartTls {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(StartTls::Auto),
            "required" => Ok(StartTls::Required),
            "offered" => Ok(StartTls::Offered),
            "off" => Ok(StartTls::Off),
            _ => Err("must be auto, required, offered or off"),
        }
    }
}

impl EmailConfig {
    pub(super) fn read(r: &mut Reader) -> Option<EmailConfig> {
        let url = r.optional("email.smtp_url").filter(|url| !url.is_empty());
        let user = r.optional("email.user").filter(|user| !user.is_empty());
        let password = r.optional("email.password").filter(|password| !password.is_empty());
        let from = r.optional("email.from").filter(|from| !from.is_empty());
        let starttls: StartTls = r.get("email.starttls")?;
        let ca_file = r.optional("email.ca_file").map(PathBuf::from);
        let timeout = r.seconds("email.timeout_s")?;
        if timeout.is_zero() {
            r.problem("email.timeout_s", "must be at least 1");
        }
        let off = Some(EmailConfig { server: None, timeout });
        let Some(url) = url else { return off };
        let from: Option<Mailbox> = match from.as_deref().map(str::parse) {
            Some(Ok(Mailbox { name, email })) => {
                let domain = mail_domain::to_ascii(email.domain()).ok();
                match domain.and_then(|domain| Address::new(email.user(), domain).ok()) {
                    Some(email) => Some(Mailbox { name, email }),
                    None => {
                        r.problem("email.from", "has a domain that cannot be");
                        None
                    }
                }
            }
            Some(Err(_)) => {
                r.problem("email.from", "must be an address such as Salebell <salebell@example.com>");
                None
            }
            None => {
                r.problem("email.from", "is required with email.smtp_url");
                None
            }
        };
        let Some(url) = read_url(&url) else {
            let form = "must be smtp://host:port or smtps://host:port, with user:password@ before the host if need be";
            r.problem("email.smtp_url", form);
            return off;
        };
        let credentials = read_credentials(r, &url, user, password);
        let in_the_clear = matches!(starttls, StartTls::Offered | StartTls::Off);
        if url.scheme() == "smtp" && credentials.is_some() && in_the_clear && !is_loopback(&host_of(&url)) {
            r.problem("email.starttls", "must be required where a password is sent, but for loopback");
        }
        let tls = match starttls {
            _ if url.scheme() == "smtps" => MailTls::FromTheStart,
            StartTls::Required => MailTls::Required,
            StartTls::Auto if credentials.is_some() => MailTls::Required,
            StartTls::Auto | StartTls::Offered => MailTls::WhenOffered,
            StartTls::Off => MailTls::Off,
        };
        // Ports of RFC 6409 and RFC 8314, and that of a relay without a password.
        let port = match tls {
            MailTls::FromTheStart => 465,
            _ if credentials.is_some() => 587,
            _ => 25,
        };
        let port = url.port().unwrap_or(port);
        let host = host_of(&url);
        let server = from.map(|from| MailServer { host, port, tls, credentials, from, ca_file });
        Some(EmailConfig { server, timeout })
    }
}

fn read_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    (matches!(url.scheme(), "smtp" | "smtps") && plain && !host_of(&url).is_empty()).then_some(url)
}

/// Host of a URL; empty if it has none, or an impossible one.
fn host_of(url: &Url) -> String {
    match url.host() {
        Some(Host::Ipv6(ip)) => ip.to_string(),
        // In schemes that it does not know, the library percent-encodes non-ASCII characters.
        Some(Host::Domain(name)) => {
            let name = percent_decoded(name).unwrap_or_default();
            mail_domain::to_ascii(&name).map(std::borrow::Cow::into_owned).unwrap_or_default()
        }
        Some(host) => host.to_string(),
        None => String::new(),
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    // The form decoder gives `+` and `&` a meaning, which they do not have in an address.
    let form = text.replace('+', "%2B").replace('&', "%26");
    url::form_urlencoded::parse(format!("a={form}").as_bytes()).next().map(|(_, text)| text.into_owned())
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn read_credentials(
    r: &mut Reader,
    url: &Url,
    user: Option<String>,
    password: Option<String>,
) -> Option<(String, SecretString)> {
    let in_url = |text: &str| (!text.is_empty()).then(|| percent_decoded(text)).flatten();
    let (url_user, url_password) = (in_url(url.username()), url.password().and_then(in_url));
    for (key, apart, within) in
        [("email.user", &user, &url_user), ("email.password", &password, &url_password)]
    {
        if apart.is_some() && within.is_some() {
            r.problem(key, "is in email.smtp_url too");
        }
    }
    match (user.or(url_user), password.or(url_password)) {
        (Some(user), Some(password)) => Some((user, password.into())),
        (Some(_), None) => {
            r.problem("email.password", "is required with a user");
            None
        }
        (None, Some(_)) => {
            r.problem("email.user", "is required with a password");
            None
        }
        (None, None) => None,
    }
}
