//! Connections of a pool: which are in use, which callers wait, and how more are opened.
//!
//! A connection is opened by a task of its own, and goes to the caller that has waited longest when it is open. An
//! opening therefore outlives the request that it was begun for, a request gets whichever connection is free first,
//! and a log-in that takes longer than a request may wait still leaves the pool able to serve the next one.
//! [docs/decisions/0031-database-pool.md] explains why sqlx's own pool does not do that.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection as _, PgConnection};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::password::{REFUSAL_INTERVAL, is_refusal};
use super::settings::PoolSettings;
use crate::error::database::is_transient;

/// Why there is no connection; several waiters may receive the same reason.
pub(super) type Reason = Arc<sqlx::Error>;

/// Maximum number of connections opened at once. Several, because each log-in takes several round trips; not all,
/// because each costs processor time here and in the server, and the first one to be open can serve the waiters.
const AT_ONCE: usize = 8;
/// Time without a finished attempt after which another one is begun: the others may be waiting for a host that is
/// gone while its name leads to another by now.
const SLOW: Duration = Duration::from_millis(500);
/// Timeout of one attempt. Together with `SLOW` it bounds the attempts under way.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_ATTEMPTS: usize = (ATTEMPT_TIMEOUT.as_millis() / SLOW.as_millis()) as usize;
/// Pause between two attempts while the database is unavailable. Once it is back, no caller waits longer than this
/// and a log-in.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Pause after the password was refused, unless another is known earlier.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);
/// Age from which an attempt that was not refused counts as a log-in under way.
const NOT_REFUSED_AFTER: Duration = Duration::from_millis(50);
/// Longest wait for a connection while log-ins are under way.
const LONGEST_WAIT: Duration = ATTEMPT_TIMEOUT;
/// Idle time after which a connection is pinged before use. More recent ones are not: a round trip with every query
/// would cost a third of the throughput.
const PING_AFTER_IDLE: Duration = Duration::from_secs(1);
/// Timeout of a ping, and of closing a connection.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// Idle time after which a connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Age at which a connection is closed. An added server, or a new address of the same name, thus gets its share.
const MAX_LIFETIME: Duration = Duration::from_secs(300);
/// Interval at which idle connections are checked.
const REAP_INTERVAL: Duration = Duration::from_secs(10);

/// An open connection and its age.
struct Live {
    raw: PgConnection,
    opened_at: Instant,
}

/// A connection in use, which goes back to the pool when it is dropped.
pub struct Connection {
    /// `None` only while it is being dropped.
    live: Option<Live>,
    pool: Arc<Connections>,
}

/// Panic message. Only `drop` and `into_live` take the connection out, and both end the guard.
const IN_USE: &str = "a connection is there until its guard ends";

impl Connection {
    fn new(live: Live, pool: Arc<Connections>) -> Connection {
        Connection { live: Some(live), pool }
    }

    /// Takes the connection out of its guard; the pool still counts it as open.
    fn into_live(mut self) -> Option<Live> {
        self.live.take()
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.live.as_ref().expect(IN_USE).raw
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.live.as_mut().expect(IN_USE).raw
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(live) = self.live.take() {
            self.pool.release(live);
        }
    }
}

/// All connections of one pool.
pub(super) struct Connections {
    pub(super) settings: PoolSettings,
    options: RwLock<Arc<PgConnectOptions>>,
    state: Mutex<State>,
    /// Signals that a connection was closed.
    gone: Notify,
}

#[derive(Default)]
struct State {
    /// Idle connections, the most recently used one last.
    idle: Vec<Idle>,
    waiters: VecDeque<oneshot::Sender<Result<Connection, Reason>>>,
    /// Number of open connections: in use, idle, or being tested.
    open: u32,
    /// Number of connections that are still to be opened.
    wanted: u32,
    attempts: Vec<Attempt>,
    last_attempt: u64,
    /// Earliest time of the next attempt.
    not_before: Option<Instant>,
    /// Why the last finished attempt failed. Cleared by a success, and by new connection options.
    failure: Option<Reason>,
    /// Whether that attempt got no answer rather than a refusal.
    silent: bool,
    /// Number of changes to the connection options.
    generation: u64,
    reaping: bool,
    closed: bool,
}

struct Idle {
    live: Live,
    since: Instant,
}

/// A connection that is being opened.
struct Attempt {
    number: u64,
    since: Instant,
}

impl Connections {
    pub(super) fn new(settings: PoolSettings) -> Arc<Connections> {
        let options = RwLock::new(Arc::new(settings.options.clone()));
        Arc::new(Connections { settings, options, state: Mutex::default(), gone: Notify::new() })
    }

