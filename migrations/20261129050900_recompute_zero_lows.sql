-- Lows of 0 are from before giveaways did not count: makes them anew from the history; of the offers in `wanted`, or of all.
-- The version before goes on to write such lows while it runs. What it writes is made anew before the offer is judged the
-- next time, and once a day.
create function recompute_zero_lows(wanted uuid[]) returns bigint language plpgsql as $$
declare
    changed bigint;
begin
    -- In the order in which workers lock them. The next statement sees what those have written for which this one waits.
    perform id from offers where low = 0 and (wanted is null or id = any(wanted)) order by id for no key update;
    with known as (
        select o.id, coalesce(paid.amount, 0) as low, coalesce(paid.observed_at, 'epoch') as low_at,
            coalesce(o.was_free_at, given.away_at) as was_free_at
        from offers o
        left join lateral (
            select h.amount, h.observed_at from price_history h
            where h.offer_id = o.id and h.currency = o.currency and h.amount > 0 and h.available
            order by h.amount, h.observed_at limit 1
        ) paid on true
        left join lateral (
            select max(h.observed_at) as away_at from price_history h
            where h.offer_id = o.id and h.amount = 0 and h.regular > 0 and h.available
        ) given on true
        where o.low = 0 and (wanted is null or o.id = any(wanted))
    )
    update offers o set low = known.low, low_at = known.low_at, was_free_at = known.was_free_at
    from known
    where o.id = known.id
        and (o.low, o.low_at, o.was_free_at) is distinct from (known.low, known.low_at, known.was_free_at);
    get diagnostics changed = row_count;
    return changed;
end $$;

select recompute_zero_lows(null);
