-- Most people ask for the deals of their region: each region gets its own orders.
create index deals_of_region_by_cut on sales (region, cut desc, id desc) where ended_at is null;
create index deals_of_region_by_price on sales (region, currency, amount, id) where ended_at is null;
create index deals_of_region_by_start on sales (region, started_at desc, id desc) where ended_at is null;
