-- Finds channels with due deliveries, in the order of their ids, and leases them.
--
-- $1 the channel after which the look-out begins, $2 now, $3 how many channels with something due are wanted,
-- $4 who asks, $5 until when new leases last, $6 a lease of ours that ends before this is renewed, $7 how many channels
-- are looked at

-- A loose index scan over delivery_queue_by_channel: one descent for each channel, whatever waits in it.
with recursive scan (channel_id, due, looked_at, due_channels) as (
    (
        select channel_id, next_attempt_at <= $2, 1, (next_attempt_at <= $2)::integer
        from delivery_queue
        where channel_id > $1
        order by channel_id, next_attempt_at
        limit 1
    )
    union all
    select next.channel_id, next.due, scan.looked_at + 1, scan.due_channels + next.due::integer
    from scan
    cross join lateral (
        select q.channel_id, q.next_attempt_at <= $2 as due
        from delivery_queue q
        where q.channel_id > scan.channel_id
        order by q.channel_id, q.next_attempt_at
        limit 1
    ) next
    where scan.looked_at < $7 and scan.due_channels < $3
),
scanned as materialized (
    select
        (array_agg(channel_id order by looked_at desc))[1] as last,
        coalesce(max(looked_at), 0) as looked_at,
        coalesce(max(due_channels), 0) as due_channels
    from scan
),
found as materialized (
    select
        c.id,
        c.state = 'active' as active,
        c.failing_since is not null as failing,
        c.url,
        c.secret,
        case when c.previous_secret_until > $2 then c.previous_secret end as previous_secret,
        coalesce(c.lease_holder = $4 and c.leased_until >= $6, false) as held
    from scan join channels c on c.id = scan.channel_id
    where scan.due and (c.lease_holder = $4 or c.leased_until is null or c.leased_until <= $2)
),
-- Another worker may have come first: what it holds is skipped, what it has leased meanwhile fails the conditions.
free as materialized (
    select c.id
    from channels c
    where c.id = any (array(select id from found where not held))
        and (c.lease_holder = $4 or c.leased_until is null or c.leased_until <= $2)
    for no key update skip locked
),
leased as (
    update channels c set lease_holder = $4, leased_until = $5
    from free where c.id = free.id
    returning c.id
)
select
    scanned.last as "last",
    scanned.looked_at < $7 and scanned.due_channels < $3 as "ended!",
    ours.id as "id?",
    ours.active as "active?",
    ours.failing as "failing?",
    ours.url as "url?",
    ours.secret as "secret?",
    ours.previous_secret as "previous_secret?"
from scanned
left join (
    select * from found where held
    union all
    select found.* from found join leased on leased.id = found.id
) ours on true
