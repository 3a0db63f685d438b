//! Loader of single games, which combines many requests into one query.
//!
//! Half of the cost of reading a row by its id is the round trip. Requests that arrive while a query is under way
//! wait and go together with the next one. A request that arrives alone goes at once. Nothing is cached, so no caller
//! reads stale data.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::games::{Game, find_games};
use crate::database::pool::{Connection, PgPool};
use crate::domain::ids::GameId;
use crate::error::{Error, Kind, Result};

/// Maximum number of concurrent queries: the fewer there are, the more games each of them loads.
const MAX_QUERIES: usize = 1;
/// Queries over one connection before it goes back to the pool to be checked.
const MAX_QUERIES_OF_CONNECTION: u32 = 1_000;
/// Maximum number of games of one query.
const MAX_GAMES: usize = 256;

/// Combines requests for single games into shared queries; cheap to clone.
#[derive(Clone)]
pub struct GameLoader {
    pool: PgPool,
    queue: Arc<Mutex<Queue>>,
}

/// Requests that wait for a query. Each has a caller that waits for it, so the server's limits bound them.
#[derive(Default)]
struct Queue {
    waiting: Vec<(GameId, oneshot::Sender<Result<Option<Game>>>)>,
    queries: usize,
}

impl GameLoader {
    /// Creates a loader that reads through `pool`.
    pub fn new(pool: PgPool) -> GameLoader {
        GameLoader { pool, queue: Arc::default() }
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
    /// Kept between queries: releasing it to the pool costs another round trip.
    connection: Option<Connection>,
    queries: u32,
    ended: bool,
}

impl Turn {
    async fn query(&mut self, ids: &[GameId]) -> Result<Vec<Game>> {
        // A connection that failed or was used for long goes back to the pool, which knows when to open a new one.
        let mut connection = match self.connection.take().filter(|_| self.queries < MAX_QUERIES_OF_CONNECTION)
        {
            Some(connection) => connection,
            None => {
                self.queries = 0;
                self.loader.pool.acquire().await?
            }
        };
        self.queries += 1;
        let games = find_games(&mut *connection, ids).await?;
        self.connection = Some(connection);
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
