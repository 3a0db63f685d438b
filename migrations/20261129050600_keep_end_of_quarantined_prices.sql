alter table quarantined_prices
    add column available boolean not null default true,
    add column sale_ends_at timestamptz;
