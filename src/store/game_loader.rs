//! Reads single games, many requests by one query.
//!
//! Half of what it costs to read a row by its id is the round trip. Requests that come while a query is under way
//! wait and go together with the next one; nothing is kept, so nobody reads what is old. A request that comes alone
//! goes at once.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::games::{Game, find_games};
use crate::database::pool::{Connection, PgPool};
use crate::domain::ids::GameId;
use crate::error::{Error, Kind, Result};

/// Queries under way at once: the fewer they are, the more games each of them brings.
const MAX_QUERIES: usize = 1;
/// Queries over one connection before the pool may look at it.
const MAX_QUERIES_OF_CONNECTION: u32 = 1_000;
/// Games of one query.
const MAX_GAMES: usize = 256;

/// Hands requests for single games to shared queries; cheap to clone.
#[derive(Clone)]
pub struct GameLoader {
    pool: PgPool,
    queue: Arc<Mutex<Queue>>,
}

/// Every waiting request is one of a caller who waits for it, so the server's limits bound it.
#[derive(Default)]
struct Queue {
    waiting: Vec<(GameId, oneshot::Sender<Result<Option<Game>>>)>,
    queries: usize,
}

impl GameLoader {
    /// Reads through `pool`.
    pub fn new(pool: PgPool) -> GameLoader {
        GameLoader { pool, queue: Arc::default() }
    }

    /// Finds a game.
    ///
    /// # Errors
    /// The query's, for everybody who waited for it.
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
            // A task of its own: a caller who goes away must not take the others' query along.
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

/// One of the places of `MAX_QUERIES`, given back whatever happens.
struct Turn {
    loader: GameLoader,
    /// Kept from query to query: giving it back to the pool costs a round trip of its own.
    connection: Option<Connection>,
    queries: u32,
    ended: bool,
}

impl Turn {
    async fn query(&mut self, ids: &[GameId]) -> Result<Vec<Game>> {
        // What fails, or has been used for long, goes back to the pool, which knows when to make a new one.
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

/// Queries until nobody waits.
async fn run_queries(mut turn: Turn) {
    loop {
        let waiting: Vec<_> = {
            let mut queue = turn.loader.queue.lock();
            if queue.waiting.is_empty() {
                // Under the same lock: whoever comes now begins a turn, and nobody is left waiting.
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
                    // Who has gone away does not hear it.
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
