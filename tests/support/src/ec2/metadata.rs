//! The instance metadata service, version 2, as each instance sees it.
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html>

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use super::{World, fault};

const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN: &str = "x-aws-ec2-metadata-token";
pub const REGION: &str = "eu-central-1";
pub const ZONE: &str = "eu-central-1a";
/// Role of every instance, and its first key.
const ROLE: &str = "salebell";
pub const ACCESS_KEY: &str = "ASIAEXAMPLE";
pub const SESSION_TOKEN: &str = "a-session-of-the-role";

/// A temporary key of the role.
#[derive(Clone, Debug)]
pub struct RoleKey {
    pub id: String,
    pub secret: String,
    pub session: String,
    pub end: DateTime<Utc>,
}

/// Keys of the role, the newest last.
#[derive(Clone, Debug)]
pub struct RoleKeys(Vec<RoleKey>);

impl Default for RoleKeys {
    fn default() -> RoleKeys {
        RoleKeys(vec![RoleKey {
            id: ACCESS_KEY.to_owned(),
            secret: "secret".to_owned(),
            session: SESSION_TOKEN.to_owned(),
            end: "2099-01-01T00:00:00Z".parse().unwrap(),
        }])
    }
}

impl RoleKeys {
    pub fn newest(&self) -> &RoleKey {
        self.0.last().unwrap()
    }

    pub fn find(&self, id: &str) -> Option<&RoleKey> {
        self.0.iter().find(|key| key.id == id)
    }

    /// Gives the role a new key, valid for `lives`. Earlier keys stay valid until their own expiry.
    pub fn change(&mut self, lives: TimeDelta) -> RoleKey {
        let number = self.0.len();
        let key = RoleKey {
            id: format!("{ACCESS_KEY}{number}"),
            // Contains characters that a URL must escape, as AWS's own secrets do.
            secret: format!("se+cr/et-{number}"),
            session: format!("{SESSION_TOKEN}/{number}+=="),
            end: now() + lives,
        };
        self.0.push(key.clone());
        key
    }
}

#[expect(clippy::disallowed_methods, reason = "AWS has its own clock")]
fn now() -> DateTime<Utc> {
    Utc::now()
}

type Shared = Arc<Mutex<World>>;

/// Oldest version, which requires no token. cloud-init uses it where it sees no EC2 hardware, as in a container.
const WITHOUT_TOKEN: &str = "/2009-04-04/";

/// Router of the metadata of one instance.
pub fn router(world: Shared, id: &str) -> Router {
    let id = id.to_owned();
    Router::new()
        .fallback(async move |State(world): State<Shared>, request: Request| {
            answer(world, id.clone(), request).await
        })
        .with_state(world)
}

/// Router that identifies the instance by the address of the request.
pub fn router_by_address(world: Shared) -> Router {
    let by_address =
        async |State(world): State<Shared>, ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request| {
            let id = world.lock().unwrap().addresses.get(&peer.ip()).cloned();
            match id {
                Some(id) => answer(world, id, request).await,
                None => StatusCode::NOT_FOUND.into_response(),
            }
        };
    Router::new().fallback(by_address).with_state(world)
}

