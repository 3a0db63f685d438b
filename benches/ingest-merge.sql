-- What the worker writes for the same observations, as one who knows the case would write it by hand.
begin;
create temporary table merged on commit drop as
select o.id, o.game_id, o.store_id, o.region, o.platform, s.currency, s.amount, s.regular, s.observed_at, o.low,
    o.amount as previous, (s.amount, s.regular) is distinct from (o.amount, o.regular) as changed,
    s.amount < o.low as new_low, case when s.amount < s.regular then gen_random_uuid() end as sale_id,
    case when s.regular > 0 then round(100.0 * (s.regular - s.amount) / s.regular) else 0 end::smallint as cut
from seen s join stores st on st.slug = s.store
join offers o on o.store_id = st.id and o.sku = s.sku and o.region = s.region
order by o.id for no key update of o;

update offers o set currency = m.currency, amount = m.amount, regular = m.regular, observed_at = m.observed_at,
    low = least(m.low, m.amount), low_at = case when m.new_low then m.observed_at else o.low_at end, sale_id = m.sale_id
from merged m where o.id = m.id;

insert into price_history (offer_id, observed_at, currency, amount, regular)
select id, observed_at, currency, amount, regular from merged where changed
on conflict (offer_id, observed_at) do nothing;

insert into sales (id, offer_id, game_id, store_id, region, platform, currency, amount, regular, cut, new_low,
    started_at, changed_at)
select sale_id, id, game_id, store_id, region, platform, currency, amount, regular, cut, new_low, observed_at,
    observed_at
from merged where changed and sale_id is not null;

insert into events (id, kind, offer_id, game_id, sale_id, currency, amount, regular, previous_amount, cut, new_low,
    observed_at, recorded_at, rings)
select gen_random_uuid(), 'sale.started', id, game_id, sale_id, currency, amount, regular, previous, cut, new_low,
    observed_at, now(), true
from merged where changed;
commit;
