-- Jobs that run once in the whole fleet: a row with its next time and a lease.
create table jobs (
    name          text primary key,
    next_at       timestamptz not null,
    leased_until  timestamptz,
    finished_at   timestamptz,
    failure       text
);
