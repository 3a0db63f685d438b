//! Channels, and notices on their way to them as the dispatch leaves them.

use reqwest::Method;
use salebell::domain::ids::DeliveryId;
use salebell::store::delivery_queue;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{TestApp, User};

/// An answer: status, entity tag and body (null when it is empty).
pub struct Answered {
    pub status: u16,
    pub etag: Option<String>,
    pub body: Value,
}

/// A channel with its secret.
pub struct Hook {
    pub id: Uuid,
    pub secret: String,
}

/// A watch of a game on sale, and the deliveries that it has caused.
pub struct Rung {
    pub game: Uuid,
    pub offer: Uuid,
    pub sale: Uuid,
    pub watch: Uuid,
    pub notice: Uuid,
    /// One delivery for each channel.
    pub deliveries: Vec<Uuid>,
}

impl TestApp {
    /// Sends a request with a JSON body (none: null) and reads the answer.
    pub async fn call(&self, user: &User, method: Method, path: &str, body: Value) -> Answered {
        let mut request = self.request(method, path).bearer_auth(&user.token);
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let etag = response.headers().get("etag").map(|etag| etag.to_str().unwrap().to_owned());
        let bytes = response.bytes().await.unwrap();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        Answered { status, etag, body }
    }

    /// Sends a GET that must succeed.
    pub async fn see(&self, user: &User, path: &str) -> Value {
        let answered = self.call(user, Method::GET, path, Value::Null).await;
        assert_eq!(answered.status, 200, "{path}: {}", answered.body);
        answered.body
    }

    /// Makes a webhook channel.
    pub async fn hook(&self, user: &User, url: &str) -> Hook {
        let body = json!({"kind": "webhook", "name": "mine", "url": url});
        let made = self.call(user, Method::POST, "/v1/channels", body).await;
        assert_eq!(made.status, 201, "{}", made.body);
        Hook {
            id: made.body["id"].as_str().unwrap().parse().unwrap(),
            secret: made.body["secret"].as_str().unwrap().to_owned(),
        }
    }

    /// Current state of a delivery.
    pub async fn delivery(&self, user: &User, id: Uuid) -> Value {
        self.see(user, &format!("/v1/deliveries/{id}")).await
    }

