-- One index for a channel's list of deliveries in every state: the list of all is a merge of the four states.
drop index deliveries_by_channel;
create index deliveries_of_channel on deliveries (channel_id, state, id desc);

-- The attempts made before a redelivery or a recovery: the schedule of retries starts anew after them.
alter table deliveries add column schedule_from integer not null default 0;

-- Pages keep room, so that taking a lease is a heap-only update.
alter table deliveries set (fillfactor = 80);
