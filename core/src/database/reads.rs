//! Server for reads that may be a second old: the reader, or the writer while the reader is behind or does not answer.
//! `health::reader` decides which.

use std::sync::Arc;

use tokio::sync::watch;

use crate::database::pool::PgPool;

/// Server that such reads use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    Reader,
    Writer,
}

/// Pools of both servers, and which of them reads use. Clones share the choice.
#[derive(Clone)]
pub struct Reads {
    reader: PgPool,
    writer: PgPool,
    server: Arc<watch::Sender<Server>>,
}

impl Reads {
    /// Reads that use the reader. Without one, `reader` is the writer's pool.
    pub fn new(reader: PgPool, writer: PgPool) -> Reads {
        Reads { reader, writer, server: Arc::new(watch::Sender::new(Server::Reader)) }
    }

    /// Pool of the server that reads use now. It is chosen for each query, and not kept.
    pub fn pool(&self) -> &PgPool {
        self.pool_of(self.server())
    }

    /// Pool of one of the servers.
    pub fn pool_of(&self, server: Server) -> &PgPool {
        match server {
            Server::Reader => &self.reader,
            Server::Writer => &self.writer,
        }
    }

    /// Server that reads use now.
    pub fn server(&self) -> Server {
        *self.server.borrow()
    }

    /// Lets reads use this server from now on. Reads that have begun are not moved.
    pub fn use_server(&self, server: Server) {
        self.server.send_replace(server);
    }

    /// Waits until reads use another server than this one.
    pub async fn left(&self, server: Server) {
        let mut changes = self.server.subscribe();
        // Cannot fail: `self` holds the sender.
        let _ = changes.wait_for(|now| *now != server).await;
    }

    /// Runs a query for work that has no time-out of its own. When reads leave the server that it has been sent to, it is
    /// dropped and sent to the other one, since the first may never answer.
    pub async fn run<T, F: Future<Output = T>>(&self, query: impl Fn(PgPool) -> F) -> T {
        loop {
            let server = self.server();
            tokio::select! {
                done = query(self.pool_of(server).clone()) => return done,
                () = self.left(server) => {}
            }
        }
    }

    /// Whether both pools lead to the same database at the same address: then neither can be behind the other.
    pub fn is_one_database(&self) -> bool {
        let (reader, writer) = (self.reader.connect_options(), self.writer.connect_options());
        reader.get_host() == writer.get_host()
            && reader.get_port() == writer.get_port()
            && reader.get_socket() == writer.get_socket()
            && reader.get_database() == writer.get_database()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::pool::PoolSettings;

    fn pool(url: &str) -> PgPool {
        PgPool::new(PoolSettings::new("test", url.parse().unwrap()))
    }

    #[tokio::test]
    async fn reads_use_the_chosen_server_and_learn_that_it_was_left() {
        let reads = Reads::new(pool("postgres://a@reader/b"), pool("postgres://a@writer/b"));
        let host = || reads.pool().connect_options().get_host().to_owned();
        assert_eq!((reads.server(), host().as_str()), (Server::Reader, "reader"));
        let other = reads.clone();
        let waiting = tokio::spawn(async move { other.left(Server::Reader).await });
        reads.use_server(Server::Writer);
        waiting.await.unwrap();
        assert_eq!((reads.server(), host().as_str()), (Server::Writer, "writer"));
        // It was left already.
        reads.left(Server::Reader).await;
    }

    #[tokio::test]
    async fn a_query_moves_when_reads_leave_its_server() {
        let reads = Reads::new(pool("postgres://a@reader/b"), pool("postgres://a@writer/b"));
        let other = reads.clone();
        let query = reads.run(|pool| {
            let (host, other) = (pool.connect_options().get_host().to_owned(), other.clone());
            async move {
                if host == "reader" {
                    other.use_server(Server::Writer);
                    // It hangs.
                    std::future::pending::<()>().await;
                }
                host
            }
        });
        assert_eq!(query.await, "writer");
    }

    #[test]
    fn the_same_address_and_database_is_one_database_whoever_logs_in() {
        let writer = "postgres://a@writer/b";
        for (reader, is_one) in [
            (writer, true),
            ("postgres://c:d@writer:5432/b?sslmode=disable", true),
            ("postgres://a@reader/b", false),
            ("postgres://a@writer:5433/b", false),
            ("postgres://a@writer/c", false),
            ("postgres://a@writer/b?host=/run/postgresql", false),
        ] {
            assert_eq!(Reads::new(pool(reader), pool(writer)).is_one_database(), is_one, "{reader}");
        }
    }
}
