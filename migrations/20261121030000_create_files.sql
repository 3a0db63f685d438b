-- Files: rows here, bytes in a store of blobs. A row and its places come before the bytes and go after them.
create table files (
    id            uuid primary key,
    account_id    uuid not null references accounts on delete cascade,
    name          text not null,
    media_type    text not null,
    -- removing: nobody sees it any more, and its bytes are on their way out
    state         text not null default 'uploading' check (state in ('uploading', 'complete', 'removing')),
    -- bytes; null until a client tells
    length        bigint check (length >= 0),
    -- How many bytes are there for good: the offset that clients are told.
    stored        bigint not null default 0 check (stored >= 0),
    -- The SHA-256 of those, not finished, so that any instance goes on with it.
    hash_state    bytea,
    sha256        bytea,
    -- tus: `Upload-Metadata` as it was given; whether it is a part of another, or put together of others
    metadata      text not null default '',
    concat        text check (concat in ('partial', 'final')),
    -- The request that writes. Null: none, and the last one ended well.
    writer        uuid,
    created_at    timestamptz not null,
    updated_at    timestamptz not null,
    completed_at  timestamptz,
    -- When it goes once it is complete; `expires_at` is sooner while it is not.
    keep_until    timestamptz not null,
    expires_at    timestamptz not null,
    constraint files_live_less_than_fourteen_days
        check (keep_until < created_at + interval '14 days' and expires_at <= keep_until),
    constraint files_are_whole_when_complete
        check (state <> 'complete' or (length is not null and stored = length and sha256 is not null))
);
create index files_by_account on files (account_id, id desc);
create index files_by_expiry on files (expires_at, id);
create index files_removing on files (id) where state = 'removing';

-- Where a file's bytes are, in their order. Files that were put together share pieces with their parts.
create table file_pieces (
    file_id   uuid not null references files on delete cascade,
    start_at  bigint not null,
    length    bigint not null default 0 check (length >= 0),
    -- as the store names it
    place     text not null,
    primary key (file_id, start_at)
);
create index file_pieces_by_place on file_pieces (place);

-- Addresses under which anybody may fetch a file.
create table file_links (
    id               uuid primary key,
    file_id          uuid not null references files on delete cascade,
    -- SHA-256 of the token
    digest           bytea not null unique,
    created_at       timestamptz not null,
    expires_at       timestamptz not null,
    max_downloads    integer check (max_downloads > 0),
    downloads        integer not null default 0,
    -- Bytes asked for by requests that begin behind the first byte: a limited link gives no more of them than
    -- its downloads could have left open.
    continued_bytes  bigint not null default 0
);
create index file_links_by_file on file_links (file_id, id desc);
