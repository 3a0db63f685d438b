//! A database for each test.

use salebell::store;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

/// URL of the tests' PostgreSQL; `make test` starts one.
pub fn server_url() -> String {
    std::env::var("SALEBELL_TEST_DATABASE_URL").or_else(|_| std::env::var("DATABASE_URL")).expect(
        "SALEBELL_TEST_DATABASE_URL names a PostgreSQL whose user may create databases; run `make test`",
    )
}

/// A database of one test, dropped with this value.
pub struct TestDatabase {
    pub url: String,
    name: String,
}

impl TestDatabase {
    /// Makes an empty, migrated database.
    pub async fn create() -> TestDatabase {
        TestDatabase::copy_of(template().await).await
    }

    /// Makes a database without the schema.
    pub async fn create_bare() -> TestDatabase {
        TestDatabase::copy_of("template0").await
    }

    async fn copy_of(template: &str) -> TestDatabase {
        let name = format!("test_{}", Uuid::now_v7().simple());
        let mut connection =
            PgConnection::connect(&server_url()).await.expect("the tests' PostgreSQL answers");
        let create = sqlx::AssertSqlSafe(format!("create database {name} template {template}"));
        sqlx::query(create).execute(&mut connection).await.unwrap();
        TestDatabase { url: database_url(&name), name }
    }
}

impl Drop for TestDatabase {
    /// Best effort, without waiting for it: the test's runtime, which ends after this value, may be in the middle of a
    /// log-in, and PostgreSQL drops no database before that has ended (`ProcSignalBarrier`).
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                if let Ok(mut connection) = PgConnection::connect(&server_url()).await {
                    drop_database(&mut connection, &name).await;
                }
            });
        });
    }
}

async fn drop_database(connection: &mut PgConnection, name: &str) {
    let sql = sqlx::AssertSqlSafe(format!("drop database if exists {name} with (force)"));
    let _ = sqlx::query(sql).execute(connection).await;
}

/// Drops databases that earlier runs have left: their names contain their age.
async fn drop_old_databases(connection: &mut PgConnection) {
    let hour_ago = salebell::clock::Clock::system().now() - chrono::TimeDelta::hours(1);
    let oldest = uuid::Timestamp::from_unix(uuid::NoContext, hour_ago.timestamp() as u64, 0);
    let limit = Uuid::new_v7(oldest).simple().to_string();
    let names: Vec<String> = sqlx::query_scalar(
        "select datname::text from pg_database where datname ~ '^(test|template)_[0-9a-f]{32}$'",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    for name in names.iter().filter(|name| name.rsplit('_').next().is_some_and(|id| id < limit.as_str())) {
        drop_database(connection, name).await;
    }
}

fn database_url(database: &str) -> String {
    let mut url = url::Url::parse(&server_url()).unwrap();
    url.set_path(database);
    url.into()
}

/// A migrated database from which the tests' databases are copied: a copy takes a tenth of the time of the migrations.
async fn template() -> &'static str {
    static TEMPLATE: tokio::sync::OnceCell<String> = tokio::sync::OnceCell::const_new();
    TEMPLATE
        .get_or_init(|| async {
            let name = format!("template_{}", Uuid::now_v7().simple());
            let mut connection =
                PgConnection::connect(&server_url()).await.expect("the tests' PostgreSQL answers");
            drop_old_databases(&mut connection).await;
            let create = sqlx::AssertSqlSafe(format!("create database {name}"));
            sqlx::query(create).execute(&mut connection).await.unwrap();
            let pool = sqlx::PgPool::connect(&database_url(&name)).await.unwrap();
            store::migrator().run(&pool).await.unwrap();
            pool.close().await;
            name
        })
        .await
}
