//! Loader of single games, which combines many requests into one query.
//!
//! Half of the cost of reading a row by its id is the round trip. Requests that arrive while a query is under way
//! wait and go together with the next one. A request that arrives alone goes at once. Nothing is cached, so no caller
//! reads stale data.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::games::{Game, find_games};
use crate::database::deadline::Deadline;
use crate::database::pool::Connection;
use crate::database::reads::{Reads, Server};
use crate::domain::ids::GameId;
use crate::error::{Error, Kind, Result};

/// Maximum number of concurrent queries: the fewer there are, the more games each of them loads.
const MAX_QUERIES: usize = 1;
/// Queries over one connection before it goes back to the pool to be checked.
const MAX_QUERIES_OF_CONNECTION: u32 = 1_000;
/// Maximum number of games of one query.
const MAX_GAMES: usize = 256;
/// Timeout of a query, with its wait for a connection. All callers wait for the query that is under way.
const QUERY_TIMEOUT: Duration = Duration::from_secs(15);

/// Combines requests for single games into shared queries; cheap to clone.
#[derive(Clone)]
pub struct GameLoader {
    reads: Reads,
    deadline: Deadline,
    queue: Arc<Mutex<Queue>>,
}

/// Requests that wait for a query. Each has a caller that waits for it, so the server's limits bound them.
#[derive(Default)]
struct Queue {
    waiting: Vec<(GameId, oneshot::Sender<Result<Option<Game>>>)>,
    queries: usize,
}

impl GameLoader {
    /// Creates a loader that queries the server that reads use.
    pub fn new(reads: Reads, deadline: Deadline) -> GameLoader {
        GameLoader { reads, deadline, queue: Arc::default() }
    }

    /// Finds a game.
    ///
    /// # Errors
    /// Those of the query, for every caller that waited for it.
    pub async fn find_game(&self, id: GameId) -> Result<Option<Game>> {
        let (reply, answer) = oneshot::channel();
        let begin = {
            let mut queue = self.queue.lock();
            queue.waiting.push((id, reply));
            let begin = queue.queries < MAX_QUERIES;
            queue.queries += usize::from(begin);
            begin
        };
        if begin {
            // A task of its own, so that a caller that is cancelled does not cancel the others' query.
            tokio::spawn(run_queries(Turn {
                loader: self.clone(),
                connection: None,
                queries: 0,
                ended: false,
            }));
        }
        answer.await.unwrap_or_else(|_| Err(Error::internal("a query for games ended without an answer")))
    }
}

/// Guard of one of the `MAX_QUERIES` places, which releases it in any case.
struct Turn {
    loader: GameLoader,
    /// Connection that is kept between queries, with its server: releasing it to the pool costs another round trip.
    connection: Option<(Server, Connection)>,
    queries: u32,
    ended: bool,
}

impl Turn {
    async fn query(&mut self, ids: &[GameId]) -> Result<Vec<Game>> {
        let (reads, deadline) = (self.loader.reads.clone(), self.loader.deadline.clone());
        loop {
            let server = reads.server();
            tokio::select! {
                games = deadline.run(QUERY_TIMEOUT, self.query_server(server, ids)) => return games,
                // A server that has fallen silent must not hold up the callers: the other one is queried again.
                () = reads.left(server) => {}
            }
        }
    }

    async fn query_server(&mut self, server: Server, ids: &[GameId]) -> Result<Vec<Game>> {
        // A connection that failed or was used for long goes back to the pool, which knows when to open a new one.
        let kept = self.connection.take().filter(|(of, _)| *of == server);
        let mut connection = match kept.filter(|_| self.queries < MAX_QUERIES_OF_CONNECTION) {
            Some((_, connection)) => connection,
            None => {
                self.queries = 0;
                self.loader.reads.pool_of(server).acquire().await?
            }
        };
        self.queries += 1;
        let games = find_games(&mut *connection, ids).await?;
        self.connection = Some((server, connection));
        Ok(games)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.ended {
            self.loader.queue.lock().queries -= 1;
        }
    }
}

/// Runs queries until no request waits.
async fn run_queries(mut turn: Turn) {
    loop {
        let waiting: Vec<_> = {
            let mut queue = turn.loader.queue.lock();
            if queue.waiting.is_empty() {
                // Under the same lock, so that a request that comes now begins a turn and is not left waiting.
                queue.queries -= 1;
                turn.ended = true;
                return;
            }
            let count = queue.waiting.len().min(MAX_GAMES);
            queue.waiting.drain(..count).collect()
        };
        let ids: Vec<GameId> = waiting.iter().map(|(id, _)| *id).collect();
        match turn.query(&ids).await {
            Ok(games) => {
                let games: HashMap<GameId, Game> = games.into_iter().map(|game| (game.id, game)).collect();
                for (id, reply) in waiting {
                    // The caller may have been cancelled.
                    let _ = reply.send(Ok(games.get(&id).cloned()));
                }
            }
            Err(error) => {
                let text = crate::error::chain(&error);
                for (_, reply) in waiting {
                    let _ = reply.send(Err(match error.kind {
                        Kind::Unavailable => Error::unavailable(text.clone()),
                        _ => Error::internal(text.clone()),
                    }));
                }
            }
        }
    }
}
