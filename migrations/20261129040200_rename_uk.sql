-- Shops write UK; ISO 3166-1 has GB, and that is what is written from now on. Where an offer has both, each stays.
update watches set regions =
    (select array_agg(distinct case region when 'UK' then 'GB' else region end) from unnest(regions) as r (region))
where 'UK' = any(regions);

with renamed as (
    update offers o set region = 'GB' where region = 'UK'
        and not exists (select from offers g where g.store_id = o.store_id and g.sku = o.sku and g.region = 'GB')
    returning id)
update sales set region = 'GB' where offer_id in (select id from renamed);
