-- Makes every account's statistics of one week anew.
--
-- $1 its Monday, $2 the next Monday, $3 when it ends, $4 whether watches stay as they are
insert into weekly_statistics as known (account_id, week, uploads, uploaded_bytes, downloads, downloaded_bytes, reports,
    observations, watches, notices, deliveries, delivered, logins)
select account_id, $1,
    coalesce(sum(count) filter (where kind = 'upload'), 0),
    coalesce(sum(amount) filter (where kind = 'upload'), 0),
    coalesce(sum(count) filter (where kind = 'download'), 0),
    coalesce(sum(amount) filter (where kind = 'download'), 0),
    coalesce(sum(count) filter (where kind = 'report'), 0),
    coalesce(sum(amount) filter (where kind = 'report'), 0),
    coalesce(sum(count) filter (where kind = 'watch'), 0),
    coalesce(sum(count) filter (where kind = 'notice'), 0),
    coalesce(sum(count) filter (where kind = 'delivery'), 0),
    coalesce(sum(amount) filter (where kind = 'delivery'), 0),
    coalesce(sum(count) filter (where kind = 'login'), 0)
from (
    select account_id, kind, count, amount from activity where day >= $1::date and day < $2::date
    union all
    select account_id, 'watch', count(*), 0 from watches where created_at < $3 and not $4::boolean group by account_id
    union all
    -- What was there and is not any more becomes 0.
    select account_id, 'none', 0, 0 from weekly_statistics where week = $1
) done
group by account_id
order by account_id
on conflict (account_id, week) do update set
    uploads = excluded.uploads,
    uploaded_bytes = excluded.uploaded_bytes,
    downloads = excluded.downloads,
    downloaded_bytes = excluded.downloaded_bytes,
    reports = excluded.reports,
    observations = excluded.observations,
    watches = case when $4 then known.watches else excluded.watches end,
    notices = excluded.notices,
    deliveries = excluded.deliveries,
    delivered = excluded.delivered,
    logins = excluded.logins
-- Most have done nothing since the hour before.
where (known.uploads, known.uploaded_bytes, known.downloads, known.downloaded_bytes, known.reports, known.observations,
        known.notices, known.deliveries, known.delivered, known.logins)
    is distinct from (excluded.uploads, excluded.uploaded_bytes, excluded.downloads, excluded.downloaded_bytes,
        excluded.reports, excluded.observations, excluded.notices, excluded.deliveries, excluded.delivered,
        excluded.logins)
    or (not $4 and known.watches <> excluded.watches)
