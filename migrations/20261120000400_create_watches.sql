-- UUIDv7 (RFC 9562) for rows that one statement makes by the thousand; PostgreSQL has its own only from 18 on.
create function uuid_v7(at timestamptz) returns uuid language sql volatile parallel safe as $$
    select encode(
        set_byte(
            overlay(uuid_send(gen_random_uuid())
                placing substring(int8send((extract(epoch from at) * 1000)::bigint) from 3) from 1 for 6),
            6, (get_byte(uuid_send(gen_random_uuid()), 6) & 15) | 112),
        'hex')::uuid
$$;

create table watches (
    id               uuid primary key,
    account_id       uuid not null references accounts on delete cascade,
    game_id          uuid not null references games on delete cascade,
    rule             text not null check (rule in ('any_sale', 'price_at_most', 'cut_at_least', 'new_low')),
    target_amount    bigint,
    target_currency  text,
    target_cut       smallint,
    -- scopes; null is "all"
    stores           uuid[],
    regions          text[],
    currency         text,
    platforms        text[],
    channels         uuid[],
    paused           boolean not null default false,
    cadence          text not null default 'immediate' check (cadence in ('immediate', 'daily')),
    priority         text not null default 'normal' check (priority in ('low', 'normal', 'high')),
    created_at       timestamptz not null,
    updated_at       timestamptz not null,
    constraint watches_rule_has_its_target check (
        (rule = 'price_at_most') = (target_amount is not null and target_currency is not null)
        and (rule = 'cut_at_least') = (target_cut is not null))
);
create index watches_by_game on watches (game_id, id) where not paused;
create index watches_by_account on watches (account_id, id desc);

create table channels (
    id                     uuid primary key,
    account_id             uuid not null references accounts on delete cascade,
    kind                   text not null check (kind in ('webhook')),
    name                   text not null,
    url                    text not null,
    state                  text not null default 'active' check (state in ('active', 'disabled')),
    disabled_reason        text,
    -- sealed by secrets::Keyring; the previous one still signs until `previous_secret_until`
    secret                 bytea not null,
    previous_secret        bytea,
    previous_secret_until  timestamptz,
    -- since when not one delivery has succeeded; null while all is well
    failing_since          timestamptz,
    created_at             timestamptz not null,
    updated_at             timestamptz not null
);
create index channels_by_account on channels (account_id, id desc);

-- What a watch and a sale produce: at most one for each pair, whatever is repeated or killed.
create table notices (
    id          uuid primary key,
    account_id  uuid not null references accounts on delete cascade,
    watch_id    uuid not null,
    sale_id     uuid not null,
    event_id    uuid not null,
    event_kind  text not null,
    game_id     uuid not null,
    offer_id    uuid not null,
    currency    text not null,
    amount      bigint not null,
    regular     bigint not null,
    cut         smallint not null,
    new_low     boolean not null,
    created_at  timestamptz not null,
    read_at     timestamptz,
    constraint notices_watch_sale_key unique (watch_id, sale_id)
);
create index notices_by_account on notices (account_id, id desc);
create index notices_unread on notices (account_id, id desc) where read_at is null;

-- One notice on its way to one channel.
create table deliveries (
    id               uuid primary key,
    notice_id        uuid not null references notices on delete cascade,
    channel_id       uuid not null references channels on delete cascade,
    account_id       uuid not null,
    state            text not null default 'pending' check (state in ('pending', 'delivered', 'dead', 'cancelled')),
    reason           text,
    attempts         integer not null default 0,
    next_attempt_at  timestamptz not null,
    leased_until     timestamptz,
    traceparent      text,
    created_at       timestamptz not null,
    finished_at      timestamptz,
    constraint deliveries_notice_channel_key unique (notice_id, channel_id)
);
create index deliveries_waiting on deliveries (channel_id, next_attempt_at) where state = 'pending';
create index deliveries_by_channel on deliveries (channel_id, id desc);

create table delivery_attempts (
    delivery_id    uuid not null references deliveries on delete cascade,
    number         smallint not null,
    attempted_at   timestamptz not null,
    duration_ms    integer not null,
    status         smallint,
    error          text,
    response       text,
    primary key (delivery_id, number)
);