async fn answer(world: Shared, id: String, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let (method, headers) = (request.method().clone(), request.headers().clone());
    let due = {
        let mut world = world.lock().unwrap();
        world.requests.push(format!("{method} {path}"));
        let outage = world.metadata_outage.filter(|_| path.starts_with(world.outage_below));
        world.metadata_faults.pop_front().or(outage)
    };
    if let Some(status) = fault(due).await {
        return status.into_response();
    }
    let mut world = world.lock().unwrap();
    world.group.pass(Instant::now());
    match (method, path.as_str()) {
        (Method::PUT, "/latest/api/token") => give_token(&mut world, &id, &headers),
        (Method::GET, path) if path.starts_with(WITHOUT_TOKEN) => read(&world, &id, path),
        (Method::GET | Method::HEAD, path) => {
            if is_good(&world, &id, &headers) {
                read(&world, &id, path)
            } else {
                world.tokens_refused += 1;
                StatusCode::UNAUTHORIZED.into_response()
            }
        }
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

fn give_token(world: &mut World, id: &str, headers: &HeaderMap) -> Response {
    // A request through a proxy does not come from the instance.
    if headers.contains_key("x-forwarded-for") {
        return StatusCode::FORBIDDEN.into_response();
    }
    let ttl = headers.get(TTL).and_then(|ttl| ttl.to_str().ok()?.parse::<u64>().ok());
    let Some(ttl) = ttl.filter(|ttl| (1..=21_600).contains(ttl)) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let lives = world.longest_token.unwrap_or(Duration::MAX).min(Duration::from_secs(ttl));
    let token = format!("{}==", uuid::Uuid::now_v7().simple());
    world.tokens_asked += 1;
    world.tokens.insert(token.clone(), (id.to_owned(), Instant::now() + lives));
    ([(TTL, ttl.min(lives.as_secs().max(1)).to_string())], token).into_response()
}

fn is_good(world: &World, id: &str, headers: &HeaderMap) -> bool {
    let token = headers.get(TOKEN).and_then(|token| world.tokens.get(token.to_str().ok()?));
    token.is_some_and(|(whose, until)| whose == id && Instant::now() < *until)
}

fn read(world: &World, id: &str, path: &str) -> Response {
    let instance = world.group.instance(id);
    // `latest`, or one of the versions, which are dates.
    let Some((_, path)) = path.trim_start_matches('/').split_once('/') else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let found = match path {
        "user-data" => world.user_data.clone(),
        // A subset: the entries that cloud-init needs.
        "meta-data/" => Some("instance-id\nlocal-hostname".to_owned()),
        // Requested where cloud-init sees EC2 hardware.
        "dynamic/instance-identity" => Some("document".to_owned()),
        "meta-data/local-hostname" => Some(format!("{id}.{REGION}.compute.internal")),
        "meta-data/instance-id" => Some(id.to_owned()),
        "meta-data/placement/region" => Some(REGION.to_owned()),
        "meta-data/placement/availability-zone" => Some(instance.zone.clone()),
        "meta-data/autoscaling/target-lifecycle-state" => Some(instance.target().to_owned()),
        "meta-data/spot/instance-action" => instance.spot_action.clone(),
        "meta-data/events/recommendations/rebalance" => instance.rebalance.clone(),
        "meta-data/tags/instance" | "meta-data/tags/instance/" => {
            Some(instance.tags.keys().cloned().collect::<Vec<_>>().join("\n"))
        }
        "meta-data/iam/security-credentials" | "meta-data/iam/security-credentials/" => {
            (!world.role_is_late).then(|| ROLE.to_owned())
        }
        _ => match path.strip_prefix("meta-data/tags/instance/") {
            Some(key) => instance.tags.get(key).cloned(),
            None => return read_document(world, id, path),
        },
    };
    match found {
        Some(text) => ([(header::CONTENT_TYPE, "text/plain")], text).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn read_document(world: &World, id: &str, path: &str) -> Response {
    let document = match path {
        "dynamic/instance-identity/document" => json!({
            "accountId": "123456789012", "architecture": "arm64", "billingProducts": null,
            "availabilityZone": world.group.instance(id).zone,
            "imageId": "ami-0abcdef1234567890", "instanceId": id, "instanceType": "t4g.medium",
            "pendingTime": "2026-11-20T00:00:00Z", "privateIp": "10.77.0.11", "region": REGION,
            "version": "2017-09-30",
        }),
        "meta-data/iam/security-credentials/salebell"
        | "meta-data/iam/security-credentials-extended/salebell"
            if !world.role_is_late =>
        {
            let key = world.role_keys.newest();
            json!({
                "Code": "Success", "LastUpdated": "2026-11-20T00:00:00Z", "Type": "AWS-HMAC",
                "AccessKeyId": key.id, "SecretAccessKey": key.secret, "Token": key.session,
                "AccountId": "123456789012",
                "Expiration": key.end.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            })
        }
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    // As text, like every answer of this service.
    ([(header::CONTENT_TYPE, "text/plain")], document.to_string()).into_response()
}
