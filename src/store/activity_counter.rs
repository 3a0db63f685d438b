//! Downloads and log-ins are counted in the database a moment after they happen, without anybody waiting for it.
//!
//! What happens while a statement is under way is added up here and goes with the next one: an account's thousand
//! requests do not queue for its row, and a process uses one connection for it. A process that is killed loses what
//! those few milliseconds held.

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

/// How long a statement may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Accounts that are remembered as logged in.
const MAX_ACCOUNTS: usize = 50_000;

/// Counts what accounts do; cheap to clone.
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
    /// Somebody writes already, and will see what is added.
    writing: bool,
    /// When each account was last counted as logged in.
    logins: HashMap<AccountId, DateTime<Utc>>,
}

impl Activity {
    pub fn new(pool: PgPool, deadline: Deadline) -> Activity {
        Activity(Arc::new(Inner { pool, deadline, pending: Mutex::default() }))
    }

    /// An account has come with a token. Counted once in an hour, however many processes see it.
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

    /// A download of an account's file begins at byte `start` and asks for `bytes`. What begins behind the first byte
    /// goes on with one that is counted already.
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
                // Whoever comes next tries again.
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
