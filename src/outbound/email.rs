//! Client that sends e-mail by SMTP, one message to one recipient at a time:
//! <https://www.rfc-editor.org/rfc/rfc5321>.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lettre::address::Envelope;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment as Part, Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::extension::{ClientId, Extension};
use lettre::{Address, Message};
use secrecy::ExposeSecret;
use tokio::sync::OnceCell;

use crate::config::{self, MailServer, MailTls};
use crate::domain::mail_domain;
use crate::error::connection;

/// Timeout of the server's answer to QUIT. The message has been accepted by then.
const QUIT_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of characters kept of a reason.
const MAX_REASON_CHARS: usize = 500;

/// One message to one recipient.
#[derive(Clone, Debug)]
pub struct Email {
    /// Left part of `Message-ID`, of letters, digits, `-` and `.`. It is the same for every attempt, so that a
    /// receiver can recognise a duplicate.
    pub id: String,
    pub to: Address,
    pub date: DateTime<Utc>,
    pub subject: String,
    pub text: String,
    pub html: String,
    pub attachments: Vec<Attachment>,
}

/// A file attached to a message.
#[derive(Clone, Debug)]
pub struct Attachment {
    pub name: String,
    pub media_type: &'static str,
    pub content: Vec<u8>,
}

/// Why a message was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsent {
    /// Whether another attempt would fail again.
    pub permanent: bool,
    /// Status code of the server's answer, such as 451.
    pub status: Option<u16>,
    /// Reason, for the operator. It may name the recipient.
    reason: String,
}

impl fmt::Display for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Unsent {}

impl Unsent {
    fn new(permanent: bool, status: Option<u16>, reason: impl fmt::Display) -> Unsent {
        let reason = reason.to_string();
        let shown = reason.chars().map(|c| if c.is_control() { ' ' } else { c });
        Unsent { permanent, status, reason: shown.take(MAX_REASON_CHARS).collect() }
    }

    /// Failure before the message was handed over. It is never permanent, since an operator may repair it.
    fn on_the_way(error: lettre::transport::smtp::Error) -> Unsent {
        let status = error.status().map(u16::from);
        match connection::explain(&error, "the mail server") {
            Some(reason) => Unsent::new(false, status, reason),
            None => Unsent::new(false, status, error),
        }
    }

    /// Failure of handing over the message. A refusal is permanent if the server says so, except one that asks for a
    /// log-in (RFC 4954). A client error means an address or a text that this server does not accept.
    fn of_message(error: lettre::transport::smtp::Error) -> Unsent {
        let status = error.status().map(u16::from);
        let of_log_in = matches!(status, Some(530 | 534 | 535 | 538));
        Unsent::new((error.is_permanent() && !of_log_in) || error.is_client(), status, error)
    }

    /// Reason in a form that may be logged: it does not name the recipient.
    pub fn in_short(&self) -> String {
        match self.status {
            Some(status) => format!("the mail server answered {status}"),
            None => self.reason.clone(),
        }
    }
}

/// Client of the mail server. It opens a connection for each message, since there are few.
pub struct Mailer {
    settings: config::EmailConfig,
    /// Created on first use: reading the system's certificates would slow down every start.
    tls: OnceCell<TlsParameters>,
}

impl Mailer {
    pub fn new(settings: &config::EmailConfig) -> Mailer {
        Mailer { settings: settings.clone(), tls: OnceCell::new() }
    }

    /// Whether a mail server is configured.
    pub fn is_on(&self) -> bool {
        self.settings.server.is_some()
    }

