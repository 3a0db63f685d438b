//! A small EC2 for one group of instances: the metadata service of each instance, and the calls of Auto Scaling that an
//! instance makes, as strict as AWS is. It launches nothing: a test defines its instances.
//!
//! `group.rs` contains the states and no HTTP; `metadata.rs` and `autoscaling.rs` are its two interfaces.

pub mod autoscaling;
pub mod group;
pub mod metadata;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use group::{Group, Hook, Outcome, State};
pub use metadata::{RoleKey, RoleKeys};

/// Fault of the next requests to one interface, instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This status, without a body.
    Status(u16),
    /// No answer for a minute.
    Hang,
}

/// State that the two interfaces share.
#[derive(Default)]
pub struct World {
    pub group: Group,
    /// Tokens of the metadata service → instance and time of expiry.
    tokens: HashMap<String, (String, Instant)>,
    /// Upper bound of a token's lifetime, whatever was requested.
    pub longest_token: Option<Duration>,
    /// Number of requests for a token so far.
    pub tokens_asked: usize,
    /// Number of requests with an unknown or expired token.
    pub tokens_refused: usize,
    /// Descriptions of the requests, as `GET /latest/…` and `Action=… key=value …`.
    pub requests: Vec<String>,
    /// Keys that the instances' role gets.
    pub role_keys: RoleKeys,
    /// Whether the instances have no role yet, as in their first moments.
    pub role_is_late: bool,
    pub metadata_faults: VecDeque<Fault>,
    /// Fault of all requests to the metadata service, until it is removed.
    pub metadata_outage: Option<Fault>,
    /// Prefix of the paths that the outage affects.
    pub outage_below: &'static str,
    /// Instance of each address, if all of them use the same endpoint.
    pub addresses: HashMap<IpAddr, String>,
    pub user_data: Option<String>,
    pub autoscaling_faults: VecDeque<Fault>,
    pub autoscaling_outage: Option<Fault>,
}

/// The running server. It stops when it is dropped.
pub struct Ec2 {
    world: Arc<Mutex<World>>,
    autoscaling: SocketAddr,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Ec2 {
    /// Starts with a group without instances, and serves its Auto Scaling.
    pub async fn start(group: Group) -> Ec2 {
        let world = Arc::new(Mutex::new(World { group, ..World::default() }));
        let (autoscaling, task) = serve(autoscaling::router(world.clone())).await;
        Ec2 { world, autoscaling, tasks: Mutex::new(vec![task]) }
    }

    /// Launches an instance; returns the address of its metadata service.
    pub async fn launch(&self, id: &str) -> String {
        self.world().group.launch(id, Instant::now());
        let (address, task) = serve(metadata::router(self.world.clone(), id)).await;
        self.tasks.lock().unwrap().push(task);
        format!("http://{address}")
    }

    /// Serves the metadata of all instances that have an address.
    pub fn serve_metadata(&self, listener: TcpListener) {
        let router = metadata::router_by_address(self.world.clone());
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        let task = tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
        self.tasks.lock().unwrap().push(task);
    }

    /// Launches an instance that has this address.
    pub fn launch_at(&self, id: &str, address: IpAddr) {
        let mut world = self.world();
        world.group.launch(id, Instant::now());
        world.addresses.insert(address, id.to_owned());
    }

    /// Address at which Auto Scaling listens.
    pub fn autoscaling(&self) -> SocketAddr {
        self.autoscaling
    }

    /// Environment of a process on the instance that directs it to this server instead of AWS.
    pub fn environment(&self, metadata: &str) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.to_owned()),
            ("AWS_ENDPOINT_URL_AUTO_SCALING", format!("http://{}", self.autoscaling)),
        ]
    }

    /// Number of Auto Scaling calls with this action so far.
    pub fn calls(&self, action: &str) -> usize {
        self.world().requests.iter().filter(|request| request.starts_with(action)).count()
    }

    /// The current state.
    pub fn world(&self) -> MutexGuard<'_, World> {
        let mut world = self.world.lock().unwrap();
        world.group.pass(Instant::now());
        world
    }

    /// The role's key with this id, if it is valid at the moment.
    pub fn find_key(&self, id: &str) -> Option<RoleKey> {
        self.world().role_keys.find(id).cloned()
    }

    /// Invalidates the tokens issued so far.
    pub fn forget_tokens(&self) {
        self.world().tokens.clear();
    }
}

impl Drop for Ec2 {
    fn drop(&mut self) {
        self.tasks.get_mut().unwrap().iter().for_each(JoinHandle::abort);
    }
}

async fn serve(router: Router) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (address, tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }))
}

/// Status of the fault, if one is due; waits if the fault is a hang.
async fn fault(due: Option<Fault>) -> Option<axum::http::StatusCode> {
    match due? {
        Fault::Status(status) => Some(axum::http::StatusCode::from_u16(status).unwrap()),
        Fault::Hang => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Some(axum::http::StatusCode::GATEWAY_TIMEOUT)
        }
    }
}
