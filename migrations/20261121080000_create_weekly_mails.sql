-- Whom the report on a week is mailed to, and what became of it. A row is made once, and so is the mail.
create table weekly_mails (
    id            uuid primary key,
    week          date not null check (extract(isodow from week) = 1),
    recipient     text not null,
    state         text not null default 'waiting' check (state in ('waiting', 'sent', 'failed')),
    -- How often it was taken to be sent.
    tries         integer not null default 0,
    next_try_at   timestamptz not null,
    holder        uuid,
    leased_until  timestamptz,
    last_error    text,
    created_at    timestamptz not null,
    sent_at       timestamptz,
    unique (week, recipient)
);
create index weekly_mails_to_send on weekly_mails (next_try_at) where state = 'waiting';
