-- The orders of deals hold what deals are filtered by: what does not fit is passed in the index, without a look at its row.
drop index deals_by_cut, deals_by_price, deals_by_start, deals_of_store_by_cut, deals_of_store_by_price,
    deals_of_store_by_start;
create index deals_by_cut on sales (cut desc, id desc)
    include (currency, amount, region, platform, new_low) where ended_at is null;
create index deals_by_price on sales (currency, amount, id)
    include (cut, region, platform, new_low) where ended_at is null;
create index deals_by_start on sales (started_at desc, id desc)
    include (currency, amount, cut, region, platform, new_low) where ended_at is null;
create index deals_of_store_by_cut on sales (store_id, cut desc, id desc)
    include (currency, amount, region, platform, new_low) where ended_at is null;
create index deals_of_store_by_price on sales (store_id, currency, amount, id)
    include (cut, region, platform, new_low) where ended_at is null;
create index deals_of_store_by_start on sales (store_id, started_at desc, id desc)
    include (currency, amount, cut, region, platform, new_low) where ended_at is null;

-- What is rare is gathered: by its region from deals_by_place, by its platform from here.
create index deals_by_platform on sales (platform, region, currency) where ended_at is null;
