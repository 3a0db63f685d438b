-- A worker leases a channel, and sends what waits for it: a lease for every delivery was a write for every delivery.
alter table channels add column lease_holder uuid, add column leased_until timestamptz;
alter table deliveries drop column leased_until;

-- The tries of a delivery, the oldest first. They are few and always read with it; as rows they cost more to write
-- than the delivery itself. Each: number, at, duration_ms, and status, error, response where there was one.
alter table deliveries add column tries jsonb not null default '[]';
drop table delivery_attempts;

-- Every change of a delivery changes its state or its time, which indexes hold: room in its page helps none of them.
alter table deliveries reset (fillfactor);
