-- Until when a price holds, as the store said of its sale, and whether it could be paid.
alter table price_history
    add column holds_until timestamptz,
    add column available boolean not null default true;
