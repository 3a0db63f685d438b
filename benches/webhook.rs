//! 10,000 deliveries through the worker (claimed, judged, signed, sent, recorded) against a bare loop of reqwest that
//! sends the same bodies to the same sink with the same concurrency. The two alternate in one process. Run by
//! webhook.sh.

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use salebell::app::{App, AppState};
use salebell::clock::Clock;
use salebell::config::Config;
use salebell::domain::ids::ChannelId;
use salebell::secrets;
use salebell::store::{self, accounts, channels};
use salebell::worker::deliver;
use secrecy::ExposeSecret;
use sqlx::{Connection, PgConnection};

const DELIVERIES: usize = 10_000;
const CHANNELS: usize = 200;
const LIMIT: f64 = 0.5;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Requests that the sink has received; it keeps bodies only on request.
#[derive(Default)]
struct Received {
    count: AtomicUsize,
    kept: Mutex<Option<Vec<Bytes>>>,
}

fn main() -> Result<()> {
    let received = Arc::new(Received::default());
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn({
        let received = received.clone();
        move || run_sink(received, &tell)
    });
    let sink = told.recv()?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(compare(sink, received))
}

/// Runs a receiver on a thread of its own.
fn run_sink(received: Arc<Received>, tell: &std::sync::mpsc::Sender<SocketAddr>) -> Result<()> {
    async fn receive(State(received): State<Arc<Received>>, body: Bytes) -> StatusCode {
        if let Some(kept) = received.kept.lock().expect("no panic before").as_mut() {
            kept.push(body);
        }
        received.count.fetch_add(1, Ordering::SeqCst);
        StatusCode::NO_CONTENT
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        tell.send(listener.local_addr()?)?;
        let router = axum::Router::new().fallback(receive).with_state(received);
        Ok(axum::serve(listener, router).await?)
    })
}

async fn compare(sink: SocketAddr, received: Arc<Received>) -> Result<()> {
    let rounds: usize = std::env::var("ROUNDS").map_or(Ok(5), |rounds| rounds.parse())?;
    let url = format!("http://{sink}/hook");
    let app = make_app().await?;
    let concurrency = app.config.worker.deliver_concurrency;
    seed(&app, &url).await?;

    *received.kept.lock().expect("no panic before") = Some(Vec::new());
    through_worker(&app, &received).await?;
    let bodies = received.kept.lock().expect("no panic before").take().unwrap_or_default();
    let bytes: usize = bodies.iter().map(Bytes::len).sum();
    eprintln!(
        "[bench] {DELIVERIES} deliveries to {CHANNELS} channels, {concurrency} at once, {} bytes each",
        bytes / bodies.len()
    );
    let bodies = Arc::new(bodies);
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        let ours = through_worker(&app, &received).await?;
        let bare = bare_loop(&url, &bodies, concurrency).await?;
        ratios.push(ours / bare);
        eprintln!(
            "[bench] round {round}: worker {ours:.0}/s, bare loop {bare:.0}/s, ratio {:.2}",
            ours / bare
        );
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    let verdict = if median >= LIMIT { "held" } else { "MISSED" };
    println!("webhook: ratio {median:.2}, limit {LIMIT:.2}: {verdict}");
    Ok(())
}

/// Makes an app on a database of its own, with the settings of a worker that may call loopback.
async fn make_app() -> Result<App> {
    let server = std::env::var("SALEBELL_TEST_DATABASE_URL")?;
    let mut connection = PgConnection::connect(&server).await?;
    for sql in ["drop database if exists bench_webhook with (force)", "create database bench_webhook"] {
        sqlx::query(sql).execute(&mut connection).await?;
    }
    let mut url = url::Url::parse(&server)?;
    url.set_path("bench_webhook");
    let settings = HashMap::from([
        ("SALEBELL_DATABASE__URL", url.to_string()),
        ("SALEBELL_WEBHOOK__ALLOW_HTTP", "true".to_owned()),
        ("SALEBELL_WEBHOOK__ALLOW_NETWORKS", "127.0.0.0/8".to_owned()),
        ("SALEBELL_WEBHOOK__ENCRYPTION_KEYS", secrets::generate_key()?.expose_secret().to_owned()),
    ]);
    let settings = settings.into_iter().map(|(key, value)| (key.to_owned(), value));
    let app = AppState::new(Config::load(None, settings)?, Clock::system())?;
    store::migrate(&app.writer).await?;
    Ok(app)
}

