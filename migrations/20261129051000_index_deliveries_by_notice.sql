-- In place of the constraint that the next migration drops: a notice may ring twice on a channel. Each in a transaction of
-- its own, so that neither waits for readers while it keeps writers out.
create index deliveries_by_notice on deliveries (notice_id, channel_id);
