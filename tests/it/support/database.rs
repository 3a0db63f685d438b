//! A database for each test.

use salebell::store;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

/// Where the tests' PostgreSQL is; `make test` starts one.
pub fn server_url() -> String {
    std::env::var("SALEBELL_TEST_DATABASE_URL").or_else(|_| std::env::var("DATABASE_URL")).expect(
        "SALEBELL_TEST_DATABASE_URL names a PostgreSQL whose user may create databases; run `make test`",
    )
}

/// A database of one test, dropped with it.
pub struct TestDatabase {
    pub url: String,
    name: String,
}

impl TestDatabase {
    /// Empty and migrated.
    pub async fn create() -> TestDatabase {
        TestDatabase::copy_of(template().await).await
    }

    /// Without our schema.
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
    fn drop(&mut self) {
        // Best effort: whatever is left goes with the tests' cluster.
        let (database, server) = (self.name.clone(), server_url());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                if let Ok(mut connection) = PgConnection::connect(&server).await {
                    let drop =
                        sqlx::AssertSqlSafe(format!("drop database if exists {database} with (force)"));
                    let _ = sqlx::query(drop).execute(&mut connection).await;
                }
            });
        })
        .join()
        .unwrap();
    }
}

fn database_url(database: &str) -> String {
    let mut url = url::Url::parse(&server_url()).unwrap();
    url.set_path(database);
    url.into()
}

/// A migrated database that the tests' databases are copied from: a copy takes a tenth of the migrations' time.
async fn template() -> &'static str {
    static TEMPLATE: tokio::sync::OnceCell<String> = tokio::sync::OnceCell::const_new();
    TEMPLATE
        .get_or_init(|| async {
            let name = format!("template_{}", std::process::id());
            let mut connection =
                PgConnection::connect(&server_url()).await.expect("the tests' PostgreSQL answers");
            for sql in
                [format!("drop database if exists {name} with (force)"), format!("create database {name}")]
            {
                sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
            }
            let pool = sqlx::PgPool::connect(&database_url(&name)).await.unwrap();
            store::migrate(&pool).await.unwrap();
            pool.close().await;
            name
        })
        .await
}
