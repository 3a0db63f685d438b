-- Records the results of many tries: what becomes of their deliveries, and of their channels.
--
-- $1 ids, $2 attempts before each, $3 succeeded, $4 gone, $5 when they were sent, $6 the tries themselves,
-- $7 next tries (null: none), $8 now, $9 a channel that fails since then is disabled, $10 how many tries are kept,
-- $11 failed on our side
with result as materialized (
    select *
    from unnest($1::uuid[], $2::integer[], $3::boolean[], $4::boolean[], $5::timestamptz[], $6::jsonb[],
        $7::timestamptz[], $11::boolean[]) as r (id, attempts, succeeded, gone, at, tried, next_at, failed_here)
),
-- Where another has tried since, after a lease was lost, a failure is no news; but what has arrived has arrived.
recorded as (
    update deliveries d
    set attempts = d.attempts + 1,
        tries = case when jsonb_array_length(d.tries) < $10 then d.tries else d.tries - 0 end || r.tried,
        state = case when r.succeeded then 'delivered' when r.next_at is null then 'dead' else 'pending' end,
        reason = case
            when r.succeeded or r.next_at is not null then null
            when r.gone then 'gone'
            else 'no_tries_left'
        end,
        finished_at = case when r.next_at is null then $8::timestamptz end
    from result r
    where d.id = r.id and d.state = 'pending' and (r.succeeded or d.attempts = r.attempts)
    returning d.id, d.channel_id, d.attempts, r.next_at, r.succeeded, r.gone, r.at, r.failed_here
),
planned as (
    update delivery_queue q set next_attempt_at = r.next_at, attempts = r.attempts
    from recorded r
    where r.next_at is not null and q.delivery_id = r.id
        -- by key, however many the planner takes them for
        and q.delivery_id = any (array(select id from recorded where next_at is not null))
),
-- What is finished leaves the queue; also when another has finished it while we were at it.
unrecorded as materialized (
    select id from result except all select id from recorded
),
finished as (
    delete from delivery_queue
    where delivery_id = any (array(
        select id from recorded where next_at is null
        union all
        select u.id
        from unrecorded u left join lateral (select state from deliveries where id = u.id limit 1) d on true
        where d.state is distinct from 'pending'
    ))
),
verdict as materialized (
    select channel_id, bool_or(succeeded) as succeeded, bool_or(gone) as gone, min(at) as at
    from recorded
    where not failed_here
    group by channel_id
),
-- In the order of their ids, so that two workers never wait for each other; and only those that change.
affected as materialized (
    select c.id, v.succeeded, v.at,
        case
            when c.state = 'disabled' then null
            when v.gone then 'gone'
            when not v.succeeded and c.failing_since <= $9 then 'failing'
        end as disabled_for
    from channels c join verdict v on v.channel_id = c.id
    where c.id = any (array(select channel_id from verdict))
        and (v.gone or v.succeeded = (c.failing_since is not null)
            or (not v.succeeded and c.failing_since <= $9::timestamptz))
    order by c.id
    for no key update of c
),
changed as (
    update channels c
    set failing_since = case when a.succeeded then null else coalesce(c.failing_since, a.at) end,
        state = case when a.disabled_for is null then c.state else 'disabled' end,
        disabled_reason = coalesce(a.disabled_for, c.disabled_reason)
    from affected a
    where c.id = a.id and c.id = any (array(select id from affected))
)
select id, disabled_for as "reason!: DisabledReason" from affected where disabled_for is not null
