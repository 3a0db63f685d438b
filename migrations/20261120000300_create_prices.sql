-- The changes of every offer's price, by month of observation. Before 2024: one partition for all.
create table price_history (
    offer_id     uuid not null,
    observed_at  timestamptz not null,
    currency     text not null,
    amount       bigint not null,
    regular      bigint not null,
    primary key (offer_id, observed_at)
) partition by range (observed_at);

create table price_history_old partition of price_history for values from (minvalue) to ('2024-01-01 00:00:00+00');

-- Makes every monthly partition up to the month of `until`. Safe to repeat and to run twice at once.
create function ensure_price_history_partitions(until timestamptz) returns integer language plpgsql as $$
declare
    month timestamptz := '2024-01-01 00:00:00+00';
    name text;
    made integer := 0;
begin
    perform pg_advisory_xact_lock(hashtext('price_history partitions'));
    while month <= until loop
        name := 'price_history_' || to_char(month at time zone 'UTC', 'YYYY_MM');
        if to_regclass(name) is null then
            execute format('create table %I partition of price_history for values from (%L) to (%L)',
                name, month, (month at time zone 'UTC' + interval '1 month') at time zone 'UTC');
            made := made + 1;
        end if;
        month := (month at time zone 'UTC' + interval '1 month') at time zone 'UTC';
    end loop;
    return made;
end $$;
select ensure_price_history_partitions(now() + interval '6 months');

-- A sale is the stretch in which an offer's price is below its regular price. The open ones are the deals, so
-- what deals are filtered and sorted by is kept here too.
create table sales (
    id           uuid primary key,
    offer_id     uuid not null references offers on delete cascade,
    game_id      uuid not null,
    store_id     uuid not null,
    region       text not null,
    platform     text,
    currency     text not null,
    amount       bigint not null,
    regular      bigint not null,
    cut          smallint not null,
    new_low      boolean not null,
    started_at   timestamptz not null,
    changed_at   timestamptz not null,
    ends_at      timestamptz,
    ended_at     timestamptz
);
create index sales_by_offer on sales (offer_id, started_at);
create index deals_by_cut on sales (cut desc, id desc) where ended_at is null;
create index deals_by_price on sales (currency, amount, id) where ended_at is null;
create index deals_by_start on sales (started_at desc, id desc) where ended_at is null;
create index deals_of_store_by_cut on sales (store_id, cut desc, id desc) where ended_at is null;
create index deals_of_store_by_price on sales (store_id, currency, amount, id) where ended_at is null;
create index deals_of_store_by_start on sales (store_id, started_at desc, id desc) where ended_at is null;

-- Observations that look like a glitch. They take effect when a second one agrees, or an operator says so.
create table quarantined_prices (
    id           uuid primary key,
    offer_id     uuid not null references offers on delete cascade,
    currency     text not null,
    amount       bigint not null,
    regular      bigint not null,
    observed_at  timestamptz not null,
    backfill     boolean not null,
    reason       text not null,
    state        text not null default 'held' check (state in ('held', 'confirmed', 'released', 'discarded')),
    created_at   timestamptz not null,
    resolved_at  timestamptz
);
create unique index quarantined_prices_held_key on quarantined_prices (offer_id, currency, amount, regular) where state = 'held';
create index quarantined_prices_by_state on quarantined_prices (state, id desc);

-- What one report of prices was accepted as. `parts` is known once the report has been read to its end.
create table batches (
    id          uuid primary key,
    account_id  uuid not null references accounts on delete cascade,
    created_at  timestamptz not null,
    closed_at   timestamptz,
    parts       integer,
    accepted    bigint not null default 0,
    rejected    bigint not null default 0
);
create index batches_by_account on batches (account_id, id desc);
create index batches_by_age on batches (created_at);

-- One row for each recorded message of a batch, written with its prices: a message that comes twice counts once.
create table batch_parts (
    batch_id     uuid not null,
    part         integer not null,
    recorded_at  timestamptz not null,
    recorded     integer not null,
    unchanged    integer not null,
    stale        integer not null,
    quarantined  integer not null,
    failed       integer not null,
    new_lows     integer not null,
    transitions  jsonb not null,
    primary key (batch_id, part)
);

-- The bus "prices" where there is no SQS. `receipt` is who holds the message until `visible_at`.
create table bus_messages (
    id          uuid primary key,
    topic       text not null,
    payload     bytea not null,
    sent_at     timestamptz not null,
    visible_at  timestamptz not null,
    receives    smallint not null default 0,
    receipt     uuid,
    dead_at     timestamptz,
    failure     text
);
alter table bus_messages alter column payload set storage external;
create index bus_messages_waiting on bus_messages (topic, visible_at) where dead_at is null;
create index bus_messages_dead on bus_messages (topic, dead_at) where dead_at is not null;

-- The outbox: one event for each transition, written with the price. `rings` is false for what no watch can want
-- (backfill, the end of a sale); `last_watch_id` is how far the dispatch of a large event has come.
create table events (
    id              uuid primary key,
    kind            text not null,
    offer_id        uuid not null,
    game_id         uuid not null,
    sale_id         uuid,
    currency        text not null,
    amount          bigint not null,
    regular         bigint not null,
    previous_amount bigint,
    cut             smallint not null,
    new_low         boolean not null,
    observed_at     timestamptz not null,
    recorded_at     timestamptz not null,
    traceparent     text,
    rings           boolean not null,
    leased_until    timestamptz,
    last_watch_id   uuid,
    dispatched_at   timestamptz
);
create index events_to_dispatch on events (id) where rings and dispatched_at is null;
create index events_by_age on events (recorded_at);
