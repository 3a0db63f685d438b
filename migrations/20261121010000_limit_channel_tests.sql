-- When a channel was last tested by its owner: it is not tested again at once, so that nobody sends floods through us.
alter table channels add column tested_at timestamptz;
