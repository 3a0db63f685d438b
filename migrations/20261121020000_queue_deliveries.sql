-- What waits to be sent stands in a narrow table of its own, which workers read and shrink, with all that sending
-- needs. A delivery then changes in its place (a heap-only update): none of its indexes holds what a success changes.
-- No released version knows the columns that move.
create table delivery_queue (
    -- Without foreign keys, which would look up and lock a row for each of a million: the trigger below keeps it whole.
    delivery_id      uuid primary key,
    channel_id       uuid not null,
    next_attempt_at  timestamptz not null,
    -- as in deliveries
    attempts         integer not null,
    -- The attempts made before a redelivery or a recovery: the schedule of retries starts anew after them.
    schedule_from    integer not null,
    notice_id        uuid not null,
    watch_id         uuid not null,
    sale_id          uuid not null,
    event_kind       text not null,
    traceparent      text,
    noticed_at       timestamptz not null
) with (autovacuum_vacuum_scale_factor = 0.05);
create index delivery_queue_by_channel on delivery_queue (channel_id, next_attempt_at);

insert into delivery_queue (delivery_id, channel_id, next_attempt_at, attempts, schedule_from, notice_id, watch_id, sale_id,
    event_kind, traceparent, noticed_at)
select d.id, d.channel_id, d.next_attempt_at, d.attempts, d.schedule_from, d.notice_id, n.watch_id, n.sale_id,
    n.event_kind, d.traceparent, n.created_at
from deliveries d join notices n on n.id = d.notice_id
where d.state = 'pending';

create function leave_delivery_queue() returns trigger language plpgsql as $$
begin
    delete from delivery_queue where delivery_id in (select id from gone);
    return null;
end
$$;
create trigger deliveries_leave_queue after delete on deliveries
    referencing old table as gone for each statement execute function leave_delivery_queue();

drop index deliveries_waiting, deliveries_of_channel;
-- Half a page stays free for what the deliveries in it become.
alter table deliveries
    drop column next_attempt_at,
    drop column schedule_from,
    drop column traceparent,
    add constraint deliveries_have_a_reason check ((state in ('dead', 'cancelled')) = (reason is not null)),
    set (fillfactor = 50);
create index deliveries_by_channel on deliveries (channel_id, id desc);
-- By the reason and not the state, which a success changes.
create index deliveries_not_sent on deliveries (channel_id, reason, id desc) where reason is not null;
