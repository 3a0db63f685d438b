//! The receiver of all webhooks. Its records are the basis for judging the notices.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::network::listen;
use super::timeline::{Attempt, Timeline, now};

pub const PORT: u16 = 8000;

/// A watch and a sale.
pub type Pair = (String, String);

#[derive(Default)]
pub struct Heard {
    /// Deliveries by `webhook-id`: their number, and their watch and sale.
    pub notices: BTreeMap<String, (usize, Pair)>,
}

#[derive(Clone)]
pub struct Sink {
    heard: Arc<Mutex<Heard>>,
    timeline: Timeline,
}

impl Sink {
    pub async fn start(timeline: Timeline) -> Sink {
        let sink = Sink { heard: Arc::default(), timeline };
        let router = Router::new().fallback(hear).with_state(sink.clone());
        let listener = listen(PORT).await;
        tokio::spawn(async move { axum::serve(listener, router).await });
        sink
    }

    /// Counts the distinct notices, those that came again under the same id, and the pairs that came under two ids.
    pub fn tally(&self) -> Tally {
        let heard = self.heard.lock().unwrap();
        let mut pairs = BTreeMap::<&Pair, usize>::new();
        for (_, pair) in heard.notices.values() {
            *pairs.entry(pair).or_default() += 1;
        }
        Tally {
            notices: heard.notices.len(),
            repeated: heard.notices.values().map(|(times, _)| times - 1).sum(),
            doubled: pairs.values().filter(|times| **times > 1).count(),
        }
    }
}

/// Counts of the received notices.
pub struct Tally {
    pub notices: usize,
    /// Notices repeated under the same id: at-least-once delivery, which a receiver detects by the id.
    pub repeated: usize,
    /// Pairs of watch and sale with two notices: there must be none.
    pub doubled: usize,
}

async fn hear(State(sink): State<Sink>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let id = headers.get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    let Ok(body) = serde_json::from_slice::<Value>(&body) else { return StatusCode::BAD_REQUEST };
    let text = |key: &str| body["data"][key].as_str().map(str::to_owned);
    let (Some(watch), Some(sale)) = (text("watch_id"), text("sale_id")) else {
        return StatusCode::NO_CONTENT;
    };
    sink.heard.lock().unwrap().notices.entry(id).or_insert((0, (watch, sale))).0 += 1;
    sink.timeline.attempt(Attempt {
        number: 0,
        at: now(),
        millis: 0.0,
        kind: "notice",
        error: None,
        answered: true,
    });
    StatusCode::NO_CONTENT
}
