-- What lists and removals look rows up by. Price reports write none of the indexes of offers; of those of sales they
-- write every one, so there is one for all filters that are no order's first column.

create index offers_by_region on offers (region, id);

-- Walking the order of a sort finds what is common at once, and what is rare never: that is gathered from here.
create index deals_by_place on sales (region, platform, store_id, currency) where ended_at is null;

-- Foreign keys whose rows go with an offer or a game; the indexes that exist leave rows out.
create index quarantined_prices_by_offer on quarantined_prices (offer_id);
drop index watches_by_game;
create index watches_by_game on watches (game_id, id);
