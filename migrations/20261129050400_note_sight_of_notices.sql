-- When the price was seen that rang. The version before leaves it out.
alter table notices add column observed_at timestamptz;
