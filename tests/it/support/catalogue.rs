//! Stores, games and offers for tests, and helpers to read lists.

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{TestApp, User};

/// An answer: status, headers and body (null when it is empty).
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn id(&self) -> Uuid {
        assert!(self.status.is_success(), "{}: {}", self.status, self.body);
        self.body["id"].as_str().unwrap().parse().unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// Pointers to the refused values.
    pub fn pointers(&self) -> Vec<&str> {
        self.body["errors"]
            .as_array()
            .map(|errors| errors.iter().map(|error| error["pointer"].as_str().unwrap()).collect())
            .unwrap_or_default()
    }
}

/// Sends a request and reads the answer.
pub async fn answer(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = response.bytes().await.unwrap();
    let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
    Answer { status, headers, body }
}

/// An open sale of an offer, as the recorder leaves it. Amounts in minor units of EUR.
pub struct Price {
    pub currency: &'static str,
    pub amount: i64,
    pub regular: i64,
    pub new_low: bool,
    pub observed_at: DateTime<Utc>,
}

impl TestApp {
    pub async fn librarian(&self) -> User {
        self.user("librarian", &["catalogue:write"]).await
    }

    /// Sends a GET that must succeed.
    pub async fn read(&self, path: &str) -> Value {
        let answer = answer(self.get(path)).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.body
    }

    /// Every item of a list, page by page.
    pub async fn read_all(&self, path: &str, limit: usize) -> Vec<Value> {
        let (mut items, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let (separator, after) =
                (if path.contains('?') { '&' } else { '?' }, cursor.map(|c| format!("&cursor={c}")));
            let page =
                self.read(&format!("{path}{separator}limit={limit}{}", after.unwrap_or_default())).await;
            let found = page["items"].as_array().unwrap();
            assert!(found.len() <= limit);
            items.extend(found.iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => {
                    assert_eq!(found.len(), limit, "a page that is not full has no next one");
                    cursor = Some(next.to_owned());
                }
                None => return items,
            }
        }
    }

    pub async fn create(&self, user: &User, path: &str, body: Value) -> Answer {
        answer(self.post(path).bearer_auth(&user.token).json(&body)).await
    }

    pub async fn new_store(&self, user: &User, name: &str) -> Uuid {
        self.create(user, "/v1/stores", json!({ "name": name })).await.id()
    }

    pub async fn new_game(&self, user: &User, title: &str) -> Uuid {
        self.create(user, "/v1/games", json!({ "title": title })).await.id()
    }

    pub async fn new_offer(&self, user: &User, game: Uuid, store: Uuid, region: &str) -> Uuid {
        let body = json!({"game_id": game, "store": store, "sku": Uuid::now_v7(), "region": region});
        self.create(user, "/v1/offers", body).await.id()
    }

    /// Gives an offer a price, with its history and its sale, as the recorder leaves them.
    pub async fn set_price(&self, offer: Uuid, price: &Price) {
        let on_sale = price.amount < price.regular;
        let sale = on_sale.then(Uuid::now_v7);
        let cut = salebell::domain::money::cut_percent(price.amount, price.regular);
        let mut transaction = self.state.writer.begin().await.unwrap();
        for (text, needs_sale) in [
            ("update sales set ended_at = $6 where offer_id = $1 and ended_at is null and ($2, $3, $4, $5, $7, $8) is not null", false),
            ("update offers set currency = $2, amount = $3, regular = $4, sale_id = $5, observed_at = $6,
                low = least(low, $3), low_at = case when low <= $3 then low_at else $6 end
              where id = $1 and ($7, $8) is not null", false),
            ("insert into price_history (offer_id, currency, amount, regular, observed_at)
              select $1, $2, $3, $4, $6 where ($5, $7, $8) is not null on conflict do nothing", false),
            ("insert into sales (id, offer_id, game_id, store_id, region, platform, currency, amount, regular,
                cut, new_low, started_at, changed_at)
              select $5, id, game_id, store_id, region, platform, $2, $3, $4, $7, $8, $6, $6
              from offers where id = $1", true),
        ] {
            if needs_sale && !on_sale {
                continue;
            }
            sqlx::query(text)
                .bind(offer)
                .bind(price.currency)
                .bind(price.amount)
                .bind(price.regular)
                .bind(sale)
                .bind(price.observed_at)
                .bind(cut)
                .bind(price.new_low)
                .execute(&mut *transaction)
                .await
                .unwrap();
        }
        transaction.commit().await.unwrap();
    }

    /// Time `minutes` after the beginning of 2026.
    pub fn minute(&self, minutes: i64) -> DateTime<Utc> {
        "2026-01-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(minutes)
    }
}
