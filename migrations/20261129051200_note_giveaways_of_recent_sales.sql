-- Whether the sale of `recent_sale_id` has been free. `recent_sale_best` is the lowest amount that was paid in it from now
-- on, and 0 while nothing has been paid. The version before writes 0 for any sale that was free, and no more than that is
-- known of such a sale.
alter table offers add column recent_sale_was_free boolean not null default false;
