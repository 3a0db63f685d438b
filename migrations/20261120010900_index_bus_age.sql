-- The age of the oldest message is asked for by every scrape of the metrics, above all when many wait.
create index bus_messages_by_age on bus_messages (topic, sent_at) where dead_at is null;
