//! Requests that a report sends to the API.

use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use bytes::Bytes;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use uuid::Uuid;

use crate::cli::api_client::ApiClient;
use crate::error::{Problem, chain};

/// Response of the API to a slice.
#[derive(Debug, Deserialize)]
pub struct SliceReceipt {
    pub batch_id: Option<Uuid>,
    pub accepted: u64,
    /// Number of refused lines; if there are many, the API lists only the first of them.
    pub rejected_count: u64,
    pub rejected: Vec<RejectedLine>,
    /// Lines that were accepted without a field that could not be understood.
    #[serde(default)]
    pub warnings: Vec<RejectedLine>,
}

impl SliceReceipt {
    /// Whether every refusal is listed.
    pub fn lists_all(&self) -> bool {
        self.rejected.len() as u64 == self.rejected_count
    }
}

/// A line that the API refused, or warns about.
#[derive(Debug, Deserialize)]
pub struct RejectedLine {
    /// Zero-based index of the line in the request.
    pub index: usize,
    pub problem: Problem,
}

/// Progress and outcome of a batch.
#[derive(Debug, Default, Deserialize)]
pub struct BatchCounts {
    pub done: bool,
    pub recorded: u64,
    pub unchanged: u64,
    pub stale: u64,
    pub quarantined: u64,
    pub failed: u64,
    pub new_lows: u64,
    /// Observations that were too old to ring; also 0 if the API is of an earlier version.
    #[serde(default)]
    pub too_old_to_ring: u64,
    pub transitions: std::collections::BTreeMap<String, u64>,
}

impl ApiClient {
    /// Reports one slice under its idempotency key; returns once the API has accepted it. With `backfill`, it triggers
    /// no notices.
    ///
    /// # Errors
    /// Fails if the API refuses the whole slice, or does not respond within the longest wait.
    pub async fn report(&self, key: &str, body: &Bytes, backfill: bool) -> anyhow::Result<SliceReceipt> {
        let query = if backfill { Some("backfill=true") } else { None };
        let reply = self.retry("report", || {
            self.request(Method::POST, "v1/prices", query)
                .header(CONTENT_TYPE, "application/x-ndjson")
                .header("idempotency-key", key)
                .body(body.clone())
        });
        match reply.await {
            Ok(reply) => reply.decode(),
            Err(refused) if refused.status == Some(StatusCode::PAYLOAD_TOO_LARGE) => {
                Err(anyhow!("{} A smaller --slice may do.", chain(refused.failure.as_ref())))
            }
            Err(refused) => Err(refused.failure),
        }
    }

    /// Waits until a batch is recorded.
    ///
    /// # Errors
    /// Fails if that takes longer than the longest wait, or if the batch cannot be queried.
    pub async fn wait_for(&self, batch: Uuid) -> anyhow::Result<BatchCounts> {
        let begin = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            let path = format!("v1/batches/{batch}");
            let counts: BatchCounts = self.get(&path, None).await?;
            if counts.done {
                return Ok(counts);
            }
            if begin.elapsed() > self.max_wait() {
                bail!(
                    "batch {batch} was accepted and is not recorded after {} s; is a worker running?",
                    self.max_wait().as_secs()
                );
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}
