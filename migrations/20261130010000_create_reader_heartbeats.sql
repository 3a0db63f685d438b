-- Heartbeat of the writer, by which processes find out how far a reader of the database is behind. Whichever process comes
-- first writes it, once a second, so that a writer with nothing else to write does not look like a reader that is behind.
create table reader_heartbeats (
    -- There is one row.
    id       boolean primary key default true check (id),
    -- Time of the last heartbeat, by the writer's clock.
    beat_at  timestamptz not null default clock_timestamp(),
    -- Time of the first heartbeat after the last pause in which no process wrote one.
    since    timestamptz not null default clock_timestamp()
) with (fillfactor = 50);
insert into reader_heartbeats default values;