    /// Sends a message within `email.timeout_s`. After a timeout it may have arrived nevertheless.
    ///
    /// # Errors
    /// Mail is off, or the server is unavailable or refuses the message.
    pub async fn send(&self, email: &Email) -> Result<(), Unsent> {
        let Some(server) = &self.settings.server else {
            return Err(Unsent::new(true, None, "mail is off: email.smtp_url is not set"));
        };
        let lasting = |error: &dyn fmt::Display| Unsent::new(true, None, error);
        let to = with_ascii_domain(&email.to).map_err(|error| lasting(&error))?;
        let from = &server.from.email;
        let message = build(email, &to, &server.from).map_err(|error| lasting(&error))?;
        let envelope =
            Envelope::new(Some(from.clone()), vec![to.clone()]).map_err(|error| lasting(&error))?;
        let limit = self.settings.timeout;
        let sending = async {
            let mut connection = self.connect(server).await?;
            if !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
                check_local_parts(&to, from)?;
            }
            connection.send(&envelope, &message.formatted()).await.map_err(Unsent::of_message)?;
            Ok(connection)
        };
        let sent = tokio::time::timeout(limit, sending).await;
        let mut connection = sent.unwrap_or_else(|_| {
            Err(Unsent::new(false, None, format!("the mail server has not answered within {limit:?}")))
        })?;
        let _ = tokio::time::timeout(QUIT_TIMEOUT, connection.quit()).await;
        Ok(())
    }

    /// Connects, encrypts and authenticates as configured.
    async fn connect(&self, server: &MailServer) -> Result<AsyncSmtpConnection, Unsent> {
        let name = ClientId::default();
        let wrapped = match server.tls {
            MailTls::FromTheStart => Some(self.tls(server).await?),
            _ => None,
        };
        let address = (server.host.as_str(), server.port);
        let connecting =
            AsyncSmtpConnection::connect_tokio1(address, Some(self.settings.timeout), &name, wrapped, None);
        let mut connection = connecting.await.map_err(Unsent::on_the_way)?;
        let upgrade = match server.tls {
            MailTls::FromTheStart | MailTls::Off => false,
            MailTls::WhenOffered => connection.can_starttls(),
            MailTls::Required if connection.can_starttls() => true,
            MailTls::Required => {
                connection.abort().await;
                return Err(Unsent::new(
                    false,
                    None,
                    "the mail server offers no STARTTLS, which is required",
                ));
            }
        };
        if upgrade {
            let tls = self.tls(server).await?;
            connection.starttls(tls, &name).await.map_err(Unsent::on_the_way)?;
        }
        if let Some((user, password)) = &server.credentials {
            let credentials = Credentials::new(user.clone(), password.expose_secret().to_owned());
            if let Err(error) = connection.auth(DEFAULT_MECHANISMS, &credentials).await {
                connection.abort().await;
                return Err(Unsent::on_the_way(error));
            }
        }
        Ok(connection)
    }

    async fn tls(&self, server: &MailServer) -> Result<TlsParameters, Unsent> {
        let make = async || {
            let mut tls = TlsParameters::builder(server.host.clone());
            if let Some(path) = &server.ca_file {
                let invalid = |error: &dyn fmt::Display| {
                    Unsent::new(false, None, format!("email.ca_file {}: {error}", path.display()))
                };
                let pem = tokio::fs::read(path).await.map_err(|error| invalid(&error))?;
                tls = tls.add_root_certificate(Certificate::from_pem(&pem).map_err(|error| invalid(&error))?);
            }
            // Opportunistic TLS: an attacker who could forge a certificate could as well hide the offer of STARTTLS:
            // https://www.rfc-editor.org/rfc/rfc7435
            let unchecked = server.tls == MailTls::WhenOffered;
            tls.dangerous_accept_invalid_certs(unchecked).build().map_err(Unsent::on_the_way)
        };
        self.tls.get_or_try_init(make).await.cloned()
    }
}

/// The same mailbox in the form that every server accepts.
fn with_ascii_domain(address: &Address) -> Result<Address, String> {
    let domain = mail_domain::to_ascii(address.domain())
        .map_err(|_| "the address has a domain that cannot be".to_owned())?;
    Address::new(address.user(), domain).map_err(|error| error.to_string())
}

