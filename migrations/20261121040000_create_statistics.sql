-- What every account has done on every day (UTC): what the weekly statistics are made of. No foreign key: the service's
-- totals outlive an account. Files, batches and channels go; this stays.
create table activity (
    day         date not null,
    account_id  uuid not null,
    kind        text not null check (kind in ('upload', 'download', 'report', 'notice', 'delivery', 'login')),
    count       bigint not null,
    -- bytes of uploads and downloads, observations of reports, and how many of the deliveries arrived
    amount      bigint not null default 0,
    last_at     timestamptz not null,
    primary key (day, account_id, kind)
);

-- The statistics of one account in the ISO week that begins on the Monday `week`; made anew from `activity` at will.
create table weekly_statistics (
    account_id        uuid not null,
    week              date not null check (extract(isodow from week) = 1),
    uploads           bigint not null,
    uploaded_bytes    bigint not null,
    downloads         bigint not null,
    downloaded_bytes  bigint not null,
    reports           bigint not null,
    observations      bigint not null,
    watches           bigint not null,
    notices           bigint not null,
    deliveries        bigint not null,
    delivered         bigint not null,
    logins            bigint not null,
    -- By which the most active come first.
    actions           bigint not null generated always as
        (uploads + downloads + reports + notices + deliveries + logins) stored,
    primary key (account_id, week)
);
create index weekly_statistics_by_actions on weekly_statistics (week, actions desc, account_id desc);

-- And of the whole service.
create table weekly_totals (
    week              date primary key check (extract(isodow from week) = 1),
    computed_at       timestamptz not null,
    -- Accounts that have done anything in the week.
    accounts          bigint not null,
    uploads           bigint not null,
    uploaded_bytes    bigint not null,
    downloads         bigint not null,
    downloaded_bytes  bigint not null,
    reports           bigint not null,
    observations      bigint not null,
    watches           bigint not null,
    notices           bigint not null,
    deliveries        bigint not null,
    delivered         bigint not null,
    logins            bigint not null
);

-- An account's notices, deliveries and batches go with it; so they are counted once more before it goes.
create function count_what_goes_with_account() returns trigger language plpgsql as $$
begin
    insert into activity (day, account_id, kind, count, amount, last_at)
    select (n.created_at at time zone 'UTC')::date, old.id, 'notice', count(*), 0, max(n.created_at)
    from notices n where n.account_id = old.id group by 1
    union all
    select (d.created_at at time zone 'UTC')::date, old.id, 'delivery', count(*),
        count(*) filter (where d.state = 'delivered'), max(d.created_at)
    from notices n join deliveries d on d.notice_id = n.id where n.account_id = old.id group by 1
    union all
    select (b.created_at at time zone 'UTC')::date, old.id, 'report', count(*), sum(b.accepted)::bigint, max(b.created_at)
    from batches b where b.account_id = old.id and b.closed_at is not null group by 1
    on conflict (day, account_id, kind) do update set
        count = greatest(activity.count, excluded.count), amount = greatest(activity.amount, excluded.amount);
    return old;
end
$$;
create trigger accounts_are_counted before delete on accounts
    for each row execute function count_what_goes_with_account();

-- What is there was done before anybody counted.
insert into activity (day, account_id, kind, count, amount, last_at)
select (completed_at at time zone 'UTC')::date, account_id, 'upload', count(*), sum(length)::bigint, max(completed_at)
from files where completed_at is not null and concat is distinct from 'partial' group by 1, 2;
