-- One game on sale, :watches accounts that watch it, a channel each, and the event that nobody has dispatched.
-- The channels are due tomorrow at the earliest: their watches are daily.
insert into stores (id, slug, name, created_at, updated_at) values
    ('00000000-0000-7000-8000-000000000001', 'bench', 'Bench', now(), now());
insert into games (id, title, normalised_title, match_title, created_at, updated_at) values
    ('00000000-0000-7000-8000-000000000002', 'Game', 'game', 'game', now(), now());
insert into offers (id, game_id, store_id, sku, region, created_at, updated_at, currency, amount, regular, observed_at,
    low, low_at, sale_id) values
    ('00000000-0000-7000-8000-000000000003', '00000000-0000-7000-8000-000000000002',
    '00000000-0000-7000-8000-000000000001', 'sku', 'ZZ', now(), now(), 'EUR', 999, 1999, now(), 999, now(),
    '00000000-0000-7000-8000-000000000004');
insert into sales (id, offer_id, game_id, store_id, region, currency, amount, regular, cut, new_low, started_at,
    changed_at) values
    ('00000000-0000-7000-8000-000000000004', '00000000-0000-7000-8000-000000000003',
    '00000000-0000-7000-8000-000000000002', '00000000-0000-7000-8000-000000000001', 'ZZ', 'EUR', 999, 1999, 50, true,
    now(), now());
insert into events (id, kind, offer_id, game_id, sale_id, currency, amount, regular, previous_amount, cut, new_low,
    observed_at, recorded_at, rings) values
    ('00000000-0000-7000-8000-000000000005', 'sale.started', '00000000-0000-7000-8000-000000000003',
    '00000000-0000-7000-8000-000000000002', '00000000-0000-7000-8000-000000000004', 'EUR', 999, 1999, 1999, 50, true,
    now(), now(), true);
insert into accounts (id, issuer, subject, created_at)
select uuid_v7(now()), 'bench', i::text, now() from generate_series(1, :watches) i;
insert into channels (id, account_id, kind, name, url, secret, created_at, updated_at)
select uuid_v7(now()), id, 'webhook', 'bench', 'https://bench.invalid/', '', now(), now() from accounts;
insert into watches (id, account_id, game_id, rule, target_amount, target_currency, cadence, created_at, updated_at)
select uuid_v7(now()), id, '00000000-0000-7000-8000-000000000002', 'price_at_most', 1200, 'EUR', 'daily', now(), now()
from accounts;