/// Checks the local parts, for a server without SMTPUTF8 (RFC 6531). Only the domain has an ASCII form: a changed
/// local part is another mailbox, possibly another person's.
///
/// # Errors
/// One of the local parts is not ASCII.
fn check_local_parts(to: &Address, from: &Address) -> Result<(), Unsent> {
    let refuse = |permanent, whose| {
        let problem = "has letters beyond ASCII before the @, and the mail server offers no SMTPUTF8";
        Err(Unsent::new(permanent, None, format!("{whose} {problem}")))
    };
    match (to.user().is_ascii(), from.user().is_ascii()) {
        (false, _) => refuse(true, "the recipient's address"),
        // The operator may choose another sender.
        (_, false) => refuse(false, "email.from"),
        _ => Ok(()),
    }
}

/// Message as it is sent: text and HTML as alternatives, and the attachments.
fn build(
    email: &Email,
    to: &Address,
    from: &Mailbox,
) -> Result<Message, Box<dyn std::error::Error + Send + Sync>> {
    // The library encodes some control characters and panics on others.
    let names = email.attachments.iter().map(|attachment| &attachment.name).chain(&from.name);
    if names.chain([&email.id, &email.subject]).any(|text| text.contains(char::is_control)) {
        return Err("a header may hold no control characters".into());
    }
    let mut parts = MultiPart::mixed().multipart(
        MultiPart::alternative()
            .singlepart(SinglePart::plain(email.text.clone()))
            .singlepart(SinglePart::html(email.html.clone())),
    );
    for Attachment { name, media_type, content } in &email.attachments {
        let part = Part::new(name.clone()).body(content.clone(), ContentType::parse(media_type)?);
        parts = parts.singlepart(part);
    }
    // Keeps vacation responders from answering: https://www.rfc-editor.org/rfc/rfc3834
    let automatic =
        HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned());
    let message = Message::builder()
        .message_id(Some(format!("<{}@{}>", email.id, from.email.domain())))
        .date(email.date.into())
        .from(from.clone())
        .to(to.clone().into())
        .subject(email.subject.clone())
        .raw_header(automatic)
        .multipart(parts)?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn email(to: &str, subject: &str) -> Email {
        Email {
            id: "a-1".to_owned(),
            to: to.parse().unwrap(),
            date: DateTime::from_timestamp(0, 0).unwrap(),
            subject: subject.to_owned(),
            text: "text".to_owned(),
            html: "<p>html</p>".to_owned(),
            attachments: vec![Attachment {
                name: "ä b.csv".to_owned(),
                media_type: "text/csv",
                content: b"a,b".to_vec(),
            }],
        }
    }

    #[test]
    fn no_inserted_text_makes_a_header() {
        let from: Mailbox = "Bell \"Ö\" <bell@example.com>".parse().unwrap();
        let good = email("anna@example.com", "Größe, \"quoted\" & <so on>");
        let wire = String::from_utf8(build(&good, &good.to, &from).unwrap().formatted()).unwrap();
        assert!(wire.contains("Message-ID: <a-1@example.com>\r\n"), "{wire}");
        assert!(wire.is_ascii(), "{wire}");
        let evil = "hello\r\nBcc: eve@example.com\r\n\r\nbody";
        assert!(build(&email("anna@example.com", evil), &good.to, &from).is_err());
        assert!(build(&Email { id: evil.to_owned(), ..good.clone() }, &good.to, &from).is_err());
        assert!(build(&good, &good.to, &Mailbox::new(Some(evil.to_owned()), from.email.clone())).is_err());
        let mut attached = good.clone();
        attached.attachments[0].name = evil.to_owned();
        assert!(build(&attached, &good.to, &from).is_err());
        for invalid in
            ["anna@example.com\r\nRCPT TO:<eve@example.com>", "anna@example.com>\r\n", "a b@example.com"]
        {
            assert!(invalid.parse::<Address>().is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn a_reason_is_one_line_and_not_long() {
        let reason = Unsent::new(true, Some(550), format!("no\r\n{}", "x".repeat(9_999))).to_string();
        assert_eq!((reason.chars().count(), &reason[..5]), (MAX_REASON_CHARS, "no  x"));
    }
}
