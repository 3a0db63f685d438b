//! A stand-in for RDS with IAM database authentication, in front of a real PostgreSQL: it performs the beginning of the
//! protocol over TLS, requests the password in clear text, and checks the token as RDS does, with code of its own.
//! Clients that pass are connected to PostgreSQL, which must trust connections from loopback.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// <https://www.postgresql.org/docs/current/protocol-message-formats.html>
const SSL_REQUEST: u32 = 80_877_103;
const VERSION_3: u32 = 196_608;
const ASK_FOR_PASSWORD: &[u8] = &[b'R', 0, 0, 0, 8, 0, 0, 0, 3];

/// An access key as IAM knows it.
pub struct Key {
    pub secret: String,
    /// Session token that must accompany the key.
    pub session: Option<String>,
    pub end: Option<DateTime<Utc>>,
}

type FindKey = dyn Fn(&str) -> Option<Key> + Send + Sync;

/// One host of the database.
pub struct Rds {
    pub port: u16,
    rules: Arc<Rules>,
}

struct Rules {
    /// The `host:port` that a token must name.
    place: String,
    region: &'static str,
    /// The port of the real PostgreSQL.
    target: u16,
    clock: Box<dyn Fn() -> DateTime<Utc> + Send + Sync>,
    keys: Box<FindKey>,
    seen: Mutex<Seen>,
}

/// Log-ins so far, and the rules that a test changes meanwhile.
#[derive(Default)]
pub struct Seen {
    /// Users with the role `rds_iam`.
    pub users: Vec<String>,
    /// Accepted tokens, in order.
    pub taken: Vec<String>,
    /// Reasons of the refusals.
    pub refused: Vec<String>,
    /// How far this host's clock is ahead of the test's.
    pub ahead: TimeDelta,
}

impl Rds {
    /// Starts on 127.0.0.1 as `host`.
    pub async fn start(
        host: &str,
        region: &'static str,
        target: u16,
        clock: impl Fn() -> DateTime<Utc> + Send + Sync + 'static,
        keys: impl Fn(&str) -> Option<Key> + Send + Sync + 'static,
    ) -> Rds {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Mutex::new(Seen { users: vec!["app".to_owned()], ..Seen::default() });
        let (clock, keys) = (Box::new(clock), Box::new(keys));
        let rules = Rules { place: format!("{host}:{port}"), region, target, clock, keys, seen };
        let (rules, acceptor) = (Arc::new(rules), acceptor());
        let of_all = rules.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (rules, acceptor) = (of_all.clone(), acceptor.clone());
                // Connections break when tests end.
                tokio::spawn(async move { drop(rules.serve(client, acceptor).await) });
            }
        });
        Rds { port, rules }
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.rules.seen.lock().unwrap()
    }

    /// The last accepted token.
    pub fn last(&self) -> String {
        self.seen().taken.last().cloned().unwrap_or_default()
    }
}

fn acceptor() -> TlsAcceptor {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap().der().clone();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    Arc::new(config).into()
}

impl Rules {
    async fn serve(&self, mut client: TcpStream, acceptor: TlsAcceptor) -> io::Result<()> {
        if (client.read_u32().await?, client.read_u32().await?) != (8, SSL_REQUEST) {
            self.seen.lock().unwrap().refused.push("no encryption".to_owned());
            return refuse(&mut client, "no pg_hba.conf entry, no encryption").await;
        }
        client.write_all(b"S").await?;
        let mut client = acceptor.accept(client).await?;
        let length = client.read_u32().await?;
        let mut startup = vec![0; length as usize - 4];
        client.read_exact(&mut startup).await?;
        assert_eq!(startup[..4], VERSION_3.to_be_bytes());
        let parameters: Vec<&[u8]> = startup[4..].split(|byte| *byte == 0).collect();
        let user = parameters.chunks(2).find(|pair| pair[0] == b"user").unwrap()[1];
        let user = String::from_utf8(user.to_vec()).unwrap();
        client.write_all(ASK_FOR_PASSWORD).await?;
        client.flush().await?;
        assert_eq!(client.read_u8().await?, b'p');
        let mut password = vec![0; client.read_u32().await? as usize - 4];
        client.read_exact(&mut password).await?;
        assert_eq!(password.pop(), Some(0));
        let token = String::from_utf8(password).unwrap();
        let checked = self.check(&user, &token);
        {
            let mut seen = self.seen.lock().unwrap();
            match &checked {
                Ok(()) => seen.taken.push(token),
                Err(reason) => seen.refused.push(reason.clone()),
            }
        }
        if checked.is_err() {
            return refuse(&mut client, &format!("PAM authentication failed for user \"{user}\"")).await;
        }
        let mut server = TcpStream::connect(("127.0.0.1", self.target)).await?;
        server.write_u32(length).await?;
        server.write_all(&startup).await?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
    }

