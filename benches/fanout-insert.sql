-- The same rows as the dispatch makes, in one statement without slices.
with made as (
    insert into notices (id, account_id, watch_id, sale_id, event_id, event_kind, game_id, offer_id, currency, amount,
        regular, cut, new_low, created_at)
    select uuid_v7(now()), w.account_id, w.id, e.sale_id, e.id, e.kind, e.game_id, e.offer_id, e.currency, e.amount,
        e.regular, e.cut, e.new_low, now()
    from events e join watches w on w.game_id = e.game_id
        and w.target_currency = e.currency and e.amount <= w.target_amount
    returning id, account_id, watch_id, sale_id, event_kind
),
addressed as (
    select uuid_v7(now()) as id, n.id as notice_id, c.id as channel_id, n.account_id, n.watch_id, n.sale_id, n.event_kind
    from made n join channels c on c.account_id = n.account_id and c.state = 'active'
),
sent as (
    insert into deliveries (id, notice_id, channel_id, account_id, created_at)
    select id, notice_id, channel_id, account_id, now() from addressed
)
insert into delivery_queue (delivery_id, channel_id, next_attempt_at, attempts, schedule_from, notice_id, watch_id, sale_id,
    event_kind, noticed_at)
select id, channel_id, now() + interval '1 day', 0, 0, notice_id, watch_id, sale_id, event_kind, now() from addressed;
