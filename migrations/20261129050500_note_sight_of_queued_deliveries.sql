alter table delivery_queue add column observed_at timestamptz;
