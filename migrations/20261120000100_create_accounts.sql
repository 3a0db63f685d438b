-- Who calls: one account for each subject of each token issuer, made on first sight.
create table accounts (
    id          uuid primary key,
    issuer      text not null,
    subject     text not null,
    created_at  timestamptz not null,
    constraint accounts_issuer_subject_key unique (issuer, subject)
);

-- API keys for machines. Only the SHA-256 of a key is kept; `hint` is what a person recognises it by.
create table api_keys (
    id            uuid primary key,
    account_id    uuid not null references accounts on delete cascade,
    name          text not null,
    hint          text not null,
    digest        bytea not null,
    scopes        text[] not null,
    created_at    timestamptz not null,
    expires_at    timestamptz,
    last_used_at  timestamptz,
    constraint api_keys_digest_key unique (digest)
);
create index api_keys_by_account on api_keys (account_id, id);

-- Idempotency-Key (draft-ietf-httpapi-idempotency-key-header-07): the answer to a POST, kept for its repetition.
-- A row without `status` is a request in flight; it may be taken over once `locked_until` has passed.
create table idempotency_keys (
    account_id    uuid not null references accounts on delete cascade,
    key           text not null,
    route         text not null,
    body_digest   bytea,
    locked_until  timestamptz not null,
    status        smallint,
    headers       jsonb,
    body          bytea,
    created_at    timestamptz not null,
    primary key (account_id, key)
);
create index idempotency_keys_by_age on idempotency_keys (created_at);