/// Makes a sale, and as many watches of its game, notices and channels as there are deliveries.
async fn seed(app: &App, url: &str) -> Result<()> {
    let now = app.clock.now();
    let account = accounts::find_or_create_account(&app.writer, "bench", "bench", now).await?;
    for at in 0..CHANNELS {
        let id = ChannelId::now_v7();
        let sealed = app.keyring.seal_secret(id.0, &secrets::generate_webhook_secret()?)?;
        let name = format!("channel {at}");
        let new = channels::NewChannel {
            id,
            kind: channels::ChannelKind::Webhook,
            name: &name,
            url,
            sealed_secret: &sealed,
        };
        channels::create_channel(&app.writer, account, &new, i64::MAX, now).await?;
    }
    for sql in [
        "insert into stores (id, slug, name, created_at, updated_at)
         values (gen_random_uuid(), 'bench', 'Bench', now(), now())",
        "insert into games (id, title, normalised_title, match_title, created_at, updated_at)
         values (gen_random_uuid(), 'The Witcher® 3: Wild Hunt', 'the witcher 3 wild hunt', 'the witcher 3 wild hunt', now(), now())",
        "insert into offers (id, game_id, store_id, sku, region, platform, url, currency, amount, regular, observed_at,
            low, low_at, created_at, updated_at)
         select gen_random_uuid(), games.id, stores.id, 'sku', 'DE', 'windows', 'https://shop.example/game/292030',
            'EUR', 999, 3999, now(), 999, now(), now(), now() from games, stores",
        "insert into sales (id, offer_id, game_id, store_id, region, platform, currency, amount, regular, cut, new_low,
            started_at, changed_at)
         select gen_random_uuid(), id, game_id, store_id, region, platform, currency, amount, regular, 75, true, now(),
            now() from offers",
    ] {
        sqlx::query(sql).execute(&app.writer).await?;
    }
    sqlx::query(
        "insert into watches (id, account_id, game_id, rule, target_amount, target_currency, created_at, updated_at)
         select uuid_v7(now()), $1, games.id, 'price_at_most', 1200, 'EUR', now(), now()
         from games, generate_series(1, $2)",
    )
    .bind(account)
    .bind(DELIVERIES as i32)
    .execute(&app.writer)
    .await?;
    sqlx::query(
        "insert into notices (id, account_id, watch_id, sale_id, event_id, event_kind, game_id, offer_id, currency,
            amount, regular, cut, new_low, created_at)
         select uuid_v7(now()), w.account_id, w.id, s.id, s.id, 'sale.started', s.game_id, s.offer_id, s.currency,
            s.amount, s.regular, s.cut, s.new_low, now() from watches w, sales s",
    )
    .execute(&app.writer)
    .await?;
    Ok(())
}

/// Measures deliveries a second, until the last one is recorded.
async fn through_worker(app: &App, received: &Received) -> Result<f64> {
    for sql in [
        "update channels set lease_holder = null, leased_until = null",
        "truncate deliveries, delivery_queue",
        "insert into deliveries (id, notice_id, channel_id, account_id, created_at)
         select uuid_v7(now()), n.id, c.id, n.account_id, now()
         from (select id, account_id, row_number() over () as number from notices) n
         join (select id, row_number() over () as number, count(*) over () as count from channels) c
            on c.number = n.number % c.count + 1",
        "insert into delivery_queue (delivery_id, channel_id, next_attempt_at, attempts, schedule_from, notice_id,
            watch_id, sale_id, event_kind, noticed_at)
         select d.id, d.channel_id, d.created_at, 0, 0, n.id, n.watch_id, n.sale_id, n.event_kind, n.created_at
         from deliveries d join notices n on n.id = d.notice_id",
        "vacuum analyze",
        "checkpoint",
    ] {
        sqlx::query(sql).execute(&app.writer).await?;
    }
    received.count.store(0, Ordering::SeqCst);
    let began = Instant::now();
    let worker = tokio::spawn(deliver::run(app.clone()));
    while received.count.load(Ordering::SeqCst) < DELIVERIES {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    while sqlx::query_scalar::<_, bool>("select exists (select from delivery_queue)")
        .fetch_one(&app.writer)
        .await?
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let rate = DELIVERIES as f64 / began.elapsed().as_secs_f64();
    worker.abort();
    let delivered: i64 = sqlx::query_scalar(
        "select count(*) from deliveries
         where state = 'delivered' and jsonb_path_query_array(tries, '$[*].status') = '[204]'",
    )
    .fetch_one(&app.writer)
    .await?;
    if delivered != DELIVERIES as i64 {
        return Err(format!("{delivered} were delivered and recorded").into());
    }
    Ok(rate)
}

/// Measures requests a second.
async fn bare_loop(url: &str, bodies: &Arc<Vec<Bytes>>, concurrency: usize) -> Result<f64> {
    let client = reqwest::Client::new();
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let tasks = (0..concurrency).map(|_| {
        let (client, next, bodies, url) = (client.clone(), next.clone(), bodies.clone(), url.to_owned());
        tokio::spawn(async move {
            while let Some(body) = bodies.get(next.fetch_add(1, Ordering::SeqCst)) {
                let request = client.post(&url).header("content-type", "application/json").body(body.clone());
                request.send().await?.error_for_status()?.bytes().await?;
            }
            Ok::<_, reqwest::Error>(())
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await??;
    }
    Ok(bodies.len() as f64 / began.elapsed().as_secs_f64())
}
