-- :offers offers that were seen once, at their regular price.
insert into stores (id, slug, name, created_at, updated_at) values (gen_random_uuid(), 'bench', 'Bench', now(), now());
insert into games (id, title, normalised_title, match_title, created_at, updated_at)
select uuid_v7(now()), 'Game ' || i, 'game ' || i, 'game ' || i, now(), now() from generate_series(1, :offers) i;
insert into offers (id, game_id, store_id, sku, region, created_at, updated_at, currency, amount, regular, observed_at,
    low, low_at)
select uuid_v7(now()), g.id, s.id, 'sku-' || substr(g.title, 6), 'ZZ', now(), now(), 'EUR', 1999, 1999,
    '2026-01-01T00:00:00Z', 1999, '2026-01-01T00:00:00Z'
from games g, stores s;
insert into price_history (offer_id, observed_at, currency, amount, regular)
select id, observed_at, currency, amount, regular from offers;
