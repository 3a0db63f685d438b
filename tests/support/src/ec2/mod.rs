//! A small EC2 for one group of instances: what each instance asks of its metadata service, and the calls of Auto
//! Scaling that an instance makes, as strict as AWS is. It launches nothing: instances are what a test says they are.
//!
//! `group.rs` holds the states and knows no HTTP, `metadata.rs` and `autoscaling.rs` are its two faces.

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

/// What becomes of the next requests of one face, instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This status, without a body.
    Status(u16),
    /// No answer for a minute.
    Hang,
}

/// What the two faces share.
#[derive(Default)]
pub struct World {
    pub group: Group,
    /// Tokens of the metadata service, by what they are: whose they are and until when they are good.
    tokens: HashMap<String, (String, Instant)>,
    /// How long a token lives, whatever was asked for.
    pub longest_token: Option<Duration>,
    /// Requests for a token so far.
    pub tokens_asked: usize,
    /// Questions with a token that is none, or is good no more.
    pub tokens_refused: usize,
    /// What each request said of itself, as `GET /latest/…` and `Action=… key=value …`.
    pub requests: Vec<String>,
    /// What the role of the instances is given.
    pub role_keys: RoleKeys,
    /// The instances have none yet, as in their first moments.
    pub role_is_late: bool,
    pub metadata_faults: VecDeque<Fault>,
    /// Until it is taken back, all requests of the metadata service.
    pub metadata_outage: Option<Fault>,
    /// Which of them, by how their paths begin.
    pub outage_below: &'static str,
    /// Which instance has which address, where all ask in one place.
    pub addresses: HashMap<IpAddr, String>,
    pub user_data: Option<String>,
    pub autoscaling_faults: VecDeque<Fault>,
    pub autoscaling_outage: Option<Fault>,
}

/// The running server. It ends when it is dropped.
pub struct Ec2 {
    world: Arc<Mutex<World>>,
    autoscaling: SocketAddr,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Ec2 {
    /// A group without instances. Its Auto Scaling listens.
    pub async fn start(group: Group) -> Ec2 {
        let world = Arc::new(Mutex::new(World { group, ..World::default() }));
        let (autoscaling, task) = serve(autoscaling::router(world.clone())).await;
        Ec2 { world, autoscaling, tasks: Mutex::new(vec![task]) }
    }

    /// Launches an instance; returns where its metadata is.
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

    /// Where Auto Scaling listens.
    pub fn autoscaling(&self) -> SocketAddr {
        self.autoscaling
    }

    /// What a process on the instance finds in its environment, so that it comes here and not to AWS.
    pub fn environment(&self, metadata: &str) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.to_owned()),
            ("AWS_ENDPOINT_URL_AUTO_SCALING", format!("http://{}", self.autoscaling)),
        ]
    }

    /// Calls of Auto Scaling so far, by their action.
    pub fn calls(&self, action: &str) -> usize {
        self.world().requests.iter().filter(|request| request.starts_with(action)).count()
    }

    /// The state as it is now.
    pub fn world(&self) -> MutexGuard<'_, World> {
        let mut world = self.world.lock().unwrap();
        world.group.pass(Instant::now());
        world
    }

    /// The keys of the role, as they are in this moment.
    pub fn find_key(&self, id: &str) -> Option<RoleKey> {
        self.world().role_keys.find(id).cloned()
    }

    /// The tokens that are out are good no more.
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

/// A status that is a fault, when one is due; waits where it hangs.
async fn fault(due: Option<Fault>) -> Option<axum::http::StatusCode> {
    match due? {
        Fault::Status(status) => Some(axum::http::StatusCode::from_u16(status).unwrap()),
        Fault::Hang => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Some(axum::http::StatusCode::GATEWAY_TIMEOUT)
        }
    }
}