    /// Makes a sale at 9.99 of 19.99 EUR, a watch for at most 12.00 EUR, and a notice on its way to `channels`.
    pub async fn ring(&self, user: &User, channels: &[Uuid]) -> Rung {
        let [game, store, offer, sale, watch, notice] = [(); 6].map(|()| Uuid::now_v7());
        let now = self.state.clock.now();
        for text in [
            "insert into stores (id, slug, name, created_at, updated_at)
             select $2, 'shop-' || $2, 'Shop', $7, $7 where ($1, $3, $4, $5, $6, $8) is not null",
            "insert into games (id, title, normalised_title, created_at, updated_at)
             select $1, 'The Witcher® 3', 'the witcher 3', $7, $7 where ($2, $3, $4, $5, $6, $8) is not null",
            "insert into offers (id, game_id, store_id, sku, region, platform, url, currency, amount, regular,
                observed_at, low, low_at, sale_id, created_at, updated_at)
             select $3, $1, $2, 'sku', 'DE', 'windows', 'https://shop.example/3', 'EUR', 999, 1999,
                $7, 999, $7, $4, $7, $7 where ($5, $6, $8) is not null",
            "insert into sales (id, offer_id, game_id, store_id, region, platform, currency, amount, regular, cut,
                new_low, started_at, changed_at)
             select $4, $3, $1, $2, 'DE', 'windows', 'EUR', 999, 1999, 50, true, $7, $7
             where ($5, $6, $8) is not null",
            "insert into watches (id, account_id, game_id, rule, target_amount, target_currency, created_at, updated_at)
             select $5, $8, $1, 'price_at_most', 1200, 'EUR', $7, $7 where ($2, $3, $4, $6) is not null",
            "insert into notices (id, account_id, watch_id, sale_id, event_id, event_kind, game_id, offer_id, currency,
                amount, regular, cut, new_low, created_at)
             select $6, $8, $5, $4, $6, 'sale.started', $1, $3, 'EUR', 999, 1999, 50, true, $7
             where $2 is not null",
        ] {
            let mut query = sqlx::query(text);
            for id in [game, store, offer, sale, watch, notice] {
                query = query.bind(id);
            }
            query.bind(now).bind(user.account).execute(&self.state.writer).await.unwrap();
        }
        let deliveries = self.send_out(user, notice, channels).await;
        Rung { game, offer, sale, watch, notice, deliveries }
    }

    /// Makes further notices of the same watch with a delivery to `channel` each: one SQL statement for many.
    pub async fn ring_again(&self, user: &User, rung: &Rung, channel: Uuid, count: i32) -> Vec<Uuid> {
        let mut connection = self.state.writer.acquire().await.unwrap();
        let now = self.state.clock.now();
        let made: Vec<Uuid> = sqlx::query_scalar(
            "with fresh as (
                insert into notices (id, account_id, watch_id, sale_id, event_id, event_kind, game_id, offer_id,
                    currency, amount, regular, cut, new_low, created_at)
                select uuid_v7($6), account_id, watch, sale_id, event_id, event_kind, game_id, offer_id,
                    currency, amount, regular, cut, new_low, $6
                from notices, lateral (
                    -- a watch and a sale have one notice, so each has a watch of its own
                    select gen_random_uuid() as watch from generate_series(1, $3) where notices.id is not null) w
                where id = $2
                returning id, watch_id
            ),
            watching as (
                insert into watches (id, account_id, game_id, rule, created_at, updated_at)
                select fresh.watch_id, $1, $5, 'any_sale', $6, $6 from fresh
            )
            insert into deliveries (id, notice_id, channel_id, account_id, created_at)
            select uuid_v7($6), fresh.id, $4, $1, $6 from fresh
            returning id",
        )
        .bind(user.account)
        .bind(rung.notice)
        .bind(count)
        .bind(channel)
        .bind(rung.game)
        .bind(now)
        .fetch_all(&mut *connection)
        .await
        .unwrap();
        let ids: Vec<DeliveryId> = made.iter().copied().map(DeliveryId).collect();
        delivery_queue::queue_again(&mut connection, &ids, now).await.unwrap();
        made
    }

    async fn send_out(&self, user: &User, notice: Uuid, channels: &[Uuid]) -> Vec<Uuid> {
        let mut connection = self.state.writer.acquire().await.unwrap();
        let now = self.state.clock.now();
        let mut deliveries = Vec::new();
        for channel in channels {
            let id = Uuid::now_v7();
            sqlx::query(
                "insert into deliveries (id, notice_id, channel_id, account_id, created_at) values ($1, $2, $3, $4, $5)",
            )
            .bind(id)
            .bind(notice)
            .bind(channel)
            .bind(user.account)
            .bind(now)
            .execute(&mut *connection)
            .await
            .unwrap();
            deliveries.push(id);
        }
        let ids: Vec<DeliveryId> = deliveries.iter().copied().map(DeliveryId).collect();
        delivery_queue::queue_again(&mut connection, &ids, now).await.unwrap();
        sqlx::query(
            "update delivery_queue set traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
             where delivery_id = any($1)",
        )
        .bind(&deliveries)
        .execute(&mut *connection)
        .await
        .unwrap();
        deliveries
    }

    /// Puts a delivery into the state after ten attempts or a cancellation.
    pub async fn finish(&self, delivery: Uuid, state: &str, reason: Option<&str>) {
        sqlx::query(
            "with finished as (
                update deliveries set state = $2, reason = $3, attempts = 10, finished_at = $4 where id = $1
            )
            delete from delivery_queue where delivery_id = $1",
        )
        .bind(delivery)
        .bind(state)
        .bind(reason)
        .bind(self.state.clock.now())
        .execute(&self.state.writer)
        .await
        .unwrap();
    }
}
