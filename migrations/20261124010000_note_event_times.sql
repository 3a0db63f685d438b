-- When the event was recorded that a delivery is about, to tell how long it takes to be sent. Not for those that wait for
-- their hour or are sent again; the version before leaves it out.
alter table delivery_queue add column event_at timestamptz;
