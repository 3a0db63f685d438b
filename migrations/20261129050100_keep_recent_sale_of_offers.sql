-- What the rules know of an offer beside its price: whether it can be bought, when it was last given away, and the sale
-- that is open or was the last to end, with its lowest amount. While a sale is open, `recent_sale_ended_at` is set where it
-- had been interrupted. `recent_sale_id` says which sale the other two are about: the version before moves `sale_id` alone.
--
-- `low` is the lowest amount that was paid from now on. The version before cannot do without one: a low of 0 at the epoch
-- says that nothing has been paid yet.
alter table offers
    add column available boolean not null default true,
    add column was_free_at timestamptz,
    add column recent_sale_id uuid,
    add column recent_sale_best bigint,
    add column recent_sale_ended_at timestamptz;