    /// Acquires a connection that was alive within the last second.
    pub(super) async fn acquire(self: &Arc<Self>) -> Result<Connection, Reason> {
        let begun = Instant::now();
        loop {
            let (idle, answer) = self.enter()?;
            if let Some((mut connection, since)) = idle {
                if since.elapsed() < PING_AFTER_IDLE || answers(&mut connection).await {
                    return Ok(connection);
                }
                self.discard(connection);
            } else if let Some(answer) = answer {
                return self.wait(answer, begun).await;
            }
        }
    }

    /// Takes the most recently used idle connection, or a place in the queue.
    #[expect(clippy::type_complexity, reason = "one of both, for one caller")]
    fn enter(
        self: &Arc<Self>,
    ) -> Result<(Option<(Connection, Instant)>, Option<oneshot::Receiver<Result<Connection, Reason>>>), Reason>
    {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Arc::new(sqlx::Error::PoolClosed));
        }
        if let Some(Idle { live, since }) = state.idle.pop() {
            return Ok((Some((Connection::new(live, self.clone()), since)), None));
        }
        let (sender, answer) = oneshot::channel();
        state.waiters.push_back(sender);
        self.open_more(&mut state);
        Ok((None, Some(answer)))
    }

    /// Waits for `acquire_timeout`, and longer while connections are being opened.
    async fn wait(
        &self,
        mut answer: oneshot::Receiver<Result<Connection, Reason>>,
        begun: Instant,
    ) -> Result<Connection, Reason> {
        let mut until = begun + self.settings.acquire_timeout;
        loop {
            match tokio::time::timeout_at(until.into(), &mut answer).await {
                Ok(answer) => return answer.unwrap_or_else(|_| Err(Arc::new(sqlx::Error::PoolClosed))),
                Err(_) if begun.elapsed() < LONGEST_WAIT && self.is_logging_in() => {
                    until = Instant::now() + NOT_REFUSED_AFTER;
                }
                Err(_) => break,
            }
        }
        answer.close();
        // The connection may have arrived just now.
        answer.try_recv().unwrap_or_else(|_| Err(self.timed_out()))
    }

    /// Whether the server seems to be reachable and is still processing a log-in.
    fn is_logging_in(&self) -> bool {
        let state = self.state.lock();
        let least = if state.failure.is_some() { NOT_REFUSED_AFTER } else { Duration::ZERO };
        !state.silent && state.attempts.iter().any(|attempt| attempt.since.elapsed() >= least)
    }

    fn timed_out(&self) -> Reason {
        self.state.lock().failure.clone().unwrap_or_else(|| Arc::new(sqlx::Error::PoolTimedOut))
    }

    /// Begins to open the missing connections, up to the number that may be opened at once.
    fn open_more(self: &Arc<Self>, state: &mut State) {
        while state.waiters.front().is_some_and(oneshot::Sender::is_closed) {
            state.waiters.pop_front();
        }
        let now = Instant::now();
        let room = self.settings.max_connections.saturating_sub(state.open);
        let waiting = u32::try_from(state.waiters.len()).unwrap_or(u32::MAX);
        state.wanted = state.wanted.max(waiting).min(room);
        if state.wanted == 0 || state.closed || state.not_before.is_some_and(|time| now < time) {
            return;
        }
        // While the database is unavailable, a single attempt finds out when it is back.
        let at_once = if state.failure.is_some() { 1 } else { AT_ONCE };
        let wanted = at_once.min(state.wanted as usize);
        while state.attempts.len() < wanted {
            self.begin_attempt(state, now);
        }
        let all_are_slow = state.attempts.iter().all(|attempt| now - attempt.since >= SLOW);
        if all_are_slow && waiting > 0 && state.attempts.len() < MAX_ATTEMPTS {
            self.begin_attempt(state, now);
        }
    }

    fn begin_attempt(self: &Arc<Self>, state: &mut State, now: Instant) {
        state.last_attempt += 1;
        let number = state.last_attempt;
        state.attempts.push(Attempt { number, since: now });
        tokio::spawn(self.clone().attempt(number, state.generation));
        if !std::mem::replace(&mut state.reaping, true) {
            tokio::spawn(reap(Arc::downgrade(self)));
        }
    }

    /// Opens one connection.
    async fn attempt(self: Arc<Self>, number: u64, generation: u64) {
        let begun = Instant::now();
        let cut = CancellationToken::new();
        // A runtime that shuts down drops this task, and must not wait for the thread.
        let _cut = cut.clone().drop_guard();
        let (pool, runtime) = (self.clone(), Handle::current());
        // A log-in derives keys with thousands of hashes, and must not hold up tasks that serve requests.
        let mut opening = tokio::task::spawn_blocking(move || {
            runtime.block_on(cut.run_until_cancelled(tokio::time::timeout(ATTEMPT_TIMEOUT, pool.open())))
        });
        let opened = loop {
            match tokio::time::timeout(SLOW, &mut opening).await {
                Ok(opened) => break opened,
                Err(_) => self.open_more(&mut self.state.lock()),
            }
        };
        let silent = begun.elapsed() >= ATTEMPT_TIMEOUT;
        let opened = match opened {
            Ok(Some(Ok(opened))) => opened,
            Ok(_) => Err(sqlx::Error::Io(std::io::Error::other("no log-in within 10 s"))),
            Err(panicked) => Err(sqlx::Error::Io(std::io::Error::other(panicked))),
        };
        let mut state = self.state.lock();
        state.attempts.retain(|attempt| attempt.number != number);
        match opened {
            Ok(live) => self.attempt_succeeded(&mut state, live),
            // Another password may be known by now.
            Err(_) if generation != state.generation => self.open_more(&mut state),
            Err(error) if is_transient(&error) => self.attempt_failed(&mut state, error, silent),
            // Connections that were opened with an older password continue to serve.
            Err(error) if is_refusal(&error) && state.open > 0 => {
                self.pause(&mut state, error, REFUSED_PAUSE);
                tokio::spawn(self.clone().request_password(generation));
            }
            Err(error) => {
                // Another attempt would get the same answer: report it to all waiters.
                let reason = Arc::new(error);
                state.wanted = 0;
                let waiters = std::mem::take(&mut state.waiters);
                drop(state);
                for waiter in waiters {
                    let _ = waiter.send(Err(reason.clone()));
                }
            }
        }
    }

    async fn open(&self) -> sqlx::Result<Live> {
        let options = self.options();
        let mut raw = options.connect().await?;
        if let Some(on_connect) = &self.settings.on_connect {
            on_connect(&mut raw).await?;
        }
        Ok(Live { raw, opened_at: Instant::now() })
    }

    fn attempt_succeeded(self: &Arc<Self>, state: &mut State, live: Live) {
        (state.failure, state.silent, state.not_before) = (None, false, None);
        state.wanted = state.wanted.saturating_sub(1);
        if state.closed || state.open >= self.settings.max_connections {
            tokio::spawn(close(live));
        } else {
            state.open += 1;
            self.put(state, live);
        }
        self.open_more(state);
    }

    /// Handles an attempt that failed because the database is unavailable.
    fn attempt_failed(self: &Arc<Self>, state: &mut State, error: sqlx::Error, silent: bool) {
        if state.failure.is_none() {
            self.test_idle(state);
        }
        self.pause(state, error, RETRY_INTERVAL);
        state.silent = silent;
    }

    /// Begins no attempt for the given time.
    fn pause(self: &Arc<Self>, state: &mut State, error: sqlx::Error, pause: Duration) {
        state.failure = Some(Arc::new(error));
        state.wanted = 0;
        state.not_before = Some(Instant::now() + pause);
        let pool = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            pool.open_more(&mut pool.state.lock());
        });
    }

    /// Requests another password until there is one, or until the refused one is due to be tried again.
    async fn request_password(self: Arc<Self>, generation: u64) {
        let Some(number) = self.settings.password.generation() else { return };
        let until = Instant::now() + REFUSED_PAUSE;
        while Instant::now() < until && self.state.lock().generation == generation {
            self.settings.password.refuse(number);
            tokio::time::sleep(REFUSAL_INTERVAL).await;
        }
    }

    /// Hands a connection to the caller that has waited longest, or keeps it as idle.
    fn put(self: &Arc<Self>, state: &mut State, live: Live) {
        let mut connection = Connection::new(live, self.clone());
        while let Some(waiter) = state.waiters.pop_front() {
            match waiter.send(Ok(connection)) {
                Err(Ok(unwanted)) => connection = unwanted,
                _ => return,
            }
        }
        let Some(live) = connection.into_live() else { return };
        if state.closed {
            state.open -= 1;
            self.gone.notify_waiters();
            tokio::spawn(close(live));
        } else {
            state.idle.push(Idle { live, since: Instant::now() });
        }
    }

    /// Returns a connection to the pool once what was begun on it has finished.
    fn release(self: &Arc<Self>, live: Live) {
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(self.clone().settle(live))),
            // The process is ending.
            Err(_) => self.state.lock().open -= 1,
        }
    }

    async fn settle(self: Arc<Self>, mut live: Live) {
        if live.opened_at.elapsed() >= MAX_LIFETIME || self.state.lock().closed {
            close(live).await;
            return self.lose(&mut self.state.lock());
        }
        let limit = if self.settings.deadline.suspects_connections() {
            PING_TIMEOUT
        } else {
            self.settings.settle_timeout
        };
        if !answers_within(&mut live.raw, limit).await {
            return self.lose_dead(live);
        }
        self.put(&mut self.state.lock(), live);
    }

    /// Discards a connection that does not answer.
    fn discard(self: &Arc<Self>, connection: Connection) {
        if let Some(live) = connection.into_live() {
            self.lose_dead(live);
        }
    }

    /// Drops a dead connection and tests the idle ones, since whatever ended it may have ended them all.
    fn lose_dead(self: &Arc<Self>, dead: Live) {
        drop(dead);
        let mut state = self.state.lock();
        self.test_idle(&mut state);
        self.lose(&mut state);
    }

    fn lose(self: &Arc<Self>, state: &mut State) {
        state.open -= 1;
        self.gone.notify_waiters();
        self.open_more(state);
    }

    /// Pings all idle connections concurrently, and keeps those that answer.
    fn test_idle(self: &Arc<Self>, state: &mut State) {
        for Idle { mut live, .. } in state.idle.drain(..) {
            let pool = self.clone();
            tokio::spawn(async move {
                let alive = answers(&mut live.raw).await;
                let mut state = pool.state.lock();
                if alive { pool.put(&mut state, live) } else { pool.lose(&mut state) }
            });
        }
    }

    /// Removes and returns the connections that have been idle too long or are too old.
    fn take_expired(&self) -> Vec<Live> {
        let mut state = self.state.lock();
        let expired = |idle: &mut Idle| {
            idle.since.elapsed() >= IDLE_TIMEOUT || idle.live.opened_at.elapsed() >= MAX_LIFETIME
        };
        let expired: Vec<Live> = state.idle.extract_if(.., expired).map(|idle| idle.live).collect();
        state.open -= expired.len() as u32;
        expired
    }

    /// Closes all connections, each as soon as it is released.
    pub(super) async fn close(self: &Arc<Self>) {
        let idle = {
            let mut state = self.state.lock();
            state.closed = true;
            // Waiters receive `PoolClosed`.
            state.waiters.clear();
            let idle = std::mem::take(&mut state.idle);
            state.open -= idle.len() as u32;
            idle
        };
        for idle in idle {
            close(idle.live).await;
        }
        loop {
            let gone = self.gone.notified();
            tokio::pin!(gone);
            gone.as_mut().enable();
            if self.state.lock().open == 0 {
                return;
            }
            gone.await;
        }
    }

    pub(super) fn options(&self) -> Arc<PgConnectOptions> {
        self.options.read().clone()
    }

    pub(super) fn set_options(self: &Arc<Self>, options: PgConnectOptions) {
        *self.options.write() = Arc::new(options);
        let mut state = self.state.lock();
        state.generation += 1;
        (state.failure, state.not_before) = (None, None);
        self.open_more(&mut state);
    }

    pub(super) fn open_count(&self) -> u32 {
        self.state.lock().open
    }

    pub(super) fn idle_count(&self) -> usize {
        self.state.lock().idle.len()
    }

    pub(super) fn is_used_up(&self) -> bool {
        let state = self.state.lock();
        state.idle.is_empty() && state.open >= self.settings.max_connections
    }
}

/// Closes expired connections for as long as the pool exists.
async fn reap(pool: Weak<Connections>) {
    loop {
        tokio::time::sleep(REAP_INTERVAL).await;
        let Some(expired) = pool.upgrade().map(|pool| pool.take_expired()) else { return };
        for live in expired {
            close(live).await;
        }
    }
}

/// Whether the server behind a connection answers within a second.
async fn answers(connection: &mut PgConnection) -> bool {
    answers_within(connection, PING_TIMEOUT).await
}

async fn answers_within(connection: &mut PgConnection, limit: Duration) -> bool {
    matches!(tokio::time::timeout(limit, connection.ping()).await, Ok(Ok(())))
}

/// Closes a connection properly, so that the server does not find it broken.
async fn close(live: Live) {
    let _ = tokio::time::timeout(PING_TIMEOUT, live.raw.close()).await;
}
