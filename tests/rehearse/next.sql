-- What a next version might expand: a table, a column that has a default, an index.
create table rehearsed (
    id   uuid primary key,
    note text not null default ''
);
alter table games add column rehearsed text not null default 'no';
create index rehearsed_by_title on games (rehearsed, id);
