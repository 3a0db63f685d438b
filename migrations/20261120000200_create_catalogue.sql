create extension if not exists pg_trgm;

create table stores (
    id          uuid primary key,
    slug        text not null,
    name        text not null,
    url         text,
    created_at  timestamptz not null,
    updated_at  timestamptz not null,
    constraint stores_slug_key unique (slug)
);

-- `normalised_title` is made by domain::title::normalise, for both the search and the matching of reported titles.
create table games (
    id                uuid primary key,
    title             text not null,
    normalised_title  text not null,
    released_on       date,
    publisher         text,
    url               text,
    search            tsvector not null generated always as (to_tsvector('simple', normalised_title)) stored,
    created_at        timestamptz not null,
    updated_at        timestamptz not null
);
create index games_by_normalised_title on games (normalised_title);
create index games_search on games using gin (search);
create index games_trigrams on games using gin (normalised_title gin_trgm_ops);

-- An offer and its current price in one row. No column that a price report changes is indexed, and pages keep
-- room, so that a report is a heap-only update.
create table offers (
    id             uuid primary key,
    game_id        uuid not null references games on delete cascade,
    store_id       uuid not null references stores on delete cascade,
    sku            text not null,
    region         text not null,
    platform       text,
    url            text,
    -- the current price; null until the first observation. Minor units of `currency`.
    currency       text,
    amount         bigint,
    regular        bigint,
    observed_at    timestamptz,
    low            bigint,
    low_at         timestamptz,
    sale_id        uuid,
    sale_ends_at   timestamptz,
    created_at     timestamptz not null,
    updated_at     timestamptz not null,
    constraint offers_store_sku_region_key unique (store_id, sku, region)
) with (fillfactor = 60);
create index offers_by_game on offers (game_id, id);
create index offers_by_store on offers (store_id, id);
