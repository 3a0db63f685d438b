-- Imports: files that are read into observations. Each is a batch too, of the same id: what became of its
-- observations is counted there.
create table imports (
    id                 uuid primary key,
    account_id         uuid not null references accounts on delete cascade,
    -- Without a foreign key: the import is told of for longer than the file lives.
    file_id            uuid not null,
    file_name          text not null,
    -- how it is read: format, columns, constants
    options            jsonb not null,
    backfill           boolean not null,
    may_create_stores  boolean not null,
    -- sent: all of it is on the bus; whether it is recorded, its batch knows
    state              text not null default 'queued' check (state in ('queued', 'reading', 'sent', 'failed', 'cancelled')),
    failure            text,
    -- Who reads it, until when without a sign of life.
    holder             uuid,
    leased_until       timestamptz,
    tries              integer not null default 0,
    -- How far the reading is: records, bytes as they are stored, of how many.
    rows_read          bigint not null default 0,
    bytes_read         bigint not null default 0,
    bytes_total        bigint not null,
    refused            bigint not null default 0,
    -- What a successor need not send again: portions of the input, and the messages that they became.
    portions_sent      integer not null default 0,
    parts_sent         integer not null default 0,
    accepted           bigint not null default 0,
    created_at         timestamptz not null,
    started_at         timestamptz,
    finished_at        timestamptz
);
create index imports_by_account on imports (account_id, id desc);
create index imports_to_read on imports (id) where state in ('queued', 'reading');

-- Rows of the input that could not be taken, by their line.
create table import_refusals (
    import_id  uuid not null references imports on delete cascade,
    line       bigint not null,
    reason     text not null,
    primary key (import_id, line)
);
