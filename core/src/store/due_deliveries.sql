-- Reads what is due in channels that we have leased, and judges whether each may still be sent.
--
-- $1 channels, $2 how many deliveries of each to read, $3 now, $4 deliveries that we have in hand
--
-- The planner cannot know how little this is. `limit 1` keeps each look-up by a key the loop that it is written as,
-- and away from a hash of a whole table.
with due as materialized (
    select place.*
    from unnest($1::uuid[], $2::bigint[]) as wanted (channel_id, places)
    cross join lateral (
        select *
        from delivery_queue q
        where q.channel_id = wanted.channel_id and q.next_attempt_at <= $3
        order by q.next_attempt_at
        limit wanted.places
    ) place
    where not exists (select from unnest($4::uuid[]) as in_hand (id) where in_hand.id = place.delivery_id)
),
-- Many deliveries are about few sales.
sale as materialized (
    select s.id, s.currency, s.amount, s.cut, s.ended_at, s.ends_at, o.low
    from (select distinct sale_id from due) named
    cross join lateral (select * from sales where id = named.sale_id limit 1) s
    cross join lateral (select * from offers where id = s.offer_id limit 1) o
)
select
    due.delivery_id as "id!", due.channel_id as "channel_id!", due.attempts as "attempts!",
    due.schedule_from as "schedule_from!",
    -- what is of a high priority is due before there was a notice, to go first
    greatest(due.next_attempt_at, due.noticed_at) as "due_at!",
    due.traceparent as "traceparent?", due.notice_id as "notice_id!", due.noticed_at as "noticed_at!",
    due.event_at as "event_at?",
    due.event_kind as "event_kind!", due.watch_id as "watch_id!", due.sale_id as "sale_id!",
    case
        when w.id is null then 'watch_deleted'
        when w.paused then 'watch_paused'
        when sale.id is null or sale.ended_at is not null or sale.ends_at <= $3 then 'sale_ended'
        when w.rule = 'price_at_most'
            and not (sale.currency = w.target_currency and sale.amount <= w.target_amount)
            then 'price_no_longer_matches'
        when w.rule = 'cut_at_least' and sale.cut < w.target_cut then 'price_no_longer_matches'
        -- A low of 0 says that none is known.
        when w.rule = 'new_low' and sale.amount > sale.low and sale.low > 0 then 'price_no_longer_matches'
    end as "reason?: DeliveryReason"
from due
left join sale on sale.id = due.sale_id
left join lateral (select * from watches where id = due.watch_id limit 1) w on true
order by due.channel_id, due.next_attempt_at
