//! Counter of downloads and logins, which writes them to the database a moment later without delaying a request.
//!
//! While a statement is under way, further counts are added up here and go with the next one: a thousand requests of
//! one account do not queue for its row, and a process uses one connection for all of them. A process that is killed
//! loses the counts of those few milliseconds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use parking_lot::Mutex;

use crate::database::deadline::Deadline;
use crate::database::pool::PgPool;
use crate::domain::ids::AccountId;
use crate::error::chain;
use crate::store::activity::{self, Done, LOGIN_RESOLUTION};

/// Timeout of a statement.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of accounts remembered as logged in.
const MAX_ACCOUNTS: usize = 50_000;

/// Counts the activity of accounts; cheap to clone.
#[derive(Clone)]
pub struct Activity(Arc<Inner>);

struct Inner {
    pool: PgPool,
    deadline: Deadline,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    done: HashMap<(NaiveDate, AccountId, &'static str), Done>,
    /// Whether a task is writing; it will also write what is added meanwhile.
    writing: bool,
    /// When a login of each account was last counted.
    logins: HashMap<AccountId, DateTime<Utc>>,
}

impl Activity {
    pub fn new(pool: PgPool, deadline: Deadline) -> Activity {
        Activity(Arc::new(Inner { pool, deadline, pending: Mutex::default() }))
    }

    /// Counts a login. Each account is counted once an hour, however many processes see it.
    pub fn note_login(&self, account: AccountId, now: DateTime<Utc>) {
        {
            let mut pending = self.0.pending.lock();
            if pending.logins.get(&account).is_some_and(|at| now - *at < LOGIN_RESOLUTION) {
                return;
            }
            if pending.logins.len() >= MAX_ACCOUNTS {
                pending.logins.clear();
            }
            pending.logins.insert(account, now);
        }
        self.note(Done { day: now.date_naive(), account, kind: "login", count: 1, amount: 0, last_at: now });
    }

    /// Counts a download of an account's file, of `bytes` from byte `start` on. One that does not start at the first
    /// byte continues a download that was counted already.
    pub fn note_download(&self, account: AccountId, start: u64, bytes: u64, now: DateTime<Utc>) {
        let (count, amount) = (i64::from(start == 0), i64::try_from(bytes).unwrap_or(i64::MAX));
        self.note(Done { day: now.date_naive(), account, kind: "download", count, amount, last_at: now });
    }

    fn note(&self, done: Done) {
        let mut pending = self.0.pending.lock();
        add(&mut pending.done, done);
        if !pending.writing {
            pending.writing = true;
            tokio::spawn(self.clone().write());
        }
    }

    async fn write(self) {
        loop {
            let done: Vec<Done> = {
                let mut pending = self.0.pending.lock();
                if pending.done.is_empty() {
                    pending.writing = false;
                    return;
                }
                pending.done.drain().map(|(_, done)| done).collect()
            };
            let adding = activity::add_activity(&self.0.pool, &done);
            let added = self.0.deadline.run(STATEMENT_TIMEOUT, adding).await;
            if let Err(error) = added {
                log::warn!(target: "salebell::activity", "not counted yet: {}", chain(&error));
                let mut pending = self.0.pending.lock();
                done.into_iter().for_each(|done| add(&mut pending.done, done));
                // The next action tries again.
                pending.writing = false;
                return;
            }
        }
    }
}

fn add(pending: &mut HashMap<(NaiveDate, AccountId, &'static str), Done>, done: Done) {
    pending
        .entry((done.day, done.account, done.kind))
        .and_modify(|known| {
            known.count = known.count.saturating_add(done.count);
            known.amount = known.amount.saturating_add(done.amount);
            known.last_at = known.last_at.max(done.last_at);
        })
        .or_insert(done);
}
