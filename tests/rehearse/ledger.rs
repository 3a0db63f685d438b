//! Final balance: everything that was acknowledged is recorded, and every watch has rung exactly once for each sale.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::PgPool;

use super::load::{Caller, url};
use super::sink::Sink;

const LIMIT: Duration = Duration::from_secs(150);
/// Number of batches that are polled concurrently.
const AT_ONCE: usize = 8;

#[derive(Default)]
pub struct Ledger {
    /// Batches that were already found done.
    settled: BTreeSet<String>,
}

/// Result of the comparison, for the table and the messages.
#[derive(Clone, Default)]
pub struct Balance {
    pub notices: usize,
    pub repeated: usize,
    pub problems: Vec<String>,
}

impl Ledger {
    /// Waits until everything in flight has arrived, and compares. The load must be paused.
    pub async fn balance(&mut self, caller: &Caller, sink: &Sink, look: &PgPool) -> Balance {
        let begun = Instant::now();
        let mut told = begun;
        let mut wait_of = |what: &str| {
            if told.elapsed() > Duration::from_secs(10) {
                told = Instant::now();
                crate::say!("waiting for {what}");
            }
        };
        let mut problems = Vec::new();
        let acknowledged = caller.acknowledged();
        let new: Vec<_> = acknowledged.iter().filter(|(batch, _)| !self.settled.contains(*batch)).collect();
        for some in new.chunks(AT_ONCE) {
            let settled = some.iter().map(|(batch, accepted)| settle(caller, batch, **accepted, begun));
            problems.extend(futures_util::future::join_all(settled).await.into_iter().flatten());
            self.settled.extend(some.iter().map(|(batch, _)| (*batch).clone()));
        }
        let (mut offers, mut notices, mut tally) = (0, 0, sink.tally());
        while begun.elapsed() < LIMIT {
            // With a query of its own: the result must not depend on the code under test.
            let found: Result<(i64, i64), _> = sqlx::query_as(
                "select (select count(*) from offers where sku like 'r-%'), (select count(*) from notices)",
            )
            .fetch_one(look)
            .await;
            if let Ok(found) = found {
                (offers, notices) = (found.0 as usize, found.1 as usize);
            }
            tally = sink.tally();
            if offers == notices && tally.notices == notices {
                break;
            }
            wait_of(&format!("{} of {notices} notices of {offers} sales to come", tally.notices));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let observations: usize = acknowledged.values().sum();
        if offers < observations {
            problems.push(format!("{observations} observations were acknowledged, {offers} are recorded"));
        }
        if notices != offers {
            problems.push(format!("{offers} sales made {notices} notices"));
        }
        if tally.notices != notices {
            problems.push(format!("{notices} notices were made, {} came to the receiver", tally.notices));
        }
        if tally.doubled > 0 {
            problems.push(format!("{} pairs of a watch and a sale rang twice", tally.doubled));
        }
        Balance { notices, repeated: tally.repeated, problems }
    }
}

/// Waits until a batch is done. Returns the problem with it, if there is one.
async fn settle(caller: &Caller, batch: &str, accepted: usize, begun: Instant) -> Option<String> {
    loop {
        match find_batch(caller, batch).await {
            Some(found) if found["done"] == true => {
                let recorded = found["recorded"].as_u64().unwrap_or_default();
                let unchanged = found["unchanged"].as_u64().unwrap_or_default();
                let of_accepted = recorded + unchanged == accepted as u64;
                return (!of_accepted)
                    .then(|| format!("batch {batch} of {accepted} observations came to {found}"));
            }
            found if begun.elapsed() > LIMIT => return Some(format!("batch {batch} is not done: {found:?}")),
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn find_batch(caller: &Caller, batch: &str) -> Option<Value> {
    let request = caller.client.get(url(&format!("/v1/batches/{batch}")));
    let answer = caller.authorise(request).send().await.ok()?;
    if !answer.status().is_success() {
        return None;
    }
    answer.json().await.ok()
}
