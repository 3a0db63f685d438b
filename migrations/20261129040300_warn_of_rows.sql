-- Rows of an import that were taken without a field stand beside those that were refused.
alter table import_refusals add column warning boolean not null default false;
alter table imports add column warnings bigint not null default 0;
