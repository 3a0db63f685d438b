-- Exports: queries written into files by the worker.
create table exports (
    id            uuid primary key,
    account_id    uuid not null references accounts on delete cascade,
    -- what, as what, and which of it
    options       jsonb not null,
    state         text not null default 'queued' check (state in ('queued', 'writing', 'done', 'failed', 'cancelled')),
    failure       text,
    -- The file that is being written, or that it is.
    file_id       uuid,
    keep_until    timestamptz not null,
    holder        uuid,
    leased_until  timestamptz,
    tries         integer not null default 0,
    rows_written  bigint not null default 0,
    bytes_written bigint not null default 0,
    -- null: not known before the end
    rows_total    bigint,
    created_at    timestamptz not null,
    started_at    timestamptz,
    finished_at   timestamptz
);
create index exports_by_account on exports (account_id, id desc);
create index exports_to_write on exports (id) where state in ('queued', 'writing');
