-- Observations that were too old to ring when they were reported.
alter table batch_parts add column too_old_to_ring integer not null default 0;
