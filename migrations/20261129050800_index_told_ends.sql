-- The sales that end when the store said: the schedule ends them, and until then lists leave them out by this index.
create index sales_by_told_end on sales (ends_at, id) where ended_at is null and ends_at is not null;