    /// Checks whether `user` may log in with the token.
    fn check(&self, user: &str, token: &str) -> Result<(), String> {
        let now = (self.clock)() + self.seen.lock().unwrap().ahead;
        let (place, query) = token.split_once("/?").ok_or("it is no address")?;
        ensure(place == self.place, || format!("it is for {place}"))?;
        let pairs: BTreeMap<String, String> =
            url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let value = |name: &str| pairs.get(name).map(String::as_str).ok_or(format!("it has no {name}"));
        ensure(value("Action")? == "connect", || "it is to do something else".to_owned())?;
        ensure(value("DBUser")? == user, || "it is another user's".to_owned())?;
        let granted = self.seen.lock().unwrap().users.iter().any(|name| name == user);
        ensure(granted, || format!("{user} may not use tokens"))?;
        ensure(value("X-Amz-Algorithm")? == "AWS4-HMAC-SHA256", || "it is signed otherwise".to_owned())?;
        ensure(value("X-Amz-SignedHeaders")? == "host", || "it signs other headers".to_owned())?;

        let date = value("X-Amz-Date")?;
        let made =
            NaiveDateTime::parse_from_str(date, "%Y%m%dT%H%M%SZ").map_err(|error| error.to_string())?;
        let (made, lives) = (made.and_utc(), value("X-Amz-Expires")?.parse::<i64>().unwrap());
        ensure((1..=900).contains(&lives), || format!("it wants to live for {lives} s"))?;
        ensure(made <= now + TimeDelta::minutes(5), || "it is of the future".to_owned())?;
        ensure(now < made + TimeDelta::seconds(lives), || "it is expired".to_owned())?;

        let credential = value("X-Amz-Credential")?;
        let (id, scope) = credential.split_once('/').ok_or("its scope is none")?;
        let day = &date[..8];
        let region = self.region;
        ensure(scope == format!("{day}/{region}/rds-db/aws4_request"), || format!("it is for {scope}"))?;
        let key = (self.keys)(id).ok_or("nobody has its key")?;
        ensure(key.end.is_none_or(|end| now < end), || "its key is over".to_owned())?;
        let session = pairs.get("X-Amz-Security-Token");
        ensure(session == key.session.as_ref(), || "its session is another".to_owned())?;
        let known = 8 + usize::from(session.is_some());
        ensure(query.split('&').count() == known, || "it has more".to_owned())?;

        // https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
        let mut signed: Vec<String> = pairs
            .iter()
            .filter(|(name, _)| *name != "X-Amz-Signature")
            .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
            .collect();
        signed.sort();
        let request = format!("GET\n/\n{}\nhost:{place}\n\nhost\n{}", signed.join("&"), sha256(b""));
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(request.as_bytes()));
        let secret = format!("AWS4{}", key.secret).into_bytes();
        let steps = [day, region, "rds-db", "aws4_request", &text];
        let signature = steps.into_iter().fold(secret, |key, part| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec()
        });
        ensure(value("X-Amz-Signature")? == hex(&signature), || "its signature is wrong".to_owned())
    }
}

fn ensure(holds: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(reason()) }
}

/// Percent-encodes everything except the unreserved characters of RFC 3986.
fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Refuses a log-in as PostgreSQL does.
async fn refuse(client: &mut (impl AsyncWriteExt + Unpin), message: &str) -> io::Result<()> {
    let fields = [("S", "FATAL"), ("V", "FATAL"), ("C", "28000"), ("M", message)];
    let fields: String = fields.iter().map(|(kind, text)| format!("{kind}{text}\0")).collect();
    client.write_u8(b'E').await?;
    client.write_u32(4 + fields.len() as u32 + 1).await?;
    client.write_all(fields.as_bytes()).await?;
    client.write_u8(0).await?;
    client.shutdown().await
}
