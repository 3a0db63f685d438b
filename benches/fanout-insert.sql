-- The same rows as the dispatch makes, in one statement without slices.
with made as (
    insert into notices (id, account_id, watch_id, sale_id, event_id, event_kind, game_id, offer_id, currency, amount,
        regular, cut, new_low, created_at)
    select uuid_v7(now()), w.account_id, w.id, e.sale_id, e.id, e.kind, e.game_id, e.offer_id, e.currency, e.amount,
        e.regular, e.cut, e.new_low, now()
    from events e join watches w on w.game_id = e.game_id
        and w.target_currency = e.currency and e.amount <= w.target_amount
    returning id, account_id
)
insert into deliveries (id, notice_id, channel_id, account_id, next_attempt_at, created_at)
select uuid_v7(now()), n.id, c.id, n.account_id, now() + interval '1 day', now()
from made n join channels c on c.account_id = n.account_id and c.state = 'active';
