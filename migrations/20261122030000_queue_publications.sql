-- Events that other teams shall hear of and have not yet; written with the event where `bus.events_topic` is set. The
-- sequence is drawn while the offer is locked, so an offer's events have numbers in the order in which they happened.
-- Those of two offers may be committed in another order than that of their numbers: nobody goes by the last one seen.
create table publications (
    seq       bigint generated always as identity primary key,
    event_id  uuid not null,
    offer_id  uuid not null,
    backfill  boolean not null
);
create unique index publications_by_event on publications (event_id);
