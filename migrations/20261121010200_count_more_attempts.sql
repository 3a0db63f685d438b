-- Who redelivers again and again comes to the end of a smallint.
alter table deliveries alter column attempts type integer, alter column schedule_from type integer;
